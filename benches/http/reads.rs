//! What an answer to the question that clients ask most costs.

use std::net::SocketAddr;

use crate::{
    Effort, Row,
    fleet::{Recipe, home},
    floor::Floor,
    load::{self, Line},
    machine::usage,
    row,
    talk::Client,
};

/// The rows for services of one size and another.
pub(crate) fn reads(effort: Effort) -> Vec<Row> {
    let rounds = effort.pick(10_000, 100);
    let home = home();
    let mut recipe = Recipe::new(home.path(), "n0");
    recipe.processor = Some(0);
    let agent = recipe.start();
    let ready = agent.ready();
    let mut client = Client::connect(ready.http);
    [(1, "one", "9 µs"), (100, "many", "twice that of one")]
        .into_iter()
        .map(|(instances, name, target)| {
            for n in 0..instances {
                client.register(&format!("{name}-{n}"), name, &format!("10.0.0.{n}"));
                assert_eq!(client.receive().0, 201);
            }
            let path = format!("/v1/health/service/{name}?passing");
            let (ours, length) = cost(ready.http, ready.pid, &path, rounds);
            let floor = Floor::start(length);
            let (least, _) = cost(floor.address, floor.pid(), &path, rounds);
            row(
                format!("processor time of GET /v1/health/service/web?passing, {instances} instances, {length} bytes"),
                target,
                format!("{ours:.1} µs, {:.2} of bare hyper's {least:.1} µs", ours / least),
                "Consul 90 µs (`?cached` 60)",
            )
        })
        .collect()
}

/// The microseconds that the process spends on one answer, and the length of its body.
fn cost(address: SocketAddr, pid: u32, path: &str, rounds: usize) -> (f64, usize) {
    let mut lines = load::lines(address, CONNECTIONS);
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let each = |lines: &mut Vec<Line>| lines.iter_mut().for_each(|line| line.send(request.as_bytes()));
    each(&mut lines);
    let answers: Vec<_> = lines.iter_mut().map(Line::hear).collect();
    let (head, length) = &answers[0];
    let before = usage(pid).cpu_seconds;
    for _ in 0..rounds {
        each(&mut lines);
        lines.iter_mut().for_each(|line| line.take(head.len() + length));
    }
    let spent = usage(pid).cpu_seconds - before;
    (spent * 1e6 / (rounds * CONNECTIONS) as f64, *length)
}

/// So many clients of one node, each with a question at a time.
const CONNECTIONS: usize = 32;
