//! A whole node: the agent and its two faces, started and stopped as one.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    path::Path,
    sync::Arc,
};

use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::failure::{Code, Failure};
use crate::{
    agent::{Agent, STORE, StartError, Tally, Unusable},
    config::Config,
    dns,
    http::{self, ReloadAsk, Unbound},
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
        let dns = dns::bind(listen.dns).await.map_err(|why| {
            Failure::new(
                "cannot serve DNS",
                format_args!("{}: {why}", listen.dns),
                elsewhere("--dns", listen.dns, &why),
            )
        })?;
        let zones = config.dns.zones.iter().map(ToString::to_string).collect();
        let settings = http::Config { dns: Some(dns.address()), zones, ..config.http.clone() };
        let http = http::bind(settings, listen.http).await;
        let http = http.map_err(unserved)?;
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
        StartError::Listen { address, why } => (Code::Runtime, elsewhere("--listen", *address, why)),
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

/// Why there is no HTTP, and what helps.
fn unserved(why: Unbound) -> Failure {
    let (code, next) = match &why {
        Unbound::Place(_) | Unbound::Tls(_) => (Code::Usage, "hobnob config check, once that is mended".into()),
        Unbound::Tcp(address, why) => (Code::Runtime, elsewhere("--http", *address, why)),
        Unbound::Unix(path, why) => match why.kind() {
            ErrorKind::AddrInUse => (Code::Runtime, "stop what listens there, or give another http.socket".into()),
            ErrorKind::InvalidInput => (Code::Usage, "give another http.socket, of 107 bytes at most".into()),
            ErrorKind::AlreadyExists => (Code::Usage, format!("ls -l {}, or give another http.socket", path.display())),
            _ => (Code::Usage, format!("ls -ld {}", path.parent().unwrap_or(path).display())),
        },
    };
    Failure::new("cannot serve HTTP", why, next).code(code)
}

/// What helps against an address where nobody can listen: a free port, or an address that is ours.
fn elsewhere(flag: &str, address: SocketAddr, why: &io::Error) -> String {
    if why.kind() == ErrorKind::AddrNotAvailable {
        return format!("hobnob agent {flag} ADDR:{}, of the addresses that `ip address` shows", address.port());
    }
    format!("hobnob agent {flag} {}, or stop what listens there", SocketAddr::new(address.ip(), 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::trust::Broken;

    #[test]
    fn what_helps_fits_why_nobody_listens() {
        let at = |path: &str| Unbound::Unix(path.into(), ErrorKind::AlreadyExists.into());
        let tcp = |kind: ErrorKind| Unbound::Tcp("192.0.2.1:80".parse().unwrap(), kind.into());
        for (why, next, is_usage) in [
            (tcp(ErrorKind::AddrInUse), "hobnob agent --http 192.0.2.1:0, or stop what listens there", false),
            (tcp(ErrorKind::AddrNotAvailable), "hobnob agent --http ADDR:80, of the addresses that", false),
            (at("/a/b"), "ls -l /a/b,", true),
            (Unbound::Unix("/a/b".into(), ErrorKind::NotFound.into()), "ls -ld /a", true),
            (Unbound::Tls(Broken::NoSecret), "hobnob config check", true),
        ] {
            let failure = unserved(why);
            assert!(failure.next().starts_with(next) && failure.is_usage() == is_usage, "{failure:?}");
        }
    }

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
