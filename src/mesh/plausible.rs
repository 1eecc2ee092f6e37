//! What can be true of a member: no claim from the far future is believed.

use std::time::Duration;

use super::{Mesh, event::Generation};
use crate::model::{Epoch, NodeId, Time};

impl Mesh {
    /// Whether a generation that `from` names can be. Of others nobody is believed who says that a process began more than
    /// a day from now; of itself everybody is, for its clock may be wrong, and once it was it may have to rise further.
    ///
    /// Of a life of its own that this node has forgotten it hears from others, and it rises above that, whatever its clock
    /// was then.
    pub(super) fn is_plausible(&self, now: Time, from: NodeId, id: NodeId, generation: Generation) -> bool {
        let unix = |ahead| self.wall_clock(now + ahead).max(self.epoch.0);
        let known = self.roster.get(id).map_or(0, |seen| seen.generation.epoch().0 + RISES_MISSED * RISE);
        let latest = match id {
            _ if id == self.id => unix(OWN_CLOCK_WAS),
            _ if id == from => LAST_EPOCH.0,
            _ => unix(CLOCKS_DIFFER),
        };
        generation.epoch().0 <= latest.max(known)
    }
}

/// A risen epoch is ahead by up to so many: as milliseconds, a minute.
pub(super) const RISE: u64 = 60_000;
/// Epochs have 48 bits: milliseconds up to the year 10,889. One bit is kept for those who rise above them.
pub(super) const LAST_EPOCH: Epoch = Epoch(1 << 47);
/// So many rises may have been missed.
const RISES_MISSED: u64 = 8;
/// How far a peer's clock may be ahead of ours before its epoch is held for an attack.
const CLOCKS_DIFFER: Duration = Duration::from_secs(86_400);
/// How far ahead its own clock may have been. Who is lied to about it rises no further than this, which leaves epochs for
/// four thousand years.
const OWN_CLOCK_WAS: Duration = Duration::from_secs(100 * 365 * 86_400);
