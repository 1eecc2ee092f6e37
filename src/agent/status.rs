//! How a node is, besides what it knows of the mesh: written by the loop and by who seeks, read by handles.

use std::sync::atomic::{AtomicBool, AtomicU64};

use arc_swap::{ArcSwap, ArcSwapOption};

/// What the loop lets handles read besides the view.
#[derive(Debug, Default)]
pub(super) struct Status {
    pub(super) fingerprint: AtomicU64,
    /// The bits of an `f64`.
    pub(super) agreement: AtomicU64,
    /// Seeds that do not resolve, as sentences.
    pub(super) troubles: ArcSwap<Vec<String>>,
    /// Seeds that resolve and cannot be joined.
    pub(super) failed: ArcSwap<Vec<String>>,
    /// Whose services are not taken, since what vouches for them is not believed.
    pub(super) unvouched: ArcSwap<Vec<String>>,
    /// Whether answers wait for [`Agent::open`](super::Agent::open).
    pub(super) held: AtomicBool,
    /// Who is waited for before answers are given.
    pub(super) awaited: ArcSwap<Vec<String>>,
    /// Why the last write to the store failed; none once one has not.
    pub(super) unstored: ArcSwapOption<String>,
}
