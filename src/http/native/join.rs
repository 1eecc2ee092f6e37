//! `POST /api/v1/join`, `POST /api/v1/leave` and `POST /api/v1/force-leave/{node}`: into a mesh and out of it.

use axum::{Json, extract::State, response::IntoResponse};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    http::{Answer, Problem, Shared, body::Parsed},
    model::MemberState,
};

use super::{members::member, openapi::Api, params::Segments};

/// `{"addresses": ["10.0.0.1:7946"]}`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Seeds {
    addresses: Vec<String>,
}

/// How many addresses the seeds resolved to; whether they answer shows in the members.
#[derive(Serialize, JsonSchema)]
struct Joining {
    resolved: usize,
}

pub(super) async fn join(State(app): Shared, Parsed(seeds): Parsed<Seeds>) -> Answer {
    if seeds.addresses.is_empty() || seeds.addresses.len() > MAX_SEEDS {
        return Err(Problem::field("addresses", "must hold 1 to 64 texts such as \"10.0.0.1:7946\""));
    }
    let resolved = app
        .agent
        .join(&seeds.addresses)
        .await
        .map_err(|why| Problem::field("addresses", &format!("cannot be used: {why}")))?;
    Ok(Json(Joining { resolved }).into_response())
}

#[derive(Serialize, JsonSchema)]
struct Leaving {
    leaving: bool,
}

/// Answers before the agent has left: afterwards there is nobody to answer.
pub(super) async fn leave(State(app): Shared) -> Answer {
    tokio::spawn(async move { app.agent.leave().await });
    Ok(Json(Leaving { leaving: true }).into_response())
}

/// Whom nobody needs to wait for any more.
#[derive(Serialize, JsonSchema)]
struct Gone {
    node: String,
    state: &'static str,
}

/// A member that is down, and will not come back, is forgotten everywhere as if it had left.
pub(super) async fn force_leave(State(app): Shared, Segments(node): Segments<String>) -> Answer {
    app.ready()?;
    let member = member(app.agent.view(), &node)?;
    if member.state != MemberState::Left {
        app.agent.force_leave(member.id).await?;
    }
    Ok(Json(Gone { node: member.node.name.to_string(), state: MemberState::Left.as_str() }).into_response())
}

/// The most seeds of one request: each may cost a DNS query.
const MAX_SEEDS: usize = 64;

/// For the OpenAPI document.
pub(super) fn describe(api: &mut Api) {
    api.post("/api/v1/join", "Looks for the mesh through these nodes too.")
        .takes::<Seeds>()
        .answers::<Joining>(200, "They are being tried; whether they answer shows in the members.");
    api.post("/api/v1/leave", "Says goodbye to the mesh and stops.").answers::<Leaving>(200, "It is about to.");
    api.post("/api/v1/force-leave/{node}", "Gives up on a node that is down and will not come back.")
        .answers::<Gone>(200, "It is forgotten everywhere as if it had left.");
}
