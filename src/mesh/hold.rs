//! The partition guard: when more than half of the mesh goes silent at once, this node is the one cut off.
//!
//! A second suspicion beside the first is reason enough for a roll call, and the first one where the mesh is small: a
//! sample of the members, all of them in a small mesh, is looked for before anybody is judged. When more than half of
//! those asked do not answer, whoever goes Down is held: it is Down, and what it serves is shown as it last was, marked.
//! That ends when the mesh is back, or when its rows would be forgotten anyway.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use super::{
    Mesh, ROWS_KEPT, Timer,
    event::{Cause, Event, Output},
    look::Purpose,
    roster::Seen,
};
use crate::model::{MemberState, NodeId, Time};

/// What the guard watches.
#[derive(Debug, Default)]
pub(super) struct Guard {
    roll: Option<Roll>,
    cut_off: Option<CutOff>,
    /// Who went Down lately, by silence.
    downs: VecDeque<(Time, NodeId)>,
}

/// One roll call.
#[derive(Debug)]
struct Roll {
    at: Time,
    asked: Vec<NodeId>,
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

    /// Somebody is suspected: looks around, unless that was just done.
    pub(super) fn call_the_roll(&mut self, now: Time) {
        self.guard.downs.retain(|(at, _)| now.since(*at) < WINDOW);
        let suspects = self.roster.iter().filter(|(_, seen)| seen.state == MemberState::Suspect).count();
        let fresh = self.guard.roll.as_ref().is_some_and(|roll| now.since(roll.at) < WINDOW);
        let enough = if self.roster.shown() < ROLL { 1 } else { SEVERAL };
        if fresh || suspects + self.guard.downs.len() < enough {
            return;
        }
        let asked = self.sample();
        for id in &asked {
            if self.roster.get(*id).is_some_and(|seen| seen.state.is_shown() && now.since(seen.answered) >= LATELY) {
                self.look(now, *id, Purpose::Rumor);
            }
        }
        self.guard.roll = Some(Roll { at: now, asked });
    }

    /// Members to ask: those linked, alive or lost a moment ago.
    fn sample(&mut self) -> Vec<NodeId> {
        let lost = |id| self.guard.downs.iter().any(|(_, lost)| *lost == id);
        let candidates =
            self.roster.iter().filter(|(id, seen)| (seen.state.is_shown() && seen.is_known()) || lost(*id));
        let mut candidates: Vec<NodeId> = candidates.map(|(id, _)| id).collect();
        for at in 0..candidates.len().min(ROLL) {
            let other = at + self.index_below(candidates.len() - at);
            candidates.swap(at, other);
        }
        candidates.truncate(ROLL);
        candidates
    }

    /// Until when the roll call under way has to be waited for.
    pub(super) fn roll_takes_until(&self, now: Time) -> Option<Time> {
        let roll = self.guard.roll.as_ref()?;
        let until = roll.at + ROLL_TAKES;
        (until > now).then_some(until)
    }

    /// How many of the last roll call are missing, of how many, this node counted.
    fn missing(&self, now: Time) -> Option<(usize, usize)> {
        let roll = self.guard.roll.as_ref().filter(|roll| now.since(roll.at) < WINDOW * 2)?;
        let silent = |seen: &Seen| match seen.state {
            MemberState::Alive | MemberState::Suspect => seen.sign_of_life() < roll.at.before(LATELY),
            MemberState::Down => seen.cause != Cause::Will,
            MemberState::Left => false,
        };
        let missing = roll.asked.iter().filter(|id| self.roster.get(**id).is_some_and(silent)).count();
        Some((missing, roll.asked.len() + 1))
    }

    /// A member goes Down by silence: notes it, and holds it where the fault is on this side.
    pub(super) fn note_silence(&mut self, now: Time, id: NodeId) {
        self.guard.downs.push_back((now, id));
        if self.guard.downs.len() > MAX_DOWNS {
            self.guard.downs.pop_front();
        }
        if self.guard.cut_off.is_none()
            && let Some((missing, of)) = self.missing(now).filter(|(missing, of)| missing * 2 > *of)
        {
            self.guard.cut_off = Some(CutOff { since: now, missing, of });
            self.outbox.push(Output::Event(Event::PartitionBegan { missing, of }));
        }
        if self.guard.cut_off.is_none() {
            return;
        }
        // Those who went a moment earlier went for the same reason.
        let lost: Vec<NodeId> = self.guard.downs.iter().map(|(_, id)| *id).collect();
        for id in lost {
            if let Some(seen) = self.roster.get_mut(id).filter(|seen| seen.state == MemberState::Down) {
                seen.held.get_or_insert(now);
                self.show(id);
            }
        }
    }

    /// Somebody is back: is most of the mesh?
    pub(super) fn note_return(&mut self, now: Time) {
        if self.guard.cut_off.is_none() {
            return;
        }
        let held = self.held();
        if held == 0 {
            self.let_go(now);
        } else if held * 2 <= self.roster.shown() + 1 {
            // The others may be on their way.
            self.timers.set(now + SETTLE, Timer::Mended);
        }
    }

    /// Most of the mesh was back a moment ago.
    pub(super) fn mended(&mut self, now: Time) {
        if self.held() * 2 <= self.roster.shown() + 1 {
            self.let_go(now);
        }
    }

    /// What would be forgotten is not held any longer.
    pub(super) fn tire_of_holding(&mut self, now: Time) {
        if self.guard.cut_off.is_some_and(|cut_off| now.since(cut_off.since) >= ROWS_KEPT) {
            self.let_go(now);
        }
    }

    fn held(&self) -> usize {
        self.roster.iter().filter(|(_, seen)| seen.held.is_some()).count()
    }

    fn let_go(&mut self, now: Time) {
        if self.guard.cut_off.take().is_none() {
            return;
        }
        let held: Vec<NodeId> = self.roster.iter().filter(|(_, seen)| seen.held.is_some()).map(|(id, _)| id).collect();
        for id in &held {
            self.roster.get_mut(*id).into_iter().for_each(|seen| seen.held = None);
            self.show(*id);
            self.expect_lapse(now, *id);
        }
        self.guard.downs.clear();
        self.guard.roll = None;
        self.outbox.push(Output::Event(Event::PartitionEnded { missing: held.len() }));
        self.call_the_roll(now);
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
/// Who was heard from so lately is there.
const LATELY: Duration = Duration::from_millis(200);
/// Members asked: of a larger mesh a sample, which errs about the half once in a thousand times where three quarters live.
const ROLL: usize = 32;
/// How long a roll call is waited for: as long as a look takes that nobody answers, and a little.
const ROLL_TAKES: Duration = Duration::from_millis(600);
/// How long the mesh must be back before those still missing are let go.
const SETTLE: Duration = Duration::from_secs(5);
/// Members remembered that went Down within one window.
const MAX_DOWNS: usize = 20_000;
