//! What sets off mass-failure protection, and what only looks like it.

use super::*;
use crate::model::{CheckDraft, CheckStatus, Echo, EchoNode, HealthReport};

/// The `n`-th instance of `web`, with a check that passes until it is looked at.
fn instance(n: u16) -> Registration {
    let check = CheckDraft { initial: Some(Health::Passing), ..CheckDraft::tcp(":1").named("c0") };
    let id = format!("web{n}").as_str().try_into().unwrap();
    Registration { id, checks: vec![check.build(0, "check").unwrap()], ..Registration::new("web", 80 + n).unwrap() }
}

/// The same on a node without an agent, said at some time.
fn foreign(n: u16, said: u64) -> Registration {
    let node = EchoNode { name: format!("m{n}"), address: "10.0.0.1".into(), ..EchoNode::default() };
    let echo = Echo { node: Some(Arc::new(node)), said, ..Echo::default() };
    Registration { echo: Some(Arc::new(echo)), ..instance(n) }
}

fn register(wired: &mut Wired, id: NodeId, all: impl Iterator<Item = Registration>) {
    all.for_each(|one| wired.order(id, Command::Register(Arc::new(one))));
}

fn fail(wired: &mut Wired, id: NodeId, n: u16) {
    hear(wired, id, n, Health::Critical);
}

fn hear(wired: &mut Wired, id: NodeId, n: u16, status: Health) {
    let (now, instance) = (wired.now, format!("web{n}").as_str().try_into().unwrap());
    let (check, output) = ("c0".try_into().unwrap(), "looked".into());
    wired.at(id).handle(now, Input::Checked { instance, check, status, output });
    wired.settle();
}

/// How many instances pass on each node, and whether any there is kept as it was.
fn shown(wired: &Wired) -> BTreeSet<(usize, bool)> {
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
        fail(&mut wired, ids[1], n);
        wired.run(Duration::from_secs(12));
    }
    assert_eq!(shown(&wired), [(1, false)].into());
    wired.restart(7, 1, Vec::new());
    wired.run(Duration::from_secs(3));
    assert_eq!((wired.nodes.len(), shown(&wired)), (4, [(1, false)].into()));
    // And where all know each other, it is one.
    register(&mut wired, ids[2], (5..11).map(instance));
    (5..11).for_each(|n| fail(&mut wired, ids[2], n));
    wired.run(Duration::from_secs(1));
    assert_eq!(shown(&wired), [(7, true)].into());
}

#[test]
fn who_starts_again_finds_what_had_failed_and_no_wave() {
    let (mut wired, ids) = Wired::of(2);
    let all: Vec<_> = (0..5).map(|n| Arc::new(instance(n))).collect();
    wired.restart(0, 2, all.clone());
    let dead = |own: &Arc<Registration>| {
        let name: CheckName = "c0".try_into().unwrap();
        let (output, since) = ("dead".into(), 7);
        let status = CheckStatus { id: name.clone(), name, status: Health::Critical, output, since, certain: false };
        (own.id.clone(), HealthReport { checks: vec![status], maintenance: None })
    };
    let (now, reports) = (wired.now, all[1..].iter().map(dead).collect::<Vec<_>>());
    wired.at(ids[0]).restore(now, None, reports, 0);
    wired.run(Duration::from_secs(1));
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
    register(&mut wired, ids[0], (0..4).map(|n| beating(n, Health::Critical)));
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
