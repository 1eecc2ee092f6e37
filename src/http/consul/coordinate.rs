//! `/v1/coordinate/…`: where nodes are in the network.

use axum::{body::Body, extract::State, http::StatusCode};
use serde::Serialize;

use super::{
    failure::Answer,
    fields,
    filter::Filter,
    query::{Query, Tail},
    read::{json, marked, plain, settle},
};
use crate::{
    agent::Topic,
    http::Shared,
    mesh::{self, Place},
    model::MemberState,
};

/// A place in Consul's space, which has twice as many dimensions as ours: the others are zero. In seconds, as ours.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Coordinate {
    vec: [f32; 8],
    error: f32,
    adjustment: f32,
    height: f32,
}

impl From<Place> for Coordinate {
    fn from(place: Place) -> Self {
        let [a, b, c, d] = place.at;
        Self { vec: [a, b, c, d, 0.0, 0.0, 0.0, 0.0], error: place.error, adjustment: 0.0, height: place.height }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry<'a> {
    node: &'a str,
    segment: &'static str,
    coord: Coordinate,
}

impl<'a> Entry<'a> {
    fn of(member: &'a mesh::Member) -> Option<Self> {
        let coord = Coordinate::from(member.place?);
        Some(Self { node: member.node.name.as_str(), segment: "", coord })
    }
}

pub(super) async fn nodes(State(app): Shared, query: Query) -> Answer {
    let filter = Filter::of(&query, fields::COORDINATE)?;
    let datacenter = query.datacenter(&app)?;
    // Places move without a mark: only the wait is shared with other reads, not the body.
    app.ready()?;
    let mark = settle(&app, &query, &Topic::Nodes).await;
    let body = {
        let members = app.agent.view().nodes_where(|member| {
            member.state != MemberState::Left && member.node.datacenter.eq_ignore_ascii_case(datacenter)
        });
        let entries = members.iter().filter_map(|member| Entry::of(member));
        let entries = entries.filter(|entry| filter.as_ref().is_none_or(|filter| filter.admits(entry)));
        json(&query, &entries.collect::<Vec<_>>())
    };
    Ok(marked(body.into(), mark))
}

pub(super) async fn node(State(app): Shared, Tail(name): Tail, query: Query) -> Answer {
    let datacenter = query.datacenter(&app)?;
    app.ready()?;
    let view = app.agent.view();
    let mark = settle(&app, &query, &super::health::topic(view, &name)).await;
    let member = view
        .node(&name)
        .filter(|member| member.state != MemberState::Left && member.node.datacenter.eq_ignore_ascii_case(datacenter));
    Ok(match member.as_deref().and_then(Entry::of) {
        Some(entry) => marked(json(&query, &[entry]).into(), mark),
        None => {
            let mut absent = marked(Body::empty(), mark);
            *absent.status_mut() = StatusCode::NOT_FOUND;
            absent
        }
    })
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Datacenter<'a> {
    datacenter: &'a str,
    #[serde(rename = "AreaID")]
    area_id: &'static str,
    coordinates: Vec<Entry<'a>>,
}

pub(super) async fn datacenters(State(app): Shared, query: Query) -> Answer {
    app.ready()?;
    let members = app.agent.view().nodes_where(|member| member.state.is_shown());
    let mut all = Vec::<Datacenter<'_>>::new();
    for (member, entry) in members.iter().filter_map(|member| Some((member, Entry::of(member)?))) {
        let name = &*member.node.datacenter;
        match all.iter_mut().find(|datacenter| datacenter.datacenter == name) {
            Some(datacenter) => datacenter.coordinates.push(entry),
            None => all.push(Datacenter { datacenter: name, area_id: "wan", coordinates: vec![entry] }),
        }
    }
    Ok(plain(&query, &all))
}
