//! The figures of real agents: `cargo bench --bench mesh [-- FILTER] [--quick]`, as a table in Markdown on stdout.
//!
//! Each row starts its agents as processes of their own, on loopback, with a secret and a data directory each, and
//! talks to them as programs do: HTTP over connections that stay open, DNS over UDP. Serf runs beside them where it is
//! installed, encrypted as they are. Where the system allows it, all of it runs in a network namespace of its own, so
//! that loopback carries nothing else and its counters can be trusted.

#![allow(clippy::disallowed_methods, reason = "a bench reads the clock, and waits for processes")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

mod durable;
#[allow(dead_code, reason = "the bench `detection` shares it")]
mod fleet;
mod idle;
mod machine;
mod questions;
mod restart;
#[allow(dead_code, reason = "the bench `detection` shares it")]
mod serf;
mod spread;
mod table;
mod talk;

pub(crate) use table::{Effort, Row, Spans, row};

use table::Figure;

fn main() {
    machine::enter_own_network();
    let figures = [
        Figure { name: "spread-3", run: |effort| spread::spread(3, effort) },
        Figure { name: "spread-50", run: |effort| spread::spread(50, effort) },
        Figure { name: "idle", run: idle::idle },
        Figure { name: "restart", run: restart::restart },
        Figure { name: "durable", run: durable::durable },
    ];
    table::print(&machine::describe(), &figures);
}
