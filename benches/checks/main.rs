//! The figures of health checks: `cargo bench --bench checks [-- FILTER] [--quick]`, as a table in Markdown on stdout.
//!
//! Agents are processes of their own, as in the bench `mesh`, whose tools these are; what they check are sockets and
//! processes of this program, which keeps its own account of when it was asked.

#![allow(clippy::disallowed_methods, reason = "a bench reads the clock, and waits for processes")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]
#![allow(dead_code, reason = "the rooms of the bench `mesh` are shared, and it takes what it needs")]

mod crowd;
mod death;
#[path = "../mesh/fleet.rs"]
mod fleet;
mod flip;
#[path = "../mesh/machine.rs"]
mod machine;
#[path = "../mesh/questions.rs"]
mod questions;
mod storm;
#[path = "../mesh/table.rs"]
mod table;
#[path = "../mesh/talk.rs"]
mod talk;
mod targets;

pub(crate) use table::{Effort, Row, Spans, row};

use table::Figure;

fn main() {
    machine::enter_own_network();
    let figures = [
        Figure { name: "crowd", run: crowd::crowd },
        Figure { name: "death", run: death::death },
        Figure { name: "flip", run: flip::flip },
        Figure { name: "storm", run: storm::storm },
    ];
    table::print(&machine::describe(), &figures);
}
