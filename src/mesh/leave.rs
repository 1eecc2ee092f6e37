//! Who has left: by his own word, or because an operator said that he will not come back. `Left` is not `Down`.
//!
//! A goodbye counts at once from the one who leaves. Told by another it is a reason to look, since anybody can write
//! another's name under it; of a member that is Down anyway it is believed. An operator's word counts nowhere but where
//! the member is Down already: no single member can make a healthy one leave.
//!
//! Who has left comes back by its own word alone: on its own connection, or in the page that its new process has signed
//! and that anybody may bring. Who was said to have left and lives takes a new epoch therefore, not just a generation.

use std::time::Duration;

use super::{
    Mesh,
    event::{Cause, Done, Generation, Rejected},
    rumor::Rumor,
    wire::{Fact, Frame},
};
use crate::model::{Epoch, MemberState, NodeId, Time};

impl Mesh {
    /// An operator says that a member which is Down will not come back.
    pub(super) fn force_leave(&mut self, now: Time, id: NodeId) -> Result<Done, Rejected> {
        let by = self.id;
        let alive = |state| {
            let name = self.member(id).map_or_else(|| id.to_string(), |member| member.node.name.to_string());
            Err(Rejected::Alive(name, state))
        };
        if id == by {
            return alive(MemberState::Alive);
        }
        let Some(seen) = self.roster.get(id) else { return Err(Rejected::NotFound(format!("member {id}"))) };
        match seen.state {
            MemberState::Alive | MemberState::Suspect => alive(seen.state),
            MemberState::Left => Ok(Done::Unchanged),
            MemberState::Down => {
                let left = Fact { state: MemberState::Left, by, ..seen.fact(id, by) };
                self.judge(now, &left, Cause::Forced);
                self.spread(now, &Rumor::Fact(left), by);
                Ok(Done::Changed)
            }
        }
    }

    /// Somebody says that another member has left.
    pub(super) fn hear_of_a_goodbye(&mut self, now: Time, from: NodeId, fact: &Fact) {
        let Some(seen) = self.roster.get(fact.id).filter(|seen| seen.generation <= fact.generation) else { return };
        let own_word = fact.by == fact.id;
        match seen.state {
            _ if own_word && from == fact.id => self.believe_leaver(now, fact),
            MemberState::Down => {
                self.judge(now, fact, if own_word { Cause::Left } else { Cause::Forced });
            }
            MemberState::Alive | MemberState::Suspect if own_word => self.look_for_a_leaver(now, fact.id),
            MemberState::Alive | MemberState::Suspect => self.give_up_later(now, fact),
            MemberState::Left => {}
        }
    }

    /// A member says that it leaves. Who has left cannot repeat what was lost of its goodbye: its neighbours do.
    pub(super) fn believe_leaver(&mut self, now: Time, left: &Fact) {
        let is_new = self.roster.get(left.id).is_some_and(|seen| seen.state != MemberState::Left);
        self.judge(now, left, Cause::Left);
        if is_new && self.observes(left.id) {
            self.spread(now, &Rumor::Fact(*left), self.id);
        }
    }

    /// Whether somebody says of another that has left that it is back, or of one that is here that it has begun anew.
    pub(super) fn is_return_on_hearsay(&self, from: NodeId, fact: &Fact) -> bool {
        let Some(seen) = self.roster.get(fact.id) else { return false };
        let is_new = match seen.state {
            MemberState::Left => seen.generation < fact.generation,
            MemberState::Down => false,
            MemberState::Alive | MemberState::Suspect => seen.generation.epoch() < fact.generation.epoch(),
        };
        from != fact.id && fact.state != MemberState::Left && is_new
    }

    /// Its own page will tell, if there is one. Of who is here it comes by itself.
    pub(super) fn hear_of_a_return(&mut self, now: Time, from: NodeId, fact: &Fact) {
        self.stats.returns_on_hearsay += 1;
        let has_left = self.roster.get(fact.id).is_some_and(|seen| seen.state == MemberState::Left);
        if has_left && fact.state.is_shown() {
            self.pull_later(now, fact.id, from);
        }
    }

    /// A member has signed that a process of this epoch is there: its own word, whoever brings it. Pages of
    /// epochs that are known prove nothing: anybody may have kept them.
    pub(super) fn hear_of_a_new_life(&mut self, now: Time, id: NodeId, epoch: Epoch) {
        let generation = Generation::first(epoch);
        // Of whom nobody has spoken yet, or said what nobody believes, this is enough to know.
        let is_new = self.roster.get(id).is_none_or(|seen| seen.generation.epoch() < epoch);
        if is_new && self.is_plausible(now, id, id, epoch) {
            let alive = Fact { id, generation, incarnation: 0, state: MemberState::Alive, by: id };
            self.judge(now, &alive, Cause::Told);
        }
    }

    /// Tells a peer that speaks, and is gone here, what it has to rise above.
    pub(super) fn tell_the_gone(&mut self, peer: NodeId) {
        let Some(seen) = self.roster.get(peer).filter(|seen| !seen.state.is_shown()) else { return };
        let frame = match seen.state {
            MemberState::Left => Frame::Facts(vec![seen.fact(peer, self.id)]),
            _ => Frame::Renew(seen.generation),
        };
        self.send(peer, &frame);
    }

    /// An operator's word on a member that is not Down here: it may be so in a moment.
    fn give_up_later(&mut self, now: Time, fact: &Fact) {
        self.stats.dropped_unauthorized += 1;
        if let Some(seen) = self.roster.get_mut(fact.id) {
            seen.given_up = Some(Box::new((now, *fact)));
        }
    }

    /// A member has gone Down here: an operator may have said what that means for it a moment ago.
    pub(super) fn give_up(&mut self, now: Time, id: NodeId) {
        let Some(seen) = self.roster.get_mut(id).filter(|seen| seen.held.is_none()) else { return };
        let said = seen.given_up.take().filter(|said| now.since(said.0) < MOMENT);
        if let Some(said) = said.filter(|said| said.1.generation >= seen.generation) {
            self.judge(now, &said.1, Cause::Forced);
        }
    }
}

/// Within such a time a death is known to all, by will or by silence.
const MOMENT: Duration = Duration::from_secs(10);
