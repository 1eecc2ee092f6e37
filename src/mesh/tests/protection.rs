//! What sets off mass-failure protection, and what only looks like it.

use super::*;
use crate::model::{Before, CheckDraft, CheckStatus, Echo, EchoNode, HealthReport, NODE_CHECKS, Role};

/// The `n`-th instance of `web`, with a check that passes until it is looked at.
pub(super) fn instance(n: u16) -> Registration {
    let check = CheckDraft { initial: Some(Health::Passing), ..CheckDraft::tcp(":1").named("c0") };
    let id = format!("web{n}").as_str().try_into().unwrap();
    Registration { id, checks: vec![check.build(0, "check").unwrap()], ..Registration::new("web", 80 + n).unwrap() }
}

/// The same, withdrawn when it is critical for twenty seconds.
fn soon(n: u16) -> Registration {
    let checks = instance(n).checks.into_iter();
    let checks = checks.map(|check| CheckSpec { deregister_after: Some(Duration::from_secs(20)), ..check });
    Registration { checks: checks.collect(), ..instance(n) }
}

/// The same on a node without an agent, said at some time.
fn foreign(n: u16, said: u64) -> Registration {
    let node = EchoNode { name: format!("m{n}"), address: "10.0.0.1".into(), ..EchoNode::default() };
    let echo = Echo { node: Some(Arc::new(node)), said, ..Echo::default() };
    Registration { echo: Some(Arc::new(echo)), ..instance(n) }
}

/// Registers what is found well at once.
pub(super) fn register(wired: &mut Wired, id: NodeId, all: impl Iterator<Item = Registration>) {
    for one in all {
        let instance = one.id.clone();
        wired.order(id, Command::Register(Arc::new(one)));
        hear_of(wired, id, instance, Health::Passing);
    }
}

pub(super) fn fail(wired: &mut Wired, id: NodeId, n: u16) {
    hear(wired, id, n, Health::Critical);
}

pub(super) fn hear(wired: &mut Wired, id: NodeId, n: u16, status: Health) {
    hear_of(wired, id, format!("web{n}").as_str().try_into().unwrap(), status);
}

fn hear_of(wired: &mut Wired, id: NodeId, instance: InstanceId, status: Health) {
    let now = wired.now;
    let (check, output) = ("c0".try_into().unwrap(), "looked".into());
    wired.at(id).handle(now, Input::Checked { instance, check, status, output });
    wired.settle();
}

/// How many instances pass on each node, and whether any there is kept as it was.
pub(super) fn shown(wired: &Wired) -> BTreeSet<(usize, bool)> {
    let of = |mesh: &Mesh| {
        let rows = mesh.service(&"web".try_into().unwrap()).unwrap();
        let passing = rows.iter().filter(|row| row.health() == Health::Passing).count();
        (passing, rows.iter().any(|row| row.held.is_some()))
    };
    wired.nodes.values().map(of).collect()
}

#[test]
fn failures_one_by_one_are_no_wave_to_who_reads_of_them_later() {
    let (mut wired, ids) = Wired::of(3);
    register(&mut wired, ids[1], (0..5).map(instance));
    for n in 0..4 {
        (n..5).for_each(|n| hear(&mut wired, ids[1], n, Health::Passing));
        fail(&mut wired, ids[1], n);
        wired.run(Duration::from_secs(12));
    }
    assert_eq!(shown(&wired), [(1, false)].into());
    wired.restart(7, 1, Vec::new());
    wired.run(Duration::from_secs(3));
    assert_eq!((wired.nodes.len(), shown(&wired)), (4, [(1, false)].into()));
    // And who reads later of what was a wave finds that, for as long as it lasts.
    register(&mut wired, ids[2], (5..11).map(instance));
    (5..11).for_each(|n| fail(&mut wired, ids[2], n));
    wired.run(Duration::from_secs(1));
    assert_eq!(shown(&wired), [(7, true)].into());
    wired.restart(8, 1, Vec::new());
    wired.run(Duration::from_secs(3));
    assert_eq!((wired.nodes.len(), shown(&wired)), (5, [(7, true)].into()));
    wired.run(PROTECT_FOR);
    assert_eq!(shown(&wired), [(1, false)].into());
}

