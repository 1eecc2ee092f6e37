//! An agent's settings, one by one; what is wrong is said by `start`, once, and names the setting.

use std::{
    collections::BTreeMap,
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{Agent, Config, Opens, Secret, StartError, checks, trust::Files};
use crate::{
    mesh::PROTECT_FOR,
    model::{Invalid, MeshName, NodeName},
};

/// Made by [`Agent::builder`]. Unless told otherwise: the host's name, mesh `default`, UDP 7946 on all addresses, nothing
/// kept on disk.
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    node: Option<String>,
    mesh: String,
    datacenter: String,
    zone: String,
    meta: BTreeMap<String, String>,
    listen: SocketAddr,
    advertise: Option<SocketAddr>,
    join: Vec<String>,
    secrets: Vec<Secret>,
    tls: Option<Files>,
    data_dir: Option<PathBuf>,
    ready_after: Duration,
    protect_for: Duration,
    checks: checks::Config,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            node: None,
            mesh: "default".into(),
            datacenter: "dc1".into(),
            zone: String::new(),
            meta: BTreeMap::new(),
            listen: (Ipv6Addr::UNSPECIFIED, DEFAULT_PORT).into(),
            advertise: None,
            join: Vec::new(),
            secrets: Vec::new(),
            tls: None,
            data_dir: None,
            ready_after: DEFAULT_READY_AFTER,
            protect_for: PROTECT_FOR,
            checks: checks::Config::default(),
        }
    }
}

impl Builder {
    /// This node's name, unique in its mesh.
    pub fn node(mut self, name: &str) -> Self {
        self.node = Some(name.into());
        self
    }

    /// The mesh it belongs to. Two meshes never mix.
    pub fn mesh(mut self, name: &str) -> Self {
        self.mesh = name.into();
        self
    }

    /// The datacenter it stands in.
    pub fn datacenter(mut self, name: &str) -> Self {
        self.datacenter = name.into();
        self
    }

    /// The zone it stands in.
    pub fn zone(mut self, name: &str) -> Self {
        self.zone = name.into();
        self
    }

    /// One more pair of text about the node.
    pub fn meta(mut self, key: &str, value: &str) -> Self {
        self.meta.insert(key.into(), value.into());
        self
    }

    /// Where the mesh port listens; port 0 takes any.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address;
        self
    }

    /// The address others should use, where it is not the one listened on.
    pub fn advertise(mut self, address: SocketAddr) -> Self {
        self.advertise = Some(address);
        self
    }

    /// `host:port` of nodes to find the mesh through.
    pub fn join<S: Into<String>>(mut self, seeds: impl IntoIterator<Item = S>) -> Self {
        self.join.extend(seeds.into_iter().map(Into::into));
        self
    }

    /// One more secret of the mesh: the first signs, all verify.
    pub fn secret(mut self, secret: Secret) -> Self {
        self.secrets.push(secret);
        self
    }

    /// Certificate mode: the files to prove oneself with, instead of secrets.
    pub fn tls(mut self, files: Files) -> Self {
        self.tls = Some(files);
        self
    }

    /// Where to keep what must survive a restart.
    pub fn data_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(directory.into());
        self
    }

    /// How long to wait for somebody who has heard the whole mesh, before serving what is known.
    pub fn ready_after(mut self, wait: Duration) -> Self {
        self.ready_after = wait;
        self
    }

    /// For how long the last healthy set of a service is kept when most of it turns critical at once; zero for never.
    pub fn protect_for(mut self, lasts: Duration) -> Self {
        self.protect_for = lasts;
        self
    }

    /// What checks may do: run scripts, reach networks.
    pub fn checks(mut self, checks: checks::Config) -> Self {
        self.checks = checks;
        self
    }

    /// Starts the agent: see [`Agent::start`].
    ///
    /// # Errors
    /// [`StartError`]; nothing is left behind.
    pub async fn start(self) -> Result<Agent, StartError> {
        Agent::start(self.build()?).await
    }

    pub(super) fn build(self) -> Result<Config, StartError> {
        let blame =
            |field| move |why: Invalid| StartError::Config { field, why: format!("{:?} {}", why.text, why.why) };
        let node = match &self.node {
            Some(name) => NodeName::try_from(name.as_str()).map_err(blame("node"))?,
            None => host_name().ok_or(StartError::Config {
                field: "node",
                why: "is missing, and this host's name makes no node name".into(),
            })?,
        };
        let mesh = MeshName::try_from(self.mesh.as_str()).map_err(blame("mesh"))?;
        let Self {
            datacenter,
            zone,
            meta,
            listen,
            advertise,
            join,
            secrets,
            tls,
            data_dir,
            ready_after,
            protect_for,
            checks,
            ..
        } = self;
        Ok(Config {
            node,
            mesh,
            datacenter,
            zone,
            meta,
            listen,
            advertise,
            join,
            secrets,
            tls,
            data_dir,
            ready_after,
            protect_for,
            checks,
            opens: Opens::default(),
        })
    }
}

/// The host's name, as near to a node name as it comes.
fn host_name() -> Option<NodeName> {
    NodeName::from_hostname(rustix::system::uname().nodename().to_str().ok()?)
}

const DEFAULT_PORT: u16 = 7946;
const DEFAULT_READY_AFTER: Duration = Duration::from_secs(10);
