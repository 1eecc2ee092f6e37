//! `GET /api/v1/explain/{node or service}`: why it is shown or not. Of a node: how this node sees it and on what evidence,
//! and what every other node answers that is asked now. Of a service, or a node that runs no agent: each instance with the reason,
//! and the nodes of the agents.

use std::{collections::BTreeMap, fmt, sync::Arc};

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use futures_util::future::join_all;
use serde::Serialize;

use crate::{
    agent::Agent,
    http::{Answer, Problem, Shared},
    mesh::{Explanation, Held, Instance, Member},
    model::{CheckName, Epoch, Health, InstanceId, MemberState, NodeId, NodeName, Time, millis},
};

use super::{
    events::because,
    instances::now,
    openapi::Api,
    params::{Params, Segments},
};

/// A moment, in RFC 3339.
#[derive(Serialize)]
#[serde(transparent)]
struct Moment(#[serde(serialize_with = "super::moment")] u64);

impl fmt::Display for Moment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A formatter serializes text as it is.
        super::moment(&self.0, out)
    }
}

#[derive(Serialize)]
struct Node {
    kind: &'static str,
    node: NodeName,
    /// Whether it is the node that answers.
    this: bool,
    state: MemberState,
    /// Whether its instances are shown.
    shown: bool,
    since: Moment,
    /// One word of few, and a sentence.
    cause: Option<&'static str>,
    why: String,
    epoch: Epoch,
    /// How far this node has read its book.
    version: u64,
    /// Whether a connection stands.
    linked: bool,
    heard: Option<Moment>,
    heard_ms_ago: Option<u64>,
    /// When it last answered: who speaks and hears nothing is no use to anybody.
    answered: Option<Moment>,
    /// When another node last vouched for it.
    vouched: Option<Moment>,
    /// Whether this node is looking for it right now.
    looking: bool,
    suspicion: Option<Suspicion>,
    flapping: Flapping,
    /// Since when its instances are kept although it is down, because this node is the one cut off.
    held: Option<Moment>,
    /// How the others see it.
    observers: Vec<Observer>,
}

#[derive(Serialize)]
struct Suspicion {
    since: Moment,
    /// When it becomes a verdict, unless it answers.
    until: Moment,
    /// The first to say so, and those who confirm it.
    by: Vec<String>,
    confirmations: usize,
    /// When this node's own look failed; without one there is no verdict.
    witnessed: Option<Moment>,
}

#[derive(Serialize)]
struct Flapping {
    /// How often it came back within ten minutes.
    returns: usize,
    /// Until when what it serves stays hidden, although it is back.
    hidden_until: Option<Moment>,
}

#[derive(Serialize)]
struct Observer {
    node: String,
    state: MemberState,
    heard_ms_ago: Option<u64>,
    /// The book that it holds, and how far it has read it.
    epoch: Epoch,
    version: u64,
}

#[derive(Serialize)]
struct Rows {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    /// One that runs no agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    instances: Vec<Shown>,
    nodes: Vec<Node>,
}

#[derive(Serialize)]
struct Shown {
    id: InstanceId,
    node: NodeName,
    health: Health,
    member: MemberState,
    /// Whether DNS and the catalogue show it to who wants healthy instances.
    shown: bool,
    why: String,
    /// The checks that are not passing.
    checks: Vec<Check>,
}

#[derive(Serialize)]
struct Check {
    id: CheckName,
    status: Health,
    output: Arc<str>,
    since: Moment,
}

