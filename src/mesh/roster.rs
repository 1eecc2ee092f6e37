//! Who is in the mesh and how this node sees each: SWIM's order of claims, and the evidence behind a suspicion.
//!
//! A larger generation beats a smaller one. Within a generation: Alive needs a larger incarnation, Suspect at least the
//! same one over Alive, Down and Left are final (Das, Gupta, Motivala 2002, section 4.2).

use std::time::Duration;

use super::{
    delay::Delay,
    event::{Cause, Generation},
    flap::Flaps,
    notary::Objection,
    ring::Ring,
    suspicion::Suspicion,
    vivaldi::Place,
    wire::Fact,
};
use crate::model::{MemberState, NodeId, Time};

/// How this node sees one other.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) generation: Generation,
    pub(super) incarnation: u16,
    pub(super) state: MemberState,
    /// There is a connection.
    pub(super) linked: bool,
    /// It has said who it is, here or in its signed row: nobody has invented it.
    pub(super) named: bool,
    /// Since when it is remembered.
    pub(super) met: Time,
    /// Since when it is seen so.
    pub(super) since: Time,
    /// Why.
    pub(super) cause: Cause,
    /// When it was last heard from directly.
    pub(super) heard: Time,
    /// When it last answered: then it hears as well. Who speaks and hears nothing is no use to anybody.
    pub(super) answered: Time,
    /// When another member last vouched for it.
    pub(super) vouched: Time,
    /// When the first look at it began that it did not answer since then.
    pub(super) missed: Option<Time>,
    /// While Suspect: who says so, and until when it may refute.
    pub(super) suspicion: Option<Box<Suspicion>>,
    pub(super) distance: Option<Box<Distance>>,
    /// Down, and shown all the same since then: this node is the one cut off.
    pub(super) held: Option<Time>,
    /// Why it does not belong to the mesh.
    pub(super) barred: Option<Objection>,
    pub(super) flaps: Option<Box<Flaps>>,
    /// When somebody made it leave while it was not Down here, and what he said.
    pub(super) given_up: Option<Box<(Time, Fact)>>,
    /// When the next of its rows may lapse.
    pub(super) lapses_at: Time,
}

/// How far away another node is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Distance {
    pub(super) rtt: Delay,
    pub(super) place: Option<Place>,
}

/// All other nodes, by id.
pub(super) type Roster = Ring<Seen>;

/// What a claim did to how a node is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing: it is old, or known.
    Stale,
    /// Nothing was seen of this node before in this generation, or it is seen otherwise now.
    News {
        /// How it was seen.
        was: Option<MemberState>,
    },
    /// One more voice for a suspicion that stands.
    Confirmed,
    /// Somebody holds for Down whom we see alive in the same generation: evidence, not a verdict.
    Accused,
}

impl Seen {
    pub(super) const fn new(generation: Generation, now: Time) -> Self {
        Self {
            generation,
            incarnation: 0,
            state: MemberState::Alive,
            linked: false,
            named: false,
            met: now,
            since: now,
            cause: Cause::Told,
            heard: Time::ZERO,
            answered: Time::ZERO,
            vouched: Time::ZERO,
            missed: None,
            suspicion: None,
            distance: None,
            held: None,
            barred: None,
            flaps: None,
            given_up: None,
            lapses_at: Time::ZERO,
        }
    }

    /// Judges a claim by SWIM's order and takes it over where it wins. A Down is never taken over here: see
    /// [`Verdict::Accused`].
    pub(super) fn weigh(&mut self, now: Time, fact: &Fact) -> Verdict {
        use MemberState::{Alive, Down, Left, Suspect};
        let was = Some(self.state);
        if fact.generation < self.generation {
            return Verdict::Stale;
        }
        if fact.generation > self.generation {
            if fact.state == MemberState::Down && self.state.is_shown() {
                return Verdict::Accused;
            }
            self.generation = fact.generation;
            self.take(now, fact);
            return Verdict::News { was };
        }
        let wins = match (self.state, fact.state) {
            (Left, _) | (Down, Alive | Suspect | Down) => false,
            (Down | Alive | Suspect, Left) => true,
            (Alive | Suspect, Down) => return Verdict::Accused,
            (Alive, Alive) => {
                self.incarnation = self.incarnation.max(fact.incarnation);
                false
            }
            (Alive, Suspect) => fact.incarnation >= self.incarnation,
            (Suspect, Alive) => fact.incarnation > self.incarnation,
            (Suspect, Suspect) if fact.incarnation == self.incarnation => return Verdict::Confirmed,
            (Suspect, Suspect) => fact.incarnation > self.incarnation,
        };
        if !wins {
            return Verdict::Stale;
        }
        self.take(now, fact);
        Verdict::News { was }
    }

