//! Members that others only speak of: a liar may have invented them. They are remembered for a while, since their own word
//! may be on its way, and until it comes nothing depends on them.

use std::time::Duration;

use super::{Mesh, roster::Seen};
use crate::model::{NodeId, Time};

impl Mesh {
    /// A member has said who it is. Whom others only speak of is neither probed nor told anything, nor handed on.
    pub(super) fn name(&mut self, now: Time, id: NodeId) {
        if self.roster.get(id).is_none_or(|seen| seen.named) {
            return;
        }
        let Some(seen) = self.roster.get_mut(id) else { return };
        seen.named = true;
        self.swim.learn(now, id, seen.generation, seen.incarnation, seen.state);
        self.carry_out(now);
    }

    /// Forgets members that were heard of, and that nobody has ever met: an honest mesh has their rows within a moment.
    pub(super) fn forget_the_invented(&mut self, now: Time, kept: Duration) {
        let invented = |(_, seen): &(NodeId, &Seen)| !seen.named && now.since(seen.met) >= kept;
        let gone: Vec<NodeId> = self.roster.iter().filter(invented).map(|(id, _)| id).collect();
        for id in gone {
            self.roster.remove(id);
            self.catalog.remove(id);
            self.rumors.forget(id);
            self.looks.remove(&id);
        }
    }
}

/// How long a member is remembered of which nothing is known but its id.
pub(super) const INVENTED_KEPT: Duration = Duration::from_secs(60);
