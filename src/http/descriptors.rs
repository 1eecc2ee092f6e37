//! How many file descriptors this process has, and how many it may have: connections, files and streams share them.

use std::fs;

use rustix::process::{Resource, getrlimit};
use schemars::JsonSchema;
use serde::Serialize;

/// The descriptors of this process.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub(super) struct Descriptors {
    pub(super) open: u64,
    pub(super) limit: u64,
}

impl Descriptors {
    /// As they are now. Who has none left to count them with has them all open.
    pub(super) fn now() -> Self {
        let limit = limit();
        // To read the folder takes one.
        let open = fs::read_dir("/proc/self/fd").map_or(limit, |each| (each.count() as u64).saturating_sub(1));
        Self { open, limit }
    }
}

/// The most there can be.
pub(super) fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_opened_counts() {
        let before = Descriptors::now();
        let _held: Vec<_> = (0..100).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let after = Descriptors::now();
        // Other tests of this process open and close theirs meanwhile.
        assert!(after.open > before.open && after.open < after.limit, "{before:?} {after:?}");
    }
}
