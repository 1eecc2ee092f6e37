//! `PUT /api/v1/registrations/{id}/checks/{check}`: a program's word on its own TTL check.

use axum::{Json, extract::State, response::IntoResponse};
use serde::{Deserialize, Serialize};

use crate::{
    http::{Answer, Problem, Shared, body::Parsed},
    model::Health,
};

use super::params::{Segments, word};

/// What a program says; the answer repeats it.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Report {
    status: Health,
    #[serde(default)]
    output: String,
}

pub(super) async fn report(
    State(app): Shared,
    Segments((instance, check)): Segments<(String, String)>,
    Parsed(report): Parsed<Report>,
) -> Answer {
    let (instance, check) = (word("id", &instance)?, word("check", &check)?);
    if report.status == Health::Maintenance {
        return Err(Problem::field("status", "must be passing, warning or critical"));
    }
    app.agent.report(&instance, &check, report.status, &report.output).await?;
    Ok(Json(report).into_response())
}
