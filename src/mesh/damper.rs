//! Flap damping at the origin: an instance that changes its mind all the time tells the others of it less often. What it
//! tells then is how it stands at that moment, so the last word is always right. As RFC 2439 does for routes.

use std::time::Duration;

use super::{Mesh, Timer, event::Rejected};
use crate::model::{InstanceId, Time};

/// What one instance has spent of its allowance: [`BURST`] changes at once, then one every [`COST`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Damper {
    /// When all that was spent is earned again.
    even_at: Time,
    /// Whether a change waits to be told.
    waiting: bool,
}

impl Damper {
    /// Spends one change; or how long it has to wait.
    fn spend(&mut self, now: Time) -> Result<(), Duration> {
        let debt = self.even_at.since(now);
        if debt > COST * (BURST - 1) {
            return Err(debt - COST * (BURST - 1));
        }
        self.even_at = self.even_at.max(now) + COST;
        Ok(())
    }
}

impl Mesh {
    /// Publishes how an instance stands, at once or when its allowance lets it.
    pub(super) fn publish_flip(&mut self, now: Time, instance: &InstanceId) -> Result<(), Rejected> {
        let damper = self.dampers.entry(instance.clone()).or_default();
        if damper.waiting {
            self.stats.flips_damped += 1;
            return Ok(());
        }
        match damper.spend(now) {
            Ok(()) => self.publish_report(now, instance),
            Err(wait) => {
                damper.waiting = true;
                self.stats.flips_damped += 1;
                self.timers.set(now + wait, Timer::Damped(instance.clone()));
                Ok(())
            }
        }
    }

    /// What waited may be told.
    pub(super) fn on_damped(&mut self, now: Time, instance: &InstanceId) {
        if let Some(damper) = self.dampers.get_mut(instance) {
            damper.waiting = false;
            // What does not fit into a full book follows with the next change.
            let _ = self.publish_flip(now, instance);
        }
    }
}

/// Changes that are told at once: more than somebody makes by hand.
const BURST: u32 = 10;
/// From then on one in so long: an instance alone makes ten changes a minute.
const COST: Duration = Duration::from_secs(6);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_changes_are_told_at_once_and_then_ten_a_minute() {
        let mut damper = Damper::default();
        let minute = 0..60_000;
        let told = minute.filter(|ms| damper.spend(Time::after_start(Duration::from_millis(*ms))).is_ok()).count();
        assert_eq!(told, 19);
        let rested = Time::after_start(Duration::from_secs(200));
        assert_eq!((0..20).filter(|_| damper.spend(rested).is_ok()).count(), 10);
    }
}
