//! Failure detection: `cargo bench --bench detection [-- FILTER] [--quick]`, as a table in Markdown on stdout.
//!
//! Latency without false alarms means nothing, so both are always reported together, and with what they cost: real
//! agents on loopback and Serf beside them ([`live`]), and the same core on the simulator where a mesh is too large for
//! one machine or an experiment too long ([`simulated`], [`lifeguard`]).

#![allow(clippy::disallowed_methods, reason = "a bench reads the clock, and waits for processes")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]
#![allow(dead_code, reason = "the rooms of the bench `mesh` are shared, and it takes what it needs")]

#[path = "../mesh/fleet.rs"]
mod fleet;
mod lifeguard;
mod live;
#[path = "../mesh/machine.rs"]
mod machine;
mod plain;
#[path = "../mesh/questions.rs"]
mod questions;
mod rapid;
#[path = "../mesh/serf.rs"]
mod serf;
mod simulated;
#[path = "../mesh/table.rs"]
mod table;
#[path = "../mesh/talk.rs"]
mod talk;

pub(crate) use table::{Effort, Row, Spans, row};

use table::Figure;

fn main() {
    machine::enter_own_network();
    let figures = [
        Figure { name: "live", run: live::live },
        Figure { name: "silent-1000", run: |effort| simulated::silent(effort.pick(1_000, 100), effort) },
        Figure { name: "silent-10000", run: simulated::silent_large },
        Figure { name: "rack", run: simulated::rack },
        Figure { name: "lifeguard", run: lifeguard::lifeguard },
        Figure { name: "loss", run: simulated::loss },
        Figure { name: "rapid-flip", run: rapid::flip },
        Figure { name: "rapid-loss", run: rapid::loss },
        Figure { name: "idle", run: simulated::idle },
    ];
    table::print(&machine::describe(), &figures);
}
