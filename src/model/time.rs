//! Time as an argument: an offset from the start of the process. It can be computed with, never read.

use std::{
    fmt,
    ops::{Add, Sub},
    time::Duration,
};

/// Nanoseconds since the process (or the simulation) started. Saturates instead of overflowing: it holds 584 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The start.
    pub const ZERO: Self = Self(0);
    /// A moment that never comes: the deadline of somebody with nothing to do.
    pub const NEVER: Self = Self(u64::MAX);

    /// The moment `offset` after the start.
    #[must_use]
    pub fn after_start(offset: Duration) -> Self {
        Self(u64::try_from(offset.as_nanos()).unwrap_or(u64::MAX))
    }

    /// How long after the start this moment is.
    #[must_use]
    pub const fn since_start(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// How long `earlier` lies back; zero if it lies ahead.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;
    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(Self::after_start(by).0))
    }
}

impl Sub for Time {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:.6}s", self.since_start().as_secs_f64())
    }
}
