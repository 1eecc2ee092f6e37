//! `hobnob simulate`: the state machine that agents run, in virtual time over links as bad as one likes: how soon a change
//! is everywhere, how soon a death is seen, what it costs, and who was wrongly taken for dead.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use serde_json::{Value, json};

use super::{
    failure::{Code, Failure},
    output::{self, Format, Shape},
    register::duration,
};
use crate::{
    mesh::Event,
    model::{MemberState, Registration, ServiceName},
    sim::{Depth, Journal, Network, Seen, Settings, World},
};

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// How many nodes
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(3..=MAX_NODES))]
    nodes: u32,
    /// The part of the packets that are lost, 0 to 0.9
    #[arg(long, default_value_t = 0.0, value_parser = part)]
    loss: f64,
    /// How long a packet takes from node to node
    #[arg(long, value_name = "DURATION", default_value = "250us", value_parser = duration)]
    latency: Duration,
    /// By how much that varies from packet to packet
    #[arg(long, value_name = "DURATION", default_value = "50us", value_parser = duration)]
    jitter: Duration,
    /// How many registrations are followed, one after the other
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    updates: u16,
    /// How many nodes are killed, one after the other
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    deaths: u16,
    /// How long the mesh is watched at rest
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    rest: Duration,
    /// What all chance follows from: the same seed, the same run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn run(flags: &Flags) -> Result<ExitCode, Failure> {
    if u32::from(flags.deaths) + 2 > flags.nodes {
        let why = format!("{} deaths among {} nodes leave nobody to tell of them", flags.deaths, flags.nodes);
        return Err(Failure::new("this cannot be simulated", why, "hobnob simulate --deaths N").code(Code::Usage));
    }
    let network = Network { latency: flags.latency, jitter: flags.jitter, loss: flags.loss, ..Network::default() };
    let settings = Settings { network, depth: Depth::Off, journal: Journal::Events, ..Settings::seeded(flags.seed) };
    let mut world = World::warm(settings, usize::try_from(flags.nodes).unwrap_or(usize::MAX));
    world.run(SETTLE);
    world.take_log();
    let mut rows = spread(&mut world, flags.updates)?;
    rows.extend(rest(&mut world, flags.rest));
    rows.extend(deaths(&mut world, flags.deaths)?);
    output::print(&SHAPE.render(&Value::Array(rows), flags.format));
    Ok(ExitCode::SUCCESS)
}

/// How long until every node shows a registration.
fn spread(world: &mut World, updates: u16) -> Result<Vec<Value>, Failure> {
    let web = ServiceName::try_from("web").map_err(|why| Failure::new("no name for a service", why, "--help"))?;
    let mut times = Vec::new();
    let count = world.machines();
    for update in 0..usize::from(updates) {
        let port = u16::try_from(update + 1).unwrap_or(u16::MAX);
        let registration = Registration::new("web", port);
        let registration = registration.map_err(|why| Failure::new("no registration", why, "--help"))?;
        let owner = update % count;
        world.register(owner, registration);
        let id = world.id(owner);
        let shows = |world: &World, n| {
            world.shown(n, &web).iter().any(|i| i.owner == id && i.registration.port.is_some_and(|p| p.get() == port))
        };
        times.push(world.run_until(PATIENCE, STEP, |world| world.running().all(|n| shows(world, n))));
        world.run(Duration::from_millis(100));
    }
    Ok(quantiles("a registration until every node shows it", &times))
}

/// What nodes send each other when nothing happens, and whom they wrongly take for dead.
fn rest(world: &mut World, rest: Duration) -> Vec<Value> {
    let sent = |world: &World| {
        (0..world.machines())
            .map(|n| {
                let t = world.traffic(n);
                t.bytes() + t.overhead()
            })
            .sum::<u64>()
    };
    let before = sent(world);
    world.take_log();
    world.run(rest);
    let bytes = (sent(world) - before) as f64 / rest.as_secs_f64().max(f64::EPSILON) / world.machines() as f64;
    let log = world.take_log();
    let seen = |state: MemberState| {
        log.iter()
            .filter(|(_, _, seen)| matches!(seen, Seen::Event(Event::Member { now, .. }) if *now == state))
            .count()
    };
    vec![
        row("bytes a node sends in a second at rest", json!(bytes.round() as u64), "B/s"),
        row("living members suspected at rest", json!(seen(MemberState::Suspect)), ""),
        row("living members taken for dead at rest", json!(seen(MemberState::Down)), ""),
    ]
}

/// How long until every other node has seen a death.
fn deaths(world: &mut World, deaths: u16) -> Result<Vec<Value>, Failure> {
    let mut times = Vec::new();
    for victim in 0..usize::from(deaths) {
        let id = world.id(victim);
        world.crash(victim);
        let down = |world: &World, n| {
            world.mesh(n).and_then(|mesh| mesh.member(id)).is_none_or(|member| member.state == MemberState::Down)
        };
        times.push(world.run_until(PATIENCE, STEP, |world| world.running().all(|n| down(world, n))));
    }
    Ok(quantiles("a death until every node has seen it", &times))
}

fn quantiles(what: &str, times: &[Option<Duration>]) -> Vec<Value> {
    let mut known: Vec<_> = times.iter().copied().map(|time| time.unwrap_or(Duration::MAX)).collect();
    known.sort_unstable();
    let last = known.len().saturating_sub(1);
    let at = |which: &str, index: usize| {
        let figure = format!("{what}: {which}");
        match known.get(index) {
            Some(&Duration::MAX) | None => row(&figure, Value::Null, &format!("not within {PATIENCE:?}")),
            Some(time) => row(&figure, json!((time.as_secs_f64() * 1e4).round() / 10.0), "ms"),
        }
    };
    vec![at("median", last / 2), at("worst", last)]
}

/// A figure: what it is, a number, and of what; without a number, why there is none.
fn row(figure: &str, measured: Value, unit: &str) -> Value {
    json!({ "figure": figure, "measured": measured, "unit": unit })
}

fn part(text: &str) -> Result<f64, String> {
    let part: f64 = text.parse().map_err(|why| format!("{why}"))?;
    if (0.0..=MAX_LOSS).contains(&part) { Ok(part) } else { Err(format!("it is a part: 0 to {MAX_LOSS}")) }
}

const SHAPE: Shape =
    Shape { name: "figure", columns: &[("FIGURE", "figure"), ("MEASURED", "measured"), ("UNIT", "unit")] };
/// What a machine's memory holds: a node of such a mesh takes a megabyte.
const MAX_NODES: i64 = 10_000;
/// Beyond that no protocol holds a mesh together.
const MAX_LOSS: f64 = 0.9;
/// How long a mesh gets to settle before it is measured.
const SETTLE: Duration = Duration::from_secs(10);
/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
/// How finely it is looked.
const STEP: Duration = Duration::from_micros(500);
