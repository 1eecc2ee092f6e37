//! The whole interface of the core, as data: what comes in, what goes out.
//!
//! A driver owns one [`Mesh`](super::Mesh). It feeds it [`Input`]s (from the world; they cannot fail) and [`Command`]s
//! (from a user; they can be refused), and after each it drains [`Output`]s to the end. Peers are named by [`NodeId`]:
//! the driver vouches that who speaks as `from` has proved that name.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::notary::Objection;
use crate::model::{
    CheckName, Epoch, FieldError, Health, InstanceId, MemberState, MeshName, Node, NodeId, Registration, ServiceName,
};

/// What the world tells the core.
#[derive(Clone, Debug)]
pub enum Input {
    /// The deadline has come.
    Wake,
    /// A connection to a peer stands in both directions and it has said who it is.
    Connected(Hello),
    /// The connection to a peer is gone. A hint, never a verdict.
    Disconnected(NodeId, Gone),
    /// A datagram from a peer. Unreliable: it may be lost, doubled, late or garbage.
    Packet(NodeId, Bytes),
    /// A whole stream from a peer: reliable while the connection lives, and as little to be trusted.
    Message(NodeId, Bytes),
    /// A peer has sent what could not even be handed over: too long, or no message at all.
    Garbage(NodeId, &'static str),
    /// A measured round trip to a peer.
    Rtt(NodeId, Duration),
    /// This node's own addresses or meta data changed.
    Moved(Box<Node>),
    /// Nobody who has heard the whole mesh was found in time: what this node knows is what it answers.
    Waited,
    /// This node's certificate may be another, or who belongs to the mesh: the notary knows.
    Renewed,
    /// A peer's last will: its process of that epoch has died without a goodbye, says whoever outlived it.
    ///
    /// The driver vouches that the statement came over a connection that the peer's *own* certificate opened; what another
    /// member says is no will. The peer is Down here at once ([`Cause::Will`]). All linked members are told on their own
    /// connections, the others by rumour; each believes [`ANNOUNCERS`] who heard it themselves, or fewer and its own quick
    /// look, so that no single member can bury a healthy one. Hence the parent should tell [`HEIRS`] members at a time:
    /// then all know one hop later. A will of an earlier epoch than the one known here does nothing; should the peer
    /// live after all, it hears of it and comes back by itself.
    Will {
        /// Whose will it is.
        node: NodeId,
        /// The epoch of the process that died.
        epoch: Epoch,
    },
    /// The outcome of one run of a check that the driver runs. Of a check that is gone it is forgotten.
    Checked {
        /// The instance.
        instance: InstanceId,
        /// The check's id.
        check: CheckName,
        /// Passing, warning or critical.
        status: Health,
        /// A line for people, cut to 4 KiB.
        output: Arc<str>,
    },
    /// A run of a check found nothing out, for want of the driver's own means: why. What was found before stands, and its
    /// instance does not expire by it until a run has found something again.
    Unable {
        /// The instance.
        instance: InstanceId,
        /// The check's id.
        check: CheckName,
        /// A line for people, shown while nothing was found yet.
        why: Arc<str>,
    },
}

/// How many members a will is brought to: so many that [`ANNOUNCERS`] of them are alive and heard on a bad day.
pub const HEIRS: usize = 8;
/// Members whose own words together are proof of another's will: as many as it takes to be above a conspiracy of two.
pub const ANNOUNCERS: usize = 3;
/// The most members, Down ones included, that are remembered.
pub const MAX_MEMBERS: usize = 20_000;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// The peer said that it leaves the mesh.
    Left,
    /// The peer's machine answered that it knows no such connection: the process died or restarted.
    Reset,
    /// It was closed in order, to save resources or because a second one stands.
    Closed,
    /// The peer lets this node in no more, for now: it said why.
    Expelled,
    /// It timed out, or it never came to be.
    Lost,
}

