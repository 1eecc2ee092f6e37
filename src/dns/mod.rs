//! The DNS face: RFC 1035 for a catalogue that changes under the question, in any number of zones.
//!
//! One path from bytes to bytes, [`Face::respond`], serves UDP, TCP and the fuzzer alike: `message` parses the packet,
//! `names` reads what is asked, `answer` and `service` look it up in the view, `reply` fits it to its size. They know no
//! socket and no clock. `server` opens the sockets; `tcp` serves its connections by that path; `udp` serves its batches
//! of `datagrams` by `fast`, which keeps the replies of that path as bytes for as long as what they were made from is
//! unchanged. `forward` asks others about names of others.
//!
//! `hickory-proto` parses and encodes, `hickory-resolver` forwards. `hickory-server` is not used, because it cannot keep
//! four promises: it has no cap on connections or tasks (it spawns one task a query), it answers malformed packets by
//! itself and so differently from us, its truncation drops OPT and sets TC when only additional records were cut, and it
//! answers from any address of the host. What is left of it, two loops over sockets, is shorter than the adapter to it
//! would be.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a face may read clocks; nothing depends on order"
)]

mod answer;
mod ask;
mod cookie;
mod datagrams;
mod fast;
mod forward;
pub mod fuzz;
mod message;
mod names;
mod reply;
mod server;
mod service;
mod settings;
mod shortage;
mod special;
mod tcp;
mod traffic;
mod udp;
mod zone;

#[cfg(test)]
mod tests;

pub(crate) use ask::labels;
pub use ask::{Kind, Record, Reply, ask};
pub use message::{Client, Face, Transport, Written};
pub(crate) use names::{address_label, is_instance_label, label_of};
pub use server::{Bound, Running, bind, serve};
pub use settings::{Config, Pattern, Prefer};
pub use traffic::Traffic;
pub use zone::{Dialect, Zone};
