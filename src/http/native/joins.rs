//! `POST /api/v1/joins`: an invitation for one new machine. Only who may do everything gets one.

use std::time::Duration;

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::openapi::Api;
use crate::{
    http::{Answer, Problem, Shared, body::Parsed},
    model::NodeName,
};

/// For how many seconds it is good, and the only name that it is good for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    seconds: u32,
    #[schemars(with = "Option<String>")]
    node: Option<NodeName>,
}

#[derive(Serialize, JsonSchema)]
struct Invited {
    token: String,
}

pub(super) async fn invite(State(app): Shared, Parsed(wanted): Parsed<Wanted>) -> Answer {
    if !(1..=MAX_SECONDS).contains(&wanted.seconds) {
        return Err(Problem::field("seconds", "must be 1 to 86400"));
    }
    let invitation = app.agent.invite(wanted.node, Duration::from_secs(wanted.seconds.into()));
    let invitation = invitation.map_err(|why| Problem::new(StatusCode::CONFLICT, why.to_string()))?;
    Ok((StatusCode::CREATED, Json(Invited { token: invitation.to_text().to_string() })).into_response())
}

/// For the OpenAPI document.
pub(super) fn describe(api: &mut Api) {
    api.post("/api/v1/joins", "Invites one new machine, once; needs the right to do all.")
        .takes::<Wanted>()
        .answers::<Invited>(201, "What `hobnob join` takes on that machine.");
}

/// A day: whoever is not there by then asks again.
const MAX_SECONDS: u32 = 24 * 3600;
