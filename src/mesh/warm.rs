//! Beginning in the middle of a mesh's life, as simulations of large meshes do.

use std::sync::Arc;

use super::{Config, Generation, Mesh, Timer, catalog::Book, claim::Claim, roster::Seen, sync};
use crate::model::{Node, NodeId, Time};

/// A node as others know it from its first page: alive and connected.
#[derive(Clone, Debug)]
pub struct Card {
    id: NodeId,
    seen: Arc<Seen>,
    book: Arc<Book>,
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
        let vouched = config.notary.vouched(&node.name, &node.voucher, config.unix_millis).ok();
        let seen = Seen { linked: true, named: true, ..Seen::new(Generation::first(config.epoch), Time::ZERO) };
        let book = Book::known(config.epoch, node, page, vouched);
        Self { id, seen: Arc::new(seen), book: Arc::new(book) }
    }

    /// Whose it is.
    #[must_use]
    pub const fn id(&self) -> NodeId {
        self.id
    }
}

impl Mesh {
    /// A core that already knows `peers`: how a simulation begins in the middle of a mesh's life.
    #[must_use]
    pub fn with_peers(config: Config, peers: &[Card], now: Time) -> Self {
        let mut mesh = Self::new(config, Vec::new(), now);
        let this = mesh.id;
        let others = || peers.iter().filter(|card| card.id != this);
        mesh.roster.share(others().map(|card| (card.id, Arc::clone(&card.seen))));
        mesh.catalog.share(others().map(|card| (card.id, Arc::clone(&card.book))));
        for Card { id, seen, .. } in others() {
            mesh.swim.learn(now, *id, seen.generation, seen.incarnation, seen.state);
        }
        mesh.carry_out(now);
        mesh.sync.done = true;
        mesh.announced = true;
        // Its own page is known to all as well.
        mesh.sign_fresh();
        let first_sync = sync::SYNC_PERIOD.mul_f64(mesh.chance());
        mesh.timers.set(now + first_sync, Timer::Sync);
        mesh.set_ready(true);
        mesh
    }
}
