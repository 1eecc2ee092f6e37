//! The figures of HTTP: `cargo bench --bench http [-- FILTER] [--quick]`, as a table in Markdown on stdout.
//!
//! Agents are processes of their own, as in the bench `mesh`, whose tools these are. What an answer costs is the processor
//! time that the kernel charges the agent, beside that of a server by hyper alone which sends as many bytes.

#![allow(clippy::disallowed_methods, reason = "a bench reads the clock, and waits for processes")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]
#![allow(dead_code, reason = "the rooms of the bench `mesh` are shared, and it takes what it needs")]

#[path = "../mesh/fleet.rs"]
mod fleet;
mod floor;
mod load;
#[path = "../mesh/machine.rs"]
mod machine;
mod parked;
mod reads;
#[path = "../mesh/table.rs"]
mod table;
#[path = "../mesh/talk.rs"]
mod talk;
mod writes;

pub(crate) use table::{Effort, Row, Spans, row};

use table::Figure;

fn main() {
    if std::env::args().nth(1).as_deref() == Some(floor::FLAG) {
        return floor::serve();
    }
    machine::enter_own_network();
    load::allow_many_files();
    let figures = [
        Figure { name: "reads", run: reads::reads },
        Figure { name: "parked", run: parked::one_service },
        Figure { name: "durable", run: writes::durable },
        Figure { name: "replicated", run: writes::replicated },
        Figure { name: "idle", run: parked::many_services },
    ];
    table::print(&machine::describe(), &figures);
}
