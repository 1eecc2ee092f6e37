//! Floor 2b, the real driver: one task owns the mesh; quinn moves its packets, redb keeps what must not be lost.
//!
//! [`Agent`] is the handle that embedders and faces hold: `Clone + Send + Sync`, cheap to copy.

pub mod secret;
mod view;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

pub use secret::Secret;
pub use view::{Service, View};

use crate::{
    mesh::{Done, Rejected, Stats},
    model::{CheckName, Health, InstanceId, MeshName, NodeName, Registration, Time},
};

/// What an agent needs to start.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's name, unique in its mesh.
    pub node: NodeName,
    /// The mesh it belongs to.
    pub mesh: MeshName,
    /// The datacenter it stands in.
    pub datacenter: String,
    /// The zone it stands in; may be empty.
    pub zone: String,
    /// Free pairs of text about the node.
    pub meta: std::collections::BTreeMap<String, String>,
    /// Where the mesh port listens (UDP); port 0 takes any. `[::]` also hears IPv4.
    pub listen: SocketAddr,
    /// The address others should use, where it is not the one listened on.
    pub advertise: Option<SocketAddr>,
    /// `host:port` of nodes to find the mesh through; names are resolved again on every try.
    pub join: Vec<String>,
    /// The mesh's secrets: the first signs, all verify. At least one.
    pub secrets: Vec<Secret>,
    /// Where to keep what must survive; `None` keeps it in memory alone.
    pub data_dir: Option<PathBuf>,
    /// How long to wait for the first sync before serving what is stored.
    pub ready_after: Duration,
}

/// A handle to a running agent.
#[derive(Clone, Debug)]
pub struct Agent {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    view: Arc<View>,
}

/// Why an agent did not start. Nothing was left behind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The mesh port could not be opened.
    #[error("cannot listen on {address} (UDP): {why}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// The system's word on it.
        why: std::io::Error,
    },
    /// The data directory cannot be used.
    #[error("cannot use data directory {path}: {why}")]
    Data {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A setting makes no sense.
    #[error("{field} {why}")]
    Config {
        /// The setting.
        field: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// Why a write was refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The mesh does not take it.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// It could not be stored durably.
    #[error("could not be stored: {0}")]
    Store(String),
    /// The agent has stopped.
    #[error("the agent has stopped")]
    Stopped,
}

impl Agent {
    /// Starts an agent: opens the store, binds the port, and begins to look for the mesh. Returns once it listens,
    /// which is before it is ready: see [`Agent::ready`].
    ///
    /// # Errors
    /// [`StartError`]; nothing is left behind.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let _ = config;
        unimplemented!()
    }

    /// What may be shown, read without entering the loop; faces keep a clone of the `Arc`.
    #[must_use]
    pub fn view(&self) -> &Arc<View> {
        &self.shared.view
    }

    /// The settings it was started with, with the address in use.
    #[must_use]
    pub fn config(&self) -> &Config {
        unimplemented!()
    }

    /// Where the mesh port listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        unimplemented!()
    }

    /// Registers or changes one instance. Once this returns it is on disk, visible here, and on its way to the others.
    ///
    /// # Errors
    /// [`Refused`]; nothing was changed.
    pub async fn put(&self, registration: Registration) -> Result<Done, Refused> {
        let _ = registration;
        unimplemented!()
    }

    /// Withdraws one instance of this node.
    ///
    /// # Errors
    /// [`Rejected::NotFound`] when there is none of that id.
    pub async fn remove(&self, id: &InstanceId) -> Result<(), Refused> {
        let _ = id;
        unimplemented!()
    }

    /// A program's word on its own TTL check.
    ///
    /// # Errors
    /// [`Rejected::NotFound`] when there is no such check.
    pub async fn report(
        &self,
        instance: &InstanceId,
        check: &CheckName,
        status: Health,
        output: &str,
    ) -> Result<(), Refused> {
        let _ = (instance, check, status, output);
        unimplemented!()
    }

    /// Looks for the mesh through these `host:port`s too. Returns how many addresses they resolved to.
    ///
    /// # Errors
    /// When one of them does not resolve; the others are tried all the same.
    pub async fn join(&self, seeds: &[String]) -> Result<usize, String> {
        let _ = seeds;
        unimplemented!()
    }

    /// Says goodbye, waits until the peers have heard it, and stops.
    pub async fn leave(&self) {
        unimplemented!()
    }

    /// Resolves when the agent has stopped, with the reason if it was not asked to.
    pub async fn stopped(&self) -> Result<(), String> {
        unimplemented!()
    }

    /// Why it does not answer yet; empty once it does.
    #[must_use]
    pub fn unready(&self) -> Vec<String> {
        unimplemented!()
    }

    /// A copy of the core's counters.
    pub async fn stats(&self) -> Stats {
        unimplemented!()
    }

    /// A hash of all that this node knows: equal on two nodes that agree.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        unimplemented!()
    }

    /// The part of the peers heard from lately whose fingerprint was this node's: 0 to 1.
    #[must_use]
    pub fn agreement(&self) -> f64 {
        unimplemented!()
    }

    /// A moment of this process's clock in unix milliseconds.
    #[must_use]
    pub fn unix_millis(&self, at: Time) -> u64 {
        let _ = at;
        unimplemented!()
    }
}
