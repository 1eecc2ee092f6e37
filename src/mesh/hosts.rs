//! What was said of whole machines: who stands on a sick one is as sick.
//!
//! Checks of a machine stand in rows of their own, [`NODE_CHECKS`]. That of an agent's machine is its own word; of a node
//! without an agent any agent may have said it, and what was said last stands until its row lapses, also where that agent
//! has died; who says goodbye takes his words along.

use std::{collections::BTreeMap, mem::take, sync::Arc};

use super::{Mesh, catalog::Book, event::Change, view::Instance};
use crate::model::{CheckStatus, Health, HealthReport, NODE_CHECKS, NodeId, Registration, ServiceName};

/// The machines of which a check of their own does not pass, and what their checks say.
#[derive(Debug, Default)]
pub(super) struct Hosts(BTreeMap<Host, HealthReport>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Host {
    Agent(NodeId),
    /// One without an agent, by its datacenter and its name in lower case.
    Foreign(String, String),
}

impl Host {
    fn of(owner: NodeId, datacenter: &str, row: &Registration) -> Self {
        match row.foreign() {
            Some(node) => Self::Foreign(datacenter.to_ascii_lowercase(), node.name.to_ascii_lowercase()),
            None => Self::Agent(owner),
        }
    }
}

impl Hosts {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is said of the machine that a row stands on, unless all is well.
    pub(super) fn get(&self, row: &Instance) -> Option<&HealthReport> {
        let concerns = !self.is_empty() && !row.registration.speaks_of_node();
        concerns.then(|| self.0.get(&Host::of(row.owner, &row.node.datacenter, &row.registration)))?
    }
}

impl Mesh {
    /// Takes in what is said of machines now; what stands on those of which something else is said has changed.
    pub(super) fn hear_of_hosts(&mut self, name: &ServiceName) {
        let mut hosts = BTreeMap::<Host, HealthReport>::new();
        for row in self.rows(name).unwrap_or_default().iter().filter(|row| row.registration.speaks_of_node()) {
            // Their words stand in their rows.
            let checks = row.report.checks.iter().map(|check| CheckStatus { output: "".into(), ..check.clone() });
            let host = Host::of(row.owner, &row.node.datacenter, &row.registration);
            hosts.entry(host).or_default().checks.extend(checks);
        }
        hosts.retain(|_, said| said.health() != Health::Passing);
        let old = std::mem::replace(&mut self.hosts.0, hosts);
        if old == self.hosts.0 {
            return;
        }
        for (owner, book) in self.catalog.iter() {
            let datacenter = book.node().map_or("", |node| &*node.datacenter);
            let differs = |row: &&Arc<Registration>| {
                let host = Host::of(owner, datacenter, row);
                old.get(&host) != self.hosts.0.get(&host)
            };
            let concerned = Book::registrations(book).filter(differs);
            self.changes.extend(concerned.map(|row| Change::Service(row.name.clone())));
        }
    }

    /// Looks at what is about to be told: what it says of machines, and whether it is a mass failure.
    pub(super) fn weigh_changes(&mut self) {
        let of_hosts = |change: &Change| matches!(change, Change::Service(name) if name.as_str() == NODE_CHECKS);
        if let Some(Change::Service(name)) = self.changes.iter().find(|change| of_hosts(change)).cloned() {
            self.hear_of_hosts(&name);
        }
        let changes = take(&mut self.changes);
        for change in &changes {
            if let Change::Service(name) = change {
                self.weigh(name);
            }
        }
        self.changes.extend(changes);
    }
}