/// A member as this node sees it, explained.
async fn node(agent: &Agent, member: &Member) -> Node {
    let moment = |at: Time| Moment(agent.unix_millis(at));
    let ago = |at: Time| millis(agent.now().since(at));
    let name =
        |id: NodeId| agent.view().node_by_id(id).map_or_else(|| id.to_string(), |node| node.node.name.to_string());
    let this = agent.view().this().is_some_and(|this| this.id == member.id);
    let seen = agent.explain(member.id).await;
    let mut row = Node {
        kind: "node",
        node: member.node.name.clone(),
        this,
        state: member.state,
        shown: member.state.is_shown(),
        since: moment(member.since),
        cause: None,
        why: if this { "it is the node that answers".into() } else { "nothing more is known of it".into() },
        epoch: member.epoch,
        version: member.version,
        linked: this,
        heard: None,
        heard_ms_ago: None,
        answered: None,
        vouched: None,
        looking: false,
        suspicion: None,
        flapping: Flapping { returns: 0, hidden_until: None },
        held: None,
        observers: Vec::new(),
    };
    let Some(seen) = seen else { return row };
    row.why = sentence(&seen, name);
    if let Some(reason) = &member.node.maintenance {
        row.why += &format!("; {}", in_maintenance(reason));
    }
    if agent.unvouched().contains(&member.node.name.to_string()) {
        row.why += "; nothing of what it serves is taken: its certificate is not believed here";
    }
    row.shown = (seen.state.is_shown() && seen.flapping.hidden_until.is_none()) || seen.held.is_some();
    (row.state, row.since, row.cause) = (seen.state, moment(seen.since), Some(seen.cause.as_str()));
    (row.linked, row.looking, row.held) = (seen.linked, seen.looking, seen.held.map(moment));
    (row.heard, row.heard_ms_ago) = (seen.heard.map(moment), seen.heard.map(ago));
    (row.answered, row.vouched) = (seen.answered.map(moment), seen.vouched.map(moment));
    row.flapping = Flapping { returns: seen.flapping.returns, hidden_until: seen.flapping.hidden_until.map(moment) };
    row.suspicion = seen.suspicion.as_ref().map(|suspicion| Suspicion {
        since: moment(suspicion.since),
        until: moment(suspicion.until),
        by: suspicion.accusers.iter().map(|id| name(*id)).collect(),
        confirmations: suspicion.accusers.len().saturating_sub(1),
        witnessed: suspicion.witnessed.map(moment),
    });
    let observers = seen.testimonies.iter().map(|said| Observer {
        node: name(said.by),
        state: said.state,
        heard_ms_ago: said.heard_ago.map(millis),
        epoch: said.epoch,
        version: said.version,
    });
    row.observers = observers.collect();
    row.observers.sort_by(|a, b| a.node.cmp(&b.node));
    row
}

/// The whole of it in a sentence.
fn sentence(seen: &Explanation, name: impl Fn(NodeId) -> String) -> String {
    let mut why = format!("{}: {}", seen.state, because(seen.cause));
    if let Some(suspicion) = &seen.suspicion {
        let by: Vec<_> = suspicion.accusers.iter().map(|id| name(*id)).collect();
        why += &format!("; suspected by {}, and may still answer", by.join(", "));
    }
    if seen.flapping.hidden_until.is_some() {
        let returns = seen.flapping.returns;
        why += &format!("; it came back {returns} times lately, so what it serves stays hidden for a while");
    }
    if seen.held.is_some() {
        why += "; what it served is kept, since this node is the one cut off";
    }
    why
}

fn in_maintenance(reason: &str) -> String {
    if reason.is_empty() { "in maintenance, no reason given".into() } else { format!("in maintenance: {reason}") }
}

/// Why one instance is shown or not. `owner` is how its node is seen: alive, though its rows are hidden, where it came back
/// too often.
fn shown(instance: &Instance, owner: MemberState, hidden_until: Option<&Moment>) -> Shown {
    let health = instance.health();
    let shown = instance.member.is_shown() && matches!(health, Health::Passing | Health::Warning);
    let failing = instance.report.checks.iter().filter(|check| check.status != Health::Passing);
    let checks: Vec<_> = failing
        .map(|check| Check {
            id: check.id.clone(),
            status: check.status,
            output: Arc::clone(&check.output),
            since: Moment(check.since),
        })
        .collect();
    let (own, of_node) = (&instance.report.maintenance, &instance.node.maintenance);
    let why = match (instance.held, own.as_deref().or(of_node.as_deref()), checks.first()) {
        (Some(Held::CutOff(_)), ..) => {
            "kept: its node is down, and so is most of the mesh: this node is the one cut off".into()
        }
        (Some(Held::Protected(_)), ..) => "kept: most of its service turned critical within moments".into(),
        _ if instance.host > instance.own_health() => format!("a check of its whole node is {}", instance.host),
        _ if !instance.member.is_shown() && owner.is_shown() => {
            let again = hidden_until.map_or_else(|| "once it has stayed".into(), |at| format!("at {at}"));
            format!("its node is {owner}, and came back too often lately: shown again {again}")
        }
        _ if !instance.member.is_shown() => format!("its node is {owner}"),
        (_, Some(reason), _) if own.is_none() => format!("its node is {}", in_maintenance(reason)),
        (_, Some(reason), _) => in_maintenance(reason),
        (.., Some(check)) => format!("check {} is {}: {}", check.id, check.status, check.output),
        _ => format!("its health is {health}, its node is {}", instance.member),
    };
    let (id, node) = (instance.registration.id.clone(), instance.node.name.clone());
    let member = if instance.member.is_shown() { instance.member } else { owner };
    Shown { id, node, health, member, shown, why, checks }
}

