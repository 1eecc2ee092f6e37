//! The DNS face: RFC 1035 for a catalogue that changes under the question, in any number of zones.
//!
//! One path from bytes to bytes, [`respond`], serves UDP, TCP and the fuzzer alike: `message` parses the packet and
//! fits the reply to its size, `names` reads what is asked, `answer` and `service` look it up in the view. They know
//! no socket and no clock; `server` does.
//!
//! `hickory-proto` parses and encodes. `hickory-server` is not used, because it cannot keep three promises: it has no
//! cap on connections or tasks (it spawns one task a query), it answers malformed packets by itself and so differently
//! from us, and its truncation drops OPT and sets TC when only additional records were cut. What is left of it, two
//! loops over sockets, is shorter than the adapter to it would be.

mod answer;
mod ask;
pub mod fuzz;
mod message;
mod names;
mod server;
mod service;
mod zone;

#[cfg(test)]
mod tests;

pub use ask::{Kind, Record, Reply, ask};
pub use message::{Transport, respond};
pub use server::{Bound, Running, bind, serve};
pub use zone::{Config, Dialect, Zone};
