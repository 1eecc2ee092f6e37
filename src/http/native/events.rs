//! `GET /api/v1/events`: what happened and why. Server-Sent Events, first those that this node still remembers and then
//! each as it happens; or, to who accepts JSON alone, the remembered ones as a list. A reader resumes by `Last-Event-ID`
//! (or `after=`), and is told by an event `missed` where it was away for too long.

use std::{borrow::Cow, collections::VecDeque, convert::Infallible, net::SocketAddr, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, header},
    response::{
        IntoResponse,
        sse::{Event as Line, KeepAlive, Sse},
    },
};
use futures_util::{StreamExt, stream};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    agent::{Agent, Entry, News, Paper},
    http::{Answer, Problem, Shared},
    mesh::{Cause, Event, Unprotected},
};

use super::{openapi::Api, params::Params, watch::KEEP_ALIVE};

/// One event. What does not concern its kind is left away.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(super) struct Row {
    /// `epoch-number`: what `Last-Event-ID` and `after=` take.
    id: String,
    #[serde(serialize_with = "super::moment")]
    #[schemars(with = "String")]
    at: u64,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    /// The state, the health or the addresses before; left away where there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    was: Option<Cow<'static, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    now: Option<Cow<'static, str>>,
    /// One word of few.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    check: Option<Arc<str>>,
    /// A sentence for people.
    why: String,
}

impl Row {
    fn of(entry: &Entry, epoch: u64) -> Self {
        let head = Self {
            id: format!("{epoch}-{}", entry.number),
            at: entry.unix_millis,
            event: entry.news.kind(),
            ..Self::default()
        };
        match &entry.news {
            News::Health(flip) => Self {
                node: Some(flip.node.to_string()),
                service: Some(flip.service.to_string()),
                instance: Some(flip.instance.to_string()),
                was: Some(flip.was.as_str().into()),
                now: Some(flip.now.as_str().into()),
                cause: Some(if flip.check.is_some() { "check" } else { "maintenance" }),
                check: flip.check.clone(),
                why: flip.why.to_string(),
                ..head
            },
            News::Moved(moved) => {
                let list =
                    |all: &[SocketAddr]| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ").into();
                let (cause, why) = match moved.is_this {
                    true => ("interfaces", "the addresses of this machine changed"),
                    false => ("told", "it says so itself"),
                };
                let (was, now) = (Some(list(&moved.was)), Some(list(&moved.now)));
                Self { node: Some(moved.node.to_string()), was, now, cause: Some(cause), ..head.why(why) }
            }
            News::Certificate(node, paper) => {
                let words = ["certificate", "no other node lets this one in", "hobnob ca issue NODE --mesh MESH"];
                Self { node: Some(node.to_string()), ..head.tell_of_paper(paper, words) }
            }
            News::HttpCertificate(node, paper) => {
                let words =
                    ["the HTTP port's certificate", "clients turn away from it", "replace the files of http.tls"];
                Self { node: Some(node.to_string()), ..head.tell_of_paper(paper, words) }
            }
            News::Mesh(event, name) => Self { node: name.as_ref().map(ToString::to_string), ..head.tell(event) },
        }
    }

    /// `what` it is, what follows once it is `over`, and what to do `next`.
    fn tell_of_paper(self, paper: &Paper, [what, over, next]: [&str; 3]) -> Self {
        let (cause, why) = match paper {
            Paper::Expires { serial, left } => {
                let left = humantime::format_duration(*left);
                ("lifetime", format!("{what} {serial} is good for {left} more: {next}"))
            }
            Paper::Expired { serial } => ("lifetime", format!("{what} {serial} is good no more: {over}; {next}")),
            Paper::Reloaded { serial } => ("files", format!("{what} {serial} is in use, and no connection was cut")),
            Paper::NotReloaded { why } => ("files", format!("{why}; the old certificate stays in use")),
            Paper::Granted { serial, of, from, until } => {
                let (cause, shown) = of.as_ref().map_or(("token", "a token"), |of| ("renewed", of));
                let until = humantime::format_rfc3339_seconds(*until);
                (cause, format!("{what} {serial}, good until {until}, was granted to {from}, which showed {shown}"))
            }
            Paper::NotRenewed { why } => ("refused", format!("{why}; a node that holds tls.ca_key grants one")),
        };
        Self { cause: Some(cause), ..self.why(why) }
    }

