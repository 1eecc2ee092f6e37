//! The server: one port, UDP and TCP on it, and nothing that a client can make grow.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
};

use tokio::{
    net::TcpListener,
    sync::mpsc::{self, error::TrySendError},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Config, Face,
    forward::{Forwarder, Question},
    tcp,
    traffic::Traffic,
    udp,
};
use crate::agent::{View, limit::Limiter};

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
    udp: Vec<UdpSocket>,
    tcp: TcpListener,
    address: SocketAddr,
    traffic: Arc<Traffic>,
}

/// Opens `listen` for both transports. Port 0 takes any port that is free for both.
///
/// # Errors
/// When the port cannot be opened; nothing is left behind.
pub async fn bind(listen: SocketAddr) -> io::Result<Bound> {
    let (udp, tcp) = open(listen).await?;
    let address = tcp.local_addr()?;
    Ok(Bound { udp, tcp, address, traffic: Arc::default() })
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
    bind(listen).await?.serve(view, config, stop)
}

impl Bound {
    /// The address in use, for UDP and TCP alike.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it will have been asked and have said.
    #[must_use]
    pub const fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// Answers questions about `view` until `stop` is cancelled.
    ///
    /// # Errors
    /// When the system grants no thread; nothing is left behind.
    pub fn serve(self, view: Arc<View>, config: Config, stop: CancellationToken) -> io::Result<Running> {
        let Self { udp, tcp, address, traffic } = self;
        let mut secret = [0; 16];
        getrandom::fill(&mut secret).map_err(io::Error::other)?;
        let seed = getrandom::u64().map_err(io::Error::other)?;
        let (questions, mut asked) = mpsc::channel(MAX_FORWARDED);
        let forwarder = Forwarder::new(&config).map(Arc::new);
        let limiter = Limiter::new(config.rate_limit, seed);
        let face = Face::new(view, config, secret);
        let tasks = TaskTracker::new();
        let shared = Arc::new(Shared { face, limiter, traffic, seed, questions, stop: stop.clone() });
        for socket in udp {
            let worker = udp::start(&shared, socket, &tasks)?;
            let stop = stop.clone();
            tasks.spawn(async move {
                stop.cancelled().await;
                drop(worker);
            });
        }
        if let Some(forwarder) = forwarder {
            let stop = stop.clone();
            let shared = Arc::clone(&shared);
            tasks.spawn(async move { stop.run_until_cancelled(forward(&forwarder, &shared, &mut asked)).await });
        }
        let accepting = tasks.clone();
        tasks.spawn(async move { stop.run_until_cancelled_owned(tcp::accept(&shared, &tcp, &accepting)).await });
        tasks.close();
        Ok(Running { address, tasks })
    }
}

/// What all sockets share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) face: Face,
    pub(super) limiter: Limiter,
    pub(super) traffic: Arc<Traffic>,
    pub(super) seed: u64,
    questions: mpsc::Sender<Question>,
    pub(super) stop: CancellationToken,
}

impl Shared {
    /// Has others asked. What cannot be taken is dropped: its client asks again.
    pub(super) fn forward(&self, question: Question) {
        match self.questions.try_send(question) {
            Ok(()) => self.traffic.forwarded.add(1),
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => self.traffic.unforwarded.add(1),
        }
    }
}

/// Forwards what is asked, many at a time.
async fn forward(forwarder: &Arc<Forwarder>, shared: &Arc<Shared>, asked: &mut mpsc::Receiver<Question>) {
    let mut under_way = tokio::task::JoinSet::new();
    while let Some(question) = asked.recv().await {
        while under_way.len() >= MAX_FORWARDED {
            under_way.join_next().await;
        }
        while under_way.try_join_next().is_some() {}
        let (forwarder, shared) = (Arc::clone(forwarder), Arc::clone(shared));
        under_way.spawn(async move { forwarder.answer(&shared.face, question).await });
    }
}

/// All sockets on one port. For port 0, TCP chooses and UDP follows; where UDP's is taken, TCP chooses again.
async fn open(listen: SocketAddr) -> io::Result<(Vec<UdpSocket>, TcpListener)> {
    let mut tries = if listen.port() == 0 { BIND_TRIES } else { 1 };
    loop {
        // TCP's socket is ours alone: it keeps a second agent off the port that UDP would let it share.
        let tcp = TcpListener::bind(listen).await?;
        let address = tcp.local_addr()?;
        tries -= 1;
        match (0..udp::width()).map(|_| udp::open(address)).collect() {
            Ok(udp) => return Ok((udp, tcp)),
            Err(why) if why.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            Err(why) => return Err(why),
        }
    }
}

const BIND_TRIES: u32 = 16;
/// Each waits for a few seconds at most; a thousand at a time is far more than one host's programs ask.
const MAX_FORWARDED: usize = 1_024;
