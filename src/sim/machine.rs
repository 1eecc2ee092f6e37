//! One machine: what its disk keeps, and the process that runs on it, if one does.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::queue::Event;
use crate::{
    mesh::Mesh,
    model::{Epoch, InstanceId, Node, NodeId, Registration, Time},
};

/// What a machine has sent since the world began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams.
    pub packets: u64,
    /// Bytes in them.
    pub packet_bytes: u64,
    /// Streams.
    pub messages: u64,
    /// Bytes in them.
    pub message_bytes: u64,
    /// Connections begun by this machine.
    pub dials: u64,
}

impl Traffic {
    /// Bytes of payload in datagrams and streams.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.packet_bytes + self.message_bytes
    }

    /// What UDP, IP, QUIC and its seal add to that: some 60 bytes for each datagram and each packet of a stream.
    #[must_use]
    pub const fn overhead(&self) -> u64 {
        (self.packets + self.messages + self.message_bytes / 1150) * 60
    }
}

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) epoch: Option<Epoch>,
    pub(super) registrations: BTreeMap<InstanceId, Arc<Registration>>,
    /// Whom to expect at the next start.
    pub(super) known: Vec<(NodeId, Vec<SocketAddr>)>,
}

/// A running process.
pub(super) struct Process {
    pub(super) mesh: Mesh,
    /// The world's time at its [`Time::ZERO`].
    pub(super) started: Time,
    /// The number of the world's first connection that is younger than this process.
    pub(super) first_connection: u32,
    /// What came in while it was stopped; `None` while it runs.
    pub(super) paused: Option<Vec<Event>>,
    /// The earliest wake-up in the queue.
    pub(super) wake: Time,
    links: BTreeMap<NodeId, Link>,
    /// Whom it has lost of those it was linked with from birth; `None` for one that was born alone. Ten thousand
    /// machines have too many pairs to write each down.
    parted: Option<BTreeSet<NodeId>>,
    /// What waits for a dial, by the peer dialled.
    pub(super) waiting: BTreeMap<NodeId, Vec<Parcel>>,
}

impl Process {
    pub(super) fn born(mesh: Mesh, now: Time, first_connection: u32, birth: Birth) -> Self {
        Self {
            mesh,
            started: now,
            first_connection,
            paused: None,
            wake: Time::NEVER,
            links: BTreeMap::new(),
            parted: (birth == Birth::Linked).then(BTreeSet::new),
            waiting: BTreeMap::new(),
        }
    }

    /// Its end of the connection with `peer`, whose machine is `n`.
    pub(super) fn link(&self, peer: NodeId, elders: &BTreeMap<NodeId, u32>) -> Option<Link> {
        let from_birth = || {
            let standing = self.parted.as_ref().is_some_and(|parted| !parted.contains(&peer));
            elders.get(&peer).filter(|_| standing).map(|&peer| Link { connection: ELDERS, peer })
        };
        self.links.get(&peer).copied().or_else(from_birth)
    }

    pub(super) fn tie(&mut self, peer: NodeId, link: Link) {
        self.untie(peer);
        self.links.insert(peer, link);
    }

    pub(super) fn untie(&mut self, peer: NodeId) {
        self.links.remove(&peer);
        self.parted.as_mut().map(|parted| parted.insert(peer));
    }

    /// Everybody it has a connection with.
    pub(super) fn linked(&self, elders: &BTreeMap<NodeId, u32>) -> Vec<NodeId> {
        let candidates = self.parted.iter().flat_map(|_| elders.keys()).chain(self.links.keys());
        let known: BTreeSet<NodeId> = candidates.copied().collect();
        known.into_iter().filter(|peer| *peer != self.mesh.id() && self.link(*peer, elders).is_some()).collect()
    }

    /// The world's time as this process counts it.
    pub(super) fn local(&self, now: Time) -> Time {
        Time::after_start(now.since(self.started))
    }

    /// The world's time at this process's deadline.
    pub(super) fn deadline(&self) -> Time {
        match self.mesh.deadline() {
            Time::NEVER => Time::NEVER,
            at => self.started + at.since_start(),
        }
    }
}

/// How a process comes into the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Birth {
    /// It has to dial.
    Alone,
    /// It is connected with all that were born like it.
    Linked,
}

/// One end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) connection: u32,
    pub(super) peer: u32,
}

/// Something to send.
#[derive(Clone, Debug)]
pub(super) enum Parcel {
    Packet(Bytes),
    Message(Bytes),
}

/// A machine and its disk.
pub(super) struct Machine {
    pub(super) id: NodeId,
    pub(super) node: Node,
    pub(super) seeds: Vec<SocketAddr>,
    pub(super) disk: Disk,
    /// How wrong its wall clock is, in milliseconds.
    pub(super) clock_error: i64,
    /// Counts starts and stops, so that what belongs to a former process can be told.
    pub(super) life: u32,
    pub(super) process: Option<Process>,
    pub(super) traffic: Traffic,
}

impl Machine {
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.node.addresses.first().copied()
    }

    /// Its wall clock in unix milliseconds.
    pub(super) fn unix_millis(&self, now: Time) -> u64 {
        let right = EPOCH_START + u64::try_from(now.since_start().as_millis()).unwrap_or(u64::MAX / 2);
        right.saturating_add_signed(self.clock_error)
    }
}

/// Whom a dial looks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// Whoever answers at a seed's address.
    Seed,
    /// A member.
    Peer(NodeId),
}

/// A dial under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dial {
    pub(super) from: u32,
    pub(super) life: u32,
    pub(super) target: Target,
    pub(super) address: SocketAddr,
    pub(super) fails: Time,
}

/// The connection that stands for all those from birth.
pub(super) const ELDERS: u32 = 1;
/// The wall clock when a world begins: 2026-01-01.
const EPOCH_START: u64 = 1_767_225_600_000;
/// After so long a dial has failed.
pub(super) const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
