//! One machine: what its disk keeps, and the process that runs on it, if one does.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

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
    pub(super) peers: Vec<SocketAddr>,
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
    pub(super) links: BTreeMap<NodeId, Link>,
    /// What waits for a dial, by the peer dialled.
    pub(super) waiting: BTreeMap<NodeId, Vec<Parcel>>,
}

impl Process {
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
    /// Whoever answers there: a seed.
    Address(SocketAddr),
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

/// The wall clock when a world begins: 2026-01-01.
const EPOCH_START: u64 = 1_767_225_600_000;
/// After so long a dial has failed.
pub(super) const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