#[test]
fn who_starts_again_finds_what_it_knew() {
    let then = UNIX_MILLIS - 8_000;
    for (since, seen, lasts, expected) in [
        (7, Some(1), 300, (1, false)),
        (UNIX_MILLIS, None, 300, (1, false)),
        (UNIX_MILLIS, Some(UNIX_MILLIS), 300, (5, true)),
        (then, Some(then), 300, (5, true)),
        (then, Some(then), 5, (1, false)),
    ] {
        let (mut wired, ids) = Wired::of(2);
        let all: Vec<_> = (0..5).map(|n| Arc::new(instance(n))).collect();
        wired.restart(0, 2_000, all.clone());
        let dead = |own: &Arc<Registration>| {
            let name: CheckName = "c0".try_into().unwrap();
            let before = seen.map(|seen| Before { status: Health::Passing, seen, failed: since });
            let (output, status) = ("dead".into(), Health::Critical);
            (
                own.id.clone(),
                HealthReport {
                    checks: vec![CheckStatus { id: name.clone(), name, status, output, since, before }],
                    ..HealthReport::default()
                },
            )
        };
        ids.iter().for_each(|id| wired.order(*id, Command::ProtectFor(Duration::from_secs(lasts))));
        let (now, reports) = (wired.now, all[1..].iter().map(dead).collect::<Vec<_>>());
        wired.at(ids[0]).restore(now, None, reports, 0);
        wired.run(Duration::from_secs(1));
        assert_eq!(shown(&wired), [expected].into(), "{since} {seen:?}");
    }
}

#[test]
fn who_is_looked_at_in_vain_turns_with_those_of_the_same_looks() {
    let (mut wired, ids) = Wired::of(2);
    register(&mut wired, ids[0], (0..3).map(instance));
    // Who looks says nothing as long as nothing changes.
    for n in 0..2 {
        wired.run(Duration::from_secs(100));
        fail(&mut wired, ids[0], n);
        wired.run(Duration::from_secs(1));
        assert_eq!(shown(&wired), [(2 - usize::from(n), false)].into());
    }
}

#[test]
fn what_a_node_has_assumed_is_no_health() {
    let (mut wired, ids) = Wired::of(2);
    (0..5).for_each(|n| wired.order(ids[0], Command::Register(Arc::new(instance(n)))));
    (0..5).for_each(|n| fail(&mut wired, ids[0], n));
    wired.run(Duration::from_secs(1));
    assert_eq!(shown(&wired), [(0, false)].into());
}

#[test]
fn the_dead_are_not_counted_and_the_withdrawn_neither() {
    let (mut wired, ids) = Wired::of(4);
    register(&mut wired, ids[1], (0..4).map(instance));
    register(&mut wired, ids[2], (4..8).map(instance));
    register(&mut wired, ids[3], (8..12).map(instance));
    wired.dead.extend([ids[2], ids[3]]);
    wired.run(Duration::from_secs(20));
    wired.nodes.retain(|id, _| ![ids[2], ids[3]].contains(id));
    (0..3).for_each(|n| fail(&mut wired, ids[1], n));
    wired.run(Duration::from_secs(1));
    assert_eq!(shown(&wired), [(4, true)].into());
    let withdraw = |wired: &mut Wired, n| {
        wired.order(ids[1], Command::Deregister(instance(n).id));
        wired.run(Duration::from_secs(1));
    };
    withdraw(&mut wired, 0);
    assert_eq!(shown(&wired), [(3, true)].into());
    withdraw(&mut wired, 1);
    assert_eq!(shown(&wired), [(2, true)].into(), "who is withdrawn has not recovered");
    fail(&mut wired, ids[1], 3);
    wired.run(Duration::from_secs(1));
    assert_eq!(shown(&wired), [(1, true)].into(), "and one afterwards is no wave");
}

