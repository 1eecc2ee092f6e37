//! Who is withdrawn for being critical too long, and who is not because nobody could look.

use super::*;
use crate::model::CheckDraft;

/// One mesh with one instance, that may be critical for a minute.
fn scene(rise: u32) -> (Wired, NodeId) {
    let draft = CheckDraft { deregister_after: Some("1m".into()), ..CheckDraft::tcp("").named("alive") };
    checked(CheckSpec { rise, ..draft.build(0, "check").unwrap() })
}

fn lack(wired: &mut Wired, id: NodeId) {
    let (now, instance, check) = (wired.now, "web".try_into().unwrap(), "alive".try_into().unwrap());
    wired.at(id).handle(now, Input::Unable { instance, check, why: "no descriptor left".into() });
}

/// Finds this, and says whether the instance is still there afterwards.
fn find(wired: &mut Wired, id: NodeId, status: Health) -> bool {
    let (now, instance, check) = (wired.now, "web".try_into().unwrap(), "alive".try_into().unwrap());
    wired.at(id).handle(now, Input::Checked { instance, check, status, output: "heard".into() });
    is_there(wired, id)
}

fn is_there(wired: &Wired, id: NodeId) -> bool {
    wired.nodes[&id].registration(&"web".try_into().unwrap()).is_some()
}

const LONG: Duration = Duration::from_secs(300);

#[test]
fn who_is_found_critical_for_too_long_is_withdrawn() {
    let (mut wired, id) = scene(1);
    assert!(find(&mut wired, id, Health::Critical));
    wired.run(Duration::from_secs(59));
    assert!(is_there(&wired, id));
    wired.run(Duration::from_secs(2));
    assert!(!is_there(&wired, id));
}

#[test]
fn who_was_never_looked_at_is_not_withdrawn_and_says_why() {
    let (mut wired, id) = scene(1);
    lack(&mut wired, id);
    let report = wired.nodes[&id].health_report(&"web".try_into().unwrap()).unwrap();
    assert_eq!(&*report.checks[0].output, "no result yet: no descriptor left");
    wired.run(LONG);
    assert!(is_there(&wired, id) && find(&mut wired, id, Health::Passing));
    wired.run(LONG);
    assert!(is_there(&wired, id));
}

#[test]
fn what_is_found_after_a_shortage_decides() {
    for (found, is_kept) in [(Health::Passing, true), (Health::Warning, true), (Health::Critical, false)] {
        let (mut wired, id) = scene(1);
        find(&mut wired, id, Health::Critical);
        lack(&mut wired, id);
        wired.run(LONG);
        assert!(is_there(&wired, id), "nobody could look");
        assert_eq!(find(&mut wired, id, found), is_kept, "{found}");
        wired.run(LONG);
        assert_eq!(is_there(&wired, id), is_kept, "{found}");
    }
}

#[test]
fn who_was_found_well_once_was_not_critical_all_the_time() {
    let (mut wired, id) = scene(2);
    find(&mut wired, id, Health::Critical);
    for _ in 0..3 {
        lack(&mut wired, id);
        wired.run(LONG);
        assert!(find(&mut wired, id, Health::Passing) && find(&mut wired, id, Health::Critical));
    }
    wired.run(LONG);
    assert!(!is_there(&wired, id), "critical for as long as somebody looked");
}

#[test]
fn who_is_on_the_way_back_is_not_withdrawn_on_it() {
    let (mut wired, id) = scene(3);
    find(&mut wired, id, Health::Critical);
    find(&mut wired, id, Health::Passing);
    wired.run(LONG);
    assert!(is_there(&wired, id) && find(&mut wired, id, Health::Passing) && find(&mut wired, id, Health::Passing));
    wired.run(LONG);
    assert!(is_there(&wired, id));
}

#[test]
fn a_restart_proves_nothing_until_somebody_has_looked() {
    let (mut wired, id) = scene(1);
    let report = {
        find(&mut wired, id, Health::Critical);
        wired.nodes[&id].health_report(&"web".try_into().unwrap()).unwrap()
    };
    let (mut wired, id) = scene(1);
    let now = wired.now;
    wired.at(id).restore(now, None, [("web".try_into().unwrap(), report)], 0);
    wired.run(LONG);
    assert!(is_there(&wired, id), "an earlier process found that");
    assert!(!find(&mut wired, id, Health::Critical));
}

#[test]
fn what_is_asked_for_last_decides_how_long_one_may_be_critical() {
    let asked = |after: Option<&str>| {
        let deregister_after = after.map(Into::into);
        CheckDraft { deregister_after, ..CheckDraft::tcp("").named("alive") }.build(0, "check").unwrap()
    };
    for (after, lasts) in [(None, LONG), (Some("4m"), Duration::from_secs(230))] {
        let (mut wired, id) = scene(1);
        find(&mut wired, id, Health::Critical);
        wired.run(Duration::from_secs(30));
        watch(&mut wired, id, asked(after));
        wired.run(lasts);
        assert!(is_there(&wired, id), "{after:?}");
        wired.run(Duration::from_secs(20));
        assert_eq!(is_there(&wired, id), after.is_none(), "{after:?}");
    }
}

#[test]
fn who_changes_his_mind_or_what_is_asked_of_him_all_the_time_takes_no_more_room() {
    let (mut wired, id) = scene(1);
    let count = |wired: &Wired| wired.nodes[&id].timers.count();
    let beat = |ttl: &str, after: &str| {
        let deregister_after = Some(after.into());
        let draft = CheckDraft { ttl: Some(ttl.into()), deregister_after, ..CheckDraft::default() };
        draft.named("beat").build(0, "check").unwrap()
    };
    watch(&mut wired, id, beat("1h", "2h"));
    let before = count(&wired);
    for turn in 0..100 {
        let (ttl, after) = (["1s", "200h", "1h"][turn % 3], ["300h", "90m"][turn % 2]);
        watch(&mut wired, id, beat(ttl, after));
        for status in [Health::Passing, Health::Critical] {
            let (instance, check, output) = ("web".try_into().unwrap(), "beat".try_into().unwrap(), "heard".into());
            wired.order(id, Command::Report { instance, check, status, output });
        }
        if turn % 5 == 0 {
            wired.order(id, Command::Deregister("web".try_into().unwrap()));
        }
        wired.run(Duration::from_secs(1));
    }
    assert!(count(&wired) < before + 5, "{before} timers have become {}", count(&wired));
    wired.run(Duration::from_secs(89 * 60));
    assert!(is_there(&wired, id));
    wired.run(LONG);
    assert!(!is_there(&wired, id), "the last word was 90 minutes");
}

#[test]
fn no_time_runs_while_this_process_does_not() {
    let (mut wired, id) = scene(1);
    find(&mut wired, id, Health::Critical);
    wired.now = wired.now + LONG;
    let now = wired.now;
    wired.at(id).handle(now, Input::Wake);
    wired.run(Duration::from_secs(30));
    assert!(is_there(&wired, id) && find(&mut wired, id, Health::Critical));
    wired.run(Duration::from_secs(59));
    assert!(!is_there(&wired, id), "and it runs on afterwards");
}
