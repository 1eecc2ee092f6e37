//! `GET /api/v1/rtt/{node}` and `POST /api/v1/ping/{node}`: how far away a node is, as it is known and as it is now.

use std::time::Duration;

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    members::{member, millis},
    openapi::Api,
    params::{Params, Segments},
};
use crate::{
    agent::PATIENCE,
    http::{Answer, Problem, Shared},
    mesh::Member,
};

/// The round trip between two nodes.
#[derive(Serialize, JsonSchema)]
struct Trip {
    from: String,
    to: String,
    /// Milliseconds; `null` while it is not known.
    rtt_ms: Option<f64>,
    /// How it is known.
    known: Source,
}

#[derive(Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Source {
    /// From packets between the two, one of them this node.
    Measured,
    /// From the coordinates that both tell of themselves (Vivaldi).
    Estimated,
}

pub(super) async fn rtt(State(app): Shared, Segments(to): Segments<String>, mut params: Params) -> Answer {
    let from = params.one("from")?;
    params.end()?;
    app.ready()?;
    let (view, own) = (app.agent.view(), app.agent.config().node.as_str());
    let (from, to) = (member(view, from.as_deref().unwrap_or(own))?, member(view, &to)?);
    let (rtt, known) = match [&from, &to].map(|member| member.node.name.as_str() == own) {
        [true, true] => (Some(Duration::ZERO), Source::Measured),
        [true, false] => (to.rtt, Source::Measured),
        [false, true] => (from.rtt, Source::Measured),
        [false, false] => (from.rtt_to(&to), Source::Estimated),
    };
    Ok(Json(trip(&from, &to, rtt, known)).into_response())
}

pub(super) async fn ping(State(app): Shared, Segments(to): Segments<String>) -> Answer {
    let (view, own) = (app.agent.view(), app.agent.config().node.as_str());
    let (from, to) = (member(view, own)?, member(view, &to)?);
    let rtt = if from.id == to.id { Some(Duration::ZERO) } else { app.agent.ping(to.id).await };
    let silent = || Problem::new(StatusCode::GATEWAY_TIMEOUT, format!("{} is silent for {PATIENCE:?}", to.node.name));
    Ok(Json(trip(&from, &to, Some(rtt.ok_or_else(silent)?), Source::Measured)).into_response())
}

fn trip(from: &Member, to: &Member, rtt: Option<Duration>, known: Source) -> Trip {
    Trip { from: from.node.name.to_string(), to: to.node.name.to_string(), rtt_ms: rtt.map(millis), known }
}

/// For the OpenAPI document.
pub(super) fn describe(api: &mut Api) {
    api.get("/api/v1/rtt/{node}", "The round trip to a node, as far as it is known.")
        .query("from", "From which node; from this one where it is not given.")
        .answers::<Trip>(200, "How long a packet takes there and back.");
    api.post("/api/v1/ping/{node}", "Knocks at a node now, from this agent's loop to the other's and back.")
        .answers::<Trip>(200, "It has answered.");
}
