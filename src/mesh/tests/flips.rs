//! What flips of checks cost an instance, and what they never do.

use super::*;
use crate::model::CheckDraft;

/// Two nodes, of which the first has an instance with so many checks.
fn scene(checks: usize) -> (Wired, [NodeId; 2]) {
    let (mut wired, ids) = Wired::of(2);
    let checks = (0..checks).map(|n| spec(n, "")).collect();
    let registration = Registration { checks, ..Registration::new("web", 80).unwrap() };
    wired.order(ids[0], Command::Register(Arc::new(registration)));
    (wired, [ids[0], ids[1]])
}

fn name(n: usize) -> String {
    format!("c{n}")
}

fn spec(n: usize, target: &str) -> CheckSpec {
    CheckDraft::tcp(target).named(&name(n)).build(0, "check").unwrap()
}

/// One check finds this, and no time passes.
fn find(wired: &mut Wired, id: NodeId, n: usize, status: Health) {
    let (now, instance, check) = (wired.now, "web".try_into().unwrap(), name(n).as_str().try_into().unwrap());
    wired.at(id).handle(now, Input::Checked { instance, check, status, output: "heard".into() });
    wired.settle();
}

#[test]
fn first_results_count_at_once_however_many_checks_there_are() {
    let (mut wired, ids) = scene(30);
    for n in 0..30 {
        assert_eq!(health(&wired, ids[0]), Health::Critical, "{n} of 30 have answered");
        find(&mut wired, ids[0], n, Health::Passing);
    }
    assert_eq!(health(&wired, ids[0]), Health::Passing);
    wired.run(Duration::from_millis(20));
    assert_eq!(health(&wired, ids[1]), Health::Passing);
}

#[test]
fn many_checks_that_turn_together_delay_neither_the_fall_nor_the_return() {
    let (mut wired, ids) = scene(30);
    for status in [Health::Passing, Health::Critical, Health::Passing, Health::Critical] {
        for n in 0..30 {
            find(&mut wired, ids[0], n, status);
        }
        assert_eq!(health(&wired, ids[0]), status);
        wired.run(Duration::from_millis(20));
        assert_eq!(health(&wired, ids[1]), status);
    }
    // Each check's own turn is known soon too, all at once.
    wired.run(Duration::from_secs(1));
    let instances = wired.nodes[&ids[1]].service(&"web".try_into().unwrap()).unwrap();
    let report = &instances[0].report;
    assert!(report.checks.iter().all(|check| check.status == Health::Critical));
}

#[test]
fn who_flaps_is_shown_as_bad_and_comes_back_later() {
    let (mut wired, ids) = scene(1);
    for _ in 0..50 {
        find(&mut wired, ids[0], 0, Health::Passing);
        find(&mut wired, ids[0], 0, Health::Critical);
        assert_eq!(health(&wired, ids[0]), Health::Critical, "a turn to worse is told at once");
    }
    find(&mut wired, ids[0], 0, Health::Passing);
    assert_eq!(health(&wired, ids[0]), Health::Critical, "it came back often enough for now");
    wired.run(Duration::from_secs(7));
    assert_eq!(health(&wired, ids[1]), Health::Passing, "the last word is right");
    assert!(wired.nodes[&ids[0]].stats.flips_damped > 50);
}

#[test]
fn an_instance_registered_anew_owes_nothing() {
    let (mut wired, ids) = scene(1);
    for _ in 0..50 {
        find(&mut wired, ids[0], 0, Health::Passing);
        find(&mut wired, ids[0], 0, Health::Critical);
    }
    watch(&mut wired, ids[0], spec(0, ":81"));
    find(&mut wired, ids[0], 0, Health::Passing);
    assert_eq!(health(&wired, ids[0]), Health::Passing);
}
