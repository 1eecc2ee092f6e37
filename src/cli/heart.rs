//! The check that a `hobnob run` reports to. Its id names the process, so that two of them never feed one row, and so that
//! the next one can tell whether a row is that of a living `run` or was left over by one that was killed.

use std::{fmt, path::Path, process, str::FromStr, time::Duration};

use rustix::{
    io::Errno,
    process::{Pid, test_kill_process},
};

use crate::{
    agent::birth,
    model::{CheckDraft, Health},
};

/// A process that keeps an instance registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heart {
    pid: u32,
    /// When it began, as the kernel counts: the number of a process is given to another one day.
    begun: u64,
    /// Where its number counts: this boot of this machine, and the namespace. Empty where that cannot be told.
    realm: String,
}

impl Heart {
    /// That of this process.
    pub(super) fn own() -> Self {
        let pid = process::id();
        Self { pid, begun: begun(pid).unwrap_or_default(), realm: birth::realm().unwrap_or_default() }
    }

    /// Whether `other` is alive, if that can be seen from here.
    pub(super) fn sees(&self, other: &Self) -> Option<bool> {
        let is_near = !self.realm.is_empty() && self.realm == other.realm && !is_hidden(other.pid);
        is_near.then(|| begun(other.pid) == Some(other.begun))
    }

    /// The check. Once it is missed, nobody is sent to the command any more, for nobody would notice its end.
    pub(super) fn check(&self) -> CheckDraft {
        let text = |duration: Duration| Some(format!("{}s", duration.as_secs()));
        CheckDraft {
            id: Some(self.to_string()),
            name: Some(KIND.into()),
            ttl: text(BEAT * 3),
            initial: Some(Health::Passing),
            deregister_after: text(FORGET),
            ..CheckDraft::default()
        }
    }
}

impl fmt::Display for Heart {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{KIND}:{}.{}@{}", self.pid, self.begun, self.realm)
    }
}

impl FromStr for Heart {
    type Err = ();
    fn from_str(id: &str) -> Result<Self, ()> {
        let (process, realm) = id.strip_prefix(KIND).and_then(|id| id.strip_prefix(':')?.split_once('@')).ok_or(())?;
        let (pid, begun) = process.split_once('.').ok_or(())?;
        Ok(Self { pid: pid.parse().map_err(drop)?, begun: begun.parse().map_err(drop)?, realm: realm.into() })
    }
}

/// When a living process began; `None` also of one that is dead and not yet buried.
fn begun(pid: u32) -> Option<u64> {
    birth::stat(pid).filter(|stat| !stat.is_dead).map(|stat| stat.began)
}

/// Whether a process is there and not for us to look at (proc(5), `hidepid`).
fn is_hidden(pid: u32) -> bool {
    let known = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let is_there = known.is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH));
    is_there && !Path::new(&format!("/proc/{pid}")).exists()
}

/// What the ids of such checks begin with.
pub(super) const KIND: &str = "hobnob-run";
/// From one beat to the next; three that are missed are a death.
pub(super) const BEAT: Duration = Duration::from_secs(2);
/// How long after its last beat an instance is forgotten.
const FORGET: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_is_told_from_one_that_has_its_number() {
        let own = Heart::own();
        assert_eq!(own.to_string().parse(), Ok(own.clone()));
        assert_eq!(own.sees(&own), Some(true));
        assert_eq!(own.sees(&Heart { begun: own.begun + 1, ..own.clone() }), Some(false));
        assert_eq!(own.sees(&Heart { realm: "elsewhere".into(), ..own.clone() }), None);
        let mut child = process::Command::new("true").spawn().unwrap();
        while begun(child.id()).is_some() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        for other in ["hobnob-run", "hobnob-run:1", "hobnob-run:x.1@y", "web", "hobnob-runner"] {
            assert_eq!(other.parse::<Heart>(), Err(()), "{other}");
        }
    }
}
