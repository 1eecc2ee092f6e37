//! `/v1/agent/services`, `checks` and `health`: what is registered with this agent, read without asking the mesh.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use serde::Serialize;
use tokio::{select, time::sleep};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    check::{self, Check, MAINTENANCE, NodeRows, SERF},
    event,
    failure::{Answer, Failure},
    fields,
    filter::Filter,
    query::{Query, Tail},
    read::{jitter, plain},
    reports::NODE_ROW,
    service::Own,
};
use crate::{
    agent::{Topic, View},
    http::{App, Shared},
    mesh::Instance,
    model::{Health, InstanceId, Registration},
};

/// Whether a row is an instance in Consul's sense: others hold the checks of nodes, events, and what stands on nodes
/// without agents.
pub(super) fn is_instance(own: &Registration) -> bool {
    own.foreign().is_none() && !own.has_role()
}

/// This node's instances, by id.
fn instances(view: &View) -> Vec<Arc<Registration>> {
    let mut own = view.registrations();
    own.retain(|own| is_instance(own));
    own
}

/// This node's instance of that id.
pub(super) fn instance(view: &View, id: &str) -> Option<Arc<Registration>> {
    view.registration(&InstanceId::try_from(id).ok()?).filter(|own| is_instance(own))
}

/// Whether an id is that of a row of our own, or may become it, and no instance may have it.
pub(in crate::http) fn is_reserved(view: &View, id: &InstanceId) -> bool {
    id.as_str() == NODE_ROW
        || id.as_str().starts_with(event::PREFIX)
        || view.registration(id).is_some_and(|own| !is_instance(&own))
}

/// All rows of this node under a service's name, with what their checks say now: those too whose subject another agent's word
/// counts for.
fn rows(view: &View, name: &str) -> Vec<Instance> {
    let this = view.this().map(|this| this.id);
    let own = view.words(name, |row| Some(row.owner) == this && !row.registration.is_taken_back());
    own.iter().map(|row| view.spoken(row)).collect()
}

pub(super) async fn services(State(app): Shared, query: Query) -> Answer {
    let filter = Filter::of(&query, fields::SERVICE)?;
    let own = instances(app.agent.view());
    let shown = own.iter().map(|own| Own::from(&**own));
    let shown = shown.filter(|own| filter.as_ref().is_none_or(|filter| filter.admits(own)));
    Ok(plain(&query, &shown.map(|own| (own.id, own)).collect::<BTreeMap<_, _>>()))
}

pub(super) async fn checks(State(app): Shared, query: Query) -> Answer {
    let filter = Filter::of(&query, fields::CHECK)?;
    let view = app.agent.view();
    let names: std::collections::BTreeSet<_> =
        view.registrations().iter().filter(|own| own.foreign().is_none()).map(|own| own.name.folded()).collect();
    let own = names.iter().flat_map(|name| rows(view, name));
    let own: Vec<_> = own.filter(|row| row.registration.foreign().is_none()).collect();
    let this = view.node(app.agent.config().node.as_str());
    let of_this = this.iter().flat_map(|this| Check::of_member(&this.node, true, 0)).filter(|check| check.id != SERF);
    let shown = own.iter().flat_map(|row| check::of_row(row, 0)).chain(of_this);
    let shown = shown.filter(|check| filter.as_ref().is_none_or(|filter| filter.admits(check)));
    Ok(plain(&query, &shown.map(|check| (check.id.to_string(), check)).collect::<BTreeMap<_, _>>()))
}

/// One instance with a hash of what is shown of it; `hash=` waits until that is another one.
pub(super) async fn service(State(app): Shared, Tail(id): Tail, query: Query) -> Answer {
    let seen = query.text("hash");
    let mut waiter = app.agent.view().wait(Topic::Own);
    let late = sleep(query.wait + jitter(query.wait));
    tokio::pin!(late);
    let mut over = false;
    loop {
        let own = find(&app, &id)?;
        let mut shown = Own::from(&*own);
        // Of what is shown, however it is laid out.
        let hash = format!("{:016x}", xxh3_64(&serde_json::to_vec(&shown).unwrap_or_default()));
        if over || seen != Some(&hash) {
            shown.content_hash = Some(hash.clone());
            let mut response = plain(&query, &shown);
            let hash = HeaderValue::try_from(hash).map_err(|why| Failure::internal(why.to_string()))?;
            response.headers_mut().insert(CONTENT_HASH, hash);
            return Ok(response);
        }
        select! {
            () = waiter.changed() => {}
            () = &mut late => over = true,
            () = app.stop.cancelled() => over = true,
        }
    }
}

