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

    /// The moment so long before this one; the start if that lies behind it.
    #[must_use]
    pub fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(Self::after_start(by).0))
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

/// So many seconds.
#[must_use]
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Parses durations such as `10s`, `1m30s`, `100ms`, `1.5h`: what Go's `time.ParseDuration` takes, without signs.
///
/// # Errors
/// Says what a duration looks like.
pub fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    const WHY: &str = "is not a duration such as 10s, 100ms or 1m30s";
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(WHY);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(WHY)?;
        let number: f64 = rest[..digits].parse().map_err(|_| WHY)?;
        rest = &rest[digits..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..unit_end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return Err(WHY),
        };
        rest = &rest[unit_end..];
        let part = Duration::try_from_secs_f64(number * unit).map_err(|_| WHY)?;
        total = total.checked_add(part).ok_or(WHY)?;
    }
    Ok(total)
}

/// A duration in what Go's `time.ParseDuration` takes besides: a nought without a unit, a sign, the Greek letter; and not
/// in days, nor with blanks around it. Consul means none by less than none.
///
/// # Errors
/// Says what is wrong, to stand behind the field's name.
#[cfg(feature = "agent")]
pub(crate) fn parse_go_duration(text: &str) -> Result<Duration, &'static str> {
    if text.contains(|letter: char| letter == 'd' || letter.is_whitespace()) {
        return Err("is not a duration such as 10s, 100ms or 1m30s");
    }
    let bare = text.strip_prefix(['+', '-']).unwrap_or(text);
    let time = if bare == "0" { Duration::ZERO } else { parse_duration(&bare.replace("\u{3bc}s", "us"))? };
    Ok(if text.starts_with('-') { Duration::ZERO } else { time })
}

/// As many whole milliseconds as there can be.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Writes a duration so that [`parse_duration`] reads the same: `90s`, `100ms`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    match (duration.as_secs(), duration.subsec_nanos()) {
        (secs, 0) => format!("{secs}s"),
        (0, nanos) if nanos.is_multiple_of(1_000_000) => format!("{}ms", nanos / 1_000_000),
        (0, nanos) => format!("{nanos}ns"),
        (secs, nanos) if nanos.is_multiple_of(1_000_000) => format!("{secs}s{}ms", nanos / 1_000_000),
        (secs, nanos) => format!("{secs}s{nanos}ns"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_go_s() {
        for (text, millis) in
            [("10s", 10_000), ("1m30s", 90_000), ("100ms", 100), ("1.5h", 5_400_000), ("1d", 86_400_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "10", "s", "10x", "-1s", "1e400s", "1..5s", "99999999999999999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    #[cfg(feature = "agent")]
    fn what_go_takes_besides_is_taken() {
        for (text, nanos) in [
            ("0", Ok(0)),
            ("+0", Ok(0)),
            ("+5s", Ok(5_000_000_000)),
            ("-5s", Ok(0)),
            ("7\u{3bc}s", Ok(7_000)),
            ("5", Err(())),
            ("1d", Err(())),
            (" 10s", Err(())),
            ("10s ", Err(())),
            ("-x", Err(())),
            ("", Err(())),
        ] {
            assert_eq!(parse_go_duration(text).map(|time| time.as_nanos()).map_err(drop), nanos, "{text}");
        }
    }

    #[test]
    fn a_duration_is_read_as_it_was_written() {
        for nanos in [0, 1, 999, 100_000_000, 1_500_000_000, 90_000_000_000, 1_000_000_007] {
            let duration = Duration::from_nanos(nanos);
            assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
    }
}
