//! Listens, on TCP and on a unix socket, and opens the `door`. `axum::serve` would: it has no deadlines and no seats.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use axum::middleware;
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    sync::mpsc,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    App, Config, FixedToken, ReloadAsk,
    access::{self, Access},
    audit::Audit,
    budget::Budget,
    clients::Clients,
    consul,
    crowd::Crowd,
    descriptors,
    door::{Door, greet},
    guard::Via,
    native,
    rate::Rate,
    requests::Requests,
    routes,
    seats::Seats,
    tls::Tls,
};
use crate::agent::{Agent, Tally, backlog, trust::Broken};

/// A server at work.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    tasks: TaskTracker,
}

impl Running {
    /// Where it listens; the port in use where 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resolves once its token was cancelled and the last connection has ended, seconds later at most.
    pub async fn stopped(self) {
        self.tasks.wait().await;
    }
}

/// The sockets, open and not yet served: whoever connects waits.
#[derive(Debug)]
pub struct Bound {
    tls: Option<Arc<Tls>>,
    tcp: TcpListener,
    unix: Option<(UnixListener, PathBuf)>,
    address: SocketAddr,
    config: Config,
    tallies: Vec<Tally>,
    reloads: Option<native::Reloads>,
}

/// Why HTTP is not served.
#[derive(Debug, thiserror::Error)]
pub enum Unbound {
    /// Others could reach it in plain text.
    #[error("listen.http {0}")]
    Place(String),
    /// The files of its certificate are of no use.
    #[error("http.tls: {0}")]
    Tls(Broken),
    /// The address is in use, or not ours.
    #[error("cannot listen on {0} (HTTP): {1}")]
    Tcp(SocketAddr, io::Error),
    /// The socket's path holds something else, or cannot be made.
    #[error("cannot listen on unix:{} (HTTP): {_1}", .0.display())]
    Unix(PathBuf, io::Error),
}

/// Opens `listen`, and the unix socket if there is one.
///
/// # Errors
/// [`Unbound`]. Nothing is left behind.
pub async fn bind(config: Config, listen: SocketAddr) -> Result<Bound, Unbound> {
    config.check_place(listen).map_err(Unbound::Place)?;
    let tls = config.tls.clone().map(Tls::read).transpose().map_err(Unbound::Tls)?.map(Arc::new);
    let open = async || {
        let tcp = TcpListener::bind(listen).await?;
        backlog::deepen(&tcp);
        Ok((tcp.local_addr()?, tcp))
    };
    let (address, tcp) = open().await.map_err(|why| Unbound::Tcp(listen, why))?;
    let unix = match &config.socket {
        Some(path) => {
            let listener = bind_unix(path).await.map_err(|why| Unbound::Unix(path.clone(), why))?;
            Some((listener, path.clone()))
        }
        None => None,
    };
    Ok(Bound { tls, tcp, unix, address, config, tallies: Vec::new(), reloads: None })
}

/// Serves the agent's HTTP API on `listen`, and on the unix socket if there is one, until `stop` is cancelled.
///
/// # Errors
/// See [`bind`].
pub async fn serve(
    agent: Agent,
    config: Config,
    listen: SocketAddr,
    stop: CancellationToken,
) -> Result<Running, Unbound> {
    Ok(bind(config, listen).await?.serve(agent, stop))
}

impl Bound {
    /// Shows another face's counters with its own.
    #[must_use]
    pub fn show(mut self, tally: Tally) -> Self {
        self.tallies.push(tally);
        self
    }

    /// Takes over what `POST /api/v1/reload` asks for; without anybody who does, it is refused.
    #[must_use]
    pub fn reloads(&mut self) -> mpsc::Receiver<ReloadAsk> {
        let (reloads, asked) = mpsc::channel(1);
        self.reloads = Some(reloads);
        asked
    }

