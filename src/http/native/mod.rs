//! The native API, `/api/v1`, and the plain routes beside it: one outside shape per file.

mod distance;
mod events;
mod explain;
#[cfg(test)]
pub(super) mod fixtures;
mod instances;
mod join;
mod joins;
mod maintenance;
mod members;
mod openapi;
mod params;
mod probes;
mod prometheus;
mod registrations;
mod reload;
mod reports;
mod services;
mod status;
mod tokens;
mod watch;

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use axum::{
    Router,
    extract::Request,
    http::{Method, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, any, delete, get, post, put},
};
use serde::Serializer;

pub(super) use openapi::Api;
pub(super) use params::Segments;
pub use reload::{ReloadAsk, Reloaded};
pub(super) use reload::{Reloads, reloaded};
pub(super) use watch::Renderings;
pub use watch::state;

use super::{App, Problem, door, metrics::metrics, requests::Requests};

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
        ("/api/v1/maintenance", put(maintenance::node)),
        ("/api/v1/maintenance/{id}", put(maintenance::instance)),
        ("/api/v1/join", post(join::join)),
        ("/api/v1/leave", post(join::leave)),
        ("/api/v1/force-leave/{node}", post(join::force_leave)),
        ("/api/v1/joins", post(joins::invite)),
        ("/api/v1/tokens", get(tokens::list).post(tokens::create)),
        ("/api/v1/tokens/{name}", delete(tokens::revoke)),
        ("/api/v1/denials", get(tokens::denied).post(tokens::deny)),
        ("/api/v1/edicts", get(tokens::edicts).post(tokens::publish)),
        ("/api/v1/reload", post(reload::reload)),
        ("/api/v1/rtt/{node}", get(distance::rtt)),
        ("/api/v1/ping/{node}", post(distance::ping)),
        ("/api/v1/watch", get(watch::watch)),
        ("/api/v1/events", get(events::events)),
        ("/api/v1/explain/{name}", get(explain::explain)),
        ("/api/v1/prometheus", get(prometheus::targets)),
        ("/api/v1/openapi.json", get(openapi::openapi)),
    ];
    assemble(table, requests)
}

/// What [`routes`] serves, for the OpenAPI document.
fn describe(api: &mut Api) {
    probes::describe(api);
    super::metrics::describe(api);
    status::describe(api);
    members::describe(api);
    services::describe(api);
    instances::describe(api);
    registrations::describe(api);
    reports::describe(api);
    join::describe(api);
    maintenance::describe(api);
    distance::describe(api);
    joins::describe(api);
    events::describe(api);
    explain::describe(api);
    tokens::describe(api);
    reload::describe(api);
    watch::describe(api);
    prometheus::describe(api);
}

fn assemble<S: Clone + Send + Sync + 'static>(
    table: impl IntoIterator<Item = (&'static str, MethodRouter<S>)>,
    requests: &mut Requests,
) -> Router<S> {
    let elsewhere = requests.counted("none", any(no_such_path)).with_state(());
    table.into_iter().fold(Router::new().fallback_service(elsewhere), |router, (path, methods)| {
        let methods = methods.fallback(no_such_method).layer(middleware::from_fn(in_time));
        router.route(path, requests.counted(path, methods))
    })
}

async fn in_time(request: Request, next: Next) -> Response {
    door::in_time(next.run(request)).await
}

async fn no_such_path(method: Method, target: Uri) -> Response {
    // What the server takes as a whole (RFC 9110 section 9.3.7).
    if (&method, target.path()) == (&Method::OPTIONS, "*") {
        return (StatusCode::NO_CONTENT, [(header::ALLOW, "GET,HEAD,PUT,POST,DELETE,OPTIONS")]).into_response();
    }
    let why = "there is nothing under this path; the API begins at /api/v1/status";
    Problem::new(StatusCode::NOT_FOUND, why).into_response()
}

/// The router adds the header Allow (RFC 9110 section 15.5.6), which is also all that OPTIONS asks for. A page of another
/// origin that asks by OPTIONS whether it may call us is told nothing, which means no.
pub(super) async fn no_such_method(method: Method) -> Response {
    const DETAIL: &str = "this path does not take that method; the header Allow lists what it takes";
    match method {
        Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        _ => Problem::new(StatusCode::METHOD_NOT_ALLOWED, DETAIL).into_response(),
    }
}

/// Writes a moment as RFC 3339 with milliseconds, in UTC. Peers may claim any moment: what lies beyond the format's
/// last is shown as that.
fn moment<S: Serializer>(unix_millis: &u64, to: S) -> Result<S::Ok, S::Error> {
    const YEAR_9999_ENDS: u64 = 253_402_300_799_999;
    let since = Duration::from_millis((*unix_millis).min(YEAR_9999_ENDS));
    to.collect_str(&humantime::format_rfc3339_millis(UNIX_EPOCH + since))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{body::Body, http::Request};
    use tower::ServiceExt;

    #[tokio::test]
    async fn a_path_or_method_that_is_not_there_is_a_problem_and_counted() {
        let mut requests = Requests::default();
        let router = assemble::<()>([("/", get(probes::hint)), ("/livez", get(probes::livez))], &mut requests);
        for (method, path, status, allow) in [
            ("GET", "/", 200, None),
            ("PUT", "/", 405, Some("GET,HEAD")),
            ("GET", "/nowhere", 404, None),
            ("PUT", "/nowhere", 404, None),
            ("OPTIONS", "*", 204, Some("GET,HEAD,PUT,POST,DELETE,OPTIONS")),
            ("HEAD", "/livez", 200, None),
            ("OPTIONS", "/livez", 204, Some("GET,HEAD")),
        ] {
            let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), status, "{method} {path}");
            assert_eq!(response.headers().get("allow").map(|allow| allow.to_str().unwrap()), allow, "{method} {path}");
            let is_problem =
                response.headers().get("content-type").is_some_and(|kind| kind == "application/problem+json");
            assert_eq!(is_problem, status >= 400, "{method} {path}");
        }
        let counts: Vec<_> = requests.each().collect();
        assert_eq!(
            counts,
            [("none", "2xx", 1), ("none", "4xx", 2), ("/", "2xx", 1), ("/", "4xx", 1), ("/livez", "2xx", 2)]
        );
    }
}
