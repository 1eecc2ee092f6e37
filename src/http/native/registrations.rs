//! `/api/v1/registrations`: what this node publishes. What is read here can be written back as it is.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    agent::Over,
    http::{Answer, App, Problem, Shared, body::Parsed, change::change, consul::is_reserved, eureka::withdrawn},
    mesh::Done,
    model::{
        CheckDraft, ConsulDraft, Host, InstanceId, Port, PortName, Registration, RegistrationDraft, ServiceName, Tag,
        Weight,
    },
};

use super::{
    openapi::Api,
    params::{Params, Segments, word},
};

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Registration")]
struct Row<'a> {
    id: &'a InstanceId,
    name: &'a ServiceName,
    address: Option<&'a Host>,
    port: Option<Port>,
    ports: &'a BTreeMap<PortName, Port>,
    tags: &'a [Tag],
    meta: &'a BTreeMap<String, String>,
    weight: Weight,
    #[serde(skip_serializing_if = "Option::is_none")]
    warning_weight: Option<Weight>,
    priority: u16,
    checks: Vec<CheckDraft>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consul: Option<ConsulDraft>,
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
            warning_weight: own.warning_weight,
            priority: own.priority,
            checks: own.checks.iter().map(CheckDraft::from).collect(),
            consul: own.echo.as_deref().and_then(ConsulDraft::of),
        }
    }
}

pub(super) async fn all(State(app): Shared, params: Params) -> Answer {
    params.end()?;
    let mut own = app.agent.view().registrations();
    // Rows that stand for something else than an instance are nobody's registrations.
    own.retain(|own| !own.has_role());
    Ok(Json(own.iter().map(|own| Row::from(&**own)).collect::<Vec<_>>()).into_response())
}

pub(super) async fn one(State(app): Shared, Segments(id): Segments<String>, headers: HeaderMap) -> Answer {
    let id = word("id", &id)?;
    match app.agent.view().registration(&id).filter(|own| !own.has_role()) {
        Some(own) if names(&unwanted(&headers), Some(&own)) => {
            Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, mark(&own))]).into_response())
        }
        Some(own) => Ok(respond(StatusCode::OK, &own)),
        None => Err(unknown(&id)),
    }
}

fn unknown(id: &InstanceId) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("no registration {id:?} on this node"))
}

/// 201 when it is new, 200 when it was there, changed or not. Either way it is on disk.
pub(super) async fn put(
    State(app): Shared,
    Segments(id): Segments<String>,
    headers: HeaderMap,
    Parsed(draft): Parsed<RegistrationDraft>,
) -> Answer {
    let registration = build(id, draft)?;
    if is_reserved(app.agent.view(), &registration.id) {
        return Err(Problem::field("id", "is kept for rows of our own; choose another"));
    }
    let over = precondition(&app, &registration.id, &headers)?;
    let mut response = respond(StatusCode::OK, &registration);
    if app.agent.put_over(registration, over).await? == Done::Created {
        *response.status_mut() = StatusCode::CREATED;
    }
    Ok(response)
}

pub(super) async fn delete(State(app): Shared, Segments(id): Segments<String>, headers: HeaderMap) -> Answer {
    let id = word("id", &id)?;
    change(&app, &id, |before| {
        let own = before.filter(|own| !own.is_taken_back());
        if own.is_some_and(Registration::has_role) {
            return Err(unknown(&id));
        }
        precondition(&app, &id, &headers)?;
        withdrawn(&app, own.ok_or_else(|| unknown(&id))?)
    })
    .await?;
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
    (status, [(header::ETAG, mark(registration))], Json(Row::from(registration))).into_response()
}

/// What tells a registration from what it was or will be (RFC 9110 section 8.8.3).
fn mark(registration: &Registration) -> String {
    let text = serde_json::to_vec(&Row::from(registration)).unwrap_or_default();
    format!("\"{:016x}\"", xxh3_64(&text))
}

/// What a write is to find, by its `If-Match` and `If-None-Match` (RFC 9110 section 13.1).
fn precondition(app: &App, id: &InstanceId, headers: &HeaderMap) -> Result<Over, Problem> {
    let (wanted, unwanted) = (tags(headers, header::IF_MATCH), unwanted(headers));
    let present = app.agent.view().row(id);
    let found = present.as_deref().filter(|own| !own.is_taken_back());
    if names(&unwanted, found) || !wanted.is_empty() && !names(&wanted, found) {
        return Err(crate::agent::Refused::Outdated(id.clone()).into());
    }
    // What was looked at here must be there still when the write gets its turn.
    Ok(match present {
        _ if wanted.is_empty() && unwanted.is_empty() => Over::Anything,
        Some(present) => Over::This(present),
        None => Over::Nothing,
    })
}

fn tags(headers: &HeaderMap, name: HeaderName) -> Vec<&str> {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).collect()
}

/// What is not to be found; here a weak tag is as good as a strong one (RFC 9110 section 13.1.2).
fn unwanted(headers: &HeaderMap) -> Vec<&str> {
    tags(headers, header::IF_NONE_MATCH).into_iter().map(|tag| tag.strip_prefix("W/").unwrap_or(tag)).collect()
}

/// Whether one of these tags names what is there.
fn names(tags: &[&str], present: Option<&Registration>) -> bool {
    present.map(mark).is_some_and(|mark| tags.iter().any(|tag| *tag == "*" || *tag == mark))
}

/// For the OpenAPI document.
pub(super) fn describe(api: &mut Api) {
    const ONE: &str = "/api/v1/registrations/{id}";
    api.get("/api/v1/registrations", "What this node registers.").answers::<Vec<Row<'_>>>(200, "By id.");
    api.get(ONE, "One registration of this node.")
        .header("If-None-Match", "Only if it is not what has this ETag; else 304.")
        .answers::<Row<'_>>(200, "As it can be written back.")
        .empty(304, "It is what has that ETag still.");
    let over = "Only over what has this ETag, or with `*` over anything; else 412 (RFC 9110 section 13.1).";
    api.put(ONE, "Registers or changes an instance of this node.")
        .header("If-Match", over)
        .header("If-None-Match", "With `*`: only where nothing is registered yet; else 412.")
        .takes::<RegistrationDraft>()
        .answers::<Row<'_>>(
            200,
            "It was there, and is now as asked; it is stored durably, and on its way to the others.",
        )
        .answers::<Row<'_>>(201, "It is new; it is stored durably, and on its way to the others.");
    api.delete(ONE, "Withdraws an instance of this node.").header("If-Match", over).empty(204, "It is gone.");
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"{
        "id": "web-1", "name": "web", "address": "10.0.0.9", "port": 8080, "ports": {"admin": 9000}, "tags": ["v2"],
        "meta": {"k": "v"}, "weight": 3, "priority": 2, "checks": [
            {"ttl": "30s", "id": "beat", "name": "Beat", "rise": 2, "fall": 3, "initial": "passing", "deregister_after": "600s"},
            {"http": "https://127.0.0.1:8443/health", "id": "http-2", "name": "http-2", "interval": "100ms",
             "timeout": "1s", "rise": 1, "fall": 1, "method": "HEAD", "headers": {"host": "web"}, "status": ["200-299"],
             "redirects": 0, "tls": {"ca": "/ca.pem", "verify": true}}]}"#;

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
