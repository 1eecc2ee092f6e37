//! From a missed answer to a verdict, by Lifeguard (Dadgar, Phillips, Currey 2017): a node that misses its own deadlines
//! doubts itself first, and a suspicion grows short only by independent confirmations.
//!
//! Suspect needs somebody's failed probe, direct and through others. Down needs this node's own failed look since the last
//! sign of life, and the time in which the suspect could have refuted. Who else accuses is written in a rumour that anybody
//! could have forged: other voices make a suspicion shorter, never a verdict.

use std::time::Duration;

use super::{
    Mesh, Timer,
    event::{Cause, Generation},
    explain::Suspected,
    hold::Silence,
    look::Purpose,
    roster::Seen,
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
    /// When this node's own look failed.
    witnessed: Option<Time>,
    /// This node has not looked for itself yet.
    unseen: bool,
}

impl Suspicion {
    pub(super) fn new(since: Time, accuser: NodeId) -> Self {
        Self { since, accusers: vec![accuser], witnessed: None, unseen: true }
    }

    /// Counts one more voice; false if it was counted before or counts no more.
    pub(super) fn confirm(&mut self, accuser: NodeId) -> bool {
        let new = self.accusers.len() < MAX_ACCUSERS && !self.accusers.contains(&accuser);
        if new {
            self.accusers.push(accuser);
        }
        new
    }

    /// A sign of life: what was said before says nothing any more.
    pub(super) fn begin_anew(&mut self, now: Time) {
        let accusers = self.accusers.drain(..).take(1).collect();
        *self = Self { accusers, unseen: false, ..Self::new(now, NodeId(0)) };
    }

    pub(super) fn is_accused_by(&self, node: NodeId) -> bool {
        self.accusers.contains(&node)
    }

    /// When it becomes a verdict, unless refuted. `others` is how many members could have an opinion.
    pub(super) fn deadline(&self, others: usize) -> Time {
        let confirmations = self.accusers.len().saturating_sub(1);
        self.since + timeout(confirmations, others.min(EXPECTED), MIN_SUSPICION, MAX_SUSPICION)
    }

    /// The same for those who ask why.
    pub(super) fn report(&self, others: usize) -> Suspected {
        let (accusers, until) = (self.accusers.clone(), self.deadline(others));
        Suspected { since: self.since, until, accusers, witnessed: self.witnessed }
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

    pub(super) const fn points(self) -> u8 {
        self.0
    }

    /// A probe's duration under this doubt.
    pub(super) fn stretch(self, probe: Duration) -> Duration {
        probe * (u32::from(self.0) + 1)
    }
}

impl Seen {
    /// Whether this node's own look has failed not long before `then`, and since the member last gave a sign of life.
    fn is_witnessed(&self, then: Time) -> bool {
        let at = self.suspicion.as_ref().and_then(|suspicion| suspicion.witnessed);
        at.is_some_and(|at| at >= self.sign_of_life() && then.since(at) <= FRESH)
    }

    /// By when it had fallen silent: when the first look that it did not answer began, or somebody said so.
    pub(super) fn silent_by(&self) -> Option<Time> {
        let accused = self.suspicion.iter().flat_map(|suspicion| [Some(suspicion.since), suspicion.witnessed]);
        accused.chain([self.missed]).flatten().filter(|at| *at >= self.sign_of_life()).min()
    }
}

impl Mesh {
    /// Looks after the next member on the ring, so that whoever dies in silence is missed within one period however
    /// large the mesh. Suspects on the way are looked after too: a whole rack may have died.
    pub(super) fn watch(&mut self, now: Time) {
        let mut watched = Vec::new();
        let mut next = now + WATCH;
        for (id, seen) in self.roster.arc(self.id, self.id).filter(|(_, seen)| seen.named && seen.state.is_shown()) {
            if now.since(seen.answered) >= WATCH / 2 {
                watched.push(id);
            } else {
                next = next.min(seen.answered + WATCH);
            }
            if seen.state == MemberState::Alive {
                break;
            }
        }
        self.timers.set(next, Timer::Watch);
        for id in watched {
            self.look(now, id, Purpose::Watch);
        }
    }

    pub(super) fn begin_suspicion(&mut self, now: Time, id: NodeId, by: NodeId) {
        let this = self.id;
        let Some(seen) = self.roster.get_mut(id) else { return };
        let witnessed = (by == this).then_some(now);
        seen.suspicion = Some(Box::new(Suspicion { witnessed, ..Suspicion::new(now, by) }));
        self.await_verdict(now, id);
        self.call_the_roll(now, id);
        if by == this {
            self.tell_the_suspect(id);
        }
        // The suspect's neighbours look for themselves.
        if by != this && self.observes(id) {
            self.look(now, id, Purpose::Watch);
        }
    }

