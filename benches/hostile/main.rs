//! What hostile company costs: `cargo bench --bench hostile [-- FILTER] [--quick]`, as a table in Markdown on stdout.
//!
//! Agents are processes of their own, as in the bench `mesh`, whose tools these are. The attackers are threads of this
//! program: on a machine of two cores they take part of what they measure, so that a figure is an upper bound.

#![allow(clippy::disallowed_methods, reason = "a bench reads the clock, and waits for processes")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]
#![allow(dead_code, reason = "the rooms of the other benches are shared, and each takes what it needs")]

#[path = "../mesh/fleet.rs"]
mod fleet;
mod flood;
mod garbage;
#[path = "../http/load.rs"]
mod load;
#[path = "../mesh/machine.rs"]
mod machine;
#[path = "../mesh/questions.rs"]
mod questions;
mod slow;
mod strangers;
#[path = "../mesh/table.rs"]
mod table;
#[path = "../mesh/talk.rs"]
mod talk;
mod work;

pub(crate) use table::{Effort, Row, Spans, row};

use table::Figure;

fn main() {
    machine::enter_own_network();
    load::allow_many_files();
    let figures = [
        Figure { name: "garbage", run: garbage::garbage },
        Figure { name: "strangers", run: strangers::strangers },
        Figure { name: "slow", run: slow::slow },
    ];
    table::print(&machine::describe(), &figures);
}
