//! The sockets: one port, UDP and TCP on it, and nothing that a client can make grow.
//!
//! UDP is one task and one buffer. TCP follows RFC 7766: a connection carries many questions, pipelined, answered in
//! order, and is closed when it idles. Connections are capped; whoever comes when all are taken is turned away, and may
//! come again.
//!
//! A reply leaves from the address that was asked as long as the socket is bound to that address alone: serve each
//! address of a host by a call of its own. On a wildcard address the kernel's route picks the source of UDP replies.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Config, Transport, respond};
use crate::agent::View;

/// A running DNS server. Dropping it does not stop it; the token it was given does.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    tasks: TaskTracker,
}

impl Running {
    /// The address in use, for UDP and TCP alike.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resolves when the server has stopped and its port is free again.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }
}

/// The sockets, open and not yet served: whoever asks waits.
#[derive(Debug)]
pub struct Bound {
    udp: UdpSocket,
    tcp: TcpListener,
    address: SocketAddr,
}

/// Opens `listen` for both transports. Port 0 takes any port that is free for both.
///
/// # Errors
/// When the port cannot be opened; nothing is left behind.
pub async fn bind(listen: SocketAddr) -> io::Result<Bound> {
    let (udp, tcp) = open(listen).await?;
    let address = udp.local_addr()?;
    Ok(Bound { udp, tcp, address })
}

/// Answers questions about `view` on `listen` until `stop` is cancelled.
///
/// # Errors
/// See [`bind`].
pub async fn serve(
    view: Arc<View>,
    config: Config,
    listen: SocketAddr,
    stop: CancellationToken,
) -> io::Result<Running> {
    Ok(bind(listen).await?.serve(view, config, stop))
}

impl Bound {
    /// The address in use, for UDP and TCP alike.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers questions about `view` until `stop` is cancelled.
    #[must_use]
    pub fn serve(self, view: Arc<View>, config: Config, stop: CancellationToken) -> Running {
        let Self { udp, tcp, address } = self;
        let tasks = TaskTracker::new();
        let face = Arc::new(Face { view, config, stop: stop.clone() });
        tasks.spawn({
            let (face, stop) = (Arc::clone(&face), stop.clone());
            async move { stop.run_until_cancelled_owned(answer_packets(&face, &udp)).await }
        });
        tasks.spawn({
            let tasks = tasks.clone();
            async move { stop.run_until_cancelled_owned(accept(&face, &tcp, &tasks)).await }
        });
        tasks.close();
        Running { address, tasks }
    }
}

struct Face {
    view: Arc<View>,
    config: Config,
    stop: CancellationToken,
}

/// Both sockets on one port. For port 0, TCP chooses and UDP follows; where UDP's is taken, TCP chooses again.
async fn open(listen: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut tries = if listen.port() == 0 { BIND_TRIES } else { 1 };
    loop {
        let tcp = TcpListener::bind(listen).await?;
        tries -= 1;
        match UdpSocket::bind(tcp.local_addr()?).await {
            Ok(udp) => return Ok((udp, tcp)),
            Err(why) if why.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            Err(why) => return Err(why),
        }
    }
}

async fn answer_packets(face: &Face, socket: &UdpSocket) {
    let mut packet = vec![0; MAX_QUESTION];
    loop {
        let (length, client) = match socket.recv_from(&mut packet).await {
            Ok(received) => received,
            Err(why) => {
                pause("receive a DNS packet", &why).await;
                continue;
            }
        };
        let transport = if client.ip().to_canonical().is_loopback() { Transport::Loopback } else { Transport::Udp };
        let Some(reply) = respond(&face.view, &face.config, &packet[..length], transport) else { continue };
        if let Err(why) = socket.send_to(&reply, client).await {
            tracing::debug!(%client, %why, "could not send a DNS reply");
        }
    }
}

async fn accept(face: &Arc<Face>, listener: &TcpListener, tasks: &TaskTracker) {
    let seats = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(why) => {
                pause("accept a DNS connection", &why).await;
                continue;
            }
        };
        let Ok(seat) = Arc::clone(&seats).try_acquire_owned() else { continue };
        let face = Arc::clone(face);
        tasks.spawn(async move {
            // How a connection ends is its client's business.
            face.stop.run_until_cancelled(converse(&face, stream)).await.map(Result::ok);
            drop(seat);
        });
    }
}

/// Answers the questions of one connection, in order, until it idles, ends or makes no sense.
async fn converse(face: &Face, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut question = Vec::new();
    loop {
        let length = timeout(IDLE, stream.read_u16()).await??;
        if usize::from(length) > MAX_QUESTION {
            return Ok(());
        }
        question.resize(usize::from(length), 0);
        timeout(IDLE, stream.read_exact(&mut question)).await??;
        let Some(reply) = respond(&face.view, &face.config, &question, Transport::Tcp) else { return Ok(()) };
        // One write for length and reply: RFC 7766 section 8 asks for it, since some clients read but once.
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        timeout(IDLE, stream.write_all(&[&length.to_be_bytes()[..], &reply].concat())).await??;
    }
}

/// Errors of a listening socket are the system's shortage, of descriptors or memory: busy retries would add to it.
async fn pause(what: &str, why: &io::Error) {
    tracing::warn!(%why, "could not {what}");
    sleep(SHORTAGE_PAUSE).await;
}

/// A question of one name with every EDNS option in use takes less than 1 KiB.
const MAX_QUESTION: usize = 4096;
/// Caddy and the like hold one connection for each worker; each costs us 4 KiB while it idles.
const MAX_CONNECTIONS: usize = 256;
/// RFC 7766 section 6.2.3 wants seconds; also how long a reply may lie unread.
const IDLE: Duration = Duration::from_secs(10);
const SHORTAGE_PAUSE: Duration = Duration::from_millis(10);
const BIND_TRIES: u32 = 16;
