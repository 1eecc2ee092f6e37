//! The two experiments of Rapid (Suresh and others 2018, section 7) that make other detectors oscillate: one percent of
//! the nodes hears nothing for twenty seconds of every forty, or loses four of five packets that come to it.
//!
//! What counts is what is shown: how often a faulty node's instance came or went at any healthy node, whether a healthy
//! one's ever went, and for how long the healthy nodes did not show the same.

use std::{collections::BTreeMap, time::Duration};

use hobnob::{
    model::{Registration, ServiceName},
    sim::{Network, World},
};

use crate::{
    Effort, Row, row,
    simulated::{SECOND, deaths, standing},
};

/// A link that is deaf for twenty seconds of every forty.
pub(crate) fn flip(effort: Effort) -> Vec<Row> {
    let mut watch = Watch::begin(effort, 11);
    for period in 0..effort.pick(30, 6) {
        watch.world.heal();
        if period % 2 == 0 {
            let (faulty, all) = (watch.faulty.clone(), (0..watch.world.machines()).collect::<Vec<_>>());
            watch.world.cut(&all, &faulty);
        }
        watch.run(20);
    }
    watch.end("1 % deaf for 20 s of every 40 s")
}

/// Links that lose four packets of five on the way in.
pub(crate) fn loss(effort: Effort) -> Vec<Row> {
    let mut watch = Watch::begin(effort, 13);
    let poor: BTreeMap<usize, [f64; 2]> = watch.faulty.iter().map(|n| (*n, [0.8, 0.0])).collect();
    watch.world.network_mut().poor = poor;
    watch.run(effort.pick(600, 120));
    watch.end("80 % loss towards 1 % of the nodes")
}

/// What the healthy nodes show of the faulty ones.
struct Watch {
    world: World,
    faulty: Vec<usize>,
    service: ServiceName,
    /// What each node showed when last looked at, a bit for each faulty node.
    shown: Vec<u64>,
    /// How often a faulty node's instance came or went, by the node that showed it most restlessly.
    turns: Vec<BTreeMap<u32, usize>>,
    wronged: usize,
    seconds: u64,
    differ: Duration,
    longest: Duration,
}

impl Watch {
    fn begin(effort: Effort, seed: u64) -> Self {
        let nodes = effort.pick(1_000, 100);
        let mut world = standing(seed, nodes, Network::default());
        let faulty: Vec<usize> = (0..nodes / 100).map(|n| n * 97 + 5).collect();
        for n in &faulty {
            world.register(*n, Registration::new("faulty", 80).unwrap());
        }
        world.run(5 * SECOND);
        world.take_log();
        let service = "faulty".try_into().unwrap();
        let (shown, turns) = (Vec::new(), vec![BTreeMap::new(); nodes]);
        let (wronged, seconds) = (0, 0);
        let (differ, longest) = (Duration::ZERO, Duration::ZERO);
        let mut watch = Self { world, faulty, service, shown, turns, wronged, seconds, differ, longest };
        watch.shown = (0..nodes).map(|n| watch.look(n)).collect();
        watch
    }

    fn look(&self, n: usize) -> u64 {
        let shown = self.world.shown(n, &self.service);
        let owners = self.faulty.iter().zip(0..);
        owners.map(|(faulty, bit)| u64::from(shown.iter().any(|one| one.owner == self.world.id(*faulty))) << bit).sum()
    }

    fn run(&mut self, seconds: u64) {
        let healthy: Vec<usize> = (0..self.world.machines()).filter(|n| !self.faulty.contains(n)).collect();
        for _ in 0..seconds * LOOKS {
            self.world.run(SECOND / LOOKS as u32);
            for n in &healthy {
                let shown = self.look(*n);
                let turned = shown ^ self.shown[*n];
                for bit in (0..64).filter(|bit| turned >> bit & 1 == 1) {
                    *self.turns[*n].entry(bit).or_default() += 1;
                }
                self.shown[*n] = shown;
            }
            let equal = healthy.iter().all(|n| self.shown[*n] == self.shown[healthy[0]]);
            self.differ = if equal { Duration::ZERO } else { self.differ + SECOND / LOOKS as u32 };
            self.longest = self.longest.max(self.differ);
            let ids: Vec<_> = self.faulty.iter().map(|n| self.world.id(*n)).collect();
            let faulty = &self.faulty;
            let wrong = deaths(&mut self.world);
            self.wronged += wrong.iter().filter(|(_, at, node)| !ids.contains(node) && !faulty.contains(at)).count();
        }
        self.seconds += seconds;
    }

    fn end(self, what: &str) -> Vec<Row> {
        let (nodes, minutes) = (self.world.machines(), self.seconds as f64 / 60.0);
        let of = |bit| self.turns.iter().filter_map(|turns| turns.get(&bit)).max().copied().unwrap_or(0);
        let most = (0..self.faulty.len() as u32).map(of).max().unwrap_or(0);
        let title = |rest: &str| format!("{what}, {nodes} nodes, {minutes:.0} min simulated: {rest}");
        vec![
            row(title("transitions shown of a faulty node, at most"), "1", most.to_string(), "memberlist: no end"),
            row(title("deaths of healthy nodes seen by healthy nodes"), "0", self.wronged.to_string(), ""),
            row(title("longest time that two healthy nodes differ"), "5 s", format!("{:?}", self.longest), ""),
        ]
    }
}

/// Looks at all nodes in a second.
const LOOKS: u64 = 4;
