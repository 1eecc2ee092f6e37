//! The partition guard: when more than half of the mesh goes silent at once, this node is the one cut off.
//!
//! A second suspicion beside the first is reason enough for a roll call, and the first one where the mesh is small: a
//! sample of the members, all of them in a small mesh, is looked for before anybody is judged. Whoever answers after the
//! suspect had fallen silent did not go with it, and nor did one that was missed before the suspect last answered: deaths
//! one after the other are deaths. When more than half of those asked can have gone at one moment with the suspect, who
//! went then is held: it is Down, and what it serves is shown as it last was, marked. Who is gone already stays gone.
//! That ends when more are here than are held, back or new, or when their rows would be forgotten anyway.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use super::{
    Mesh, ROWS_KEPT, Timer,
    event::{Event, Output},
    look::Purpose,
    roster::Seen,
};
use crate::model::{MemberState, NodeId, Time};

/// What the guard watches.
#[derive(Debug, Default)]
pub(super) struct Guard {
    /// The last roll call, and the one before: one at a time is under way.
    rolls: VecDeque<Roll>,
    cut_off: Option<CutOff>,
    /// Whoever gave no sign of life since then went with those that are cut off.
    parted: Time,
    /// Who went Down lately, by silence.
    downs: VecDeque<(Time, NodeId)>,
}

/// One roll call.
#[derive(Debug)]
struct Roll {
    at: Time,
    asked: Vec<NodeId>,
}

impl Roll {
    /// Whether whoever lives has answered.
    fn is_over(&self, now: Time) -> bool {
        now.since(self.at) >= ROLL_TAKES
    }
}

impl Guard {
    /// A roll call that is over and was begun no earlier than `by`.
    fn answered(&self, now: Time, by: Time) -> Option<&Roll> {
        self.rolls.iter().rev().find(|roll| roll.at >= by && roll.is_over(now))
    }
}

/// A member that does not answer: when it had fallen silent, as far as this node can tell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    pub(super) id: NodeId,
    /// Its last sign of life.
    pub(super) from: Time,
    /// When it was missed first.
    pub(super) by: Time,
}

/// This node is cut off from most of its mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutOff {
    /// Since when.
    pub since: Time,
    /// How many of those asked did not answer.
    pub missing: usize,
    /// How many were asked, this node counted.
    pub of: usize,
}

impl Mesh {
    /// Whether this node holds itself for cut off, and since when.
    #[must_use]
    pub const fn partition(&self) -> Option<CutOff> {
        self.guard.cut_off
    }

    /// Somebody is suspected: looks around, unless that was done since it fell silent. Until when to wait for the answers.
    pub(super) fn call_the_roll(&mut self, now: Time, id: NodeId) -> Option<Time> {
        self.guard.downs.retain(|(at, _)| now.since(*at) < WINDOW);
        let by = self.roster.get(id)?.silent_by()?;
        if self.guard.answered(now, by).is_some() {
            return None;
        }
        if let Some(last) = self.guard.rolls.back().filter(|roll| !roll.is_over(now)) {
            return Some(last.at + ROLL_TAKES);
        }
        let suspects = self.roster.iter().filter(|(_, seen)| seen.state == MemberState::Suspect).count();
        let enough = if self.roster.shown() < ROLL { 1 } else { SEVERAL };
        if suspects + self.guard.downs.len() < enough {
            return None;
        }
        let asked = self.sample();
        for id in &asked {
            self.look(now, *id, Purpose::Rumor);
        }
        while self.guard.rolls.len() > 1 {
            self.guard.rolls.pop_front();
        }
        self.guard.rolls.push_back(Roll { at: now, asked });
        Some(now + ROLL_TAKES)
    }

    /// Members to ask: those met.
    fn sample(&mut self) -> Vec<NodeId> {
        let candidates = self.roster.iter().filter(|(_, seen)| seen.state.is_shown() && seen.is_known());
        let mut candidates: Vec<NodeId> = candidates.map(|(id, _)| id).collect();
        for at in 0..candidates.len().min(ROLL) {
            let other = at + self.index_below(candidates.len() - at);
            candidates.swap(at, other);
        }
        candidates.truncate(ROLL);
        candidates
    }

    /// How many can have gone at one moment with a member that has now gone, of how many, this node counted; and which
    /// roll call says so.
    fn gone_with(&self, now: Time, gone: &Silence) -> Option<(usize, usize, Time)> {
        let roll = self.guard.answered(now, gone.by)?;
        let (mut missing, mut of) = (0, 1);
        for id in &roll.asked {
            let Some(seen) = self.roster.get(*id) else { continue };
            let went = seen.state.is_shown() && {
                let by = seen.silent_by().unwrap_or(roll.at);
                seen.sign_of_life() <= gone.by && gone.from <= by
            };
            let is_it = *id == gone.id;
            missing += usize::from(went || is_it);
            of += usize::from(seen.state.is_shown() || is_it);
        }
        Some((missing, of, roll.at))
    }

