//! `GET /api/v1/watch?service=`: Server-Sent Events, a `snapshot` and then a `change` with all instances whenever the
//! answer is another one. Changes that come faster than the client reads are folded into the last.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::HeaderMap,
    response::{
        IntoResponse,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{StreamExt, stream};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    agent::{Service, View},
    http::{Answer, Problem, Shared},
    model::ServiceName,
};

use super::openapi::Api;

use super::{
    instances::Row,
    params::{Params, word},
};

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Watched")]
struct Body<'a> {
    service: &'a ServiceName,
    index: u64,
    instances: Vec<Row<'a>>,
}

/// One client's place in the history of one service.
#[derive(Debug)]
struct Feed {
    name: ServiceName,
    /// This start of the process: an index of an earlier one says nothing here.
    epoch: u64,
    sent: Sent,
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
        let index = ours.and_then(|index| index.parse().ok());
        Self { name, epoch, sent: index.map_or(Sent::Nothing, Sent::Index) }
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

    fn event(&mut self, view: &View) -> Option<Event> {
        let (event, index, service) = self.step(view)?;
        let instances = service.iter().flat_map(|service| &service.instances).map(Row::from).collect();
        let body = Body { service: &self.name, index, instances };
        Event::default().event(event).id(format!("{}-{index}", self.epoch)).json_data(body).ok()
    }
}

pub(super) async fn watch(State(app): Shared, headers: HeaderMap, mut params: Params) -> Answer {
    let Some(name) = params.one("service")? else {
        return Err(Problem::field("service", "is missing: /api/v1/watch?service=web"));
    };
    let name = word("service", &name)?;
    params.end()?;
    app.ready()?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let epoch = app.agent.view().this().map_or(0, |this| this.epoch.0);
    let stop = app.stop.clone();
    // Subscribed before the first look: nothing falls between.
    let start = (Feed::new(name, epoch, last), app.agent.view().subscribe(), app);
    let events = stream::unfold(start, |(mut feed, mut changes, app)| async move {
        let event = loop {
            if let Some(event) = feed.event(app.agent.view()) {
                break event;
            }
            changes.changed().await.ok()?;
        };
        Some((Ok::<_, Infallible>(event), (feed, changes, app)))
    });
    let events = events.take_until(stop.cancelled_owned());
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

/// How long a stream may be silent: proxies cut off what is idle for half a minute.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// For the OpenAPI document.
pub(super) fn describe(api: &mut Api) {
    api.get("/api/v1/watch", "The instances of a service, as they change.")
        .query("service", "The service; it must be given.")
        .streams::<Body<'_>>("Events `snapshot`, then `change`, each with all instances; resumes by Last-Event-ID.");
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
    }
}
