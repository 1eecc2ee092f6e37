//! Until when this node lived, for its next process: TTLs run on while there is none, and until then it looked at what is
//! checked. An empty file is touched now and then, as long as there is a check. Nothing waits for the disk: a process that
//! dies leaves the right time behind, and after a power cut it is an earlier one, by which a TTL runs out too early and
//! never too late.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::{Duration, SystemTime},
};

/// The file.
#[derive(Debug)]
pub(super) struct Pulse {
    file: File,
    /// The latest at which the process before can have lived, in unix milliseconds; `None` if there was none.
    pub(super) last: Option<u64>,
}

impl Pulse {
    /// Opens or makes the one in `directory`.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let path = directory.join(FILE);
        let last = path.metadata().and_then(|found| found.modified()).ok().map(|at| unix_millis(at + EVERY));
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        Ok(Self { file, last })
    }

    /// Says that this process lives. Where that fails a TTL runs out too early after a restart, and nothing else.
    pub(super) fn beat(&self) {
        let _ = self.file.set_modified(SystemTime::now());
    }
}

fn unix_millis(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    crate::model::millis(since)
}

pub(super) const FILE: &str = "alive";
/// How often it is said: so much longer a TTL may last across a restart.
pub(super) const EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_process_knows_until_when_the_last_one_lived() {
        let folder = tempfile::tempdir().unwrap();
        let first = Pulse::open(folder.path()).unwrap();
        assert_eq!(first.last, None);
        first.file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(7)).unwrap();
        assert_eq!(Pulse::open(folder.path()).unwrap().last, Some(8000));
        let before = SystemTime::now();
        first.beat();
        assert!(Pulse::open(folder.path()).unwrap().last.unwrap() >= unix_millis(before));
    }
}
