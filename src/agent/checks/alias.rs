//! The check `alias`: what another instance, service or node is. It follows the view, so that it changes when they do.
//! In a ring of aliases it is what follows from outside of that.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};

use super::{Finding, Home, Means, engine::Told, rings::Worth};
use crate::{
    agent::View,
    mesh::{Instance, Member},
    model::{Alias, Health, InstanceId, MemberState},
};

/// Watches until the check goes away. At each `every` it tells again how it is, since `rise` and `fall` count that.
pub(super) async fn watch(
    alias: Alias,
    home: Arc<Home>,
    every: Duration,
    means: Arc<Means>,
    serial: u64,
    told: mpsc::Sender<Told>,
) {
    let mut index = means.view.subscribe();
    let mut again = interval_at(Instant::now() + every, every);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut last, mut due) = (None, true);
    loop {
        index.mark_unchanged();
        let now = look(&alias, &home.instance, &means.view, &means.rings.look(&means.view));
        if (due || last.as_ref() != Some(&now)) && told.send((serial, now.clone().into())).await.is_err() {
            return;
        }
        last = Some(now);
        due = tokio::select! {
            changed = index.changed() => match changed {
                Ok(()) => false,
                Err(_) => return,
            },
            _ = again.tick() => true,
        };
        // A busy mesh changes all the time: once in a while is often enough to look.
        sleep(COALESCE).await;
    }
}

fn look(alias: &Alias, home: &InstanceId, view: &View, rings: &Worth) -> Finding {
    let name = alias.of.as_str();
    let at = alias.node.as_ref().map_or_else(|| view.this(), |node| view.node(node.as_str()));
    let at = match (at, &alias.node) {
        (None, Some(node)) => return Finding::critical(format!("there is no node {node}")),
        (None, None) => return Finding::critical("this node is starting"),
        (Some(at), _) => at,
    };
    let here = instance(alias, view, &at);
    match (here, &alias.node) {
        (Some(found), _) => {
            let in_ring = view.this().filter(|this| this.id == at.id).and_then(|_| rings.instance(home, &alias.of));
            health(&format!("instance {name} on {}", at.node.name), in_ring.unwrap_or_else(|| found.own_health()))
        }
        (None, Some(node)) => Finding::critical(format!("there is no instance {name} on {node}")),
        (None, None) => service(name, home, view, rings),
    }
}

/// The instance of that id on the node `at`.
fn instance(alias: &Alias, view: &View, at: &Member) -> Option<Instance> {
    let is = |instance: &&Instance| instance.owner == at.id && instance.registration.id == alias.of;
    let find = |name: &str| view.service(name)?.instances.iter().find(is).cloned();
    // On this node its service is known; elsewhere it is mostly called after it.
    let own = view.registration(&alias.of).filter(|_| alias.node.is_none());
    let name = own.map_or_else(|| alias.of.to_string(), |own| own.name.to_string());
    find(&name).or_else(|| {
        let all = alias.node.is_some().then(|| view.services())?;
        all.iter().find_map(|service| service.instances.iter().find(is).cloned())
    })
}

fn service(name: &str, home: &InstanceId, view: &View, rings: &Worth) -> Finding {
    if let Some(service) = view.service(name) {
        let best = || service.instances.iter().map(Instance::health).min();
        return match rings.service(home, &service.name.folded()).or_else(best) {
            Some(best) => health(&format!("the best instance of service {name}"), best),
            None => Finding::critical(format!("service {name} has no instance")),
        };
    }
    match view.node(name).map(|member| member.state) {
        Some(state @ MemberState::Alive) => Finding::passing(format!("node {name} is {state}")),
        Some(state @ MemberState::Suspect) => Finding::warning(format!("node {name} is {state}")),
        Some(state) => Finding::critical(format!("node {name} is {state}")),
        None => Finding::critical(format!("there is no instance on this node, no service and no node called {name}")),
    }
}

fn health(what: &str, health: Health) -> Finding {
    let output = format!("{what} is {health}");
    match health {
        Health::Passing => Finding::passing(output),
        Health::Warning => Finding::warning(output),
        Health::Critical | Health::Maintenance => Finding::critical(output),
    }
}

