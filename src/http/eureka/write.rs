//! Registering, renewing, cancelling, and an operator's word on a status. Who is not known is told 404, and registers again.

use std::sync::Arc;

use axum::{
    extract::{Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
};
use serde_json::Value;

use super::{
    instance::{self, DIRTY, LEASE},
    read::absent,
    xml,
};
use crate::{
    http::{
        Answer, App, Problem, Shared, body,
        change::{Next, change},
        native::Segments,
        word::{Heard, Words, said},
    },
    model::{CheckName, Health, Registration},
};

type One = Segments<(String, String)>;
type Pairs = Query<Vec<(String, String)>>;

/// One of this node's own registrations that came in Eureka's words.
fn find(heard: Heard<'_>, name: &str, id: &str) -> Result<Arc<Registration>, Problem> {
    let own = instance::id(name, id).ok().and_then(|own| heard.registration(&own));
    own.filter(|own| instance::is_ours(own)).ok_or_else(|| absent(id))
}

pub(super) async fn register(State(app): Shared, Segments(name): Segments<String>, request: Request) -> Answer {
    let is_xml = says_xml(request.headers());
    let bytes = body::collect(request.into_body()).await?;
    let document = parse(&bytes, is_xml)?;
    let (id, heard) = (instance::id_of(&name, &document)?, Heard::of(&app)?);
    // What takes it out of service comes with it, unless it had gone.
    let mut maintenance = None;
    change(&app, &id, |before| {
        let asked = instance::read(&name, &document, before)?;
        let words = Words::on(heard, &asked);
        // One that has another address now is what it was all the same.
        let was = before.map(|before| Words::on(heard, before));
        let last = words.last().or_else(|| was.as_ref()?.last());
        let has_gone = last.is_some_and(|last| last.is_taken_back());
        let elsewhere = words.elsewhere().map(|row| row.report.maintenance.clone());
        maintenance = if has_gone { Some(None) } else { elsewhere };
        let asked = instance::kept(asked, last.map(|last| &**last))?;
        Ok::<_, Problem>(put(heard, asked))
    })
    .await?;
    if let Some(reason) = maintenance {
        app.agent.maintain(Some(&id), reason.as_deref()).await?;
    }
    // Who registers again lives.
    app.agent.report(&id, &lease()?, Health::Passing, "").await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn says_xml(headers: &HeaderMap) -> Option<bool> {
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?.to_ascii_lowercase();
    if kind.contains("xml") { Some(true) } else { kind.contains("json").then_some(false) }
}

/// A body in either form; where no header says in which, its first letter does.
pub(super) fn parse(bytes: &[u8], is_xml: Option<bool>) -> Result<Value, Problem> {
    let is_xml = is_xml.unwrap_or_else(|| bytes.trim_ascii_start().starts_with(b"<"));
    if !is_xml {
        return serde_json::from_slice(bytes).map_err(|why| Problem::field("body", &format!("is not JSON: {why}")));
    }
    let text = str::from_utf8(bytes).map_err(|_| Problem::field("body", "is not UTF-8"))?;
    xml::parse(text).map_err(|why| Problem::field("body", &format!("is not XML of an instance: {why}")))
}

/// Refuses what is about a client whose last word was said elsewhere: its lease is there.
fn refuse_elsewhere(heard: Heard<'_>, own: &Registration, id: &str) -> Result<(), Problem> {
    let words = Words::on(heard, own);
    let Some(last) = words.elsewhere() else { return Ok(()) };
    if last.registration.is_taken_back() {
        return Err(absent(id));
    }
    let why = format!("the lease of {id:?} is with {} now: ask that agent, or register here", last.node.name);
    Err(Problem::new(StatusCode::NOT_FOUND, why))
}

/// A client that has changed since it registered is sent to register again, as by Eureka; so is one that has come back from
/// another agent, whose word would be the last one otherwise.
pub(super) async fn renew(State(app): Shared, Segments((name, id)): One, Query(pairs): Pairs) -> Answer {
    let heard = Heard::of(&app)?;
    let own = find(heard, &name, &id)?;
    refuse_elsewhere(heard, &own, &id)?;
    let moment = |text: &str| text.parse::<u64>().ok();
    let told = pairs.iter().find(|(key, _)| key == DIRTY).and_then(|(_, text)| moment(text));
    if let (Some(told), Some(known)) = (told, instance::word(&own, DIRTY).and_then(moment))
        && told > known
    {
        return Err(absent(&id));
    }
    app.agent.report(&own.id, &lease()?, Health::Passing, "").await?;
    Ok(StatusCode::OK.into_response())
}

pub(super) async fn cancel(State(app): Shared, Segments((name, id)): One) -> Answer {
    let own = find(Heard::of(&app)?, &name, &id)?;
    change(&app, &own.id, |before| withdrawn(&app, standing(before, &id)?)).await?;
    Ok(StatusCode::OK.into_response())
}

/// What becomes of a registration that is withdrawn, by whichever face: a last word, where the lease that another agent
/// granted the same client would show instead.
pub(in crate::http) fn withdrawn(app: &App, own: &Registration) -> Result<Next, Problem> {
    if own.subject().is_none() {
        return Ok(Next::Gone);
    }
    let heard = Heard::of(app)?;
    if !instance::is_ours(own) {
        return Ok(Next::Gone);
    }
    let words = Some(Words::on(heard, own)).filter(|words| words.elsewhere().is_none());
    let last = words.and_then(|words| instance::gone(own, words.others()));
    Ok(last.map_or(Next::Gone, |last| put(heard, last)))
}

/// What was registered in Eureka's words and has not gone.
fn standing<'a>(before: Option<&'a Registration>, id: &str) -> Result<&'a Registration, Problem> {
    before.filter(|own| instance::is_ours(own) && !own.is_taken_back()).ok_or_else(|| absent(id))
}

