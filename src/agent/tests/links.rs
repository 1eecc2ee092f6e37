//! Which links stay when the law or the papers of a node change.

use tokio_util::task::TaskTracker;

use super::*;
use crate::{
    agent::{
        hello::tests::{greeter, meet},
        peers::Peers,
        trust::{Proof, Word},
    },
    mesh::Objection,
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
