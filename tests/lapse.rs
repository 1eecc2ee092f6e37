//! Instances whose node is gone, on the simulator: how long they are listed, and that all agree on it without a word.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use hobnob::{
    model::{CheckDraft, Registration},
    sim::{Network, Settings, World},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// An instance whose node is gone for longer than its check may be critical is listed nowhere, though nobody withdrew
/// it; what may be critical for ever stays in the catalogue, and the owner's word counts again when it is back.
#[test]
fn who_is_gone_for_too_long_lapses_everywhere() {
    for seed in 0..20 {
        println!("seed {seed}");
        let mut world = standing(seed);
        world.register(3, brief("cache", 10 * SECOND));
        world.register(3, brief("queue", 40 * SECOND));
        world.converge(10 * SECOND);
        let version = |world: &World| world.mesh(0).unwrap().member(world.id(3)).unwrap().version;
        let before = version(&world);
        world.crash(3);
        hidden(&mut world);
        world.run(12 * SECOND);
        assert_eq!([listed(&world, "cache"), listed(&world, "queue"), listed(&world, "web")], [0, 4, 20]);
        world.run(30 * SECOND);
        assert_eq!([listed(&world, "cache"), listed(&world, "queue"), listed(&world, "web")], [0, 0, 20]);
        assert_eq!(version(&world), before, "a death edits no book");
        world.start(3);
        world.converge(10 * SECOND);
        assert_eq!([listed(&world, "cache"), listed(&world, "queue"), listed(&world, "web")], [5, 5, 25]);
    }
}

/// What may be critical for longer than rows of the dead are kept is listed for so long, and its neighbours on the same
/// node are not. A day is the most.
#[test]
fn who_may_be_gone_for_long_is_listed_for_so_long() {
    for seed in 0..2 {
        println!("seed {seed}");
        let mut world = standing(seed);
        world.register(3, brief("archive", 40 * MINUTE));
        world.register(3, brief("attic", 1_000_000 * MINUTE));
        world.converge(10 * SECOND);
        world.crash(3);
        hidden(&mut world);
        let all = |world: &World| [listed(world, "web"), listed(world, "archive"), listed(world, "attic")];
        world.run(14 * MINUTE);
        assert_eq!(all(&world), [20, 4, 4]);
        world.run(2 * MINUTE);
        assert_eq!(all(&world), [16, 4, 4]);
        world.run(23 * MINUTE);
        assert_eq!(all(&world), [16, 4, 4]);
        world.run(2 * MINUTE);
        assert_eq!(all(&world), [16, 0, 4]);
        world.start(3);
        world.converge(10 * SECOND);
        assert_eq!(all(&world), [25, 5, 5]);
    }
}

/// Five machines that serve `web`, on a network that loses a little.
fn standing(seed: u64) -> World {
    let network = Network { jitter: Duration::from_millis(1), loss: 0.01, ..Network::default() };
    let mut world = World::cold(Settings { network, ..Settings::seeded(seed) }, 5);
    (0..5).for_each(|n| world.register(n, Registration::new("web", 8000).unwrap()));
    world.converge(30 * SECOND);
    world
}

/// Waits until nobody shows anything of the machine that has stopped.
fn hidden(world: &mut World) {
    let (id, web) = (world.id(3), "web".try_into().unwrap());
    let gone = world.run_until(30 * SECOND, SECOND / 50, |world| {
        world.running().all(|other| world.shown(other, &web).iter().all(|instance| instance.owner != id))
    });
    assert!(gone.is_some(), "it is still shown");
}

/// A service whose check may be critical for so long.
fn brief(name: &str, after: Duration) -> Registration {
    let draft = CheckDraft { ttl: Some("1h".into()), ..Default::default() }.deregister_after(after);
    Registration { checks: vec![draft.build(0, "check").unwrap()], ..Registration::new(name, 80).unwrap() }
}

/// How many rows of a service catalogues list, over all machines that run.
fn listed(world: &World, name: &str) -> usize {
    let name = name.try_into().unwrap();
    world.running().map(|n| world.mesh(n).unwrap().rows(&name).map_or(0, |rows| rows.len())).sum()
}
