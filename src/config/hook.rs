//! A hook: a program that runs when a service is another than before.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::settings::duration;
use crate::model::ServiceName;

/// One `[[hooks]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// The service whose changes it follows.
    pub service: ServiceName,
    /// The program and its arguments; no shell is between.
    #[serde(deserialize_with = "command")]
    pub command: Vec<String>,
    /// How long one run may take; then it is killed with all it has started.
    #[serde(deserialize_with = "some_time", default = "thirty_seconds")]
    pub timeout: Duration,
    /// How long the service must have been the same before the program runs: a wave of changes becomes one run.
    #[serde(with = "duration", default = "a_moment")]
    pub settle: Duration,
}

fn command<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let words = Vec::<String>::deserialize(from)?;
    match words.first() {
        Some(program) if !program.is_empty() => Ok(words),
        _ => Err(de::Error::custom(
            "`command` names no program: write command = [\"systemctl\", \"reload\", \"haproxy\"]",
        )),
    }
}

fn some_time<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    match duration::deserialize(from)? {
        Duration::ZERO => Err(de::Error::custom("\"0s\" leaves no run the time to end: write timeout = \"30s\"")),
        time => Ok(time),
    }
}

const fn thirty_seconds() -> Duration {
    Duration::from_secs(30)
}

/// What a wave of changes after one death takes to pass.
const fn a_moment() -> Duration {
    Duration::from_millis(100)
}
