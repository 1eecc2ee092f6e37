//! `/v1/event/…`: words that reach every node once and change nothing. Each is a row of the node that fired it, so that
//! it travels as all rows do; a node keeps its last few.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use axum::{body::Body, extract::State, http::StatusCode};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use regex::bytes::{Regex, RegexBuilder};
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::{
    failure::{Answer, Failure},
    query::{Query, Tail},
    read::{json, marked, plain, settle},
};
use crate::{
    agent::{Topic, unix_millis},
    http::{App, Shared, body},
    model::{Echo, InstanceId, MAX_META_BYTES, NodeId, Registration, Role},
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
        let word = |key: &str| word(row, key);
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
}

fn word<'a>(row: &'a Registration, key: &str) -> &'a str {
    row.meta.get(key).map_or("", String::as_str)
}

fn is_event(row: &Registration) -> bool {
    row.id.as_str().starts_with(PREFIX) && row.echo.as_ref().is_some_and(|echo| echo.role == Some(Role::Event))
}

/// When a row was fired, as all nodes count; none if it is no event, or was fired later than `latest`. Whoever has a place
/// in the mesh may claim any number, and all count on from it: the clock bounds it, since no mesh has fired as many events
/// as there are milliseconds since 1970.
fn time(row: &Registration, latest: u64) -> Option<u64> {
    word(row, "time").parse().ok().filter(|time| is_event(row) && *time <= latest)
}

/// An event among others.
struct Fired<'a> {
    at: (u64, &'a InstanceId),
    owner: NodeId,
    /// How many its owner has fired since.
    turn: usize,
    row: &'a Arc<Registration>,
}

/// Of all rows the events that count, newest first. Who fires more than an honest node keeps is heard as that one is.
fn newest<'a>(rows: impl Iterator<Item = (NodeId, &'a Arc<Registration>)>, latest: u64) -> Vec<Fired<'a>> {
    let fired = |(owner, row): (_, &'a Arc<Registration>)| {
        Some(Fired { at: (time(row, latest)?, &row.id), owner, turn: 0, row })
    };
    let mut found: Vec<_> = rows.filter_map(fired).collect();
    found.sort_unstable_by_key(|event| Reverse(event.at));
    let mut kept: HashMap<NodeId, usize> = HashMap::new();
    for event in &mut found {
        let kept = kept.entry(event.owner).or_default();
        event.turn = *kept;
        *kept += 1;
    }
    found.retain(|event| event.turn < KEPT);
    found.truncate(MAX_EVENTS);
    found
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

    /// Of these events those that are meant for this node, oldest first. What somebody else has fired with a wrong pattern
    /// is for nobody. The newest of each owner come first, then the second newest: where services' filters have cost too
    /// much, the rest go unheard, and nobody's many filters cost another his few. An error instead would hide all events
    /// from a client for as long as the costly ones stand, and one unfiltered have it act on others' words.
    fn heard(&self, mut events: Vec<Fired<'_>>) -> Vec<Arc<Registration>> {
        let (mut left, mut known) = (MAX_COMPARED_IN_ALL, HashMap::new());
        events.sort_by_key(|event| event.turn);
        // Most that fire again and again filter by the same words.
        events.retain(|event| {
            let filters = ["node", "service", "tag"].map(|key| word(event.row, key));
            *known.entry(filters).or_insert_with(|| self.matches(filters, &mut left))
        });
        events.sort_unstable_by_key(|event| event.at);
        events.into_iter().map(|event| Arc::clone(event.row)).collect()
    }

    fn matches(&self, [node, service, tag]: [&str; 3], left_in_all: &mut usize) -> bool {
        if !node.is_empty() && !pattern(node).is_ok_and(|node| node.is_match(self.node.as_bytes())) {
            return false;
        }
        if service.is_empty() {
            return true;
        }
        let Some(rest) = left_in_all.checked_sub(COMPILING) else { return false };
        *left_in_all = rest;
        let (Ok(service), Ok(tags_match)) = (pattern(service), pattern(tag)) else { return false };
        let most = MAX_COMPARED.min(rest);
        let mut left = most;
        let mut is_match = |pattern: &Regex, text: &str| {
            let is_within = text.len() <= left;
            left = left.saturating_sub(text.len());
            is_within && pattern.is_match(text.as_bytes())
        };
        let is_heard = self.services.iter().any(|(name, tags)| {
            is_match(&service, name) && (tag.is_empty() || tags.iter().any(|text| is_match(&tags_match, text)))
        });
        *left_in_all -= most - left;
        is_heard
    }
}

/// What this node hears, until other events count or it has other services.
#[derive(Clone, Debug, Default)]
pub(in crate::http) struct Hearing {
    /// Of the events, and of this node's own services.
    marks: [u64; 2],
    /// Oldest first.
    events: Arc<[Arc<Registration>]>,
}

