//! From a missed answer to a verdict, by Lifeguard (Dadgar, Phillips, Currey 2017): a node that misses its own deadlines
//! doubts itself first, and a suspicion grows short only by independent confirmations.
//!
//! Suspect needs somebody's failed probe, direct and through others. Down needs this node's own failed probe or several
//! accusers, and the time in which the suspect could have refuted.

use std::time::Duration;

use super::{
    Mesh, Timer,
    event::{Cause, Generation},
    rumor::Rumor,
    wire::{Fact, Frame},
};
use crate::model::{MemberState, NodeId, Time};

/// One suspicion: who confirms it, and since when.
#[derive(Clone, Debug)]
pub(super) struct Suspicion {
    since: Time,
    /// Whoever says so from his own evidence, each once.
    accusers: Vec<NodeId>,
}

impl Suspicion {
    pub(super) fn new(since: Time, accuser: NodeId) -> Self {
        Self { since, accusers: vec![accuser] }
    }

    /// Counts one more voice; false if it was counted before or counts no more.
    pub(super) fn confirm(&mut self, accuser: NodeId) -> bool {
        let new = self.accusers.len() < MAX_ACCUSERS && !self.accusers.contains(&accuser);
        if new {
            self.accusers.push(accuser);
        }
        new
    }

    pub(super) fn is_accused_by(&self, node: NodeId) -> bool {
        self.accusers.contains(&node)
    }

    pub(super) fn voices(&self) -> usize {
        self.accusers.len()
    }

    /// When it becomes a verdict, unless refuted. `others` is how many members could have an opinion.
    pub(super) fn deadline(&self, others: usize) -> Time {
        let confirmations = self.accusers.len().saturating_sub(1);
        self.since + timeout(confirmations, others.min(EXPECTED), MIN_SUSPICION, MAX_SUSPICION)
    }
}

/// Lifeguard's dynamic time-out, section IV-B: falls from `max` to `min` with the logarithm of the confirmations `seen`,
/// of which `expected` make it as short as it gets.
fn timeout(seen: usize, expected: usize, min: Duration, max: Duration) -> Duration {
    let part = if expected == 0 { 1.0 } else { ((seen as f64 + 1.0).ln() / (expected as f64 + 1.0).ln()).min(1.0) };
    max.saturating_sub(max.saturating_sub(min).mul_f64(part))
}

/// A node's doubt in itself, section IV-A: 0 is healthy, and each point stretches its probes by their own length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SelfDoubt(u8);

impl SelfDoubt {
    /// A probe was answered in time.
    pub(super) fn relieve(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }

    /// A probe failed, a suspicion of oneself had to be refuted, or the loop woke late.
    pub(super) fn raise(&mut self) {
        self.0 = (self.0 + 1).min(MAX_DOUBT);
    }

    /// A probe's duration under this doubt.
    pub(super) fn stretch(self, probe: Duration) -> Duration {
        probe * (u32::from(self.0) + 1)
    }
}

impl Mesh {
    /// Looks after the next member on the ring, so that whoever dies in silence is missed within one period however
    /// large the mesh. Suspects on the way are looked after too: a whole rack may have died.
    pub(super) fn watch(&mut self, now: Time) {
        self.timers.set(now + WATCH, Timer::Watch);
        let mut watched = Vec::new();
        for (id, seen) in self.roster.arc(self.id, self.id).filter(|(_, seen)| seen.state.is_shown()) {
            if now.since(seen.heard) >= WATCH / 2 {
                watched.push(id);
            }
            if seen.state == MemberState::Alive {
                break;
            }
        }
        for id in watched {
            self.challenge(now, id);
        }
    }

    pub(super) fn begin_suspicion(&mut self, now: Time, id: NodeId, by: NodeId) {
        let others = self.roster.shown().saturating_sub(1);
        let Some(seen) = self.roster.get_mut(id) else { return };
        let suspicion = Suspicion::new(now, by);
        let deadline = suspicion.deadline(others);
        let generation = seen.generation;
        seen.suspicion = Some(Box::new(suspicion));
        self.timers.set(deadline, Timer::Suspicion(id, generation));
        if by == self.id {
            return;
        }
        // The suspect's neighbours look for themselves.
        if self.observes(id) {
            self.challenge(now, id);
        }
    }

