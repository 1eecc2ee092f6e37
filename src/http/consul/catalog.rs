//! `/v1/catalog/…`: what there is, whether it is well or not.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use serde::Serialize;

use super::{
    failure::Answer,
    fields, health,
    health::Asked,
    near,
    node::{self, Node},
    query::{Query, Tail},
    read::{json, plain, read},
    service::{Flat, Service},
};
use crate::{
    agent::{self, Topic},
    http::Shared,
    model::{MemberState, Tag},
};

pub(super) async fn datacenters(State(app): Shared, query: Query) -> Answer {
    app.ready()?;
    let own = app.agent.config().datacenter.clone();
    let members = app.agent.view().nodes_where(|member| member.state != MemberState::Left);
    let others: BTreeSet<_> = members.iter().map(|member| member.node.datacenter.to_string()).collect();
    // One's own comes first: clients take the first for the nearest.
    let all: Vec<_> = std::iter::once(own.clone()).chain(others.into_iter().filter(|other| *other != own)).collect();
    Ok(plain(&query, &all))
}

pub(super) async fn nodes(State(app): Shared, query: Query) -> Answer {
    let asked = Asked::of(&app, &query, fields::NODE)?;
    read(&app, &query, Topic::Nodes, |mark| {
        let view = app.agent.view();
        let members = view.nodes_where(|member| member.state != MemberState::Left);
        let services = view.rows();
        let rows = services.iter().flat_map(|service| service.rows());
        let mut foreign: Vec<_> = rows.filter(|row| row.registration.foreign().is_some()).collect();
        foreign.sort_by_key(|row| row.precedence());
        // Several services may stand on one: it is listed once, as the last word on it has it, or its agent.
        let foreign = foreign.into_iter().map(|row| Node::of(row, mark));
        let members = members.iter().map(|member| Node::member(member.id, &member.node, mark));
        let all = foreign.chain(members).map(|node| ((node.datacenter, node.name.to_ascii_lowercase()), node));
        let all: BTreeMap<_, _> = all.collect();
        let mut all: Vec<_> = all.into_values().collect();
        all.retain(|node| asked.is_here(node) && asked.passes(node));
        all.sort_by(|a, b| a.name.cmp(b.name));
        near::sort(&app, &query, &mut all, |node| node.name);
        json(&query, &all)
    })
    .await
}

pub(super) async fn services(State(app): Shared, query: Query) -> Answer {
    let asked = Asked::of(&app, &query, fields::INSTANCE)?;
    // What a name stands for shows only in a list that is narrowed by it.
    let topic = if asked.is_narrow() { Topic::Rows } else { Topic::Services };
    read(&app, &query, topic, |mark| {
        let services = app.agent.view().rows();
        // Each name as it was written.
        let mut all = BTreeMap::<&str, Vec<&Tag>>::new();
        for row in services.iter().flat_map(|service| service.ordered()) {
            if asked.admits(row, &Node::of(row, mark)) && asked.passes(&Flat::of(row, mark)) {
                all.entry(row.registration.name.as_str()).or_default().extend(&row.registration.tags);
            }
        }
        for tags in all.values_mut() {
            let mut seen = BTreeSet::new();
            tags.retain(|tag| seen.insert(tag.as_str()));
        }
        json(&query, &all)
    })
    .await
}

pub(super) async fn service(State(app): Shared, Tail(name): Tail, query: Query) -> Answer {
    let asked = Asked::of(&app, &query, fields::INSTANCE)?;
    read(&app, &query, Topic::Service(name.to_ascii_lowercase()), |mark| {
        let found = app.agent.view().service(&name);
        let rows = found.iter().flat_map(|service| service.ordered());
        let rows = rows.filter(|row| asked.admits(row, &Node::of(row, mark)));
        let mut all: Vec<_> = rows.map(|row| Flat::of(row, mark)).filter(|row| asked.passes(row)).collect();
        near::sort(&app, &query, &mut all, Flat::node);
        json(&query, &all)
    })
    .await
}

/// A node and what stands on it, by id.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Laden<'a, S> {
    node: Node<'a>,
    services: S,
}

pub(super) async fn node(State(app): Shared, Tail(name): Tail, query: Query) -> Answer {
    on_node(&app, &name, &query, |node, services| {
        let services: BTreeMap<_, _> = services.into_iter().map(|service| (service.id, service)).collect();
        json(&query, &Laden { node, services })
    })
    .await
}

pub(super) async fn node_services(State(app): Shared, Tail(name): Tail, query: Query) -> Answer {
    on_node(&app, &name, &query, |node, services| json(&query, &Laden { node, services })).await
}

async fn on_node(
    app: &super::App,
    name: &str,
    query: &Query,
    render: impl FnOnce(Node<'_>, Vec<Service<'_>>) -> bytes::Bytes,
) -> Answer {
    let asked = Asked::of(app, query, fields::SERVICE)?;
    let view = app.agent.view();
    read(app, query, health::topic(view, name), |mark| {
        let member = view.node(name).filter(|member| member.state != MemberState::Left);
        let services: Vec<std::sync::Arc<agent::Service>> = view.rows();
        let rows = services.iter().flat_map(|service| service.rows());
        let rows = rows.filter(|row| node::name(row).eq_ignore_ascii_case(name));
        let rows: Vec<_> = rows.filter(|row| asked.is_here(&Node::of(row, mark))).collect();
        let node = member.as_ref().map(|member| Node::member(member.id, &member.node, mark));
        let last_word = || rows.iter().max_by_key(|row| row.precedence()).map(|row| Node::of(row, mark));
        let node = node.or_else(last_word).filter(|node| asked.is_here(node));
        let Some(node) = node else { return json(query, &()) };
        let own = rows.iter().map(|row| &row.registration).filter(|own| !own.has_role());
        let shown = own.map(|own| Service::of(own, mark));
        let mut shown: Vec<_> = shown.filter(|service| asked.passes(service)).collect();
        shown.sort_by(|a, b| a.id.cmp(b.id));
        render(node, shown)
    })
    .await
}