    /// The suspect is told through others too: the link that failed may be the only broken one (Lifeguard's buddy system).
    pub(super) fn tell_the_suspect(&mut self, id: NodeId) {
        let Some(accusation) = self.roster.get(id).map(|seen| seen.fact(id, self.id)) else { return };
        let mut frame = Vec::new();
        Frame::Facts(vec![accusation]).write(&mut frame);
        for _ in 0..BUDDIES {
            let buddy = self.random_member(|seen| seen.state == MemberState::Alive && seen.linked);
            if let Some(buddy) = buddy.filter(|buddy| *buddy != id) {
                self.send(buddy, &Frame::Pass { to: id, frame: &frame });
            }
        }
    }

    /// Has a suspicion looked at when it may become a verdict, or before, in time to look for oneself.
    pub(super) fn await_verdict(&mut self, now: Time, id: NodeId) {
        let others = self.roster.shown().saturating_sub(1);
        let Some(seen) = self.roster.get(id) else { return };
        let Some(suspicion) = &seen.suspicion else { return };
        let deadline = suspicion.deadline(others);
        let look_at = deadline.before(seen.look_takes());
        let at = match () {
            () if seen.is_witnessed(deadline) => deadline,
            // Who lives has refuted by then; of the dead this node knows in time, whenever others confirm it.
            () if suspicion.unseen => look_at.min(suspicion.since + REFUTED),
            () => look_at,
        };
        self.timers.set(at.max(now), Timer::Suspicion(id, seen.generation));
    }

    /// Whether this node is one of a member's neighbours on the ring; all are, in a mesh too small to have others.
    pub(super) fn observes(&self, id: NodeId) -> bool {
        let neighbours = self.roster.arc(id, id).filter(|(_, seen)| seen.named && seen.state == MemberState::Alive);
        neighbours.take(OBSERVERS).take_while(|(next, _)| self.is_before(id, *next)).count() < OBSERVERS
    }

    /// Whether `other` comes before this node on the way clockwise from `from`.
    const fn is_before(&self, from: NodeId, other: NodeId) -> bool {
        other.0.wrapping_sub(from.0) < self.id.0.wrapping_sub(from.0)
    }

    pub(super) fn confirm(&mut self, now: Time, id: NodeId, by: NodeId) {
        let this = self.id;
        let Some(suspicion) = self.roster.get_mut(id).and_then(|seen| seen.suspicion.as_mut()) else { return };
        if by == this {
            suspicion.witnessed = Some(now);
        }
        if suspicion.confirm(by) || by == this {
            self.await_verdict(now, id);
        }
    }

    /// This node's own look at a suspect failed.
    pub(super) fn bear_witness(&mut self, now: Time, id: NodeId) {
        if let Some(suspicion) = self.roster.get_mut(id).and_then(|seen| seen.suspicion.as_mut()) {
            suspicion.witnessed = Some(now);
            self.await_verdict(now, id);
        }
    }

    /// The time to refute may be over.
    pub(super) fn on_suspicion(&mut self, now: Time, id: NodeId, generation: Generation) {
        let others = self.roster.shown().saturating_sub(1);
        let this = self.id;
        let Some(seen) = self.roster.get_mut(id).filter(|seen| seen.generation == generation) else { return };
        let Some(suspicion) = &mut seen.suspicion else { return };
        let (due, unseen) = (suspicion.deadline(others), std::mem::take(&mut suspicion.unseen));
        if !seen.is_witnessed(now.max(due)) || seen.lived_within(now, HEARD_LATELY) {
            if unseen || due <= now + seen.look_takes() {
                self.look(now, id, Purpose::Witness);
                self.call_the_roll(now, id);
            }
            return;
        }
        if due > now {
            return;
        }
        if let Some(until) = self.call_the_roll(now, id) {
            // Where several are suspected at once, the fault may be here.
            return self.timers.set(until, Timer::Suspicion(id, generation));
        }
        let Some(seen) = self.roster.get_mut(id) else { return };
        let fact = Fact { state: MemberState::Down, ..seen.fact(id, this) };
        let silence = Silence { id, from: seen.sign_of_life(), by: seen.silent_by().unwrap_or(now) };
        seen.end(now, &fact);
        self.note_silence(now, &silence);
        self.changed(now, &fact, Some(MemberState::Suspect), Cause::SuspicionExpired);
    }

