//! Lifeguard (Dadgar, Phillips, Currey 2017): a node that misses its own deadlines doubts itself first, and a suspicion
//! grows short only by independent confirmations.

use std::time::Duration;

use crate::model::{NodeId, Time};

/// One suspicion: who confirms it, and since when.
#[derive(Clone, Debug)]
pub(super) struct Suspicion {
    since: Time,
    /// Whoever says so from his own evidence, each once.
    accusers: Vec<NodeId>,
}

impl Suspicion {
    pub(super) fn new(since: Time, accuser: NodeId) -> Self {
        Self { since, accusers: vec![accuser] }
    }

    /// Counts one more voice; false if it was counted before or counts no more.
    pub(super) fn confirm(&mut self, accuser: NodeId) -> bool {
        let new = self.accusers.len() < MAX_ACCUSERS && !self.accusers.contains(&accuser);
        if new {
            self.accusers.push(accuser);
        }
        new
    }

    pub(super) fn is_accused_by(&self, node: NodeId) -> bool {
        self.accusers.contains(&node)
    }

    pub(super) fn voices(&self) -> usize {
        self.accusers.len()
    }

    /// When it becomes a verdict, unless refuted. `others` is how many members could have an opinion.
    pub(super) fn deadline(&self, others: usize) -> Time {
        let confirmations = self.accusers.len().saturating_sub(1);
        self.since + timeout(confirmations, others.min(EXPECTED), MIN_SUSPICION, MAX_SUSPICION)
    }
}

/// Lifeguard's dynamic time-out, section IV-B: falls from `max` to `min` with the logarithm of the confirmations `seen`,
/// of which `expected` make it as short as it gets.
fn timeout(seen: usize, expected: usize, min: Duration, max: Duration) -> Duration {
    #[expect(clippy::cast_precision_loss, reason = "counts of a handful of nodes")]
    let part = if expected == 0 { 1.0 } else { ((seen as f64 + 1.0).ln() / (expected as f64 + 1.0).ln()).min(1.0) };
    max.saturating_sub(max.saturating_sub(min).mul_f64(part))
}

/// A node's doubt in itself, section IV-A: 0 is healthy, and each point stretches its probes by their own length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SelfDoubt(u8);

impl SelfDoubt {
    /// A probe was answered in time.
    pub(super) fn relieve(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }

    /// A probe failed, a suspicion of oneself had to be refuted, or the loop woke late.
    pub(super) fn raise(&mut self) {
        self.0 = (self.0 + 1).min(MAX_DOUBT);
    }

    /// A probe's duration under this doubt.
    pub(super) fn stretch(self, probe: Duration) -> Duration {
        probe * (u32::from(self.0) + 1)
    }
}

/// How many members look for themselves when a suspicion begins: the suspect's neighbours on the ring.
pub(super) const OBSERVERS: usize = 4;
/// How many confirmations make a suspicion as short as it gets.
const EXPECTED: usize = 3;
/// A suspicion confirmed by all expected: long enough for a refutation to travel the mesh and back on a bad day.
const MIN_SUSPICION: Duration = Duration::from_millis(800);
/// A suspicion nobody confirms.
const MAX_SUSPICION: Duration = Duration::from_secs(5);
/// More accusers than this tell nothing new.
const MAX_ACCUSERS: usize = 8;
/// The paper's S: at most nine times the probe's length.
const MAX_DOUBT: u8 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspicion_grows_short_by_confirmations() {
        let [min, max] = [1, 9].map(Duration::from_secs);
        for (seen, expected, millis) in
            [(0, 3, 9_000), (1, 3, 5_000), (2, 3, 2_660), (3, 3, 1_000), (9, 3, 1_000), (0, 0, 1_000)]
        {
            assert_eq!(timeout(seen, expected, min, max).as_millis(), millis, "{seen} of {expected}");
        }
    }

    #[test]
    fn a_voice_counts_once() {
        let mut suspicion = Suspicion::new(Time::ZERO, NodeId(1));
        assert!(!suspicion.confirm(NodeId(1)));
        assert!(suspicion.confirm(NodeId(2)));
        assert_eq!(suspicion.voices(), 2);
        assert!(suspicion.deadline(9) < Suspicion::new(Time::ZERO, NodeId(1)).deadline(9));
    }

    #[test]
    fn doubt_stretches_probes_and_is_bounded() {
        let mut doubt = SelfDoubt::default();
        (0..20).for_each(|_| doubt.raise());
        assert_eq!(doubt.stretch(Duration::from_secs(1)), Duration::from_secs(9));
        (0..20).for_each(|_| doubt.relieve());
        assert_eq!(doubt.stretch(Duration::from_secs(1)), Duration::from_secs(1));
    }
}
