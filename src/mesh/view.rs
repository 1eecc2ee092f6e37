//! What may be shown: the catalogue joined with membership. Live rows of members that are not Down (law 7).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Mesh, catalog::Book, vivaldi::Place};
use crate::model::{
    CheckName, Epoch, Health, HealthReport, Host, InstanceId, MemberState, Node, NodeId, Registration, ServiceName,
    Time, Weight,
};

/// One instance as it may be shown.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Who owns it.
    pub owner: NodeId,
    /// Its owner's word on itself.
    pub node: Arc<Node>,
    /// What was asked for.
    pub registration: Arc<Registration>,
    /// What its checks say.
    pub report: Arc<HealthReport>,
    /// How the mesh sees its owner: Alive or Suspect where it may be shown. One that is Down and held counts as Suspect.
    pub member: MemberState,
    /// Why it is shown although it would not be otherwise.
    pub held: Option<Held>,
    /// What the checks of its whole machine say.
    pub host: Health,
}

/// Why an instance is shown as it last was, and not as it is seen now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Held {
    /// Its owner is Down, and so is most of the mesh: this node is the one cut off. How it was before, where it is protected
    /// as well.
    CutOff(Option<Health>),
    /// It is critical, and so did most of its service turn within moments; this is how it was before.
    Protected(Health),
}

impl Held {
    /// One word for it: `cut_off` or `protected`.
    #[must_use]
    pub const fn why(self) -> &'static str {
        match self {
            Self::CutOff(_) => "cut_off",
            Self::Protected(_) => "protected",
        }
    }

    /// How it was before most of its service turned critical, if it did.
    #[must_use]
    pub const fn before(self) -> Option<Health> {
        match self {
            Self::CutOff(before) => before,
            Self::Protected(before) => Some(before),
        }
    }
}

impl Instance {
    /// What its checks and those of its machine say, as one word; while it is protected, what they said before.
    #[must_use]
    pub fn health(&self) -> Health {
        match self.held.and_then(Held::before) {
            Some(before) if self.node.maintenance.is_none() => before,
            _ => self.own_health().max(self.host),
        }
    }

    /// The same by its own checks alone: a check of a machine that looks at what stands there would never end otherwise.
    pub(crate) fn own_health(&self) -> Health {
        self.health_without(&[])
    }

    /// The same, had it not its checks of these ids.
    pub(crate) fn health_without(&self, checks: &[CheckName]) -> Health {
        match self.held.and_then(Held::before) {
            _ if self.node.maintenance.is_some() => Health::Maintenance,
            Some(_) => self.report.health_before(),
            None => self.report.health_without(checks),
        }
    }

    /// Whether both stand on one machine: of one agent, or without one and of one name in one datacenter, whoever says so.
    #[cfg(feature = "agent")]
    pub(crate) fn stands_with(&self, other: &Self) -> bool {
        match (self.registration.foreign(), other.registration.foreign()) {
            (Some(node), Some(own)) => node.is_called(&own.name) && self.node.datacenter == other.node.datacenter,
            (None, None) => self.owner == other.owner,
            _ => false,
        }
    }

    /// The share of traffic it asks for as it is now.
    #[must_use]
    pub fn weight(&self) -> Weight {
        let asked = &self.registration;
        if self.health() == Health::Warning { asked.weight_while_warning() } else { asked.weight }
    }

    /// How much its owner's word counts where several agents speak of one thing: more if that is reached, then the later
    /// one's, then that of the greater id. All nodes find the same.
    pub(crate) fn precedence(&self) -> (bool, u64, NodeId) {
        (self.member.is_shown(), self.registration.said(), self.owner)
    }

    /// Where it listens: its own address, else its node's.
    #[must_use]
    pub fn address(&self) -> Host {
        match (&self.registration.address, self.node.addresses.first()) {
            (Some(host), _) => host.clone(),
            (None, Some(address)) => Host::Address(address.ip()),
            // A node without an address does not get past `wire`; this is the address that reaches nobody.
            (None, None) => Host::Address([0, 0, 0, 0].into()),
        }
    }
}

/// One node as it may be shown.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// Its word on itself.
    pub node: Arc<Node>,
    /// How the mesh sees it.
    pub state: MemberState,
    /// Its restart generation.
    pub epoch: Epoch,
    /// Since when it is seen so.
    pub since: Time,
    /// The round trip to it: measured, or estimated from coordinates.
    pub rtt: Option<Duration>,
    /// Where it says it is in the network.
    pub place: Option<Place>,
    /// The version its book has reached here.
    pub version: u64,
    /// Whether it is Down and shown all the same, since this node is the one cut off.
    pub held: bool,
}

