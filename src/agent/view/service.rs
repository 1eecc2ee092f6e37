//! A service as the view holds it: what is shown of it, what stands beside, and how one state of it differs from the next.

use std::collections::BTreeSet;

use crate::{
    mesh::Instance,
    model::{InstanceId, NodeId, ServiceName},
};

/// A service as it may be shown now. A known service with nothing to show has no instances.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name; of several spellings the first in the order of bytes, whoever wrote last.
    pub name: ServiceName,
    /// Its instances by node name, then id. All healths; members that are Alive or Suspect.
    pub instances: Vec<Instance>,
    /// What catalogues list besides, and nobody is sent to: instances of members that are Down, and rows that stand for
    /// something else than an instance. In the same order.
    pub beside: Vec<Instance>,
    /// The view's index at its last change.
    pub index: u64,
}

impl Service {
    /// All rows: what is shown, then what stands beside.
    pub fn rows(&self) -> impl Iterator<Item = &Instance> {
        self.instances.iter().chain(&self.beside)
    }

    /// Whether the name is a service's: under some stand nothing but rows in another role.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        !self.instances.is_empty() || self.beside.iter().all(|row| !row.registration.has_role())
    }

    /// Whether it has the same rows in the same places, whatever their health.
    pub(super) fn stands_as(&self, other: &Self) -> bool {
        self.rows().count() == other.rows().count()
            && self.rows().zip(other.rows()).all(|(one, other)| stands_as(one, other))
    }

    /// All rows by node, then id, whether their nodes are reached or not.
    pub fn ordered(&self) -> Vec<&Instance> {
        let mut rows: Vec<_> = self.rows().collect();
        if !self.beside.is_empty() {
            rows.sort_by_key(|row| place(row));
        }
        rows
    }

    /// What a list of all services shows of it, in its order: where it is, how it is spelled there, and its tags.
    pub(super) fn listing<'a>(&'a self) -> Vec<(&'a str, &'a str, Option<&'a str>)> {
        let instances = self.ordered().into_iter().filter(|row| !row.registration.has_role());
        let shown = |row: &'a Instance| {
            let tags = row.registration.tags.iter().map(|tag| Some(tag.as_str())).chain([None]);
            tags.map(|tag| (&*row.node.datacenter, row.registration.name.as_str(), tag))
        };
        let mut seen = BTreeSet::new();
        instances.flat_map(shown).filter(|item| seen.insert(*item)).collect()
    }
}

/// Where a row stands in the order of its service: by its node as that is shown, whoever took it in, then its id. Two
/// datacenters may have one of the same name.
pub(super) fn place(row: &Instance) -> (&str, &InstanceId, NodeId) {
    let node = row.registration.foreign().map_or(row.node.name.as_str(), |node| &node.name);
    (node, &row.registration.id, row.owner)
}

/// Whether two rows say the same but for their health, whenever they said it and whatever proves it.
fn stands_as(one: &Instance, other: &Instance) -> bool {
    one.node.says_as(&other.node) && one.registration.says_as(&other.registration)
}

/// The rows that are new, gone or different; both lists are in order.
pub(super) fn differences<'a>(mut old: &'a [Instance], mut new: &'a [Instance], changed: &mut Vec<&'a Instance>) {
    loop {
        match (old, new) {
            ([a, older @ ..], [b, newer @ ..]) if place(a) == place(b) => {
                let health = |row: &'a Instance| (&row.report, row.member, row.held, row.host);
                let same = health(a) == health(b) && stands_as(a, b);
                changed.extend((!same).then_some(b));
                (old, new) = (older, newer);
            }
            ([a, older @ ..], [b, ..]) if place(a) < place(b) => {
                changed.push(a);
                old = older;
            }
            (_, [b, newer @ ..]) => {
                changed.push(b);
                new = newer;
            }
            ([a, older @ ..], []) => {
                changed.push(a);
                old = older;
            }
            ([], []) => return,
        }
    }
}
