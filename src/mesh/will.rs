//! A peer's last will: its process has died, says whoever outlived it, in the peer's own name.
//!
//! The heirs, who read the will themselves, believe it at once and tell everybody they are linked with, each on its own
//! connection: a voice that nobody can borrow. [`ANNOUNCERS`] such voices are proof. Fewer are a reason for a hasty look,
//! and two voices with that look are proof too; a single one is an accusation like any other.

use super::{
    Mesh,
    event::{ANNOUNCERS, Cause, Generation},
    look::Purpose,
    rumor::Rumor,
    wire::{Fact, Frame},
};
use crate::model::{Epoch, MemberState, NodeId, Time};

/// Who has read the will of one process.
#[derive(Debug)]
pub(super) struct Announced {
    generation: Generation,
    first: Time,
    by: Vec<NodeId>,
}

impl Mesh {
    /// This node is an heir: it has read the will itself. Where others' voices were faster, its own is still wanted:
    /// after a partition each heir is linked with others.
    pub(super) fn inherit(&mut self, now: Time, node: NodeId, epoch: Epoch) {
        if !self.is_plausible(now, node, node, epoch) {
            self.stats.dropped_unauthorized += 1;
            return;
        }
        let generation = Generation::first(epoch);
        let fact = match self.mourned(node, generation) {
            Some(generation) => self.mourn(now, node, generation),
            None => match self.roster.get(node) {
                Some(seen) if seen.cause == Cause::Will && seen.generation.epoch() == epoch => seen.fact(node, self.id),
                _ => return,
            },
        };
        let generation = fact.generation;
        let told: Vec<NodeId> =
            self.roster.iter().filter(|(_, seen)| seen.linked && seen.state.is_shown()).map(|(id, _)| id).collect();
        for member in told {
            self.send(member, &Frame::Will { id: node, generation });
        }
        // Where everybody hears this voice it need not go from mouth to mouth as well.
        if self.roster.iter().any(|(id, seen)| id != self.id && !seen.linked && seen.state.is_shown()) {
            self.spread(now, &Rumor::Fact(fact), self.id);
        }
    }

    /// A peer says that it has read a member's will.
    pub(super) fn on_will(&mut self, now: Time, from: NodeId, id: NodeId, generation: Generation) {
        if from == id || !self.is_plausible(now, from, id, generation.epoch()) {
            self.stats.dropped_unauthorized += 1;
            return;
        }
        if id == self.id {
            let fact = Fact { generation, state: MemberState::Down, by: from, ..self.fact_of_this(MemberState::Down) };
            return self.hear_of_this(now, from, &fact);
        }
        let Some(generation) = self.mourned(id, generation) else { return };
        if !self.wills.contains_key(&id) && self.wills.len() >= MAX_WILLS {
            self.stats.dropped_full += 1;
            return;
        }
        let fresh = || Announced { generation, first: now, by: Vec::new() };
        let announced = self.wills.entry(id).or_insert_with(fresh);
        if announced.generation.epoch() != generation.epoch() {
            *announced = fresh();
        }
        if announced.by.len() < ANNOUNCERS && !announced.by.contains(&from) {
            announced.by.push(from);
        }
        let spoke_since = self.roster.get(id).is_some_and(|seen| seen.heard > announced.first);
        if announced.by.len() >= ANNOUNCERS && !spoke_since {
            self.mourn(now, id, generation);
        } else {
            self.look(now, id, Purpose::Will);
        }
    }

    /// A hasty look has found nobody.
    pub(super) fn believe_will(&mut self, now: Time, id: NodeId) {
        match self.wills.get(&id).map(|announced| (announced.by.len(), announced.generation)) {
            Some((2.., generation)) => drop(self.mourn(now, id, generation)),
            _ => self.look(now, id, Purpose::Watch),
        }
    }

    /// The generation that a will of `generation` ends; `None` if the member is gone anyway or has begun a new life since.
    fn mourned(&self, id: NodeId, generation: Generation) -> Option<Generation> {
        let seen = self.roster.get(id).filter(|seen| seen.state.is_shown())?;
        (seen.generation.epoch() <= generation.epoch()).then(|| seen.generation.max(generation))
    }

    fn mourn(&mut self, now: Time, id: NodeId, generation: Generation) -> Fact {
        self.wills.remove(&id);
        let by = self.id;
        let fact = Fact { id, generation, incarnation: 0, state: MemberState::Down, by };
        if let Some(seen) = self.roster.get_mut(id) {
            let was = seen.state;
            seen.end(now, &fact);
            self.changed(now, &fact, Some(was), Cause::Will);
        }
        fact
    }
}

/// Members whose wills are being read at a time: more than fail together in a rack.
const MAX_WILLS: usize = 1_024;
