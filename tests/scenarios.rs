//! Stories of small meshes, each told under 100 seeds on the simulator, every law checked after every step.
//!
//! `HOBNOB_SEEDS=1000` tells each more often, `HOBNOB_SEED=7` only under that seed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use hobnob::{
    mesh::{Cause, Command, Event, Held},
    model::{CheckDraft, Health, MemberState, Registration, ServiceName},
    sim::{Network, Seen, Settings, World},
};

const SECOND: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(20);

/// Tells a story under every seed, in a small data centre whose network loses a little.
fn story(name: &'static str, tell: impl Fn(Settings)) {
    let number = |key| std::env::var(key).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("HOBNOB_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("HOBNOB_SEEDS").unwrap_or(100),
    };
    for seed in seeds {
        println!("replay: HOBNOB_SEED={seed} {name}");
        let network = Network { jitter: Duration::from_millis(1), loss: 0.01, ..Network::default() };
        tell(Settings { network, replay: name, ..Settings::seeded(seed) });
    }
}

macro_rules! stories {
    ($($(#[doc = $doc:literal])* fn $name:ident($settings:ident) $body:block)*) => {$(
        $(#[doc = $doc])*
        #[test]
        fn $name() {
            story(concat!("cargo test --test scenarios ", stringify!($name)), |$settings| $body);
        }
    )*};
}

fn web(port: u16) -> Registration {
    Registration::new("web", port).unwrap()
}

fn service() -> ServiceName {
    "web".try_into().unwrap()
}

/// How each machine that runs sees `n`.
fn seen(world: &World, n: usize) -> Vec<Option<MemberState>> {
    let others = world.running().filter(|&other| other != n);
    others.map(|other| world.mesh(other).unwrap().member(world.id(n)).map(|member| member.state)).collect()
}

/// A mesh that stands, where every machine serves `web`.
fn standing(settings: Settings, machines: usize) -> World {
    let mut world = World::cold(settings, machines);
    (0..machines).for_each(|n| world.register(n, web(8000 + n as u16)));
    world.converge(30 * SECOND);
    world
}

/// Waits until nobody shows anything of `n`, which has stopped.
fn hidden(world: &mut World, n: usize, within: Duration) {
    let id = world.id(n);
    let gone = world.run_until(within, STEP, |world| {
        world.running().all(|other| world.shown(other, &service()).iter().all(|instance| instance.owner != id))
    });
    assert!(gone.is_some(), "machine {n} is still shown {within:?} after it stopped: {:?}", seen(world, n));
}

fn events(world: &mut World) -> impl Iterator<Item = Event> {
    world.take_log().into_iter().filter_map(|(_, _, seen)| match seen {
        Seen::Event(event) => Some(event),
        _ => None,
    })
}

stories! {
    /// Nodes that start at once find each other, and what one registers all show.
    fn nodes_join_and_find_each_other(settings) {
        let mut world = World::cold(settings, 8);
        world.converge(10 * SECOND);
        world.register(3, web(80));
        world.converge(10 * SECOND);
        let late = world.add("late");
        world.start(late);
        world.converge(10 * SECOND);
        assert_eq!(world.shown(late, &service()).len(), 1);
    }

    /// A simulation may begin in the middle of a mesh's life: all know each other, and nothing is wrong with it.
    fn a_mesh_stands_from_the_start(settings) {
        let mut world = World::warm(settings, 8);
        assert!(world.agrees());
        world.register(3, web(80));
        world.converge(5 * SECOND);
        world.crash(3);
        hidden(&mut world, 3, 10 * SECOND);
        world.start(3);
        world.converge(10 * SECOND);
    }

    /// A crash hides what the node served, everywhere, and deletes nothing: it is back with its process.
    fn a_crash_hides_and_a_restart_shows(settings) {
        let mut world = standing(settings, 6);
        world.crash(2);
        hidden(&mut world, 2, 30 * SECOND);
        world.converge(10 * SECOND);
        world.start(2);
        world.converge(5 * SECOND);
        assert_eq!(world.shown(0, &service()).len(), 6);
    }

    /// A node that comes and goes is never shown twice, nor lost for good.
    fn a_flapping_node_settles(settings) {
        let mut world = standing(settings, 5);
        for round in 1..=6_u64 {
            world.crash(1);
            world.run(Duration::from_millis(round * 400));
            world.start(1);
            world.run(Duration::from_millis(round * 300));
        }
        world.converge(15 * SECOND);
    }

    /// A service that flaps ends as its owner left it.
    fn a_flapping_service_settles(settings) {
        let mut world = standing(settings, 6);
        for round in 0..20 {
            world.register(4, web(9000 + round));
            world.run(Duration::from_millis(3));
            world.deregister(4, &"web".try_into().unwrap());
            world.run(Duration::from_millis(3));
        }
        world.converge(10 * SECOND);
        assert_eq!(world.shown(0, &service()).len(), 5);
    }

    /// Both halves go on by themselves; healed, each learns what the other did meanwhile.
    fn a_partition_heals(settings) {
        let mut world = standing(settings, 8);
        let (left, right) = ([0, 1, 2, 3], [4, 5, 6, 7]);
        world.cut(&left, &right);
        world.cut(&right, &left);
        world.run(20 * SECOND);
        world.register(0, web(1));
        world.deregister(7, &"web".try_into().unwrap());
        world.run(40 * SECOND);
        world.heal();
        world.converge(15 * SECOND);
        assert_eq!(world.shown(7, &service()).len(), 7);
    }

    /// Half of the mesh hears the other half and cannot answer; healed, all is as before.
    fn a_one_way_partition_heals(settings) {
        let mut world = standing(settings, 6);
        world.cut(&[0, 1], &[2, 3, 4, 5]);
        world.run(40 * SECOND);
        world.heal();
        world.converge(15 * SECOND);
    }

    /// One node that only one other cannot reach stays: somebody else vouches for it.
    fn one_broken_link_kills_nobody(settings) {
        let mut world = standing(settings, 6);
        events(&mut world).for_each(drop);
        world.cut(&[0], &[1]);
        world.cut(&[1], &[0]);
        world.run(60 * SECOND);
        let down = events(&mut world).find(|e| matches!(e, Event::Member { now: MemberState::Down, .. }));
        assert_eq!(down, None);
    }

    /// A restart with its disk: the same rows under a larger epoch.
    fn a_restart_keeps_what_was_registered(settings) {
        let mut world = standing(settings, 5);
        let before = world.mesh(0).unwrap().member(world.id(3)).unwrap().epoch;
        world.crash(3);
        world.start(3);
        world.converge(10 * SECOND);
        let after = world.mesh(0).unwrap().member(world.id(3)).unwrap().epoch;
        assert!(after > before, "{after:?} follows {before:?}");
        assert_eq!(world.shown(0, &service()).len(), 5);
    }

    /// One node after the other restarts: in the end nothing is lost, and no old process is remembered.
    fn all_nodes_restart_in_turn(settings) {
        let mut world = standing(settings, 7);
        for n in 0..7 {
            world.crash(n);
            world.run(SECOND / 2);
            world.start(n);
            world.run(SECOND);
        }
        world.converge(15 * SECOND);
        assert_eq!(world.shown(6, &service()).len(), 7);
    }

    /// Whoever sees a restarted node sees what is registered on it: there is no moment between its old book and its new.
    fn a_restart_hides_nothing_that_comes_back(settings) {
        let mut world = standing(settings, 5);
        let (id, service) = (world.id(3), service());
        let before = world.mesh(0).unwrap().member(id).unwrap().epoch;
        world.crash(3);
        world.run(SECOND / 2);
        world.start(3);
        for _ in 0..500 {
            world.run(SECOND / 1000);
            for n in [0, 1, 2, 4] {
                let back = world.mesh(n).unwrap().member(id).is_some_and(|member| member.epoch > before);
                let shown = world.shown(n, &service);
                assert!(!back || shown.len() == 5, "{n} shows {} at {:?}: {:?}", shown.len(), world.now(), world.mesh(n).unwrap().member(id));
            }
        }
        world.converge(15 * SECOND);
    }

    /// All machines lose power and come back at other times: the stored peers bring them together.
    fn a_blackout_is_survived(settings) {
        let mut world = standing(settings, 6);
        (0..6).for_each(|n| world.crash(n));
        world.run(5 * SECOND);
        for n in [5, 3, 4, 0, 2, 1] {
            world.start(n);
            world.run(SECOND);
        }
        world.converge(20 * SECOND);
    }

    /// The second holder of a name is told so and stops; the first does not notice.
    fn the_second_holder_of_a_name_is_turned_away(settings) {
        let mut world = standing(settings, 5);
        world.take_log();
        let twin = world.add("n1");
        world.start(twin);
        world.run(10 * SECOND);
        let told = world.take_log().into_iter().filter(|(_, _, seen)| *seen == Seen::NameInUse);
        assert_eq!(told.map(|(_, n, _)| n).collect::<Vec<_>>(), [twin]);
        world.converge(15 * SECOND);
    }

    /// A running node moves to another address: nobody loses it.
    fn a_node_moves(settings) {
        let mut world = standing(settings, 5);
        world.relocate(2);
        world.converge(15 * SECOND);
        let told = world.mesh(4).unwrap().member(world.id(2)).unwrap().address();
        assert_eq!(told, world.mesh(2).unwrap().member(world.id(2)).unwrap().address());
    }

    /// A node restarts elsewhere.
    fn a_node_comes_back_elsewhere(settings) {
        let mut world = standing(settings, 5);
        world.crash(2);
        world.run(SECOND);
        world.relocate(2);
        world.start(2);
        world.converge(15 * SECOND);
        let told = world.mesh(4).unwrap().member(world.id(2)).unwrap().address();
        assert_eq!(told, world.mesh(2).unwrap().member(world.id(2)).unwrap().address());
    }

    /// A node that lost its disk has nothing, and all soon know it.
    fn a_lost_disk_means_an_empty_book(settings) {
        let mut world = standing(settings, 5);
        world.crash(3);
        world.wipe(3);
        world.run(SECOND);
        world.start(3);
        world.converge(15 * SECOND);
        assert_eq!(world.shown(0, &service()).len(), 4);
        world.register(3, web(99));
        world.converge(10 * SECOND);
    }

    /// So does one whose clock was set back meanwhile: its epoch would be smaller than the one its peers remember.
    fn a_lost_disk_and_a_clock_set_back(settings) {
        let mut world = standing(settings, 5);
        world.crash(3);
        world.wipe(3);
        world.set_clock(3, -3_600_000);
        world.run(SECOND);
        world.start(3);
        world.register(3, web(99));
        world.converge(30 * SECOND);
    }

    /// A life that had to rise above what others knew, and the next one, which meets others first: each has a book of its
    /// own, and nobody takes the one for the other.
    fn two_lives_rise_above_the_same(settings) {
        let mut world = standing(settings, 3);
        let part = |world: &mut World, one: usize| {
            let others: Vec<usize> = (0..3).filter(|n| *n != one).collect();
            world.cut(&[one], &others);
            world.cut(&others, &[one]);
        };
        world.crash(1);
        world.wipe(1);
        world.set_clock(1, -7_200_000);
        part(&mut world, 0);
        world.start(1);
        world.run(5 * SECOND);
        world.register(1, Registration::new("old", 1).unwrap());
        world.register(1, web(11));
        world.run(5 * SECOND);
        world.crash(1);
        world.heal();
        part(&mut world, 2);
        world.start(1);
        world.run(5 * SECOND);
        world.deregister(1, &"old".try_into().unwrap());
        world.register(1, web(99));
        world.run(5 * SECOND);
        world.heal();
        world.converge(30 * SECOND);
        world.register(1, Registration::new("new", 2).unwrap());
        world.converge(10 * SECOND);
    }

    /// A clock was far ahead once, and the disk that knew it is gone: others tell the node what it has to rise above.
    fn a_lost_disk_and_a_clock_put_right(settings) {
        for (ahead, leaves) in [(3_u64, true), (3, false), (10 * 365, true), (10 * 365, false)] {
            let mut world = standing(settings.clone(), 4);
            world.crash(3);
            world.set_clock(3, (ahead * 86_400_000).cast_signed());
            world.run(SECOND);
            world.start(3);
            world.converge(30 * SECOND);
            if leaves { world.leave(3) } else { world.crash(3) }
            world.run(10 * SECOND);
            world.wipe(3);
            world.set_clock(3, 0);
            world.start(3);
            world.register(3, web(99));
            world.converge(30 * SECOND);
            assert_eq!(world.shown(0, &service()).len(), 4, "{ahead} days, leaves: {leaves}");
        }
    }

    /// Who leaves is gone at once and not suspected first; it may come back.
    fn a_node_leaves_and_joins_again(settings) {
        let mut world = standing(settings, 6);
        world.take_log();
        world.leave(4);
        hidden(&mut world, 4, 2 * SECOND);
        world.run(10 * SECOND);
        assert!(seen(&world, 4).iter().all(|state| !state.is_some_and(MemberState::is_shown)));
        let id = world.id(4);
        let doubted = |event: &Event| matches!(event, Event::Member { node, now, .. }
            if *node == id && matches!(now, MemberState::Suspect | MemberState::Down));
        assert_eq!(events(&mut world).find(doubted), None);
        world.start(4);
        world.converge(10 * SECOND);
        assert_eq!(world.shown(0, &service()).len(), 6);
    }

    /// A short stop (SIGSTOP) kills nobody.
    fn a_short_pause_is_forgiven(settings) {
        let mut world = standing(settings, 6);
        world.pause(1);
        world.run(SECOND / 2);
        world.resume(1);
        world.run(20 * SECOND);
        let down = events(&mut world).find(|e| matches!(e, Event::Member { now: MemberState::Down, .. }));
        assert_eq!(down, None);
        world.converge(SECOND);
    }

    /// Who slept for long was taken for dead; awake, it does not take the others for dead, and is back soon.
    fn a_long_pause_harms_only_the_sleeper(settings) {
        let mut world = standing(settings, 6);
        world.take_log();
        world.pause(1);
        world.run(120 * SECOND);
        world.resume(1);
        world.converge(10 * SECOND);
        let sleeper = world.id(1);
        let wronged = |event: &Event| matches!(event, Event::Member { node, now: MemberState::Down, .. } if *node != sleeper);
        assert_eq!(events(&mut world).find(wronged), None);
    }

    /// A killed process whose parent lives is gone within milliseconds, everywhere.
    fn a_last_will_is_known_everywhere_at_once(settings) {
        let mut world = standing(settings, 9);
        world.kill(4);
        hidden(&mut world, 4, SECOND);
        let slow = events(&mut world).filter(|e| matches!(e, Event::Member { now: MemberState::Down, cause, .. } if *cause != Cause::Will));
        assert_eq!(slow.count(), 0);
        world.start(4);
        world.converge(5 * SECOND);
    }

    /// The smaller side of a partition serves what it last knew, marked; the larger one removes what it lost.
    fn who_is_cut_off_removes_nothing(settings) {
        let mut world = standing(settings, 7);
        let (few, many) = ([0, 1], [2, 3, 4, 5, 6]);
        world.cut(&few, &many);
        world.cut(&many, &few);
        for _ in 0..300 {
            world.run(SECOND / 10);
            assert!(few.iter().all(|&n| world.shown(n, &service()).len() == 7), "the few lost something at {}", world.now());
        }
        assert!(few.iter().all(|&n| world.mesh(n).unwrap().partition().is_some()));
        let held = |world: &World| world.shown(0, &service()).iter().filter(|one| one.held == Some(Held::CutOff(None))).count();
        assert_eq!(held(&world), 5);
        assert!(many.iter().all(|&n| world.shown(n, &service()).len() == 5 && world.mesh(n).unwrap().partition().is_none()));
        world.heal();
        world.converge(15 * SECOND);
        world.run(6 * SECOND);
        assert!(few.iter().all(|&n| world.mesh(n).unwrap().partition().is_none()) && held(&world) == 0);
    }

    /// Who was cut off comes back by one renewal each time: there are five a minute, and the sixth would have to wait.
    fn a_heal_costs_one_renewal(settings) {
        let mut world = standing(settings, 6);
        let others = [0, 1, 2, 4, 5];
        for heals in 1..=4 {
            world.cut(&[3], &others);
            world.cut(&others, &[3]);
            hidden_at(&mut world, &others, 3);
            world.heal();
            let alive = |world: &World| seen(world, 3).iter().all(|state| *state == Some(MemberState::Alive));
            assert!(world.run_until(10 * SECOND, STEP, alive).is_some(), "{:?}", seen(&world, 3));
            world.run(SECOND);
            let renewals = |n: usize| world.mesh(n).unwrap().stats().renewals;
            assert!((0..6).all(|n| renewals(n) <= heals), "{heals}: {:?}", (0..6).map(renewals).collect::<Vec<_>>());
        }
    }

    /// A member that is lost again and again is shown later each time; one that restarts twice is not.
    fn who_flaps_is_shown_late(settings) {
        let mut world = standing(settings, 6);
        let others = [0, 1, 2, 4, 5];
        let mut took = Vec::new();
        for _ in 0..4 {
            world.cut(&[3], &others);
            world.cut(&others, &[3]);
            hidden_at(&mut world, &others, 3);
            world.heal();
            let shown = |world: &World| others.iter().all(|&n| world.shown(n, &service()).len() == 6);
            took.push(world.run_until(120 * SECOND, STEP, shown).expect("it is shown again"));
            // A return of which nothing is heard but what others say is none.
            world.run(2 * SECOND);
        }
        assert!(took[0] < 10 * SECOND && took[1] < 10 * SECOND, "{took:?}");
        assert!(took[2] >= 25 * SECOND && took[3] >= 55 * SECOND, "{took:?}");
        assert!(world.mesh(0).unwrap().explain(world.id(3)).unwrap().flapping.returns >= 4);
    }

    /// Most of a service falls silent at once: the last healthy set is kept, until it recovers or for a while. A single
    /// one, and what says itself that it is critical, is believed.
    fn a_mass_failure_empties_no_service(settings) {
        let mut world = World::cold(settings, 6);
        (0..6).for_each(|n| world.register(n, checked(8000 + n as u16, "20s")));
        world.converge(30 * SECOND);
        let healthy = |world: &World, n: usize| world.shown(n, &service()).iter().filter(|one| one.health() == Health::Passing).count();
        let protected = |world: &World, n: usize| world.mesh(n).unwrap().protection(&service()).is_some();
        (0..6).for_each(|n| report(&mut world, n, Health::Passing));
        world.run(5 * SECOND);
        (1..6).for_each(|n| report(&mut world, n, Health::Passing));
        world.run(17 * SECOND);
        assert!((0..6).all(|n| healthy(&world, n) == 5), "a single failure is believed");
        world.run(5 * SECOND);
        assert!((0..6).all(|n| healthy(&world, n) == 6 && protected(&world, n)));
        (1..4).for_each(|n| report(&mut world, n, Health::Passing));
        world.run(2 * SECOND);
        assert!((0..6).all(|n| healthy(&world, n) == 3 && !protected(&world, n)));
        world.run(20 * SECOND);
        assert!((0..6).all(|n| healthy(&world, n) == 3 && protected(&world, n)));
        world.run(300 * SECOND);
        assert_eq!(healthy(&world, 5), 0, "not for ever");
        for status in [Health::Passing, Health::Critical] {
            (0..6).for_each(|n| report(&mut world, n, status));
            world.run(2 * SECOND);
        }
        assert!((0..6).all(|n| healthy(&world, n) == 0 && !protected(&world, n)), "whose own word it is");
    }

    /// Two nodes each hear one that does not hear them: nobody goes Down.
    fn one_way_links_kill_nobody(settings) {
        let mut world = standing(settings, 6);
        events(&mut world).for_each(drop);
        world.cut(&[0], &[1]);
        world.cut(&[3], &[4]);
        world.run(60 * SECOND);
        let down = events(&mut world).find(|e| matches!(e, Event::Member { now: MemberState::Down, .. }));
        assert_eq!(down, None);
    }

    /// A node that speaks and hears nothing is no use to anybody: what it says keeps it alive with none of the others,
    /// however often it says it, and all agree within moments.
    fn who_speaks_and_hears_nothing_is_dead_to_all(settings) {
        let mut world = standing(settings, 12);
        let others: Vec<usize> = (0..12).filter(|n| *n != 3).collect();
        world.cut(&others, &[3]);
        let dead_to = |world: &World| {
            let state = |n: &&usize| world.mesh(**n).unwrap().member(world.id(3)).unwrap().state;
            others.iter().filter(|n| state(n) == MemberState::Down).count()
        };
        assert!(world.run_until(10 * SECOND, STEP, |world| dead_to(world) > 0).is_some());
        assert!(world.run_until(2 * SECOND, STEP, |world| dead_to(world) == 11).is_some(), "dead to {}", dead_to(&world));
        world.run(20 * SECOND);
        assert_eq!(dead_to(&world), 11);
        assert!(others.iter().all(|&n| world.shown(n, &service()).len() == 11));
        world.heal();
        world.converge(10 * SECOND);
        assert!(others.iter().all(|&n| world.shown(n, &service()).len() == 12));
    }

    /// An operator makes a member leave the moment it is Down where he asks: the others agree once it is Down there.
    fn a_forced_leave_overtakes_no_death(settings) {
        let mut world = standing(settings, 5);
        world.crash(3);
        let (id, brief) = (world.id(3), STEP / 50);
        let down = |world: &World| (0..3).find(|&n| world.mesh(n).unwrap().member(id).unwrap().state == MemberState::Down);
        assert!(world.run_until(30 * SECOND, brief, |world| down(world).is_some()).is_some());
        let first = down(&world).unwrap();
        world.order(first, Command::ForceLeave(id));
        world.run(10 * SECOND);
        assert!(seen(&world, 3).iter().all(|state| *state == Some(MemberState::Left)), "{:?}", seen(&world, 3));
    }

    /// An operator makes a member leave that is Down; it comes back all the same.
    fn a_forced_leave_is_no_ban(settings) {
        let mut world = standing(settings, 5);
        world.crash(3);
        hidden(&mut world, 3, 30 * SECOND);
        world.order(0, Command::ForceLeave(world.id(3)));
        world.run(SECOND);
        assert!(seen(&world, 3).iter().all(|state| *state == Some(MemberState::Left)), "{:?}", seen(&world, 3));
        world.start(3);
        world.converge(10 * SECOND);
        assert_eq!(world.shown(0, &service()).len(), 5);
    }

    /// The same of one that was only stopped, and goes on: it has denied the suspicion that waited for it before it hears
    /// that it has left.
    fn who_was_made_to_leave_and_lives_is_back(settings) {
        let mut world = standing(settings, 5);
        world.pause(3);
        hidden_at(&mut world, &[0, 1, 2, 4], 3);
        world.order(0, Command::ForceLeave(world.id(3)));
        world.run(5 * SECOND);
        world.resume(3);
        world.run(5 * SECOND);
        assert!((0..5).all(|n| world.shown(n, &service()).len() == 5), "{:?}", seen(&world, 3));
    }
}

/// Waits until none of these shows anything of `n`.
fn hidden_at(world: &mut World, others: &[usize], n: usize) {
    let id = world.id(n);
    let gone = |world: &World| {
        others.iter().all(|&other| world.shown(other, &service()).iter().all(|instance| instance.owner != id))
    };
    assert!(world.run_until(30 * SECOND, STEP, gone).is_some(), "machine {n} is still shown: {:?}", seen(world, n));
}

/// `web` with a check by report.
fn checked(port: u16, ttl: &str) -> Registration {
    let draft = CheckDraft { name: Some("alive".into()), ttl: Some(ttl.into()), ..Default::default() };
    Registration { checks: vec![draft.build(0, "check").unwrap()], ..web(port) }
}

fn report(world: &mut World, n: usize, status: Health) {
    let (instance, check) = ("web".try_into().unwrap(), "alive".try_into().unwrap());
    world.order(n, Command::Report { instance, check, status, output: "".into() });
}
