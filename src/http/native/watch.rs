//! `GET /api/v1/watch?service=`: Server-Sent Events, a `snapshot` and then a `change` with all instances whenever the
//! answer is another one. Changes that come faster than the client reads are folded into the last. What many watch is
//! rendered once for all of them, and who watches one service sleeps through the changes of others.

use std::{
    convert::Infallible,
    io::Write,
    sync::{Arc, Weak},
    time::Duration,
};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, header},
    response::IntoResponse,
};
use bytes::Bytes;
use dashmap::DashMap;
use futures_util::{StreamExt, stream};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::{select, time::timeout};

use crate::{
    agent::{Service, View},
    http::{Answer, Problem, Shared},
    model::ServiceName,
};

use super::{
    instances::Row,
    openapi::Api,
    params::{self, Params},
};

#[derive(Serialize, JsonSchema)]
struct Watched<'a> {
    service: &'a ServiceName,
    index: u64,
    instances: Vec<Row<'a>>,
}

/// A service now, as a `change` tells it: what hooks are given.
#[must_use]
pub fn state(view: &View, service: &ServiceName) -> serde_json::Value {
    let index = view.index();
    let found = view.service(service.as_str());
    let index = found.as_ref().map_or(index, |found| found.index);
    let instances = found.iter().flat_map(|found| &found.instances).map(Row::from).collect();
    serde_json::to_value(Watched { service, index, instances }).unwrap_or_default()
}

/// An event without its name, which differs between those who get it.
#[derive(Debug)]
struct Rendered {
    index: u64,
    text: Bytes,
}

impl Rendered {
    fn of(name: &ServiceName, service: Option<&Service>, index: u64, epoch: u64) -> Arc<Self> {
        let instances = service.into_iter().flat_map(|service| &service.instances).map(Row::from).collect();
        let mut text = Vec::new();
        // Writing to memory does not fail.
        let absent = if service.is_none() { ABSENT } else { "" };
        let _ = write!(text, "id: {epoch}-{index}{absent}\ndata: ");
        let _ = serde_json::to_writer(&mut text, &Watched { service: name, index, instances });
        text.extend_from_slice(b"\n\n");
        Arc::new(Self { index, text: text.into() })
    }
}

/// The last event of each watched service, kept as long as somebody has it.
#[derive(Debug, Default)]
pub(in crate::http) struct Renderings(DashMap<String, Weak<Rendered>>);

impl Renderings {
    fn of(&self, service: &Service, epoch: u64) -> Arc<Rendered> {
        if self.0.len() > MANY {
            self.0.retain(|_, last| last.strong_count() > 0);
        }
        let mut last = self.0.entry(service.name.folded()).or_default();
        match last.upgrade().filter(|last| last.index == service.index) {
            Some(rendered) => rendered,
            None => {
                let rendered = Rendered::of(&service.name, Some(service), service.index, epoch);
                *last = Arc::downgrade(&rendered);
                rendered
            }
        }
    }
}

/// One client's place in the history of one service.
#[derive(Debug)]
struct Feed {
    name: ServiceName,
    /// This start of the process: an index of an earlier one says nothing here.
    epoch: u64,
    sent: Sent,
    /// What was sent last: those who come later share it.
    last: Option<Arc<Rendered>>,
}

/// What the client has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Nothing,
    /// That nobody registers the service.
    Absence,
    /// The service as of this index.
    Index(u64),
}

impl Feed {
    /// A feed for a client that has seen the event `last`.
    fn new(name: ServiceName, epoch: u64, last: Option<&str>) -> Self {
        let ours = last.and_then(|id| id.strip_prefix(&format!("{epoch}-")));
        let absence = ours.and_then(|id| id.strip_suffix(ABSENT)).map(|_| Sent::Absence);
        let index = || Some(Sent::Index(ours?.parse().ok()?));
        Self { name, epoch, sent: absence.or_else(index).unwrap_or(Sent::Nothing), last: None }
    }

    /// What the client must be told now: the event's name, its index and the service.
    fn step(&mut self, view: &View) -> Option<(&'static str, u64, Option<Arc<Service>>)> {
        // The index of an absence is read before the service: it may be too old, never too new.
        let index = view.index();
        let service = view.service(self.name.as_str());
        let now = service.as_ref().map_or(Sent::Absence, |service| Sent::Index(service.index));
        let before = std::mem::replace(&mut self.sent, now);
        let event = match before {
            _ if before == now => return None,
            Sent::Nothing => "snapshot",
            Sent::Absence | Sent::Index(_) => "change",
        };
        Some((event, service.as_ref().map_or(index, |service| service.index), service))
    }

    /// The next event, in two parts: its name, and what all share.
    fn event(&mut self, view: &View, renderings: &Renderings) -> Option<[Bytes; 2]> {
        let (event, index, service) = self.step(view)?;
        let rendered = match &service {
            Some(service) => renderings.of(service, self.epoch),
            None => Rendered::of(&self.name, None, index, self.epoch),
        };
        let text = rendered.text.clone();
        self.last = Some(rendered);
        let name: &[u8] = if event == "snapshot" { b"event: snapshot\n" } else { b"event: change\n" };
        Some([Bytes::from_static(name), text])
    }
}