#[test]
fn what_is_kept_is_withdrawn_only_afterwards() {
    let (mut wired, ids) = Wired::of(2);
    register(&mut wired, ids[0], (0..4).map(soon));
    (0..4).for_each(|n| fail(&mut wired, ids[0], n));
    wired.run(PROTECT_FOR - Duration::from_secs(1));
    assert_eq!(shown(&wired), [(4, true)].into());
    wired.run(Duration::from_secs(2));
    assert!(wired.nodes.values().all(|mesh| mesh.service(&"web".try_into().unwrap()).is_none()));
}

#[test]
fn who_is_kept_stays_so_while_an_owner_starts_again() {
    let (mut wired, ids) = Wired::of(3);
    register(&mut wired, ids[1], (0..2).map(soon));
    register(&mut wired, ids[2], (2..4).map(soon));
    (0..2).for_each(|n| fail(&mut wired, ids[1], n));
    (2..4).for_each(|n| fail(&mut wired, ids[2], n));
    wired.run(Duration::from_secs(1));
    assert_eq!(shown(&wired), [(4, true)].into());
    wired.order(ids[2], Command::Leave);
    wired.nodes.remove(&ids[2]);
    wired.run(Duration::from_secs(60));
    assert_eq!(shown(&wired), [(2, true)].into(), "neither hidden nor withdrawn");
}

#[test]
fn what_an_alias_follows_is_doubted_where_it_stands() {
    let (mut wired, ids) = Wired::of(2);
    let beside = |n: u16| {
        let check = CheckDraft { initial: Some(Health::Passing), ..CheckDraft::alias("db").named("c0") };
        Registration { checks: vec![check.build(0, "check").unwrap()], ..instance(n) }
    };
    register(&mut wired, ids[0], (0..4).map(beside));
    (0..4).for_each(|n| fail(&mut wired, ids[0], n));
    wired.run(Duration::from_secs(1));
    assert_eq!(shown(&wired), [(0, false)].into());
}

#[test]
fn a_second_wave_lasts_as_long_as_the_first() {
    let (mut wired, ids) = Wired::of(2);
    register(&mut wired, ids[0], (0..10).map(instance));
    (0..6).for_each(|n| fail(&mut wired, ids[0], n));
    wired.run(PROTECT_FOR - Duration::from_secs(20));
    (6..10).for_each(|n| hear(&mut wired, ids[0], n, Health::Passing));
    (6..10).for_each(|n| fail(&mut wired, ids[0], n));
    wired.run(Duration::from_secs(30));
    assert_eq!(shown(&wired), [(4, true)].into());
    wired.run(PROTECT_FOR);
    assert_eq!(shown(&wired), [(0, false)].into());
}

/// The checks of an agent's own machine, or of one without an agent.
fn machine(foreign: Option<u16>) -> Registration {
    let of = |n| self::foreign(n, 1).echo.as_deref().cloned().unwrap_or_default();
    let echo = Echo { role: Some(Role::NodeChecks), ..foreign.map(of).unwrap_or_default() };
    let id = format!("checks{}", foreign.unwrap_or(99)).as_str().try_into().unwrap();
    let name = NODE_CHECKS.try_into().unwrap();
    Registration { id, name, port: None, echo: Some(Arc::new(echo)), ..instance(0) }
}

#[test]
fn who_stands_on_a_sick_machine_is_sick_and_of_a_wave_of_them_kept() {
    let (mut wired, ids) = Wired::of(4);
    for (n, id) in (0..).zip(&ids) {
        register(&mut wired, *id, [instance(n), machine(None)].into_iter());
    }
    let turn = |wired: &mut Wired, n: usize, status| {
        hear_of(wired, ids[n], machine(None).id, status);
        wired.run(Duration::from_secs(1));
    };
    turn(&mut wired, 0, Health::Critical);
    turn(&mut wired, 1, Health::Critical);
    assert_eq!(shown(&wired), [(2, false)].into());
    turn(&mut wired, 2, Health::Critical);
    assert_eq!(shown(&wired), [(4, true)].into(), "three of four");
    turn(&mut wired, 2, Health::Passing);
    assert_eq!(shown(&wired), [(2, false)].into());
    wired.order(ids[0], Command::Deregister(machine(None).id));
    wired.run(Duration::from_secs(1));
    assert_eq!(shown(&wired), [(3, false)].into());
}

