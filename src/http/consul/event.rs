//! `/v1/event/…`: words that reach every node once and change nothing. Each is a row of the node that fired it, so that
//! it travels as all rows do; a node keeps its last few.

use std::{collections::BTreeMap, sync::Arc};

use axum::{extract::State, http::StatusCode};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use regex::RegexBuilder;
use serde::Serialize;

use super::{
    failure::{Answer, Failure},
    query::{Query, Tail},
    read::{json, plain, read},
};
use crate::{
    agent::{Topic, View},
    http::{App, Shared, body},
    model::{Echo, MAX_META_BYTES, Registration, Role},
};

/// An event as it is shown. A payload that is empty is null.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Event<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    payload: Option<String>,
    node_filter: &'a str,
    service_filter: &'a str,
    tag_filter: &'a str,
    version: u8,
    #[serde(rename = "LTime")]
    time: u64,
}

impl<'a> Event<'a> {
    fn of(row: &'a Registration) -> Option<Self> {
        row.echo.as_ref().filter(|echo| echo.role == Some(Role::Event))?;
        let word = |key: &str| row.meta.get(key).map_or("", String::as_str);
        Some(Self {
            id: row.id.as_str().strip_prefix(PREFIX)?,
            name: word("name"),
            payload: Some([word("payload"), word("more")].concat()).filter(|payload| !payload.is_empty()),
            node_filter: word("node"),
            service_filter: word("service"),
            tag_filter: word("tag"),
            version: 1,
            time: word("time").parse().ok()?,
        })
    }

    /// Whether it is meant for this node.
    fn is_for(&self, app: &App) -> bool {
        // What was fired with a wrong pattern by somebody else is for nobody.
        let matches = |pattern: &str, text: &str| self::pattern(pattern).is_ok_and(|pattern| pattern.is_match(text));
        if !self.node_filter.is_empty() && !matches(self.node_filter, app.agent.config().node.as_str()) {
            return false;
        }
        self.service_filter.is_empty()
            || app.agent.view().registrations().iter().any(|own| {
                let has_tag = || own.tags.iter().any(|tag| matches(self.tag_filter, tag.as_str()));
                matches(self.service_filter, own.name.as_str()) && (self.tag_filter.is_empty() || has_tag())
            })
    }
}

pub(super) async fn fire(State(app): Shared, Tail(name): Tail, query: Query, payload: Payload) -> Answer {
    let filters = ["node", "service", "tag"].map(|key| (key, query.text(key).unwrap_or_default().to_owned()));
    for (key, text) in &filters {
        pattern(text).map_err(|why| Failure::bad(format!("Invalid {key} filter: {why}")))?;
    }
    if !filters[2].1.is_empty() && filters[1].1.is_empty() {
        return Err(Failure::bad("Cannot provide tag filter without service filter"));
    }
    let view = app.agent.view();
    let time = events(view, |rows| rows.iter().map(|event| event.time).max()).unwrap_or(0) + 1;
    let random = getrandom::u64().map_err(|why| Failure::internal(why.to_string()))?;
    let id = super::node::uuid(crate::model::NodeId(random));
    let mut row = Registration::new(NAME, 1)?.id(format!("{PREFIX}{id}").as_str().try_into()?);
    row.port = None;
    row.echo = Some(Arc::new(Echo { role: Some(Role::Event), ..Echo::default() }));
    row.meta = filters.into_iter().map(|(key, text)| (key.to_owned(), text)).collect::<BTreeMap<_, _>>();
    // One pair of meta data does not hold the largest.
    let mut payload = BASE64_STANDARD.encode(&payload.0);
    let more = payload.split_off(payload.len().min(MAX_META_BYTES.1));
    let words = [("name", name), ("payload", payload), ("more", more), ("time", time.to_string())];
    row.meta.extend(words.map(|(key, text)| (key.to_owned(), text)));
    row.meta.retain(|_, text| !text.is_empty());
    app.agent.put(row.clone()).await?;
    forget(&app).await?;
    Event::of(&row).map(|event| plain(&query, &event)).ok_or_else(|| Failure::internal("the event cannot be shown"))
}

/// Withdraws this node's oldest events beyond the few that it keeps.
async fn forget(app: &App) -> Result<(), Failure> {
    let mut own = app.agent.view().registrations();
    own.retain(|row| Event::of(row).is_some());
    own.sort_by_key(|row| Event::of(row).map(|event| event.time));
    for old in own.iter().take(own.len().saturating_sub(KEPT)) {
        super::register::remove(app, &old.id).await?;
    }
    Ok(())
}

pub(super) async fn list(State(app): Shared, query: Query) -> Answer {
    let name = query.text("name");
    read(&app, &query, Topic::Service(NAME.into()), |_| {
        events(app.agent.view(), |mut all| {
            all.retain(|event| name.is_none_or(|name| event.name == name) && event.is_for(&app));
            all.sort_by(|a, b| (a.time, a.id).cmp(&(b.time, b.id)));
            json(&query, &all)
        })
    })
    .await
}

/// All events there are, in no order.
fn events<T>(view: &View, then: impl FnOnce(Vec<Event<'_>>) -> T) -> T {
    let found = view.service(NAME);
    let rows = found.iter().flat_map(|service| service.rows());
    then(rows.filter_map(|row| Event::of(&row.registration)).collect())
}

fn pattern(text: &str) -> Result<regex::Regex, regex::Error> {
    RegexBuilder::new(text).size_limit(MAX_PATTERN).build()
}

/// The words that go with an event, any bytes.
pub(super) struct Payload(Bytes);

impl<S: Sync> axum::extract::FromRequest<S> for Payload {
    type Rejection = Failure;

    async fn from_request(request: axum::extract::Request, _: &S) -> Result<Self, Failure> {
        let bytes = body::collect(request.into_body()).await?;
        if bytes.len() > MAX_PAYLOAD {
            let why = format!("the payload is {} bytes; an event carries {MAX_PAYLOAD}", bytes.len());
            return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, why));
        }
        Ok(Self(bytes))
    }
}

/// The name under which events stand in the books.
const NAME: &str = "hobnob-events";
/// Begins the ids of their rows.
pub(super) const PREFIX: &str = "@event/";
/// As many of its own as one node keeps.
const KEPT: usize = 16;
/// As much as Serf lets an event weigh as a whole.
const MAX_PAYLOAD: usize = 512;
/// What a pattern may take once compiled.
const MAX_PATTERN: usize = 64 * 1024;
