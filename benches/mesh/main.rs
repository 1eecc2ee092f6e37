//! The figures of real agents: `cargo bench --bench mesh [-- FILTER] [--quick]`, as a table in Markdown on stdout.
//!
//! Each row starts its agents as processes of their own, on loopback, with a secret and a data directory each, and
//! talks to them as programs do: HTTP over connections that stay open, DNS over UDP. Serf runs beside them where it is
//! installed, encrypted as they are. Where the system allows it, all of it runs in a network namespace of its own, so
//! that loopback carries nothing else and its counters can be trusted.

#![allow(clippy::disallowed_methods, reason = "a bench reads the clock, and waits for processes")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

mod durable;
mod fleet;
mod idle;
mod machine;
mod questions;
mod restart;
mod serf;
mod spread;
mod talk;

use std::time::{Duration, Instant};

/// How much to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// What a figure needs to be worth citing.
    Full,
    /// Enough to see that all of it still works.
    Quick,
}

impl Effort {
    /// The one or the other.
    pub(crate) fn pick<T>(self, full: T, quick: T) -> T {
        if self == Self::Full { full } else { quick }
    }
}

/// One measurement, which gives some lines of the table.
struct Figure {
    name: &'static str,
    run: fn(Effort) -> Vec<Row>,
}

/// One line of the table.
pub(crate) struct Row {
    figure: String,
    target: &'static str,
    measured: String,
    peer: String,
}

/// A line of the table.
pub(crate) fn row(
    figure: impl Into<String>,
    target: &'static str,
    measured: impl Into<String>,
    peer: impl Into<String>,
) -> Row {
    Row { figure: figure.into(), target, measured: measured.into(), peer: peer.into() }
}

fn main() {
    machine::enter_own_network();
    let (mut filter, mut effort) = (String::new(), Effort::Full);
    for word in std::env::args().skip(1).filter(|word| word != "--bench") {
        match word.as_str() {
            "--quick" => effort = Effort::Quick,
            _ => filter = word,
        }
    }
    let figures = [
        Figure { name: "spread-3", run: |effort| spread::spread(3, effort) },
        Figure { name: "spread-50", run: |effort| spread::spread(50, effort) },
        Figure { name: "idle", run: idle::idle },
        Figure { name: "restart", run: restart::restart },
        Figure { name: "durable", run: durable::durable },
    ];
    println!("{}\n", machine::describe());
    println!("| figure | target | measured | known peer |\n|---|---|---|---|");
    for figure in figures.iter().filter(|figure| figure.name.contains(&filter)) {
        let began = Instant::now();
        eprintln!("{} ...", figure.name);
        for Row { figure, target, measured, peer } in (figure.run)(effort) {
            println!("| {figure} | {target} | {measured} | {peer} |");
        }
        eprintln!("{} took {:.0} s", figure.name, began.elapsed().as_secs_f64());
    }
}

/// Moments of one kind, sorted: their median, or any other quantile.
pub(crate) struct Spans(Vec<Duration>);

impl Spans {
    /// Of these.
    pub(crate) fn of(spans: impl IntoIterator<Item = Duration>) -> Self {
        let mut spans: Vec<_> = spans.into_iter().collect();
        spans.sort_unstable();
        Self(spans)
    }

    /// The smallest that this part of all does not exceed, in milliseconds.
    pub(crate) fn millis(&self, part: f64) -> f64 {
        let rank = (self.0.len() as f64 * part).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1].as_secs_f64() * 1e3
    }
}
