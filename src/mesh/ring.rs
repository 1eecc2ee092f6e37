//! Nodes by id, clockwise: a sorted vector, because a mesh of thousands is walked in arcs far more often than it grows.
//!
//! What is known of a node is shared until it is changed, so that a simulation of ten thousand does not hold a hundred
//! million equal opinions.

use std::sync::Arc;

use crate::model::NodeId;

/// A map from node to `T` in ring order.
#[derive(Clone, Debug)]
pub(super) struct Ring<T> {
    slots: Vec<(NodeId, Arc<T>)>,
}

impl<T> Default for Ring<T> {
    fn default() -> Self {
        Self { slots: Vec::new() }
    }
}

impl<T: Clone> Ring<T> {
    /// Takes in many that are not there yet, and that others hold too.
    pub(super) fn share(&mut self, slots: impl Iterator<Item = (NodeId, Arc<T>)>) {
        self.slots.extend(slots);
        // Stable: quick where they come in order.
        self.slots.sort_by_key(|(id, _)| *id);
    }

    /// The slot of a node.
    pub(super) fn get(&self, id: NodeId) -> Option<&T> {
        self.find(id).ok().map(|at| &*self.slots[at].1)
    }

    /// The slot of a node, to change.
    pub(super) fn get_mut(&mut self, id: NodeId) -> Option<&mut T> {
        self.find(id).ok().map(|at| Arc::make_mut(&mut self.slots[at].1))
    }

    /// The slot of a node, made by `fresh` where there is none.
    pub(super) fn entry(&mut self, id: NodeId, fresh: impl FnOnce() -> T) -> &mut T {
        let at = self.find(id).unwrap_or_else(|at| {
            self.slots.insert(at, (id, Arc::new(fresh())));
            at
        });
        Arc::make_mut(&mut self.slots[at].1)
    }

    /// Takes a node out.
    pub(super) fn remove(&mut self, id: NodeId) -> Option<T> {
        self.find(id).ok().map(|at| Arc::unwrap_or_clone(self.slots.remove(at).1))
    }

    /// Every node, by id.
    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeId, &T)> {
        self.slots.iter().map(|(id, slot)| (*id, &**slot))
    }

    /// How many nodes there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The node in the given place, by id.
    pub(super) fn at(&self, place: usize) -> Option<(NodeId, &T)> {
        self.slots.get(place).map(|(id, slot)| (*id, &**slot))
    }

    /// The nodes strictly between `from` and `until`, clockwise; all but `from` when the two are the same.
    pub(super) fn arc(&self, from: NodeId, until: NodeId) -> impl Iterator<Item = (NodeId, &T)> {
        let start = self.find(from).map_or_else(|at| at, |at| at + 1);
        let end = self.find(until).unwrap_or_else(|at| at);
        let (upper, lower) = if from < until { (start..end, 0..0) } else { (start..self.slots.len(), 0..end) };
        let slots = &self.slots;
        upper.chain(lower).map(move |at| (slots[at].0, &*slots[at].1))
    }

    fn find(&self, id: NodeId) -> Result<usize, usize> {
        self.slots.binary_search_by_key(&id, |(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arc_goes_clockwise_and_holds_neither_end() {
        let mut ring = Ring::default();
        for id in [50, 10, 40, 20, 30] {
            ring.entry(NodeId(id), || ());
        }
        let arc = |from, until| ring.arc(NodeId(from), NodeId(until)).map(|(id, ())| id.0).collect::<Vec<_>>();
        assert_eq!(arc(10, 40), [20, 30]);
        assert_eq!(arc(40, 20), [50, 10]);
        assert_eq!(arc(30, 30), [40, 50, 10, 20]);
        assert_eq!(arc(35, 35), [40, 50, 10, 20, 30]);
        assert_eq!(arc(30, 31), [] as [u64; 0]);
        assert_eq!(arc(50, 10), [] as [u64; 0]);
        assert_eq!(arc(5, 45), [10, 20, 30, 40]);
    }
}
