//! Listens and serves: every wait for a client has a deadline, every connection a seat. `axum::serve` has neither.

use std::{
    convert::Infallible,
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
    response::{IntoResponse, Response},
    serve::Listener,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    select,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use super::{
    App, Config, Problem,
    guard::{self, Via},
    native,
    requests::{Classes, Requests},
};
use crate::{agent::Agent, model::Host};

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
    tcp: TcpListener,
    unix: Option<(UnixListener, PathBuf)>,
    address: SocketAddr,
    config: Config,
}

/// Opens `listen`, and the unix socket if there is one.
///
/// # Errors
/// When an address is in use or not ours, or the socket's path holds something else. Nothing is left behind.
pub async fn bind(config: Config, listen: SocketAddr) -> io::Result<Bound> {
    let tcp = TcpListener::bind(listen).await.map_err(|why| cannot(&listen, &why))?;
    let address = tcp.local_addr()?;
    let unix = match &config.socket {
        Some(path) => {
            let listener =
                bind_unix(path).await.map_err(|why| cannot(&format_args!("unix:{}", path.display()), &why))?;
            Some((listener, path.clone()))
        }
        None => None,
    };
    Ok(Bound { tcp, unix, address, config })
}

/// Serves the agent's HTTP API on `listen`, and on the unix socket if there is one, until `stop` is cancelled.
///
/// # Errors
/// See [`bind`].
pub async fn serve(agent: Agent, config: Config, listen: SocketAddr, stop: CancellationToken) -> io::Result<Running> {
    Ok(bind(config, listen).await?.serve(agent, stop))
}

impl Bound {
    /// Serves the agent's HTTP API until `stop` is cancelled.
    #[must_use]
    pub fn serve(self, agent: Agent, stop: CancellationToken) -> Running {
        let Self { tcp, unix, address, config } = self;
        let mut requests = Requests::default();
        let routes = native::routes(&mut requests);
        let refused = requests.route("refused");
        let app = Arc::new(App {
            agent,
            addresses: (address, config.dns),
            requests,
            started: SystemTime::now(),
            stop: stop.clone(),
        });
        let door = Arc::new(Door {
            router: routes.with_state(app),
            hosts: config.hosts,
            refused,
            seats: Arc::new(Semaphore::new(config.max_connections.get().min(Semaphore::MAX_PERMITS))),
            stop,
            tasks: TaskTracker::new(),
        });
        let tasks = door.tasks.clone();
        if let Some((listener, path)) = unix {
            let door = Arc::clone(&door);
            tasks.spawn(async move {
                door.accept(listener, |_| Via::Unix).await;
                drop(fs::remove_file(path));
            });
        }
        tasks.spawn(async move { door.accept(tcp, greet).await });
        tasks.close();
        Running { address, tasks }
    }
}

/// What all connections pass through.
#[derive(Debug)]
struct Door {
    router: Router,
    hosts: Vec<Host>,
    /// Counts what never reached a route.
    refused: Arc<Classes>,
    seats: Arc<Semaphore>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Door {
    /// Takes in connections while there are seats. [`Listener::accept`] pauses when file descriptors run out.
    async fn accept<L: Listener>(self: Arc<Self>, mut listener: L, via: fn(&L::Io) -> Via) {
        let next = async |listener: &mut L| {
            let seat = Arc::clone(&self.seats).acquire_owned().await.ok()?;
            Some((listener.accept().await.0, seat))
        };
        loop {
            let next = select! {
                next = next(&mut listener) => next,
                () = self.stop.cancelled() => None,
            };
            let Some((io, seat)) = next else { return };
            let via = via(&io);
            self.tasks.spawn(Arc::clone(&self).connection(io, via, seat));
        }
    }

    /// Serves one connection to its end.
    async fn connection<I>(self: Arc<Self>, io: I, via: Via, _seat: OwnedSemaphorePermit)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let answer = service_fn(|request: Request<Incoming>| self.answer(via, request.map(Body::new)));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_DEADLINE)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(io), answer);
        let mut connection = std::pin::pin!(connection);
        // How a connection broke is the client's affair: there is nobody to tell.
        select! {
            _ = connection.as_mut() => {}
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let _ = timeout(GRACE, connection).await;
            }
        }
    }

    async fn answer(&self, via: Via, request: Request<Body>) -> Result<Response, Infallible> {
        let refuse = |problem: Problem| {
            let response = problem.into_response();
            self.refused.add(&response);
            Ok(response)
        };
        if let Err(problem) = guard::check(via, &self.hosts, &request) {
            return refuse(problem);
        }
        match timeout(DEADLINE, self.router.clone().oneshot(request)).await {
            Ok(response) => response,
            Err(_) => refuse(Problem::new(StatusCode::SERVICE_UNAVAILABLE, LATE)),
        }
    }
}

