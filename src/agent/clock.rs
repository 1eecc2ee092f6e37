//! This process's clock, and the core's time on it.

use std::time::Duration;

use tokio::time::Instant;

use super::unix_millis;
use crate::model::{Time, millis};

/// This process's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts it.
    pub(super) fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// The core's time.
    pub(super) fn now(&self) -> Time {
        Time::after_start(self.start.elapsed())
    }

    /// What the wall said or will say at a moment of the core's, in unix milliseconds, by what it says now: that may have
    /// been set right since the start, and goes on while the machine sleeps.
    pub(super) fn by_the_wall(&self, at: Time) -> u64 {
        let now = self.now();
        unix_millis().saturating_sub(millis(now.since(at))).saturating_add(millis(at.since(now)))
    }

    /// The moment to sleep until.
    pub(super) fn instant(&self, at: Time) -> Instant {
        let far = Instant::now() + FAR;
        self.start.checked_add(at.since_start()).map_or(far, |at| at.min(far))
    }
}

/// A deadline that never comes, within what a timer can hold.
const FAR: Duration = Duration::from_secs(24 * 3600);
