//! How many answers a network gets in a second: whoever forges a victim's address must not have us flood it.
//!
//! A leaky bucket for each network (the cell-rate algorithm GCRA: one number says when the bucket will be empty), in a
//! table of fixed size, so that forged addresses cannot make it grow. Networks that share a bucket share its rate; which
//! ones do is this process's secret.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use xxhash_rust::xxh3::xxh3_64_with_seed;

#[derive(Debug)]
pub(super) struct Limiter {
    seed: u64,
    /// Nanoseconds that one answer takes; 0 where there is no limit.
    each: u64,
    /// When each bucket will be empty, in nanoseconds of the caller's clock.
    buckets: Box<[AtomicU64]>,
}

impl Limiter {
    /// At most `rate` answers a second for each network, and as many at once.
    pub(super) fn new(rate: u32, seed: u64) -> Self {
        let each = SECOND.checked_div(rate.into()).map_or(0, |each| each.max(1));
        let count = if each == 0 { 0 } else { BUCKETS };
        Self { seed, each, buckets: (0..count).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Whether `client` may have one more answer; `now` in nanoseconds since any fixed time.
    pub(super) fn admits(&self, client: IpAddr, now: u64) -> bool {
        if self.buckets.is_empty() {
            return true;
        }
        let bucket = &self.buckets[self.bucket(client)];
        let more = |empty: u64| Some(empty.max(now) + self.each).filter(|full| *full <= now + SECOND);
        bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn bucket(&self, client: IpAddr) -> usize {
        let network = match client.to_canonical() {
            IpAddr::V4(v4) => u64::from(u32::from(v4) >> 8),
            // The upper bit keeps them apart from IPv4.
            IpAddr::V6(v6) => (u128::from(v6) >> 72) as u64 | 1 << 63,
        };
        (xxh3_64_with_seed(&network.to_be_bytes(), self.seed) % BUCKETS as u64) as usize
    }
}

const SECOND: u64 = 1_000_000_000;
/// 128 KiB, and as many networks.
const BUCKETS: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_gets_its_rate_and_not_more() {
        let limiter = Limiter::new(100, 1);
        let count = |client: &str, now| (0..1_000).filter(|_| limiter.admits(client.parse().unwrap(), now)).count();
        assert_eq!(count("192.0.2.1", SECOND), 100);
        assert_eq!(count("192.0.2.200", SECOND), 0, "the same /24");
        assert_eq!(count("::ffff:192.0.2.3", SECOND), 0, "the same, mapped");
        assert_eq!(count("198.51.100.1", SECOND), 100);
        assert_eq!(count("2001:db8::1", SECOND), 100);
        assert_eq!(count("2001:db8:0:ff::1", SECOND), 0, "the same /56");
        assert_eq!(count("192.0.2.1", SECOND + SECOND / 2), 50);
        assert_eq!(count("192.0.2.1", 10 * SECOND), 100);
    }

    #[test]
    fn without_a_rate_there_is_no_limit() {
        let limiter = Limiter::new(0, 1);
        assert!((0..100_000).all(|_| limiter.admits([192, 0, 2, 1].into(), 0)));
    }
}
