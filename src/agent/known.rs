//! The peers to start from next time, and when to write them down.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    drive::Drive,
    store::{KnownPeer, MAX_KNOWN_PEERS},
};
use crate::model::{NodeId, NodeName};

/// What of them is on the disk, and when to look again.
pub(super) struct Known {
    saved: Vec<KnownPeer>,
    at: Option<Instant>,
}

impl Known {
    pub(super) const fn new(saved: Vec<KnownPeer>) -> Self {
        Self { saved, at: None }
    }

    /// When they are to be written.
    pub(super) const fn at(&self) -> Option<Instant> {
        self.at
    }

    /// Whoever is killed now must find the mesh again.
    pub(super) const fn hurry(&mut self, now: Instant) {
        self.at = Some(now);
    }

    /// A member has come, changed or gone. That happens in flocks, and one write is for all, unless so few are known that a
    /// node which is killed meanwhile would take itself for a mesh of one. Who is new is to be waited for from now on.
    pub(super) fn changed(&mut self, now: Instant, id: NodeId) {
        let wait = match () {
            () if self.saved.len() < FEW => Duration::ZERO,
            () if self.saved.iter().all(|peer| peer.id != id) => FLOCK_OF_NEW,
            () => FLOCK,
        };
        self.at = Some(self.at.map_or(now + wait, |at| at.min(now + wait)));
    }
}

impl Drive {
    /// Writes them if that is due.
    pub(super) fn keep_known(&mut self, now: Instant) {
        if self.agenda.known.at.is_some_and(|at| at <= now) {
            self.agenda.known.at = None;
            self.save_known();
        }
    }

    /// What a node is called: as the mesh says, or as it did last time.
    pub(super) fn name(&self, id: NodeId) -> Option<NodeName> {
        let member = self.mesh.member(id).map(|member| member.node.name.clone());
        member.or_else(|| Some(self.agenda.known.saved.iter().find(|peer| peer.id == id)?.name.clone()))
    }

    pub(super) fn save_known(&mut self) {
        let known = self.mesh.acquaintances().into_iter();
        let known = known.filter_map(|(id, addresses)| Some(KnownPeer { id, name: self.name(id)?, addresses }));
        let peers: Vec<_> = known.take(MAX_KNOWN_PEERS).collect();
        // An empty mesh is no reason to forget how to find one.
        if !peers.is_empty() && peers != self.agenda.known.saved {
            self.writes.keep_peers(peers.clone());
            self.agenda.known.saved = peers;
        }
    }
}

/// With so many saved a node finds the mesh again without one who has just come.
const FEW: usize = 16;
/// Members come and go in flocks: one write for all.
const FLOCK: Duration = Duration::from_secs(30);
const FLOCK_OF_NEW: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_peers_are_written_at_once_and_a_flock_together() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let peer = |n: u64| KnownPeer { id: NodeId(n), name: "b".try_into().unwrap(), addresses: Vec::new() };
        for (saved, after) in [(1, Duration::ZERO), (FEW - 1, Duration::ZERO), (FEW, FLOCK)] {
            let mut known = Known::new((0..saved as u64).map(peer).collect());
            known.changed(now, NodeId(0));
            assert_eq!(known.at(), Some(now + after), "{saved} are saved");
        }
        let mut known = Known::new((0..FEW as u64).map(peer).collect());
        known.changed(now, NodeId(1));
        known.changed(now + second, NodeId(2));
        assert_eq!(known.at(), Some(now + FLOCK), "nobody is waited for without end");
        known.changed(now + second, NodeId(FEW as u64));
        assert_eq!(known.at(), Some(now + second + FLOCK_OF_NEW), "who is new is known soon");
        known.hurry(now + second);
        assert_eq!(known.at(), Some(now + second));
    }
}