#[test]
fn the_last_word_on_a_machine_stands_where_whose_it_was_is_gone() {
    let (mut wired, ids) = Wired::of(3);
    register(&mut wired, ids[0], (0..2).map(|n| foreign(n, 1)));
    register(&mut wired, ids[2], [machine(Some(1))].into_iter());
    hear_of(&mut wired, ids[2], machine(Some(1)).id, Health::Critical);
    wired.run(Duration::from_secs(1));
    assert_eq!(shown(&wired), [(1, false)].into());
    wired.dead.insert(ids[2]);
    wired.run(Duration::from_secs(20));
    wired.nodes.remove(&ids[2]);
    assert_eq!(shown(&wired), [(1, false)].into());
}

#[test]
fn nobody_doubts_that_a_process_has_ended() {
    let (mut wired, ids) = Wired::of(3);
    let watched = |n: u16| {
        let check = CheckDraft { initial: Some(Health::Passing), ..CheckDraft::process(7).named("c0") };
        Registration { checks: vec![check.build(0, "check").unwrap()], ..instance(n) }
    };
    register(&mut wired, ids[1], (0..5).map(watched));
    for n in 0..4 {
        fail(&mut wired, ids[1], n);
        wired.run(Duration::from_secs(1));
        assert_eq!(shown(&wired), [(4 - usize::from(n), false)].into());
    }
}

#[test]
fn who_was_cut_off_meanwhile_finds_the_same_wave() {
    let (mut wired, ids) = Wired::of(4);
    register(&mut wired, ids[1], (0..5).map(instance));
    wired.run(Duration::from_secs(20));
    for (gap, expected) in [(0, (5, true)), (12, (1, false))] {
        (0..5).for_each(|n| hear(&mut wired, ids[1], n, Health::Passing));
        wired.run(Duration::from_secs(20));
        wired.dead.insert(ids[3]);
        for n in 0..4 {
            (n..5).for_each(|n| hear(&mut wired, ids[1], n, Health::Passing));
            fail(&mut wired, ids[1], n);
            wired.run(Duration::from_secs(gap));
        }
        wired.run(Duration::from_secs(1));
        wired.dead.clear();
        wired.run(Duration::from_secs(30));
        assert_eq!(shown(&wired), [expected].into(), "{gap} s between failures");
    }
}

#[test]
fn a_program_that_says_so_itself_is_believed_late_or_at_once() {
    let beating = |n: u16, initial| {
        let check = CheckDraft { initial: Some(initial), ttl: Some("20s".into()), ..CheckDraft::default() };
        Registration { checks: vec![check.named("c0").build(0, "check").unwrap()], ..instance(n) }
    };
    let (mut wired, ids) = Wired::of(2);
    register(&mut wired, ids[0], (0..4).map(|n| beating(n, Health::Passing)));
    wired.run(Duration::from_secs(21));
    assert_eq!(shown(&wired), [(4, true)].into(), "silence is doubted");
    fail(&mut wired, ids[0], 0);
    wired.run(Duration::from_secs(1));
    assert_eq!(shown(&wired), [(3, true)].into());
    (0..4).for_each(|n| wired.order(ids[0], Command::Register(Arc::new(beating(n, Health::Critical)))));
    wired.run(Duration::from_secs(1));
    assert_eq!(shown(&wired), [(0, false)].into());
}

#[test]
fn of_what_several_agents_speak_of_the_word_that_is_shown_counts() {
    let (mut wired, ids) = Wired::of(3);
    register(&mut wired, ids[0], (0..6).map(|n| foreign(n, 1)));
    register(&mut wired, ids[1], (0..6).map(|n| foreign(n, 2)));
    (0..6).for_each(|n| fail(&mut wired, ids[0], n));
    wired.run(Duration::from_secs(1));
    assert_eq!(shown(&wired), [(6, false)].into(), "nobody is shown what the first agent says");
    (0..4).for_each(|n| fail(&mut wired, ids[1], n));
    wired.run(Duration::from_secs(1));
    assert_eq!(shown(&wired), [(6, true)].into());
}