impl Member {
    /// Whether answers name it.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        self.state.is_shown() || self.held
    }

    /// The address its mesh port answers at.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.node.addresses.first().copied()
    }

    /// The round trip between two nodes, estimated from where they say they are.
    #[must_use]
    pub fn rtt_to(&self, other: &Self) -> Option<Duration> {
        if self.id == other.id { Some(Duration::ZERO) } else { Some(self.place?.rtt_to(&other.place?)) }
    }
}

/// Which instances stand under a service's name, whatever the state of their owners.
#[derive(Debug, Default)]
pub(super) struct Index {
    names: BTreeMap<ServiceName, Named>,
    /// What all say who have no checks.
    unchecked: Arc<HealthReport>,
}

#[derive(Debug, Default)]
struct Named {
    /// By owner and id, and whether its checks were critical when last weighed.
    owners: InOrder<NodeId, InOrder<InstanceId, bool>>,
    /// How many were.
    failing: usize,
}

/// A map of few: most services have an instance or two, and a map's first page has room for eleven.
type InOrder<K, V> = Vec<(K, V)>;

/// Where a key stands, or would stand.
fn find<K: Ord, V>(list: &[(K, V)], key: &K) -> Result<usize, usize> {
    list.binary_search_by(|(other, _)| other.cmp(key))
}

/// What stands under a key; `new`, if nothing did.
fn find_or<K: Ord, V>(list: &mut InOrder<K, V>, key: K, new: V) -> &mut V {
    let at = find(list, &key).unwrap_or_else(|at| {
        list.reserve_exact(usize::from(list.is_empty()));
        list.insert(at, (key, new));
        at
    });
    &mut list[at].1
}

impl Index {
    pub(super) fn insert(&mut self, name: ServiceName, owner: NodeId, id: InstanceId) {
        let named = self.names.entry(name).or_default();
        find_or(find_or(&mut named.owners, owner, Vec::new()), id, false);
    }

    pub(super) fn remove(&mut self, name: &ServiceName, owner: NodeId, id: &InstanceId) {
        let Some(named) = self.names.get_mut(name) else { return };
        let Ok(of) = find(&named.owners, &owner) else { return };
        let ids = &mut named.owners[of].1;
        let Ok(at) = find(ids, id) else { return };
        named.failing -= usize::from(ids.remove(at).1);
        if ids.is_empty() {
            named.owners.remove(of);
        }
        if named.owners.is_empty() {
            self.names.remove(name);
        }
    }

    /// Asks anew which of an owner's instances are critical.
    pub(super) fn weigh(&mut self, name: &ServiceName, owner: NodeId, is_critical: impl Fn(&InstanceId) -> bool) {
        let Some(named) = self.names.get_mut(name) else { return };
        let Ok(of) = find(&named.owners, &owner) else { return };
        for (id, last) in &mut named.owners[of].1 {
            let was = std::mem::replace(last, is_critical(id));
            named.failing = named.failing + usize::from(*last) - usize::from(was);
        }
    }

    /// How many rows under a name are critical.
    pub(super) fn failing(&self, name: &ServiceName) -> usize {
        self.names.get(name).map_or(0, |named| named.failing)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &ServiceName> {
        self.names.keys()
    }
}

/// Several agents of a datacenter may have taken in one instance on a node that runs none, or one client of Eureka's that
/// moved between them. It is one all the same: the word that counts is kept, unless it is that nobody is there any more. The
/// others are handed out: they stay in their books, and show again when it goes.
fn keep_last_words(rows: &mut Vec<Instance>) -> Vec<Instance> {
    let (mut last, mut older) = (BTreeMap::new(), BTreeSet::new());
    for (at, row) in rows.iter().enumerate() {
        let asked = &row.registration;
        let Some(subject) = asked.subject() else { continue };
        let key = (&row.node.datacenter, asked.foreign().is_some(), subject, &asked.id);
        let known = last.entry(key).or_insert(at);
        if *known != at {
            let is_later = row.precedence() > rows[*known].precedence();
            older.insert(if is_later { std::mem::replace(known, at) } else { at });
        }
    }
    let mut at = 0..;
    let is_unshown =
        |row: &mut Instance| at.next().is_some_and(|at| older.contains(&at)) || row.registration.is_taken_back();
    rows.extract_if(.., is_unshown).collect()
}

impl Mesh {
    /// What may be shown of a service: `None` when nobody registers it, empty when all who do are Down.
    #[must_use]
    pub fn service(&self, name: &ServiceName) -> Option<Vec<Instance>> {
        let mut rows = self.rows(name)?;
        rows.retain(|row| row.member.is_shown());
        Some(rows)
    }

