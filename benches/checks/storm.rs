//! A hundred thousand flips in a minute on one node: what the others hear of it, and whether it is right in the end.

use std::{
    net::SocketAddr,
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    Effort, Row,
    fleet::{Fleet, metric},
    machine::usage,
    row,
    talk::Client,
};

pub(crate) fn storm(effort: Effort) -> Vec<Row> {
    let (flips, span) = effort.pick((100_000, Duration::from_secs(60)), (4_000, Duration::from_secs(3)));
    let fleet = Fleet::start(NODES);
    let (stormy, others) = fleet.ready.split_first().unwrap();
    let mut clients: Vec<_> = (0..INSTANCES).map(|_| Client::connect(stormy.http)).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        let body = r#"{"name":"web","port":1,"checks":[{"id":"beat","ttl":"1h","initial":"passing"}]}"#;
        assert_eq!(client.call("PUT", &format!("/api/v1/registrations/w{n}"), body).0, 201);
    }
    until_all(&fleet, &[true; INSTANCES]);
    sleep(SETTLE);
    let heard = || {
        let names = ["datagram", "stream"].map(|way| format!("hobnob_driver_{way}_bytes_received_total"));
        others.iter().flat_map(|node| names.iter().map(|name| metric(node.http, name))).sum::<f64>()
    };
    let spent = || others.iter().map(|node| usage(node.pid).cpu_seconds).sum::<f64>();
    let sent = || metric(stormy.http, "hobnob_flips_damped_total");
    let (before, heard_before, spent_before, damped_before) = (usage(stormy.pid), heard(), spent(), sent());
    let (mut wanted, mut most) = (vec![true; INSTANCES], before);
    let began = Instant::now();
    let rounds = flips / INSTANCES;
    for round in 0..rounds {
        // An odd one of three stays as it was now and then, so that not all end alike.
        let flips = |n: usize| round + 1 < rounds || !n.is_multiple_of(3);
        for (n, client) in clients.iter_mut().enumerate().filter(|(n, _)| flips(*n)) {
            wanted[n] = !wanted[n];
            let status = if wanted[n] { "passing" } else { "critical" };
            let body = format!(r#"{{"status":"{status}","output":"flip {round}"}}"#);
            client.send("PUT", &format!("/api/v1/registrations/w{n}/checks/beat"), &body);
        }
        for (_, client) in clients.iter_mut().enumerate().filter(|(n, _)| flips(*n)) {
            let (status, why) = client.receive();
            assert_eq!(status, 200, "{why}");
        }
        if round % 50 == 0 {
            let now = usage(stormy.pid);
            most = if now.rss_mb > most.rss_mb { now } else { most };
        }
        let due = span.mul_f64((round + 1) as f64 / rounds as f64);
        sleep(due.saturating_sub(began.elapsed()));
    }
    let took = began.elapsed();
    let settled = until_all(&fleet, &wanted);
    let each = (NODES - 1) as f64;
    let told = flips as f64 - (sent() - damped_before);
    vec![
        row(
            format!(
                "{flips} flips of {INSTANCES} instances offered at one node in {:.0} s: its memory",
                took.as_secs_f64()
            ),
            "bounded",
            format!("{:.1} MB before, {:.1} MB at most", before.rss_mb, most.rss_mb),
            "",
        ),
        row(
            "the same, what each other node receives for all, and of a core",
            "bounded",
            format!(
                "{:.0} flips told, {:.0} KB, {:.1} %",
                told,
                (heard() - heard_before) / each / 1e3,
                100.0 * (spent() - spent_before) / each / began.elapsed().as_secs_f64()
            ),
            "",
        ),
        row(
            "the same, from the last flip until every node is right",
            "right",
            format!("{:.1} s", settled.as_secs_f64()),
            "",
        ),
    ]
}

/// Waits until every node has each instance as it is wanted.
fn until_all(fleet: &Fleet, wanted: &[bool]) -> Duration {
    let began = Instant::now();
    for ready in &fleet.ready {
        while seen(ready.http) != wanted {
            assert!(began.elapsed() < GIVE_UP, "{} is not right", ready.http);
            sleep(Duration::from_millis(20));
        }
    }
    began.elapsed()
}

/// How a node sees each instance.
fn seen(http: SocketAddr) -> Vec<bool> {
    let (_, page) = Client::connect(http).call("GET", "/api/v1/services/web", "");
    let instances: Value = serde_json::from_str(&page).unwrap();
    let number = |one: &Value| one["id"].as_str().and_then(|id| id[1..].parse::<usize>().ok()).unwrap();
    let mut seen: Vec<_> =
        instances.as_array().unwrap().iter().map(|one| (number(one), one["health"] == "passing")).collect();
    seen.sort_unstable();
    seen.into_iter().map(|(_, passing)| passing).collect()
}

const NODES: usize = 4;
const INSTANCES: usize = 100;
const SETTLE: Duration = Duration::from_secs(2);
const GIVE_UP: Duration = Duration::from_secs(60);