    /// Whether this node is one of a member's neighbours on the ring; all are, in a mesh too small to have others.
    pub(super) fn observes(&self, id: NodeId) -> bool {
        let neighbours = self.roster.arc(id, id).filter(|(_, seen)| seen.state == MemberState::Alive);
        neighbours.take(OBSERVERS).take_while(|(next, _)| self.is_before(id, *next)).count() < OBSERVERS
    }

    /// Whether `other` comes before this node on the way clockwise from `from`.
    const fn is_before(&self, from: NodeId, other: NodeId) -> bool {
        other.0.wrapping_sub(from.0) < self.id.0.wrapping_sub(from.0)
    }

    pub(super) fn confirm(&mut self, now: Time, id: NodeId, by: NodeId) {
        let others = self.roster.shown().saturating_sub(1);
        let Some(seen) = self.roster.get_mut(id) else { return };
        let generation = seen.generation;
        let Some(suspicion) = &mut seen.suspicion else { return };
        if suspicion.confirm(by) {
            let deadline = suspicion.deadline(others).max(now);
            self.timers.set(deadline, Timer::Suspicion(id, generation));
        }
    }

    /// The time to refute may be over.
    pub(super) fn on_suspicion(&mut self, now: Time, id: NodeId, generation: Generation) {
        let others = self.roster.shown();
        let this = self.id;
        let Some(seen) = self.roster.get_mut(id) else { return };
        let Some(suspicion) = seen.suspicion.as_ref().filter(|_| seen.generation == generation) else { return };
        if suspicion.deadline(others.saturating_sub(1)) > now {
            return;
        }
        let heard_lately = seen.lived_within(now, HEARD_LATELY);
        let enough = suspicion.is_accused_by(this) || suspicion.voices() >= ACCUSERS.min(others);
        if heard_lately || !enough {
            self.timers.set(now + SECOND_LOOK, Timer::Suspicion(id, generation));
            return self.challenge(now, id);
        }
        (seen.state, seen.since, seen.suspicion) = (MemberState::Down, now, None);
        let fact = seen.fact(id, this);
        self.changed(now, &fact, Some(MemberState::Suspect), Cause::SuspicionExpired);
    }

    /// This node's own probe of a member failed: it says so to all, the suspect first of all.
    pub(super) fn accuse(&mut self, now: Time, id: NodeId) {
        let this = self.id;
        let Some(seen) = self.roster.get(id).filter(|seen| seen.state.is_shown()) else { return };
        if seen.suspicion.as_ref().is_some_and(|suspicion| suspicion.is_accused_by(this)) {
            return;
        }
        self.stats.probes_failed += 1;
        let fact = Fact { state: MemberState::Suspect, ..seen.fact(id, this) };
        self.judge(now, &fact, Cause::ProbeFailed);
        self.spread(now, &Rumor::Fact(fact), self.id);
    }

    /// Looks whether a member is there, by knocks that are repeated.
    pub(super) fn challenge(&mut self, now: Time, id: NodeId) {
        let shown = self.roster.get(id).is_some_and(|seen| seen.state.is_shown());
        if shown && self.challenged.insert(id) {
            self.knock(now, id, now, 0);
        }
    }

    /// One knock, or the verdict after the last.
    pub(super) fn knock(&mut self, now: Time, id: NodeId, since: Time, knocks: usize) {
        let answered = self.roster.get(id).is_none_or(|seen| seen.sign_of_life() > since || !seen.state.is_shown());
        if answered {
            self.challenged.remove(&id);
        } else if let Some(wait) = KNOCKS.get(knocks) {
            self.send(id, &Frame::Knock);
            if let Some(seen) = self.roster.get(id).filter(|seen| seen.state == MemberState::Suspect) {
                let accusation = seen.fact(id, self.id);
                self.send(id, &Frame::Facts(vec![accusation]));
            }
            if knocks > 0 {
                self.ask_others(id);
            }
            let wait = self.swim.doubt.stretch(*wait);
            self.timers.set(now + wait, Timer::Knock { id, since, knocks: knocks + 1 });
        } else {
            self.challenged.remove(&id);
            self.accuse(now, id);
        }
    }