/// What a user tells the core. A refused command changes nothing.
#[derive(Clone, Debug)]
pub enum Command {
    /// Find the mesh through these addresses, and come back to them when it is lost.
    Join(Vec<SocketAddr>),
    /// Publish one instance, new or changed.
    Register(Arc<Registration>),
    /// Withdraw one instance.
    Deregister(InstanceId),
    /// A program's word on its own TTL check.
    Report {
        /// The instance.
        instance: InstanceId,
        /// The check's id.
        check: CheckName,
        /// Passing, warning or critical.
        status: Health,
        /// A line for people, cut to 4 KiB.
        output: Arc<str>,
    },
    /// Take an instance, or the node with all of them, out of service for this reason; back into it for none.
    Maintain {
        /// The instance; the node when `None`.
        instance: Option<InstanceId>,
        /// Why; at most 512 bytes.
        reason: Option<Arc<str>>,
    },
    /// Knock at a member; [`Output::Here`] tells of its answer.
    Knock(NodeId),
    /// Say goodbye. Afterwards nothing but [`Output`]s already queued should leave.
    Leave,
    /// Have a member that is Down, and will not come back, forgotten as if it had left. Should it live after all, it comes
    /// back under a larger epoch. Refused while the member is seen alive.
    ForceLeave(NodeId),
    /// Ask others when they last heard from a member and how they see it. Their answers come within a round trip and stand
    /// in [`Mesh::explain`](super::Mesh::explain) for a minute.
    Inquire(NodeId),
    /// How long the last healthy set of a service is kept when most of it turns critical within moments; zero for never.
    /// Five minutes unless told otherwise.
    ProtectFor(Duration),
}

/// What a command that was carried out did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Something came to be.
    Created,
    /// Something that was there is different now.
    Changed,
    /// All was as asked before.
    Unchanged,
}

/// Why a command was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// A field is wrong.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// There is no such instance or check on this node.
    #[error("no {0} on this node")]
    NotFound(String),
    /// The row of this is larger than one may be.
    #[error("{0} is larger than the 60 KiB of one registration: give it, or its checks, fewer or shorter words")]
    Large(String),
    /// A limit of this node is reached.
    #[error("this node already holds {0}, its limit")]
    Full(&'static str),
    /// The member is seen alive: only itself can say that it leaves.
    #[error("{0} is {1} here: only a member that is down can be made to leave; an alive one leaves by itself")]
    Alive(String, MemberState),
    /// The node is leaving and takes no more writes.
    #[error("this node is leaving the mesh and takes no more registrations")]
    Leaving,
}

/// What the core wants done. Drained after each mutation.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send a datagram of at most [`MAX_PACKET`](super::wire::MAX_PACKET) bytes; dial first where there is no connection.
    Packet(NodeId, Bytes),
    /// Send a stream of at most [`MAX_MESSAGE`](super::wire::MAX_MESSAGE) bytes; dial first where there is no connection.
    Message(NodeId, Bytes),
    /// Connect to whoever answers at this address.
    Dial(SocketAddr),
    /// Forget the connection to this peer: it is Down or has left.
    Drop(NodeId),
    /// Close the connection to this peer, which behaves badly, and tell it why.
    Expel(NodeId, &'static str),
    /// What may be shown is different now; never empty.
    Changed(BTreeSet<Change>),
    /// Something happened that an operator may want to read.
    Event(Event),
    /// This member has answered a knock.
    Here(NodeId),
    /// What is known of this instance's health, or of the node's maintenance, is different: keep it for the next start,
    /// which gives it to [`Mesh::restore`](super::Mesh::restore).
    Keep(Option<InstanceId>),
    /// A check of this instance says something else, and stands as it stood: others are told in a while.
    Spoken(InstanceId),
    /// This instance was critical for longer than it may be and is withdrawn: forget it in the store.
    Expired(InstanceId),
    /// This node goes on under a larger epoch: keep it, so that its next life begins above.
    Risen(Epoch),
    /// This node had to renew more often than is sane. Another living node may have its name, or somebody lies about it:
    /// until a minute is over it does not renew again.
    NameInUse,
}

/// What may be shown is different for this name: ask the view again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// The instances of a service.
    Service(ServiceName),
    /// A member: its state, its node.
    Member(NodeId),
    /// How far away a member is: shown, and no reason to wake anybody.
    Distance(NodeId),
    /// All is heard that the mesh knows (or there is nobody to hear): answers may be given.
    Ready,
}

