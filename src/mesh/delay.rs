//! How long answers take, smoothed as TCP does it (RFC 6298, section 2), so that one late answer changes little.

use std::time::Duration;

/// The delays seen so far, as their mean and how much they vary.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Delay {
    mean: Option<Duration>,
    spread: Duration,
}

impl Delay {
    /// Takes in one more; the first is the mean, and varies by its half.
    pub(super) fn observe(&mut self, sample: Duration) {
        self.spread = self.mean.map_or(sample / 2, |mean| (self.spread * 3 + mean.abs_diff(sample)) / 4);
        self.mean = Some(self.mean.map_or(sample, |mean| (mean * 7 + sample) / 8));
    }

    /// What is usual, once any was seen.
    pub(super) const fn mean(&self) -> Option<Duration> {
        self.mean
    }

    /// How long to wait before an answer is missed, once any was seen.
    pub(super) fn patience(&self) -> Option<Duration> {
        self.mean.map(|mean| mean + self.spread * 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_smoothed_as_rfc_6298_has_it() {
        let mut delay = Delay::default();
        assert_eq!((delay.mean(), delay.patience()), (None, None));
        for (sample, mean, patience) in [(8_000, 8_000, 24_000), (8_000, 8_000, 20_000), (16_000, 9_000, 26_000)] {
            delay.observe(Duration::from_micros(sample));
            let micros = |duration: Option<Duration>| duration.unwrap().as_micros();
            assert_eq!((micros(delay.mean()), micros(delay.patience())), (mean, patience), "after {sample}");
        }
    }
}