    /// A member goes Down by silence: notes it, and holds it where the fault is on this side.
    pub(super) fn note_silence(&mut self, now: Time, gone: &Silence) {
        self.guard.downs.push_back((now, gone.id));
        if self.guard.downs.len() > MAX_DOWNS {
            self.guard.downs.pop_front();
        }
        if let Some((missing, of, asked)) = self.gone_with(now, gone).filter(|(missing, of, _)| missing * 2 > *of) {
            self.guard.parted = asked;
            if self.guard.cut_off.is_none() {
                self.guard.cut_off = Some(CutOff { since: now, missing, of });
                self.outbox.push(Output::Event(Event::PartitionBegan { missing, of }));
            }
        }
        if self.guard.cut_off.is_some() && gone.from <= self.guard.parted {
            self.roster.get_mut(gone.id).into_iter().for_each(|seen| seen.held = Some(now));
        }
    }

    /// Somebody is here, or one who was held has left: is the mesh back?
    pub(super) fn note_return(&mut self, now: Time) {
        if self.guard.cut_off.is_some() && self.is_back() {
            if self.held().next().is_none() {
                return self.let_go(now);
            }
            // The others may be on their way.
            self.timers.set(now + SETTLE, Timer::Mended);
        }
    }

    /// The mesh was back a moment ago. Whoever was held since then is not the last, most likely: a large part of a mesh
    /// goes Down one by one.
    pub(super) fn mended(&mut self, now: Time) {
        if self.held().any(|(_, since)| now.since(since) < SETTLE) {
            self.note_return(now);
        } else if self.is_back() {
            self.let_go(now);
        }
    }

    /// Whether more are here, this node counted, than are held. Who is doubted is not here, nor who was heard of only.
    fn is_back(&self) -> bool {
        let is_here = |seen: &Seen| seen.state == MemberState::Alive && seen.is_known();
        self.held().count() < 1 + self.roster.iter().filter(|(_, seen)| is_here(seen)).count()
    }

    /// What would be forgotten is not held any longer.
    pub(super) fn tire_of_holding(&mut self, now: Time) {
        if self.guard.cut_off.is_some_and(|cut_off| now.since(cut_off.since) >= ROWS_KEPT) {
            self.let_go(now);
        }
        self.note_return(now);
    }

    /// Who is held, and since when.
    fn held(&self) -> impl Iterator<Item = (NodeId, Time)> {
        self.roster.iter().filter_map(|(id, seen)| Some((id, seen.held?)))
    }

    fn let_go(&mut self, now: Time) {
        if self.guard.cut_off.take().is_none() {
            return;
        }
        let held: Vec<NodeId> = self.held().map(|(id, _)| id).collect();
        for id in &held {
            self.roster.get_mut(*id).into_iter().for_each(|seen| seen.held = None);
            self.show(*id);
            self.expect_lapse(now, *id);
        }
        self.guard.downs.clear();
        self.guard.rolls.clear();
        self.outbox.push(Output::Event(Event::PartitionEnded { missing: held.len() }));
    }

    /// Whether a member that goes Down goes alone: not with a part of the mesh, whose fault it would not be.
    pub(super) fn falls_alone(&mut self, now: Time, id: NodeId) -> bool {
        let others = self.guard.downs.iter().filter(|(at, other)| now.since(*at) < WINDOW && *other != id);
        let together = 1 + others.map(|(_, other)| *other).collect::<BTreeSet<_>>().len();
        let alone = together < SEVERAL || together * 4 <= self.roster.shown();
        if !alone {
            for (_, id) in &self.guard.downs {
                if let Some(flaps) = self.roster.get_mut(*id).and_then(|seen| seen.flaps.as_mut()) {
                    flaps.forgive();
                }
            }
        }
        alone
    }
}

/// One suspicion window: as long as a suspicion can last.
const WINDOW: Duration = Duration::from_secs(5);
/// So many suspects at once are more than an accident.
const SEVERAL: usize = 2;
/// Members asked: of a larger mesh a sample, which errs about the half once in a thousand times where three quarters live.
const ROLL: usize = 32;
/// How long a roll call is waited for: as long as a look takes that nobody answers, and a little.
const ROLL_TAKES: Duration = Duration::from_millis(600);
/// How long the mesh must be back before those still missing are let go.
const SETTLE: Duration = Duration::from_secs(5);
/// Members remembered that went Down within one window.
const MAX_DOWNS: usize = 20_000;
