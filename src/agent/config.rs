//! What an agent needs to start, and what no peer could take from it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{Secret, checks, trust};
use crate::model::{MeshName, NodeName, check_datacenter};

/// What an agent needs to start.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's name, unique in its mesh.
    pub node: NodeName,
    /// The mesh it belongs to.
    pub mesh: MeshName,
    /// The datacenter it stands in.
    pub datacenter: String,
    /// The zone it stands in; may be empty.
    pub zone: String,
    /// Free pairs of text about the node.
    pub meta: BTreeMap<String, String>,
    /// Where the mesh port listens (UDP); port 0 takes any. `[::]` also hears IPv4.
    pub listen: SocketAddr,
    /// The address others should use, where it is not the one listened on.
    pub advertise: Option<SocketAddr>,
    /// `host:port` of nodes to find the mesh through; names are resolved again on every try.
    pub join: Vec<String>,
    /// The mesh's secrets: the first signs, all verify. At least one.
    pub secrets: Vec<Secret>,
    /// Certificate mode: the files to prove oneself with, instead of the secrets.
    pub tls: Option<trust::Files>,
    /// Where to keep what must survive; `None` keeps it in memory alone.
    pub data_dir: Option<PathBuf>,
    /// How long to wait for somebody who has heard the whole mesh, before serving what is known.
    pub ready_after: Duration,
    /// For how long the last healthy set of a service is kept when most of it turns critical at once; zero for never.
    pub protect_for: Duration,
    /// What checks may do.
    pub checks: checks::Config,
    /// What has to come before the first answer.
    pub opens: Opens,
}

impl Config {
    /// What no peer could take from us.
    ///
    /// # Errors
    /// The setting, and what is wrong with it.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        // "This network" and what is reserved (RFC 1122 section 3.2.1.3, RFC 1112 section 4), the broadcast among it.
        let is_of_no_net = |ip: IpAddr| matches!(ip, IpAddr::V4(four) if matches!(four.octets()[0], 0 | 240..));
        let is_of_nobody = |ip: IpAddr| ip.is_unspecified() || ip.is_multicast() || is_of_no_net(ip);
        if let Some(address) = self.advertise.filter(|at| is_of_nobody(at.ip().to_canonical()) || at.port() == 0) {
            let why = "nobody reaches a node there; give it an address and a port that others can dial";
            return Err(("advertise", format!("cannot be {address}: {why}")));
        }
        if let Err(why) = check_datacenter(&self.datacenter) {
            return Err(("datacenter", format!("{:?} {why}", self.datacenter)));
        }
        let meta: usize = self.meta.iter().map(|(key, text)| key.len() + text.len()).sum();
        if meta + self.zone.len() + self.datacenter.len() > MAX_DESCRIPTION {
            let why = "together are over 3 KiB, and every hello carries them: shorten them";
            return Err(("meta, zone and datacenter", why.into()));
        }
        Ok(())
    }
}

/// What has to come before the first answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Opens {
    /// All that the mesh knows, or [`Config::ready_after`] without it.
    #[default]
    Synced,
    /// That, and [`Agent::open`](super::Agent::open): whoever starts it has more to register first, and must not be told that it is not there.
    Told,
}

/// Beside it a hello holds the certificates that vouch for it.
const MAX_DESCRIPTION: usize = 3 << 10;
