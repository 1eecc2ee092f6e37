//! `PUT /api/v1/registrations/{id}/checks/{check}`: a program's word on its own TTL check.

use axum::{Json, extract::State, response::IntoResponse};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    http::{Answer, Problem, Shared, body::Parsed},
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
    status: Health,
    #[serde(default)]
    output: String,
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
    let (id, check) = (word("id", &instance)?, word("check", &check)?);
    if report.status == Health::Maintenance {
        return Err(Problem::field("status", "must be passing, warning or critical"));
    }
    app.agent.report(&id, &check, report.status, &report.output).await?;
    Ok(Json(Taken { id, check, status: report.status }).into_response())
}

/// For the OpenAPI document.
pub(super) fn describe(api: &mut Api) {
    api.put("/api/v1/registrations/{id}/checks/{check}", "A program's word on its own TTL check.")
        .takes::<Report>()
        .answers::<Taken>(200, "It is taken down; thresholds decide how it counts.");
}