#[test]
fn who_sets_his_clock_right_fails_together_with_the_others() {
    let (mut wired, ids) = Wired::of(3);
    let set = |wired: &mut Wired, ahead| {
        let now = wired.now;
        let right = wired.nodes[&ids[0]].wall_clock(now);
        wired.at(ids[1]).set_wall_clock(now, right + ahead);
    };
    let tell = |wired: &mut Wired, status| {
        for (owner, n) in [ids[0], ids[0], ids[1], ids[1]].into_iter().zip(0..) {
            hear(wired, owner, n, status);
            wired.run(Duration::from_millis(100));
        }
        shown(wired)
    };
    set(&mut wired, 3_600_000);
    register(&mut wired, ids[0], (0..2).map(instance));
    register(&mut wired, ids[1], (2..4).map(instance));
    assert_eq!(tell(&mut wired, Health::Critical), [(0, false)].into());
    assert_eq!(tell(&mut wired, Health::Passing), [(4, false)].into());
    set(&mut wired, 0);
    assert_eq!(tell(&mut wired, Health::Critical), [(4, true)].into());
}

#[test]
fn who_is_drained_or_goes_away_later_makes_no_wave_of_what_was_none() {
    let drain: fn(&mut Wired, NodeId) = |wired, id| {
        let instance = Some("web2".try_into().unwrap());
        wired.order(id, Command::Maintain { instance, reason: Some("a deploy".into()) });
    };
    let withdraw: fn(&mut Wired, NodeId) = |wired, id| wired.order(id, Command::Deregister("web2".try_into().unwrap()));
    let crash: fn(&mut Wired, NodeId) = |wired, id| {
        wired.dead.insert(id);
        wired.nodes.remove(&id);
    };
    for act in [drain, withdraw, crash] {
        let (mut wired, ids) = Wired::of(4);
        for (n, id) in (0..).zip([ids[1], ids[1], ids[2], ids[3]]) {
            register(&mut wired, id, std::iter::once(instance(n)));
        }
        [0, 1].into_iter().for_each(|n| fail(&mut wired, ids[1], n));
        wired.run(Duration::from_secs(30));
        assert_eq!(shown(&wired), [(2, false)].into(), "half is not most");
        act(&mut wired, ids[2]);
        wired.run(Duration::from_secs(30));
        assert_eq!(shown(&wired), [(1, false)].into());
        // Nor to who starts afterwards.
        wired.restart(7, 1, Vec::new());
        wired.run(Duration::from_secs(3));
        assert_eq!(shown(&wired), [(1, false)].into());
        // And no death of another one afterwards makes it one.
        fail(&mut wired, ids[3], 3);
        wired.run(Duration::from_secs(5));
        assert_eq!(shown(&wired), [(0, false)].into());
    }
}

#[test]
fn two_are_too_few_also_where_a_third_is_drained() {
    let (mut wired, ids) = Wired::of(3);
    for (n, id) in (0..).zip(&ids) {
        register(&mut wired, *id, std::iter::once(instance(n)));
    }
    let instance = Some("web2".try_into().unwrap());
    wired.order(ids[2], Command::Maintain { instance, reason: Some("a deploy".into()) });
    [0, 1].into_iter().for_each(|n| fail(&mut wired, ids[usize::from(n)], n));
    wired.run(Duration::from_secs(1));
    assert_eq!(shown(&wired), [(0, false)].into());
}

#[test]
fn what_was_well_until_its_agent_started_again_turns_with_the_others() {
    let (mut wired, ids) = Wired::of(2);
    let all: Vec<_> = (0..4).map(|n| Arc::new(instance(n))).collect();
    wired.restart(0, 2_000, all.clone());
    let well = |own: &Arc<Registration>| {
        let name: CheckName = "c0".try_into().unwrap();
        let (id, output) = (name.clone(), "well".into());
        let status = CheckStatus { id, name, status: Health::Passing, output, since: 0, before: None };
        (own.id.clone(), HealthReport { checks: vec![status], ..HealthReport::default() })
    };
    let (now, reports) = (wired.now, all.iter().map(well).collect::<Vec<_>>());
    wired.at(ids[0]).restore(now, None, reports, UNIX_MILLIS);
    (0..4).for_each(|n| fail(&mut wired, ids[0], n));
    wired.run(Duration::from_secs(1));
    assert_eq!(shown(&wired), [(4, true)].into());
}

