//! Nodes that run no agent: one is the same wherever it is named, so what was said of it last is so for all that stands on
//! it, whichever agents took that in.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use dashmap::DashMap;

use super::Service;
use crate::{
    mesh::Instance,
    model::{EchoNode, InstanceId, NodeId},
};

/// A node that runs no agent, by its datacenter and its name in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Home {
    datacenter: String,
    pub(super) node: String,
}

impl Home {
    pub(super) fn new(datacenter: &str, node: &str) -> Self {
        Self { datacenter: datacenter.to_ascii_lowercase(), node: node.to_ascii_lowercase() }
    }

    fn of(row: &Instance) -> Option<Self> {
        row.registration.foreign().map(|node| Self::new(&row.node.datacenter, &node.name))
    }
}

/// What is said of a node by a row that stands on it.
#[derive(Clone, Debug)]
pub struct NodeWord {
    /// The node.
    pub node: Arc<EchoNode>,
    /// When that was said.
    pub said: u64,
    row: (bool, u64, NodeId),
    id: InstanceId,
}

type Moment = (u64, (bool, u64, NodeId), InstanceId);

impl NodeWord {
    fn of(row: &Instance) -> Option<Self> {
        let echo = row.registration.echo.as_ref()?;
        let node = Arc::clone(echo.node.as_ref()?);
        Some(Self { node, said: echo.node_said, row: row.precedence(), id: row.registration.id.clone() })
    }

    /// Which of some is the last, reached or not.
    pub(crate) fn moment(&self) -> Moment {
        (self.said, self.row, self.id.clone())
    }

    /// Which of some is shown: the last of those who are reached.
    fn precedence(&self) -> (bool, Moment) {
        (self.row.0, self.moment())
    }
}

/// All that is said of these nodes: the most of each service.
#[derive(Debug, Default)]
pub(super) struct Homes(DashMap<Home, BTreeMap<String, Vec<NodeWord>>>);

impl Homes {
    /// Takes in what the rows of a service say now. Of which nodes something else is to be shown than before.
    pub(super) fn hear(&self, service: &str, old: Option<&Service>, rows: &[Instance]) -> BTreeSet<Home> {
        let old = old.into_iter().flat_map(Service::rows).filter_map(Home::of);
        let mut told: BTreeMap<_, Vec<_>> = old.map(|home| (home, Vec::new())).collect();
        for row in rows {
            if let (Some(home), Some(word)) = (Home::of(row), NodeWord::of(row)) {
                told.entry(home).or_default().push(word);
            }
        }
        let mut moved = BTreeSet::new();
        for (home, words) in told {
            let before = self.shown(&home);
            {
                let mut all = self.0.entry(home.clone()).or_default();
                if words.is_empty() {
                    all.remove(service)
                } else {
                    all.insert(service.to_owned(), words)
                };
            }
            self.0.remove_if(&home, |_, all| all.is_empty());
            if self.shown(&home) != before {
                moved.insert(home);
            }
        }
        moved
    }

    /// All that is said of a node.
    pub(super) fn words(&self, home: &Home) -> Vec<NodeWord> {
        self.0.get(home).map_or_else(Vec::new, |all| all.values().flatten().cloned().collect())
    }

    fn shown(&self, home: &Home) -> Option<Arc<EchoNode>> {
        let all = self.0.get(home)?;
        all.values().flatten().max_by_key(|word| word.precedence()).map(|last| Arc::clone(&last.node))
    }

