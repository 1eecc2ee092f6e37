//! What a node leaves to chance, all of it from its seed.

use rand::RngExt;

use super::{Mesh, roster::Seen};
use crate::model::NodeId;

impl Mesh {
    /// One of the wanted members, each as likely as any other: nobody comes up more often for whom it has beside it.
    pub(super) fn random_member(&mut self, wanted: impl Fn(&Seen) -> bool) -> Option<NodeId> {
        let wanted = |(_, seen): &(NodeId, &Seen)| seen.named && wanted(seen);
        for _ in 0..DRAWS {
            let drawn = self.index_below(self.roster.len());
            if let Some((id, _)) = self.roster.at(drawn).filter(wanted) {
                return Some(id);
            }
        }
        let drawn = self.index_below(self.roster.iter().filter(wanted).count());
        self.roster.iter().filter(wanted).nth(drawn).map(|(id, _)| id)
    }

    /// The same list, from a random place on: whoever comes first in it does so by chance.
    pub(super) fn turned<T>(&mut self, mut list: Vec<T>) -> Vec<T> {
        let start = self.index_below(list.len());
        list.rotate_left(start);
        list
    }

    pub(super) fn index_below(&mut self, count: usize) -> usize {
        if count == 0 { 0 } else { self.rng.random_range(0..count) }
    }

    /// A number in [0, 1).
    pub(super) fn chance(&mut self) -> f64 {
        self.rng.random()
    }
}

/// Draws before those who are wanted are counted.
const DRAWS: usize = 8;
