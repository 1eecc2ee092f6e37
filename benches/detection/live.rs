//! Real agents: a mesh of them on loopback, and beside it a victim that serves one name.
//!
//! The victim dies, once by `kill -9` of the process that owns the mesh (its parent executes the last will) and once in
//! silence (stopped, so that its machine takes packets and nobody answers), and every node is asked by DNS until none
//! answers with it any more. The deaths of healthy nodes that anybody saw meanwhile are counted in the same run.

use std::{
    fs,
    net::Ipv4Addr,
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    Effort, Row, Spans,
    fleet::{self, Agent, Fleet, Recipe},
    machine::{loopback_bytes, usage},
    questions::{Answer, Asker, Question},
    row, serf,
    talk::Client,
};

/// How a victim dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// `kill -9`, with a parent that tells.
    Crash,
    /// Stopped: nothing is closed, and nothing is answered.
    Silence,
}

impl Death {
    fn victim(self, round: usize) -> String {
        format!("{}{round}", if self == Self::Crash { "crash" } else { "silence" })
    }
}

/// All that is measured with one fleet.
pub(crate) fn live(effort: Effort) -> Vec<Row> {
    let (nodes, crashes, silences) = effort.pick((50, 50, 20), (5, 3, 2));
    let fleet = Fleet::start(nodes);
    sleep(Duration::from_secs(effort.pick(60, 5)));
    let mut rows = vec![idle(&fleet, Duration::from_secs(effort.pick(60, 5)))];
    let (began, at_first) = (Instant::now(), deaths(&fleet));
    let memory = parent_kib(&fleet.agents[0]);
    let (crash, crash_each) = measure(&fleet, Death::Crash, crashes);
    let (silence, silence_each) = measure(&fleet, Death::Silence, silences);
    let seen = deaths(&fleet) - at_first;
    let node_hours = began.elapsed().as_secs_f64() * nodes as f64 / 3600.0;
    drop(fleet);
    let peer = serf::deaths(nodes, effort.pick(10, 1));
    let known = |others: &str| if peer.is_empty() { others.to_owned() } else { format!("{peer}; {others}") };
    let times = |all: &Spans| format!("{:.1} / {:.1} ms", all.millis(0.5), all.millis(0.99));
    let ends = format!("until gone from every node's DNS, {nodes} real nodes: p50 / p99");
    let false_deaths = seen - ((crashes + silences) * nodes) as f64;
    rows.splice(
        ..0,
        [
            row(
                format!("process crash (kill -9) {ends} of {crashes}"),
                "10 / 100 ms",
                times(&crash),
                known("Consul 5.4-6.0 s"),
            ),
            row("the same, from each single node's", "", times(&crash_each), ""),
            row(
                format!("silent death {ends} of {silences}"),
                "1500 / 2500 ms",
                times(&silence),
                known("Consul 9-17.6 s"),
            ),
            row("the same, from each single node's", "", times(&silence_each), ""),
            row(
                format!("deaths of healthy nodes seen meanwhile, in {node_hours:.1} node-hours; before, as all began at once"),
                "0",
                format!("{:.0}; {at_first:.0}", false_deaths.max(0.0)),
                "",
            ),
        ],
    );
    rows.push(row("memory that an agent's parent keeps for itself", "", format!("{memory} KiB"), ""));
    rows
}

/// How often any node has taken another for dead.
fn deaths(fleet: &Fleet) -> f64 {
    fleet.sum_of(|sample| sample.contains("event=\"member\"") && sample.contains("now=\"down\""))
}

/// What one agent takes while nothing happens, all that it does counted.
fn idle(fleet: &Fleet, watched: Duration) -> Row {
    let cpu = || fleet.agents.iter().map(|agent| usage(agent.pid()).cpu_seconds).sum::<f64>();
    let (cpu_before, bytes_before) = (cpu(), loopback_bytes());
    sleep(watched);
    let each = fleet.agents.len() as f64 * watched.as_secs_f64();
    let (cpu, bytes) = (100.0 * (cpu() - cpu_before) / each, (loopback_bytes() - bytes_before) as f64 / each);
    let what = format!("idle agent of {}, all it does: sent with headers, and of a core", fleet.agents.len());
    row(what, "200 B/s, 0.05 % of it added", format!("{bytes:.0} B/s, {cpu:.2} %"), "")
}

/// How long it took until the last node had each victim no more, and until each had not.
fn measure(fleet: &Fleet, death: Death, rounds: usize) -> (Spans, Spans) {
    let mut askers: Vec<_> = fleet.ready.iter().map(|ready| Asker::new(ready.dns)).collect();
    let home = fleet::home();
    let (mut all, mut each) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let name = death.victim(round);
        let victim = Recipe::new(home.path(), &name).join(fleet.ready[round % fleet.ready.len()].mesh).start();
        let mut client = Client::connect(victim.ready().http);
        let address = Ipv4Addr::new(10, 1, 2, 3);
        client.register(&name, &name, &address.to_string());
        assert_eq!(client.receive().0, 201);
        let mut question = Question::new(&name, address);
        until_all(&mut askers, &mut question, Answer::Right);
        // Not always the same moment of everybody's second.
        sleep(SETTLE + Duration::from_millis(370 * round as u64 % 1_000));
        let owner = Pid::from_raw(i32::try_from(victim.pid()).unwrap()).unwrap();
        kill_process(owner, if death == Death::Crash { Signal::KILL } else { Signal::STOP }).unwrap();
        let took = until_all(&mut askers, &mut question, Answer::Wrong);
        all.extend(took.iter().max());
        each.extend(took);
        if death == Death::Silence {
            kill_process(owner, Signal::KILL).unwrap();
        }
        sleep(SETTLE);
    }
    (Spans::of(all), Spans::of(each))
}

/// Asks every node until it answers so: how long each took.
fn until_all(askers: &mut [Asker], question: &mut Question, wanted: Answer) -> Vec<Duration> {
    let mut took = vec![None; askers.len()];
    let began = Instant::now();
    let pause = LOOK_SPACING * u32::try_from(askers.len()).unwrap();
    while took.iter().any(Option::is_none) {
        for n in (0..askers.len()).filter(|n| took[*n].is_none()) {
            askers[n].ask(question);
        }
        sleep(pause);
        for (asker, took) in askers.iter_mut().zip(&mut took).filter(|(_, took)| took.is_none()) {
            *took = (asker.look(question) == wanted).then(|| began.elapsed());
        }
        assert!(began.elapsed() < GIVE_UP, "not {wanted:?} everywhere after {GIVE_UP:?}");
    }
    took.into_iter().flatten().collect()
}

/// What the process above an agent has in memory that no other process shares.
fn parent_kib(agent: &Agent) -> u64 {
    let owner = agent.pid();
    let stat = fs::read_to_string(format!("/proc/{owner}/stat")).unwrap();
    let parent: u32 = stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let rollup = fs::read_to_string(format!("/proc/{parent}/smaps_rollup")).unwrap();
    let dirty = rollup.lines().find(|line| line.starts_with("Private_Dirty:")).unwrap();
    dirty.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// How long a look at one node may take of the processors.
const LOOK_SPACING: Duration = Duration::from_micros(40);
const SETTLE: Duration = Duration::from_secs(2);
const GIVE_UP: Duration = Duration::from_secs(60);
