//! Two processes of one name: who holds it, and whether he lives.

use std::{net::SocketAddr, sync::Arc};

use quinn::Connection;
use tokio::{sync::mpsc, time::timeout};

use super::{
    hello::{Greeter, Met, Missed, dial_any},
    link::PING_TIMEOUT,
    peers::Arrival,
    quic::{Code, canonical},
};
use crate::{mesh::Hello, model::Epoch};

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

/// Whether a node of our own name, which came first, answers at `holder`: a peer said so, and may be wrong.
pub(super) async fn check_holder(greeter: Arc<Greeter>, holder: SocketAddr, arrivals: mpsc::Sender<Arrival>) {
    match greeter.dial(holder, None).await {
        Err(Missed::NameInUse(holder)) => drop(arrivals.send(Arrival::NameInUse(holder)).await),
        Ok(_) => {
            tracing::warn!(event = "name_disputed", %holder, "another node than this one's namesake answers there")
        }
        Err(why) => tracing::warn!(event = "name_disputed", %holder, %why),
    }
}