    fn tell(self, event: &Event) -> Self {
        match event {
            Event::Member { was, now, cause, .. } => Self {
                was: was.map(|was| was.as_str().into()),
                now: Some(now.as_str().into()),
                cause: Some(cause.as_str()),
                why: because(*cause).into(),
                ..self
            },
            Event::Renewed => self.why("this node was taken for dead, and came back under a new generation"),
            Event::Garbage { why, .. } => self.why(*why),
            Event::Expelled { why, .. } => {
                self.why(format!("it sent too much of what no honest node sends, at last {why}: shut out for a minute"))
            }
            Event::PartitionBegan { missing, of } => self.why(format!(
                "{missing} of {of} nodes do not answer: this node is the one cut off, and serves what it last knew"
            )),
            Event::PartitionEnded { missing } => self.why(format!("most nodes are back, {missing} are still missing")),
            Event::ProtectionBegan { service, kept, of } => {
                let why =
                    format!("{kept} of {of} healthy instances turned critical within moments: served as they were");
                Self { service: Some(service.to_string()), ..self.why(why) }
            }
            Event::ProtectionEnded { service, why } => {
                let why = match why {
                    Unprotected::Recovered => "recovered: most of it is healthy again",
                    Unprotected::Expired => "expired: protect_for is over",
                    Unprotected::Gone => "gone: what was kept is withdrawn, or known to be critical",
                };
                Self { service: Some(service.to_string()), ..self.why(why) }
            }
            Event::Flapping { returns, hidden_for, .. } => self.why(format!(
                "it went down and came back {returns} times lately: what it serves is shown again after {} s",
                hidden_for.as_secs_f32()
            )),
            Event::Paused { late } => self.why(format!(
                "this process did not run for {} ms: it listens before it judges anybody",
                late.as_millis()
            )),
        }
    }

    fn why(self, why: impl Into<String>) -> Self {
        Self { why: why.into(), ..self }
    }
}

/// Why a member is seen as it is, for people.
pub(super) const fn because(cause: Cause) -> &'static str {
    match cause {
        Cause::Hello => "it connected and said hello",
        Cause::Told => "another node said so",
        Cause::ProbeFailed => "it did not answer this node's probes",
        Cause::SuspicionExpired => "it was suspected and did not answer in time",
        Cause::Refuted => "it answered the suspicion",
        Cause::Left => "it said goodbye",
        Cause::Returned => "it came back",
        Cause::Will => "its process died, says its last will",
        Cause::Forced => "an operator declared that it will not come back",
        Cause::Revoked => "the mesh's authority has revoked it",
        Cause::CertificateExpired => "its certificate has expired",
        Cause::CertificateUntrusted => "its certificate is by no authority that this node believes any more",
    }
}

/// One client's place in the history.
struct Feed {
    agent: Agent,
    epoch: u64,
    seen: u64,
    waiting: VecDeque<Line>,
}

impl Feed {
    /// Takes what is new.
    fn fill(&mut self) {
        let (missed, entries) = self.agent.journal().after(self.seen);
        // Of events before its first connection nobody missed any.
        if missed > 0 && self.seen > 0 {
            self.waiting.extend(Line::default().event("missed").json_data(Missed { missed }));
        }
        for entry in entries {
            self.seen = entry.number;
            let row = Row::of(&entry, self.epoch);
            self.waiting.extend(Line::default().event(row.event).id(row.id.clone()).json_data(row));
        }
    }
}

#[derive(Serialize)]
struct Missed {
    missed: u64,
}

