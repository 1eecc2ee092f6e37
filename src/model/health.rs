//! How checks see an instance, and how they are asked for.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::Invalid;

/// How checks see an instance; the worst of its checks, worst last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Every check passes, or there is none.
    #[default]
    Passing,
    /// It works, not well.
    Warning,
    /// It does not work.
    Critical,
    /// Somebody took it out of service on purpose.
    Maintenance,
}

impl Health {
    /// The word users see.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Maintenance => "maintenance",
        }
    }

    /// Whether traffic may be sent there: passing and warning.
    #[must_use]
    pub const fn is_served(self) -> bool {
        matches!(self, Self::Passing | Self::Warning)
    }
}

impl fmt::Display for Health {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.as_str())
    }
}

/// What tells the checks of one instance apart: free text, 1 to 255 bytes.
pub type CheckName = super::InstanceId;

/// How one check is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckSpec {
    /// Its name, unique within the instance.
    pub name: CheckName,
    /// What it does.
    pub kind: CheckKind,
    /// From one start to the next.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How many good results in a row turn it good.
    pub rise: u32,
    /// How many bad results in a row turn it bad.
    pub fall: u32,
    /// What it counts as before the first result; critical when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<Health>,
    /// Critical for so long, the instance is deregistered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deregister_after: Option<Duration>,
}

/// What a check does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckKind {
    /// The program itself reports, at least this often.
    Ttl(Duration),
}

/// Where one check stands, as every node is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// Its name within the instance.
    pub name: CheckName,
    /// Passing, warning or critical.
    pub status: Health,
    /// What it said last, at most 4 KiB.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub output: Arc<str>,
    /// When the status began, in unix milliseconds.
    pub since: u64,
}

/// All that is known of an instance's health: one small row beside its registration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReport {
    /// Its checks, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "super::list")]
    pub checks: Vec<CheckStatus>,
    /// Why it was taken out of service, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Arc<str>>,
}

impl HealthReport {
    /// Maintenance, else the worst check, else passing.
    #[must_use]
    pub fn health(&self) -> Health {
        match self.maintenance {
            Some(_) => Health::Maintenance,
            None => self.checks.iter().map(|check| check.status).max().unwrap_or_default(),
        }
    }
}

/// What is wrong with a field that somebody sent us. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {why}")]
pub struct FieldError {
    /// The field, as a path: `checks[0].interval`.
    pub field: String,
    /// What is wrong with it.
    pub why: String,
}

impl FieldError {
    /// An error that blames `field`.
    #[must_use]
    pub fn new(field: &str, why: &str) -> Self {
        Self { field: field.into(), why: why.into() }
    }
}

impl From<Invalid> for FieldError {
    fn from(invalid: Invalid) -> Self {
        Self { field: invalid.what.into(), why: format!("{:?} {}", invalid.text, invalid.why) }
    }
}

/// A check as people write it: the kind is the key.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckDraft {
    /// The name; the kind and its place in the list unless given.
    pub name: Option<String>,
    /// The kind `ttl`: how often the program reports, such as `30s`.
    pub ttl: Option<String>,
    /// How many good results in a row turn it good; 1 unless given.
    pub rise: Option<u32>,
    /// How many bad results in a row turn it bad; 1 unless given.
    pub fall: Option<u32>,
    /// What it counts as before the first result.
    pub initial: Option<Health>,
    /// Critical for so long, the instance is deregistered.
    pub deregister_after: Option<String>,
}

impl CheckDraft {
    /// The check this draft asks for; `place` is its number in its list, `path` what to call it in errors.
    ///
    /// # Errors
    /// Names the field that is wrong, and why.
    pub fn build(self, place: usize, path: &str) -> Result<CheckSpec, FieldError> {
        let blame = |field: &str, why: &str| FieldError::new(&format!("{path}.{field}"), why);
        let Some(ttl) = &self.ttl else {
            return Err(FieldError::new(
                path,
                "names no kind: this version runs ttl checks, such as {\"ttl\": \"30s\"}",
            ));
        };
        let ttl = parse_duration(ttl).map_err(|why| blame("ttl", why))?;
        if ttl < MIN_INTERVAL {
            return Err(blame("ttl", "must be at least 100ms"));
        }
        let deregister_after = self
            .deregister_after
            .as_deref()
            .map(parse_duration)
            .transpose()
            .map_err(|why| blame("deregister_after", why))?;
        if self.rise == Some(0) || self.fall == Some(0) {
            return Err(blame("rise", "and fall must be at least 1"));
        }
        if self.initial == Some(Health::Maintenance) {
            return Err(blame("initial", "must be passing, warning or critical"));
        }
        let name = self.name.unwrap_or_else(|| format!("ttl-{}", place + 1));
        let name = name.as_str().try_into().map_err(|invalid: Invalid| blame("name", invalid.why))?;
        let (rise, fall) = (self.rise.unwrap_or(1), self.fall.unwrap_or(1));
        Ok(CheckSpec {
            name,
            kind: CheckKind::Ttl(ttl),
            interval: ttl,
            timeout: ttl,
            rise,
            fall,
            initial: self.initial,
            deregister_after,
        })
    }
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

/// The shortest time between two runs of a check.
pub(super) const MIN_INTERVAL: Duration = Duration::from_millis(100);

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
    fn the_worst_check_counts_and_maintenance_most() {
        let status = |status| CheckStatus { name: "c".try_into().unwrap(), status, output: "".into(), since: 0 };
        let mut report = HealthReport::default();
        assert_eq!(report.health(), Health::Passing);
        report.checks = vec![status(Health::Passing), status(Health::Critical), status(Health::Warning)];
        assert_eq!(report.health(), Health::Critical);
        report.maintenance = Some("moving".into());
        assert_eq!(report.health(), Health::Maintenance);
    }
}
