//! Who takes part: a node, its stable id, its restart generation, and how the mesh sees it.

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{MeshName, NodeName};

/// A node's id on the wire: a hash of (mesh name, node name), so that it outlives restarts and moves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The id of the node called `node` in the mesh called `mesh`; case does not matter.
    #[must_use]
    pub fn of(mesh: &MeshName, node: &NodeName) -> Self {
        let text = format!("{}\0{}", mesh.as_str().to_ascii_lowercase(), node.as_str().to_ascii_lowercase());
        Self(xxh3_64(text.as_bytes()))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// A node's restart generation: `max(stored + 1, unix milliseconds)`. A larger epoch's book replaces a smaller one's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
#[cfg_attr(feature = "agent", derive(schemars::JsonSchema))]
pub struct Epoch(pub u64);

impl Epoch {
    /// How far from now an epoch may be that a node says of itself: its clock may have been wrong, or it was lied to. With 48
    /// bits that leaves epochs for eight thousand years.
    pub(crate) const FURTHEST: Duration = Duration::from_secs(100 * 365 * 86_400);
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name, unique in the mesh.
    pub name: NodeName,
    /// Where its mesh port answers, best first; at least one and at most [`Node::MAX_ADDRESSES`].
    #[serde(deserialize_with = "super::list")]
    pub addresses: Vec<SocketAddr>,
    /// The datacenter it stands in.
    pub datacenter: Arc<str>,
    /// The zone (rack, availability zone) it stands in; empty when none was given.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub zone: Arc<str>,
    /// The version of the program.
    pub version: Arc<str>,
    /// Free pairs of text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
    /// Why it was taken out of service with all its instances, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Arc<str>>,
    /// Proves, by its certificate, which key its book is signed with; only the mesh's notaries can read it.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub voucher: Bytes,
}

impl Node {
    /// How many addresses a node may have.
    pub const MAX_ADDRESSES: usize = 8;

    /// Whether both say the same of it, whatever proves that.
    #[cfg(feature = "agent")]
    pub(crate) fn says_as(&self, other: &Self) -> bool {
        self == other || *self == Self { voucher: self.voucher.clone(), ..other.clone() }
    }
}

/// How the mesh sees a node. `Left` is not `Down`: who left said so himself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "agent", derive(schemars::JsonSchema))]
pub enum MemberState {
    /// It answers.
    Alive,
    /// Somebody missed its answers; it may still refute.
    Suspect,
    /// It is gone without a word. Its instances are hidden, its book is kept for a while.
    Down,
    /// It said goodbye. Its rows are dropped.
    Left,
}

impl MemberState {
    /// Whether the instances of a member in this state may be shown.
    #[must_use]
    pub const fn is_shown(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }

    /// The word users see.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Left => "left",
        }
    }
}

impl fmt::Display for MemberState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.as_str())
    }
}
