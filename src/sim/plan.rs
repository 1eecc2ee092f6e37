//! A random story: which faults strike whom, and when, all from one seed.

use std::{fmt, ops::RangeInclusive, time::Duration};

use bytes::Bytes;
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::{
    network::Network,
    queue::Event,
    world::{SEEDS, World, number},
};
use crate::{
    mesh::{Input, wire},
    model::{InstanceId, Registration},
};

/// One thing that happens to the world. Machines are numbered; what makes no sense at its time does nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// A user registers (or changes) an instance; the port tells versions apart.
    Register(usize, &'static str, u16),
    /// A user withdraws it.
    Deregister(usize, &'static str),
    /// A process ends between two instructions.
    Crash(usize),
    /// It is killed, and what outlives it brings its last will to some of its peers.
    Kill(usize),
    /// The disk of a machine that does not run is lost.
    Wipe(usize),
    /// A machine that does not run starts.
    Start(usize),
    /// A process stops (SIGSTOP).
    Pause(usize),
    /// It goes on.
    Resume(usize),
    /// A node says goodbye.
    Leave(usize),
    /// A machine's wall clock is wrong by so many milliseconds.
    Clock(usize, i64),
    /// A machine gets another address.
    Relocate(usize),
    /// Nothing passes from the first set to the second.
    Cut(Vec<usize>, Vec<usize>),
    /// All walls fall.
    Heal,
    /// The links behave differently.
    Weather(Network),
    /// The second machine is sent noise in the name of the first, drawn from that seed.
    Noise(usize, usize, u64),
}

/// A world's story.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where it came from.
    pub seed: u64,
    /// How many machines.
    pub machines: usize,
    /// What happens when, counted from the moment the mesh stands.
    pub faults: Vec<(Duration, Fault)>,
    /// When faults stop.
    pub length: Duration,
}

impl Plan {
    /// The story of that seed: each kind of fault is switched on or off first, so that few strike together.
    #[must_use]
    pub fn derive(seed: u64) -> Self {
        let rng = &mut Pcg64Mcg::seed_from_u64(seed ^ PLAN_SALT);
        let machines = rng.random_range(3..=12);
        Self::tell(rng, seed, machines, 10..=60)
    }

    /// The story of a long life: chapter after chapter of minutes to an hour, each with faults of its own. What takes
    /// hours to go wrong is not in [`Plan::derive`]: rows that lapse, members that are forgotten, numbers that grow.
    #[must_use]
    pub fn chronicle(seed: u64, chapters: usize) -> Self {
        let rng = &mut Pcg64Mcg::seed_from_u64(seed ^ CHRONICLE_SALT);
        let machines = rng.random_range(3..=12);
        let mut whole = Self { seed, machines, faults: Vec::new(), length: Duration::ZERO };
        for _ in 0..chapters {
            let chapter = Self::tell(rng, seed, machines, 60..=3_600);
            whole.faults.extend(chapter.faults.into_iter().filter_map(|(at, fault)| match fault {
                // Of two clocks that are wrong none is more than a day ahead of the other: beyond, no start is believed.
                Fault::Clock(n, error) => Some((whole.length + at, Fault::Clock(n, error / 2))),
                // Who loses his disk in a later chapter has the seeds alone, where they were when he was told of them.
                Fault::Relocate(n) if n < SEEDS => None,
                fault => Some((whole.length + at, fault)),
            }));
            whole.length += chapter.length;
        }
        whole
    }

