//! What an agent takes while nothing happens, as one of 64.

use std::{thread::sleep, time::Duration};

use crate::{
    Effort, Row,
    fleet::Fleet,
    machine::{Usage, loopback_bytes, usage},
    row,
    serf::Swarm,
};

/// The rows for memory, processor and traffic.
pub(crate) fn idle(effort: Effort) -> Vec<Row> {
    // Each node dials each other as it comes to probe it, one a second: idle is what follows.
    let (settle, watched) = effort.pick((150, 60), (5, 10));
    let (settle, watched) = (Duration::from_secs(settle), Duration::from_secs(watched));
    let ours = {
        let fleet = Fleet::start(NODES);
        let pids: Vec<_> = fleet.agents.iter().map(|agent| agent.pid()).collect();
        Idle::watch(&pids, settle, watched)
    };
    let theirs = Swarm::start(NODES).map(|swarm| Idle::watch(&swarm.pids(), settle, watched));
    let peer =
        |show: fn(&Idle) -> String| theirs.as_ref().map_or_else(String::new, |serf| format!("Serf {}", show(serf)));
    let line = |what: &str, target, show: fn(&Idle) -> String| {
        row(format!("idle agent among {NODES}: {what}"), target, show(&ours), peer(show))
    };
    vec![
        line("resident memory (of it no file's)", "10 MB", |idle| {
            format!("{:.1} ({:.1}) MB", idle.rss_mb, idle.anonymous_mb)
        }),
        line("processor", "0.1 %", |idle| format!("{:.3} %", idle.cpu_percent)),
        line("sent, headers included", "600 B/s", |idle| format!("{:.0} B/s", idle.bytes_per_second)),
    ]
}

/// The mean over all agents.
struct Idle {
    rss_mb: f64,
    anonymous_mb: f64,
    cpu_percent: f64,
    bytes_per_second: f64,
}

impl Idle {
    fn watch(pids: &[u32], settle: Duration, watched: Duration) -> Self {
        let mean = |of: fn(&Usage) -> f64| pids.iter().map(|pid| of(&usage(*pid))).sum::<f64>() / pids.len() as f64;
        sleep(settle);
        let (cpu, bytes) = (mean(|usage| usage.cpu_seconds), loopback_bytes());
        sleep(watched);
        let (cpu, bytes) = (mean(|usage| usage.cpu_seconds) - cpu, loopback_bytes() - bytes);
        Self {
            rss_mb: mean(|usage| usage.rss_mb),
            anonymous_mb: mean(|usage| usage.anonymous_mb),
            cpu_percent: 100.0 * cpu / watched.as_secs_f64(),
            bytes_per_second: bytes as f64 / pids.len() as f64 / watched.as_secs_f64(),
        }
    }
}

const NODES: usize = 64;
