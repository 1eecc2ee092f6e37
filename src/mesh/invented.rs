//! Members that others only speak of: a liar may have invented them. They are remembered for a while, since their own word
//! may be on its way, and until it comes nothing depends on them.

use std::time::Duration;

use super::{
    Mesh,
    event::{Event, Output},
    roster::Seen,
};
use crate::model::{NodeId, Time};

impl Mesh {
    /// A member has said who it is. Whom others only speak of is neither probed nor told anything, nor handed on.
    pub(super) fn name(&mut self, now: Time, id: NodeId) {
        if self.roster.get(id).is_none_or(|seen| seen.named) {
            return;
        }
        let Some(seen) = self.roster.get_mut(id) else { return };
        seen.named = true;
        let (state, cause) = (seen.state, seen.cause);
        self.swim.learn(now, id, seen.generation, seen.incarnation, state);
        self.carry_out(now);
        self.outbox.push(Output::Event(Event::Member { node: id, was: None, now: state, cause }));
        // Nobody has looked for it so far.
        self.await_verdict(now, id);
    }

    /// One more is spoken of: of too many that nobody has met the oldest goes.
    pub(super) fn make_room_for(&mut self, id: NodeId) {
        self.budgets.invented.push_back(id);
        if self.budgets.invented.len() > MAX_INVENTED
            && let Some(oldest) = self.budgets.invented.pop_front()
            && self.roster.get(oldest).is_some_and(|seen| !seen.named)
        {
            self.forget_invented(oldest);
        }
    }

    fn forget_invented(&mut self, id: NodeId) {
        self.roster.remove(id);
        self.catalog.remove(id);
        self.rumors.forget(id);
        self.looks.remove(&id);
    }

    /// Forgets members that were heard of, and that nobody has ever met: an honest mesh has their rows within a moment.
    pub(super) fn forget_the_invented(&mut self, now: Time, kept: Duration) {
        let invented = |(_, seen): &(NodeId, &Seen)| !seen.named && now.since(seen.met) >= kept;
        let gone: Vec<NodeId> = self.roster.iter().filter(invented).map(|(id, _)| id).collect();
        gone.into_iter().for_each(|id| self.forget_invented(id));
    }
}

/// Members of which nothing is known but their ids: the rows of those who join at once come within a moment.
pub(super) const MAX_INVENTED: usize = 1024;
/// How long a member is remembered of which nothing is known but its id.
pub(super) const INVENTED_KEPT: Duration = Duration::from_secs(60);
