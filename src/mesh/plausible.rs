//! What can be true of a member: no claim from the far future is believed.

use std::time::Duration;

use super::Mesh;
use crate::model::{Epoch, NodeId, Time};

impl Mesh {
    /// Whether an epoch that `from` names can be. Of others nobody is believed who says that a process began more than a
    /// day from now; of itself everybody is, for its clock may be wrong, and once it was it may have to rise further.
    ///
    /// Of a life of its own that this node has forgotten it hears from others, and it rises above that, whatever its clock
    /// was then. So what is said of a node ends before what it rises above, and that before what is taken from itself.
    pub(super) fn is_plausible(&self, now: Time, from: NodeId, id: NodeId, epoch: Epoch) -> bool {
        let unix = |ahead| self.wall_clock(now + ahead).max(self.epoch.0);
        let known = self.roster.get(id).map_or(0, |seen| seen.generation.epoch().0);
        let latest = match id {
            _ if id == self.id => unix(Epoch::FURTHEST - MARGIN),
            _ if id == from => unix(Epoch::FURTHEST),
            _ => unix(CLOCKS_DIFFER).max(known + RISES_MISSED * RISE).min(unix(Epoch::FURTHEST - 2 * MARGIN)),
        };
        epoch.0 <= latest.max(known)
    }

    /// Whether this node may rise above an epoch, its own or one that others name, and is still believed.
    pub(super) fn may_rise_above(&self, now: Time, epoch: Epoch) -> bool {
        epoch.0 <= self.wall_clock(now + (Epoch::FURTHEST - MARGIN))
    }
}

/// A risen epoch is ahead by up to so many: as milliseconds, a minute.
pub(super) const RISE: u64 = 60_000;
/// So many rises may have been missed.
const RISES_MISSED: u64 = 8;
/// How far a peer's clock may be ahead of ours before its epoch is held for an attack.
const CLOCKS_DIFFER: Duration = Duration::from_secs(86_400);
/// More than a rise, and than honest clocks differ.
const MARGIN: Duration = Duration::from_secs(2 * 86_400);