/// Something an operator may want to read, with its cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A member is seen in another state than before.
    Member {
        /// Who.
        node: NodeId,
        /// How it was seen; `None` if it was not known.
        was: Option<MemberState>,
        /// How it is seen.
        now: MemberState,
        /// Why.
        cause: Cause,
    },
    /// This node was taken for dead and came back under a new generation.
    Renewed,
    /// A peer sent what no honest peer sends; it was dropped and counted.
    Garbage {
        /// Who.
        peer: NodeId,
        /// What was wrong.
        why: &'static str,
    },
    /// A peer sent so much garbage that its connection is closed; for a minute it is not let in again.
    Expelled {
        /// Who.
        peer: NodeId,
        /// What was wrong with the last of it.
        why: &'static str,
    },
    /// More than half of the mesh went silent within one suspicion window: this node is the one cut off. It goes on
    /// serving what it last knew, marked [`Held::CutOff`](super::Held).
    PartitionBegan {
        /// How many members do not answer.
        missing: usize,
        /// Of how many that were asked, this node counted.
        of: usize,
    },
    /// Most of the mesh is back: those who are not are Down for good.
    PartitionEnded {
        /// How many that were held are still missing.
        missing: usize,
    },
    /// Most healthy instances of a service turned critical within moments: they are served as they were.
    ProtectionBegan {
        /// The service.
        service: ServiceName,
        /// How many instances are kept.
        kept: usize,
        /// Of how many that were healthy.
        of: usize,
    },
    /// A service's instances are served as their checks see them again.
    ProtectionEnded {
        /// The service.
        service: ServiceName,
        /// Why.
        why: Unprotected,
    },
    /// A member went Down and came back once too often: what it serves is shown again only after a while.
    Flapping {
        /// Who.
        node: NodeId,
        /// How often it came back lately.
        returns: usize,
        /// How long it has to stay.
        hidden_for: Duration,
    },
    /// This process did not run for a while; it listens before it judges anybody.
    Paused {
        /// How late it woke.
        late: Duration,
    },
}

/// Why a service's protection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unprotected {
    /// Most of it is healthy again.
    Recovered,
    /// It has lasted as long as it may.
    Expired,
    /// What was kept is withdrawn, or is known to be critical.
    Gone,
}

/// Why a member is seen as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It connected and said hello.
    Hello,
    /// A peer told us.
    Told,
    /// It did not answer our probes.
    ProbeFailed,
    /// It was suspected and did not refute in time.
    SuspicionExpired,
    /// It refuted the suspicion.
    Refuted,
    /// It said goodbye.
    Left,
    /// It came back with a new generation.
    Returned,
    /// Its process died, says its own last will.
    Will,
    /// An operator declared that it will not come back.
    Forced,
    /// The authority has revoked its name or its certificate.
    Revoked,
    /// Its certificate has ended.
    CertificateExpired,
    /// No authority that is believed here stands behind its certificate any more.
    CertificateUntrusted,
}

impl From<Objection> for Cause {
    fn from(objection: Objection) -> Self {
        match objection {
            Objection::Revoked => Self::Revoked,
            Objection::Expired => Self::CertificateExpired,
            Objection::Untrusted => Self::CertificateUntrusted,
        }
    }
}

impl Cause {
    /// The word users see.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Told => "told",
            Self::ProbeFailed => "probe_failed",
            Self::SuspicionExpired => "suspicion_expired",
            Self::Refuted => "refuted",
            Self::Left => "left",
            Self::Returned => "returned",
            Self::Will => "will",
            Self::Forced => "forced",
            Self::Revoked => "revoked",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateUntrusted => "certificate_untrusted",
        }
    }
}

/// The first words of each side on every connection; nothing else is accepted before them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version of the protocol, [`super::wire::VERSION`].
    pub protocol: u8,
    /// The mesh the speaker belongs to.
    pub mesh: MeshName,
    /// The speaker; must be [`NodeId::of`] its mesh and its node's name.
    pub id: NodeId,
    /// The speaker's SWIM generation: its epoch and how often it renewed.
    pub generation: Generation,
    /// A random number drawn at the start of the process: tells a restart from a second holder of the name.
    pub boot: u64,
    /// What the speaker says of itself.
    pub node: Node,
    /// Words for abilities beyond this version.
    #[serde(default)]
    pub features: Vec<String>,
}

/// A node's SWIM generation: the epoch of its process in the upper 48 bits, its renewals since in the lower 16.
/// The larger one wins. Versions of rows never depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The first generation of a process.
    #[must_use]
    pub const fn first(epoch: Epoch) -> Self {
        Self(epoch.0 << RENEWAL_BITS)
    }

    /// The process's epoch.
    #[must_use]
    pub const fn epoch(self) -> Epoch {
        Epoch(self.0 >> RENEWAL_BITS)
    }

    /// The generation after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Renewals per epoch: 65,536. At the cap of five a minute they last nine days; then the node takes a new epoch.
const RENEWAL_BITS: u32 = 16;
