//! Who died alone is gone, whatever fails later and however that ends.

use super::{
    protection::{fail, hear, instance, register, shown},
    *,
};

/// An instance whose check is looked at every ten seconds, and told when it has failed three times.
fn patient(n: u16) -> Registration {
    looked_at(n, LOOK, 3)
}

/// One more instance, found critical after so many looks in vain.
fn looked_at(n: u16, interval: Duration, fall: u32) -> Registration {
    let spec = |check| CheckSpec { interval, fall, ..check };
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
fn who_fails_after_a_restart_fails_alone_however_long_that_took() {
    let (mut wired, ids) = Wired::of(3);
    let own: Vec<_> = (0..3).map(|n| Arc::new(instance(n))).collect();
    register(&mut wired, ids[2], own.iter().map(|own| Registration::clone(own)));
    wired.run(LOOK * 6);
    fail(&mut wired, ids[2], 0);
    wired.run(Duration::from_secs(5));
    restart(&mut wired, ids[2], own, Duration::from_secs(45));
    wired.run(Duration::from_secs(1));
    fail(&mut wired, ids[2], 0);
    fail(&mut wired, ids[2], 1);
    wired.run(Duration::from_secs(1));
    assert_eq!(shown(&wired), [(1, false)].into());
}

#[test]
fn an_owner_that_leaves_in_a_wave_takes_no_other_s_instances_along() {
    let (mut wired, ids) = Wired::of(4);
    for (owner, all) in [(1, 0..3), (2, 3..6), (3, 6..9)] {
        register(&mut wired, ids[owner], all.map(instance));
    }
    for (owner, n) in [(2, 3), (2, 4), (2, 5), (1, 0), (3, 6)] {
        fail(&mut wired, ids[owner], n);
    }
    wired.run(Duration::from_secs(1));
    assert_eq!(shown(&wired), [(9, true)].into());
    wired.order(ids[2], Command::Leave);
    wired.nodes.remove(&ids[2]);
    wired.run(Duration::from_secs(5));
    assert_eq!(shown(&wired), [(6, true)].into());
}

#[test]
fn what_is_over_is_not_begun_again_by_who_is_found_out_late() {
    let (mut wired, ids) = Wired::of(2);
    ids.iter().for_each(|id| wired.order(*id, Command::ProtectFor(LOOK)));
    register(&mut wired, ids[0], (0..5).map(instance).chain([patient(5)]));
    (0..6).for_each(|n| fail(&mut wired, ids[0], n));
    wired.run(Duration::from_secs(2));
    assert_eq!(shown(&wired), [(6, true)].into());
    for (looks, expected) in [(1, (1, false)), (2, (1, true)), (3, (0, false))] {
        wired.run(LOOK);
        fail(&mut wired, ids[0], 5);
        assert_eq!(shown(&wired), [expected].into(), "{looks}");
    }
}

#[test]
fn an_owner_that_starts_again_before_it_is_told_fails_with_the_others() {
    let (mut wired, ids) = Wired::of(3);
    register(&mut wired, ids[1], (0..3).map(patient));
    let own: Vec<_> = (3..6).map(|n| Arc::new(patient(n))).collect();
    register(&mut wired, ids[2], own.iter().map(|own| Registration::clone(own)));
    wired.run(LOOK * 6);
    // All fail; one of the owners starts again after its second look.
    for _ in 0..2 {
        (0..3).for_each(|n| fail(&mut wired, ids[1], n));
        (3..6).for_each(|n| fail(&mut wired, ids[2], n));
        wired.run(LOOK);
    }
    restart(&mut wired, ids[2], own, Duration::ZERO);
    wired.run(Duration::from_secs(1));
    (0..3).for_each(|n| fail(&mut wired, ids[1], n));
    for _ in 0..3 {
        (3..6).for_each(|n| fail(&mut wired, ids[2], n));
        wired.run(LOOK);
    }
    assert_eq!(shown(&wired), [(6, true)].into());
}

#[test]
fn an_owner_that_is_away_within_a_streak_fails_when_it_did() {
    let expires = |n| {
        let after = |check| CheckSpec { deregister_after: Some(LOOK * 6), ..check };
        Registration { checks: patient(n).checks.into_iter().map(after).collect(), ..patient(n) }
    };
    let (mut wired, ids) = Wired::of(3);
    register(&mut wired, ids[1], (0..5).map(expires));
    let own = vec![Arc::new(expires(5))];
    register(&mut wired, ids[2], [expires(5)].into_iter());
    wired.run(LOOK * 6);
    // All fail; the owner of one is away when that is told of the others.
    for _ in 0..2 {
        (0..6).for_each(|n| fail(&mut wired, ids[if n < 5 { 1 } else { 2 }], n));
        wired.run(LOOK);
    }
    (0..5).for_each(|n| fail(&mut wired, ids[1], n));
    restart(&mut wired, ids[2], own, Duration::from_secs(15));
    look(&mut wired, ids[2], &[5]);
    assert_eq!(shown(&wired), [(6, true)].into());
    wired.run(LOOK * 7);
    (0..6).for_each(|n| fail(&mut wired, ids[if n < 5 { 1 } else { 2 }], n));
    assert_eq!(shown(&wired), [(6, true)].into(), "nor is it withdrawn");
}

#[test]
fn an_owner_that_starts_again_between_two_failures_makes_no_wave_of_them() {
    for blip in [false, true] {
        let (mut wired, ids) = Wired::of(3);
        let own: Vec<_> = (1..3).map(|n| Arc::new(patient(n))).collect();
        register(&mut wired, ids[1], [patient(0)].into_iter());
        register(&mut wired, ids[2], own.iter().map(|own| Registration::clone(own)));
        wired.run(LOOK * 6);
        fail(&mut wired, ids[1], 0);
        if blip {
            fail(&mut wired, ids[2], 1);
            hear(&mut wired, ids[2], 1, Health::Passing);
        }
        for _ in 0..2 {
            wired.run(LOOK);
            fail(&mut wired, ids[1], 0);
        }
        restart(&mut wired, ids[2], own, Duration::from_millis(500));
        look(&mut wired, ids[2], &[1]);
        assert_eq!(shown(&wired), [(1, false)].into(), "{blip}");
    }
}

#[test]
fn an_owner_that_starts_again_before_its_next_look_fails_with_the_others() {
    let (mut wired, ids) = Wired::of(3);
    register(&mut wired, ids[1], (0..5).map(seldom));
    let own = vec![Arc::new(seldom(5))];
    register(&mut wired, ids[2], [seldom(5)].into_iter());
    wired.run(LOOK * 9);
    // What all depend on dies; the last to look would have been who starts again instead.
    for n in 0..5 {
        fail(&mut wired, ids[1], n);
        wired.run(Duration::from_secs(3));
    }
    wired.run(Duration::from_secs(10));
    restart(&mut wired, ids[2], own, Duration::from_millis(500));
    fail(&mut wired, ids[2], 5);
    wired.run(Duration::from_secs(1));
    assert_eq!(shown(&wired), [(6, true)].into());
}

#[test]
fn an_owner_that_starts_again_twice_within_a_streak_fails_when_it_did() {
    let (mut wired, ids) = Wired::of(3);
    register(&mut wired, ids[1], (0..5).map(patient));
    let own = vec![Arc::new(patient(5))];
    register(&mut wired, ids[2], [patient(5)].into_iter());
    wired.run(LOOK * 6);
    // It is away when what all depend on dies, and once more after it has looked once.
    restart_while(&mut wired, ids[2], own.clone(), |wired| look(wired, ids[1], &[0, 1, 2, 3, 4]));
    fail(&mut wired, ids[2], 5);
    wired.run(Duration::from_secs(1));
    restart(&mut wired, ids[2], own, Duration::from_millis(500));
    look(&mut wired, ids[2], &[5]);
    assert_eq!(shown(&wired), [(6, true)].into());
}

/// An instance whose check is looked at every 30 seconds, and told at once.
fn seldom(n: u16) -> Registration {
    looked_at(n, LOOK * 3, 1)
}

/// Starts the third node again with what it had kept, after it was away for so long.
fn restart(wired: &mut Wired, id: NodeId, own: Vec<Arc<Registration>>, away: Duration) {
    restart_while(wired, id, own, |wired| wired.run(away));
}

/// The same, after it was away for as long as something else took.
fn restart_while(wired: &mut Wired, id: NodeId, own: Vec<Arc<Registration>>, meanwhile: impl FnOnce(&mut Wired)) {
    let lived_until = wired.nodes[&id].wall_clock(wired.now);
    wired.dead.insert(id);
    meanwhile(wired);
    let kept = |one: &Arc<Registration>| Some((one.id.clone(), wired.kept.get(&(id, one.id.clone()))?.clone()));
    let reports: Vec<_> = own.iter().filter_map(kept).collect();
    wired.restart(2, 2, own);
    let now = wired.now;
    wired.at(id).restore(now, None, reports, lived_until);
}

/// Looks at all of them in vain until that is told.
fn look(wired: &mut Wired, owner: NodeId, dead: &[u16]) {
    for _ in 0..3 {
        dead.iter().for_each(|n| fail(wired, owner, *n));
        wired.run(LOOK);
    }
}

const LOOK: Duration = Duration::from_secs(10);
