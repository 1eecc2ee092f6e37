//! `/v1/event/…`: words that reach every node once and change nothing. Each is a row of the node that fired it, so that
//! it travels as all rows do; a node keeps its last few.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use axum::{extract::State, http::StatusCode};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use regex::bytes::{Regex, RegexBuilder};
use serde::Serialize;

use super::{
    failure::{Answer, Failure},
    query::{Query, Tail},
    read::{json, plain, read},
};
use crate::{
    agent::{Topic, View},
    http::{App, Shared, body},
    model::{Echo, MAX_META_BYTES, NodeId, Registration, Role},
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
        let word = |key: &str| row.meta.get(key).map_or("", String::as_str);
        Some(Self {
            id: row.id.as_str().strip_prefix(PREFIX)?,
            name: word("name"),
            payload: Some([word("payload"), word("more")].concat()).filter(|payload| !payload.is_empty()),
            node_filter: word("node"),
            service_filter: word("service"),
            tag_filter: word("tag"),
            version: 1,
            time: time(row)?,
        })
    }
}

/// When a row was fired, as all nodes count; none if it is no event.
fn time(row: &Registration) -> Option<u64> {
    row.echo.as_ref().filter(|echo| echo.role == Some(Role::Event))?;
    row.meta.get("time")?.parse().ok()
}

/// Of all rows the events that count, oldest first. Who fires more than an honest node keeps is heard as that one is.
fn newest<'a>(rows: impl Iterator<Item = (NodeId, &'a Registration)>) -> Vec<Event<'a>> {
    let mut found: Vec<_> =
        rows.filter_map(|(owner, row)| Some((Reverse((time(row)?, &row.id)), owner, row))).collect();
    found.sort_unstable_by_key(|(place, ..)| *place);
    let mut kept: HashMap<NodeId, usize> = HashMap::new();
    found.retain(|(_, owner, _)| {
        let kept = kept.entry(*owner).or_default();
        *kept += 1;
        *kept <= KEPT
    });
    found.truncate(MAX_EVENTS);
    found.iter().rev().filter_map(|(.., row)| Event::of(row)).collect()
}

/// What filters are held against: this node, and each service on it with its tags.
struct Here<'a> {
    node: &'a str,
    services: BTreeMap<&'a str, BTreeSet<&'a str>>,
}

impl<'a> Here<'a> {
    fn new(node: &'a str, own: impl Iterator<Item = &'a Registration>) -> Self {
        let mut services = BTreeMap::<_, BTreeSet<_>>::new();
        for row in own {
            services.entry(row.name.as_str()).or_default().extend(row.tags.iter().map(|tag| tag.as_str()));
        }
        Self { node, services }
    }

    /// Leaves of these events, of which the oldest comes first, those that are meant for this node. What somebody else has
    /// fired with a wrong pattern is for nobody. Where the services' filters of the newer ones have cost too much, those of
    /// the older ones are not looked at, and they go unheard, as they did not when they were new: an error instead would
    /// hide all events from a client for as long as the costly ones stand, and one unfiltered have it act on others' words.
    fn keep_heard(&self, events: &mut Vec<Event<'_>>) {
        let (mut left, mut known) = (MAX_COMPARED_IN_ALL, HashMap::new());
        let mut hears = |event: &Event<'_>| self.matches(event, &mut left).unwrap_or(false);
        // Most that fire again and again filter by the same words.
        let heard = events.iter().rev().map(|event| {
            *known.entry([event.node_filter, event.service_filter, event.tag_filter]).or_insert_with(|| hears(event))
        });
        let mut heard = heard.collect::<Vec<_>>();
        events.retain(|_| heard.pop().unwrap_or_default());
    }

