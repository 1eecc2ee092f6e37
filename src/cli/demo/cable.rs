//! The cables between the demo's nodes. What one sends another goes through a socket of ours, so that a cut can be made
//! between them that both take for the network's.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{net::UdpSocket, sync::oneshot, task::JoinSet};

use super::stage::LOOPBACK;
use crate::model::NodeName;

/// Who is where, and who is cut off from the others.
#[derive(Clone, Debug, Default)]
pub(super) struct Cables(Arc<Mutex<Plan>>);

#[derive(Debug, Default)]
struct Plan {
    nodes: BTreeMap<SocketAddr, NodeName>,
    apart: BTreeSet<NodeName>,
}

/// One node's end: others reach it at `address`. Dropping it pulls the plug.
#[derive(Debug)]
pub(super) struct Plug {
    pub(super) address: SocketAddr,
    target: Option<oneshot::Sender<SocketAddr>>,
    _forward: JoinSet<()>,
}

impl Cables {
    /// Lays a cable to a node that is yet to start.
    pub(super) async fn lay(&self, to: &NodeName) -> io::Result<Plug> {
        let front = Arc::new(UdpSocket::bind(LOOPBACK).await?);
        let address = front.local_addr()?;
        let (target, known) = oneshot::channel();
        let mut forward = JoinSet::new();
        let (cables, to) = (self.clone(), to.clone());
        forward.spawn(async move {
            if let Ok(target) = known.await {
                // A socket that fails is a cable that is cut.
                let _ = cables.forward(&to, front, target).await;
            }
        });
        Ok(Plug { address, target: Some(target), _forward: forward })
    }

    /// Cuts these off from all others.
    pub(super) fn cut(&self, apart: impl IntoIterator<Item = NodeName>) {
        self.with(|plan| plan.apart = apart.into_iter().collect());
    }

    /// Tells the cables that the node of this plug listens there now.
    pub(super) fn connect(&self, plug: &mut Plug, node: &NodeName, at: SocketAddr) {
        self.with(|plan| drop(plan.nodes.insert(at, node.clone())));
        let _ = plug.target.take().map(|target| target.send(at));
    }

    /// Whether a packet between the node and whoever has this address arrives. Strangers are everywhere.
    fn joins(&self, node: &NodeName, other: SocketAddr) -> bool {
        self.with(|plan| {
            let is_apart = |node: &NodeName| plan.apart.contains(node);
            plan.nodes.get(&other).is_none_or(|other| is_apart(other) == is_apart(node))
        })
    }

    fn with<T>(&self, look: impl FnOnce(&mut Plan) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Carries packets to the node, and what it answers back to each sender.
    async fn forward(self, to: &NodeName, front: Arc<UdpSocket>, target: SocketAddr) -> io::Result<()> {
        let mut backs = JoinSet::new();
        let mut senders: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
        let mut packet = vec![0; MAX_DATAGRAM];
        loop {
            let Ok((length, from)) = front.recv_from(&mut packet).await else { continue };
            if !self.joins(to, from) {
                continue;
            }
            let back = match senders.get(&from) {
                Some(back) => back,
                None => {
                    let back = Arc::new(UdpSocket::bind(LOOPBACK).await?);
                    back.connect(target).await?;
                    let (cables, to, front, socket) = (self.clone(), to.clone(), Arc::clone(&front), Arc::clone(&back));
                    backs.spawn(async move {
                        let mut packet = vec![0; MAX_DATAGRAM];
                        loop {
                            let Ok(length) = socket.recv(&mut packet).await else { continue };
                            if cables.joins(&to, from) {
                                let _ = front.send_to(&packet[..length], from).await;
                            }
                        }
                    });
                    senders.entry(from).or_insert(back)
                }
            };
            // A node that is gone refuses; who sends finds out by himself.
            let _ = back.send(&packet[..length]).await;
        }
    }
}

/// The largest datagram of UDP.
const MAX_DATAGRAM: usize = 65_535;