    /// This node has looked because others hold a member for Down, and agrees: it says so to nobody, since they know.
    pub(super) fn agree(&mut self, now: Time, id: NodeId, voices: &[NodeId]) {
        let this = self.id;
        let Some(seen) = self.roster.get(id).filter(|seen| seen.state.is_shown()) else { return };
        let fact = Fact { state: MemberState::Suspect, ..seen.fact(id, this) };
        self.judge(now, &fact, Cause::ProbeFailed);
        for voice in voices {
            self.confirm(now, id, *voice);
        }
    }

    /// A probe of a member, by this generation, has failed.
    pub(super) fn miss(&mut self, now: Time, id: NodeId, generation: Generation) {
        let Some(seen) = self.roster.get(id).filter(|seen| seen.generation == generation) else { return };
        if seen.sign_of_life() < self.swim.unanswered {
            return self.accuse(now, id);
        }
        // It answers whoever asks, and not by this generation: it has to rise above that first.
        let known = seen.fact(id, self.id);
        self.send(id, &Frame::Facts(vec![known]));
    }

    /// This node's own probe of a member failed: it says so to all, the suspect first of all.
    pub(super) fn accuse(&mut self, now: Time, id: NodeId) {
        let this = self.id;
        let Some(seen) = self.roster.get(id).filter(|seen| seen.state.is_shown()) else { return };
        if seen.suspicion.as_ref().is_some_and(|suspicion| suspicion.is_accused_by(this)) {
            // Known to all; that it still does not answer is news for this node alone.
            return self.bear_witness(now, id);
        }
        self.stats.probes_failed += 1;
        let fact = Fact { state: MemberState::Suspect, ..seen.fact(id, this) };
        self.judge(now, &fact, Cause::ProbeFailed);
        self.spread(now, &Rumor::Fact(fact), self.id);
    }
}

/// How many members look for themselves when a suspicion begins: the suspect's neighbours on the ring.
const OBSERVERS: usize = 4;
/// How many confirmations make a suspicion as short as it gets.
const EXPECTED: usize = 3;
/// A suspicion confirmed by all expected: long enough for a refutation to travel the mesh and back on a bad day.
const MIN_SUSPICION: Duration = Duration::from_millis(600);
/// A suspicion nobody confirms.
const MAX_SUSPICION: Duration = Duration::from_secs(5);
/// More accusers than this tell nothing new.
pub(super) const MAX_ACCUSERS: usize = 8;
/// The paper's S: at most nine times the probe's length.
const MAX_DOUBT: u8 = 8;

/// How often a node looks after its neighbour, unless it has just heard from it.
pub(super) const WATCH: Duration = Duration::from_secs(1);
/// Of a member that answered so lately nobody believes that it is dead.
pub(super) const HEARD_LATELY: Duration = Duration::from_millis(500);
/// In such a time a suspect that lives has heard of it and refuted, mostly.
const REFUTED: Duration = Duration::from_millis(100);
/// A look that failed longer ago than this is made again before the verdict.
const FRESH: Duration = Duration::from_millis(1_500);
/// Through how many others a suspect is told of its suspicion.
const BUDDIES: usize = 3;

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
        assert_eq!(suspicion.accusers.len(), 2);
        assert!(suspicion.deadline(9) < Suspicion::new(Time::ZERO, NodeId(1)).deadline(9));
    }

    #[test]
    fn confirmations_shorten_a_suspicion_as_the_paper_has_it() {
        // Section IV-B with k = 3: max - (max - min) log(c + 1) / log(k + 1), never below min.
        for (confirmations, millis) in [(0, 5_000), (1, 2_800), (2, 1_513), (3, 600), (7, 600)] {
            let mut suspicion = Suspicion::new(Time::ZERO, NodeId(0));
            for voice in 1..=confirmations {
                suspicion.confirm(NodeId(voice));
            }
            let takes = suspicion.deadline(99).since_start().as_millis();
            assert_eq!(takes, millis, "{confirmations} confirmations");
        }
    }

    #[test]
    fn local_health_counts_from_0_to_8() {
        // Section IV-A: the probe's length times one more than the score.
        let mut doubt = SelfDoubt::default();
        for (raised, points, millis) in [(0, 0, 100), (1, 1, 200), (2, 3, 400), (5, 8, 900), (9, 8, 900)] {
            (0..raised).for_each(|_| doubt.raise());
            assert_eq!((doubt.points(), doubt.stretch(Duration::from_millis(100)).as_millis()), (points, millis));
        }
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