    /// Whether a claim speaks of a later generation or incarnation than is known.
    pub(super) fn is_before(&self, fact: &Fact) -> bool {
        (self.generation, self.incarnation) < (fact.generation, fact.incarnation)
    }

    /// Whether it was met, not only heard of.
    pub(super) const fn is_known(&self) -> bool {
        self.linked || self.heard.since_start().as_nanos() > 0
    }

    /// The last sign of life: an answer, to this node or to one that vouches for it.
    pub(super) fn sign_of_life(&self) -> Time {
        self.answered.max(self.vouched)
    }

    /// Whether that was so lately.
    pub(super) fn lived_within(&self, now: Time, lately: Duration) -> bool {
        let sign = self.sign_of_life();
        sign > Time::ZERO && now.since(sign) < lately
    }

    /// Takes over a verdict: this node's own, or one that needs none.
    pub(super) fn end(&mut self, now: Time, fact: &Fact) {
        self.generation = fact.generation;
        self.take(now, fact);
    }

    fn take(&mut self, now: Time, fact: &Fact) {
        self.incarnation = fact.incarnation;
        if self.state != fact.state {
            self.since = now;
        }
        self.state = fact.state;
        self.held = None;
        if fact.state != MemberState::Suspect {
            self.suspicion = None;
        }
    }

    /// The claim that says what is seen, in the name of `by`; that somebody left is his own word, or an operator's.
    pub(super) fn fact(&self, id: NodeId, by: NodeId) -> Fact {
        let by = if self.state == MemberState::Left && self.cause != Cause::Forced { id } else { by };
        Fact { id, generation: self.generation, incarnation: self.incarnation, state: self.state, by }
    }
}

impl Roster {
    /// How many are Alive or Suspect, and not only spoken of.
    pub(super) fn shown(&self) -> usize {
        self.iter().filter(|(_, seen)| seen.named && seen.state.is_shown()).count()
    }
}

#[cfg(test)]
mod tests {
    use MemberState::{Alive, Down, Left, Suspect};

    use super::*;

    /// One row of the table: how it was seen, what is claimed, how it is seen then.
    fn weigh(from: (u64, u16, MemberState), claim: (u64, u16, MemberState)) -> (Verdict, (u64, u16, MemberState)) {
        let mut seen = Seen::new(Generation(from.0), Time::ZERO);
        (seen.incarnation, seen.state) = (from.1, from.2);
        let (generation, incarnation, state) = claim;
        let fact = Fact { id: NodeId(1), generation: Generation(generation), incarnation, state, by: NodeId(2) };
        let verdict = seen.weigh(Time::ZERO, &fact);
        (verdict, (seen.generation.0, seen.incarnation, seen.state))
    }

    #[test]
    fn claims_win_in_swim_s_order() {
        let news = |was| Verdict::News { was: Some(was) };
        for (from, claim, verdict, then) in [
            ((1, 0, Alive), (1, 0, Suspect), news(Alive), (1, 0, Suspect)),
            ((1, 1, Alive), (1, 0, Suspect), Verdict::Stale, (1, 1, Alive)),
            ((1, 0, Suspect), (1, 0, Alive), Verdict::Stale, (1, 0, Suspect)),
            ((1, 0, Suspect), (1, 1, Alive), news(Suspect), (1, 1, Alive)),
            ((1, 0, Suspect), (1, 0, Suspect), Verdict::Confirmed, (1, 0, Suspect)),
            ((1, 5, Alive), (1, 0, Down), Verdict::Accused, (1, 5, Alive)),
            ((1, 0, Down), (1, 9, Alive), Verdict::Stale, (1, 0, Down)),
            ((1, 0, Down), (2, 0, Alive), news(Down), (2, 0, Alive)),
            ((1, 0, Down), (2, 0, Down), news(Down), (2, 0, Down)),
            ((1, 0, Alive), (2, 0, Down), Verdict::Accused, (1, 0, Alive)),
            ((2, 0, Alive), (1, 9, Down), Verdict::Stale, (2, 0, Alive)),
            ((1, 0, Alive), (1, 0, Left), news(Alive), (1, 0, Left)),
            ((1, 0, Left), (1, 9, Alive), Verdict::Stale, (1, 0, Left)),
            ((1, 0, Down), (1, 0, Left), news(Down), (1, 0, Left)),
        ] {
            assert_eq!(weigh(from, claim), (verdict, then), "{from:?} <- {claim:?}");
        }
    }
}
