//! The simulated figures: `cargo bench --bench sim [-- FILTER] [--nodes N]`.
//!
//! Each row runs the core that the agent runs, on links of 0.25 ms one way plus up to 0.05 ms jitter, in virtual time.
//! A connection that is not there yet costs its handshake. The simulator models neither bandwidth nor the time a
//! handler takes: what is bound by a processor is measured by `--bench mesh` instead.

#![allow(clippy::disallowed_methods, reason = "a bench reads the clock to say how long it ran")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

use std::{collections::BTreeSet, time::Duration};

use hobnob::{
    mesh::{Change, Event, Stats},
    model::{InstanceId, MemberState, Registration, ServiceName},
    sim::{Depth, Journal, Network, Seen, Settings, World},
};

const SECOND: Duration = Duration::from_secs(1);
const SEED: u64 = 2026;
/// Registrations, one after the other, that a spread is measured by.
const UPDATES: usize = 30;

fn main() {
    let mut filter = String::new();
    let mut nodes = None;
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        match word.as_str() {
            "--nodes" => nodes = words.next().and_then(|n| n.parse().ok()),
            _ => filter = word,
        }
    }
    let size = nodes.unwrap_or(1_000);
    let large = nodes.unwrap_or(10_000);
    let figures = [
        Figure { name: "spread", run: |n| spread(n, 0.0), nodes: size },
        Figure { name: "spread-loss", run: |n| spread(n, 0.05), nodes: size },
        Figure { name: "spread-large", run: |n| spread(n, 0.0), nodes: large },
        Figure { name: "spread-large-loss", run: |n| spread(n, 0.05), nodes: large },
        Figure { name: "cold-start", run: cold_start, nodes: size },
        Figure { name: "burst", run: burst, nodes: size },
        Figure { name: "partition", run: partition, nodes: size },
        Figure { name: "equal-sync", run: equal_sync, nodes: 2 },
    ];
    println!("{:<66} {:>12} {:>26}   {:>8}", "figure", "target", "measured", "ran for");
    for figure in figures.iter().filter(|figure| figure.name.contains(&filter)) {
        let began = std::time::Instant::now();
        for row in (figure.run)(figure.nodes) {
            let ran = began.elapsed().as_secs_f64();
            println!("{:<66} {:>12} {:>26}   {ran:>6.1} s", row.figure, row.target, row.measured);
        }
    }
    println!("peak resident memory: {}", peak_memory().unwrap_or_else(|| "unknown".into()));
}

/// The most memory this process ever had, as Linux counts it.
fn peak_memory() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(format!("{:.2} GB", kilobytes * 1024.0 / 1e9))
}

/// One measurement, which gives some lines of the table.
struct Figure {
    name: &'static str,
    run: fn(usize) -> Vec<Row>,
    nodes: usize,
}

/// One line of the table.
struct Row {
    figure: String,
    target: &'static str,
    measured: String,
}

fn row(figure: impl Into<String>, target: &'static str, measured: impl Into<String>) -> Row {
    Row { figure: figure.into(), target, measured: measured.into() }
}

fn settings(loss: f64, journal: Journal) -> Settings {
    let network = Network { loss, ..Network::default() };
    Settings { network, depth: Depth::Off, journal, ..Settings::seeded(SEED) }
}

fn millis(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}

fn seconds(duration: Option<Duration>) -> String {
    duration.map_or("never".into(), |took| format!("{:.2} s", took.as_secs_f64()))
}

fn total(world: &World, counter: impl Fn(&Stats) -> u64) -> u64 {
    world.running().map(|n| counter(&world.mesh(n).unwrap().stats())).sum()
}

fn bytes(world: &World) -> (u64, u64) {
    let traffic = (0..world.machines()).map(|n| world.traffic(n));
    traffic.fold((0, 0), |(payload, overhead), t| (payload + t.bytes(), overhead + t.overhead()))
}

/// One registration at a time: when does each node show it, in how many copies does it hear of it, is one lost?
fn spread(nodes: usize, loss: f64) -> Vec<Row> {
    let mut world = World::warm(settings(loss, Journal::Everything), nodes);
    world.run(10 * SECOND);
    let copies_before = total(&world, |stats| stats.rumors_received);
    let mut took = Vec::with_capacity(nodes * UPDATES);
    let mut lost = 0;
    for update in 0..UPDATES {
        let name = format!("s{update}");
        let service: ServiceName = name.as_str().try_into().unwrap();
        world.take_log();
        let (owner, began) = (update * 7919 % nodes, world.now());
        world.register(owner, Registration::new(&name, 8080).unwrap());
        world.run(2 * SECOND);
        let mut told = BTreeSet::new();
        for (at, n, seen) in world.take_log() {
            if matches!(&seen, Seen::Changed(Change::Service(changed)) if *changed == service) && told.insert(n) {
                took.push(at.since(began));
            }
        }
        lost += (0..nodes).filter(|&n| world.shown(n, &service).is_empty()).count();
    }
    let copies = total(&world, |stats| stats.rumors_received) - copies_before;
    // A node that was not told in time counts as told never, so that a lost row cannot flatter the rest.
    took.resize(nodes * UPDATES, Duration::MAX);
    took.sort_unstable();
    let at = |part: f64| match took[((took.len() - 1) as f64 * part) as usize] {
        Duration::MAX => "never".into(),
        told => millis(told),
    };
    let what = format!("{nodes} nodes, {:.0} % loss", loss * 100.0);
    let target = if nodes > 1_000 { "4 ms" } else { "3 ms" };
    vec![
        row(format!("register to shown everywhere, {what}: p50"), "", at(0.5)),
        row(format!("register to shown everywhere, {what}: p99"), target, at(0.99)),
        row(format!("register to shown everywhere, {what}: max"), "", at(1.0)),
        row(
            format!("copies per node and update, {what}"),
            "2",
            format!("{:.2}", copies as f64 / (nodes * UPDATES) as f64),
        ),
        row(format!("rows that a node lacks 2 s later, {what}"), "0", lost.to_string()),
    ]
}

