//! Fetching: all applications, one, one instance, and what answers to a virtual name.

use std::collections::BTreeMap;

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde_json::{Value, json};

use super::{instance, respond};
use crate::{
    agent::Service,
    http::{Answer, App, Problem, Shared, native::Segments},
    mesh::Instance,
};

/// What a service shows to Eureka's clients, by the ids they know.
fn shown(service: &Service) -> impl Iterator<Item = &Instance> {
    // A client that moved to another node leaves a lease behind there: of one id the latest is meant.
    let mut latest = BTreeMap::<_, &Instance>::new();
    for row in service.instances.iter().filter(|row| !instance::is_over(row)) {
        let known = latest.entry(instance::name(row)).or_insert(row);
        *known = [*known, row].into_iter().max_by_key(|row| row.precedence()).unwrap_or(row);
    }
    latest.into_values()
}

/// Applications with those of their instances that are wanted, and how many there are of each status.
fn applications(app: &App, wanted: impl Fn(&Instance) -> bool) -> Value {
    let mut counts = BTreeMap::<String, usize>::new();
    let mut all = Vec::new();
    for service in app.agent.view().services() {
        let mut instances = Vec::new();
        for row in shown(&service).filter(|row| wanted(row)) {
            *counts.entry(instance::status(row).to_owned()).or_default() += 1;
            instances.push(instance::show(row));
        }
        if !instances.is_empty() {
            all.push(json!({"name": service.name.as_str().to_ascii_uppercase(), "instance": instances}));
        }
    }
    let hash: String = counts.iter().map(|(status, count)| format!("{status}_{count}_")).collect();
    json!({"applications": {"versions__delta": "1", "apps__hashcode": hash, "application": all}})
}

pub(super) async fn all(State(app): Shared, headers: HeaderMap) -> Answer {
    app.ready()?;
    Ok(respond(&headers, &applications(&app, |_| true)))
}

pub(super) async fn application(State(app): Shared, Segments(name): Segments<String>, headers: HeaderMap) -> Answer {
    app.ready()?;
    let service = app.agent.view().service(&name);
    let instances: Vec<_> = service.iter().flat_map(|service| shown(service)).map(instance::show).collect();
    if instances.is_empty() {
        return Err(Problem::new(StatusCode::NOT_FOUND, format!("nobody offers {name:?}")));
    }
    let shown = json!({"application": {"name": name.to_ascii_uppercase(), "instance": instances}});
    Ok(respond(&headers, &shown))
}

pub(super) async fn instance(
    State(app): Shared,
    Segments((name, id)): Segments<(String, String)>,
    headers: HeaderMap,
) -> Answer {
    app.ready()?;
    let service = app.agent.view().service(&name);
    let found = service.iter().flat_map(|service| shown(service)).find(|row| instance::name(row) == id);
    let found = found.map(instance::show).ok_or_else(|| absent(&id))?;
    Ok(respond(&headers, &json!({"instance": found})))
}

pub(super) async fn anywhere(State(app): Shared, Segments(id): Segments<String>, headers: HeaderMap) -> Answer {
    app.ready()?;
    let services = app.agent.view().services();
    let found = services.iter().flat_map(|service| shown(service)).find(|row| instance::name(row) == id);
    let found = found.map(instance::show).ok_or_else(|| absent(&id))?;
    Ok(respond(&headers, &json!({"instance": found})))
}

pub(super) async fn vip(State(app): Shared, Segments(name): Segments<String>, headers: HeaderMap) -> Answer {
    app.ready()?;
    Ok(respond(&headers, &by_vip(&app, &name, "vipAddress")))
}

pub(super) async fn secure_vip(State(app): Shared, Segments(name): Segments<String>, headers: HeaderMap) -> Answer {
    app.ready()?;
    Ok(respond(&headers, &by_vip(&app, &name, "secureVipAddress")))
}

fn by_vip(app: &App, name: &str, key: &str) -> Value {
    applications(app, |row| instance::vips(row, key).any(|vip| vip.eq_ignore_ascii_case(name)))
}

/// There is no such instance.
pub(super) fn absent(id: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("there is no instance {id:?}: register it"))
}
