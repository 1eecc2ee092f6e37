//! Who died alone is gone, whatever fails later and however that ends.

use super::{
    protection::{fail, hear, instance, register, shown},
    *,
};

/// An instance whose check is looked at every ten seconds, and told when it has failed three times.
fn patient(n: u16) -> Registration {
    let spec = |check| CheckSpec { interval: LOOK, fall: 3, ..check };
    Registration { checks: instance(n).checks.into_iter().map(spec).collect(), ..instance(n) }
}

#[test]
fn who_failed_before_the_others_was_no_part_of_the_healthy_set() {
    // The first to die, and how long after its death was told two more died: of five, or of four.
    for (after, expected) in [(1, (2, false)), (60, (2, false))] {
        let (mut wired, ids) = Wired::of(3);
        register(&mut wired, ids[1], (0..5).map(patient));
        wired.run(LOOK * 6);
        look(&mut wired, ids[1], &[0]);
        assert_eq!(shown(&wired), [(4, false)].into());
        wired.run(Duration::from_secs(after));
        look(&mut wired, ids[1], &[1, 2]);
        assert_eq!(shown(&wired), [expected].into(), "{after} s later");
    }
    // And those that fail together are kept, however many looks that takes.
    let (mut wired, ids) = Wired::of(3);
    register(&mut wired, ids[1], (0..5).map(patient));
    wired.run(LOOK * 6);
    look(&mut wired, ids[1], &[0, 1, 2]);
    assert_eq!(shown(&wired), [(5, true)].into());
}

#[test]
fn who_is_dead_is_gone_once_most_of_what_is_left_is_well() {
    let (mut wired, ids) = Wired::of(3);
    register(&mut wired, ids[1], (0..12).map(instance));
    (0..12).for_each(|n| fail(&mut wired, ids[1], n));
    wired.run(Duration::from_secs(1));
    assert_eq!(shown(&wired), [(12, true)].into());
    for n in 4..12 {
        wired.order(ids[1], Command::Deregister(instance(n).id));
    }
    (1..4).for_each(|n| hear(&mut wired, ids[1], n, Health::Passing));
    wired.run(Duration::from_secs(1));
    assert_eq!(shown(&wired), [(3, false)].into());
}

/// Looks at all of them in vain until that is told.
fn look(wired: &mut Wired, owner: NodeId, dead: &[u16]) {
    for _ in 0..3 {
        dead.iter().for_each(|n| fail(wired, owner, *n));
        wired.run(LOOK);
    }
}

const LOOK: Duration = Duration::from_secs(10);
