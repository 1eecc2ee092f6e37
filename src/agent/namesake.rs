//! Two processes of one name: who holds it, and whether he lives.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use quinn::{ApplicationClose, Connection};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::{
    dial::dial_any,
    hello::{Greeter, Met, Missed},
    link::PING_TIMEOUT,
    peers::Arrival,
    quic::{Code, canonical},
};
use crate::{
    mesh::Hello,
    model::{Epoch, NodeId},
};

/// Whom the core knows under a newcomer's name.
pub(super) struct Holder {
    pub(super) epoch: Epoch,
    pub(super) addresses: Vec<SocketAddr>,
}

impl Holder {
    /// Whether this is another process than the newcomer, at another place: one at the same place cannot be alive.
    pub(super) fn is_elsewhere(&self, newcomer: &Met) -> bool {
        let theirs = &newcomer.hello.node.addresses;
        self.epoch != newcomer.hello.generation.epoch()
            && !self.addresses.iter().any(|address| *address == newcomer.address() || theirs.contains(address))
    }
}

/// Where the holder of our name lives: who closed a connection for it says so, unless it is the holder itself.
pub(super) fn holder(close: &ApplicationClose, peer: SocketAddr) -> SocketAddr {
    std::str::from_utf8(&close.reason).ok().and_then(|said| said.parse().ok()).unwrap_or(peer)
}

/// Somebody has our own name. Of two processes the one that started later must go, and both sides see which.
pub(super) fn meet_namesake(connection: &Connection, ours: &Hello, theirs: &Hello) -> Missed {
    if theirs.boot == ours.boot {
        connection.close(Code::Closed.into(), b"dialled itself");
        return Missed::Ourselves;
    }
    let we_came_first = (ours.generation, ours.boot) < (theirs.generation, theirs.boot);
    if we_came_first {
        connection.close(Code::NameInUse.into(), b"");
        return Missed::Protocol("has this node's own name and was told to choose another");
    }
    connection.close(Code::Closed.into(), b"yields the name");
    Missed::NameInUse(canonical(connection.remote_address()))
}

/// Where another process of the newcomer's name answers, and proves itself, if it does so soon: then it is met.
pub(super) async fn find_holder(
    greeter: &Greeter,
    newcomer: &Met,
    addresses: Vec<SocketAddr>,
    arrivals: &mpsc::Sender<Arrival>,
) -> Option<SocketAddr> {
    let met = timeout(PING_TIMEOUT, dial_any(greeter, &addresses, Some(newcomer.hello.id))).await.ok()?.ok()?;
    if met.hello.boot == newcomer.hello.boot {
        met.connection.close(Code::Closed.into(), b"");
        return None;
    }
    let at = met.address();
    let _ = arrivals.send(Arrival::Met(Box::new(met), None)).await;
    Some(at)
}

/// What peers say of who has our name, and when it was looked into last: by who says it, as its certificate proves. So who
/// names wrong places all the time has his own looked at alone. A stranger has no word in it: the handshake ends before he
/// can say one.
#[derive(Debug, Default)]
pub(super) struct Disputes(HashMap<NodeId, (SocketAddr, Instant)>);

impl Disputes {
    /// Whether to dial this one: a place and a peer's word each once in a while, since either may be made up.
    pub(super) fn are_looked_into(&mut self, by: NodeId, holder: SocketAddr, now: Instant) -> bool {
        self.0.retain(|_, (_, at)| now - *at < LOOKED_INTO_EVERY);
        let is_known = self.0.contains_key(&by) || self.0.values().any(|(known, _)| *known == holder);
        if is_known || self.0.len() >= MAX_DISPUTES {
            return false;
        }
        self.0.insert(by, (holder, now));
        true
    }
}

/// Whether a node of our own name, which came first, answers at `holder`: a peer said so, and may be wrong.
pub(super) async fn check_holder(greeter: Arc<Greeter>, holder: SocketAddr, arrivals: mpsc::Sender<Arrival>) {
    let why = match greeter.dial(holder, None).await {
        Err(Missed::NameInUse(holder)) => return drop(arrivals.send(Arrival::NameInUse(holder)).await),
        Ok(_) => "another node than this one's namesake answers there".into(),
        Err(why) => why.to_string(),
    };
    if let Some(unsaid) = greeter.lines.name_disputed.take(Instant::now()) {
        tracing::warn!(event = "name_disputed", %holder, why, unsaid);
    }
}

/// How long a peer's word, and a place that was named, is not looked into again.
const LOOKED_INTO_EVERY: Duration = Duration::from_secs(10);
/// Words looked into in that time: with a secret that all share one member may have many names, and each is a dial.
const MAX_DISPUTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{Secret, hello::tests::greeter};

    #[tokio::test]
    async fn a_word_on_our_name_is_that_of_whom_the_certificate_proves() {
        let secret = Secret::random();
        let (a, b) = (greeter("a", 1, &secret), greeter("b", 2, &secret));
        let refuse = async {
            let connection = b.endpoint.accept().await.unwrap().await.unwrap();
            let _stream = connection.accept_bi().await.unwrap();
            connection.close(Code::NameInUse.into(), b"192.0.2.1:7946");
        };
        let (met, ()) = tokio::join!(a.dial(b.endpoint.local_addr().unwrap(), None), refuse);
        let Err(Missed::NameSaidInUse(by, at)) = met else { panic!("it is taken for something else") };
        assert_eq!((by, at), (b.hello.load().id, ([192, 0, 2, 1], 7946).into()));
    }

    #[tokio::test]
    async fn who_names_wrong_places_keeps_nobody_else_from_being_believed() {
        let (mut disputes, now) = (Disputes::default(), Instant::now());
        let at = |port: u16| SocketAddr::from(([192, 0, 2, 1], port));
        let (liar, honest) = (NodeId(1), NodeId(2));
        for second in 0..100 {
            let now = now + Duration::from_secs(second.into());
            assert_eq!(disputes.are_looked_into(liar, at(second), now), second % 10 == 0);
            assert_eq!(disputes.are_looked_into(honest, at(1000), now), second % 10 == 0, "each is looked into");
            assert!(!disputes.are_looked_into(NodeId(3), at(1000), now), "once for all who say it");
        }
        let later = now + Duration::from_secs(200);
        let many = (0..1000).filter(|id| disputes.are_looked_into(NodeId((*id).into()), at(*id), later));
        assert_eq!(many.count(), MAX_DISPUTES);
        assert!(disputes.are_looked_into(honest, at(1000), later + LOOKED_INTO_EVERY));
    }
}