    fn matches(&self, event: &Event<'_>, left_in_all: &mut usize) -> Result<bool, String> {
        if !event.node_filter.is_empty() && !pattern(event.node_filter)?.is_match(self.node.as_bytes()) {
            return Ok(false);
        }
        if event.service_filter.is_empty() {
            return Ok(true);
        }
        let (service, tag) = (pattern(event.service_filter)?, pattern(event.tag_filter)?);
        let most = MAX_COMPARED.min(*left_in_all);
        let mut left = most;
        let mut is_match = |pattern: &Regex, text: &str| {
            let is_within = text.len() <= left;
            left = left.saturating_sub(text.len());
            is_within && pattern.is_match(text.as_bytes())
        };
        let is_heard = self.services.iter().any(|(name, tags)| {
            is_match(&service, name) && (event.tag_filter.is_empty() || tags.iter().any(|text| is_match(&tag, text)))
        });
        *left_in_all -= most - left;
        Ok(is_heard)
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
    // Whoever has a place in the mesh may have said any number.
    let time = events(view, |all| all.last().map_or(0, |event| event.time)).saturating_add(1);
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
    own.retain(|row| time(row).is_some());
    own.sort_by_key(|row| time(row));
    for old in own.iter().take(own.len().saturating_sub(KEPT)) {
        super::register::remove(app, &old.id).await?;
    }
    Ok(())
}

pub(super) async fn list(State(app): Shared, query: Query) -> Answer {
    let name = query.text("name");
    read(&app, &query, Topic::Service(NAME.into()), |_| {
        let own = app.agent.view().registrations();
        let here = Here::new(app.agent.config().node.as_str(), own.iter().map(|row| &**row));
        events(app.agent.view(), |mut all| {
            all.retain(|event| name.is_none_or(|name| event.name == name));
            here.keep_heard(&mut all);
            json(&query, &all)
        })
    })
    .await
}

/// The events that count, oldest first.
fn events<T>(view: &View, then: impl FnOnce(Vec<Event<'_>>) -> T) -> T {
    let found = view.service(NAME);
    let rows = found.iter().flat_map(|service| service.rows());
    then(newest(rows.map(|row| (row.owner, &*row.registration))))
}

/// A filter that costs little, whoever wrote it: by bytes, since classes of Unicode's take milliseconds to compile.
fn pattern(text: &str) -> Result<Regex, String> {
    if text.len() > MAX_PATTERN {
        return Err(format!("it is longer than {MAX_PATTERN} bytes"));
    }
    if has_unicode_flag(text) {
        return Err("a filter knows letters of ASCII alone: the flag u is not taken".into());
    }
    RegexBuilder::new(text).unicode(false).size_limit(MAX_COMPILED).build().map_err(|why| why.to_string())
}

/// Whether a pattern could switch on again what is switched off for it, by `(?u)` or `(?u:`. Where the group begins is not
/// looked for, since blanks and comments may stand there: an `a?u)` is taken for it too.
fn has_unicode_flag(text: &str) -> bool {
    text.split('?').skip(1).any(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphabetic() && c != '-').unwrap_or(rest.len());
        rest[end..].starts_with([')', ':']) && rest[..end].contains('u')
    })
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
/// Events that are looked at for one answer, the newest: as many as Consul keeps.
const MAX_EVENTS: usize = 256;
/// Bytes of a filter.
const MAX_PATTERN: usize = 128;
/// What a filter may take once compiled: room for so many bytes as they stand. The worst that was found takes 0.3 ms to
/// compile, and 2 µs for each byte that it is held against.
const MAX_COMPILED: usize = 5 << 10;
/// Bytes of this node's own services and tags that one event is held against, each name once; it is meant for none beyond.
const MAX_COMPARED: usize = 8 << 10;
/// And all events of one answer: the worst that one node may fire, and half as much besides, which takes 0.4 s. Where all
/// services and tags take 768 bytes together no events come to that.
const MAX_COMPARED_IN_ALL: usize = (KEPT + KEPT / 2) * MAX_COMPARED;

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str, time: u64, filters: [&str; 3]) -> Registration {
        let mut row = Registration::new(NAME, 1).unwrap().id(format!("{PREFIX}{id}").as_str().try_into().unwrap());
        row.echo = Some(Arc::new(Echo { role: Some(Role::Event), ..Echo::default() }));
        row.meta = ["node", "service", "tag"].map(str::to_owned).into_iter().zip(filters.map(str::to_owned)).collect();
        row.meta.insert("time".into(), time.to_string());
        row
    }

    #[test]
    fn an_event_is_for_whom_its_filters_name() {
        let mut web = Registration::new("web", 1).unwrap();
        web.tags = ["v1", "blue"].map(|tag| tag.try_into().unwrap()).into();
        let own = [web, Registration::new("db", 2).unwrap()];
        let here = Here::new("n1", own.iter());
        let long = "1|".repeat(64);
        for (filters, is_meant) in [
            (["", "", ""], true),
            (["n", "", ""], true),
            (["^(?i)N[0-9]$", "", ""], true),
            (["^x", "", ""], false),
            (["", "web", ""], true),
            (["", "^we$", ""], false),
            (["", "web", "^v1$"], true),
            (["", "db", "^v1$"], false),
            (["x", "web", ""], false),
            (["[", "", ""], false),
            (["", "web", "["], false),
            ([&long, "", ""], true),
            ([&format!("{long}1"), "", ""], false),
            (["(?u)n", "", ""], false),
            (["( ?x-iu: n)", "", ""], false),
        ] {
            assert_eq!(heard(&here, &[event("1", 1, filters)]).len() == 1, is_meant, "{filters:?}");
        }
    }

    /// When what is heard of these was fired.
    fn heard(here: &Here<'_>, rows: &[Registration]) -> Vec<u64> {
        let mut events = newest(rows.iter().enumerate().map(|(owner, row)| (NodeId(owner as u64), row)));
        here.keep_heard(&mut events);
        events.iter().map(|event| event.time).collect()
    }

    #[test]
    fn filters_cost_one_answer_no_more_than_a_few_however_many_there_are() {
        let row = |at: u64| Registration::new(format!("a{at:039}").as_str(), 1).unwrap();
        let own = (0..200).map(row).collect::<Vec<_>>();
        let here = Here::new("n1", own.iter());
        let by = |time: u64, filters: [&str; 3]| event(&time.to_string(), time, filters);
        let fired: Vec<_> = (0..10)
            .map(|time| by(time, ["n1", "", ""]))
            .chain((10..256).map(|time| by(time, ["", &format!("^a0*199$|{time}x"), ""])))
            .collect();
        assert_eq!(heard(&here, &fired), (0..10).chain(232..256).collect::<Vec<_>>(), "the newest");
        let same: Vec<_> = (0..256).map(|time| by(time, ["", "^a0*199$", ""])).collect();
        assert_eq!(heard(&here, &same).len(), 256);
    }

    #[test]
    fn a_filter_costs_little_or_is_refused() {
        for (text, is_taken) in [
            (&*"x".repeat(128), true),
            (&"x".repeat(129), false),
            ("^(web|db|cache)-[a-z]+-[0-9]{1,3}$", true),
            (r"(?i)^\w+\.\d$", true),
            ("colou?r(?:s)", true),
            (&format!("(?i){}", r"\w".repeat(20)), true),
            (&format!("(?iu){}", r"\w".repeat(61)), false),
            (&format!("(?iu:{})", r"[\w&&\W]".repeat(13)), false),
            (r"\pL", false),
            (".{0,400}x", false),
            ("(((a{1000}){1000}){1000}){1000}", false),
        ] {
            assert_eq!(pattern(text).is_ok(), is_taken, "{text}");
        }
    }

    #[test]
    fn whoever_fires_without_end_is_heard_as_one_who_does_not() {
        let row = |owner: u64, time: u64| (NodeId(owner), event(&format!("{owner}-{time}"), time, [""; 3]));
        let loud = (0..1000).map(|time| row(1, 1000 + time));
        let others = (2..40).flat_map(|owner| (1..20).map(move |time| row(owner, 20 * time + owner)));
        let rows: Vec<_> = others.chain(loud).collect();
        let heard = newest(rows.iter().map(|(owner, row)| (*owner, row)));
        assert!(heard.is_sorted_by_key(|event| event.time) && heard.len() == MAX_EVENTS);
        assert_eq!(heard.last().map(|event| event.time), Some(1999));
        assert_eq!(heard.iter().filter(|event| event.id.starts_with("1-")).count(), KEPT);
    }
}
