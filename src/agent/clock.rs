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

    /// A moment of the core's, which goes on from what the wall said at the start, by what the wall says now: that may have
    /// been set right since, and goes on while the machine sleeps.
    pub(super) fn by_the_wall(&self, unix_millis: u64) -> u64 {
        let went = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let steady = self.unix_millis.saturating_add(went);
        unix_millis.saturating_add(Self::start().unix_millis).saturating_sub(steady)
    }

    /// The moment to sleep until.
    pub(super) fn instant(&self, at: Time) -> Instant {
        let far = Instant::now() + FAR;
        self.start.checked_add(at.since_start()).map_or(far, |at| at.min(far))
    }
}

/// A deadline that never comes, within what a timer can hold.
const FAR: Duration = Duration::from_secs(24 * 3600);
