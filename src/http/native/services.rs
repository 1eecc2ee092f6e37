//! `GET /api/v1/services`: every service with the count of its instances by health.

use std::collections::BTreeSet;

use axum::{Json, extract::State, response::IntoResponse};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    agent::Service,
    http::{Answer, Shared},
    model::{Health, ServiceName, Tag},
};

use super::{openapi::Api, params::Params};

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Service")]
struct Row<'a> {
    name: &'a ServiceName,
    instances: usize,
    passing: usize,
    warning: usize,
    critical: usize,
    maintenance: usize,
    /// All that any instance carries, in order.
    tags: BTreeSet<&'a Tag>,
}

impl<'a> Row<'a> {
    fn of(service: &'a Service) -> Self {
        let count = |health| service.instances.iter().filter(|instance| instance.health() == health).count();
        Self {
            name: &service.name,
            instances: service.instances.len(),
            passing: count(Health::Passing),
            warning: count(Health::Warning),
            critical: count(Health::Critical),
            maintenance: count(Health::Maintenance),
            tags: service.instances.iter().flat_map(|instance| &instance.registration.tags).collect(),
        }
    }
}

pub(super) async fn services(State(app): Shared, params: Params) -> Answer {
    params.end()?;
    app.ready()?;
    let services = app.agent.view().services();
    let rows: Vec<_> = services.iter().map(|service| Row::of(service)).collect();
    Ok(Json(rows).into_response())
}

/// For the OpenAPI document.
pub(super) fn describe(api: &mut Api) {
    api.get("/api/v1/services", "Every service with the count of its instances by health.")
        .answers::<Vec<Row<'_>>>(200, "By name.");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::native::fixtures;

    #[test]
    fn a_service_counts_its_instances_by_health() {
        let row = serde_json::to_value(Row::of(&fixtures::web())).unwrap();
        let expected = serde_json::json!({
            "name": "web", "instances": 3, "passing": 2, "warning": 0, "critical": 1, "maintenance": 0,
            "tags": ["blue", "v2"],
        });
        assert_eq!(row, expected);
    }
}
