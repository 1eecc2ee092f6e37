//! Who is lost, under many seeds: deaths one after the other are deaths, a cut is a cut, and who comes back is shown.
//!
//! `HOBNOB_SEEDS=1000` tells each story more often, `HOBNOB_SEED=7` only under that seed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{ops::Range, time::Duration};

use hobnob::{
    mesh::{Command, Event, Held},
    model::{Registration, ServiceName},
    sim::{Depth, Network, Seen, Settings, World},
};

const SECOND: Duration = Duration::from_secs(1);

fn service() -> ServiceName {
    "web".try_into().unwrap()
}

/// Which seeds are told, each in a network that loses a little.
fn seeds() -> impl Iterator<Item = Settings> {
    let number = |key| std::env::var(key).ok().and_then(|text| text.parse::<u64>().ok());
    let one = number("HOBNOB_SEED").map(|seed| seed..seed + 1);
    one.unwrap_or(0..number("HOBNOB_SEEDS").unwrap_or(10)).map(|seed| {
        let network = Network { jitter: Duration::from_millis(1), loss: 0.01, ..Network::default() };
        let settings = Settings { network, replay: "cargo test --test guard", ..Settings::seeded(seed) };
        Settings { depth: Depth::Changes, ..settings }
    })
}

/// A mesh that stands, where every machine serves `web`.
fn standing(settings: Settings, machines: usize) -> World {
    let mut world = World::warm(settings, machines);
    (0..machines).for_each(|n| world.register(n, Registration::new("web", 8000 + n as u16).unwrap()));
    world.converge(30 * SECOND);
    world.run(SECOND * 5);
    world.take_log();
    world
}

fn part(world: &mut World, few: Range<usize>, many: Range<usize>) {
    let (few, many): (Vec<_>, Vec<_>) = (few.collect(), many.collect());
    world.cut(&few, &many);
    world.cut(&many, &few);
}

/// Whose instances `n` shows, and how many of them only because it is cut off.
fn shown(world: &World, n: usize) -> (Vec<usize>, usize) {
    let rows = world.shown(n, &service());
    let owner = |id| (0..world.machines()).find(|machine| world.id(*machine) == id).unwrap();
    let mut owners: Vec<usize> = rows.iter().map(|row| owner(row.owner)).collect();
    owners.sort_unstable();
    (owners, rows.iter().filter(|row| row.held == Some(Held::CutOff(None))).count())
}

#[test]
fn who_dies_one_after_the_other_is_dead() {
    for settings in seeds() {
        for (machines, gap) in [(5, 1000), (7, 1000), (12, 1000), (5, 2200), (7, 1900), (7, 2200), (12, 3000)] {
            let (seed, mut world) = (settings.seed, standing(settings.clone(), machines));
            let living = machines * 2 / 5 + 1;
            for n in living..machines {
                world.crash(n);
                world.run(Duration::from_millis(gap));
            }
            world.run(12 * SECOND);
            let story = format!("seed {seed}, {machines} machines, {gap} ms apart");
            let began = |(at, n, seen): &(_, usize, Seen)| match seen {
                Seen::Event(began @ Event::PartitionBegan { .. }) => Some((*at, *n, began.clone())),
                _ => None,
            };
            assert_eq!(world.take_log().iter().find_map(began), None, "{story}");
            for n in 0..living {
                assert_eq!(shown(&world, n), ((0..living).collect(), 0), "{story}: {n}");
            }
        }
    }
}

/// A rack that goes machine after machine: each is gone as soon as if it had died alone.
#[test]
fn one_death_does_not_hold_up_the_next() {
    for settings in seeds() {
        for (machines, dead, gap) in [(10, 5, 1000), (10, 4, 300), (20, 10, 300), (30, 12, 100)] {
            let (seed, mut world) = (settings.seed, standing(settings.clone(), machines));
            let living = machines - dead;
            let mut died = Vec::new();
            for n in living..machines {
                world.crash(n);
                died.push((n, world.now()));
                let until = world.now() + Duration::from_millis(if n + 1 == machines { 4000 } else { gap });
                while world.now() < until {
                    world.run(SECOND / 20);
                    died.retain(|(n, _)| (0..living).any(|m| shown(&world, m).0.contains(n)));
                    let longest = died.iter().map(|(_, at)| world.now().since(*at)).max().unwrap_or_default();
                    assert!(longest <= SECOND * 4, "seed {seed}, {machines}, {gap} ms: {longest:?}");
                }
            }
            assert!(died.is_empty(), "seed {seed}, {machines}, {gap} ms: {died:?}");
        }
    }
}

#[test]
fn who_is_cut_off_loses_nobody_who_lives() {
    for settings in seeds() {
        // Where one died, it did so a moment before.
        for (machines, few, before) in
            [(3, 1, None), (5, 2, None), (7, 3, None), (7, 1, Some(300)), (9, 3, Some(900)), (12, 4, Some(2500))]
        {
            let (seed, mut world) = (settings.seed, standing(settings.clone(), machines));
            let story = format!("seed {seed}, {few} of {machines}, one died {before:?} ms before");
            if let Some(before) = before {
                world.crash(machines - 1);
                world.run(Duration::from_millis(before));
            }
            let living: Vec<usize> = world.running().collect();
            part(&mut world, 0..few, few..machines);
            for _ in 0..300 {
                world.run(SECOND / 10);
                for n in 0..few {
                    let (owners, _) = shown(&world, n);
                    let lost: Vec<_> = living.iter().filter(|one| !owners.contains(one)).collect();
                    assert!(lost.is_empty(), "{story}: {n} lost {lost:?} at {}", world.now());
                }
            }
            assert!((0..few).all(|n| world.mesh(n).unwrap().partition().is_some()), "{story}");
            world.heal();
            world.run(20 * SECOND);
            assert!((0..few).all(|n| shown(&world, n) == (living.clone(), 0)), "{story}");
        }
    }
}

