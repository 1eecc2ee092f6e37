//! `PUT /api/v1/registrations/{id}/checks/{check}`: a program's word on its own TTL check.

use axum::{Json, extract::State, response::IntoResponse};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    http::{Answer, Shared, body::Parsed, word::is_shown},
    model::{CheckName, Health, InstanceId},
};

use super::{
    openapi::Api,
    params::{Segments, word},
};

/// What a program says.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Report {
    status: Status,
    #[serde(default)]
    output: String,
}

/// What a program may say: maintenance is the operator's word.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Status {
    Passing,
    Warning,
    Critical,
}

impl From<Status> for Health {
    fn from(said: Status) -> Self {
        match said {
            Status::Passing => Self::Passing,
            Status::Warning => Self::Warning,
            Status::Critical => Self::Critical,
        }
    }
}

/// What was taken down; how it counts shows in the service's instances, thresholds applied.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Reported")]
struct Taken {
    id: InstanceId,
    check: CheckName,
    status: Health,
}

pub(super) async fn report(
    State(app): Shared,
    Segments((instance, check)): Segments<(String, String)>,
    Parsed(report): Parsed<Report>,
) -> Answer {
    let (id, check, status) = (word("id", &instance)?, word("check", &check)?, report.status.into());
    is_shown(&app, &id)?;
    app.agent.report(&id, &check, status, &report.output).await?;
    Ok(Json(Taken { id, check, status }).into_response())
}

/// For the OpenAPI document.
pub(super) fn describe(api: &mut Api) {
    api.put("/api/v1/registrations/{id}/checks/{check}", "A program's word on its own TTL check.")
        .takes::<Report>()
        .answers::<Taken>(200, "It is taken down; thresholds decide how it counts.");
}
