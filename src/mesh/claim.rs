//! What a row is about and what it says: where a book's keys and bodies become words, and words bytes.

use std::sync::Arc;

use bytes::Bytes;

use super::wire;
use crate::model::{HealthReport, InstanceId, Node, Registration};

/// What a row is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Node,
    Service(InstanceId),
    Health(InstanceId),
}

impl Key {
    /// The node's own row.
    pub(super) const NODE: &str = "n";

    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None if text == Self::NODE => Some(Self::Node),
            Some(("s", id)) => id.try_into().ok().map(Self::Service),
            Some(("h", id)) => id.try_into().ok().map(Self::Health),
            _ => None,
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Node => Self::NODE.into(),
            Self::Service(id) => format!("s:{id}"),
            Self::Health(id) => format!("h:{id}"),
        }
    }
}

/// What a live row says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Claim {
    Node(Arc<Node>),
    Service(Arc<Registration>),
    Health(Arc<HealthReport>),
}

impl Claim {
    pub(super) fn parse(key: &Key, body: &[u8]) -> Option<Self> {
        match key {
            Key::Node => wire::decode::<Node>(body).ok().filter(is_reachable).map(|node| Self::Node(Arc::new(node))),
            Key::Service(id) => wire::decode::<Registration>(body)
                .ok()
                .filter(|registration| registration.id == *id && registration.validate().is_ok())
                .map(|registration| Self::Service(Arc::new(registration))),
            Key::Health(_) => wire::decode::<HealthReport>(body).ok().map(|report| Self::Health(Arc::new(report))),
        }
    }

    pub(super) fn encode(&self) -> Bytes {
        match self {
            Self::Node(node) => wire::encode_named(&**node),
            Self::Service(registration) => wire::encode_named(&registration.published()),
            Self::Health(report) => wire::encode_named(&**report),
        }
    }
}

/// Whether others could dial a node that says this of itself.
pub(super) fn is_reachable(node: &Node) -> bool {
    let count = node.addresses.len();
    (1..=Node::MAX_ADDRESSES).contains(&count)
        && node.addresses.iter().all(|address| !address.ip().is_unspecified() && address.port() != 0)
}
