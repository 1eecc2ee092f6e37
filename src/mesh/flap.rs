//! Flap damping: a member that goes Down and comes back over and over is back at once for the mesh, and for those who look
//! for its services only after it has stayed for a while, each time longer (after RFC 2439, route flap damping).
//!
//! Only a fall of its own counts: who falls together with a part of the mesh was cut off. A process that restarted is
//! given more credit than one that ran all the time and was lost again and again: that is its link.

use std::time::Duration;

use super::{
    Mesh, Timer,
    event::{Event, Generation, Output},
    explain::Flapping,
};
use crate::model::{NodeId, Time};

/// How often a member fell and came back.
#[derive(Clone, Debug, Default)]
pub(super) struct Flaps {
    returns: Vec<(Time, Way)>,
    hidden_until: Option<Time>,
    /// The generation that fell last, when, and whether it fell alone.
    fell: Generation,
    fell_at: Time,
    alone: bool,
}

/// How it came back: each has its own credit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The same process as before: its link is to blame.
    Link,
    Restart,
}

impl Way {
    /// Returns that cost nothing.
    const fn credit(self) -> usize {
        match self {
            Self::Link => FREE_RETURNS,
            Self::Restart => FREE_RESTARTS,
        }
    }
}

impl Flaps {
    /// Whether what it serves is not shown yet.
    pub(super) const fn is_hidden(&self) -> bool {
        self.hidden_until.is_some()
    }

    /// It did not fall alone.
    pub(super) const fn forgive(&mut self) {
        self.alone = false;
    }

    /// It said goodbye: who leaves by its own word did not fall.
    pub(super) const fn leave(&mut self) {
        self.hidden_until = None;
    }

    /// The same for those who ask why.
    pub(super) fn report(&self, now: Time) -> Flapping {
        let returns = self.returns.iter().filter(|(at, _)| now.since(*at) < MEMORY).count();
        Flapping { returns, hidden_until: self.hidden_until }
    }

    /// It is back: how long it stays hidden.
    fn returned(&mut self, now: Time, generation: Generation) -> Duration {
        self.returns.retain(|(at, _)| now.since(*at) < MEMORY);
        if !self.alone {
            return Duration::ZERO;
        }
        if self.returns.len() >= MAX_RETURNS {
            self.returns.remove(0);
        }
        let way = if generation.epoch() > self.fell.epoch() { Way::Restart } else { Way::Link };
        self.returns.push((now, way));
        let over = |way: Way| {
            let returns = self.returns.iter().filter(|(_, by)| *by == way).count();
            returns.saturating_sub(way.credit())
        };
        delay(over(Way::Link).max(over(Way::Restart)))
    }
}

/// How long the `over`-th return too many stays hidden: twice as long each time.
fn delay(over: usize) -> Duration {
    match u32::try_from(over) {
        Ok(0) => Duration::ZERO,
        Ok(over) => FIRST_DELAY.saturating_mul(2_u32.saturating_pow(over - 1)).min(MAX_DELAY),
        Err(_) => MAX_DELAY,
    }
}

impl Mesh {
    /// A member has gone Down.
    pub(super) fn note_fall(&mut self, now: Time, id: NodeId) {
        let alone = self.falls_alone(now, id);
        if let Some(seen) = self.roster.get_mut(id) {
            let (fell, heard) = (seen.generation, seen.heard);
            let flaps = seen.flaps.get_or_insert_default();
            // Others said that it was back, and nothing came from it itself.
            if heard < flaps.fell_at && flaps.returns.last().is_some_and(|(at, _)| *at >= flaps.fell_at) {
                flaps.returns.pop();
            }
            flaps.fell_at = now;
            (flaps.fell, flaps.alone, flaps.hidden_until) = (fell, alone, None);
        }
    }

    /// A member that was Down is back.
    pub(super) fn note_comeback(&mut self, now: Time, id: NodeId) {
        let Some(seen) = self.roster.get_mut(id) else { return };
        let generation = seen.generation;
        let Some(flaps) = &mut seen.flaps else { return };
        let hidden_for = flaps.returned(now, generation);
        if hidden_for.is_zero() {
            return;
        }
        let (until, returns) = (now + hidden_for, flaps.returns.len());
        flaps.hidden_until = Some(until);
        self.timers.set(until, Timer::Unhide(id));
        self.outbox.push(Output::Event(Event::Flapping { node: id, returns, hidden_for }));
    }

    /// A member has stayed for long enough.
    pub(super) fn unhide(&mut self, now: Time, id: NodeId) {
        let flaps = self.roster.get_mut(id).and_then(|seen| seen.flaps.as_mut());
        if let Some(flaps) = flaps.filter(|flaps| flaps.hidden_until.is_some_and(|until| until <= now)) {
            flaps.hidden_until = None;
            self.show(id);
        }
    }
}

/// Returns older than this are forgotten.
const MEMORY: Duration = Duration::from_secs(600);
/// Returns of one process that cost nothing: a cable that is mended, a machine that slept.
const FREE_RETURNS: usize = 2;
/// Restarts that cost nothing: an operator who tries something; a crash loop goes on.
const FREE_RESTARTS: usize = 5;
/// How long the first return too many stays hidden, and the longest.
const FIRST_DELAY: Duration = Duration::from_secs(30);
const MAX_DELAY: Duration = Duration::from_secs(240);
/// Returns remembered; more tell nothing new.
const MAX_RETURNS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_return_too_many_is_hidden_twice_as_long_each_time() {
        for (over, secs) in [(0, 0), (1, 30), (2, 60), (3, 120), (4, 240), (5, 240), (usize::MAX, 240)] {
            assert_eq!(delay(over), Duration::from_secs(secs), "{over} returns too many");
        }
    }

    #[test]
    fn restarts_have_more_credit_and_old_returns_none() {
        let at = |secs| Time::after_start(Duration::from_secs(secs));
        let (same, later) = (Generation(7 << 16), Generation(8 << 16));
        let fallen = || Flaps { fell: same, alone: true, ..Flaps::default() };
        let mut link = fallen();
        assert_eq!([1, 2, 3, 4].map(|n| link.returned(at(n), same).as_secs()), [0, 0, 30, 60]);
        assert_eq!(link.returned(at(700), same).as_secs(), 0, "ten minutes later all is forgotten");
        let mut restarts = fallen();
        assert_eq!([1, 2, 3, 4, 5, 6].map(|n| restarts.returned(at(n), later).as_secs()), [0, 0, 0, 0, 0, 30]);
        let mut both = fallen();
        assert!((1..5).all(|n| both.returned(at(n), later).is_zero()));
        assert_eq!([5, 6, 7].map(|n| both.returned(at(n), same).as_secs()), [0, 0, 30], "restarts are no lost links");
        let mut together = Flaps { alone: false, ..fallen() };
        assert!((1..9).all(|n| together.returned(at(n), same).is_zero()));
    }
}
