//! From a process that is killed to the DNS of another node, which does not name its service any more.

use std::{
    net::Ipv4Addr,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    Effort, Row, Spans,
    fleet::{Fleet, Ready},
    questions::{Answer, Asker, Question},
    row,
    talk::Client,
};

pub(crate) fn death(effort: Effort) -> Vec<Row> {
    let rounds = effort.pick(300, 20);
    let fleet = Fleet::start(NODES);
    let took = Spans::of((0..rounds).map(|round| one(&fleet.ready, round)));
    vec![row(
        format!("a killed process with a process check until gone from another node's DNS: p50 / p99 of {rounds}"),
        "p99 20 ms",
        format!("{:.2} / {:.2} ms", took.millis(0.5), took.millis(0.99)),
        "",
    )]
}

/// Registers a process on one node and kills it: how long another node's DNS still has it.
fn one(nodes: &[Ready], round: usize) -> Duration {
    let mut victim = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    let (name, address) = (format!("s{round}"), Ipv4Addr::new(10, 1, 2, 3));
    let mut client = Client::connect(nodes[round % nodes.len()].http);
    let check = format!(r#"{{"pid":{},"interval":"1h"}}"#, victim.id());
    let body = format!(r#"{{"name":"{name}","port":1,"address":"{address}","checks":[{check}]}}"#);
    assert_eq!(client.call("PUT", &format!("/api/v1/registrations/{name}"), &body).0, 201);
    let mut asker = Asker::new(nodes[(round + 1) % nodes.len()].dns);
    let mut question = Question::new(&name, address);
    until(&mut asker, &mut question, Answer::Right);
    sleep(SETTLE);
    let began = Instant::now();
    victim.kill().unwrap();
    until(&mut asker, &mut question, Answer::Wrong);
    let took = began.elapsed();
    victim.wait().unwrap();
    assert_eq!(client.call("DELETE", &format!("/api/v1/registrations/{name}"), "").0, 204);
    took
}

fn until(asker: &mut Asker, question: &mut Question, wanted: Answer) {
    let began = Instant::now();
    loop {
        asker.ask(question);
        sleep(LOOK_AGAIN);
        if asker.look(question) == wanted {
            return;
        }
        assert!(began.elapsed() < GIVE_UP, "not {wanted:?} after {GIVE_UP:?}");
    }
}

const NODES: usize = 3;
const LOOK_AGAIN: Duration = Duration::from_micros(50);
/// So that the round before has no part in this one.
const SETTLE: Duration = Duration::from_millis(100);
const GIVE_UP: Duration = Duration::from_secs(10);
