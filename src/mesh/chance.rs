//! What a node leaves to chance, all of it from its seed.

use rand::RngExt;

use super::{Mesh, roster::Seen};
use crate::model::NodeId;

impl Mesh {
    /// The first wanted member from a random one on.
    pub(super) fn random_member(&mut self, wanted: impl Fn(&Seen) -> bool) -> Option<NodeId> {
        let count = self.roster.len();
        let start = self.index_below(count);
        (0..count)
            .filter_map(|step| self.roster.at((start + step) % count))
            .find(|(_, seen)| seen.named && wanted(seen))
            .map(|(id, _)| id)
    }

    pub(super) fn index_below(&mut self, count: usize) -> usize {
        if count == 0 { 0 } else { self.rng.random_range(0..count) }
    }

    /// A number in [0, 1).
    pub(super) fn chance(&mut self) -> f64 {
        self.rng.random()
    }
}
