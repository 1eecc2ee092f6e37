//! Floor 1, the laws: a node's knowledge of its mesh as a pure value.

pub mod event;
pub mod stats;
mod view;
pub mod wire;

use std::{net::SocketAddr, sync::Arc};

pub use event::{Cause, Change, Command, Done, Event, Generation, Gone, Hello, Input, Output, Rejected};
pub use stats::Stats;
pub use view::{Instance, Member};

use crate::model::{Epoch, InstanceId, MeshName, Node, NodeId, Registration, ServiceName, Time};

/// What a core needs to begin.
#[derive(Clone, Debug)]
pub struct Config {
    /// The mesh it belongs to.
    pub mesh: MeshName,
    /// This node's word on itself.
    pub node: Node,
    /// Larger than that of any earlier process of this name.
    pub epoch: Epoch,
    /// A random number drawn at the start of the process.
    pub boot: u64,
    /// The seed of all its choices.
    pub seed: u64,
    /// The wall clock at [`Time::ZERO`], in unix milliseconds: only for times that people read.
    pub unix_millis: u64,
}

/// A node's knowledge of its mesh.
#[derive(Debug)]
pub struct Mesh {}

impl Mesh {
    /// A core that knows nobody yet. `registrations` were restored from the store: they are its book from the start.
    #[must_use]
    pub fn new(config: Config, registrations: Vec<Arc<Registration>>, now: Time) -> Self {
        let _ = (config, registrations, now);
        unimplemented!()
    }

    /// Takes in what the world says. Cannot fail: what makes no sense is counted and dropped.
    pub fn handle(&mut self, now: Time, input: Input) {
        let _ = (now, input);
        unimplemented!()
    }

    /// Takes a user's command.
    ///
    /// # Errors
    /// [`Rejected`]; nothing was changed.
    pub fn command(&mut self, now: Time, command: Command) -> Result<Done, Rejected> {
        let _ = (now, command);
        unimplemented!()
    }

    /// Takes the next thing to be done; `None` when all is drained.
    pub fn poll(&mut self) -> Option<Output> {
        unimplemented!()
    }

    /// When to send [`Input::Wake`].
    #[must_use]
    pub fn deadline(&self) -> Time {
        unimplemented!()
    }

    /// The first words on a new connection.
    #[must_use]
    pub fn hello(&self) -> Hello {
        unimplemented!()
    }

    /// This node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        unimplemented!()
    }

    /// Where a peer can be dialled, best first.
    #[must_use]
    pub fn addresses(&self, peer: NodeId) -> &[SocketAddr] {
        let _ = peer;
        unimplemented!()
    }

    /// What may be shown of a service: `None` when nobody registers it.
    #[must_use]
    pub fn service(&self, name: &ServiceName) -> Option<Vec<Instance>> {
        let _ = name;
        unimplemented!()
    }

    /// Every service's name.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        std::iter::empty()
    }

    /// One member, this node too.
    #[must_use]
    pub fn member(&self, id: NodeId) -> Option<Member> {
        let _ = id;
        unimplemented!()
    }

    /// All members in any state, this node too, by id.
    pub fn members(&self) -> impl Iterator<Item = Member> {
        std::iter::empty()
    }

    /// This node's own registrations.
    pub fn registrations(&self) -> impl Iterator<Item = &Arc<Registration>> {
        std::iter::empty()
    }

    /// This node's own registration of that id.
    #[must_use]
    pub fn registration(&self, id: &InstanceId) -> Option<&Arc<Registration>> {
        let _ = id;
        unimplemented!()
    }

    /// Whether answers may be given: the first sync is done, or there is nobody to sync with.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        unimplemented!()
    }

    /// An order-free hash of all it knows: equal on two nodes that agree.
    #[must_use]
    pub fn root(&self) -> u64 {
        unimplemented!()
    }

    /// The part of the peers heard from lately whose root was ours: 0 to 1.
    #[must_use]
    pub fn agreement(&self) -> f64 {
        unimplemented!()
    }

    /// What it has done and dropped.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        unimplemented!()
    }
}
