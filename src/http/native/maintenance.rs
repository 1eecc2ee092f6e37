//! `PUT /api/v1/maintenance[/{id}]`: this node or one of its instances out of service, for a reason, and back.

use axum::{Json, extract::State, response::IntoResponse};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::openapi::Api;
use super::params::{Segments, word};
use crate::{
    http::{Answer, App, Problem, Shared, body::Parsed, word::is_shown},
    model::InstanceId,
};

/// What is asked for, and what is then.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Maintenance {
    /// Whether it is out of service.
    enabled: bool,
    /// Why, for people: at most 512 bytes.
    #[serde(default)]
    reason: String,
}

pub(super) async fn node(State(app): Shared, Parsed(asked): Parsed<Maintenance>) -> Answer {
    set(&app, None, asked).await
}

pub(super) async fn instance(
    State(app): Shared,
    Segments(id): Segments<String>,
    Parsed(asked): Parsed<Maintenance>,
) -> Answer {
    set(&app, Some(&word("id", &id)?), asked).await
}

async fn set(app: &App, id: Option<&InstanceId>, asked: Maintenance) -> Answer {
    if !asked.enabled && !asked.reason.is_empty() {
        return Err(Problem::field("reason", "is for taking out of service, not for coming back"));
    }
    // What ends here comes back from here no more, whoever has the word.
    if let Some(id) = id.filter(|_| asked.enabled) {
        is_shown(app, id)?;
    }
    app.agent.maintain(id, asked.enabled.then_some(asked.reason.as_str())).await?;
    Ok(Json(asked).into_response())
}

/// For the OpenAPI document.
pub(super) fn describe(api: &mut Api) {
    let answer = "It is on disk, visible here, and on its way to all.";
    api.put("/api/v1/maintenance", "Takes this node, and with it all that is on it, out of service, or back into it.")
        .takes::<Maintenance>()
        .answers::<Maintenance>(200, answer);
    api.put("/api/v1/maintenance/{id}", "Takes an instance of this node out of service, or back into it.")
        .takes::<Maintenance>()
        .answers::<Maintenance>(200, answer);
}
