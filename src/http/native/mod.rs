//! The native API, `/api/v1`, and the plain routes beside it: one outside shape per file.

mod instances;
mod join;
mod members;
mod params;
mod probes;
mod prometheus;
mod registrations;
mod reports;
mod services;
mod status;
mod watch;

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use axum::{
    Router,
    http::StatusCode,
    routing::{get, post, put},
};
use serde::Serializer;

use super::{App, Problem, metrics::metrics, requests::Requests};

/// All routes; their answers are counted in `requests`.
pub(super) fn routes(requests: &mut Requests) -> Router<Arc<App>> {
    let own = get(registrations::one).put(registrations::put).delete(registrations::delete);
    let table = [
        ("/", get(probes::hint)),
        ("/livez", get(probes::livez)),
        ("/readyz", get(probes::readyz)),
        ("/version", get(probes::version)),
        ("/metrics", get(metrics)),
        ("/api/v1/status", get(status::status)),
        ("/api/v1/members", get(members::members)),
        ("/api/v1/services", get(services::services)),
        ("/api/v1/services/{name}", get(instances::instances)),
        ("/api/v1/registrations", get(registrations::all)),
        ("/api/v1/registrations/{id}", own),
        ("/api/v1/registrations/{id}/checks/{check}", put(reports::report)),
        ("/api/v1/join", post(join::join)),
        ("/api/v1/leave", post(join::leave)),
        ("/api/v1/watch", get(watch::watch)),
        ("/api/v1/prometheus", get(prometheus::targets)),
    ];
    table
        .into_iter()
        .fold(Router::new(), |router, (path, methods)| requests.counted(router, path, methods.fallback(no_such_method)))
        .fallback(no_such_path)
}

async fn no_such_path() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is nothing under this path; the API begins at /api/v1/status")
}

/// The router adds the header Allow (RFC 9110 section 15.5.6).
async fn no_such_method() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path does not take that method; the header Allow lists what it takes",
    )
}

/// Writes a moment as RFC 3339 with milliseconds, in UTC. Peers may claim any moment: what lies beyond the format's
/// last is shown as that.
fn moment<S: Serializer>(unix_millis: &u64, to: S) -> Result<S::Ok, S::Error> {
    const YEAR_9999_ENDS: u64 = 253_402_300_799_999;
    let since = Duration::from_millis((*unix_millis).min(YEAR_9999_ENDS));
    to.collect_str(&humantime::format_rfc3339_millis(UNIX_EPOCH + since))
}

#[cfg(test)]
mod fixtures;