    /// A story that is so many seconds long.
    fn tell(rng: &mut Pcg64Mcg, seed: u64, machines: usize, seconds: RangeInclusive<u64>) -> Self {
        let length = Duration::from_secs(rng.random_range(seconds));
        let mut plan = Self { seed, machines, faults: Vec::new(), length };
        for _ in 0..rng.random_range(1..=20) {
            let (n, service) = (plan.machine(rng), SERVICES[rng.random_range(0..SERVICES.len())]);
            let port = rng.random_range(1..=9);
            let gone = rng.random_bool(0.3);
            plan.at(rng, if gone { Fault::Deregister(n, service) } else { Fault::Register(n, service, port) });
        }
        let kinds: [fn(&mut Self, &mut Pcg64Mcg); 10] = [
            Self::crashes,
            Self::losses_of_state,
            Self::pauses,
            Self::leaves,
            Self::clocks,
            Self::moves,
            Self::partitions,
            Self::one_way_walls,
            Self::weather,
            Self::noise,
        ];
        for kind in kinds {
            if rng.random_bool(0.3) {
                kind(&mut plan, rng);
            }
        }
        plan.faults.sort_by_key(|(at, _)| *at);
        plan
    }

    /// Hands the plan to a world; its clock starts now.
    pub fn schedule(&self, world: &mut World) {
        for (after, fault) in &self.faults {
            world.schedule(*after, Event::Fault(Box::new(fault.clone())));
        }
    }

    fn machine(&self, rng: &mut impl Rng) -> usize {
        rng.random_range(0..self.machines)
    }

    fn moment(&self, rng: &mut impl Rng) -> Duration {
        self.length.mul_f64(rng.random::<f64>())
    }

    fn at(&mut self, rng: &mut impl Rng, fault: Fault) {
        let moment = self.moment(rng);
        self.faults.push((moment, fault));
    }

    /// `begin`, and `end` at some time before the faults stop.
    fn span(&mut self, rng: &mut impl Rng, begin: Fault, end: Fault) {
        let (one, other) = (self.moment(rng), self.moment(rng));
        self.faults.extend([(one.min(other), begin), (one.max(other), end)]);
    }

    fn crashes(&mut self, rng: &mut Pcg64Mcg) {
        for _ in 0..rng.random_range(1..=4) {
            let n = self.machine(rng);
            let end = if rng.random() { Fault::Crash(n) } else { Fault::Kill(n) };
            self.span(rng, end, Fault::Start(n));
        }
    }

    fn losses_of_state(&mut self, rng: &mut Pcg64Mcg) {
        let n = self.machine(rng);
        let moment = self.moment(rng);
        self.faults.extend([Fault::Crash(n), Fault::Wipe(n), Fault::Start(n)].map(|fault| (moment, fault)));
    }

    fn pauses(&mut self, rng: &mut Pcg64Mcg) {
        for _ in 0..rng.random_range(1..=3) {
            let n = self.machine(rng);
            self.span(rng, Fault::Pause(n), Fault::Resume(n));
        }
    }

    fn leaves(&mut self, rng: &mut Pcg64Mcg) {
        let n = self.machine(rng);
        self.span(rng, Fault::Leave(n), Fault::Start(n));
    }

    /// Clocks go wrong by up to a day; who restarts then has only its disk to keep its epoch growing.
    fn clocks(&mut self, rng: &mut Pcg64Mcg) {
        let (n, error) = (self.machine(rng), rng.random_range(-DAY_MILLIS..=DAY_MILLIS));
        let moment = self.moment(rng);
        self.faults.extend([Fault::Clock(n, error), Fault::Crash(n), Fault::Start(n)].map(|fault| (moment, fault)));
    }

    fn moves(&mut self, rng: &mut Pcg64Mcg) {
        let n = self.machine(rng);
        // A machine that loses its disk and its address knows nobody who could know it: no mesh finds that one.
        let wiped = self.faults.iter().any(|(_, fault)| *fault == Fault::Wipe(n));
        let n = if wiped { (n + 1) % self.machines } else { n };
        self.at(rng, Fault::Relocate(n));
    }

    fn partitions(&mut self, rng: &mut Pcg64Mcg) {
        let (left, right): (Vec<_>, Vec<_>) = (0..self.machines).partition(|_| rng.random());
        let (one, other) = (self.moment(rng), self.moment(rng));
        let (begin, end) = (one.min(other), one.max(other));
        self.faults.extend([
            (begin, Fault::Cut(left.clone(), right.clone())),
            (begin, Fault::Cut(right, left)),
            (end, Fault::Heal),
        ]);
    }

