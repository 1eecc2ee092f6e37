//! How often a source of requests gets what it asks for: for faces that anybody may ask.
//!
//! A leaky bucket for each source (the cell-rate algorithm GCRA: one number says when the bucket will be empty), in a
//! table of fixed size, so that forged addresses cannot make it grow. Sources that share a bucket share its rate; which
//! ones do is this process's secret.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use xxhash_rust::xxh3::xxh3_64_with_seed;

#[derive(Debug)]
pub(crate) struct Limiter {
    seed: u64,
    /// Nanoseconds that one request takes; 0 where there is no limit.
    each: u64,
    /// When each bucket will be empty, in nanoseconds of the caller's clock.
    buckets: Box<[AtomicU64]>,
}

impl Limiter {
    /// At most `rate` requests a second for each source, and as many at once; 0 for any number.
    pub(crate) fn new(rate: u32, seed: u64) -> Self {
        let each = SECOND.checked_div(rate.into()).map_or(0, |each| each.max(1));
        let count = if each == 0 { 0 } else { BUCKETS };
        Self { seed, each, buckets: (0..count).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Whether `source` may have one more; `now` in nanoseconds since any fixed time.
    pub(crate) fn admits(&self, source: Source, now: u64) -> bool {
        if self.buckets.is_empty() {
            return true;
        }
        let bucket = &self.buckets[self.bucket(source)];
        let more = |empty: u64| Some(empty.max(now) + self.each).filter(|full| *full <= now + SECOND);
        bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn bucket(&self, source: Source) -> usize {
        (xxh3_64_with_seed(&source.0.to_be_bytes(), self.seed) % BUCKETS as u64) as usize
    }
}

/// Who is taken for one: the upper bits of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Source(u64);

impl Source {
    /// What one customer of a provider has: 256 addresses of IPv4, a /56 of IPv6.
    pub(crate) fn network(client: IpAddr) -> Self {
        Self::of(client, 24, 56)
    }

    /// One host: an address of IPv4, a /64 of IPv6, in which it takes any it likes.
    pub(crate) fn host(client: IpAddr) -> Self {
        Self::of(client, 32, 64)
    }

    fn of(client: IpAddr, v4_bits: u32, v6_bits: u32) -> Self {
        Self(match client.to_canonical() {
            IpAddr::V4(v4) => u64::from(u32::from(v4) >> (32 - v4_bits)),
            // The upper bit keeps them apart from IPv4.
            IpAddr::V6(v6) => (u128::from(v6) >> (128 - v6_bits)) as u64 | 1 << 63,
        })
    }
}

const SECOND: u64 = 1_000_000_000;
/// 128 KiB, and as many sources.
const BUCKETS: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_gets_its_rate_and_not_more() {
        let limiter = Limiter::new(100, 1);
        let count = |source: fn(IpAddr) -> Source, client: &str, now| {
            (0..1_000).filter(|_| limiter.admits(source(client.parse().unwrap()), now)).count()
        };
        let network = |client: &str, now| count(Source::network, client, now);
        assert_eq!(network("192.0.2.1", SECOND), 100);
        assert_eq!(network("192.0.2.200", SECOND), 0, "the same /24");
        assert_eq!(network("::ffff:192.0.2.3", SECOND), 0, "the same, mapped");
        assert_eq!(network("198.51.100.1", SECOND), 100);
        assert_eq!(network("2001:db8::1", SECOND), 100);
        assert_eq!(network("2001:db8:0:ff::1", SECOND), 0, "the same /56");
        assert_eq!(network("192.0.2.1", SECOND + SECOND / 2), 50);
        assert_eq!(network("192.0.2.1", 10 * SECOND), 100);
        let host = |client: &str| count(Source::host, client, 20 * SECOND);
        assert_eq!((host("192.0.2.1"), host("192.0.2.2"), host("192.0.2.1")), (100, 100, 0));
        assert_eq!((host("2001:db8::1"), host("2001:db8::ffff:1"), host("2001:db8:0:1::1")), (100, 0, 100));
    }

    #[test]
    fn without_a_rate_there_is_no_limit() {
        let limiter = Limiter::new(0, 1);
        assert!((0..100_000).all(|_| limiter.admits(Source::network([192, 0, 2, 1].into()), 0)));
    }
}