    /// Puts each row on its node as that is known now.
    pub(super) fn settle(&self, rows: &mut [Instance]) {
        for row in rows {
            if let Some(node) = Home::of(row).and_then(|home| self.shown(&home))
                && let Some(moved) = row.registration.on(&node)
            {
                row.registration = Arc::new(moved);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::{Topic, View},
        model::{Echo, Health, Host, MemberState, Node, Registration, Role, ServiceName},
    };

    /// What an agent says of one on `pg`, which it says is at the last of an address.
    fn row(agent: &str, id: &str, last: u8, said: u64) -> Instance {
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
        let foreign = EchoNode { name: "pg".into(), address: format!("10.5.1.{last}"), ..EchoNode::default() };
        let role = (id == "node").then_some(Role::NodeChecks);
        let (address, node_said) = (Some(String::new()), said);
        let echo = Echo { node: Some(Arc::new(foreign)), node_said, address, role, ..Echo::default() };
        let asked = Registration::new("db", 1).unwrap().id(id.try_into().unwrap()).address(Host::Address(at(last)));
        Instance {
            owner: NodeId(agent.len() as u64),
            node: Arc::new(node),
            registration: Arc::new(Registration { echo: Some(Arc::new(echo)), ..asked }),
            report: Arc::default(),
            member: MemberState::Alive,
            held: None,
            host: Health::Passing,
        }
    }

    fn at(last: u8) -> std::net::IpAddr {
        [10, 5, 1, last].into()
    }

    #[test]
    fn what_stands_on_a_node_is_where_it_was_said_to_be_last() {
        let view = View::default();
        let [db, other]: [ServiceName; 2] = ["db", "other"].map(|name| name.try_into().unwrap());
        view.set_service(&db, Some(vec![row("a", "db", 1, 5)]));
        let is_at = |last: u8| {
            view.advance();
            let rows = view.rows();
            let rows = rows.iter().flat_map(|service| service.rows());
            let found: BTreeSet<_> = rows.map(|row| row.address().to_string()).collect();
            assert_eq!(found, [at(last).to_string()].into());
            assert!(view.tenants(at(last)).is_some_and(|tenants| tenants.services.contains(&"db".to_owned())));
        };
        is_at(1);
        let mark = view.mark(&Topic::Service("db".into()));
        // A later word beside it, and an earlier one: of an agent that is not reached the last counts for nothing.
        view.set_service(&other, Some(vec![row("bb", "node", 2, 7), row("a", "x", 3, 6)]));
        is_at(2);
        assert!(view.mark(&Topic::Service("db".into())) > mark, "who waits for it is told");
        let mut down = row("bb", "node", 2, 7);
        down.member = MemberState::Down;
        view.set_service(&other, Some(vec![down, row("a", "x", 3, 6)]));
        is_at(3);
        view.set_service(&other, None);
        is_at(1);
        assert!(view.node_words("DC1", "PG").len() == 1 && view.node_words("dc2", "pg").is_empty());
        view.set_service(&db, None);
        assert!(view.node_words("dc1", "pg").is_empty(), "nothing is kept of what is gone");
    }

    #[test]
    fn rows_stand_by_the_node_that_is_shown_whoever_took_them_in() {
        let db: ServiceName = "db".try_into().unwrap();
        let named = |agent: &str, id: &str, on: &str| {
            let mut row = row(agent, id, 1, 1);
            let echo = Arc::make_mut(Arc::make_mut(&mut row.registration).echo.as_mut().unwrap());
            echo.node = Some(Arc::new(EchoNode { name: on.into(), ..EchoNode::default() }));
            row
        };
        let mut own = named("c", "own", "");
        own.registration = Arc::new(Registration::new("db", 1).unwrap().id("own".try_into().unwrap()));
        let order = |rows: Vec<Instance>| {
            let view = View::default();
            view.set_service(&db, Some(rows));
            let all = view.service("db").unwrap();
            all.ordered().iter().map(|row| row.registration.id.to_string()).collect::<Vec<_>>()
        };
        // Each time another agent took them in, and one of these is not reached.
        for (of_a, of_z, down) in [("a", "zz", None), ("zz", "a", Some(0)), ("zz", "a", Some(2))] {
            let mut rows = vec![named(of_a, "1", "d"), own.clone(), named(of_z, "2", "b"), named(of_a, "3", "b")];
            down.into_iter().for_each(|n: usize| rows[n].member = MemberState::Down);
            assert_eq!(order(rows), ["2", "3", "own", "1"]);
        }
    }

    #[test]
    fn what_is_said_again_counts_as_said_later_and_wakes_nobody() {
        let view = View::default();
        let db: ServiceName = "db".try_into().unwrap();
        let first = row("a", "db", 1, 5);
        let mut again = row("a", "db", 1, 9);
        let mut asked = (*again.registration).clone();
        Arc::make_mut(asked.echo.as_mut().unwrap()).said = 9;
        again.registration = Arc::new(asked);
        again.node = Arc::new(Node { voucher: "of a newer certificate".into(), ..Node::clone(&again.node) });
        let id = first.registration.id.clone();
        for (row, is_news) in [(&first, true), (&again, false), (&first, false)] {
            let before = (view.index(), view.service("db").map(|db| db.index));
            view.set_registration(&id, Some(Arc::clone(&row.registration)));
            view.set_service(&db, Some(vec![row.clone()]));
            assert_eq!(view.has_news(), is_news);
            if is_news {
                view.advance();
            } else {
                assert_eq!((view.index(), view.service("db").map(|db| db.index)), before);
            }
            assert_eq!(view.words("db", |_| true)[0].registration, row.registration);
            assert_eq!(view.row(&id).as_ref(), Some(&row.registration));
            assert_eq!(view.node_words("dc1", "pg")[0].said, row.registration.echo.as_ref().unwrap().node_said);
        }
    }

    #[test]
    fn who_waits_for_one_of_an_agent_s_own_hears_nothing_of_nodes_that_it_took_in() {
        let view = View::default();
        let [checks, web]: [ServiceName; 2] = ["checks", "web"].map(|name| name.try_into().unwrap());
        let mut own = row("a", "web", 1, 0);
        own.registration = Arc::new(Registration::new("web", 1).unwrap());
        view.set_service(&web, Some(vec![own]));
        view.advance();
        let before = view.mark(&Topic::Service("web".into()));
        view.set_service(&checks, Some(vec![row("a", "node", 1, 1)]));
        view.advance();
        assert_eq!(view.mark(&Topic::Service("web".into())), before);
    }
}
