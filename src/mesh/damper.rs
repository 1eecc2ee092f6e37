//! Flap damping at the origin: an instance that changes its mind all the time tells the others of it less often. What it
//! tells then is how it stands at that moment, so the last word is always right. As RFC 2439 does for routes.
//!
//! What others act on is an instance's health, the worst of its checks. A turn to worse is told at once: who flaps ends
//! as bad and is shown as bad. Only the way back has to be earned, so that one is never without the other. A check that
//! turns while its instance's health stays is told of from an allowance of its own, so that many checks delay nothing.

use std::{cmp::Ordering, time::Duration};

use super::{Mesh, Timer, event::Rejected};
use crate::model::{InstanceId, Time};

/// What one instance has spent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Damper {
    better: Allowance,
    same: Allowance,
}

/// What an instance's health does that has to be paid for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Turn {
    Better,
    /// It stays, and one of its checks changes.
    Same,
}

impl Turn {
    /// From then on one in so long.
    const fn cost(self) -> Duration {
        match self {
            Self::Better => Duration::from_secs(6),
            Self::Same => Duration::from_secs(1),
        }
    }
}

/// [`BURST`] turns at once, then one every [`Turn::cost`].
#[derive(Clone, Copy, Debug, Default)]
struct Allowance {
    /// When all that was spent is earned again.
    even_at: Time,
    /// Whether a turn waits to be told.
    waiting: bool,
}

impl Allowance {
    /// Spends one turn; or how long it has to wait.
    fn spend(&mut self, now: Time, cost: Duration) -> Result<(), Duration> {
        let debt = self.even_at.since(now);
        if debt > cost * (BURST - 1) {
            return Err(debt - cost * (BURST - 1));
        }
        self.even_at = self.even_at.max(now) + cost;
        Ok(())
    }
}

impl Damper {
    fn of(&mut self, turn: Turn) -> &mut Allowance {
        match turn {
            Turn::Better => &mut self.better,
            Turn::Same => &mut self.same,
        }
    }
}

impl Mesh {
    /// Publishes how an instance stands, at once or when its allowance lets it.
    pub(super) fn publish_flip(&mut self, now: Time, instance: &InstanceId) -> Result<(), Rejected> {
        let told = self.book().report(instance).map(|report| report.health());
        let stands = self.report_of(instance).map(|report| report.health());
        let turn = match stands.cmp(&told) {
            Ordering::Greater => return self.publish_report(now, instance),
            Ordering::Equal => Turn::Same,
            Ordering::Less => Turn::Better,
        };
        let damper = self.dampers.entry(instance.clone()).or_default();
        // Who waits to be shown as better has nothing else to say: it would be told as well.
        if damper.better.waiting || damper.of(turn).waiting {
            self.stats.flips_damped += 1;
            return Ok(());
        }
        let allowance = damper.of(turn);
        match allowance.spend(now, turn.cost()) {
            Ok(()) => self.publish_report(now, instance),
            Err(wait) => {
                allowance.waiting = true;
                self.stats.flips_damped += 1;
                self.timers.set(now + wait, Timer::Damped { instance: instance.clone(), turn });
                Ok(())
            }
        }
    }

    /// What waited may be told.
    pub(super) fn on_damped(&mut self, now: Time, instance: &InstanceId, turn: Turn) {
        if let Some(damper) = self.dampers.get_mut(instance) {
            damper.of(turn).waiting = false;
            // What does not fit into a full book follows with the next change.
            let _ = self.publish_flip(now, instance);
        }
    }
}

/// Turns that are told at once: more than somebody makes by hand.
const BURST: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_turns_are_told_at_once_and_then_ten_a_minute() {
        let mut allowance = Allowance::default();
        let cost = Turn::Better.cost();
        let told = |ms: &u64| allowance.spend(Time::after_start(Duration::from_millis(*ms)), cost).is_ok();
        assert_eq!((0..60_000).filter(told).count(), 19);
        let rested = Time::after_start(Duration::from_secs(200));
        assert_eq!((0..20).filter(|_| allowance.spend(rested, cost).is_ok()).count(), 10);
    }
}
