//! What can be true of a member: no claim from the far future is believed.

use std::time::Duration;

use super::{Mesh, event::Generation};
use crate::model::{NodeId, Time};

impl Mesh {
    /// Whether a generation can be: no process starts more than a day from now, unless it has told us so itself.
    pub(super) fn is_plausible(&self, now: Time, id: NodeId, generation: Generation) -> bool {
        let latest = self.unix_millis(now + CLOCKS_DIFFER);
        let known = self.roster.get(id).is_some_and(|seen| seen.generation.epoch() >= generation.epoch());
        known || generation.epoch().0 <= latest.max(self.epoch.0)
    }
}

/// How far a peer's clock may be ahead of ours before its epoch is held for an attack.
const CLOCKS_DIFFER: Duration = Duration::from_secs(86_400);
