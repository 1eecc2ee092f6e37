//! `GET /metrics`: OpenMetrics text 1.0, written by hand, since what it shows are plain counters read elsewhere.

use std::{
    collections::BTreeMap,
    fmt::{Display, Write},
    time::UNIX_EPOCH,
};

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use super::{App, Shared, crowd::Crowd, descriptors::Descriptors, native::Api};
use crate::{
    mesh::Held,
    model::{Health, MemberState},
};

pub(super) async fn metrics(State(app): Shared) -> Response {
    let mut page = Page::default();
    process(&mut page, &app);
    certificate(&mut page, &app);
    mesh(&mut page, &app);
    page.counters("hobnob", app.agent.stats().await.each());
    page.counters("hobnob_driver", app.agent.traffic().each());
    events(&mut page, &app);
    for tally in &app.tallies {
        page.counters(&format!("hobnob_{}", tally.room), tally.each().into_iter());
    }
    crowd(&mut page, &app.crowd);
    page.family("hobnob_http_parked", "gauge", "Reads of /v1 that wait for a change.");
    page.sample("hobnob_http_parked", &[], app.bodies.parked());
    page.family("hobnob_http_requests", "counter", "Requests answered, by route and class of status.");
    for (route, code, count) in app.requests.each() {
        page.sample("hobnob_http_requests_total", &[("route", route), ("code", code)], count);
    }
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], page.finish()).into_response()
}

fn process(page: &mut Page, app: &App) {
    page.family("hobnob_build", "info", "The program.");
    page.sample("hobnob_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.family("process_start_time_seconds", "gauge", "When the process began to serve, in unix time.");
    let started = app.started.duration_since(UNIX_EPOCH).unwrap_or_default();
    page.sample("process_start_time_seconds", &[], started.as_secs_f64());
    let files = Descriptors::now();
    page.family("process_open_fds", "gauge", "File descriptors in use.");
    page.sample("process_open_fds", &[], files.open);
    page.family("process_max_fds", "gauge", "File descriptors that may be in use.");
    page.sample("process_max_fds", &[], files.limit);
    page.family("hobnob_store_failed", "gauge", "Whether the last write to the store failed.");
    page.sample("hobnob_store_failed", &[], u8::from(app.agent.unstored().is_some()));
    page.family("hobnob_ready", "gauge", "Whether catalogue reads are answered.");
    page.sample("hobnob_ready", &[], u8::from(app.agent.view().is_ready()));
}

fn events(page: &mut Page, app: &App) {
    page.family("hobnob_events", "counter", "Events, by kind, by the state or health they led to, and by cause.");
    for ((event, now, cause), count) in app.agent.journal().counts() {
        page.sample("hobnob_events_total", &[("event", event), ("now", now), ("cause", cause)], count);
    }
}

fn crowd(page: &mut Page, crowd: &Crowd) {
    page.family("hobnob_http_connections_held", "gauge", "Connections held now.");
    page.sample("hobnob_http_connections_held", &[], crowd.held());
    page.family("hobnob_http_connections", "counter", "Connections taken in.");
    page.sample("hobnob_http_connections_total", &[], crowd.accepted());
    page.family("hobnob_http_cut_off", "counter", "Connections and requests given up, by reason.");
    for (reason, count) in crowd.each() {
        page.sample("hobnob_http_cut_off_total", &[("reason", reason)], count);
    }
}

fn certificate(page: &mut Page, app: &App) {
    let of_http = app.tls.as_ref().and_then(|tls| tls.says());
    let own = ("hobnob_certificate", "this node's certificate", Some(app.agent.certificate()));
    for (room, whose, says) in [own, ("hobnob_http_certificate", "the HTTP port's certificate", of_http)] {
        let Some(says) = says else { continue };
        for (name, help, at) in
            [("not_before", "From when on", says.not_before), ("expires", "Until when", says.not_after)]
        {
            let name = format!("{room}_{name}_seconds");
            page.family(&name, "gauge", &format!("{help} {whose} is good."));
            page.sample(&name, &[], at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
        }
    }
}

fn mesh(page: &mut Page, app: &App) {
    let view = app.agent.view();
    let mut members = BTreeMap::new();
    for member in view.nodes() {
        *members.entry(member.state).or_insert(0) += 1;
    }
    page.family("hobnob_members", "gauge", "Nodes known, by how the mesh sees them.");
    for state in [MemberState::Alive, MemberState::Suspect, MemberState::Down, MemberState::Left] {
        page.sample("hobnob_members", &[("state", state.as_str())], members.get(&state).unwrap_or(&0));
    }
    let services = view.services();
    let (mut instances, mut held) = (BTreeMap::new(), BTreeMap::new());
    for instance in services.iter().flat_map(|service| &service.instances) {
        *instances.entry(instance.health()).or_insert(0) += 1;
        instance.held.iter().for_each(|why| *held.entry(why.why()).or_insert(0) += 1);
    }
    page.family("hobnob_services", "gauge", "Services known.");
    page.sample("hobnob_services", &[], services.len());
    page.family("hobnob_instances", "gauge", "Instances shown, by health.");
    for health in [Health::Passing, Health::Warning, Health::Critical, Health::Maintenance] {
        page.sample("hobnob_instances", &[("health", health.as_str())], instances.get(&health).unwrap_or(&0));
    }
    page.family("hobnob_instances_held", "gauge", "Instances served as they last were, by why.");
    for why in [Held::CutOff(None), Held::Protected(Health::Passing)].map(Held::why) {
        page.sample("hobnob_instances_held", &[("why", why)], held.get(why).unwrap_or(&0));
    }
    page.family("hobnob_agreement", "gauge", "The part of the peers heard from lately that know what this node knows.");
    page.sample("hobnob_agreement", &[], app.agent.agreement());
}

/// A page of OpenMetrics.
#[derive(Debug, Default)]
struct Page(String);

impl Page {
    /// Begins a family; its samples follow it at once.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {}\n# TYPE {name} {kind}", escape(help.trim()));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (n, (key, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{key}=\"{}\"", if n == 0 { '{' } else { ',' }, escape(text));
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    /// A family for each plain counter of a room: its name, its meaning, its value.
    fn counters(&mut self, prefix: &str, each: impl Iterator<Item = (&'static str, &'static str, u64)>) {
        for (name, help, value) in each {
            self.family(&format!("{prefix}_{name}"), "counter", help);
            self.sample(&format!("{prefix}_{name}_total"), &[], value);
        }
    }

    fn finish(mut self) -> String {
        self.0.push_str("# EOF\n");
        self.0
    }
}

/// Backslashes, quotes and line ends, as the format's section on escaping asks.
fn escape(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// For the OpenAPI document.
pub(super) fn describe(api: &mut Api) {
    api.get("/metrics", "Counters and gauges of this node.").text("application/openmetrics-text", "OpenMetrics 1.0.");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::Stats;

    #[test]
    fn a_page_is_openmetrics() {
        let mut page = Page::default();
        page.family("up", "gauge", "It is \"up\".");
        page.sample("up", &[("a", "x\\\"\n"), ("b", "")], 1);
        let stats = Stats { gaps: 7, ..Stats::default() };
        page.counters("hobnob", stats.each().filter(|(name, ..)| *name == "gaps"));
        let expected = "# HELP up It is \\\"up\\\".\n# TYPE up gauge\nup{a=\"x\\\\\\\"\\n\",b=\"\"} 1\n\
                        # HELP hobnob_gaps Rumours that left a gap behind them.\n# TYPE hobnob_gaps counter\n\
                        hobnob_gaps_total 7\n# EOF\n";
        assert_eq!(page.finish(), expected);
    }
}
