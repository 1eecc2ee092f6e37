//! Consul's HTTP API, `/v1`, so that what people already run works unchanged. One outside shape per file.
//!
//! Reads come from the view, wait by [`read`] and are filtered by [`filter`]; registrations in Consul's words become the
//! model's in [`definition`], and what has no word there travels in [`crate::model::Echo`].

mod agent;
mod catalog;
mod check;
mod coordinate;
mod definition;
mod document;
mod event;
mod expression;
mod failure;
mod fields;
mod filter;
mod foreign;
pub(super) mod fuzz;
mod health;
mod kv;
mod maintenance;
mod near;
mod node;
mod own;
mod query;
mod read;
mod refused;
mod register;
mod reports;
mod service;
mod status;

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    middleware::{self, Next},
    response::Response,
    routing::{MethodRouter, any, get, put},
};

pub(super) use check::node_checks;
pub(super) use document::folded;
pub(super) use event::Hearing;
pub(super) use node::name as node_name;
pub(super) use own::is_reserved;
pub(super) use read::{Bodies, again};
pub(super) use reports::{service_of_check, services_of_derived};
pub(super) use service::id as service_id;

use super::{App, door, requests::Requests};

type Table = Vec<(&'static str, MethodRouter<Arc<App>>)>;

/// All routes; their answers are counted in `requests`.
pub(super) fn routes(requests: &mut Requests) -> Router<Arc<App>> {
    let known = |(path, methods): (_, MethodRouter<Arc<App>>)| (path, methods.fallback(refused::no_such_method));
    let writes = writes().into_iter().map(|(path, methods)| (path, methods.layer(middleware::from_fn(in_time))));
    let all = reads().into_iter().chain(writes).map(known).chain(nowhere());
    all.fold(Router::new(), |router, (path, methods)| router.route(path, requests.counted(path, methods)))
}

/// Reads take as long as their clients want to wait, and no longer.
fn reads() -> Table {
    vec![
        ("/v1/agent/self", get(agent::itself)),
        ("/v1/agent/members", get(agent::members)),
        ("/v1/agent/version", get(agent::version)),
        ("/v1/agent/host", get(agent::host)),
        ("/v1/agent/metrics", get(agent::metrics)),
        ("/v1/agent/services", get(own::services)),
        ("/v1/agent/service/{*id}", get(own::service)),
        ("/v1/agent/checks", get(own::checks)),
        ("/v1/agent/health/service/id/{*id}", get(own::health_by_id)),
        ("/v1/agent/health/service/name/{*name}", get(own::health_by_name)),
        ("/v1/catalog/datacenters", get(catalog::datacenters)),
        ("/v1/catalog/nodes", get(catalog::nodes)),
        ("/v1/catalog/services", get(catalog::services)),
        ("/v1/catalog/service/{*name}", get(catalog::service)),
        ("/v1/catalog/connect/{*name}", get(health::connect)),
        ("/v1/catalog/node/{*name}", get(catalog::node)),
        ("/v1/catalog/node-services/{*name}", get(catalog::node_services)),
        ("/v1/health/service/{*name}", get(health::service)),
        ("/v1/health/connect/{*name}", get(health::connect)),
        ("/v1/health/ingress/{*name}", get(health::connect)),
        ("/v1/health/checks/{*name}", get(health::checks)),
        ("/v1/health/node/{*name}", get(health::node)),
        ("/v1/health/state/{*state}", get(health::state)),
        ("/v1/event/list", get(event::list)),
        ("/v1/status/leader", get(status::leader)),
        ("/v1/status/peers", get(status::peers)),
        ("/v1/coordinate/nodes", get(coordinate::nodes)),
        ("/v1/coordinate/node/{*name}", get(coordinate::node)),
        ("/v1/coordinate/datacenters", get(coordinate::datacenters)),
        ("/v1/health/service/", get(refused::no_service)),
        ("/v1/health/checks/", get(refused::no_service)),
        ("/v1/health/node/", get(refused::no_node)),
        ("/v1/health/state/", get(refused::no_state)),
        ("/v1/catalog/service/", get(refused::no_service)),
        ("/v1/catalog/node/", get(refused::no_node)),
        ("/v1/kv/", get(kv::root).put(refused::writes).delete(refused::writes)),
        ("/v1/kv/{*key}", get(kv::read).put(refused::writes).delete(refused::writes)),
    ]
}

fn writes() -> Table {
    vec![
        ("/v1/agent/maintenance", put(maintenance::node)),
        ("/v1/agent/service/maintenance/{*id}", put(maintenance::service)),
        ("/v1/agent/service/maintenance/", put(refused::no_service_id)),
        ("/v1/agent/service/deregister/", put(refused::no_service_id)),
        ("/v1/agent/check/{verb}/", put(refused::no_check)),
        ("/v1/agent/force-leave/", put(refused::no_node)),
        ("/v1/agent/join/", put(refused::no_address)),
        ("/v1/event/fire/", put(refused::no_event)),
        ("/v1/agent/join/{*address}", put(agent::join)),
        ("/v1/agent/leave", put(agent::leave)),
        ("/v1/agent/reload", put(agent::reload)),
        ("/v1/agent/force-leave/{*node}", put(agent::force_leave)),
        ("/v1/agent/service/register", put(register::register)),
        ("/v1/agent/service/deregister/{*id}", put(register::deregister)),
        ("/v1/agent/check/register", put(reports::register)),
        ("/v1/agent/check/deregister/{*id}", put(reports::deregister)),
        ("/v1/agent/check/pass/{*id}", put(reports::pass)),
        ("/v1/agent/check/warn/{*id}", put(reports::warn)),
        ("/v1/agent/check/fail/{*id}", put(reports::fail)),
        ("/v1/agent/check/update/{*id}", put(reports::update)),
        ("/v1/catalog/register", put(foreign::register)),
        ("/v1/catalog/deregister", put(foreign::deregister)),
        ("/v1/event/fire/{*name}", put(event::fire)),
    ]
}

/// What is refused by any method.
fn nowhere() -> Table {
    vec![
        ("/v1/session", any(refused::sessions)),
        ("/v1/session/{*rest}", any(refused::sessions)),
        ("/v1/txn", any(refused::transactions)),
        ("/v1/query", any(refused::queries)),
        ("/v1/query/{*rest}", any(refused::queries)),
        ("/v1/connect/{*rest}", any(refused::connect)),
        ("/v1/agent/connect/{*rest}", any(refused::connect)),
        ("/v1/discovery-chain/{*rest}", any(refused::connect)),
        ("/v1/config", any(refused::administration)),
        ("/v1/config/{*rest}", any(refused::administration)),
        ("/v1/operator", any(refused::administration)),
        ("/v1/operator/{*rest}", any(refused::administration)),
        ("/v1/snapshot", any(refused::administration)),
        ("/v1/acl", any(refused::acl)),
        ("/v1/acl/{*rest}", any(refused::acl)),
        ("/v1/agent/token/{*rest}", any(refused::acl)),
        ("/v1/{*rest}", any(refused::no_such_path)),
    ]
}

async fn in_time(request: Request, next: Next) -> Response {
    door::in_time(next.run(request)).await
}