    /// Serves the agent's HTTP API until `stop` is cancelled.
    #[must_use]
    pub fn serve(self, agent: Agent, stop: CancellationToken) -> Running {
        let Self { tls, tcp, unix, address, config, tallies, reloads } = self;
        let seats = Seats::new(places(&config));
        let door = open(agent.clone(), config, address, tls.clone(), tallies, reloads, stop.clone());
        let tasks = door.tasks.clone();
        if let Some(tls) = tls {
            tasks.spawn(tls.watch(agent, stop.clone()));
        }
        let audit = Arc::clone(&door.audit);
        tasks.spawn(async move { audit.sum_up(&stop).await });
        if let Some((listener, path)) = unix {
            let door = Arc::clone(&door);
            tasks.spawn(async move {
                door.accept(listener, Seats::new(UNIX_SEATS.min(descriptors() / 2)), |_| Via::Unix).await;
                drop(fs::remove_file(path));
            });
        }
        tasks.spawn(async move { door.accept(tcp, seats, greet).await });
        tasks.close();
        Running { address, tasks }
    }
}

/// All that stands between a connection to `address` and the agent.
pub(super) fn open(
    agent: Agent,
    config: Config,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    tallies: Vec<Tally>,
    reloads: Option<native::Reloads>,
    stop: CancellationToken,
) -> Arc<Door> {
    let mut requests = Requests::default();
    let routes = routes(&mut requests, &config);
    let (refused, again) = (requests.route("refused"), requests.route("again"));
    let clients = Clients::new(config.max_connections_per_client, places(&config));
    let crowd = Arc::<Crowd>::default();
    let (anonymous, fixed) = (config.anonymous, Arc::<[FixedToken]>::from(config.tokens));
    let audit = Arc::<Audit>::default();
    let access = Arc::new(Access {
        agent: agent.clone(),
        anonymous,
        fixed: Arc::clone(&fixed),
        audit: Arc::clone(&audit),
        refused: Arc::clone(&refused),
    });
    let app = Arc::new(App {
        agent,
        tls: tls.clone(),
        addresses: (address, config.dns),
        zones: config.zones,
        requests,
        tallies,
        crowd: Arc::clone(&crowd),
        fixed,
        bodies: consul::Bodies::default(),
        heard: Arc::default(),
        renderings: native::Renderings::default(),
        started: SystemTime::now(),
        reloads,
        stop: stop.clone(),
    });
    let is_open = access.anonymous.is_all();
    let kept = is_open.then(|| (Arc::clone(&app), again));
    let routes = routes.with_state(app);
    Arc::new(Door {
        kept,
        // Who waits pays for each layer, with memory.
        router: if is_open { routes } else { routes.layer(middleware::from_fn_with_state(access, access::check)) },
        hosts: config.hosts,
        clients,
        rate: Rate::new(config.rate_limit),
        audit,
        tls,
        refused,
        budget: Arc::new(Budget::new(Arc::clone(&crowd))),
        crowd,
        stop,
        tasks: TaskTracker::new(),
    })
}

/// Binds a unix socket for the owner and the group; takes the place of one that nobody listens on.
async fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match UnixStream::connect(path).await {
        Err(why) if why.kind() == io::ErrorKind::NotFound => {}
        Err(why) if why.kind() == io::ErrorKind::ConnectionRefused && is_socket(path) => fs::remove_file(path)?,
        Err(why) if why.kind() == io::ErrorKind::ConnectionRefused => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file is there that is no socket"));
        }
        Err(why) => return Err(why),
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
    }
    let listener = UnixListener::bind(path)?;
    backlog::deepen(&listener);
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    Ok(listener)
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    fs::metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// How many connections there may be on TCP.
fn places(config: &Config) -> usize {
    config.max_connections.get().min(descriptors())
}

/// How many connections the process's file descriptors allow: the mesh, the store and DNS need some too.
fn descriptors() -> usize {
    let limit = usize::try_from(descriptors::limit()).unwrap_or(usize::MAX);
    limit.saturating_sub(DESCRIPTORS_KEPT.min(limit / 2)).max(1)
}

/// File descriptors that HTTP leaves to others: files, DNS over TCP, the unix socket.
const DESCRIPTORS_KEPT: usize = 1_500;
/// Connections on the unix socket, which are the operator's: no crowd on TCP takes them.
const UNIX_SEATS: usize = 1_000;
/// Reading and writing for the owner and the group.
const SOCKET_MODE: u32 = 0o660;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_unix_socket_takes_the_place_of_a_dead_one_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http.sock");
        let first = bind_unix(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        assert_eq!(bind_unix(&path).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        bind_unix(&path).await.unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "precious").unwrap();
        assert_eq!(bind_unix(&file).await.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    }
}
