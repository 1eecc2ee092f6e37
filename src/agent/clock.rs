//! This process's clock, and the core's time on it.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::model::Time;

/// This process's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
    pub(super) unix_millis: u64,
}

impl Clock {
    /// Starts it.
    pub(super) fn start() -> Self {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { start: Instant::now(), unix_millis: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX) }
    }

    /// The core's time.
    pub(super) fn now(&self) -> Time {
        Time::after_start(self.start.elapsed())
    }

    /// The moment to sleep until.
    pub(super) fn instant(&self, at: Time) -> Instant {
        let far = Instant::now() + FAR;
        self.start.checked_add(at.since_start()).map_or(far, |at| at.min(far))
    }
}

/// A deadline that never comes, within what a timer can hold.
const FAR: Duration = Duration::from_secs(24 * 3600);
