//! Whole agents in one process, over real sockets on loopback.

mod insider;
mod links;
mod papers;
mod strangers;

use std::{
    net::{Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use futures_util::StreamExt;
use tokio::time::timeout;

use super::*;
use crate::model::{CheckKind, CheckSpec, MemberState, Rules};

/// Long beyond what any of this takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn builder(node: &str, secret: &Secret) -> Builder {
    Agent::builder().node(node).mesh("test").secret(secret.clone()).listen("127.0.0.1:0".parse().unwrap())
}

async fn joined(node: &str, secret: &Secret, seed: &Agent) -> Agent {
    let agent = builder(node, secret).join([seed.address().to_string()]).start().await.unwrap();
    timeout(PATIENCE, agent.ready()).await.unwrap().unwrap();
    agent
}

/// Waits until `holds` of the view.
async fn until(agent: &Agent, what: &str, holds: impl Fn(&View) -> bool) {
    let mut index = agent.view().subscribe();
    let waiting = async {
        while !holds(agent.view()) {
            index.changed().await.unwrap();
        }
    };
    let seen = || agent.view().nodes().iter().map(|m| format!("{} {}", m.node.name, m.state)).collect::<Vec<_>>();
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what} on {}: {:?}", agent.config().node, seen()));
}

async fn until_state(agent: &Agent, node: &str, state: MemberState) {
    until(agent, &format!("{node} is {state}"), |view| view.node(node).is_some_and(|m| m.state == state)).await;
}

async fn until_instances(agent: &Agent, service: &str, count: usize) {
    let shown = |view: &View| view.service(service).map_or(0, |s| s.instances.len()) == count;
    until(agent, &format!("{count} of {service}"), shown).await;
}

fn web(port: u16) -> Registration {
    Registration::new("web", port).unwrap()
}

#[tokio::test]
async fn a_registration_is_seen_on_every_other_node_until_its_guard_goes() {
    let secret = Secret::random();
    let a = builder("a", &secret).start().await.unwrap();
    a.ready().await.unwrap();
    let (b, c) = tokio::join!(joined("b", &secret, &a), joined("c", &secret, &a));
    let guard = b.register(web(8080)).await.unwrap();
    assert_eq!(b.lookup("WEB").len(), 1, "visible at once where it was registered");
    for agent in [&a, &c] {
        until_instances(agent, "web", 1).await;
        assert_eq!(agent.pick("web").unwrap().registration.port, web(8080).port);
    }
    assert_eq!(b.put(web(8080)).await.unwrap(), Done::Unchanged);
    assert_eq!(b.put(web(8081)).await.unwrap(), Done::Changed);
    drop(guard);
    for agent in [&a, &b, &c] {
        until_instances(agent, "web", 0).await;
    }
    assert!(a.pick("web").is_err());
}

#[tokio::test]
async fn who_leaves_is_gone_at_once_and_known_to_have_left() {
    let secret = Secret::random();
    let a = builder("a", &secret).start().await.unwrap();
    let b = joined("b", &secret, &a).await;
    b.put(web(1)).await.unwrap();
    until_instances(&a, "web", 1).await;
    b.leave().await;
    until_state(&a, "b", MemberState::Left).await;
    until_instances(&a, "web", 0).await;
    assert!(matches!(b.put(web(2)).await, Err(Refused::Stopped)));
    b.stopped().await.unwrap();
}

#[tokio::test]
async fn who_has_more_to_register_first_says_when_answers_may_be_given() {
    let config = builder("a", &Secret::random()).build().unwrap();
    let agent = Agent::start(Config { opens: Opens::Told, ready_after: Duration::ZERO, ..config }).await.unwrap();
    agent.put(web(80)).await.unwrap();
    assert!(!agent.view().is_ready());
    assert!(agent.unready()[0].contains("being registered"), "{:?}", agent.unready());
    agent.open().await;
    timeout(PATIENCE, agent.ready()).await.unwrap().unwrap();
    assert!(agent.unready().is_empty());
}