/// `PUT …/status?value=OUT_OF_SERVICE`
pub(super) async fn take_over(State(app): Shared, Segments((name, id)): One, Query(pairs): Pairs) -> Answer {
    let Some((_, status)) = pairs.iter().find(|(key, _)| key == "value") else {
        return Err(Problem::field("value", "is missing: ?value=OUT_OF_SERVICE"));
    };
    edit(&app, &name, &id, |own| instance::overridden(own, Some(status))).await
}

/// `DELETE …/status`: what the client says counts again.
pub(super) async fn hand_back(State(app): Shared, Segments((name, id)): One) -> Answer {
    edit(&app, &name, &id, |own| instance::overridden(own, None)).await
}

/// `PUT …/metadata?key=value`
pub(super) async fn note(State(app): Shared, Segments((name, id)): One, Query(pairs): Pairs) -> Answer {
    let noted = |own: &Registration| {
        let mut changed = own.clone();
        changed.meta.extend(pairs.iter().cloned());
        Ok(changed)
    };
    edit(&app, &name, &id, noted).await
}

/// Changes one of this node's own registrations that came in Eureka's words.
async fn edit(
    app: &App,
    name: &str,
    id: &str,
    next: impl Fn(&Registration) -> Result<Registration, Problem>,
) -> Answer {
    let heard = Heard::of(app)?;
    let own = find(heard, name, id)?;
    let next = |before: Option<&Registration>| {
        let own = standing(before, id)?;
        refuse_elsewhere(heard, own, id)?;
        Ok::<_, Problem>(put(heard, next(own)?))
    };
    change(app, &own.id, next).await?;
    Ok(StatusCode::OK.into_response())
}

/// Has a registration put as the last word on its instance.
fn put(heard: Heard<'_>, registration: Registration) -> Next {
    Next::Put(said(heard, registration))
}

fn lease() -> Result<CheckName, Problem> {
    CheckName::try_from(LEASE).map_err(|wrong| Problem::field("lease", &wrong.to_string()))
}
