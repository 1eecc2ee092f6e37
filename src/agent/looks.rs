//! What handles want to see that is in no view: the loop shows it, and waits for nobody.

use tokio::sync::oneshot;

use super::{Will, drive::Drive};
use crate::{
    mesh::{Command, Explanation, Stats},
    model::NodeId,
};

/// What handles want to see that is in no view.
pub(super) enum Look {
    /// The core's counters.
    Stats(oneshot::Sender<Stats>),
    /// What is to be said should this process die.
    Will(oneshot::Sender<Will>),
    /// Nothing yet, but have others asked about a member.
    Inquire(NodeId, oneshot::Sender<()>),
    /// Why a member is seen as it is.
    Explain(NodeId, oneshot::Sender<Option<Box<Explanation>>>),
}

impl Drive {
    /// Whoever does not wait for it any more does not need it.
    pub(super) fn show(&mut self, look: Look) {
        match look {
            Look::Stats(reply) => drop(reply.send(self.mesh.stats())),
            Look::Will(reply) => {
                drop(reply.send(Will::new(self.greeter.trust.estate(), self.mesh.hello(), self.peers.heirs())))
            }
            Look::Inquire(id, reply) => {
                // Who is not known here is not asked about; the explanation says so.
                let _ = self.mesh.command(self.clock.now(), Command::Inquire(id));
                self.drain();
                let _ = reply.send(());
            }
            Look::Explain(id, reply) => drop(reply.send(self.mesh.explain(id).map(Box::new))),
        }
    }
}
