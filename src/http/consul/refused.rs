//! What is not here, said in one sentence: the stores that need consensus, tokens of Consul's kind, and paths nobody knows.

use axum::{
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};

use super::failure::Failure;

pub(super) async fn writes() -> Failure {
    refuse("Hobnob keeps no keys and values: a write that all nodes agree on needs consensus, and there is none here")
}

pub(super) async fn sessions() -> Failure {
    refuse("Hobnob has no sessions and no locks: they need consensus, and there is none here")
}

pub(super) async fn transactions() -> Failure {
    refuse("Hobnob has no transactions: they need consensus, and there is none here")
}

pub(super) async fn queries() -> Failure {
    refuse("Hobnob has no prepared queries: they live in a store that needs consensus; ask /v1/health/service instead")
}

pub(super) async fn connect() -> Failure {
    refuse("Hobnob has no mesh of proxies: intentions and their authority live in a store that needs consensus")
}

pub(super) async fn administration() -> Failure {
    refuse("Hobnob has no servers that keep a log together: there is nothing to operate, snapshot or configure here")
}

/// As Consul with access control switched off. Hobnob's own tokens are not made through this API.
pub(super) async fn acl() -> Failure {
    Failure::new(StatusCode::UNAUTHORIZED, "ACL support disabled")
}

pub(super) async fn no_such_path() -> Response {
    StatusCode::NOT_FOUND.into_response()
}

/// A path that ends where a name should begin.
pub(super) async fn no_service() -> Failure {
    Failure::bad("Missing service name")
}

pub(super) async fn no_node() -> Failure {
    Failure::bad("Missing node name")
}

pub(super) async fn no_state() -> Failure {
    Failure::bad("Missing check state")
}

pub(super) async fn no_service_id() -> Failure {
    Failure::bad("Missing service ID")
}

pub(super) async fn no_check() -> Failure {
    Failure::bad("Missing check ID")
}

pub(super) async fn no_address() -> Failure {
    Failure::bad("Missing address to join")
}

pub(super) async fn no_event() -> Failure {
    Failure::bad("Missing event name")
}

/// The router adds the header Allow (RFC 9110 section 15.5.6), which is what OPTIONS asks for.
pub(super) async fn no_such_method(method: Method) -> Result<(), Failure> {
    if method == Method::OPTIONS {
        return Ok(());
    }
    Err(Failure::new(StatusCode::METHOD_NOT_ALLOWED, format!("method {method} not allowed")))
}

fn refuse(why: &str) -> Failure {
    Failure::new(StatusCode::NOT_IMPLEMENTED, why)
}