pub(super) async fn watch(State(app): Shared, headers: HeaderMap, mut params: Params) -> Answer {
    let Some(name) = params.one("service")? else {
        return Err(Problem::field("service", "is missing: /api/v1/watch?service=web"));
    };
    let name = params::service(app.agent.view(), "service", &name)?;
    params.end()?;
    app.ready()?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let epoch = app.agent.view().this().map_or(0, |this| this.epoch.0);
    // Subscribed before the first look: nothing falls between.
    let changes = app.agent.view().subscribe_service(name.as_str());
    let start = (Feed::new(name, epoch, last), changes, app);
    let events = stream::unfold(start, |(mut feed, mut changes, app)| async move {
        let parts = loop {
            if let Some(event) = feed.event(app.agent.view(), &app.renderings) {
                break event;
            }
            select! {
                heard = timeout(KEEP_ALIVE, changes.changed()) => if heard.is_err() {
                    // A comment (the Server-Sent Events standard, section 9.2.7).
                    break [Bytes::from_static(b":\n"), Bytes::from_static(b"\n")];
                },
                () = app.stop.cancelled() => return None,
            }
        };
        Some((stream::iter(parts.map(Ok::<_, Infallible>)), (feed, changes, app)))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, Body::from_stream(events.flatten())).into_response())
}

/// Ends the id of an event that tells that there is no such service.
const ABSENT: &str = "-absent";
/// How long a stream may be silent: proxies cut off what is idle for half a minute.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Beyond so many services, those that nobody watches any more are looked for.
const MANY: usize = 1024;

/// For the OpenAPI document.
pub(super) fn describe(api: &mut Api) {
    api.get("/api/v1/watch", "The instances of a service, as they change.")
        .query("service", "The service; it must be given.")
        .streams::<Watched<'_>>("Events `snapshot`, then `change`, each with all instances; resumes by Last-Event-ID.");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::native::fixtures;

    fn names(feed: &mut Feed, view: &View) -> Option<(&'static str, usize)> {
        feed.step(view).map(|(event, _, service)| (event, service.map_or(0, |service| service.instances.len())))
    }

    #[test]
    fn a_watcher_hears_of_its_service_alone() {
        let view = fixtures::view();
        let web: ServiceName = "web".try_into().unwrap();
        let mut feed = Feed::new(web.clone(), 7, None);
        assert_eq!(names(&mut feed, &view), Some(("snapshot", 2)));
        assert_eq!(names(&mut feed, &view), None);
        view.set_service(&"other".try_into().unwrap(), Some(Vec::new()));
        view.advance();
        assert_eq!(names(&mut feed, &view), None);
        view.set_service(&web, Some(Vec::new()));
        view.advance();
        view.set_service(&web, None);
        view.advance();
        assert_eq!(names(&mut feed, &view), Some(("change", 0)));
        assert_eq!(names(&mut feed, &view), None);
        view.set_service(&web, Some(fixtures::web().instances));
        view.advance();
        assert_eq!(names(&mut feed, &view), Some(("change", 2)));
    }

    #[test]
    fn what_many_watch_is_rendered_once() {
        let (view, renderings) = (fixtures::view(), Renderings::default());
        let feed = || Feed::new("web".try_into().unwrap(), 7, None);
        let (mut one, mut other) = (feed(), feed());
        let [[name, text], [_, same]] = [&mut one, &mut other].map(|feed| feed.event(&view, &renderings).unwrap());
        assert_eq!(text.as_ptr(), same.as_ptr());
        let index = view.service("web").unwrap().index;
        let event = String::from_utf8([name, text].concat()).unwrap();
        assert!(event.starts_with(&format!("event: snapshot\nid: 7-{index}\ndata: {{\"service\":\"web\"")), "{event}");
        assert!(event.ends_with("}\n\n") && event.lines().count() == 4, "{event}");
        view.set_service(&"web".try_into().unwrap(), None);
        assert!(one.event(&view, &renderings).unwrap()[0].starts_with(b"event: change"));
        drop((one, other));
        assert_eq!(renderings.0.get("web").unwrap().strong_count(), 0);
    }

    #[test]
    fn a_watcher_resumes_where_it_was_unless_the_process_is_another() {
        let view = fixtures::view();
        let web: ServiceName = "web".try_into().unwrap();
        let index = view.service("web").unwrap().index;
        let mut resumed = Feed::new(web.clone(), 7, Some(&format!("7-{index}")));
        assert_eq!(names(&mut resumed, &view), None);
        let mut behind = Feed::new(web.clone(), 7, Some("7-0"));
        assert_eq!(names(&mut behind, &view), Some(("change", 2)));
        for foreign in [&*format!("6-{index}"), "", "7", "7-x", "-"] {
            assert_eq!(names(&mut Feed::new(web.clone(), 7, Some(foreign)), &view), Some(("snapshot", 2)), "{foreign}");
        }
        view.set_service(&web, None);
        let [_, told] = behind.event(&view, &Renderings::default()).unwrap();
        let told = String::from_utf8(told.to_vec()).unwrap();
        let id = told.lines().next().and_then(|line| line.strip_prefix("id: ")).unwrap();
        let mut absent = Feed::new(web.clone(), 7, Some(id));
        assert_eq!(names(&mut absent, &view), None, "{id} tells of nothing already");
        view.set_service(&web, Some(fixtures::web().instances));
        assert_eq!(names(&mut absent, &view), Some(("change", 2)));
    }
}
