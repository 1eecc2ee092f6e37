//! Reads that wait: a client that has seen a topic's mark is parked until the mark moves, and all who waited share one
//! rendered body.
//!
//! A number that this start of the process did not issue is answered at once, also one larger than any: after a restart
//! nobody stays with what he knew before.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, Method, Request, header},
    response::Response,
};
use bytes::Bytes;
use dashmap::DashMap;
use serde::Serialize;
use tokio::{select, time::sleep};

use super::{failure::Answer, query::Query};
use crate::{
    agent::Topic,
    http::{
        App,
        gzip::{Coding, gzip},
    },
};

/// Waits if the client asks for it, then answers with what `render` makes of the topic at its mark.
pub(super) async fn read(app: &App, query: &Query, topic: Topic, render: impl FnOnce(u64) -> Bytes) -> Answer {
    app.ready()?;
    let mark = settle(app, query, &topic).await;
    let render = || render(mark);
    let body = match query.text("near") {
        None => app.bodies.body(&query.key, mark, render, || query.text("dc").is_none().then(|| topic.clone())),
        // Distances move without a mark: a body that is sorted by them is good for a second.
        Some(_) => {
            let key = format!("{}#{}", query.key, app.started.elapsed().map_or(0, |up| up.as_secs()));
            app.bodies.body(&key, mark, render, || None)
        }
    };
    Ok(marked(Body::from(body), mark))
}

/// The answer to what was asked in the same words before, if nothing that it tells of has changed: the questions that most
/// clients ask most of the time, answered before any of them is parsed.
pub(in crate::http) fn again(app: &App, request: &Request<Body>, coding: Coding) -> Option<Response> {
    let target = request.uri().path_and_query().filter(|_| request.method() == Method::GET)?;
    let kept = app.bodies.kept.get(target.as_str()).map(|kept| Arc::clone(&kept))?;
    let (view, body) = (app.agent.view(), kept.body.get()?);
    if !view.is_ready() || view.mark(kept.topic.as_ref()?) > kept.mark {
        return None;
    }
    let Some(zipped) = coding.keeps(body).then(|| app.bodies.zipped(&kept, body)).flatten() else {
        return Some(marked(Body::from(body.clone()), kept.mark));
    };
    let mut response = marked(Body::from(zipped), kept.mark);
    // As `Coding::encode` would have it.
    response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    Some(response)
}

/// The topic's mark, once it is beyond what the client has seen, or the wait is over, or this node is about to stop.
pub(super) async fn settle(app: &App, query: &Query, topic: &Topic) -> u64 {
    let view = app.agent.view();
    let mark = view.mark(topic);
    let Some(seen) = query.index.filter(|seen| view.has_issued(*seen) && *seen >= mark) else { return mark };
    let mut waiter = view.wait(topic.clone());
    let _parked = app.bodies.park();
    let late = sleep(query.wait + jitter(query.wait));
    tokio::pin!(late);
    loop {
        // After taking the place, before waiting: nothing falls between.
        let mark = view.mark(topic);
        if mark > seen {
            return mark;
        }
        select! {
            () = waiter.changed() => {}
            () = &mut late => return mark,
            () = app.stop.cancelled() => return mark,
        }
    }
}

/// A part of a sixteenth of the wait, so that those who came together do not come back together.
pub(super) fn jitter(wait: Duration) -> Duration {
    let part = f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX);
    (wait / 16).mul_f64(part)
}

/// JSON, for programs or for people.
pub(super) fn json<T: Serialize>(query: &Query, value: &T) -> Bytes {
    let mut bytes = Vec::new();
    // Only a map with keys that are no texts could fail, and there is none.
    let written = if query.flag("pretty") {
        let indent = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, indent))
    } else {
        serde_json::to_writer(&mut bytes, value)
    };
    debug_assert!(written.is_ok());
    bytes.into()
}

/// An answer in JSON with the headers of a catalogue's read. All reads are this node's view: `stale`.
pub(super) fn marked(body: Body, mark: u64) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(INDEX, HeaderValue::from(mark));
    headers.insert(KNOWN_LEADER, HeaderValue::from_static("true"));
    headers.insert(LAST_CONTACT, HeaderValue::from_static("0"));
    headers.insert(CONSISTENCY, HeaderValue::from_static("stale"));
    response
}

