//! Beginning in the middle of a mesh's life, as simulations of large meshes do.

use std::sync::Arc;

use bytes::Bytes;

use super::{Config, Generation, Mesh, Timer, catalog::Book, claim::Claim, notary::BookKey, roster::Seen, sync};
use crate::model::{MemberState, Node, NodeId, Time};

/// A node as others know it from its first page.
#[derive(Clone, Debug)]
pub struct Card {
    id: NodeId,
    generation: Generation,
    node: Arc<Node>,
    page: Bytes,
    key: BookKey,
}

impl Card {
    /// The card of the node that begins with this configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let id = NodeId::of(&config.mesh, &config.node.name);
        let node = Arc::new(Node { voucher: config.notary.voucher(), ..config.node.clone() });
        let mut book = Book::new(config.epoch);
        // A node's own row is far below any limit.
        let _ = book.write(Time::ZERO, super::Key::Node, Some(Claim::Node(Arc::clone(&node))));
        let page = book.sign(id, &*config.notary).pop().unwrap_or_default();
        Self { id, generation: Generation::first(config.epoch), node, page, key: config.notary.own_key() }
    }
}

impl Mesh {
    /// A core that already knows `peers`, all alive and connected: how a simulation begins in the middle of a mesh's life.
    #[must_use]
    pub fn with_peers(config: Config, peers: &[Card], now: Time) -> Self {
        let mut mesh = Self::new(config, Vec::new(), now);
        for Card { id, generation, node, page, key } in peers.iter().filter(|card| card.id != mesh.id) {
            mesh.roster.entry(*id, || Seen { linked: true, ..Seen::new(*generation, now) });
            mesh.catalog.entry(*id, || Book::known(generation.epoch(), Arc::clone(node), page.clone(), *key));
            mesh.swim.learn(now, *id, *generation, 0, MemberState::Alive);
        }
        mesh.carry_out(now);
        mesh.sync.done = true;
        mesh.announced = true;
        let first_sync = sync::SYNC_PERIOD.mul_f64(mesh.chance());
        mesh.timers.set(now + first_sync, Timer::Sync);
        mesh.set_ready();
        mesh
    }
}
