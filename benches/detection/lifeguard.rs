//! Lifeguard's experiment (Dadgar, Phillips, Currey 2017, section V): 128 nodes, of which some are paused at random
//! again and again, and whom the others take for dead meanwhile. A false positive is a healthy node taken for dead: by
//! anybody, or by a node that is healthy itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use hobnob::sim::Network;
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::{
    Effort, Row,
    plain::Plain,
    row,
    simulated::{SECOND, deaths, standing},
};

/// Healthy nodes taken for dead.
#[derive(Clone, Copy, Debug, Default)]
struct FalsePositives {
    by_anybody: usize,
    by_the_healthy: usize,
}

impl FalsePositives {
    fn of(deaths: &[(usize, usize)], paused: &BTreeSet<usize>) -> Self {
        let wrong: Vec<_> = deaths.iter().filter(|(_, node)| !paused.contains(node)).collect();
        let by_the_healthy = wrong.iter().filter(|(observer, _)| !paused.contains(observer)).count();
        Self { by_anybody: wrong.len(), by_the_healthy }
    }

    fn add(&mut self, other: Self) {
        self.by_anybody += other.by_anybody;
        self.by_the_healthy += other.by_the_healthy;
    }
}

/// Who is paused, and from when to when, in order of time.
struct Plan {
    paused: BTreeSet<usize>,
    pauses: Vec<(Duration, usize, bool)>,
}

impl Plan {
    /// So many nodes, each paused for 128 ms to 32 s and then left alone for 1 ms to 16 s, over and over.
    fn draw(victims: usize, rng: &mut impl Rng) -> Self {
        let mut paused = BTreeSet::new();
        while paused.len() < victims {
            paused.insert(rng.random_range(0..NODES));
        }
        let mut pauses = Vec::new();
        for n in &paused {
            let mut at = SECOND.mul_f64(rng.random_range(0.0..10.0));
            while at < LASTS {
                let until = at + Duration::from_millis(128 << rng.random_range(0..=8_u32));
                pauses.extend([(at, *n, true), (until, *n, false)]);
                at = until + Duration::from_millis(1 << rng.random_range(0..=14_u32));
            }
        }
        pauses.sort();
        Self { paused, pauses }
    }
}

/// The same pauses for this core and for plain SWIM.
pub(crate) fn lifeguard(effort: Effort) -> Vec<Row> {
    let (victims, seeds): (&[usize], u64) = effort.pick((&[1, 2, 4, 8, 16, 32], 5), (&[8], 1));
    let (mut ours, mut theirs) = (FalsePositives::default(), FalsePositives::default());
    for seed in 0..seeds {
        for count in victims {
            let plan = Plan::draw(*count, &mut Pcg64Mcg::seed_from_u64(seed << 8 | *count as u64));
            ours.add(FalsePositives::of(&run_ours(&plan, seed), &plan.paused));
            theirs.add(FalsePositives::of(&run_plain(&plan, seed), &plan.paused));
        }
    }
    let percent = |ours: usize, theirs: usize| 100.0 * ours as f64 / theirs.max(1) as f64;
    let runs = seeds as usize * victims.len();
    let what = format!("Lifeguard's experiment, {NODES} nodes, 1 to 32 paused, {runs} runs of 2 min: false positives");
    vec![
        row(
            format!("{what} at healthy nodes (plain SWIM's)"),
            "0",
            format!("{} ({})", ours.by_the_healthy, theirs.by_the_healthy),
            "Lifeguard 1.89 % of plain SWIM's",
        ),
        row(
            format!("{what} in all (plain SWIM's)"),
            "0.3 % of plain SWIM's",
            format!(
                "{} ({}): {:.2} %",
                ours.by_anybody,
                theirs.by_anybody,
                percent(ours.by_anybody, theirs.by_anybody)
            ),
            "Lifeguard 1.53 %",
        ),
    ]
}

/// Who took whom for dead, with this core.
fn run_ours(plan: &Plan, seed: u64) -> Vec<(usize, usize)> {
    let mut world = standing(seed, NODES, Network::default());
    let began = world.now().since_start();
    for (at, n, stops) in plan.pauses.iter().filter(|(at, ..)| *at < LASTS) {
        world.run((began + *at).saturating_sub(world.now().since_start()));
        if *stops { world.pause(*n) } else { world.resume(*n) }
    }
    world.run((began + LASTS).saturating_sub(world.now().since_start()));
    let numbers: BTreeMap<_, _> = (0..NODES).map(|n| (world.id(n), n)).collect();
    deaths(&mut world).into_iter().map(|(_, observer, id)| (observer, numbers[&id])).collect()
}

/// The same with plain SWIM.
fn run_plain(plan: &Plan, seed: u64) -> Vec<(usize, usize)> {
    let mut plain = Plain::standing(seed, NODES);
    plain.run_until(10 * SECOND);
    plain.take_deaths();
    for (at, n, stops) in plan.pauses.iter().filter(|(at, ..)| *at < LASTS) {
        plain.run_until(10 * SECOND + *at);
        plain.set_blocked(*n, *stops);
    }
    plain.run_until(10 * SECOND + LASTS);
    plain.take_deaths()
}

/// As in the paper.
const NODES: usize = 128;
const LASTS: Duration = Duration::from_secs(120);