/// Sets up a TCP connection: small answers leave at once, and a client that takes none is cut off.
fn greet(stream: &TcpStream) -> Via {
    // A socket that refuses options is about to fail anyway.
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(DEADLINE));
    Via::Tcp(stream.local_addr().map_or(Ipv4Addr::LOCALHOST.into(), |address| address.ip()))
}

/// Binds a unix socket for the owner and the group; takes the place of one that nobody listens on.
async fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match UnixStream::connect(path).await {
        Err(why) if why.kind() == io::ErrorKind::NotFound => {}
        Err(why) if why.kind() == io::ErrorKind::ConnectionRefused && is_socket(path) => fs::remove_file(path)?,
        Err(why) => return Err(why),
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    Ok(listener)
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    fs::metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

fn cannot(place: &dyn std::fmt::Display, why: &io::Error) -> io::Error {
    io::Error::new(why.kind(), format!("cannot listen on {place} (HTTP): {why}"))
}

/// How long a request's head may take, and how long a connection may idle before it: hyper has one clock for both.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// How long a handler may take until its answer begins, and a client to acknowledge what it was sent.
const DEADLINE: Duration = Duration::from_secs(30);
/// A write that waits for the disk is not taken back.
const LATE: &str = "no answer was ready within 30 s; what was to be written may still be: GET it to see";
/// How long requests under way may take to end once the server stops.
const GRACE: Duration = Duration::from_secs(5);
/// The most bytes of a request's head: far above any honest one, far below what would hurt 20,000 times.
const MAX_HEAD: usize = 64 * 1024;
/// Reading and writing for the owner and the group.
const SOCKET_MODE: u32 = 0o660;

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{response::sse::Sse, routing::get};
    use futures_util::{StreamExt, stream};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
        time::Instant,
    };

    /// A door to three small rooms: one answers, one never does, one streams until the stop.
    fn door() -> Arc<Door> {
        let stop = CancellationToken::new();
        let end = stop.clone();
        let endless = move || async move {
            Sse::new(
                stream::pending::<Result<axum::response::sse::Event, Infallible>>().take_until(end.cancelled_owned()),
            )
        };
        let router = Router::new()
            .route("/", get(async || "hello"))
            .route("/never", get(std::future::pending::<()>))
            .route("/endless", get(endless));
        Arc::new(Door {
            router,
            hosts: Vec::new(),
            refused: Arc::default(),
            seats: Arc::new(Semaphore::new(1)),
            stop,
            tasks: TaskTracker::new(),
        })
    }

    /// A connection through the door.
    fn connect(door: &Arc<Door>) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(4096);
        let seat = Arc::clone(&door.seats).try_acquire_owned().unwrap();
        door.tasks.spawn(Arc::clone(door).connection(theirs, Via::Tcp(Ipv4Addr::LOCALHOST.into()), seat));
        ours
    }

    /// All that is answered until the connection ends.
    async fn talk(door: &Arc<Door>, request: &str) -> String {
        let mut connection = connect(door);
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_head_and_an_idle_connection_are_cut_off() {
        let door = door();
        let start = Instant::now();
        assert_eq!(talk(&door, "GET / HTTP/1.1\r\nHost: local").await, "");
        assert!(start.elapsed() < HEAD_DEADLINE + Duration::from_secs(1), "{:?}", start.elapsed());
        let answer = talk(&door, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("hello"), "{answer}");
        assert!(start.elapsed() < 2 * HEAD_DEADLINE + Duration::from_secs(1), "{:?}", start.elapsed());
        assert_eq!(door.seats.available_permits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_handler_is_given_up() {
        let answer = talk(&door(), "GET /never HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stranger_is_refused_at_the_door() {
        let answer = talk(&door(), "GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 403 Forbidden"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_streams_at_once() {
        let door = door();
        let mut connection = connect(&door);
        connection.write_all(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut answer = vec![0; 15];
        connection.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 200 OK");
        let start = Instant::now();
        door.stop.cancel();
        connection.read_to_end(&mut answer).await.unwrap();
        door.tasks.close();
        door.tasks.wait().await;
        assert!(start.elapsed() < GRACE, "{:?}", start.elapsed());
    }

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
        bind_unix(&file).await.unwrap_err();
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    }
}
