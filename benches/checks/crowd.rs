//! Ten thousand tcp checks on one node: what they cost, and how even their beat is.
//!
//! Each check calls an address of its own, by which the target tells the calls of one check from all others. What a
//! call is off the check's beat is the distance from its own median phase: whatever the target itself is late counts in.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    Effort, Row, Spans,
    fleet::{Recipe, home, metric},
    machine::{Usage, usage},
    row,
    talk::Client,
    targets::Crowd,
};

pub(crate) fn crowd(effort: Effort) -> Vec<Row> {
    let (checks, beats) = effort.pick((10_000, 12), (1_000, 2));
    let mut rows = Vec::new();
    for (from, each, beats) in [(Source::Api, 10, beats), (Source::File, 10, 3), (Source::File, 1, 3)] {
        let Measured { cpu, off, late, run, memory, until_passing } = measure(from, checks, each, beats);
        let (of, services) = (from.as_str(), checks / each);
        let what = format!("{checks} tcp checks every 10 s on one node, of {services} services {of}");
        let target = |target: &'static str| if from == Source::Api { target } else { "" };
        rows.extend([
            row(format!("{what}: of a core"), target("6 %"), format!("{cpu:.1} %"), ""),
            row(
                "the same, a start off its beat, seen by the target: p50 / p99",
                target("p99 20 ms"),
                format!("{:.2} / {:.2} ms", off.millis(0.5), off.millis(0.99)),
                "",
            ),
            row("the same, starts that the agent itself counts as late", "", format!("{late:.0} of {run:.0}"), ""),
            row(
                "the same, resident memory: all, and what is no file's",
                target("40 MB"),
                format!("{:.1} MB, {:.1} MB", memory.rss_mb, memory.anonymous_mb),
                "",
            ),
            row("the same, from ready to all passing", "", format!("{until_passing:.1} s"), ""),
        ]);
    }
    rows
}

struct Measured {
    cpu: f64,
    off: Spans,
    late: f64,
    run: f64,
    memory: Usage,
    until_passing: f64,
}

/// How the checks come to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Api,
    /// One file: the memory that reading it takes counts.
    File,
}

impl Source {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "by HTTP",
            Self::File => "by one file of services.d",
        }
    }
}

/// So many checks, `each` to a service, watched for so many of their beats.
fn measure(from: Source, checks: usize, each: usize, beats: u32) -> Measured {
    let target = Crowd::start();
    let home = home();
    let etc = home.path().join("etc");
    let mut recipe = Recipe::new(home.path(), "n0");
    if from == Source::File {
        define(&etc, checks, each, target.port);
        recipe.config = Some(etc);
    }
    let agent = recipe.start();
    let ready = agent.ready();
    let began = Instant::now();
    if from == Source::Api {
        register(ready.http, checks, each, target.port);
    }
    while metric(ready.http, "hobnob_instances{health=\"passing\"}") < (checks / each) as f64 {
        assert!(began.elapsed() < PATIENCE, "not all checks pass");
        sleep(Duration::from_millis(100));
    }
    let until_passing = began.elapsed().as_secs_f64();
    // Each has its beat by then.
    sleep(EVERY + Duration::from_secs(5));
    drop(target.calls());
    let (before, began) = (usage(ready.pid), Instant::now());
    let counted = |name: &str| metric(ready.http, name);
    let (run, late) = (counted(RUN), counted(LATE));
    sleep(EVERY * beats);
    let memory = usage(ready.pid);
    let cpu = 100.0 * (memory.cpu_seconds - before.cpu_seconds) / began.elapsed().as_secs_f64();
    let (run, late) = (counted(RUN) - run, counted(LATE) - late);
    assert!(run > 0.95 * checks as f64 * f64::from(beats), "{run} runs");
    Measured { cpu, off: off_beat(&target.calls()), late, run, memory, until_passing }
}

/// Registers so many checks, each of an address of its own.
fn register(http: SocketAddr, checks: usize, each: usize, port: u16) {
    let mut client = Client::connect(http);
    for n in (0..checks).step_by(each) {
        let checks = (n..n + each).map(|n| format!(r#"{{"tcp":"{}:{port}","interval":"10s"}}"#, address(n)));
        let checks = checks.collect::<Vec<_>>().join(",");
        let body = format!(r#"{{"name":"s{n}","port":{port},"checks":[{checks}]}}"#);
        let (status, why) = client.call("PUT", &format!("/api/v1/registrations/s{n}"), &body);
        assert_eq!(status, 201, "{why}");
    }
}

/// A configuration directory with as many.
fn define(etc: &Path, checks: usize, each: usize, port: u16) {
    fs::create_dir_all(etc.join("services.d")).unwrap();
    fs::write(etc.join("hobnob.toml"), "").unwrap();
    let mut text = String::new();
    for n in 0..checks {
        if n % each == 0 {
            write!(text, "[[services]]\nname = \"s{n}\"\nport = {port}\n").unwrap();
        }
        write!(text, "[[services.checks]]\ntcp = \"{}:{port}\"\ninterval = \"10s\"\n", address(n)).unwrap();
    }
    fs::write(etc.join("services.d/all.toml"), text).unwrap();
}

/// Where the check of that number calls: on this machine.
fn address(n: usize) -> Ipv4Addr {
    let [_, a, b, c] = u32::try_from(n).unwrap().to_be_bytes();
    Ipv4Addr::new(127, a + 1, b, c)
}

/// How far each call was from its check's own beat.
fn off_beat(calls: &[(Ipv4Addr, Instant)]) -> Spans {
    let origin = calls[0].1;
    let mut by_check: BTreeMap<Ipv4Addr, Vec<Duration>> = BTreeMap::new();
    for (check, at) in calls {
        by_check.entry(*check).or_default().push(at.duration_since(origin));
    }
    let nanos = EVERY.as_nanos() as i128;
    Spans::of(by_check.into_values().flat_map(|calls| {
        let first = calls[0].as_nanos() as i128;
        let mut phases: Vec<_> =
            calls.iter().map(|at| (at.as_nanos() as i128 - first + nanos / 2) % nanos - nanos / 2).collect();
        phases.sort_unstable();
        let median = phases[phases.len() / 2];
        phases.into_iter().map(move |phase| Duration::from_nanos((phase - median).unsigned_abs() as u64))
    }))
}

const EVERY: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(120);
const RUN: &str = "hobnob_driver_checks_run_total";
const LATE: &str = "hobnob_driver_checks_late_total";