#[tokio::test]
async fn who_explains_a_node_asks_the_others_now() {
    let secret = Secret::random();
    let a = builder("a", &secret).start().await.unwrap();
    let (b, c) = tokio::join!(joined("b", &secret, &a), joined("c", &secret, &a));
    for (agent, node) in [(&a, "b"), (&a, "c"), (&b, "c")] {
        until_state(agent, node, MemberState::Alive).await;
    }
    let c = c.view().this().unwrap().id;
    let mut last = Time::ZERO;
    for _ in 0..5 {
        let asked = a.now();
        let explanation = a.explain(c).await.unwrap();
        assert!(explanation.testimonies.iter().all(|said| said.at >= asked && said.at > last), "{explanation:?}");
        last = explanation.testimonies.iter().map(|said| said.at).max().unwrap_or(last);
    }
    assert!(last > Time::ZERO, "b has answered");
}

#[tokio::test]
async fn a_stream_of_changes_begins_with_the_present_and_ends_with_the_agent() {
    let a = builder("a", &Secret::random()).start().await.unwrap();
    let mut changes = a.watch("web");
    assert!(changes.next().await.unwrap().is_empty());
    a.put(web(1)).await.unwrap();
    assert_eq!(changes.next().await.unwrap().len(), 1);
    a.put(Registration::new("db", 2).unwrap()).await.unwrap();
    a.put(web(3)).await.unwrap();
    assert_eq!(changes.next().await.unwrap()[0].registration.port, web(3).port, "another service is no change");
    a.leave().await;
    while timeout(PATIENCE, changes.next()).await.unwrap().is_some() {}
}

#[tokio::test]
async fn ipv6_carries_a_mesh_too() {
    let secret = Secret::random();
    let here: SocketAddr = (Ipv6Addr::LOCALHOST, 0).into();
    let Ok(a) = builder("a", &secret).listen(here).start().await else { return };
    let seed = a.address().to_string();
    let b = builder("b", &secret).listen(here).join([seed]).start().await.unwrap();
    until_state(&a, "b", MemberState::Alive).await;
    b.leave().await;
}

#[tokio::test]
async fn the_later_of_two_living_holders_of_a_name_stops_and_says_why() {
    let secret = Secret::random();
    let a = builder("a", &secret).start().await.unwrap();
    let first = joined("web-1", &secret, &a).await;
    first.put(web(1)).await.unwrap();
    until_instances(&a, "web", 1).await;
    let second = builder("web-1", &secret).join([a.address().to_string()]).start().await.unwrap();
    let why = timeout(PATIENCE, second.stopped()).await.unwrap().unwrap_err();
    assert!(why.contains("another living node is called web-1") && why.contains("--node"), "{why}");
    assert_eq!(a.lookup("web").len(), 1);
    assert_eq!(a.view().node("web-1").unwrap().address(), Some(first.address()));
}

fn stored(node: &str, secret: &Secret, directory: &Path) -> Builder {
    builder(node, secret).data_dir(directory.join(node))
}

#[tokio::test]
async fn a_node_finds_the_mesh_again_without_seeds_and_brings_its_registrations() {
    let (secret, directory) = (Secret::random(), tempfile::tempdir().unwrap());
    let a = builder("a", &secret).start().await.unwrap();
    let b = stored("b", &secret, directory.path()).join([a.address().to_string()]).start().await.unwrap();
    b.ready().await.unwrap();
    b.put(web(1)).await.unwrap();
    until_instances(&a, "web", 1).await;
    let was = b.address();
    b.leave().await;
    until_instances(&a, "web", 0).await;

    let b = stored("b", &secret, directory.path()).start().await.unwrap();
    assert_eq!(b.view().registrations().len(), 1);
    until_instances(&a, "web", 1).await;
    until_state(&b, "a", MemberState::Alive).await;
    let has_moved = |entry: &Arc<Entry>| match &entry.news {
        News::Moved(moved) => (&moved.was[..], &moved.now[..], moved.is_this) == (&[was], &[b.address()], false),
        _ => false,
    };
    assert!(a.journal().after(0).1.iter().any(has_moved), "{:?}", a.journal().after(0));
}

