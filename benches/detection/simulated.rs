//! The core that the agent runs, on simulated links of 0.25 ms: meshes too large, and hours too long, for one machine.

use std::{fs, time::Duration};

use hobnob::{
    mesh::Event,
    model::{MemberState, NodeId},
    sim::{Depth, Journal, Network, Seen, Settings, World},
};

use crate::{Effort, Row, Spans, row};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// A mesh that has stood for long, in this weather.
pub(crate) fn standing(seed: u64, nodes: usize, network: Network) -> World {
    let settings = Settings { network, depth: Depth::Off, journal: Journal::Events, ..Settings::seeded(seed) };
    let mut world = World::warm(settings, nodes);
    world.run(10 * SECOND);
    world.take_log();
    world
}

/// Who took whom for dead since the last call, and when after `from`.
pub(crate) fn deaths(world: &mut World) -> Vec<(Duration, usize, NodeId)> {
    let log = world.take_log();
    let deaths = log.into_iter().filter_map(|(at, observer, seen)| match seen {
        Seen::Event(Event::Member { node, now: MemberState::Down, .. }) => Some((at.since_start(), observer, node)),
        _ => None,
    });
    deaths.collect()
}

/// A node falls silent: when does the last other node know, and when does each?
pub(crate) fn silent(nodes: usize, effort: Effort) -> Vec<Row> {
    let world = standing(2026, nodes, Network::default());
    fall_silent(world, effort.pick(40, 10))
}

/// The same of ten thousand, where there is memory for them.
pub(crate) fn silent_large(effort: Effort) -> Vec<Row> {
    const NODES: usize = 10_000;
    /// In GB.
    const NEEDS: f64 = 12.0;
    let free = memory("/proc/meminfo", "MemAvailable:");
    if effort == Effort::Quick || NEEDS > free {
        let why = format!("not run: it needs {NEEDS:.0} GB of memory and a quarter of an hour; {free:.0} GB are free");
        return vec![row(format!("silent death, {NODES} simulated nodes"), "1500 / 2500 ms", why, "")];
    }
    fall_silent(standing(2026, NODES, Network::default()), 5)
}

/// A line of a file of Linux's that counts in kB, in GB.
fn memory(file: &str, key: &str) -> f64 {
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1e6
}

fn fall_silent(mut world: World, rounds: usize) -> Vec<Row> {
    let nodes = world.machines();
    let (mut all, mut each, mut wronged) = (Vec::new(), Vec::new(), 0);
    for round in 0..rounds {
        // Not always the same moment of everybody's second.
        world.run(SECOND.mul_f64(0.37 * round as f64 % 1.0));
        let (victim, began) = (round * 7919 % nodes, world.now().since_start());
        world.crash(victim);
        world.run(8 * SECOND);
        let id = world.id(victim);
        let (right, wrong): (Vec<_>, Vec<_>) = deaths(&mut world).into_iter().partition(|(_, _, node)| *node == id);
        let mut took: Vec<_> = right.into_iter().map(|(at, ..)| at - began).collect();
        wronged += wrong.len();
        // Whoever has not noticed by then counts as never.
        took.resize(nodes - 1, Duration::from_secs(9_999));
        all.extend(took.iter().max());
        each.extend(took);
        world.start(victim);
        world.run(10 * SECOND);
        world.take_log();
    }
    let times = |spans: Vec<Duration>| {
        let spans = Spans::of(spans);
        format!("{:.0} / {:.0} ms", spans.millis(0.5), spans.millis(0.99))
    };
    vec![
        row(
            format!("silent death until Down at every node, {nodes} simulated: p50 / p99 of {rounds}"),
            "1500 / 2500 ms",
            times(all),
            "Serf 9-17.6 s",
        ),
        row("the same, at each single node", "", times(each), ""),
        row("deaths of healthy nodes seen meanwhile", "0", wronged.to_string(), ""),
    ]
}

/// A rack dies, machine after machine: how long is each still shown by somebody?
pub(crate) fn rack(effort: Effort) -> Vec<Row> {
    const GAP: Duration = Duration::from_millis(300);
    let (nodes, dying, seeds) = (50, 20, effort.pick(20, 5));
    let (mut all, mut wronged) = (Vec::new(), 0);
    for seed in 0..seeds {
        let mut world = standing(seed, nodes, Network::default());
        let mut died = Vec::new();
        for victim in nodes - dying..nodes {
            died.push((world.id(victim), world.now().since_start()));
            world.crash(victim);
            world.run(GAP);
        }
        world.run(20 * SECOND);
        let seen = deaths(&mut world);
        let survivor = |observer: usize| observer < nodes - dying;
        for (id, at) in &died {
            let took: Vec<_> = seen.iter().filter(|(_, who, node)| node == id && survivor(*who)).collect();
            let last = took.iter().map(|(then, ..)| *then - *at).max().filter(|_| took.len() == nodes - dying);
            all.push(last.unwrap_or(Duration::from_secs(9_999)));
        }
        wronged += seen.iter().filter(|(_, who, node)| survivor(*who) && died.iter().all(|(id, _)| id != node)).count();
    }
    let spans = Spans::of(all);
    let what = format!("{dying} of {nodes} simulated fall silent, one each {} ms, {seeds} times", GAP.as_millis());
    vec![row(
        format!("{what}: each until Down at every other: p50 / p99; healthy ones taken for dead"),
        "1500 / 2500 ms, 0",
        format!("{:.0} / {:.0} ms, {wronged}", spans.millis(0.5), spans.millis(0.99)),
        "",
    )]
}

/// A network that loses one datagram in twenty, for long.
pub(crate) fn loss(effort: Effort) -> Vec<Row> {
    let (nodes, minutes) = effort.pick((1_000, 60), (100, 2));
    let mut world = standing(5, nodes, Network { loss: 0.05, ..Network::default() });
    let renewals = |world: &World| -> u64 { world.running().map(|n| world.mesh(n).unwrap().stats().renewals).sum() };
    let before = renewals(&world);
    let mut wronged = 0;
    for _ in 0..minutes {
        world.run(60 * SECOND);
        wronged += deaths(&mut world).len();
    }
    let renewed = renewals(&world) - before;
    vec![row(
        format!("5 % loss, {nodes} nodes, {minutes} min simulated: false Down, renewals"),
        "0, 0",
        format!("{wronged}, {renewed}"),
        "foca's defaults: 152 rejoins in 5 min",
    )]
}

/// What is sent while nothing happens: probes, watches and syncs.
pub(crate) fn idle(effort: Effort) -> Vec<Row> {
    let nodes = effort.pick(1_000, 100);
    let mut world = standing(9, nodes, Network::default());
    let sent = |world: &World| {
        let all = (0..nodes).map(|n| world.traffic(n));
        all.fold((0, 0), |(bytes, headers), one| (bytes + one.bytes(), headers + one.overhead()))
    };
    let before = sent(&world);
    world.run(60 * SECOND);
    let after = sent(&world);
    let rate = |bytes: u64| bytes as f64 / 60.0 / nodes as f64;
    let (payload, headers) = (rate(after.0 - before.0), rate(after.1 - before.1));
    vec![row(
        format!("sent by an idle node of {nodes}, syncs included: payload, and headers of IP and QUIC"),
        "200 B/s added",
        format!("{payload:.0} + {headers:.0} B/s"),
        "",
    )]
}
