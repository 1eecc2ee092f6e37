//! `POST /api/v1/join` and `POST /api/v1/leave`: into a mesh and out of it.

use axum::{Json, extract::State, response::IntoResponse};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::http::{Answer, Problem, Shared, body::Parsed};

use super::openapi::Api;

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
    let resolved = app.agent.join(&seeds.addresses).await.map_err(|why| Problem::field("addresses", &why))?;
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

/// The most seeds of one request: each may cost a DNS query.
const MAX_SEEDS: usize = 64;

/// For the OpenAPI document.
pub(super) fn describe(api: &mut Api) {
    api.post("/api/v1/join", "Looks for the mesh through these nodes too.")
        .takes::<Seeds>()
        .answers::<Joining>(200, "They are being tried; whether they answer shows in the members.");
    api.post("/api/v1/leave", "Says goodbye to the mesh and stops.").answers::<Leaving>(200, "It is about to.");
}