pub(super) async fn events(State(app): Shared, headers: HeaderMap, mut params: Params) -> Answer {
    let after = params.one("after")?;
    params.end()?;
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let epoch = app.agent.view().this().map_or(0, |this| this.epoch.0);
    let last = text("last-event-id").or(after.as_deref());
    let seen = last.map_or(Ok(0), |id| number(id, epoch))?;
    if text(header::ACCEPT.as_str()).is_some_and(|accept| accept.starts_with("application/json")) {
        let (_, entries) = app.agent.journal().after(seen);
        let rows: Vec<_> = entries.iter().map(|entry| Row::of(entry, epoch)).collect();
        return Ok(Json(rows).into_response());
    }
    // Subscribed before the first look: nothing falls between.
    let news = app.agent.journal().subscribe();
    let feed = Feed { agent: app.agent.clone(), epoch, seen, waiting: VecDeque::new() };
    let lines = stream::unfold((feed, news), |(mut feed, mut news)| async move {
        loop {
            if let Some(line) = feed.waiting.pop_front() {
                return Some((Ok::<_, Infallible>(line), (feed, news)));
            }
            news.borrow_and_update();
            feed.fill();
            if feed.waiting.is_empty() {
                news.changed().await.ok()?;
            }
        }
    });
    let lines = lines.take_until(app.stop.clone().cancelled_owned());
    Ok(Sse::new(lines).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

/// The number in an event's id; none of it was seen where the id is of an earlier start of the process.
fn number(id: &str, epoch: u64) -> Result<u64, Problem> {
    let parts = id.split_once('-').and_then(|(epoch, number)| Some((epoch.parse::<u64>().ok()?, number.parse().ok()?)));
    match parts {
        Some((theirs, number)) if theirs == epoch => Ok(number),
        Some(_) => Ok(0),
        None => Err(Problem::field("after", "is no id of an event, such as 1700000000000-12")),
    }
}

/// For the OpenAPI document.
pub(super) fn describe(api: &mut Api) {
    api.get("/api/v1/events", "What happened in the mesh, and why.")
        .query("after", "The id of the last event that was seen, where there is no Last-Event-ID.")
        .streams::<Row>(
            "Remembered events, then each as it happens; a list of the remembered for Accept: application/json.",
        );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::{self, Flip},
        model::{Health, MemberState, NodeId},
    };

    fn row(news: News) -> serde_json::Value {
        serde_json::to_value(Row::of(&Entry { number: 3, unix_millis: 1_700_000_000_123, news }, 7)).unwrap()
    }

    #[test]
    fn an_event_says_what_was_what_is_and_why() {
        let (was, now) = (Some(MemberState::Alive), MemberState::Down);
        let event = Event::Member { node: NodeId(1), was, now, cause: Cause::Will };
        let expected = serde_json::json!({
            "id": "7-3", "at": "2023-11-14T22:13:20.123Z", "event": "member", "node": "c", "was": "alive", "now": "down",
            "cause": "will", "why": because(Cause::Will),
        });
        assert_eq!(row(News::Mesh(event, Some("c".try_into().unwrap()))), expected);
        let flip = Flip {
            service: "web".try_into().unwrap(),
            instance: "web-1".try_into().unwrap(),
            node: "c".try_into().unwrap(),
            was: Health::Passing,
            now: Health::Critical,
            check: Some("http-1".into()),
            why: "503".into(),
        };
        let expected = serde_json::json!({
            "id": "7-3", "at": "2023-11-14T22:13:20.123Z", "event": "health", "node": "c", "service": "web",
            "instance": "web-1", "was": "passing", "now": "critical", "cause": "check", "check": "http-1", "why": "503",
        });
        assert_eq!(row(News::Health(Box::new(flip))), expected);
        let at = |text: &str| vec![text.parse().unwrap()];
        let (was, now) = (at("10.0.0.1:7946"), at("[fd00::2]:7946"));
        let moved = agent::Move { node: "c".try_into().unwrap(), was, now, is_this: false };
        let expected = serde_json::json!({
            "id": "7-3", "at": "2023-11-14T22:13:20.123Z", "event": "moved", "node": "c", "was": "10.0.0.1:7946",
            "now": "[fd00::2]:7946", "cause": "told", "why": "it says so itself",
        });
        assert_eq!(row(News::Moved(Box::new(moved))), expected);
        let cut_off = row(News::Mesh(Event::PartitionBegan { missing: 3, of: 5 }, None));
        assert_eq!((&cut_off["event"], cut_off.get("node")), (&"partition_began".into(), None));
    }

    #[test]
    fn a_reader_of_an_earlier_start_begins_anew() {
        assert_eq!(number("7-12", 7), Ok(12));
        assert_eq!(number("6-12", 7), Ok(0));
        for wrong in ["", "12", "7-", "-12", "7-x", "a-1"] {
            assert!(number(wrong, 7).is_err(), "{wrong}");
        }
    }
}
