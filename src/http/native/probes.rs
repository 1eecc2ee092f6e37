//! What supervisors and people ask first: alive, ready, which version, and where the API is.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{http::Shared, mesh::wire};

use super::openapi::Api;

pub(super) async fn hint() -> &'static str {
    "Hobnob: service discovery without servers. Begin at /api/v1/status, /api/v1/services or /metrics.\n"
}

#[derive(Serialize, JsonSchema)]
struct Live {
    live: bool,
}

/// That this is answered is the answer.
pub(super) async fn livez() -> Json<impl Serialize> {
    Json(Live { live: true })
}

#[derive(Serialize, JsonSchema)]
struct Ready {
    ready: bool,
    reasons: Vec<String>,
}

/// 503 with reasons until all is heard that the mesh knows.
pub(super) async fn readyz(State(app): Shared) -> Response {
    let ready = app.agent.view().is_ready();
    let (status, reasons) =
        if ready { (StatusCode::OK, Vec::new()) } else { (StatusCode::SERVICE_UNAVAILABLE, app.agent.unready()) };
    (status, Json(Ready { ready, reasons })).into_response()
}

#[derive(Serialize, JsonSchema)]
struct Version {
    name: &'static str,
    version: &'static str,
    protocol: u8,
}

pub(super) async fn version() -> Json<impl Serialize> {
    Json(Version { name: "hobnob", version: env!("CARGO_PKG_VERSION"), protocol: wire::VERSION })
}

/// For the OpenAPI document.
pub(super) fn describe(api: &mut Api) {
    api.get("/", "Where to begin.").text("text/plain", "A sentence.");
    api.get("/livez", "Whether the process answers.").answers::<Live>(200, "It does.");
    api.get("/readyz", "Whether reads of the catalogue are answered.")
        .answers::<Ready>(200, "They are.")
        .answers::<Ready>(503, "They are not yet; the reasons say why.");
    api.get("/version", "The program and the protocol it speaks.").answers::<Version>(200, "Both.");
}
