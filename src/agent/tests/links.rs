//! Which links stay when the law or the papers of a node change, and which come back.

use quinn::ConnectionError;
use tokio_util::task::TaskTracker;

use super::*;
use crate::{
    agent::{
        hello::{
            GREETING,
            tests::{greeter, meet},
        },
        peers::{Arrival, Parcel, Peers, Target},
        quic::Code,
        trust::{Proof, Word},
    },
    mesh::{Input, Objection},
};

#[tokio::test]
async fn a_word_of_the_law_closes_the_links_of_whom_it_revokes_and_no_others() {
    let secret = Secret::random();
    let host = greeter("a", 1, &secret);
    let (arrivals, _arrived) = tokio::sync::mpsc::channel(64);
    let mut peers = Peers::new(Arc::clone(&host), arrivals, TaskTracker::new(), 1);
    let (mut links, mut callers) = (Vec::new(), Vec::new());
    for (boot, name) in [(2, "b"), (3, "c")] {
        let caller = greeter(name, boot, &secret);
        let (there, here) = meet(&caller, &host).await;
        let met = here.unwrap();
        links.push(met.connection.clone());
        peers.meet(Box::new(met), None, None);
        callers.push((caller, there.unwrap()));
    }
    let closed = || links.iter().map(|link| link.close_reason().is_some()).collect::<Vec<_>>();
    let decree = |name: &str| {
        let word = Word::DenyNode(name.try_into().unwrap());
        let edict = host.trust.decree(word, false, unix_millis()).unwrap();
        host.trust.take(&edict, unix_millis()).unwrap();
    };
    // By what this node holds now nobody belongs to the mesh: that may be its own fault.
    host.trust.renew(Proof::Secrets(&[Secret::random()])).unwrap();
    decree("nobody");
    peers.recheck(&[Objection::Revoked]);
    assert_eq!(closed(), [false, false]);
    decree("b");
    peers.recheck(&[Objection::Revoked]);
    assert_eq!(closed(), [true, false]);
    peers.recheck(&[Objection::Revoked, Objection::Untrusted]);
    assert_eq!(closed(), [true, true]);
}

#[tokio::test]
async fn who_proves_itself_anew_calls_at_once_whoever_hung_up_on_it() {
    let secret = Secret::random();
    let [a, b] = [("a", 1), ("b", 2)].map(|(name, boot)| greeter(name, boot, &secret));
    let (arrivals, mut arrived) = tokio::sync::mpsc::channel(64);
    let mut peers = Peers::new(Arc::clone(&a), arrivals, TaskTracker::new(), 1);
    let (id, at) = (b.hello.load().id, b.endpoint.local_addr().unwrap());
    peers.expel(id, "for a while nobody dials");
    peers.send(id, Parcel::Packet(bytes::Bytes::new()), || vec![at]);
    assert_eq!(a.traffic.dropped_outgoing.read(), 1);
    peers.call([(id, vec![at])].into_iter());
    let answered = async { b.answer(b.endpoint.accept().await.unwrap()).await };
    let (met, arrival) = tokio::join!(answered, arrived.recv());
    assert!(met.is_ok() && matches!(arrival, Some(Arrival::Met(..))));
}

/// What was asked in the handshake may be otherwise by the time of the hello, or of the judgement on a name.
#[tokio::test]
async fn who_is_revoked_while_it_says_hello_is_not_let_in() {
    let secret = Secret::random();
    let [host, b, again] = [("a", 1), ("b", 2), ("b", 3)].map(|(name, boot)| greeter(name, boot, &secret));
    let (arrivals, _arrived) = tokio::sync::mpsc::channel(64);
    let mut peers = Peers::new(Arc::clone(&host), arrivals, TaskTracker::new(), 1);
    let [first, second, third] = [meet(&b, &host).await, meet(&again, &host).await, meet(&host, &b).await];
    let edict = host.trust.decree(Word::DenyNode("b".try_into().unwrap()), false, unix_millis()).unwrap();
    host.trust.take(&edict, unix_millis()).unwrap();
    let [called, judged, dialled] = [first.1, second.1, third.0].map(|met| Box::new(met.unwrap()));
    let connections = [&called, &judged, &dialled].map(|met| met.connection.clone());
    let target = Target::Peer(b.hello.load().id);
    assert!(peers.meet(called, None, None).is_empty());
    assert!(peers.judge(judged, None).is_empty());
    assert!(matches!(peers.meet(dialled, Some(target), None)[..], [Input::Disconnected(..)]), "as a dial that failed");
    assert!(connections.iter().all(|connection| connection.close_reason().is_some()));
    assert_eq!(peers.links(), 0);
}