#[tokio::test]
async fn who_is_waited_for_is_named() {
    let (secret, directory) = (Secret::random(), tempfile::tempdir().unwrap());
    let a = stored("a", &secret, directory.path()).start().await.unwrap();
    let b = stored("b", &secret, directory.path()).join([a.address().to_string()]).start().await.unwrap();
    b.ready().await.unwrap();
    a.leave().await;
    b.leave().await;
    let b = stored("b", &secret, directory.path()).start().await.unwrap();
    assert!(b.unready().last().unwrap().contains("not heard is a;"), "{:?}", b.unready());
}

#[tokio::test]
async fn strangers_stay_outside() {
    let a = builder("a", &Secret::random()).start().await.unwrap();
    let seed = a.address().to_string();
    let soon = Duration::from_millis(300);
    let b = builder("b", &Secret::random()).join([seed, "nowhere.invalid:7946".into()]).ready_after(soon);
    let b = b.start().await.unwrap();
    assert!(!b.unready().is_empty());
    b.ready().await.unwrap();
    assert_eq!((a.view().nodes().len(), b.view().nodes().len()), (1, 1));
}

#[tokio::test]
async fn a_start_that_fails_names_the_setting() {
    let secret = Secret::random();
    let a = builder("a", &secret).start().await.unwrap();
    let taken = builder("b", &secret).listen(a.address()).start().await.unwrap_err();
    assert!(matches!(taken, StartError::Listen { address, .. } if address == a.address()));
    let unnamed = builder("a b", &secret).start().await.unwrap_err().to_string();
    assert!(unnamed.starts_with("node "), "{unnamed}");
    let nowhere = builder("b", &secret).advertise("0.0.0.0:1".parse().unwrap()).start().await.unwrap_err().to_string();
    assert!(nowhere.starts_with("advertise cannot be 0.0.0.0:1"), "{nowhere}");
    let wordy = builder("b", &secret).meta("story", &"x".repeat(4096)).start().await.unwrap_err().to_string();
    assert!(wordy.starts_with("meta, zone and datacenter together are over 3 KiB"), "{wordy}");
    let open = Agent::builder().node("a").start().await.unwrap_err().to_string();
    assert!(open.starts_with("secret is missing"), "{open}");
}

fn beat(ttl: Duration, deregister_after: Option<Duration>) -> CheckSpec {
    CheckSpec {
        id: "beat".try_into().unwrap(),
        name: "beat".try_into().unwrap(),
        kind: CheckKind::Ttl(ttl),
        interval: ttl,
        timeout: ttl,
        rise: 1,
        fall: 1,
        initial: None,
        deregister_after,
        rules: Rules::Ours,
    }
}

#[tokio::test]
async fn checks_are_kept_changed_and_taken_away() {
    let (secret, directory) = (Secret::random(), tempfile::tempdir().unwrap());
    let checked = || Registration { checks: vec![beat(PATIENCE, None)], ..web(1) };
    let a = stored("a", &secret, directory.path()).start().await.unwrap();
    assert_eq!(a.put(checked()).await.unwrap(), Done::Created);
    assert_eq!(a.put(checked()).await.unwrap(), Done::Unchanged);
    a.leave().await;
    let a = stored("a", &secret, directory.path()).start().await.unwrap();
    assert_eq!(*a.view().registrations()[0], checked(), "a restart keeps the checks");
    assert_eq!(a.put(checked()).await.unwrap(), Done::Unchanged);
    assert_eq!(a.put(web(1)).await.unwrap(), Done::Changed);
    assert!(a.view().registrations()[0].checks.is_empty());
}

