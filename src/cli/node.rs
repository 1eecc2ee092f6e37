//! A whole node: the agent and its two faces, started and stopped as one.

use std::{io::ErrorKind, net::SocketAddr, path::Path, sync::Arc};

use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::failure::{Code, Failure};
use crate::{
    agent::{Agent, STORE, StartError, Tally, Unusable},
    config::Config,
    dns,
    http::{self, ReloadAsk},
};

/// An agent with its faces.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) agent: Agent,
    dns: dns::Running,
    http: http::Running,
    stop: CancellationToken,
}

/// Where a node listens, as its ready file says it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Ready {
    node: String,
    pid: u32,
    pub(super) mesh: SocketAddr,
    pub(super) http: SocketAddr,
    pub(super) dns: SocketAddr,
}

impl Node {
    /// Starts all three. Every port is open before the mesh hears of this node. Whoever starts it answers the calls to
    /// read its files again.
    pub(super) async fn start(config: &Config) -> Result<(Self, mpsc::Receiver<ReloadAsk>), Failure> {
        let listen = config.listen;
        let taken = |face: &str, flag: &str, address: SocketAddr, why: &dyn std::fmt::Display| {
            let next = format!("hobnob agent {flag} {}, or stop what listens there", any_port(address));
            Failure::new(format!("cannot serve {face}"), why, next)
        };
        let dns = dns::bind(listen.dns).await;
        let dns = dns.map_err(|why| taken("DNS", "--dns", listen.dns, &format_args!("{}: {why}", listen.dns)))?;
        let zones = config.dns.zones.iter().map(ToString::to_string).collect();
        let settings = http::Config { dns: Some(dns.address()), zones, ..config.http.clone() };
        let http = http::bind(settings, listen.http).await;
        let http = http.map_err(|why| taken("HTTP", "--http", listen.http, &why))?;
        let traffic = Arc::clone(dns.traffic());
        let mut http = http.show(Tally::new("dns", move || traffic.each().collect()));
        let reloads = http.reloads();
        let agent = Agent::start(config.agent.clone()).await.map_err(unstarted)?;
        let stop = CancellationToken::new();
        let dns = dns.serve(agent.view().clone(), config.dns.clone(), stop.clone());
        let dns = dns.map_err(|why| Failure::new("cannot serve DNS", why, "ulimit -u"))?;
        let http = http.serve(agent.clone(), stop.clone());
        Ok((Self { agent, dns, http, stop }, reloads))
    }

    /// Where it listens.
    pub(super) fn ready(&self) -> Ready {
        let node = self.agent.config().node.to_string();
        let (mesh, http, dns) = (self.agent.address(), self.http.address(), self.dns.address());
        Ready { node, pid: std::process::id(), mesh, http, dns }
    }

    /// Stops the faces, once what they are in the middle of is said.
    pub(super) async fn close(self) {
        self.stop.cancel();
        self.dns.stopped().await;
        self.http.stopped().await;
    }
}

/// Whose fault it is that the agent did not start, and what helps.
fn unstarted(error: StartError) -> Failure {
    let (code, next) = match &error {
        StartError::Config { .. } => (Code::Usage, "hobnob config show".into()),
        StartError::InUse { .. } => (Code::Runtime, "hobnob agent --data-dir DIR".into()),
        StartError::Data { path, why } => unusable(path, why),
        StartError::Listen { address, .. } => (Code::Runtime, format!("hobnob agent --listen {}", any_port(*address))),
    };
    Failure::new("the node did not start", error, next).code(code)
}

/// What helps against a data directory that cannot be used. A full disk is no mistake in the settings.
fn unusable(path: &Path, why: &Unusable) -> (Code, String) {
    let at = path.display();
    match why {
        Unusable::Io(why) if matches!(why.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            (Code::Runtime, format!("df {at}"))
        }
        Unusable::Corrupt { .. } => (Code::Usage, format!("mv {at}/{STORE} {at}/{STORE}.damaged")),
        Unusable::Foreign { node, mesh } => (Code::Usage, format!("hobnob agent --node {node} --mesh {mesh}")),
        _ => (Code::Usage, format!("ls -ld {at}")),
    }
}

/// The same address with a port that is free.
fn any_port(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), 0)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn what_helps_fits_what_is_wrong_with_a_data_directory() {
        for (why, code, next) in [
            (
                Unusable::Io(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error())),
                Code::Runtime,
                "df /d",
            ),
            (Unusable::Io(ErrorKind::PermissionDenied.into()), Code::Usage, "ls -ld /d"),
            (
                Unusable::Corrupt { what: "identity", why: "it is empty".into() },
                Code::Usage,
                "mv /d/hobnob.redb /d/hobnob.redb.damaged",
            ),
            (
                Unusable::Foreign { node: "n3".try_into().unwrap(), mesh: "prod".try_into().unwrap() },
                Code::Usage,
                "hobnob agent --node n3 --mesh prod",
            ),
        ] {
            assert_eq!(unusable(Path::new("/d"), &why), (code, next.into()), "{why}");
        }
    }
}
