//! Beginning in the middle of a mesh's life, as simulations of large meshes do.

use std::sync::Arc;

use super::{Config, Generation, Mesh, Timer, catalog::Book, roster::Seen, sync};
use crate::model::{MemberState, Node, NodeId, Registration, Time};

impl Mesh {
    /// A core that already knows `peers`, all alive and connected: how a simulation begins in the middle of a mesh's life.
    #[must_use]
    pub fn with_peers(
        config: Config,
        registrations: Vec<Arc<Registration>>,
        peers: &[(NodeId, Generation, Arc<Node>)],
        now: Time,
    ) -> Self {
        let mut mesh = Self::new(config, registrations, now);
        for (id, generation, node) in peers.iter().filter(|(id, ..)| *id != mesh.id) {
            mesh.roster.entry(*id, || Seen { linked: true, ..Seen::new(*generation, now) });
            mesh.catalog.entry(*id, || Book::known(generation.epoch(), Arc::clone(node)));
            mesh.swim.learn(now, *id, *generation, 0, MemberState::Alive);
        }
        mesh.carry_out(now);
        mesh.sync.done = true;
        mesh.announced = true;
        mesh.published = mesh.book().mark().version.min(1);
        let first_sync = sync::SYNC_PERIOD.mul_f64(mesh.chance());
        mesh.timers.set(now + first_sync, Timer::Sync);
        mesh.set_ready();
        mesh.publish(now);
        mesh
    }
}
