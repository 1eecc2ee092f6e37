//! The figures of DNS: `cargo bench --bench dns [-- --quick]`, as a table in Markdown on stdout.
//!
//! The same questions (A and SRV over 10,000 names) go by dnsperf to a UDP echo, to our server and to those that are
//! installed of NSD, Knot and unbound, and to hickory-server: one after the other, each in a process of its own on one core, dnsperf on another.
//! CPU per answer is what the kernel charges that process and its children; what is shared by all is in the echo's.

#![allow(clippy::disallowed_methods, reason = "a bench reads the clock, and waits for processes")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

mod hickory;
mod peers;
mod world;

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use peers::Peer;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    match words.first().map(String::as_str) {
        Some("--echo") => peers::echo(words[1].parse().unwrap()),
        Some("--serve") => world::serve(words[1].parse().unwrap(), &words[2]),
        Some("--handler") => hickory::call(words[1].parse().unwrap(), words[2].parse().unwrap()),
        Some("--hickory") => hickory::serve(words[1].parse().unwrap(), words[2].parse().unwrap()),
        Some("--quick") => measure(&Effort { seconds: 1, names: 500 }),
        _ => measure(&Effort { seconds: 10, names: 10_000 }),
    }
}

/// How much to measure.
struct Effort {
    seconds: u64,
    names: usize,
}

fn measure(effort: &Effort) {
    let folder = tempfile::tempdir().unwrap();
    println!("| figure | measured | target |\n|---|---|---|");
    if peers::installed("dnsperf") {
        beside_peers(effort, folder.path());
    } else {
        eprintln!("skipped: dnsperf is not installed, which asks the questions");
    }
    world::freshness();
    world::whole_over_tcp();
}

/// One run: what was answered, and what it cost.
struct Run {
    rate: f64,
    micros: f64,
    lost: f64,
}

fn beside_peers(effort: &Effort, folder: &Path) {
    let questions = folder.join("questions");
    let lines = (0..effort.names).map(|at| format!("s{at}.service.mesh.internal A\ns{at}.service.mesh.internal SRV\n"));
    fs::write(&questions, lines.collect::<String>()).unwrap();
    let mut floor = None;
    let mut ours = None;
    for peer in peers::all() {
        if !peer.is_installed() {
            eprintln!("skipped: {} is not installed", peer.name);
            continue;
        }
        let running = Running::start(&peer, effort.names, folder);
        running.wait(&questions);
        let run = running.run(&questions, effort.seconds, &[]);
        let floor = *floor.get_or_insert(run.micros);
        let (target, ratio) = (peer.target, run.micros / floor);
        println!("| CPU per answer, {} | {:.2} µs, {ratio:.2} of the echo's | {target} |", peer.name, run.micros);
        println!("| answers per second on one core, {} | {:.0}, {:.2} % lost | |", peer.name, run.rate, run.lost);
        if peer.is_ours {
            ours = Some(run.rate);
        }
        drop(running);
    }
    if let Some(rate) = ours {
        at_half_load(rate / 2.0, effort, &questions, folder);
    }
}

/// Latencies at so many questions a second, ours with changes going on. The echo's beside it in turn is what the kernel,
/// the scheduler and dnsperf itself make of the load.
fn at_half_load(rate: f64, effort: &Effort, questions: &Path, folder: &Path) {
    let peers = || peers::all().into_iter().filter(|peer| peer.is_ours || peer.name == "echo");
    let (mut medians, mut failed) = (Vec::new(), 0);
    for peer in peers() {
        let running = Running::start(&Peer { changes: 5_000, ..peer }, effort.names, folder);
        running.wait(questions);
        let mut rounds: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let more = ["-Q", &format!("{rate:.0}"), "-v"];
                let (p99, servfails) = latencies(&running.perf(questions, effort.seconds, "1", &more));
                failed += servfails;
                p99
            })
            .collect();
        rounds.sort_by(f64::total_cmp);
        medians.push(rounds[ROUNDS / 2]);
    }
    let [echo, ours] = medians[..] else { return };
    println!(
        "| p99 latency at half load ({rate:.0}/s) with 5,000 changes a minute, median of {ROUNDS} runs \
         | {ours:.0} µs (the echo: {echo:.0} µs), {failed} SERVFAIL | 250 µs, none |"
    );
}