#[tokio::test]
async fn of_writes_over_the_same_one_is_carried_out_and_outlives_a_restart() {
    let (secret, directory) = (Secret::random(), tempfile::tempdir().unwrap());
    let a = stored("a", &secret, directory.path()).start().await.unwrap();
    let mut over = Over::Nothing;
    for round in 1..=4_u16 {
        let writes = (1..=16).map(|n| a.put_over(web(round * 100 + n), over.clone()));
        let done = futures_util::future::join_all(writes).await;
        let outdated = done.iter().filter(|done| matches!(done, Err(Refused::Outdated(_)))).count();
        assert_eq!((outdated, done.iter().filter(|done| done.is_ok()).count()), (15, 1), "round {round}: {done:?}");
        let won = web(round * 100 + 1);
        assert_eq!(*a.view().registrations()[0], won, "who came first");
        over = Over::This(Arc::new(won));
    }
    // While one is on its way, who takes it away for what it was is too late too.
    let id = web(1).id;
    let (put, removed) = tokio::join!(a.put_over(web(1), over.clone()), a.remove_over(&id, over));
    assert!(put.is_ok() && matches!(removed, Err(Refused::Outdated(_))), "{put:?} {removed:?}");
    a.leave().await;
    let a = stored("a", &secret, directory.path()).start().await.unwrap();
    assert_eq!(*a.view().registrations()[0], web(1));
    a.leave().await;
}

#[tokio::test]
async fn what_expires_does_not_rise_at_the_next_start() {
    let (secret, directory) = (Secret::random(), tempfile::tempdir().unwrap());
    let a = stored("a", &secret, directory.path()).start().await.unwrap();
    let short = Duration::from_millis(100);
    a.put(Registration { checks: vec![beat(short, Some(short))], ..web(1) }).await.unwrap();
    until_instances(&a, "web", 0).await;
    assert!(a.view().registrations().is_empty());
    a.leave().await;
    let a = stored("a", &secret, directory.path()).start().await.unwrap();
    assert!(a.view().registrations().is_empty());
}

#[tokio::test]
async fn a_seed_list_of_oneself_does_not_hide_the_stored_peers() {
    let (secret, directory) = (Secret::random(), tempfile::tempdir().unwrap());
    let a = builder("a", &secret).start().await.unwrap();
    let b = stored("b", &secret, directory.path()).join([a.address().to_string()]).start().await.unwrap();
    b.ready().await.unwrap();
    until_state(&b, "a", MemberState::Alive).await;
    let address = b.address();
    b.leave().await;
    let again = || stored("b", &secret, directory.path()).listen(address).join([address.to_string()]).start();
    // QUIC closes its socket a moment after its last connection.
    let b = loop {
        match again().await {
            Ok(b) => break b,
            Err(StartError::Listen { .. }) => tokio::task::yield_now().await,
            Err(why) => panic!("{why}"),
        }
    };
    until_state(&b, "a", MemberState::Alive).await;
}

#[tokio::test]
async fn a_peer_is_found_at_any_of_its_addresses() {
    let secret = Secret::random();
    let (a, b) = (hello::tests::greeter("a", 1, &secret), hello::tests::greeter("b", 2, &secret));
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addresses = [silent.local_addr().unwrap(), b.endpoint.local_addr().unwrap()];
    let answered = async { b.answer(b.endpoint.accept().await.unwrap()).await };
    let (met, _) = tokio::join!(dial::dial_any(&a, &addresses, None), answered);
    assert_eq!(met.unwrap().address(), addresses[1]);
}

