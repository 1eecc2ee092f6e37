//! Floor 2a, the virtual driver: the same [`Mesh`](crate::mesh::Mesh) the agent runs, in virtual time.
//!
//! A [`World`] owns machines, a network and one heap of future events. Every choice follows from its seed, so a run
//! that broke a law is replayed by that seed alone. [`oracle`] holds the laws as functions and checks them as the
//! world turns; [`plan`] derives a random story of faults from a seed.
//!
//! ```no_run
//! use std::time::Duration;
//! use hobnob::{model::Registration, sim::{Settings, World}};
//!
//! let mut world = World::cold(Settings::seeded(7), 5);
//! world.converge(Duration::from_secs(30));
//! world.register(0, Registration::new("web", 8080)?);
//! world.run(Duration::from_secs(1));
//! assert_eq!(world.shown(4, &"web".try_into()?).len(), 1);
//! # Ok::<(), hobnob::model::Invalid>(())
//! ```
//!
//! What it does not model: bandwidth, queues inside routers, and the time a handler takes.

mod courier;
pub mod fuzz;
mod machine;
mod network;
pub mod oracle;
pub mod plan;
mod queue;
mod turn;
mod world;

pub use machine::Traffic;
pub use network::Network;
pub use oracle::Depth;
pub use plan::{Fault, Plan};
pub use world::{Journal, Seen, Settings, World};