#[test]
fn no_step_of_a_clock_ends_what_is_kept() {
    for back in [20_000, 7_200_000] {
        let (mut wired, ids) = Wired::of(3);
        register(&mut wired, ids[0], (0..2).map(instance));
        register(&mut wired, ids[1], (2..4).map(instance));
        let step = |wired: &mut Wired, id, by: i64| {
            let now = wired.now;
            let wall = wired.nodes[&id].wall_clock(now).saturating_add_signed(by);
            wired.at(id).set_wall_clock(now, wall);
            wired.run(Duration::from_secs(61));
        };
        wired.run(Duration::from_secs(8_000));
        (0..4).for_each(|n| hear(&mut wired, ids[usize::from(n / 2)], n, Health::Passing));
        (0..4).for_each(|n| fail(&mut wired, ids[usize::from(n / 2)], n));
        for (id, by) in [(ids[1], -back), (ids[2], -back), (ids[1], back), (ids[2], back)] {
            step(&mut wired, id, by);
            assert_eq!(shown(&wired), [(4, true)].into(), "{by} ms");
        }
        wired.run(PROTECT_FOR);
        assert_eq!(shown(&wired), [(0, false)].into());
    }
}

#[test]
fn who_fails_by_a_second_check_and_recovers_by_the_first_is_kept_still() {
    let (mut wired, ids) = Wired::of(2);
    let both = |n: u16| {
        let check = CheckDraft { initial: Some(Health::Passing), ..CheckDraft::tcp(":2").named("c1") };
        let checks = instance(n).checks.into_iter().chain([check.build(1, "check").unwrap()]);
        Registration { checks: checks.collect(), ..instance(n) }
    };
    let second = |wired: &mut Wired, n: u16, status| {
        let (now, instance) = (wired.now, format!("web{n}").as_str().try_into().unwrap());
        let (check, output) = ("c1".try_into().unwrap(), "looked".into());
        wired.at(ids[0]).handle(now, Input::Checked { instance, check, status, output });
        wired.run(Duration::from_secs(5));
    };
    register(&mut wired, ids[0], (0..4).map(both));
    (0..4).for_each(|n| second(&mut wired, n, Health::Passing));
    (0..4).for_each(|n| fail(&mut wired, ids[0], n));
    wired.run(Duration::from_secs(25));
    (0..4).for_each(|n| second(&mut wired, n, Health::Critical));
    for n in 0..4 {
        hear(&mut wired, ids[0], n, Health::Passing);
        wired.run(Duration::from_secs(3));
        assert_eq!(shown(&wired), [(4, true)].into());
    }
}

#[test]
fn who_has_no_check_of_its_own_is_kept_with_its_machine() {
    let (mut wired, ids) = Wired::of(4);
    let bare = |n| Registration { checks: Vec::new(), ..instance(n) };
    for (n, id) in (0..).zip(&ids) {
        wired.order(*id, Command::Register(Arc::new(bare(n))));
        register(&mut wired, *id, std::iter::once(machine(None)));
    }
    ids[..3].iter().for_each(|id| hear_of(&mut wired, *id, machine(None).id, Health::Critical));
    wired.run(Duration::from_secs(1));
    assert_eq!(shown(&wired), [(4, true)].into());
    wired.run(PROTECT_FOR - Duration::from_secs(5));
    assert_eq!(shown(&wired), [(4, true)].into());
    // What does not change is not said again, and who is withdrawn leaves nothing behind.
    let rows = |wired: &Wired| wired.nodes[&ids[1]].member(ids[1]).unwrap().version;
    let before = rows(&wired);
    wired.order(ids[0], Command::Deregister(bare(0).id));
    assert_eq!((rows(&wired), shown(&wired)), (before, [(3, true)].into()));
    wired.order(ids[0], Command::Register(Arc::new(bare(0))));
    wired.run(Duration::from_secs(1));
    assert!(wired.nodes[&ids[0]].health_report(&bare(0).id).is_none());
    wired.run(Duration::from_secs(5));
    assert_eq!(shown(&wired), [(1, false)].into(), "its time is over");
}
