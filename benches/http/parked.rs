//! Readers who wait: what they cost while nothing happens, and how soon the last one hears when something does.

use std::{
    net::SocketAddr,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    Effort, Row, Spans,
    fleet::{Agent, Ready, Recipe, home, metric},
    load::{self, Line},
    machine::usage,
    row,
    talk::Client,
};

/// The rows for a crowd that watches one service.
pub(crate) fn one_service(effort: Effort) -> Vec<Row> {
    let (count, rounds) = effort.pick((10_000, 30), (500, 3));
    let home = home();
    let agent = Recipe::new(home.path(), "n0").start();
    let ready = agent.ready();
    let mut client = Client::connect(ready.http);
    change(&mut client, "web", 0);
    let mut lines = load::lines(ready.http, count);
    let (mut spans, mut most, mut spent) = (Vec::new(), 0.0_f64, 0.0);
    let alone = usage(ready.pid).rss_mb;
    for round in 0..rounds {
        let index = index(ready.http, "web");
        for line in &mut lines {
            line.ask(&format!("/v1/health/service/web?passing&index={index}&wait=10m"));
        }
        until_parked(ready.http, count);
        let cpu = usage(ready.pid).cpu_seconds;
        let began = Instant::now();
        change(&mut client, "web", round + 1);
        for line in &mut lines {
            line.hear();
        }
        spans.push(began.elapsed());
        let now = usage(ready.pid);
        most = most.max(now.rss_mb);
        spent += now.cpu_seconds - cpu;
    }
    let spans = Spans::of(spans);
    let each = spent * 1e6 / (rounds * count) as f64;
    vec![
        row(
            format!(
                "{count} parked readers of one service, one change: the last has its answer, p50 / p99 of {rounds}"
            ),
            "p99 120 ms",
            format!("{:.0} / {:.0} ms, {each:.1} µs of processor each", spans.millis(0.5), spans.millis(0.99)),
            "Consul about 1 s at 172,000 on 180 cores",
        ),
        row(
            format!("the agent's resident memory with {count} of them"),
            "150 MB",
            format!("{most:.0} MB, without them {alone:.0} MB"),
            "",
        ),
    ]
}

/// The row for a reader of each of many services, while nothing happens.
pub(crate) fn many_services(effort: Effort) -> Vec<Row> {
    let (count, settle, watched) = effort.pick((1_000, 10, 60), (100, 1, 3));
    let home = home();
    let agent: Agent = Recipe::new(home.path(), "n0").start();
    let Ready { pid, http, .. } = agent.ready();
    let mut client = Client::connect(http);
    (0..count).for_each(|n| change(&mut client, &format!("s{n}"), 0));
    let mut lines = load::lines(http, count);
    for (n, line) in lines.iter_mut().enumerate() {
        let index = index(http, &format!("s{n}"));
        line.ask(&format!("/v1/health/service/s{n}?passing&index={index}&wait=10m"));
    }
    until_parked(http, count);
    sleep(Duration::from_secs(settle));
    let before = usage(pid).cpu_seconds;
    sleep(Duration::from_secs(watched));
    let spent = usage(pid).cpu_seconds - before;
    vec![row(
        format!("{count} services with a parked reader each, idle for {watched} s"),
        "0.1 % of a core",
        format!("{:.3} %", 100.0 * spent / watched as f64),
        "",
    )]
}

/// Registers a service anew, elsewhere than before.
fn change(client: &mut Client, name: &str, round: usize) {
    client.register(name, name, &format!("10.0.0.{}", round % 200 + 1));
    let (status, why) = client.receive();
    assert!(matches!(status, 200 | 201), "{why}");
}

/// Where a reader of a service starts to wait from.
fn index(http: SocketAddr, name: &str) -> String {
    let mut line = Line::open(http);
    line.ask(&format!("/v1/health/service/{name}?passing"));
    load::value(&line.hear().0, "x-consul-index").unwrap().to_owned()
}

fn until_parked(http: SocketAddr, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    while metric(http, "hobnob_http_parked") < count as f64 {
        assert!(Instant::now() < deadline, "they do not all wait");
        sleep(Duration::from_millis(20));
    }
}

const PATIENCE: Duration = Duration::from_secs(60);