/// Who keeps a link beyond the end of the certificate that opened it shows another, or goes.
#[tokio::test]
async fn a_link_ends_with_its_certificate_unless_its_peer_has_another() {
    let secret = Secret::random();
    let host = greeter("a", 1, &secret);
    let (arrivals, mut arrived) = tokio::sync::mpsc::channel(64);
    let mut peers = Peers::new(Arc::clone(&host), arrivals, TaskTracker::new(), 1);
    let (mut links, mut callers) = (Vec::new(), Vec::new());
    for (boot, name) in [(2, "b"), (3, "c"), (4, "d")] {
        let caller = greeter(name, boot, &secret);
        let (there, here) = meet(&caller, &host).await;
        let met = here.unwrap();
        links.push(met.connection.clone());
        peers.meet(Box::new(met), None, None);
        callers.push((caller, there.unwrap()));
    }
    let closed = || links.iter().map(|link| link.close_reason().is_some()).collect::<Vec<_>>();
    peers.expire(unix_millis());
    assert_eq!(closed(), [false; 3]);
    let all: Vec<_> = callers.iter().map(|(caller, _)| Arc::clone(caller)).collect();
    for caller in &all {
        peers.outlive(caller.hello.load().id);
        caller.trust.renew(Proof::Secrets(&[Secret::random()])).unwrap();
    }
    let mut answered = Vec::new();
    for round in 0..4 {
        assert_eq!(closed(), [false; 3], "asked {round} times; all at once: it may be this node's own fault");
        if round == 3 {
            [&all[0], &all[2]]
                .iter()
                .for_each(|one| one.trust.renew(Proof::Secrets(std::slice::from_ref(&secret))).unwrap());
        }
        peers.expire(unix_millis());
        for caller in &all {
            answered.push(caller.answer(caller.endpoint.accept().await.unwrap()).await);
        }
        let mut left = all.len();
        while left > 0 {
            left -= match arrived.recv().await.unwrap() {
                Arrival::Met(met, target) => usize::from(peers.meet(met, target, None).is_empty()),
                Arrival::Missed(target, _) => usize::from(peers.miss(target).is_none()),
                _ => 0,
            };
        }
    }
    peers.expire(unix_millis());
    assert!(closed()[1], "asked in vain, and alone");
    assert_eq!(answered.iter().filter(|met| met.is_ok()).count(), 2, "the others have shown another");
}

/// A peer that reads nothing any more keeps no connection open in whose place another stands.
#[tokio::test]
async fn a_connection_that_was_replaced_ends_whatever_waits_on_it() {
    let secret = Secret::random();
    let [host, b] = [("a", 1), ("b", 2)].map(|(name, boot)| greeter(name, boot, &secret));
    let (arrivals, _arrived) = tokio::sync::mpsc::channel(64);
    let mut peers = Peers::new(Arc::clone(&host), arrivals, TaskTracker::new(), 1);
    let (id, message) = (b.hello.load().id, bytes::Bytes::from(vec![0; 4 << 10]));
    let [(first, met), (_second, again)] = [meet(&b, &host).await, meet(&b, &host).await];
    peers.meet(Box::new(met.unwrap()), None, None);
    while host.traffic.dropped_outgoing.read() == 0 {
        peers.send(id, Parcel::Message(message.clone()), Vec::new);
        tokio::task::yield_now().await;
    }
    peers.meet(Box::new(again.unwrap()), None, None);
    let first = first.unwrap().connection;
    let ended = tokio::time::timeout(GREETING, first.closed()).await.expect("it ends soon");
    assert!(matches!(ended, ConnectionError::ApplicationClosed(close) if Code::of(&close) == Some(Code::Duplicate)));
}

/// Who lives shows it while somebody else is judged who says that he is he: then he keeps his name, however he was asked.
#[tokio::test]
async fn a_holder_who_calls_while_a_namesake_is_judged_keeps_his_name() {
    let secret = Secret::random();
    let [host, b, namesake] = [("a", 1), ("b", 2), ("b", 3)].map(|(name, boot)| greeter(name, boot, &secret));
    let (arrivals, mut arrived) = tokio::sync::mpsc::channel(64);
    let mut peers = Peers::new(Arc::clone(&host), arrivals, TaskTracker::new(), 1);
    let [first, newcomer, again] = [meet(&b, &host).await, meet(&namesake, &host).await, meet(&b, &host).await];
    peers.meet(Box::new(first.1.unwrap()), None, None);
    // Nobody answers there.
    peers.outlive(b.hello.load().id);
    assert!(peers.meet(Box::new(newcomer.1.unwrap()), None, None).is_empty());
    peers.meet(Box::new(again.1.unwrap()), None, None);
    let Some(Arrival::Judged(newcomer, None)) = arrived.recv().await else { panic!("nobody was there to answer") };
    let connection = newcomer.connection.clone();
    assert!(peers.judge(newcomer, None).is_empty());
    assert!(connection.close_reason().is_some() && peers.links() == 1);
}

/// Whose link is older than its first certificate has another, and proves it before a newcomer has its name; or has none.
#[tokio::test]
async fn a_link_that_outlives_its_first_certificate_gives_no_name_away() {
    for renewed in [true, false] {
        let secret = Secret::random();
        let [host, b, namesake] = [("a", 1), ("b", 2), ("b", 3)].map(|(name, boot)| greeter(name, boot, &secret));
        let (arrivals, mut arrived) = tokio::sync::mpsc::channel(64);
        let mut peers = Peers::new(Arc::clone(&host), arrivals, TaskTracker::new(), 1);
        let [(_first, first), (_there, newcomer)] = [meet(&b, &host).await, meet(&namesake, &host).await];
        peers.meet(Box::new(first.unwrap()), None, None);
        peers.outlive(b.hello.load().id);
        if !renewed {
            b.trust.renew(Proof::Secrets(&[Secret::random()])).unwrap();
        }
        assert!(peers.meet(Box::new(newcomer.unwrap()), None, None).is_empty());
        let _answered = b.answer(b.endpoint.accept().await.unwrap()).await;
        let mut met = Vec::new();
        let (newcomer, holder) = loop {
            match arrived.recv().await.unwrap() {
                Arrival::Met(again, target) => met.extend(peers.meet(again, target, None)),
                Arrival::Judged(newcomer, holder) => break (newcomer, holder),
                _ => {}
            }
        };
        assert_eq!(holder.is_some(), renewed);
        let connection = newcomer.connection.clone();
        let is_in = !peers.judge(newcomer, holder).is_empty();
        assert_eq!((is_in, connection.close_reason().is_none()), (!renewed, !renewed));
        assert_eq!((peers.links(), met.len()), (1, 0));
    }
}