    fn one_way_walls(&mut self, rng: &mut Pcg64Mcg) {
        let (left, right) = (0..self.machines).partition(|_| rng.random());
        self.span(rng, Fault::Cut(left, right), Fault::Heal);
    }

    fn noise(&mut self, rng: &mut Pcg64Mcg) {
        for _ in 0..rng.random_range(1..=50) {
            let (from, to) = (self.machine(rng), self.machine(rng));
            let seed = rng.random();
            self.at(rng, Fault::Noise(from, to, seed));
        }
    }

    fn weather(&mut self, rng: &mut Pcg64Mcg) {
        let bad = Network {
            latency: Duration::from_micros(rng.random_range(50..20_000)),
            spread: Duration::from_micros(rng.random_range(0..50_000)),
            jitter: Duration::from_micros(rng.random_range(0..10_000)),
            loss: rng.random_range(0.0..0.25),
            duplicates: rng.random_range(0.0..0.1),
            reorder: rng.random_range(0.0..0.1),
            resets: rng.random(),
            ..Network::default()
        };
        self.span(rng, Fault::Weather(bad), Fault::Weather(Network::default()));
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "seed {}: {} machines, faults for {:?}", self.seed, self.machines, self.length)?;
        self.faults.iter().try_for_each(|(at, fault)| writeln!(out, "  {:>10.3} s  {fault:?}", at.as_secs_f64()))
    }
}

impl World {
    /// Lets a fault strike now.
    pub fn strike(&mut self, fault: &Fault) {
        match fault {
            Fault::Register(n, service, port) => {
                if let Ok(registration) = Registration::new(service, *port) {
                    self.register(*n, registration);
                }
            }
            Fault::Deregister(n, service) => {
                if let Ok(id) = InstanceId::try_from(*service) {
                    self.deregister(*n, &id);
                }
            }
            Fault::Crash(n) => self.crash(*n),
            Fault::Kill(n) => self.kill(*n),
            Fault::Wipe(n) => self.wipe(*n),
            Fault::Start(n) => self.start(*n),
            Fault::Pause(n) => self.pause(*n),
            Fault::Resume(n) => self.resume(*n),
            Fault::Leave(n) => self.leave(*n),
            Fault::Clock(n, error) => self.set_clock(*n, *error),
            Fault::Relocate(n) => self.relocate(*n),
            Fault::Cut(from, to) => self.cut(from, to),
            Fault::Heal => self.heal(),
            Fault::Weather(network) => *self.network_mut() = network.clone(),
            Fault::Noise(from, to, seed) => self.disturb(*from, *to, *seed),
        }
    }

    /// Delivers bytes that no honest peer sends, in a packet and in a stream. They begin like ours, so that they are read.
    fn disturb(&mut self, from: usize, to: usize, seed: u64) {
        let rng = &mut Pcg64Mcg::seed_from_u64(seed);
        let mut noise = vec![0; rng.random_range(1..=wire::MAX_PACKET)];
        rng.fill(&mut noise[..]);
        noise[0] = wire::VERSION;
        if from != to && self.is_awake(number(to)) {
            let (from, noise) = (self.id(from), Bytes::from(noise));
            self.deliver(number(to), Input::Packet(from, noise.clone()));
            self.deliver(number(to), Input::Message(from, noise));
        }
    }

    /// Ends all faults: walls fall, the weather clears, who was paused goes on, who stopped starts.
    pub fn calm(&mut self) {
        self.heal();
        *self.network_mut() = Network::default();
        (0..self.machines()).for_each(|n| {
            self.resume(n);
            self.start(n);
        });
    }
}

/// Few names, so that owners meet in one service.
const SERVICES: [&str; 4] = ["web", "db", "cache", "queue"];
const DAY_MILLIS: i64 = 86_400_000;
/// Keeps a plan's chance apart from its world's.
const PLAN_SALT: u64 = 0x9e37_79b9_7f4a_7c15;
/// Keeps the long stories apart from the short ones of the same seed.
const CHRONICLE_SALT: u64 = 0xc2b2_ae3d_27d4_eb4f;
