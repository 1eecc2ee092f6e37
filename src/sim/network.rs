//! The weather between machines: delay, loss, duplicates, reordering, and walls.

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng, RngExt};

/// How links behave. May be changed while the world runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// One way, the least a packet takes.
    pub latency: Duration,
    /// Up to so much is added for good to each pair of machines: some are further apart.
    pub spread: Duration,
    /// Up to so much is added to each packet.
    pub jitter: Duration,
    /// The part of datagrams that vanish; streams pay with time instead.
    pub loss: f64,
    /// Machines with a poor link, by number: what part of the datagrams to each of them vanish besides, and from it.
    pub poor: BTreeMap<usize, [f64; 2]>,
    /// The part of datagrams that come twice.
    pub duplicates: f64,
    /// The part of datagrams that are overtaken: late by up to 50 ms.
    pub reorder: f64,
    /// Whether a machine that restarted answers packets of its former connections with a reset.
    pub resets: bool,
}

impl Default for Network {
    /// One rack: a quarter of a millisecond, nothing lost.
    fn default() -> Self {
        Self {
            latency: Duration::from_micros(250),
            spread: Duration::ZERO,
            jitter: Duration::from_micros(50),
            loss: 0.0,
            poor: BTreeMap::new(),
            duplicates: 0.0,
            reorder: 0.0,
            resets: true,
        }
    }
}

impl Network {
    /// How long one packet from `from` to `to` takes.
    pub(super) fn delay(&self, from: u32, to: u32, rng: &mut impl Rng) -> Duration {
        let jitter = if self.jitter.is_zero() { Duration::ZERO } else { self.jitter.mul_f64(rng.random::<f64>()) };
        self.distance(from, to) + jitter
    }

    /// When each copy of a datagram arrives; none if it is lost.
    pub(super) fn copies(&self, from: u32, to: u32, rng: &mut impl Rng) -> [Option<Duration>; 2] {
        let mut copy = || {
            let late =
                if happens(self.reorder, rng) { REORDER_LATE.mul_f64(rng.random::<f64>()) } else { Duration::ZERO };
            Some(self.delay(from, to, rng) + late)
        };
        let (first, second) = (copy(), copy());
        if happens(self.loss(from, to), rng) {
            return [None, None];
        }
        [first, second.filter(|_| happens(self.duplicates, rng))]
    }

    /// How long a stream of so many bytes takes: its lost segments are sent again after a round trip and the longest
    /// delay of an acknowledgement (RFC 9002 section 6.2), all of one round at once.
    pub(super) fn transfer(&self, from: u32, to: u32, bytes: usize, rng: &mut impl Rng) -> Duration {
        let mut total = self.delay(from, to, rng);
        let mut missing = bytes.div_ceil(SEGMENT).max(1);
        let loss = self.loss(from, to);
        for _ in 0..MAX_TRIES {
            missing = (0..missing).filter(|_| happens(loss, rng)).count();
            if missing == 0 {
                break;
            }
            total += self.distance(from, to) + self.distance(to, from) + ACK_DELAY;
        }
        total
    }

    /// The part of datagrams that vanish between two machines.
    fn loss(&self, from: u32, to: u32) -> f64 {
        if self.poor.is_empty() {
            return self.loss;
        }
        let [_, leaving] = self.poor.get(&(from as usize)).copied().unwrap_or_default();
        let [coming, _] = self.poor.get(&(to as usize)).copied().unwrap_or_default();
        1.0 - (1.0 - self.loss) * (1.0 - leaving) * (1.0 - coming)
    }

    /// The fixed part of the way: the same in both directions.
    pub(super) fn distance(&self, from: u32, to: u32) -> Duration {
        if self.spread.is_zero() {
            return self.latency;
        }
        let pair = (u64::from(from.min(to)) << 32) | u64::from(from.max(to));
        let share = xxhash_rust::xxh3::xxh3_64(&pair.to_le_bytes()) >> 48;
        self.latency + self.spread.mul_f64(share as f64 / 65_536.0)
    }
}

/// Walls: nothing passes from a machine of the first set to one of the second.
#[derive(Clone, Debug, Default)]
pub(super) struct Walls(Vec<(Vec<bool>, Vec<bool>)>);

impl Walls {
    pub(super) fn build(&mut self, machines: usize, from: &[usize], to: &[usize]) {
        let set = |members: &[usize]| {
            let mut set = vec![false; machines];
            members.iter().filter(|&&n| n < machines).for_each(|&n| set[n] = true);
            set
        };
        self.0.push((set(from), set(to)));
    }

    pub(super) fn tear_down(&mut self) {
        self.0.clear();
    }

    pub(super) fn between(&self, from: u32, to: u32) -> bool {
        let holds = |set: &Vec<bool>, n: u32| set.get(n as usize).copied().unwrap_or(false);
        self.0.iter().any(|(left, right)| holds(left, from) && holds(right, to))
    }
}

fn happens(rate: f64, rng: &mut impl Rng) -> bool {
    rate > 0.0 && rng.random_bool(rate.min(1.0))
}

/// The latest an overtaken datagram comes: long against a rumour's way through the mesh, short against a probe.
const REORDER_LATE: Duration = Duration::from_millis(50);
/// The longest a QUIC peer holds back an acknowledgement unless told otherwise (RFC 9000 section 18.2).
const ACK_DELAY: Duration = Duration::from_millis(25);
/// Bytes of a stream in one packet.
const SEGMENT: usize = 1150;
/// Rounds after which a stream counts as arrived: 25 % loss needs 10 for 64 KiB.
const MAX_TRIES: usize = 32;

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_pcg::Pcg64Mcg;

    use super::*;

    #[test]
    fn loss_takes_its_share_of_datagrams_and_only_delays_streams() {
        let network = Network { loss: 0.25, duplicates: 0.1, ..Network::default() };
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        let arrived = (0..10_000).filter(|_| network.copies(0, 1, &mut rng)[0].is_some()).count();
        assert!((7_300..7_700).contains(&arrived), "{arrived}");
        let slow = (0..100).map(|_| network.transfer(0, 1, 60_000, &mut rng)).min().unwrap();
        assert!(slow > ACK_DELAY && slow < ACK_DELAY * 20, "{slow:?}");
    }

    #[test]
    fn a_poor_link_loses_in_its_own_directions_only() {
        let network = Network { poor: BTreeMap::from([(1, [0.8, 0.0])]), loss: 0.5, ..Network::default() };
        for (from, to, loss) in [(0, 1, 0.9), (1, 0, 0.5), (0, 2, 0.5)] {
            assert!((network.loss(from, to) - loss).abs() < 1e-9, "{from} to {to}");
        }
    }

    #[test]
    fn a_wall_stops_one_direction_only() {
        let mut walls = Walls::default();
        walls.build(3, &[0], &[1, 2]);
        assert!(walls.between(0, 1) && walls.between(0, 2));
        assert!(!walls.between(1, 0) && !walls.between(1, 2));
        walls.tear_down();
        assert!(!walls.between(0, 1));
    }

    #[test]
    fn distance_is_the_same_both_ways_and_differs_by_pair() {
        let network = Network { spread: Duration::from_millis(100), ..Network::default() };
        assert_eq!(network.distance(3, 9), network.distance(9, 3));
        assert_ne!(network.distance(3, 9), network.distance(3, 8));
    }
}