/// All start at one moment and know three seeds; how long until all know all?
fn cold_start(nodes: usize) -> Vec<Row> {
    let mut world = World::cold(settings(0.0, Journal::Off), nodes);
    let took = world.run_until(300 * SECOND, SECOND / 20, World::agrees);
    let (payload, overhead) = bytes(&world);
    let per_node = |bytes: u64| format!("{:.1} KB", bytes as f64 / 1e3 / nodes as f64);
    vec![
        row(format!("{nodes} nodes start at once until all know all"), "5 s", seconds(took)),
        row(format!("{nodes} nodes start at once: bytes sent by each (headers)"), "", {
            format!("{} (+{})", per_node(payload), per_node(overhead))
        }),
    ]
}

/// Every node registers ten instances at the same moment.
fn burst(nodes: usize) -> Vec<Row> {
    let mut world = World::warm(settings(0.0, Journal::Off), nodes);
    world.run(10 * SECOND);
    let (before, headers_before) = bytes(&world);
    let mut payload = 0;
    for n in 0..nodes {
        for service in 0..10 {
            let id: InstanceId = format!("s{service}-{n}").as_str().try_into().unwrap();
            let registration = Registration::new(&format!("s{service}"), 8080).unwrap().id(id);
            payload += rmp_serde::to_vec_named(&registration).unwrap().len() * nodes;
            world.register(n, registration);
        }
    }
    let took = world.run_until(120 * SECOND, SECOND / 100, World::agrees);
    let (after, headers) = bytes(&world);
    let times = |bytes: u64| bytes as f64 / payload as f64;
    vec![
        row(format!("{nodes} nodes x 10 registrations at once: shown everywhere"), "3 s", seconds(took)),
        row(format!("{nodes} nodes x 10 registrations at once: bytes / payload"), "3", {
            format!("{:.2} (+{:.2} headers)", times(after - before), times(headers - headers_before))
        }),
    ]
}

/// Two halves for a minute, with changes on both sides; then they meet again.
fn partition(nodes: usize) -> Vec<Row> {
    let mut world = World::warm(settings(0.0, Journal::Events), nodes);
    (0..nodes).for_each(|n| world.register(n, Registration::new("web", 8080).unwrap()));
    world.run(10 * SECOND);
    let (left, right): (Vec<_>, Vec<_>) = (0..nodes).partition(|n| n % 2 == 0);
    world.cut(&left, &right);
    world.cut(&right, &left);
    world.run(30 * SECOND);
    (0..nodes).step_by(nodes.div_ceil(20)).for_each(|n| world.register(n, Registration::new("late", 1).unwrap()));
    world.run(30 * SECOND);
    let marks = |world: &World| -> Vec<_> {
        let own = world.running().filter_map(|n| world.mesh(n)?.member(world.id(n)));
        own.map(|member| (member.epoch, member.version)).collect()
    };
    let before = marks(&world);
    world.take_log();
    world.heal();
    let took = world.run_until(1_200 * SECOND, SECOND / 20, World::agrees);
    world.run(30 * SECOND);
    let renamed = before.iter().zip(marks(&world)).filter(|(before, after)| *before != after).count();
    let down = |seen: &Seen| matches!(seen, Seen::Event(Event::Member { now: MemberState::Down, .. }));
    let flaps = world.take_log().iter().filter(|(_, _, seen)| down(seen)).count();
    vec![
        row(format!("{nodes} nodes in halves for 60 s, healed: equal views"), "3 s", seconds(took)),
        row(format!("{nodes} nodes in halves for 60 s, healed: books touched"), "0", renamed.to_string()),
        row(format!("{nodes} nodes in halves for 60 s, healed: members seen Down"), "0", flaps.to_string()),
    ]
}

/// Nodes that agree: all that is sent within 5 ms of a sync's begin, whatever else rides along.
fn equal_sync(nodes: usize) -> Vec<Row> {
    const STEP: Duration = Duration::from_millis(1);
    let mut world = World::warm(settings(0.0, Journal::Off), nodes);
    (0..nodes).for_each(|n| world.register(n, Registration::new("web", 8080).unwrap()));
    world.run(60 * SECOND);
    let (mut cost, mut syncs) = (0, 0);
    for _ in 0..300_000 {
        let (before, started) = (bytes(&world).0, total(&world, |stats| stats.syncs_started));
        world.run(STEP);
        let begun = total(&world, |stats| stats.syncs_started) - started;
        if begun > 0 {
            world.run(5 * STEP);
            syncs += begun;
            cost += bytes(&world).0 - before;
        }
    }
    let each = cost as f64 / syncs.max(1) as f64;
    vec![row("sync between equal nodes, both ways", "100 B", format!("{each:.0} B of {syncs}"))]
}
