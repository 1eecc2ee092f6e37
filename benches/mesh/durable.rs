//! Registrations through HTTP, each answered once it is on disk.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use crate::{
    Effort, Row,
    fleet::{Recipe, home},
    machine::usage,
    row,
    talk::Client,
};

/// The rows for an agent on one processor.
pub(crate) fn durable(effort: Effort) -> Vec<Row> {
    let count = effort.pick(20_000, 4_000);
    let home = home();
    let mut recipe = Recipe::new(home.path(), "n0");
    recipe.processor = Some(0);
    let agent = recipe.start();
    let http = agent.ready().http;
    let before = usage(agent.pid()).cpu_seconds;
    let took = register(http, count).as_secs_f64();
    let cpu = usage(agent.pid()).cpu_seconds - before;
    vec![row(
        format!("durable registrations through HTTP, one core, {CONNECTIONS} connections ({count} in a row)"),
        "10,000/s",
        format!("{:.0}/s, {:.0} µs of processor each", count as f64 / took, cpu * 1e6 / count as f64),
        "Consul 1,600/s",
    )]
}

/// Registers so many services over all connections at once, and says how long it took.
pub(crate) fn register(http: SocketAddr, count: usize) -> Duration {
    let began = Instant::now();
    std::thread::scope(|scope| {
        for first in 0..CONNECTIONS {
            scope.spawn(move || {
                let mut client = Client::connect(http);
                for n in (first..count).step_by(CONNECTIONS) {
                    let (id, name, address) = registration(n);
                    client.register(&id, &name, &address.to_string());
                    assert_eq!(client.receive().0, 201, "{id}");
                }
            });
        }
    });
    began.elapsed()
}

/// Id, service and address of the `n`th.
pub(crate) fn registration(n: usize) -> (String, String, Ipv4Addr) {
    let octets = u32::try_from(n).unwrap().to_be_bytes();
    (format!("instance-{n}"), format!("service-{n}"), Ipv4Addr::new(10, octets[1], octets[2], octets[3]))
}

const CONNECTIONS: usize = 16;
