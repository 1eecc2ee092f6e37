//! What may be shown: the catalogue joined with membership. Live rows of members that are not Down (law 7).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use crate::model::{Epoch, Health, HealthReport, Host, MemberState, Node, NodeId, Registration, Time};

/// One instance as it may be shown.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Who owns it.
    pub owner: NodeId,
    /// Its owner's word on itself.
    pub node: Arc<Node>,
    /// What was asked for.
    pub registration: Arc<Registration>,
    /// What its checks say.
    pub report: Arc<HealthReport>,
    /// How the mesh sees its owner: Alive or Suspect.
    pub member: MemberState,
}

impl Instance {
    /// What its checks say, as one word.
    #[must_use]
    pub fn health(&self) -> Health {
        self.report.health()
    }

    /// Where it listens: its own address, else its node's.
    #[must_use]
    pub fn address(&self) -> Host {
        match (&self.registration.address, self.node.addresses.first()) {
            (Some(host), _) => host.clone(),
            (None, Some(address)) => Host::Address(address.ip()),
            // A node without an address does not get past `wire`; this is the address that reaches nobody.
            (None, None) => Host::Address([0, 0, 0, 0].into()),
        }
    }
}

/// One node as it may be shown.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// Its word on itself.
    pub node: Arc<Node>,
    /// How the mesh sees it.
    pub state: MemberState,
    /// Its restart generation.
    pub epoch: Epoch,
    /// Since when it is seen so.
    pub since: Time,
    /// The round trip to it: measured, or estimated from coordinates.
    pub rtt: Option<Duration>,
    /// The version its book has reached here.
    pub version: u64,
}

impl Member {
    /// The address its mesh port answers at.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.node.addresses.first().copied()
    }
}