#[test]
fn a_death_on_this_side_of_a_cut_is_a_death() {
    for settings in seeds() {
        let (seed, mut world) = (settings.seed, standing(settings, 9));
        part(&mut world, 0..4, 4..9);
        world.run(10 * SECOND);
        world.crash(3);
        world.run(10 * SECOND);
        for n in 0..3 {
            assert_eq!(shown(&world, n), ((0..9).filter(|n| *n != 3).collect(), 5), "seed {seed}: {n}");
        }
    }
}

/// A rack of machines dies at one moment: whoever is left cannot tell that from a cut.
fn after_a_rack_died(settings: Settings, machines: usize, rack: Range<usize>) -> World {
    let mut world = standing(settings, machines);
    rack.clone().for_each(|n| world.crash(n));
    world.run(10 * SECOND);
    assert!(world.running().all(|n| shown(&world, n) == ((0..machines).collect(), rack.len())));
    world
}

#[test]
fn a_cut_is_over_once_more_are_here_than_are_missed() {
    for settings in seeds() {
        let seed = settings.seed;
        // One of three comes back, or two are replaced by new ones.
        let mut world = after_a_rack_died(settings.clone(), 5, 0..3);
        world.start(0);
        world.run(12 * SECOND);
        let told = |n: usize| (n, shown(&world, n));
        assert!([0, 3, 4].iter().all(|n| shown(&world, *n) == (vec![0, 3, 4], 0)), "seed {seed}: {:?}", told(3));
        let mut world = after_a_rack_died(settings.clone(), 3, 1..3);
        for name in ["new", "newer"] {
            let n = world.add(name);
            assert_eq!(shown(&world, 0).1, 2, "seed {seed}");
            world.start(n);
            world.run(7 * SECOND);
        }
        assert_eq!(shown(&world, 0), (vec![0], 0), "seed {seed}");
        // Or they are given up: at once, where nobody else is missed.
        let mut world = after_a_rack_died(settings, 3, 1..3);
        let [one, other] = [1, 2].map(|n| world.id(n));
        world.order(0, Command::ForceLeave(one));
        world.run(6 * SECOND);
        assert_eq!(shown(&world, 0), (vec![0, 2], 1), "seed {seed}");
        world.order(0, Command::ForceLeave(other));
        assert!(shown(&world, 0) == (vec![0], 0) && world.mesh(0).unwrap().partition().is_none(), "seed {seed}");
    }
}

#[test]
fn what_comes_and_goes_on_this_side_of_a_cut_does_not_end_it() {
    for settings in seeds() {
        for (machines, few) in [(5, 2), (9, 4), (40, 15)] {
            let (seed, mut world) = (settings.seed, standing(settings.clone(), machines));
            part(&mut world, 0..few, few..machines);
            // From before the guard began: who is doubted still is not here.
            for round in 0..4 {
                world.crash(few - 1);
                world.run(Duration::from_millis(1500));
                world.start(few - 1);
                world.run(8 * SECOND);
                let (owners, held) = shown(&world, 0);
                let lost: Vec<_> = (0..machines).filter(|n| *n != few - 1 && !owners.contains(n)).collect();
                assert!(lost.is_empty(), "seed {seed}, {few} of {machines}, {round}: {lost:?}, {held} held");
            }
            assert_eq!(shown(&world, 0).1, machines - few, "seed {seed}, {few} of {machines}");
        }
    }
}

#[test]
fn a_restart_is_no_lost_link_and_a_goodbye_no_fall() {
    for settings in seeds() {
        let (seed, mut world) = (settings.seed, standing(settings, 6));
        let others = |world: &World, there: bool| (0..5).all(|n| shown(world, n).0.contains(&5) == there);
        let until = |world: &mut World, there| {
            let took = world.run_until(30 * SECOND, SECOND / 50, |world| others(world, there));
            took.unwrap_or_else(|| panic!("seed {seed}: not {there} at {}", world.now()))
        };
        for _ in 0..4 {
            world.crash(5);
            until(&mut world, false);
            world.start(5);
            assert!(until(&mut world, true) < 10 * SECOND, "seed {seed}");
        }
        for _ in 0..2 {
            part(&mut world, 5..6, 0..5);
            until(&mut world, false);
            world.heal();
            assert!(until(&mut world, true) < 10 * SECOND, "seed {seed}: two lost links cost nothing");
            // A return of which nothing is heard but what others say is none.
            world.run(2 * SECOND);
        }
        part(&mut world, 5..6, 0..5);
        until(&mut world, false);
        world.heal();
        world.run(10 * SECOND);
        assert!(others(&world, false), "seed {seed}: the third does");
        world.leave(5);
        world.run(SECOND);
        world.start(5);
        assert!(until(&mut world, true) < 10 * SECOND, "seed {seed}");
    }
}
