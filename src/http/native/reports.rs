//! `PUT /api/v1/registrations/{id}/checks/{check}`: a program's word on its own TTL check.

use axum::{Json, extract::State, response::IntoResponse};
use serde::{Deserialize, Serialize};

use crate::{
    http::{Answer, Problem, Shared, body::Parsed},
    model::{CheckName, Health, InstanceId},
};

use super::params::{Segments, word};

/// What a program says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Report {
    status: Health,
    #[serde(default)]
    output: String,
}

/// What was taken down; how it counts shows in the service's instances, thresholds applied.
#[derive(Serialize)]
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