/// An answer in JSON about this node alone.
pub(super) fn plain<T: Serialize>(query: &Query, value: &T) -> Response {
    let mut response = Response::new(Body::from(json(query, value)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Rendered bodies, by query; each is good for one mark.
#[derive(Debug, Default)]
pub(in crate::http) struct Bodies {
    kept: DashMap<String, Arc<Kept>>,
    bytes: AtomicUsize,
    parked: AtomicUsize,
}

/// A client while it is parked.
struct Parked<'a>(&'a AtomicUsize);

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Kept {
    mark: u64,
    /// What it tells of, where nothing else shapes it: it may be sent again while that stays as it was.
    topic: Option<Topic>,
    body: OnceLock<Bytes>,
    /// The same by gzip, once somebody has asked for that.
    zipped: OnceLock<Bytes>,
}

impl Kept {
    fn bytes(&self) -> usize {
        [&self.body, &self.zipped].into_iter().filter_map(OnceLock::get).map(Bytes::len).sum()
    }
}

impl Bodies {
    /// How many clients wait for a change now.
    pub(in crate::http) fn parked(&self) -> usize {
        self.parked.load(Ordering::Relaxed)
    }

    fn park(&self) -> Parked<'_> {
        self.parked.fetch_add(1, Ordering::Relaxed);
        Parked(&self.parked)
    }

    /// The body for a query at a mark; of all who come at a time one renders it and the others wait for that.
    pub(super) fn body(
        &self,
        key: &str,
        mark: u64,
        render: impl FnOnce() -> Bytes,
        topic: impl FnOnce() -> Option<Topic>,
    ) -> Bytes {
        let found = self.kept.get(key).map(|kept| Arc::clone(&kept));
        let kept = match found.filter(|kept| kept.mark >= mark) {
            Some(kept) => kept,
            None => self.renew(key, mark, topic),
        };
        let body = kept.body.get_or_init(|| {
            let body = render();
            self.bytes.fetch_add(body.len(), Ordering::Relaxed);
            body
        });
        body.clone()
    }

    /// `None` where it cannot be made smaller.
    fn zipped(&self, kept: &Kept, body: &Bytes) -> Option<Bytes> {
        let zip = || {
            let small = Bytes::from(gzip(body).unwrap_or_default());
            self.bytes.fetch_add(small.len(), Ordering::Relaxed);
            small
        };
        Some(kept.zipped.get_or_init(zip)).filter(|small| !small.is_empty()).cloned()
    }

    fn renew(&self, key: &str, mark: u64, topic: impl FnOnce() -> Option<Topic>) -> Arc<Kept> {
        if self.kept.len() >= MAX_BODIES || self.bytes.load(Ordering::Relaxed) >= MAX_BYTES {
            // Queries come from clients, who may think of many. What is in use is rendered again once.
            self.kept.clear();
            self.bytes.store(0, Ordering::Relaxed);
        }
        let mut slot = self.kept.entry(key.to_owned()).or_insert_with(|| {
            // The topic names it once more.
            self.bytes.fetch_add(key.len() * 2, Ordering::Relaxed);
            Arc::default()
        });
        if slot.mark < mark {
            let new = Kept { mark, topic: topic(), ..Kept::default() };
            let freed = std::mem::replace(&mut *slot, Arc::new(new)).bytes();
            // The sum may lag behind while bodies are under way, never below nothing.
            let _ = self.bytes.try_update(Ordering::Relaxed, Ordering::Relaxed, |sum| Some(sum.saturating_sub(freed)));
        }
        Arc::clone(&slot)
    }
}

const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
const KNOWN_LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
const LAST_CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");
const CONSISTENCY: HeaderName = HeaderName::from_static("x-consul-effective-consistency");
/// More queries than a node's clients have, and a bound on what they can make it keep.
const MAX_BODIES: usize = 8192;
const MAX_BYTES: usize = 32 << 20;

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg32;

    use super::*;
    use crate::{agent::View, http::native::fixtures, model::ServiceName};

    #[test]
    fn a_body_is_rendered_once_for_each_mark() {
        let bodies = Bodies::default();
        let body = |key: &str, mark, text: &'static str| {
            bodies.body(key, mark, || Bytes::from_static(text.as_bytes()), || None)
        };
        assert_eq!(body("a", 1, "one"), "one");
        assert_eq!(body("a", 1, "not again"), "one");
        assert_eq!(body("b", 1, "other"), "other");
        assert_eq!(body("a", 2, "two!"), "two!");
        assert_eq!(body("a", 1, "late"), "two!", "newer than asked for will do");
        assert_eq!(bodies.bytes.load(Ordering::Relaxed), "two!other".len() + 2 * "ab".len());
        let long = "a".repeat(16 * 1024);
        (0..8_000).for_each(|n| drop(body(&format!("{n}{long}"), 1, "[]")));
        let kept: usize = bodies.kept.iter().map(|entry| entry.key().len()).sum();
        assert!(kept <= MAX_BYTES / 2, "long questions are kept in bounds, too: {kept}");
    }

    /// What an answer on a topic is made from.
    fn shown(view: &View, topic: &Topic) -> String {
        let services = view.rows();
        let rows = || services.iter().flat_map(|service| service.rows());
        match topic {
            Topic::Services => format!("{:?}", services.iter().map(|service| &service.name).collect::<Vec<_>>()),
            Topic::Rows => format!("{:?}", rows().map(|row| &row.registration.id).collect::<Vec<_>>()),
            Topic::Nodes => format!("{:?}", view.nodes()),
            Topic::Node(name) => format!(
                "{:?} {:?}",
                view.node(name),
                rows().filter(|row| row.node.name.as_str() == name).collect::<Vec<_>>()
            ),
            Topic::Service(name) => {
                format!("{:?}", view.service(name).map(|service| service.rows().cloned().collect::<Vec<_>>()))
            }
            _ => format!("{:?} {:?}", view.nodes(), rows().collect::<Vec<_>>()),
        }
    }

    #[test]
    fn what_is_read_halfway_through_a_publication_is_not_kept_for_the_whole_of_it() {
        let (names, nodes) = (["web", "db"], ["a", "b", "c"]);
        let of_names = names.map(|name| Topic::Service(name.into()));
        let of_nodes = nodes.map(|name| Topic::Node(name.into()));
        let all = [Topic::Services, Topic::Rows, Topic::Nodes, Topic::Checks];
        let topics: Vec<_> = all.into_iter().chain(of_names).chain(of_nodes).collect();
        for seed in 0..32 {
            let (view, bodies) = (fixtures::view(), Bodies::default());
            let (members, rows) = (view.nodes(), fixtures::web().instances);
            let mut random = Pcg32::seed_from_u64(seed);
            let read = |topic: &Topic| {
                bodies.body(&format!("{topic:?}"), view.mark(topic), || shown(&view, topic).into(), || None)
            };
            for _ in 0..64 {
                for topic in topics.iter().filter(|_| random.random_ratio(1, 3)) {
                    read(topic);
                }
                match random.random_range(0..4) {
                    0 => {
                        view.advance();
                        for topic in &topics {
                            assert_eq!(read(topic), shown(&view, topic), "seed {seed}: stale for ever: {topic:?}");
                        }
                    }
                    1 => {
                        let mut member = (*members[random.random_range(0..3)]).clone();
                        member.held = random.random();
                        view.set_node(&member.node.name.clone(), Some(member).filter(|_| random.random_ratio(2, 3)));
                    }
                    _ => {
                        let name: ServiceName = names[random.random_range(0..2)].try_into().unwrap();
                        let mut some: Vec<_> = rows.iter().filter(|_| random.random()).cloned().collect();
                        some.iter_mut().for_each(|row| Arc::make_mut(&mut row.registration).name = name.clone());
                        view.set_service(&name, Some(some).filter(|_| random.random_ratio(2, 3)));
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_kept_in_two_forms_is_counted_in_both() {
        let (bodies, text) = (Bodies::default(), Bytes::from(vec![b'x'; 5000]));
        let body = |mark| bodies.body("a", mark, || text.clone(), || Some(Topic::Nodes));
        body(1);
        let kept = Arc::clone(&bodies.kept.get("a").unwrap());
        let small = bodies.zipped(&kept, &text).unwrap();
        assert_eq!(bodies.zipped(&kept, &text).unwrap().as_ptr(), small.as_ptr(), "made once");
        let question = 2 * "a".len();
        assert_eq!(bodies.bytes.load(Ordering::Relaxed), question + 5000 + small.len());
        body(2);
        assert_eq!(bodies.bytes.load(Ordering::Relaxed), question + 5000);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let bodies = Bodies::default();
        for n in 0..=MAX_BODIES {
            bodies.body(&n.to_string(), 1, || Bytes::from_static(b"x"), || None);
        }
        assert!(bodies.kept.len() <= MAX_BODIES);
    }
}
