//! Hobnob: a gossip-based service discovery and health mesh. No server, no leader, no quorum.
//!
//! **A node's knowledge is a pure value, [`mesh::Mesh`]. The `agent` moves it in the real world, the `sim` in a
//! virtual one. The faces (DNS, HTTP, CLI) only read the view it publishes, and send it commands.**
//!
//! | floor | room | what lives there |
//! |---|---|---|
//! | 0 | [`model`] | the words: parsed once, cannot be wrong afterwards |
//! | 1 | [`mesh`] | the laws: membership, catalogue, rumours, sync; no clock, no socket, no task |
//! | 2a | [`sim`] | the virtual driver: seeds, faults, oracles |
//! | 2b | `agent` | the real driver: tokio, quinn, rustls, redb |
//! | 3 | `dns`, `http`, `cli` | the faces |
//!
//! Three flows to read the code by:
//!
//! 1. *A registration becomes an answer on another node*: `http` parses it once, [`mesh::Command::Register`], stored
//!    durably, a row in this node's book, pushed at once, merged by the others into their views, read by their `dns`.
//! 2. *A death removes instances*: a probe fails, Suspect, Down, the view of the dead node's services is rebuilt; no
//!    book is touched.
//! 3. *Embedding*: `Agent::builder` … `start`, `register`, `lookup` or `watch`, `leave`. The program `hobnob` is these
//!    lines plus `dns::serve` and `http::serve`.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that unwraps says what it expected"))]

pub mod mesh;
pub mod model;
pub mod sim;

#[cfg(feature = "agent")]
pub mod agent;
#[cfg(feature = "agent")]
pub mod cli;
#[cfg(feature = "agent")]
pub mod config;
#[cfg(feature = "agent")]
pub mod dns;
#[cfg(feature = "agent")]
pub mod http;

#[cfg(feature = "agent")]
pub use agent::{Agent, Registered, Secret};
pub use model::{CheckDraft as Check, Health, RegistrationDraft as Registration, secs};