impl Hearing {
    /// What is heard now. One at a time finds out, beside the threads that answer, and for all who wait; who has gone
    /// meanwhile leaves that under way, and nobody else begins it.
    async fn now(app: &Arc<App>) -> Result<Self, Failure> {
        let marks = move |app: &App| [topic(), Topic::Own].map(|topic| app.agent.view().mark(&topic));
        let asked = marks(app);
        let mut kept = Arc::clone(&app.heard).lock_owned().await;
        if kept.marks.iter().zip(asked).all(|(kept, asked)| *kept >= asked) {
            return Ok(kept.clone());
        }
        let app = Arc::clone(app);
        let hear = move || {
            let (view, marks) = (app.agent.view(), marks(&app));
            let (own, found) = (view.registrations(), view.service(NAME));
            let here = Here::new(app.agent.config().node.as_str(), own.iter().map(|row| &**row));
            let rows = found.iter().flat_map(|service| service.rows()).map(|row| (row.owner, &row.registration));
            *kept = Self { marks, events: here.heard(newest(rows, unix_millis())).into() };
            kept.clone()
        };
        spawn_blocking(hear).await.map_err(|why| Failure::internal(why.to_string()))
    }
}

fn topic() -> Topic {
    Topic::Service(NAME.into())
}

pub(super) async fn fire(State(app): Shared, Tail(name): Tail, query: Query, payload: Payload) -> Answer {
    let filters = ["node", "service", "tag"].map(|key| (key, query.text(key).unwrap_or_default().to_owned()));
    for (key, text) in &filters {
        pattern(text).map_err(|why| Failure::bad(format!("Invalid {key} filter: {why}")))?;
    }
    if !filters[2].1.is_empty() && filters[1].1.is_empty() {
        return Err(Failure::bad("Cannot provide tag filter without service filter"));
    }
    let found = app.agent.view().service(NAME);
    let rows = found.iter().flat_map(|service| service.rows());
    let time = next(rows.map(|row| &*row.registration), unix_millis());
    let random = getrandom::u64().map_err(|why| Failure::internal(why.to_string()))?;
    let id = super::node::uuid(NodeId(random));
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
    forget(&app, time).await?;
    Event::of(&row).map(|event| plain(&query, &event)).ok_or_else(|| Failure::internal("the event cannot be shown"))
}

/// When an event is fired that comes after all these rows.
fn next<'a>(rows: impl Iterator<Item = &'a Registration>, latest: u64) -> u64 {
    rows.filter_map(|row| time(row, latest)).max().map_or(1, |last| last + 1)
}

/// Withdraws this node's oldest events beyond the few that it keeps, first those that claim to be later than the last.
async fn forget(app: &App, last: u64) -> Result<(), Failure> {
    for old in beyond_kept(app.agent.view().registrations(), last.max(unix_millis())) {
        super::register::remove(app, &old.id).await?;
    }
    Ok(())
}

fn beyond_kept(mut own: Vec<Arc<Registration>>, last: u64) -> Vec<Arc<Registration>> {
    own.retain(|row| is_event(row));
    own.sort_by_key(|row| time(row, last));
    own.truncate(own.len().saturating_sub(KEPT));
    own
}