#[tokio::test]
async fn where_checks_stand_and_who_is_in_maintenance_outlives_a_restart() {
    let (secret, directory) = (Secret::random(), tempfile::tempdir().unwrap());
    let health = |agent: &Agent| agent.lookup("web")[0].health();
    let a = stored("a", &secret, directory.path()).start().await.unwrap();
    let (web_id, beat_id) = (web(1).id, beat(PATIENCE, None).id);
    a.put(Registration { checks: vec![beat(PATIENCE, None)], ..web(1) }).await.unwrap();
    a.report(&web_id, &beat_id, Health::Warning, "not well").await.unwrap();
    a.report(&web_id, &beat_id, Health::Warning, "so so").await.unwrap();
    a.maintain(Some(&web_id), Some("new disk")).await.unwrap();
    a.maintain(None, Some("new kernel")).await.unwrap();
    assert_eq!(health(&a), Health::Maintenance);
    a.leave().await;
    let a = stored("a", &secret, directory.path()).start().await.unwrap();
    assert_eq!(a.lookup("web")[0].node.maintenance.as_deref(), Some("new kernel"));
    a.maintain(None, None).await.unwrap();
    assert_eq!(a.lookup("web")[0].report.maintenance.as_deref(), Some("new disk"));
    a.maintain(Some(&web_id), None).await.unwrap();
    assert_eq!(health(&a), Health::Warning);
    assert_eq!(&*a.lookup("web")[0].report.checks[0].output, "so so");
    assert!(matches!(a.maintain(Some(&beat_id), None).await, Err(Refused::Rejected(Rejected::NotFound(_)))));
    a.report(&web_id, &beat_id, Health::Warning, "no better").await.unwrap();
    a.leave().await;
    let a = stored("a", &secret, directory.path()).start().await.unwrap();
    assert_eq!(&*a.lookup("web")[0].report.checks[0].output, "no better", "what others were not told of yet");
}

#[tokio::test]
async fn a_check_is_run_and_a_script_is_for_local_files_alone() {
    let a = builder("a", &Secret::random()).start().await.unwrap();
    a.ready().await.unwrap();
    let at = a.address().ip();
    let server = tokio::net::TcpListener::bind((at, 0)).await.unwrap();
    let port = server.local_addr().unwrap().port();
    let draft = crate::Registration::new("web", port).check(crate::Check::tcp("").every(Duration::from_millis(100)));
    let guard = a.register(draft).await.unwrap();
    let is = |health| move |view: &View| view.service("web").is_some_and(|web| web.instances[0].health() == health);
    until(&a, "web is passing", is(Health::Passing)).await;
    drop(server);
    until(&a, "web is critical", is(Health::Critical)).await;
    guard.drain(Duration::ZERO).await.unwrap();
    let script = crate::Check { script: Some(vec!["/bin/true".into()]), ..crate::Check::default() };
    let scripted = || crate::Registration::new("web", 1).check(script.clone()).build().unwrap();
    assert!(matches!(a.put(scripted()).await, Err(Refused::Forbidden(_))));
    assert!(matches!(a.put_local(scripted()).await, Err(Refused::Forbidden(_))), "off unless enabled");
}

#[tokio::test]
async fn a_wave_of_failures_is_doubted_unless_that_is_switched_off() {
    for (lasts, healthy) in [(crate::mesh::PROTECT_FOR, 3), (Duration::ZERO, 0)] {
        let a = builder("a", &Secret::random()).protect_for(lasts).start().await.unwrap();
        a.ready().await.unwrap();
        let ids = ["web-1", "web-2", "web-3"].map(|id| id.try_into().unwrap());
        let beat = CheckSpec { initial: Some(Health::Passing), ..beat(Duration::from_secs(1), None) };
        for id in &ids {
            a.put(Registration { id: InstanceId::clone(id), checks: vec![beat.clone()], ..web(1) }).await.unwrap();
        }
        until(&a, "all are silent", |view| {
            let web = view.service("web").unwrap();
            let passing = web.instances.iter().filter(|one| one.health() == Health::Passing).count();
            passing == healthy && web.instances.iter().all(|one| one.report.health() == Health::Critical)
        })
        .await;
    }
}
