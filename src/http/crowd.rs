//! Counts of those who come: how many connections are held, and why some were cut off.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a connection or a request was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CutOff {
    /// No whole head in time, or an idle connection.
    SlowHead,
    /// A head beyond the limit.
    LargeHead,
    /// It took its answer too slowly.
    SlowReader,
    /// There was no memory left to spend on its body.
    Memory,
    /// It asked too often.
    Rate,
    /// Its client held too many.
    Client,
    /// It failed at TLS, or showed no certificate that it should.
    Handshake,
}

const CUT_OFFS: [(CutOff, &str); 7] = [
    (CutOff::SlowHead, "slow_head"),
    (CutOff::LargeHead, "large_head"),
    (CutOff::SlowReader, "slow_reader"),
    (CutOff::Memory, "memory"),
    (CutOff::Rate, "rate"),
    (CutOff::Client, "client"),
    (CutOff::Handshake, "handshake"),
];

/// The counts of one server.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    accepted: AtomicU64,
    held: AtomicU64,
    cut_off: [AtomicU64; CUT_OFFS.len()],
}

impl Crowd {
    /// Counts a connection, which is held until [`Crowd::leave`].
    pub(super) fn enter(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.held.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        self.held.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn cut_off(&self, why: CutOff) {
        self.cut_off[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Connections taken in so far.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Connections held now.
    pub(super) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Every reason with its count.
    pub(super) fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CUT_OFFS.iter().map(|(why, name)| (*name, self.cut_off[*why as usize].load(Ordering::Relaxed)))
    }
}
