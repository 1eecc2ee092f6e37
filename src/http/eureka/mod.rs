//! Eureka's REST API, `/eureka/apps…`, where the configuration asks for it (`http.eureka = true`): Spring's and Netflix's
//! clients register, renew, cancel and fetch, in JSON or XML. They share the catalogue with all the other faces.
//!
//! The delta is all there is, as additions: clients put it over what they have, and where something has gone since they
//! find that the hash differs, and fetch all by themselves.
//!
//! A lease is the agent's that granted it. Any other answers a renewal, a cancellation or an operator's word with 404: a
//! client that was moved, by a load balancer or a list of addresses, registers there again. That is its later word, and the
//! one that is shown; the first lease is not renewed any more, and ends by itself: no agent takes away what another one's row
//! speaks of. Who is withdrawn before that leaves a last word there, shown by nobody, until then. Two at different addresses
//! may be two, in containers of one name: of them this API shows the last, the others both. So it is best for a client to have
//! one agent, its host's own.
//!
//! `lastRenewalTimestamp` and the times like it say since when the lease is good: a renewal that changes nothing is news
//! for nobody, and does not travel.

pub(super) mod fuzz;
mod instance;
mod read;
mod write;
mod xml;

pub(super) use write::withdrawn;

use std::sync::Arc;

use axum::{
    Router,
    http::{HeaderMap, HeaderValue, header},
    middleware,
    response::Response,
    routing::{get, post, put},
};
use serde_json::Value;

use super::{App, door, native, requests::Requests};

/// All routes, each under both of its paths; their answers are counted in `requests`.
pub(super) fn routes(requests: &mut Requests) -> Router<Arc<App>> {
    let one = || get(read::instance).put(write::renew).delete(write::cancel);
    let table = [
        ("/eureka/apps", "/eureka/v2/apps", get(read::all)),
        // As the clients write it.
        ("/eureka/apps/", "/eureka/v2/apps/", get(read::all)),
        ("/eureka/apps/delta", "/eureka/v2/apps/delta", get(read::all)),
        ("/eureka/apps/{app}", "/eureka/v2/apps/{app}", post(write::register).get(read::application)),
        ("/eureka/apps/{app}/{id}", "/eureka/v2/apps/{app}/{id}", one()),
        (
            "/eureka/apps/{app}/{id}/status",
            "/eureka/v2/apps/{app}/{id}/status",
            put(write::take_over).delete(write::hand_back),
        ),
        ("/eureka/apps/{app}/{id}/metadata", "/eureka/v2/apps/{app}/{id}/metadata", put(write::note)),
        ("/eureka/instances/{id}", "/eureka/v2/instances/{id}", get(read::anywhere)),
        ("/eureka/vips/{name}", "/eureka/v2/vips/{name}", get(read::vip)),
        ("/eureka/svips/{name}", "/eureka/v2/svips/{name}", get(read::secure_vip)),
    ];
    table.into_iter().fold(Router::new(), |router, (path, second, methods)| {
        let methods = methods.fallback(native::no_such_method).layer(middleware::from_fn(in_time));
        let methods = requests.counted(path, methods);
        router.route(path, methods.clone()).route(second, methods)
    })
}

async fn in_time(request: axum::extract::Request, next: middleware::Next) -> Response {
    door::in_time(next.run(request)).await
}

/// An answer in the form that the client accepts: XML unless it names JSON, as Eureka has it.
fn respond(headers: &HeaderMap, document: &Value) -> Response {
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let (kind, text) = match accepts {
        Some(accept) if accept.contains("json") => ("application/json", document.to_string()),
        _ => ("application/xml", xml::write(document)),
    };
    let mut response = Response::new(text.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response
}
