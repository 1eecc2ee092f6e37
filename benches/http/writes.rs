//! Registrations, each answered once it is on disk: on one node, and on four at once until all know all.

use std::{
    net::SocketAddr,
    ops::Range,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    Effort, Row,
    fleet::{Fleet, Recipe, home, metric},
    machine::usage,
    row,
    talk::Client,
};

/// The row for an agent on one processor.
pub(crate) fn durable(effort: Effort) -> Vec<Row> {
    let count = effort.pick(24_000, 1_000);
    let home = home();
    let mut recipe = Recipe::new(home.path(), "n0");
    recipe.processor = Some(0);
    let agent = recipe.start();
    let ready = agent.ready();
    let before = usage(ready.pid).cpu_seconds;
    let began = Instant::now();
    register(ready.http, 0..count);
    let took = began.elapsed().as_secs_f64();
    let spent = usage(ready.pid).cpu_seconds - before;
    vec![row(
        format!("durable registrations, one core, {CONNECTIONS} clients ({count} in a row)"),
        "40,000/s",
        format!("{:.0}/s, {:.0} µs of processor each", count as f64 / took, spent * 1e6 / count as f64),
        "Consul 1,600/s",
    )]
}

/// The row for four agents.
pub(crate) fn replicated(effort: Effort) -> Vec<Row> {
    let count = effort.pick(15_000, 250);
    let fleet = Fleet::start(NODES);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for (n, ready) in fleet.ready.iter().enumerate() {
            scope.spawn(move || register(ready.http, n * count..(n + 1) * count));
        }
    });
    let registered = began.elapsed().as_secs_f64();
    let all = NODES * count;
    for ready in &fleet.ready {
        while metric(ready.http, "hobnob_instances{health=\"passing\"}") < all as f64 {
            assert!(began.elapsed() < PATIENCE, "{} does not know all", ready.http);
            sleep(Duration::from_millis(10));
        }
    }
    let took = began.elapsed().as_secs_f64();
    vec![row(
        format!("{NODES} agents on this machine, all registering: until all know all {all}"),
        "25,000/s",
        format!("{:.0}/s, all answered after {:.0} % of the time", all as f64 / took, 100.0 * registered / took),
        "",
    )]
}

/// Registers a service for each number; every connection asks again as soon as it has its answer.
fn register(http: SocketAddr, numbers: Range<usize>) {
    let mut clients: Vec<_> = (0..CONNECTIONS.min(numbers.len())).map(|_| Client::connect(http)).collect();
    let count = clients.len();
    for (place, n) in numbers.enumerate() {
        let client = &mut clients[place % count];
        if place >= count {
            hear(client);
        }
        let [_, a, b, c] = u32::try_from(n).unwrap().to_be_bytes();
        client.register(&format!("instance-{n}"), &format!("service-{n}"), &format!("10.{a}.{b}.{c}"));
    }
    clients.iter_mut().for_each(hear);
}

fn hear(client: &mut Client) {
    let (status, why) = client.receive();
    assert_eq!(status, 201, "{why}");
}

const NODES: usize = 4;
/// As many programs start at once where a machine does.
const CONNECTIONS: usize = 256;
const PATIENCE: Duration = Duration::from_secs(120);