const COALESCE: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::checks::rings::Rings,
        model::{
            CheckDraft, CheckStatus, Epoch, HealthReport, MeshName, Node, NodeId, Registration, ServiceName, Time,
        },
    };

    /// A node whose instances have aliases, and a check of their own that says how they are.
    struct World {
        view: View,
        rings: Rings,
        this: Member,
        all: Vec<(Arc<Registration>, Health)>,
    }

    impl World {
        fn new(all: &[(&str, &str, &[&str])]) -> Self {
            let name = "here".try_into().unwrap();
            let node = Node {
                name,
                addresses: vec![([127, 0, 0, 1], 7946).into()],
                datacenter: "dc1".into(),
                zone: "".into(),
                version: "".into(),
                meta: Default::default(),
                maintenance: None,
                voucher: Default::default(),
            };
            let this = Member {
                id: NodeId::of(&MeshName::try_from("test").unwrap(), &node.name),
                node: Arc::new(node),
                state: MemberState::Alive,
                epoch: Epoch(1),
                since: Time::ZERO,
                rtt: None,
                place: None,
                version: 1,
                held: false,
            };
            let view = View::default();
            view.set_node(&this.node.name, Some(this.clone()));
            view.set_this(this.clone());
            let registration = |(id, name, of): &(&str, &str, &[&str])| {
                let checks = of.iter().enumerate().map(|(at, of)| CheckDraft::alias(of).build(at, "check").unwrap());
                let one = Registration { checks: checks.collect(), ..Registration::new(name, 1).unwrap() };
                (Arc::new(one.id((*id).try_into().unwrap())), Health::Passing)
            };
            let world = Self { view, rings: Rings::default(), this, all: all.iter().map(registration).collect() };
            world.all.iter().for_each(|(own, _)| world.view.set_registration(&own.id, Some(Arc::clone(own))));
            world
        }

        fn is(&mut self, id: &str, health: Health) {
            self.all.iter_mut().find(|(own, _)| own.id.as_str() == id).unwrap().1 = health;
        }

        /// Every alias looks until none finds anything new, all beginning critical as they do; what is published then.
        fn settled(&self) -> Vec<(&str, Health)> {
            let mut said = vec![Health::Critical; self.all.iter().map(|(own, _)| own.checks.len()).sum()];
            loop {
                self.publish(&said);
                let rings = self.rings.look(&self.view);
                let all = self.all.iter().flat_map(|(own, _)| own.checks.iter().map(|check| (&own.id, check)));
                let found = all.map(|(home, check)| match &check.kind {
                    crate::model::CheckKind::Alias(alias) => look(alias, home, &self.view, &rings).status,
                    other => panic!("{other:?} is no alias"),
                });
                let found: Vec<_> = found.collect();
                if std::mem::replace(&mut said, found.clone()) == found {
                    return self.all.iter().map(|(own, _)| (own.id.as_str(), self.row(&own.id).health())).collect();
                }
            }
        }

        fn row(&self, id: &InstanceId) -> Instance {
            let service = self.view.service(self.view.registration(id).unwrap().name.as_str()).unwrap();
            service.instances.iter().find(|row| row.registration.id == *id).unwrap().clone()
        }

        fn publish(&self, said: &[Health]) {
            let mut said = said.iter();
            let mut services = std::collections::BTreeMap::<ServiceName, Vec<Instance>>::new();
            for (own, health) in &self.all {
                let aliases = own.checks.iter().map(|check| (check.id.clone(), *said.next().unwrap()));
                let checks = aliases.chain([("own".try_into().unwrap(), *health)]).map(|(id, status)| CheckStatus {
                    name: id.clone(),
                    id,
                    status,
                    output: "".into(),
                    since: 0,
                    before: None,
                });
                let report = Arc::new(HealthReport { checks: checks.collect(), ..HealthReport::default() });
                let (owner, node, registration) = (self.this.id, Arc::clone(&self.this.node), Arc::clone(own));
                services.entry(own.name.clone()).or_default().push(Instance {
                    owner,
                    node,
                    registration,
                    report,
                    member: MemberState::Alive,
                    held: None,
                    host: Health::Passing,
                });
            }
            services.into_iter().for_each(|(name, rows)| self.view.set_service(&name, Some(rows)));
            self.view.advance();
        }
    }

    use Health::{Critical, Passing, Warning};

    #[test]
    fn a_ring_is_as_bad_as_the_worst_in_it_and_as_good_when_that_is_over() {
        let mut world = World::new(&[("x", "x", &["y"]), ("y", "y", &["z"]), ("z", "z", &["x"]), ("w", "w", &["x"])]);
        for health in [Passing, Critical, Warning, Passing] {
            world.is("z", health);
            assert_eq!(world.settled(), ["x", "y", "z", "w"].map(|id| (id, health)), "z is {health}");
        }
    }

    #[test]
    fn what_a_ring_looks_at_outside_counts_in_it() {
        let mut world =
            World::new(&[("x", "x", &["y"]), ("y", "y", &["z"]), ("z", "z", &["x", "db"]), ("db", "db", &[])]);
        world.is("db", Critical);
        assert_eq!(world.settled(), ["x", "y", "z", "db"].map(|id| (id, Critical)));
        world.is("db", Passing);
        assert_eq!(world.settled(), ["x", "y", "z", "db"].map(|id| (id, Passing)));
    }

    #[test]
    fn a_ring_through_a_service_is_as_good_as_its_best_instance_lets_it_be() {
        let mut world = World::new(&[("one", "web", &["db"]), ("two", "web", &["db"]), ("three", "db", &["web"])]);
        assert_eq!(world.settled(), [("one", Passing), ("two", Passing), ("three", Passing)]);
        world.is("one", Critical);
        assert_eq!(world.settled(), [("one", Critical), ("two", Passing), ("three", Passing)]);
        world.is("two", Warning);
        assert_eq!(world.settled(), [("one", Critical), ("two", Warning), ("three", Warning)]);
        world.is("two", Critical);
        assert_eq!(world.settled(), [("one", Critical), ("two", Critical), ("three", Critical)]);
    }

    #[test]
    fn the_rings_are_found_once_for_each_change() {
        let world = World::new(&[("x", "x", &["y"]), ("y", "y", &["x"])]);
        world.settled();
        let first = world.rings.look(&world.view);
        assert!(Arc::ptr_eq(&first, &world.rings.look(&world.view)));
        world.view.set_ready(true);
        assert!(!Arc::ptr_eq(&first, &world.rings.look(&world.view)));
    }
}