/// A node of that name before a service, unless `kind=service` or `kind=node` says which is meant.
pub(super) async fn explain(State(app): Shared, Segments(name): Segments<String>, mut params: Params) -> Answer {
    let kind = params.one("kind")?;
    params.end()?;
    let (nodes, services) = match kind.as_deref() {
        None => (true, true),
        Some("node") => (true, false),
        Some("service") => (false, true),
        Some(_) => return Err(Problem::field("kind", "must be node or service")),
    };
    let (agent, view) = (&app.agent, app.agent.view());
    if let Some(member) = view.node(&name).filter(|_| nodes) {
        return Ok(Json(node(agent, &member).await).into_response());
    }
    app.ready()?;
    let on_node = Some(view.on_foreign_node(&name, |_| true)).filter(|rows| nodes && !rows.is_empty());
    let service = view.service(&name).filter(|_| services && on_node.is_none());
    if on_node.is_none() && service.is_none() {
        let why = format!("no node or service {name:?} is known here; /api/v1/members and /api/v1/services list them");
        return Err(Problem::new(StatusCode::NOT_FOUND, why));
    }
    let rows = || on_node.iter().flatten().chain(service.iter().flat_map(|service| service.rows()));
    let owners: BTreeMap<_, _> = rows().filter_map(|row| Some((row.owner, view.node_by_id(row.owner)?))).collect();
    let nodes = join_all(owners.values().take(MAX_NODES).map(|owner| node(agent, owner))).await;
    let hidden: BTreeMap<_, _> =
        owners.keys().zip(nodes.iter().map(|node| node.flapping.hidden_until.as_ref())).collect();
    let instances = rows().map(|row| {
        let state = owners.get(&row.owner).map_or(row.member, |owner| owner.state);
        shown(&now(view, row), state, hidden.get(&row.owner).copied().flatten())
    });
    let instances = instances.collect();
    let body = match &service {
        Some(service) => {
            Rows { kind: "service", service: Some(service.name.to_string()), node: None, instances, nodes }
        }
        None => Rows { kind: "foreign_node", service: None, node: Some(name), instances, nodes },
    };
    Ok(Json(body).into_response())
}

/// For the OpenAPI document.
pub(super) fn describe(api: &mut Api) {
    api.get("/api/v1/explain/{name}", "Why a node or a service is shown or not.")
        .query("kind", "`node` or `service`, where a name is both.")
        .answers::<serde_json::Value>(200, "The evidence of this node, and what the others answer that are asked now.");
}

/// The nodes of a service that others are asked about: the core has no more questions open at a time.
const MAX_NODES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::native::fixtures;

    #[test]
    fn each_instance_has_its_reason() {
        let view = fixtures::view();
        let service = view.service("web").unwrap();
        let rows: Vec<_> =
            service.instances.iter().chain(&service.beside).map(|row| shown(row, row.member, None)).collect();
        let whys: Vec<_> = rows.iter().map(|row| (row.node.as_str(), row.shown, row.why.as_str())).collect();
        assert!(whys.contains(&("a", true, "its health is passing, its node is alive")), "{whys:?}");
        assert!(whys.iter().any(|(node, shown, why)| *node == "b" && !shown && why.starts_with("check ")), "{whys:?}");
        assert!(rows.iter().all(|row| row.shown || !row.why.is_empty()));
    }

    #[test]
    fn who_came_back_too_often_is_not_called_down() {
        let row = Instance { member: MemberState::Down, ..fixtures::web().instances[0].clone() };
        let said = shown(&row, MemberState::Alive, Some(&Moment(0)));
        assert_eq!((said.member, said.shown), (MemberState::Alive, false));
        assert!(
            said.why.ends_with("came back too often lately: shown again at 1970-01-01T00:00:00.000Z"),
            "{}",
            said.why
        );
    }

    #[test]
    fn a_suspicion_names_who_suspects() {
        let seen = Explanation {
            node: NodeId(1),
            state: MemberState::Suspect,
            since: Time::ZERO,
            cause: crate::mesh::Cause::ProbeFailed,
            generation: crate::mesh::Generation::default(),
            linked: true,
            heard: None,
            answered: None,
            vouched: None,
            looking: true,
            suspicion: Some(crate::mesh::Suspected {
                since: Time::ZERO,
                until: Time::ZERO,
                accusers: vec![NodeId(2), NodeId(3)],
                witnessed: None,
            }),
            flapping: crate::mesh::Flapping::default(),
            held: None,
            asked: 0,
            testimonies: Vec::new(),
        };
        let why = sentence(&seen, |id| format!("n{}", id.0));
        assert!(why.starts_with("suspect: ") && why.contains("suspected by n2, n3"), "{why}");
    }
}
