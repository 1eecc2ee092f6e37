//! `GET /api/v1/members`: every node this one knows, in any state.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    agent::View,
    http::{Answer, Problem, Shared},
    mesh::Member,
    model::{Epoch, MemberState, NodeName, Time},
};

use super::{openapi::Api, params::Params};

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Member")]
struct Row<'a> {
    node: &'a NodeName,
    /// In hexadecimal, as everywhere people read it.
    id: String,
    address: Option<SocketAddr>,
    state: MemberState,
    epoch: Epoch,
    zone: &'a str,
    datacenter: &'a str,
    rtt_ms: Option<f64>,
    version: &'a str,
    meta: &'a BTreeMap<String, String>,
    #[serde(serialize_with = "super::moment")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    since: u64,
}

impl<'a> Row<'a> {
    fn of(member: &'a Member, unix_millis: impl Fn(Time) -> u64) -> Self {
        Self {
            node: &member.node.name,
            id: member.id.to_string(),
            address: member.address(),
            state: member.state,
            epoch: member.epoch,
            zone: &member.node.zone,
            datacenter: &member.node.datacenter,
            rtt_ms: member.rtt.map(millis),
            version: &member.node.version,
            meta: &member.node.meta,
            since: unix_millis(member.since),
        }
    }
}

pub(super) async fn members(State(app): Shared, params: Params) -> Answer {
    params.end()?;
    let members = app.agent.view().nodes();
    let rows: Vec<_> = members.iter().map(|member| Row::of(member, |at| app.agent.unix_millis(at))).collect();
    Ok(Json(rows).into_response())
}

/// For the OpenAPI document.
pub(super) fn describe(api: &mut Api) {
    api.get("/api/v1/members", "Every node this one knows, in any state.").answers::<Vec<Row<'_>>>(200, "By name.");
}

/// The member of this name, in any state.
pub(super) fn member(view: &View, name: &str) -> Result<Arc<Member>, Problem> {
    let why = || format!("nobody here knows a node called {name:?}; GET /api/v1/members lists them");
    view.node(name).ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, why()))
}

/// A round trip in milliseconds, to whole microseconds: what lies below is noise.
pub(super) fn millis(rtt: Duration) -> f64 {
    rtt.as_micros() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::native::fixtures;

    #[test]
    fn a_member_has_the_shape_of_the_contract() {
        let members = fixtures::view().nodes();
        let row = serde_json::to_value(Row::of(&members[1], |_| 1_700_000_000_123)).unwrap();
        let expected = serde_json::json!({
            "node": "b", "id": members[1].id.to_string(), "address": "10.0.0.2:7946", "state": "suspect", "epoch": 5,
            "zone": "z2", "datacenter": "dc1", "rtt_ms": 1.25, "version": "0.1.0", "meta": {},
            "since": "2023-11-14T22:13:20.123Z",
        });
        assert_eq!(row, expected);
    }
}
