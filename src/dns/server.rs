//! The server: one port, UDP and TCP on it, and nothing that a client can make grow.

use std::{
    collections::VecDeque,
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
};

use tokio::{
    net::TcpListener,
    sync::mpsc::{self, error::TrySendError},
    task::{AbortHandle, JoinSet},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Config, Face,
    forward::{Forwarder, Question, Way},
    tcp,
    traffic::Traffic,
    udp,
};
use crate::agent::{View, backlog, limit::Limiter};

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
        let forwarder = Forwarder::new(&config);
        let limiter = Limiter::new(config.rate_limit, seed);
        let face = Face::new(view, config, secret);
        let tasks = TaskTracker::new();
        let shared = Arc::new(Shared { face, limiter, traffic, seed, forwarder, questions, stop: stop.clone() });
        for socket in udp {
            let worker = udp::start(&shared, socket, &tasks)?;
            let stop = stop.clone();
            tasks.spawn(async move {
                stop.cancelled().await;
                drop(worker);
            });
        }
        if shared.forwarder.is_some() {
            let (stop, shared) = (stop.clone(), Arc::clone(&shared));
            tasks.spawn(async move { stop.run_until_cancelled(forward(&shared, &mut asked)).await });
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
    forwarder: Option<Forwarder>,
    questions: mpsc::Sender<(Question, Way)>,
    pub(super) stop: CancellationToken,
}

impl Shared {
    /// What is known already of a name of others.
    pub(super) fn answer_at_once(&self, question: &Question) -> Option<Vec<u8>> {
        self.forwarder.as_ref()?.answer_at_once(&self.face, question)
    }

    /// Has others asked. What cannot be taken is dropped: its client asks again.
    pub(super) fn forward(&self, question: Question, way: Way) {
        match self.questions.try_send((question, way)) {
            Ok(()) => self.traffic.forwarded.add(1),
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => self.traffic.unforwarded.add(1),
        }
    }
}

/// Forwards what is asked, many at a time. Where they are too many, who has waited longest gives place: a name that can be
/// found out takes milliseconds, and one that nobody answers for would keep its place for seconds.
async fn forward(shared: &Arc<Shared>, asked: &mut mpsc::Receiver<(Question, Way)>) {
    let (mut under_way, mut oldest) = (JoinSet::new(), VecDeque::<AbortHandle>::new());
    while let Some((question, way)) = asked.recv().await {
        if question.is_late() {
            shared.traffic.unforwarded.add(1);
            continue;
        }
        while under_way.try_join_next().is_some() {}
        while oldest.front().is_some_and(AbortHandle::is_finished) {
            oldest.pop_front();
        }
        if under_way.len() >= MAX_UNDER_WAY
            && let Some(given_up) = oldest.pop_front()
        {
            given_up.abort();
            shared.traffic.unforwarded.add(1);
        }
        let shared = Arc::clone(shared);
        oldest.push_back(under_way.spawn(async move {
            if let Some(forwarder) = &shared.forwarder {
                forwarder.answer(&shared.face, &question, way).await;
            }
        }));
    }
}

/// All sockets on one port. For port 0, TCP chooses and UDP follows; where UDP's is taken, TCP chooses again.
async fn open(listen: SocketAddr) -> io::Result<(Vec<UdpSocket>, TcpListener)> {
    let mut tries = if listen.port() == 0 { BIND_TRIES } else { 1 };
    loop {
        // TCP's socket is ours alone: it keeps a second agent off the port that UDP would let it share.
        let tcp = TcpListener::bind(listen).await?;
        backlog::deepen(&tcp);
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
/// Questions that wait to be forwarded.
const MAX_FORWARDED: usize = 1_024;
/// Each has a socket to one or more resolvers, for some seconds at most: more than one host's programs ask at a time.
const MAX_UNDER_WAY: usize = 256;
