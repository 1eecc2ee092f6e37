//! The check `alias`: what another instance, service or node is. It follows the view, so that it changes when they do.
//! What looks straight back at it does not count there, so that nobody is critical because it was.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};

use super::{Finding, Home, engine::Told};
use crate::{
    agent::View,
    mesh::{Instance, Member},
    model::{Alias, CheckKind, Health, MemberState},
};

/// Watches until the check goes away. At each `every` it tells again how it is, since `rise` and `fall` count that.
pub(super) async fn watch(
    alias: Alias,
    home: Arc<Home>,
    every: Duration,
    view: Arc<View>,
    serial: u64,
    told: mpsc::Sender<Told>,
) {
    let mut index = view.subscribe();
    let mut again = interval_at(Instant::now() + every, every);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut last, mut due) = (None, true);
    loop {
        index.mark_unchanged();
        let now = look(&alias, &home, &view);
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

fn look(alias: &Alias, home: &Home, view: &View) -> Finding {
    let name = alias.of.as_str();
    let at = alias.node.as_ref().map_or_else(|| view.this(), |node| view.node(node.as_str()));
    let at = match (at, &alias.node) {
        (None, Some(node)) => return Finding::critical(format!("there is no node {node}")),
        (None, None) => return Finding::critical("this node is starting"),
        (Some(at), _) => at,
    };
    let here = instance(alias, view, &at);
    match (here, &alias.node) {
        (Some(found), _) => health(&format!("instance {name} on {}", at.node.name), by_itself(&found, home, view)),
        (None, Some(node)) => Finding::critical(format!("there is no instance {name} on {node}")),
        (None, None) => service(name, home, view),
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

fn service(name: &str, home: &Home, view: &View) -> Finding {
    if let Some(service) = view.service(name) {
        return match service.instances.iter().map(|instance| by_itself(instance, home, view)).min() {
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

/// An instance's health without the checks by which it looks at the instance at `home`, or at its service.
fn by_itself(instance: &Instance, home: &Home, view: &View) -> Health {
    let (this, of_home) = (view.this(), view.registration(&home.instance));
    let Some(this) = this.filter(|this| this.id == instance.owner) else { return instance.health() };
    let own = view.registration(&instance.registration.id);
    let looks_back = |alias: &Alias| {
        alias.node.as_ref().is_none_or(|node| *node == this.node.name)
            && (alias.of == home.instance
                || of_home.as_ref().is_some_and(|home| home.name.as_str() == alias.of.as_str()))
    };
    let checks = own.iter().flat_map(|own| &own.checks);
    let back: Vec<_> = checks
        .filter(|check| matches!(&check.kind, CheckKind::Alias(alias) if looks_back(alias)))
        .map(|check| &check.id)
        .collect();
    if back.is_empty() {
        return instance.health();
    }
    let mut instance = instance.clone();
    Arc::make_mut(&mut instance.report).checks.retain(|check| !back.contains(&&check.id));
    instance.health()
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
