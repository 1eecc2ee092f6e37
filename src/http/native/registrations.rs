//! `/api/v1/registrations`: what this node publishes. What is read here can be written back as it is.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Serialize, Serializer};

use crate::{
    http::{Answer, Problem, Shared, body::Parsed},
    mesh::Done,
    model::{
        CheckKind, CheckName, CheckSpec, Health, Host, InstanceId, Port, PortName, Registration, RegistrationDraft,
        ServiceName, Tag, Weight,
    },
};

use super::params::{Params, Segments, word};

#[derive(Serialize)]
struct Row<'a> {
    id: &'a InstanceId,
    name: &'a ServiceName,
    address: Option<&'a Host>,
    port: Option<Port>,
    ports: &'a BTreeMap<PortName, Port>,
    tags: &'a [Tag],
    meta: &'a BTreeMap<String, String>,
    weight: Weight,
    priority: u16,
    checks: Vec<Check<'a>>,
}

/// A check as people write it: the kind is the key.
#[derive(Serialize)]
struct Check<'a> {
    name: &'a CheckName,
    #[serde(serialize_with = "seconds")]
    ttl: Duration,
    rise: u32,
    fall: u32,
    initial: Option<Health>,
    #[serde(serialize_with = "maybe_seconds")]
    deregister_after: Option<Duration>,
}

impl<'a> From<&'a Registration> for Row<'a> {
    fn from(own: &'a Registration) -> Self {
        Self {
            id: &own.id,
            name: &own.name,
            address: own.address.as_ref(),
            port: own.port,
            ports: &own.ports,
            tags: &own.tags,
            meta: &own.meta,
            weight: own.weight,
            priority: own.priority,
            checks: own.checks.iter().map(Check::from).collect(),
        }
    }
}

impl<'a> From<&'a CheckSpec> for Check<'a> {
    fn from(spec: &'a CheckSpec) -> Self {
        let CheckKind::Ttl(ttl) = spec.kind;
        let CheckSpec { name, rise, fall, initial, deregister_after, .. } = spec;
        Self { name, ttl, rise: *rise, fall: *fall, initial: *initial, deregister_after: *deregister_after }
    }
}

/// `30s`, `0.1s`: the shortest text that reads back as the same.
fn seconds<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{}s", duration.as_secs_f64()))
}

fn maybe_seconds<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => seconds(duration, to),
        None => to.serialize_none(),
    }
}

pub(super) async fn all(State(app): Shared, params: Params) -> Answer {
    params.end()?;
    let own = app.agent.view().registrations();
    Ok(Json(own.iter().map(|own| Row::from(&**own)).collect::<Vec<_>>()).into_response())
}

pub(super) async fn one(State(app): Shared, Segments(id): Segments<String>) -> Answer {
    let id = word("id", &id)?;
    match app.agent.view().registration(&id) {
        Some(own) => Ok(respond(StatusCode::OK, &own)),
        None => Err(Problem::new(StatusCode::NOT_FOUND, format!("no registration {id:?} on this node"))),
    }
}

/// 201 when it is new, 200 when it was there, changed or not. Either way it is on disk.
pub(super) async fn put(
    State(app): Shared,
    Segments(id): Segments<String>,
    Parsed(draft): Parsed<RegistrationDraft>,
) -> Answer {
    let registration = build(id, draft)?;
    let mut response = respond(StatusCode::OK, &registration);
    if app.agent.put(registration).await? == Done::Created {
        *response.status_mut() = StatusCode::CREATED;
    }
    Ok(response)
}

pub(super) async fn delete(State(app): Shared, Segments(id): Segments<String>) -> Answer {
    app.agent.remove(&word("id", &id)?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The path names the registration; a body may repeat that name, not change it.
fn build(id: String, draft: RegistrationDraft) -> Result<Registration, Problem> {
    if draft.id.as_ref().is_some_and(|other| *other != id) {
        return Err(Problem::field("id", "is another one than in the path; leave it away"));
    }
    Ok(RegistrationDraft { id: Some(id), ..draft }.build()?)
}

fn respond(status: StatusCode, registration: &Registration) -> Response {
    (status, Json(Row::from(registration))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"{
        "id": "web-1", "name": "web", "address": "10.0.0.9", "port": 8080, "ports": {"admin": 9000}, "tags": ["v2"],
        "meta": {"k": "v"}, "weight": 3, "priority": 2, "checks": [
            {"name": "beat", "ttl": "30s", "rise": 2, "fall": 3, "initial": "passing", "deregister_after": "600s"},
            {"name": "ttl-2", "ttl": "0.1s", "rise": 1, "fall": 1, "initial": null, "deregister_after": null}]}"#;

    #[test]
    fn what_is_read_can_be_written_back() {
        let built = build("web-1".into(), serde_json::from_str(FULL).unwrap()).unwrap();
        let shown = serde_json::to_value(Row::from(&built)).unwrap();
        assert_eq!(shown, serde_json::from_str::<serde_json::Value>(FULL).unwrap());
        assert_eq!(build("web-1".into(), serde_json::from_value(shown).unwrap()).unwrap(), built);
    }

    #[test]
    fn the_path_names_the_registration() {
        let draft = |id: &str| serde_json::from_str(&format!(r#"{{"name": "web"{id}}}"#)).unwrap();
        assert_eq!(build("a/b".into(), draft("")).unwrap().id.as_str(), "a/b");
        let wrong = build("a".into(), draft(r#", "id": "b""#)).unwrap_err();
        assert_eq!(wrong, Problem::field("id", "is another one than in the path; leave it away"));
    }
}
