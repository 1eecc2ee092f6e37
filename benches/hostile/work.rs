//! Normal work, to see what becomes of it: a registration on one node, and the right DNS answer on every node.

use std::{
    net::Ipv4Addr,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    Spans,
    fleet::Fleet,
    machine::usage,
    questions::{Answer, Asker, Question},
    talk::Client,
};

/// What became of it.
pub(crate) struct Work {
    /// Until the last node has answered right.
    pub(crate) spans: Spans,
    pub(crate) rounds: usize,
    /// The first node's memory at its largest.
    pub(crate) most_mb: f64,
    /// The first node's share of a core.
    pub(crate) core: f64,
}

/// Works for so long. `name` tells one time from another.
pub(crate) fn work(fleet: &Fleet, name: &str, time: Duration) -> Work {
    let mut askers: Vec<_> = fleet.ready.iter().map(|ready| Asker::new(ready.dns)).collect();
    let mut client = Client::connect(fleet.ready[0].http);
    let pid = fleet.ready[0].pid;
    let (mut took, mut most_mb) = (Vec::new(), 0.0_f64);
    let (began, cpu) = (Instant::now(), usage(pid).cpu_seconds);
    while began.elapsed() < time {
        took.push(round(&mut client, &mut askers, &format!("{name}-{}", took.len() % SERVICES), took.len()));
        most_mb = most_mb.max(usage(pid).rss_mb);
        sleep(BETWEEN);
    }
    let core = (usage(pid).cpu_seconds - cpu) / began.elapsed().as_secs_f64();
    Work { rounds: took.len(), spans: Spans::of(took), most_mb, core }
}

fn round(client: &mut Client, askers: &mut [Asker], name: &str, round: usize) -> Duration {
    // Another address each time: an old answer is no right one.
    let [.., high, low] = (round as u32).to_be_bytes();
    let address = Ipv4Addr::new(10, 1, high, low);
    let mut question = Question::new(name, address);
    let mut waits = vec![true; askers.len()];
    let began = Instant::now();
    client.register(name, name, &address.to_string());
    while waits.contains(&true) {
        for (asker, _) in askers.iter_mut().zip(&waits).filter(|(_, waits)| **waits) {
            asker.ask(&mut question);
        }
        sleep(LOOK);
        for (asker, waits) in askers.iter_mut().zip(&mut waits).filter(|(_, waits)| **waits) {
            *waits = asker.look(&question) != Answer::Right;
        }
        assert!(began.elapsed() < GIVE_UP, "{name} is not known everywhere after {GIVE_UP:?}");
    }
    let took = began.elapsed();
    assert!(matches!(client.receive().0, 200 | 201));
    took
}

/// Services that are registered again and again: what a mesh holds does not grow by the measuring.
const SERVICES: usize = 20;
const LOOK: Duration = Duration::from_micros(100);
const BETWEEN: Duration = Duration::from_millis(20);
const GIVE_UP: Duration = Duration::from_secs(10);
