//! What answers are made from, and a number for it that grows after each change: who keeps an answer knows when it is old.
//!
//! Unlike the marks that readers wait by, these numbers are read without a lock or an allocation, and grow with each
//! change, not with each publication. A number is read before the view is, and grows after the view has: an answer kept
//! with it is then never older than the view at the time the numbers are compared. Services share a fixed number of them, which
//! costs no memory for names that are asked for and do not exist; two that share one renew each other's answers.

use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::xxh3_64;

/// What an answer is made from, besides what every answer is: this node, and whether it is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Basis {
    service: Option<u16>,
    nodes: bool,
    everything: bool,
}

impl Basis {
    /// All there is.
    pub const EVERYTHING: Self = Self { service: None, nodes: false, everything: true };
    /// All nodes.
    pub const NODES: Self = Self { service: None, nodes: true, everything: false };

    /// The service of that name, in lower case.
    #[must_use]
    pub fn service(name: &str) -> Self {
        Self { service: Some(slot(name)), ..Self::default() }
    }

    /// These, and all nodes.
    #[must_use]
    pub const fn and_nodes(self) -> Self {
        Self { nodes: true, ..self }
    }
}

/// The numbers of a view.
#[derive(Debug)]
pub(super) struct Beats {
    /// This node, its readiness, the freshness of all it shows.
    state: AtomicU64,
    nodes: AtomicU64,
    services: Box<[AtomicU64]>,
}

impl Default for Beats {
    fn default() -> Self {
        let services = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        Self { state: AtomicU64::new(0), nodes: AtomicU64::new(0), services }
    }
}

impl Beats {
    pub(super) fn state_changed(&self) {
        self.state.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn nodes_changed(&self) {
        self.nodes.fetch_add(1, Ordering::AcqRel);
    }

    /// `name` is in lower case.
    pub(super) fn service_changed(&self, name: &str) {
        self.services[usize::from(slot(name))].fetch_add(1, Ordering::AcqRel);
    }

    /// The sum of numbers that only grow is the same only if all of them are. `index` is the view's own.
    pub(super) fn read(&self, basis: Basis, index: u64) -> u64 {
        let mut sum = self.state.load(Ordering::Acquire);
        if let Some(slot) = basis.service {
            sum = sum.wrapping_add(self.services[usize::from(slot)].load(Ordering::Acquire));
        }
        if basis.nodes {
            sum = sum.wrapping_add(self.nodes.load(Ordering::Acquire));
        }
        if basis.everything { sum.wrapping_add(index) } else { sum }
    }
}

fn slot(name: &str) -> u16 {
    // The remainder is below SLOTS.
    (xxh3_64(name.as_bytes()) % u64::from(SLOTS)) as u16
}

/// 128 KiB; of ten thousand services, a change of one renews those of one other, more or less.
const SLOTS: u16 = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_grows_with_what_it_is_of_and_with_nothing_else() {
        let beats = Beats::default();
        let (web, db) = (Basis::service("web"), Basis::service("db"));
        let all = [web, db, Basis::NODES, web.and_nodes(), Basis::EVERYTHING];
        let read = |index| all.map(|basis| beats.read(basis, index));
        let changed = |before: [u64; 5], after: [u64; 5]| std::array::from_fn(|at| before[at] != after[at]);
        let before = read(1);
        beats.service_changed("web");
        assert_eq!(changed(before, read(2)), [true, false, false, true, true]);
        let before = read(2);
        beats.nodes_changed();
        assert_eq!(changed(before, read(3)), [false, false, true, true, true]);
        let before = read(3);
        beats.state_changed();
        assert_eq!(changed(before, read(3)), [true; 5]);
    }
}