/// The 99th percentile of the latencies, in microseconds, and how many answers were SERVFAIL; dnsperf's `-v` writes a line
/// for each answer: `> NOERROR name type seconds`.
fn latencies(report: &str) -> (f64, usize) {
    let answers = report.lines().filter_map(|line| line.strip_prefix("> "));
    let mut all: Vec<f64> = answers.clone().filter_map(|line| line.split_whitespace().last()?.parse().ok()).collect();
    all.sort_by(f64::total_cmp);
    let p99 = all.get(all.len() * 99 / 100).copied().unwrap_or(f64::NAN);
    (p99 * 1e6, answers.filter(|line| line.starts_with("SERVFAIL")).count())
}

const ROUNDS: usize = 5;

/// A server at work, ended when dropped.
struct Running {
    child: Child,
    address: SocketAddr,
}

impl Running {
    fn start(peer: &Peer, names: usize, folder: &Path) -> Self {
        let probe = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = probe.local_addr().unwrap();
        drop(probe);
        let (program, arguments) = (peer.command)(address, names, peer.changes, folder);
        // Core 0 is the server's.
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(program).args(arguments);
        let log = fs::File::create(folder.join(format!("{}.log", peer.name))).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self { child: command.spawn().unwrap(), address }
    }

    fn wait(&self, questions: &Path) {
        let begun = Instant::now();
        while self.run(questions, 1, &["-n", "1", "-Q", "500"]).rate < 1.0 {
            assert!(begun.elapsed() < Duration::from_secs(60), "it does not answer at {}", self.address);
        }
    }

    fn run(&self, questions: &Path, seconds: u64, more: &[&str]) -> Run {
        let before = self.cpu_seconds();
        let report = self.perf(questions, seconds, "8", more);
        let spent = self.cpu_seconds() - before;
        let number = |what: &str| {
            let line = report.lines().find_map(|line| line.trim().strip_prefix(what)).unwrap_or("0");
            line.split_whitespace().next().and_then(|word| word.parse::<f64>().ok()).unwrap_or_default()
        };
        let (sent, completed) = (number("Queries sent:"), number("Queries completed:"));
        let rate = number("Queries per second:");
        Run { rate, micros: spent / completed.max(1.0) * 1e6, lost: (sent - completed) / sent.max(1.0) * 100.0 }
    }

    fn perf(&self, questions: &Path, seconds: u64, clients: &str, more: &[&str]) -> String {
        let mut dnsperf = Command::new("taskset");
        dnsperf.args(["-c", "1", "dnsperf", "-s", "127.0.0.1", "-p", &self.address.port().to_string()]);
        dnsperf
            .args(["-l", &seconds.to_string(), "-c", clients, "-q", "400", "-t", "1", "-d"])
            .arg(questions)
            .args(more);
        String::from_utf8_lossy(&dnsperf.output().unwrap().stdout).into_owned()
    }

    /// What the kernel has charged the server and its children.
    fn cpu_seconds(&self) -> f64 {
        let mut family = vec![self.child.id()];
        let mut ticks = 0;
        let stats: Vec<(u32, u32, u64)> =
            fs::read_dir("/proc").unwrap().filter_map(|entry| stat(&entry.ok()?.path())).collect();
        while let Some(id) = family.pop() {
            ticks += stats.iter().filter(|(own, ..)| *own == id).map(|(.., ticks)| ticks).sum::<u64>();
            family.extend(stats.iter().filter(|(_, parent, _)| *parent == id).map(|(own, ..)| *own));
        }
        // The clock ticks of /proc are hundredths of a second on every Linux there is.
        ticks as f64 / 100.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its parent asks politely, so that it ends its own children.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

/// Process, parent, ticks in user and system mode.
fn stat(process: &Path) -> Option<(u32, u32, u64)> {
    let id = process.file_name()?.to_str()?.parse().ok()?;
    let text = fs::read_to_string(process.join("stat")).ok()?;
    let words: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = words.get(11)?.parse::<u64>().ok()? + words.get(12)?.parse::<u64>().ok()?;
    Some((id, words.get(1)?.parse().ok()?, ticks))
}
