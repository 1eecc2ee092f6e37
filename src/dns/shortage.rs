//! A shortage of the system's, of descriptors or memory: it is told once, and tried again ever more seldom, for both
//! busy retries and a line for each of them would add to it.

use std::time::{Duration, Instant};

/// The failures of one shortage, which ends when none has come for a while.
#[derive(Debug, Default)]
pub(super) struct Shortage {
    failures: u32,
    last: Option<Instant>,
}

/// What to do about a failure.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Advice {
    /// How long to wait.
    pub(super) pause: Duration,
    /// Where a shortage begins: how many failures the one before had.
    pub(super) before: Option<u32>,
}

impl Shortage {
    /// Another failure.
    pub(super) fn fail(&mut self, now: Instant) -> Advice {
        let goes_on = self.last.is_some_and(|last| now.saturating_duration_since(last) < OVER);
        let before = (!goes_on).then(|| std::mem::take(&mut self.failures));
        let pause = PAUSE * (1 << self.failures.min(LONGEST));
        self.failures = self.failures.saturating_add(1);
        self.last = Some(now);
        Advice { pause, before }
    }
}

/// After the first failure; twice as long after each further one, up to 640 ms.
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST: u32 = 6;
/// Without a failure for so long a shortage is over.
const OVER: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_told_once_and_tried_ever_more_seldom() {
        let (mut shortage, mut now) = (Shortage::default(), Instant::now());
        assert_eq!(shortage.fail(now), Advice { pause: PAUSE, before: Some(0) });
        for failure in 1..100 {
            now += Duration::from_millis(640);
            let Advice { pause, before } = shortage.fail(now);
            assert_eq!((pause, before), (PAUSE * (1 << failure.min(LONGEST)), None));
        }
        assert_eq!(shortage.fail(now + OVER), Advice { pause: PAUSE, before: Some(100) }, "the next one");
    }
}