fn find(app: &App, id: &str) -> Result<Arc<Registration>, Failure> {
    instance(app.agent.view(), id).ok_or_else(|| Failure::absent(format!("unknown service ID: {id}")))
}

/// An instance with its checks and what they amount to.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Info<'a> {
    aggregated_status: Health,
    service: Option<Own<'a>>,
    checks: Vec<Check<'a, Definition>>,
}

/// The definition that answers about health carry in Consul: always its empty form.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Definition {
    interval: &'static str,
    timeout: &'static str,
    deregister_critical_service_after: &'static str,
    #[serde(rename = "HTTP")]
    http: &'static str,
    header: Option<()>,
    method: &'static str,
    body: &'static str,
    #[serde(rename = "TLSSkipVerify")]
    tls_skip_verify: bool,
    #[serde(rename = "TCP")]
    tcp: &'static str,
}

const NO_DEFINITION: Definition = Definition {
    interval: "0s",
    timeout: "0s",
    deregister_critical_service_after: "0s",
    http: "",
    header: None,
    method: "",
    body: "",
    tls_skip_verify: false,
    tcp: "",
};

impl<'a> Info<'a> {
    fn of(row: &'a Instance, registered: &'a NodeRows) -> Self {
        let mut checks = check::of_row(row, 0);
        // The mesh's word on this node is not the agent's own.
        checks.extend(check::of_node(row, registered, 0).into_iter().filter(|check| check.id != SERF));
        checks.sort_by(|a, b| a.id.cmp(&b.id));
        let worst = check::worst(&checks);
        let in_maintenance = checks.iter().any(|check| check.r#type == MAINTENANCE);
        Self {
            aggregated_status: if in_maintenance { Health::Maintenance } else { worst },
            service: Some(Own::from(&*row.registration)),
            checks: checks.into_iter().map(|check| Check { r#type: "", ..check }.defined(NO_DEFINITION)).collect(),
        }
    }
}

pub(super) async fn health_by_id(State(app): Shared, Tail(id): Tail, query: Query) -> Answer {
    let view = app.agent.view();
    let Ok(own) = find(&app, &id) else {
        let reason = format!("ServiceId {id} not found");
        let info = Info { aggregated_status: Health::Critical, service: None, checks: Vec::new() };
        return reply(&query, StatusCode::NOT_FOUND, &reason, &info);
    };
    let registered = NodeRows::of_view(view);
    let row = rows(view, own.name.as_str()).into_iter().find(|row| row.registration.id == own.id);
    let row = row.ok_or_else(|| Failure::internal("the registration is not published yet; ask again"))?;
    let info = Info::of(&row, &registered);
    reply(&query, code(info.aggregated_status), info.aggregated_status.as_str(), &info)
}

pub(super) async fn health_by_name(State(app): Shared, Tail(name): Tail, query: Query) -> Answer {
    let view = app.agent.view();
    let registered = NodeRows::of_view(view);
    let rows = rows(view, &name).into_iter().filter(|row| row.registration.foreign().is_none());
    let rows: Vec<_> = rows.collect();
    let mut all: Vec<_> = rows.iter().map(|row| Info::of(row, &registered)).collect();
    all.sort_by(|a, b| a.service.as_ref().map(|own| own.id).cmp(&b.service.as_ref().map(|own| own.id)));
    match all.iter().map(|info| info.aggregated_status).max() {
        Some(worst) => reply(&query, code(worst), worst.as_str(), &all),
        None => reply(&query, StatusCode::NOT_FOUND, &format!("ServiceName {name} Not Found"), &all),
    }
}

/// The status that load balancers understand.
fn code(health: Health) -> StatusCode {
    match health {
        Health::Passing => StatusCode::OK,
        Health::Warning => StatusCode::TOO_MANY_REQUESTS,
        Health::Critical | Health::Maintenance => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn reply<T: Serialize>(query: &Query, code: StatusCode, reason: &str, shown: &T) -> Answer {
    let mut response = if query.text("format") == Some("text") {
        let mut response = Response::new(Body::from(reason.to_owned()));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        response
    } else {
        plain(query, shown)
    };
    *response.status_mut() = code;
    // A name that no header can hold is left away.
    if let Ok(reason) = HeaderValue::try_from(reason) {
        response.headers_mut().insert(REASON, reason);
    }
    Ok(response)
}

const CONTENT_HASH: HeaderName = HeaderName::from_static("x-consul-contenthash");
const REASON: HeaderName = HeaderName::from_static("x-consul-reason");
