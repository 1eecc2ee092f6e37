//! The way back: from an address to the names that stand there, from a datacenter to whether anybody stands in it.
//! Kept beside the view by its one writer, so that a question for either costs no walk over nodes and services.

use std::{collections::BTreeSet, hash::Hash, net::IpAddr, sync::Arc};

use dashmap::{DashMap, Entry};

use super::Service;
use crate::{mesh::Member, model::Host};

/// The names at one address, in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenants {
    /// Nodes that say they are reached there, in order.
    pub nodes: Vec<String>,
    /// Services with an instance whose own address it is, or on a node without an agent that is reached there, in order.
    pub services: Vec<String>,
}

#[derive(Debug, Default)]
pub(super) struct Atlas {
    tenants: DashMap<IpAddr, Arc<Tenants>>,
    /// The services with a row on each node that runs no agent, by its name in lower case.
    hosted: DashMap<String, Arc<Tenants>>,
    /// How many nodes stand in each datacenter, by its name in lower case.
    datacenters: DashMap<String, usize>,
}

impl Atlas {
    pub(super) fn tenants(&self, address: IpAddr) -> Option<Arc<Tenants>> {
        self.tenants.get(&address).map(|found| Arc::clone(&found))
    }

    /// `node` is in lower case.
    pub(super) fn hosted(&self, node: &str) -> Option<Arc<Tenants>> {
        self.hosted.get(node).map(|found| Arc::clone(&found))
    }

    /// `name` is in lower case.
    pub(super) fn has_datacenter(&self, name: &str) -> bool {
        self.datacenters.contains_key(name)
    }

    /// `name` is in lower case.
    pub(super) fn move_node(&self, name: &str, old: Option<&Member>, new: Option<&Member>) {
        let datacenter = |member: &Member| member.node.datacenter.to_ascii_lowercase();
        let (before, after) = (old.map(datacenter), new.map(datacenter));
        if before != after {
            if let Some(after) = after {
                *self.datacenters.entry(after).or_default() += 1;
            }
            if let Some(before) = before {
                self.leave(before);
            }
        }
        let addresses = |member: &Member| member.node.addresses.iter().map(|at| at.ip().to_canonical()).collect();
        let (old, new) = (old.map(addresses).unwrap_or_default(), new.map(addresses).unwrap_or_default());
        settle(&self.tenants, &old, &new, |tenants| &mut tenants.nodes, name);
    }

    fn leave(&self, datacenter: String) {
        if let Entry::Occupied(mut entry) = self.datacenters.entry(datacenter) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }

    /// `name` is in lower case.
    pub(super) fn move_service(&self, name: &str, old: Option<&Service>, new: Option<&Service>) {
        let addresses = |service: &Service| {
            let own = service.instances.iter().filter_map(|instance| match &instance.registration.address {
                Some(Host::Address(address)) => Some(*address),
                _ => None,
            });
            let nodes = service.rows().filter_map(|row| row.registration.foreign()?.address.parse().ok());
            own.chain(nodes).map(|address| address.to_canonical()).collect::<BTreeSet<IpAddr>>()
        };
        let hosts = |service: &Service| {
            let nodes = service.rows().filter_map(|row| row.registration.foreign());
            nodes.map(|node| node.name.to_ascii_lowercase()).collect::<BTreeSet<String>>()
        };
        let list: fn(&mut Tenants) -> &mut Vec<String> = |tenants| &mut tenants.services;
        let (before, after) = (old.map(addresses).unwrap_or_default(), new.map(addresses).unwrap_or_default());
        settle(&self.tenants, &before, &after, list, name);
        let (before, after) = (old.map(hosts).unwrap_or_default(), new.map(hosts).unwrap_or_default());
        settle(&self.hosted, &before, &after, list, name);
    }
}

/// Moves `name` from its old places to its new ones.
fn settle<Place: Clone + Ord + Hash>(
    tenants: &DashMap<Place, Arc<Tenants>>,
    old: &BTreeSet<Place>,
    new: &BTreeSet<Place>,
    list: fn(&mut Tenants) -> &mut Vec<String>,
    name: &str,
) {
    for place in new.difference(old) {
        let mut entry = tenants.entry(place.clone()).or_default();
        let names = list(Arc::make_mut(&mut entry));
        if let Err(at) = names.binary_search_by(|other| other.as_str().cmp(name)) {
            // Most addresses have one name.
            names.reserve_exact(usize::from(names.is_empty()));
            names.insert(at, name.into());
        }
    }
    for place in old.difference(new) {
        if let Entry::Occupied(mut entry) = tenants.entry(place.clone()) {
            let there = Arc::make_mut(entry.get_mut());
            list(there).retain(|other| other != name);
            if *there == Tenants::default() {
                entry.remove();
            }
        }
    }
}