    /// Has others look for a member that does not answer here: the link may be broken and not the member.
    fn ask_others(&mut self, about: NodeId) {
        for _ in 0..ASKED {
            let helper = self.random_member(|seen| seen.state == MemberState::Alive && seen.linked);
            if let Some(helper) = helper.filter(|helper| *helper != about) {
                self.send(helper, &Frame::Ask(about));
            }
        }
    }

    pub(super) fn on_ask(&mut self, now: Time, from: NodeId, about: NodeId) {
        let Some(seen) = self.roster.get(about).filter(|seen| seen.state.is_shown() && about != from) else { return };
        if seen.heard > Time::ZERO && now.since(seen.heard) < HEARD_LATELY {
            self.send(from, &Frame::Vouch(about));
        } else if self.asked.len() < MAX_ASKED {
            self.asked.entry(about).or_default().insert(from);
            self.send(about, &Frame::Knock);
        }
    }

    pub(super) fn on_vouch(&mut self, now: Time, from: NodeId, about: NodeId) {
        let trusted = self.roster.get(from).is_some_and(|seen| seen.state == MemberState::Alive);
        if let Some(seen) = self.roster.get_mut(about).filter(|_| trusted) {
            seen.vouched = now;
        }
    }
}

/// How many members look for themselves when a suspicion begins: the suspect's neighbours on the ring.
const OBSERVERS: usize = 4;
/// How many confirmations make a suspicion as short as it gets.
const EXPECTED: usize = 3;
/// A suspicion confirmed by all expected: long enough for a refutation to travel the mesh and back on a bad day.
const MIN_SUSPICION: Duration = Duration::from_millis(800);
/// A suspicion nobody confirms.
const MAX_SUSPICION: Duration = Duration::from_secs(5);
/// More accusers than this tell nothing new.
const MAX_ACCUSERS: usize = 8;
/// The paper's S: at most nine times the probe's length.
const MAX_DOUBT: u8 = 8;

/// How often a node looks after its neighbour, unless it has just heard from it.
pub(super) const WATCH: Duration = Duration::from_secs(1);
/// Of a member heard from so lately nobody believes that it is dead.
const HEARD_LATELY: Duration = Duration::from_millis(500);
/// How long until a suspicion without enough evidence is judged again.
const SECOND_LOOK: Duration = Duration::from_millis(700);
/// So many accusers are evidence enough for a node that has none of its own.
const ACCUSERS: usize = 3;
/// Waits after each knock of a challenge. Four knocks at 25 % loss each way miss a living node once in 27 times.
const KNOCKS: [Duration; 4] =
    [Duration::from_millis(60), Duration::from_millis(100), Duration::from_millis(140), Duration::from_millis(200)];
/// How many others are asked to look, at each knock after the first.
const ASKED: usize = 3;
/// Members looked for on behalf of others at a time.
const MAX_ASKED: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspicion_grows_short_by_confirmations() {
        let [min, max] = [1, 9].map(Duration::from_secs);
        for (seen, expected, millis) in
            [(0, 3, 9_000), (1, 3, 5_000), (2, 3, 2_660), (3, 3, 1_000), (9, 3, 1_000), (0, 0, 1_000)]
        {
            assert_eq!(timeout(seen, expected, min, max).as_millis(), millis, "{seen} of {expected}");
        }
    }

    #[test]
    fn a_voice_counts_once() {
        let mut suspicion = Suspicion::new(Time::ZERO, NodeId(1));
        assert!(!suspicion.confirm(NodeId(1)));
        assert!(suspicion.confirm(NodeId(2)));
        assert_eq!(suspicion.voices(), 2);
        assert!(suspicion.deadline(9) < Suspicion::new(Time::ZERO, NodeId(1)).deadline(9));
    }

    #[test]
    fn doubt_stretches_probes_and_is_bounded() {
        let mut doubt = SelfDoubt::default();
        (0..20).for_each(|_| doubt.raise());
        assert_eq!(doubt.stretch(Duration::from_secs(1)), Duration::from_secs(9));
        (0..20).for_each(|_| doubt.relieve());
        assert_eq!(doubt.stretch(Duration::from_secs(1)), Duration::from_secs(1));
    }
}