pub(super) async fn list(State(app): Shared, query: Query) -> Answer {
    app.ready()?;
    settle(&app, &query, &topic()).await;
    let heard = Hearing::now(&app).await?;
    let [mark, of_own] = heard.marks;
    let name = query.text("name");
    let render = || {
        let events = heard.events.iter().filter_map(|row| Event::of(row));
        json(&query, &events.filter(|event| name.is_none_or(|name| event.name == name)).collect::<Vec<_>>())
    };
    // Another service of its own moves no mark that a client waits for.
    let body = app.bodies.body(&format!("{}#{of_own}", query.key), mark, render, || None);
    Ok(marked(Body::from(body), mark))
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
/// What it costs to compile two filters, in bytes compared.
const COMPILING: usize = 300;
/// What services' filters of all events may cost: the worst that one node may fire, and half as much besides, which takes
/// 0.4 s. Where all services and tags take 468 bytes together no events come to that.
const MAX_COMPARED_IN_ALL: usize = (KEPT + KEPT / 2) * MAX_COMPARED;

#[cfg(test)]
mod tests {
    use axum::http::{Request, header};
    use http_body_util::BodyExt;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        agent::{Agent, Secret},
        http::{Config, guard::Via, server},
    };

    fn event(id: &str, time: u64, filters: [&str; 3]) -> Arc<Registration> {
        let mut row = Registration::new(NAME, 1).unwrap().id(format!("{PREFIX}{id}").as_str().try_into().unwrap());
        row.echo = Some(Arc::new(Echo { role: Some(Role::Event), ..Echo::default() }));
        row.meta = ["node", "service", "tag"].map(str::to_owned).into_iter().zip(filters.map(str::to_owned)).collect();
        row.meta.insert("time".into(), time.to_string());
        Arc::new(row)
    }

    /// Later than all that is fired here.
    const NOW: u64 = 1 << 40;

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
            assert_eq!(heard(&here, &[(1, event("1", 1, filters))]).len() == 1, is_meant, "{filters:?}");
        }
    }

    /// When what is heard of these was fired, by owner.
    fn heard(here: &Here<'_>, rows: &[(u64, Arc<Registration>)]) -> Vec<u64> {
        let events = newest(rows.iter().map(|(owner, row)| (NodeId(*owner), row)), NOW);
        here.heard(events).iter().map(|row| time(row, NOW).unwrap()).collect()
    }

    #[test]
    fn filters_cost_no_more_than_a_few_however_many_there_are_and_nobody_anothers() {
        let row = |at: u64| Registration::new(format!("a{at:039}").as_str(), 1).unwrap();
        let own = (0..200).map(row).collect::<Vec<_>>();
        let here = Here::new("n1", own.iter());
        let by = |owner: u64, time: u64, filters: [&str; 3]| (owner, event(&time.to_string(), time, filters));
        let service = |owner, time| by(owner, time, ["", &format!("^a0*199$|{time}x"), ""]);
        let alone = (0..10).map(|time| by(time, time, ["n1", "", ""]));
        let fired: Vec<_> = alone.chain((10..256).map(|time| service(time, time))).collect();
        assert_eq!(heard(&here, &fired), (0..10).chain(233..256).collect::<Vec<_>>(), "the newest");
        let same: Vec<_> = (0..256).map(|time| by(time, time, ["", "^a0*199$", ""])).collect();
        assert_eq!(heard(&here, &same).len(), 256);

        let loud = (0..32).map(|at| by(1 + at / 16, 100 + at, ["", &format!("^x{at}$"), ""]));
        let fired: Vec<_> = (0..10).map(|at| service(10 + at % 5, at)).chain(loud).collect();
        assert_eq!(heard(&here, &fired), (0..10).collect::<Vec<_>>(), "others fire more, and later");
    }

    #[test]
    fn who_claims_to_have_fired_in_the_future_is_not_counted_on_from() {
        let rows = [u64::MAX, NOW + 1, 7, 6].map(|time| event(&time.to_string(), time, [""; 3]));
        assert_eq!(next(rows.iter().map(|row| &**row), NOW), 8);
        assert_eq!(heard(&Here::new("n1", [].iter()), &rows.map(|row| (1, row))), [6, 7]);
        // Those that were fired after such a one go first, and never the last.
        let spoilt = (0..4).map(|at| event(&format!("a{at}"), u64::MAX, [""; 3]));
        let own = spoilt.chain((1..=14).map(|at| event(&at.to_string(), at, [""; 3]))).collect();
        assert!(beyond_kept(own, 14).iter().map(|row| row.id.as_str()).eq(["@event/a0", "@event/a1"]));
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
        let heard = newest(rows.iter().map(|(owner, row)| (*owner, row)), NOW);
        assert!(heard.is_sorted_by_key(|event| Reverse(event.at)) && heard.len() == MAX_EVENTS);
        assert_eq!(heard.first().map(|event| event.at.0), Some(1999));
        assert_eq!(heard.iter().filter(|event| event.owner == NodeId(1)).count(), KEPT);
    }

    #[tokio::test]
    async fn who_registers_a_service_hears_what_was_fired_for_it_before() {
        let here = ([127, 0, 0, 1], 0).into();
        let agent = Agent::builder().node("n1").secret(Secret::random()).listen(here).start().await.unwrap();
        agent.ready().await.unwrap();
        let stop = CancellationToken::new();
        let door = server::open(agent.clone(), Config::default(), here, None, Vec::new(), None, stop);
        let ask = async |method: &str, path: &str| {
            let request = Request::builder().method(method).uri(path).header(header::HOST, "127.0.0.1");
            let via = Via::Tcp { client: here.ip(), ours: here.ip() };
            let answer = door.answer(via, request.body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK, "{path}");
            answer.into_body().collect().await.unwrap().to_bytes()
        };
        ask("PUT", "/v1/event/fire/deploy?service=^web$").await;
        assert_eq!(ask("GET", "/v1/event/list").await, "[]");
        agent.put(Registration::new("web", 80).unwrap()).await.unwrap();
        assert!(ask("GET", "/v1/event/list").await.starts_with(b"[{"));
    }
}
