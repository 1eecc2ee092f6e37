//! What was said of whole machines: who stands on a sick one is as sick, on every face.

use std::collections::HashMap;

use arc_swap::ArcSwap;

use super::{Service, View};
use crate::{
    mesh::Instance,
    model::{Health, NodeId, Role},
};

/// The machines of which a check of their own, one that belongs to no service, does not pass.
#[derive(Debug, Default)]
pub(super) struct Hosts(ArcSwap<HashMap<Host, Health>>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Host {
    Agent(NodeId),
    /// One without an agent, by its datacenter and its name in lower case.
    Foreign(String, String),
}

impl Host {
    fn of(row: &Instance) -> Self {
        match row.registration.foreign() {
            Some(node) => Self::Foreign(row.node.datacenter.to_ascii_lowercase(), node.name.to_ascii_lowercase()),
            None => Self::Agent(row.owner),
        }
    }
}

/// Whether a row holds the checks of a machine.
fn speaks_of_host(row: &Instance) -> bool {
    row.registration.echo.as_ref().is_some_and(|echo| echo.role == Some(Role::NodeChecks))
}

impl Hosts {
    /// Notes on each row what is said of where it stands.
    pub(super) fn mark(&self, rows: &mut [Instance]) {
        let sick = self.0.load();
        for row in rows {
            let is_marked = !sick.is_empty() && !speaks_of_host(row);
            row.host = sick.get(&Host::of(row)).copied().filter(|_| is_marked).unwrap_or_default();
        }
    }

    /// Takes in what is said now by the rows of a name that said something before or do now. Where that is not the same:
    /// whether a row stands on a machine of which something else is said.
    pub(super) fn hear(&self, old: Option<&Service>, new: Option<&Service>) -> Option<impl Fn(&Instance) -> bool> {
        if ![old, new].into_iter().flatten().flat_map(Service::rows).any(speaks_of_host) {
            return None;
        }
        let mut sick = HashMap::new();
        let said = new.into_iter().flat_map(Service::rows).filter(|row| speaks_of_host(row) && row.member.is_shown());
        for (host, health) in said.map(|row| (Host::of(row), row.own_health())) {
            if health != Health::Passing {
                let known = sick.entry(host).or_default();
                *known = health.max(*known);
            }
        }
        let (was, is) = (self.0.load_full(), std::sync::Arc::new(sick));
        self.0.store(std::sync::Arc::clone(&is));
        (was != is).then_some(move |row: &Instance| {
            let host = Host::of(row);
            was.get(&host) != is.get(&host)
        })
    }
}

impl View {
    /// Publishes again what stands on machines of which something else is said than before.
    pub(super) fn mark_hosts(&self, old: Option<&Service>, new: Option<&Service>) {
        let Some(is_concerned) = self.hosts.hear(old, new) else { return };
        let concerned = self.rows().into_iter().filter(|service| service.rows().any(&is_concerned));
        concerned.for_each(|service| self.publish(&service.name, Some(service.rows().cloned().collect())));
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;
    use crate::model::{CheckStatus, Echo, EchoNode, HealthReport, MemberState, Node, Registration};

    /// A row of one of two agents, or of a node without an agent.
    fn row(agent: &str, id: &str, foreign: Option<&str>, role: Option<Role>) -> Instance {
        let node = Node {
            name: agent.try_into().unwrap(),
            addresses: vec![([127, 0, 0, 1], 1).into()],
            datacenter: "dc1".into(),
            zone: "".into(),
            version: "".into(),
            meta: BTreeMap::new(),
            maintenance: None,
            voucher: bytes::Bytes::new(),
        };
        let foreign = foreign.map(|name| Arc::new(EchoNode { name: name.into(), ..EchoNode::default() }));
        let echo = Some(Arc::new(Echo { node: foreign, role, ..Echo::default() }));
        let asked = Registration { echo, ..Registration::new("web", 80).unwrap().id(id.try_into().unwrap()) };
        Instance {
            owner: NodeId(agent.len() as u64),
            node: Arc::new(node),
            registration: Arc::new(asked),
            report: Arc::default(),
            member: MemberState::Alive,
            held: None,
            host: Health::Passing,
        }
    }

    fn said(mut row: Instance, status: Health) -> Instance {
        let id: crate::model::CheckName = "disk".try_into().unwrap();
        let check = CheckStatus { name: id.clone(), id, status, output: "".into(), since: 0, certain: false };
        row.report = Arc::new(HealthReport { checks: vec![check], maintenance: None });
        row
    }

    #[test]
    fn who_stands_on_a_sick_machine_is_sick_until_that_is_over() {
        let view = View::default();
        let [name, checks] = ["web", "checks-of-nodes"].map(|name| name.try_into().unwrap());
        let on = |id, foreign| row("one", id, foreign, None);
        view.set_service(&name, Some(vec![on("a", None), on("b", Some("pg")), row("other", "c", None, None)]));
        let health = || {
            let shown = view.service("web").unwrap();
            let mut all: Vec<_> =
                shown.instances.iter().map(|one| (one.registration.id.to_string(), one.health())).collect();
            all.sort();
            all.into_iter().map(|(_, health)| health).collect::<Vec<_>>()
        };
        use Health::{Critical, Passing, Warning};
        let of_agent = |status| said(row("one", "n", None, Some(Role::NodeChecks)), status);
        let of_foreign = |status| said(row("other", "f", Some("PG"), Some(Role::NodeChecks)), status);
        for (rows, expected) in [
            (Some(vec![of_agent(Critical)]), [Critical, Passing, Passing]),
            (Some(vec![of_agent(Warning), of_foreign(Critical)]), [Warning, Critical, Passing]),
            (Some(vec![of_agent(Passing), of_foreign(Critical)]), [Passing, Critical, Passing]),
            (None, [Passing; 3]),
            (Some(vec![of_agent(Critical)]), [Critical, Passing, Passing]),
        ] {
            view.set_service(&checks, rows);
            assert_eq!(health(), expected);
        }
        view.set_service(&name, Some(vec![on("d", None)]));
        assert_eq!(health(), [Critical], "one that comes later too");
    }
}
