//! How checks see an instance, and what other nodes are told of it.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{CheckName, Invalid};

/// How checks see an instance; the worst of its checks, worst last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "agent", derive(schemars::JsonSchema))]
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

/// Where one check stands, as every node is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// What tells it from the instance's other checks.
    pub id: CheckName,
    /// What people call it.
    pub name: CheckName,
    /// Passing, warning or critical.
    pub status: Health,
    /// What it said last: at most 4 KiB of it, and 36 KiB of all checks of its instance together; where these have said
    /// more, the same share of each.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub output: Arc<str>,
    /// When the status began, in unix milliseconds.
    pub since: u64,
    /// While it is critical, or was found so last and not often enough yet, and whoever looked may be wrong: how it was
    /// before. `None` where it was never found well, its process has ended, or it said so itself: that is believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Before>,
}

/// How a check stood before it was found critical.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// Passing or warning.
    pub status: Health,
    /// When it was last found so, in unix milliseconds: from then on it may have been critical.
    pub seen: u64,
    /// When it was first found critical: it is told after as many looks as it asks for.
    #[serde(default)]
    pub failed: u64,
}

impl CheckStatus {
    /// How it stood before, if it is critical and may be wrong.
    #[must_use]
    pub fn doubted(&self) -> Option<Before> {
        self.before.filter(|_| self.status == Health::Critical)
    }
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
    /// Until when its owner has it shown as it was before, in unix milliseconds: most of its service turned critical with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<u64>,
}

impl HealthReport {
    /// Maintenance, else the worst check, else passing.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health_without(&[])
    }

    /// The same before what may be wrong of it.
    pub(crate) fn health_before(&self) -> Health {
        let before = |check: &CheckStatus| check.doubted().map_or(check.status, |before| before.status);
        match self.maintenance {
            Some(_) => Health::Maintenance,
            None => self.checks.iter().map(before).max().unwrap_or_default(),
        }
    }

    /// The same without the checks of these ids.
    pub(crate) fn health_without(&self, ids: &[CheckName]) -> Health {
        let counted = self.checks.iter().filter(|check| !ids.contains(&check.id));
        match self.maintenance {
            Some(_) => Health::Maintenance,
            None => counted.map(|check| check.status).max().unwrap_or_default(),
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

/// For what is a registration already: see `Agent::register`.
impl From<std::convert::Infallible> for FieldError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

impl From<Invalid> for FieldError {
    fn from(invalid: Invalid) -> Self {
        Self { field: invalid.what.into(), why: format!("{:?} {}", invalid.text, invalid.why) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_check_counts_and_maintenance_most() {
        let status = |status| CheckStatus {
            id: "c".try_into().unwrap(),
            name: "c".try_into().unwrap(),
            status,
            output: "".into(),
            since: 0,
            before: None,
        };
        let mut report = HealthReport::default();
        assert_eq!(report.health(), Health::Passing);
        report.checks = vec![status(Health::Passing), status(Health::Critical), status(Health::Warning)];
        assert_eq!(report.health(), Health::Critical);
        report.maintenance = Some("moving".into());
        assert_eq!(report.health(), Health::Maintenance);
    }
}
