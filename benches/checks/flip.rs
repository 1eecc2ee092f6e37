//! A page goes sick, and the http check that asks for it every second tells all nodes.
//!
//! Each round has an instance of its own, so that nothing is damped. The nodes are not asked before the check was told:
//! until then they could only answer as before.

use std::{
    net::Ipv4Addr,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    Effort, Row, Spans,
    fleet::Fleet,
    questions::{Answer, Asker, Question},
    row,
    talk::Client,
    targets::Pages,
};

pub(crate) fn flip(effort: Effort) -> Vec<Row> {
    let (nodes, rounds) = effort.pick((20, 150), (5, 10));
    let fleet = Fleet::start(nodes);
    let pages = Pages::start();
    let mut askers: Vec<_> = fleet.ready.iter().map(|ready| Asker::new(ready.dns)).collect();
    let (mut from_flip, mut from_answer) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let (name, address) = (format!("s{round}"), Ipv4Addr::new(10, 1, 2, 3));
        let mut client = Client::connect(fleet.ready[round % nodes].http);
        let check = format!(r#"{{"http":"http://{}/{round}","interval":"1s"}}"#, pages.at);
        let body = format!(r#"{{"name":"{name}","port":1,"address":"{address}","checks":[{check}]}}"#);
        assert_eq!(client.call("PUT", &format!("/api/v1/registrations/{name}"), &body).0, 201);
        let mut question = Question::new(&name, address);
        until_all(&mut askers, &mut question, Answer::Right);
        // Any moment of the check's second.
        sleep(SETTLE + Duration::from_millis(370 * round as u64 % 1_000));
        let flipped = Instant::now();
        pages.infect(round);
        let told = loop {
            if let Some(told) = pages.told() {
                break told;
            }
            assert!(flipped.elapsed() < GIVE_UP, "nobody asks for page {round}");
            sleep(Duration::from_micros(200));
        };
        until_all(&mut askers, &mut question, Answer::Wrong);
        from_answer.push(told.elapsed());
        from_flip.push(flipped.elapsed());
        assert_eq!(client.call("DELETE", &format!("/api/v1/registrations/{name}"), "").0, 204);
    }
    let (from_flip, from_answer) = (Spans::of(from_flip), Spans::of(from_answer));
    vec![
        row(
            format!("a flip of a 1 s http check until on every one of {nodes} nodes: p50 / p99 of {rounds}"),
            "p99 interval + 20 ms",
            format!(
                "{:.0} / {:.0} ms: interval {:+.1} ms",
                from_flip.millis(0.5),
                from_flip.millis(0.99),
                from_flip.millis(0.99) - 1e3
            ),
            "",
        ),
        row(
            "the same, from the answer that says so",
            "",
            format!("{:.2} / {:.2} ms", from_answer.millis(0.5), from_answer.millis(0.99)),
            "",
        ),
    ]
}

/// Asks every node until all answer so.
fn until_all(askers: &mut [Asker], question: &mut Question, wanted: Answer) {
    let began = Instant::now();
    let pause = LOOK_SPACING * u32::try_from(askers.len()).unwrap();
    let mut waiting: Vec<_> = askers.iter_mut().collect();
    while !waiting.is_empty() {
        for asker in &mut waiting {
            asker.ask(question);
        }
        sleep(pause);
        waiting.retain_mut(|asker| asker.look(question) != wanted);
        assert!(began.elapsed() < GIVE_UP, "not {wanted:?} everywhere after {GIVE_UP:?}");
    }
}

/// How long a look at one node may take of the processors.
const LOOK_SPACING: Duration = Duration::from_micros(40);
/// The second run comes up to one and a half intervals after the first: from then on the beat is even.
const SETTLE: Duration = Duration::from_millis(1_500);
const GIVE_UP: Duration = Duration::from_secs(20);