    /// All rows under a service's name, those of members that are Down too: a catalogue lists them and shows nobody the
    /// way there.
    #[must_use]
    pub fn rows(&self, name: &ServiceName) -> Option<Vec<Instance>> {
        // Nothing is left where all have lapsed.
        Some(self.words(name).0).filter(|rows| !rows.is_empty())
    }

    /// The same, and the rows besides that are shown by nobody: another word on the same counts, or they say that who had
    /// them is gone.
    pub(crate) fn words(&self, name: &ServiceName) -> (Vec<Instance>, Vec<Instance>) {
        let Some(named) = self.index.names.get(name) else { return Default::default() };
        let places = named.owners.iter().flat_map(|(owner, ids)| ids.iter().map(|(id, _)| (*owner, id)));
        let mut rows: Vec<Instance> = places.filter_map(|(owner, id)| self.instance(name, owner, id)).collect();
        let unshown = keep_last_words(&mut rows);
        // In doubt last: suspects, and what is shown although it may not be there.
        rows.sort_by_key(|row| (row.member != MemberState::Alive, row.held.is_some()));
        (rows, unshown)
    }

    fn instance(&self, name: &ServiceName, owner: NodeId, id: &InstanceId) -> Option<Instance> {
        let (member, cut_off) = match self.roster.get(owner) {
            _ if owner == self.id => (MemberState::Alive, None),
            None => return None,
            Some(seen) if seen.state == MemberState::Left => return None,
            Some(seen) if seen.held.is_some() => (MemberState::Suspect, Some(Held::CutOff(None))),
            // Back, and not to be relied on yet.
            Some(seen) if seen.flaps.as_ref().is_some_and(|flaps| flaps.is_hidden()) => (MemberState::Down, None),
            Some(seen) => (seen.state, None),
        };
        let book = self.catalog.get(owner)?;
        let registration = book.registration(id)?;
        if self.roster.get(owner).is_some_and(|seen| seen.has_lapsed(self.now, registration)) {
            return None;
        }
        let report = Arc::clone(book.report(id).unwrap_or(&self.index.unchecked));
        let mut row = Instance {
            owner,
            node: Arc::clone(book.node()?),
            registration: Arc::clone(registration),
            member,
            held: cut_off,
            report,
            host: Health::Passing,
        };
        let host = self.hosts.get(&row);
        row.host = host.map_or(Health::Passing, |host| host.health());
        if self.protections.keeps(name, &row, host) {
            let before = host.map_or(Health::Passing, |host| host.health_before());
            let before = row.report.health_before().max(before);
            row.held = Some(row.held.map_or(Held::Protected(before), |_| Held::CutOff(Some(before))));
        }
        Some(row)
    }

    /// One member, this node too. `None` as long as it has not said where it is.
    #[must_use]
    pub fn member(&self, id: NodeId) -> Option<Member> {
        let book = self.catalog.get(id)?;
        let node = Arc::clone(book.node()?);
        let mark = book.mark();
        let version = mark.version;
        if id == self.id {
            let (state, epoch, since) = (MemberState::Alive, self.epoch, Time::ZERO);
            let (rtt, place) = (Some(Duration::ZERO), Some(self.place));
            return Some(Member { id, node, state, epoch, since, rtt, place, version, held: false });
        }
        let seen = self.roster.get(id)?;
        let distance = seen.distance.as_deref();
        let place = distance.and_then(|distance| distance.place);
        let measured = distance.and_then(|distance| distance.rtt.mean());
        let rtt = measured.or_else(|| Some(self.place.rtt_to(&place?)));
        // A node that has come back is known before its new book is.
        let epoch = seen.generation.epoch().max(mark.epoch);
        let version = if mark.epoch == epoch { version } else { 0 };
        let (state, since, held) = (seen.state, seen.since, seen.held.is_some());
        Some(Member { id, node, state, epoch, since, rtt, place, version, held })
    }

    /// All members in any state, this node too, by id.
    pub fn members(&self) -> impl Iterator<Item = Member> {
        self.catalog.iter().filter_map(|(id, _)| self.member(id))
    }

    /// Where a peer can be dialled, best first.
    #[must_use]
    pub fn addresses(&self, peer: NodeId) -> &[SocketAddr] {
        self.catalog.get(peer).and_then(Book::node).map_or(&[], |node| &node.addresses)
    }

    /// This node's own registrations as they are published: without their checks.
    pub fn registrations(&self) -> impl Iterator<Item = &Arc<Registration>> {
        self.book().registrations()
    }

    /// This node's own registration of that id, without its checks.
    #[must_use]
    pub fn registration(&self, id: &InstanceId) -> Option<&Arc<Registration>> {
        self.book().registration(id)
    }

    /// Every service's name.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.index.names()
    }
}
