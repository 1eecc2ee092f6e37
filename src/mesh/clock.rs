//! The core's time as people and other machines read it. Its own runs evenly from the start of the process; what the wall
//! says may be set right, or go on while the machine sleeps.

use super::Mesh;
use crate::model::{Time, millis};

impl Mesh {
    /// A moment of the core's as people read it: unix milliseconds.
    #[must_use]
    pub fn wall_clock(&self, at: Time) -> u64 {
        self.config.unix_millis.saturating_add(millis(at.since_start()))
    }

    /// Says what the wall clock shows at a moment of the core's, in unix milliseconds. All that is dated from then on goes
    /// by it; what was dated before stays as it was written.
    pub fn set_wall_clock(&mut self, at: Time, unix_millis: u64) {
        if self.wall_clock(at).abs_diff(unix_millis) > SLACK {
            self.config.unix_millis = unix_millis.saturating_sub(millis(at.since_start()));
            self.weigh_all();
        }
    }
}

/// Two clocks may differ by so many milliseconds before one is set by the other.
const SLACK: u64 = 100;
