//! From a registration on one node to the right DNS answer on every node.
//!
//! The clock starts when the request is written. From then on every node that has not answered right yet is asked in
//! turn, with a pause that grows with the mesh, one question to each at a time: to look more often would take from the
//! agents the very processors they need. The price of looking is a row of its own.

use std::{
    net::Ipv4Addr,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    Effort, Row, Spans,
    fleet::Fleet,
    questions::{Answer, Asker, Question},
    row, serf,
    talk::Client,
};

/// The rows for a mesh of so many nodes.
pub(crate) fn spread(nodes: usize, effort: Effort) -> Vec<Row> {
    let small = nodes < 10;
    let rounds = effort.pick(if small { 500 } else { 150 }, 20);
    let measured = measure(nodes, rounds);
    let times = |spans: &Spans| format!("{:.2} / {:.2} ms", spans.millis(0.5), spans.millis(0.99));
    let what = format!("register on A to right DNS answer on every node, {nodes} nodes: p50 / p99");
    let (target, peer) = if small {
        ("2 / 8 ms", "Consul 6.9 / 40 ms".into())
    } else {
        ("p99 10 ms", serf::spread(nodes, effort.pick(20, 3)))
    };
    vec![
        row(format!("{what} of {rounds}"), target, times(&measured.all), peer),
        row(format!("the same, to each single node, {nodes} nodes"), "", times(&measured.each), ""),
        row(
            format!("the same, processor time of all {nodes} agents for one registration"),
            "",
            format!(
                "{:.2} ms, {:.2} ms of it for {:.1} questions a node",
                measured.cpu_millis, measured.looking_millis, measured.questions
            ),
            "",
        ),
        row(
            format!("copies of a rumour that a node receives for one update, {nodes} nodes"),
            "2",
            format!("{:.2}", measured.copies),
            "memberlist 16",
        ),
    ]
}

struct Measured {
    /// Until the last node has answered right, by round.
    all: Spans,
    /// Until each did.
    each: Spans,
    cpu_millis: f64,
    looking_millis: f64,
    questions: f64,
    copies: f64,
}

fn measure(nodes: usize, rounds: usize) -> Measured {
    let fleet = Fleet::start(nodes);
    let mut askers: Vec<_> = fleet.ready.iter().map(|ready| Asker::new(ready.dns)).collect();
    let mut client = Client::connect(fleet.ready[0].http);
    let pause = LOOK_SPACING * u32::try_from(nodes).unwrap();
    sleep(SETTLE);
    round(&mut client, &mut askers, "warm-up", pause);
    askers.iter_mut().for_each(|asker| asker.asked = 0);

    let (copies, cpu) = (fleet.sum(COPIES), cpu_seconds(&fleet));
    let (mut all, mut each) = (Vec::new(), Vec::new());
    for n in 0..rounds {
        let took = round(&mut client, &mut askers, &format!("s{n}"), pause);
        all.extend(took.iter().max());
        each.extend(took);
        sleep(BETWEEN);
    }
    let per_round = 1e3 / rounds as f64;
    let cpu_millis = (cpu_seconds(&fleet) - cpu) * per_round;
    let copies = (fleet.sum(COPIES) - copies) / (rounds * (nodes - 1)) as f64;
    let asked: usize = askers.iter().map(|asker| asker.asked).sum();
    Measured {
        all: Spans::of(all),
        each: Spans::of(each),
        cpu_millis,
        looking_millis: question_seconds(&fleet, &mut askers) * asked as f64 * per_round,
        questions: asked as f64 / (rounds * nodes) as f64,
        copies,
    }
}

/// Registers one service on the first node: how long until each node answers right?
fn round(client: &mut Client, askers: &mut [Asker], name: &str, pause: Duration) -> Vec<Duration> {
    let address = Ipv4Addr::new(10, 1, 2, 3);
    let mut question = Question::new(name, address);
    let mut took = vec![None; askers.len()];
    let began = Instant::now();
    client.register(name, name, &address.to_string());
    while took.iter().any(Option::is_none) {
        let pending = || askers.len();
        for n in (0..pending()).filter(|n| took[*n].is_none()) {
            askers[n].ask(&mut question);
        }
        sleep(pause);
        for (asker, took) in askers.iter_mut().zip(&mut took).filter(|(_, took)| took.is_none()) {
            *took = (asker.look(&question) == Answer::Right).then(|| began.elapsed());
        }
        assert!(began.elapsed() < GIVE_UP, "{name} is not known everywhere after {GIVE_UP:?}");
    }
    assert_eq!(client.receive().0, 201);
    took.into_iter().flatten().collect()
}

/// The processor time that an agent takes to answer one question.
fn question_seconds(fleet: &Fleet, askers: &mut [Asker]) -> f64 {
    const SWEEPS: usize = 200;
    let mut question = Question::new("unknown", Ipv4Addr::LOCALHOST);
    let before = cpu_seconds(fleet);
    for _ in 0..SWEEPS {
        for asker in askers.iter_mut() {
            asker.ask(&mut question);
        }
        sleep(Duration::from_millis(1));
        for asker in askers.iter_mut() {
            asker.look(&question);
        }
    }
    (cpu_seconds(fleet) - before) / (SWEEPS * askers.len()) as f64
}

fn cpu_seconds(fleet: &Fleet) -> f64 {
    fleet.agents.iter().map(|agent| crate::machine::usage(agent.pid()).cpu_seconds).sum()
}

const COPIES: &str = "hobnob_rumors_received_total";
/// How long a look at one node may take of the processors: a sweep takes so long for each node.
const LOOK_SPACING: Duration = Duration::from_micros(20);
/// What a mesh does after a start is over by then.
const SETTLE: Duration = Duration::from_secs(3);
/// So that acknowledgements of one round do not fall into the next.
const BETWEEN: Duration = Duration::from_millis(20);
const GIVE_UP: Duration = Duration::from_secs(10);
