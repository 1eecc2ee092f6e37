//! Who is connected: one link for each peer, dialled outside the loop, one dial at a time for each target.
//!
//! Owned by the loop. What needs waiting is a task that reports an [`Arrival`]; every decision is taken here, where
//! both sides of it are known: which of two connections stays, who of two holders of a name may keep it.

mod ended;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use quinn::Connection;
use rand::RngExt;
use rand_pcg::Pcg32;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::task::TaskTracker;

use super::{
    dial::dial_any,
    hello::{GREETING, Greeter, Met, Missed},
    link::{Link, Order, ping},
    namesake::{Holder, find_holder},
    quic::{Code, canonical},
    unix_millis,
};
use crate::{
    mesh::{Gone, HEIRS, Input, Objection},
    model::NodeId,
};

/// What tasks report to the loop.
pub(super) enum Arrival {
    /// A peer's packet, message or round trip.
    Input(Input),
    /// Two sides have said who they are; by our dial of `Target`, or by a call.
    Met(Box<Met>, Option<Target>),
    /// A dial has failed at every address.
    Missed(Target, Missed),
    /// A connection is gone.
    Ended { peer: NodeId, serial: u64, gone: Gone },
    /// Whether the holder of the newcomer's name lives, and where.
    Judged(Box<Met>, Option<SocketAddr>),
    /// This node has other papers.
    Renewed,
    /// The authority has said something new.
    Decreed,
    /// This node has other addresses.
    Moved(Vec<SocketAddr>),
    /// It is time to look for links whose certificates have ended.
    Round,
    /// Where to look for the mesh.
    Found(Vec<SocketAddr>),
    /// Another living node of our name has shown itself, and it came first.
    NameInUse(SocketAddr),
    /// This peer, which has proved its name, says that there is one.
    NameDisputed(NodeId, SocketAddr),
}

/// Whom a dial is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Whoever answers there.
    Seed(SocketAddr),
    /// That node, wherever it is.
    Peer(NodeId),
}

/// What is to be sent.
pub(super) enum Parcel {
    Packet(Bytes),
    Message(Bytes),
}

/// The table of links.
pub(super) struct Peers {
    us: NodeId,
    greeter: Arc<Greeter>,
    arrivals: mpsc::Sender<Arrival>,
    link_tasks: TaskTracker,
    table: HashMap<NodeId, Peer>,
    seeds: HashSet<SocketAddr>,
    links: usize,
    serial: u64,
    /// When the next dial would be due if all kept to the rate (GCRA).
    dial_slot: Instant,
    random: Pcg32,
}

/// What is known of one peer.
#[derive(Default)]
struct Peer {
    link: Option<Standing>,
    dialling: bool,
    /// The boot of a newcomer who waits until whoever holds the name was asked whether he lives; none if he shows it meanwhile.
    challenged: Option<u64>,
    waiting: VecDeque<Parcel>,
    /// Where the last dial found it.
    answered_at: Option<SocketAddr>,
    failures: u32,
    retry_at: Option<Instant>,
}

/// A link that stands.
struct Standing {
    connection: Connection,
    orders: mpsc::Sender<Order>,
    serial: u64,
    boot: u64,
    /// When the certificate that it has shown ends, in unix milliseconds.
    until: u64,
    /// How often it was asked for another since.
    asked: u8,
    dialled: bool,
    since: Instant,
    used: Instant,
}

impl Peers {
    pub(super) fn new(
        greeter: Arc<Greeter>,
        arrivals: mpsc::Sender<Arrival>,
        link_tasks: TaskTracker,
        seed: u64,
    ) -> Self {
        Self {
            us: greeter.hello.load().id,
            greeter,
            arrivals,
            link_tasks,
            table: HashMap::new(),
            seeds: HashSet::new(),
            links: 0,
            serial: 0,
            dial_slot: Instant::now(),
            random: Pcg32::new(seed, 0),
        }
    }

    /// Where to report.
    pub(super) fn arrivals(&self) -> mpsc::Sender<Arrival> {
        self.arrivals.clone()
    }

    /// Whom to bring news that must not get lost, and where they are seen: the peers spoken to last.
    pub(super) fn heirs(&self) -> Vec<(NodeId, SocketAddr)> {
        let mut links: Vec<_> = self.table.iter().filter_map(|(id, peer)| Some((*id, peer.link.as_ref()?))).collect();
        links.sort_unstable_by_key(|(_, link)| std::cmp::Reverse(link.used));
        links.into_iter().map(|(id, link)| (id, link.address())).take(HEIRS).collect()
    }

    /// How many links stand.
    pub(super) const fn links(&self) -> usize {
        self.links
    }

    /// Sends to a peer, dialling one of its addresses where there is no link. Never waits: what does not fit is counted.
    pub(super) fn send(&mut self, to: NodeId, parcel: Parcel, addresses: impl FnOnce() -> Vec<SocketAddr>) {
        let now = Instant::now();
        let peer = self.table.entry(to).or_default();
        if let Some(link) = &mut peer.link {
            link.used = now;
            link.send(parcel, &self.greeter);
        } else if peer.dialling && peer.waiting.len() < MAX_WAITING {
            peer.waiting.push_back(parcel);
        } else if peer.dialling || peer.retry_at.is_some_and(|at| now < at) {
            self.greeter.traffic.dropped_outgoing.add(1);
        } else {
            peer.dialling = true;
            peer.waiting.push_back(parcel);
            let mut addresses = addresses();
            if let Some(good) = addresses.iter().position(|address| peer.answered_at == Some(canonical(*address))) {
                addresses[..=good].rotate_right(1);
            }
            self.dial(Target::Peer(to), addresses);
        }
    }

    /// Dials whoever answers at `address`, unless that is under way or done.
    pub(super) fn dial_seed(&mut self, address: SocketAddr) {
        let linked = |peer: &Peer| peer.link.as_ref().is_some_and(|link| link.address() == canonical(address));
        if !self.table.values().any(linked) && self.seeds.insert(address) {
            self.dial(Target::Seed(address), vec![address]);
        }
    }

    /// Dials whoever has dialled this node: after a move, those connections lead to where it was.
    pub(super) fn redial(&mut self, addresses: impl Fn(NodeId) -> Vec<SocketAddr>) {
        let called = |peer: &Peer| !peer.dialling && peer.link.as_ref().is_some_and(|link| !link.dialled);
        let called: Vec<_> = self.table.iter().filter(|(_, peer)| called(peer)).map(|(id, _)| *id).collect();
        for id in called {
            self.table.entry(id).or_default().dialling = true;
            self.dial(Target::Peer(id), addresses(id));
        }
    }

    /// Dials whoever is not connected, whatever came of it before.
    pub(super) fn call(&mut self, known: impl Iterator<Item = (NodeId, Vec<SocketAddr>)>) {
        for (id, addresses) in known.take(MAX_LINKS) {
            let peer = self.table.entry(id).or_default();
            if peer.link.is_none() && !std::mem::replace(&mut peer.dialling, true) {
                self.dial(Target::Peer(id), addresses);
            }
        }
    }

    /// Closes every link whose peer would not be let in today, for one of these reasons. What clocks and files of this node
    /// say of most of the mesh may be their own fault, and the core judges that: see `Mesh::ask_who_belongs`.
    pub(super) fn recheck(&self, reasons: &[Objection]) {
        tracing::info!(event = "links_rechecked", "those whose peers are still accepted stay");
        for link in self.table.values().filter_map(|peer| peer.link.as_ref()) {
            if let Err(why) = self.greeter.standing(&link.connection)
                && reasons.contains(&why)
            {
                // Its task reports the end.
                self.greeter.expel(&link.connection, why);
            }
        }
    }

    /// Forgets a peer that is Down or has left.
    pub(super) fn forget(&mut self, id: NodeId) {
        if let Some(link) = self.table.remove(&id).and_then(|peer| peer.link) {
            self.links -= 1;
            link.connection.close(Code::Closed.into(), b"");
        }
    }

    /// Closes the link to a peer that behaves badly, with the reason, and leaves it alone for a while.
    pub(super) fn expel(&mut self, id: NodeId, why: &str) {
        let peer = self.table.entry(id).or_default();
        peer.retry_at = Some(Instant::now() + EXPELLED);
        if let Some(link) = &peer.link {
            // Its task reports the end.
            link.connection.close(Code::Expelled.into(), format!("misbehaved: {why}").as_bytes());
        }
    }

    /// Two sides have met: what to tell the core. `holder` is whom it knows, alive, under that name.
    pub(super) fn meet(&mut self, met: Box<Met>, target: Option<Target>, holder: Option<Holder>) -> Vec<Input> {
        self.dial_is_over(target);
        let Ok(until) = self.greeter.admit(&met.connection) else {
            return target.and_then(|target| self.miss(target)).into_iter().collect();
        };
        let peer = self.table.entry(met.hello.id).or_default();
        let (to_ask, addresses) = match (&peer.link, holder) {
            (Some(link), _) if link.boot == met.hello.boot => return self.settle_duplicate(met, until),
            (Some(link), _) if link.is_closed() || link.address() == met.address() => return self.install(met, until),
            // Whether it has another certificate than the one that has ended, a new handshake tells.
            (Some(link), _) if link.until < unix_millis() => (None, vec![link.address()]),
            (Some(link), _) => (Some(link.connection.clone()), Vec::new()),
            (None, Some(holder)) if holder.is_elsewhere(&met) => (None, holder.addresses),
            (None, _) => return self.install(met, until),
        };
        if peer.challenged.is_some() {
            met.connection.close(Code::Closed.into(), b"another newcomer of this name is being judged");
            return Vec::new();
        }
        peer.challenged = Some(met.hello.boot);
        let (greeter, arrivals) = (Arc::clone(&self.greeter), self.arrivals.clone());
        tokio::spawn(async move {
            let holder = match to_ask {
                Some(link) => ping(&link).await.then(|| canonical(link.remote_address())),
                None => find_holder(&greeter, &met, addresses, &arrivals).await,
            };
            let _ = arrivals.send(Arrival::Judged(met, holder)).await;
        });
        Vec::new()
    }

    /// The holder of a newcomer's name was asked whether it lives.
    pub(super) fn judge(&mut self, newcomer: Box<Met>, holder: Option<SocketAddr>) -> Vec<Input> {
        let peer = self.table.entry(newcomer.hello.id).or_default();
        let boot = newcomer.hello.boot;
        let is_open = peer.challenged.take_if(|challenger| *challenger == boot).is_some();
        let lives = |link: &&Standing| !is_open && !link.is_closed() && link.boot != boot;
        let shown = peer.link.as_ref().filter(lives).map(Standing::address);
        let Ok(until) = self.greeter.admit(&newcomer.connection) else { return Vec::new() };
        let Some(holder) = holder.or(shown) else { return self.install(newcomer, until) };
        let (name, refused) = (&newcomer.hello.node.name, newcomer.address());
        if let Some(unsaid) = self.greeter.lines.name_in_use.take(Instant::now()) {
            tracing::warn!(event = "name_in_use", %name, %holder, %refused, unsaid);
        }
        newcomer.connection.close(Code::NameInUse.into(), holder.to_string().as_bytes());
        Vec::new()
    }

    /// A dial has failed: what to tell the core.
    pub(super) fn miss(&mut self, target: Target) -> Option<Input> {
        self.dial_is_over(Some(target));
        // Seeds are dialled again and again anyway.
        let Target::Peer(id) = target else { return None };
        let peer = self.table.entry(id).or_default();
        if peer.link.is_some() {
            return None;
        }
        let longest = BACKOFF_MAX.min(BACKOFF_MIN * 2_u32.saturating_pow(peer.failures));
        peer.failures = peer.failures.saturating_add(1);
        peer.retry_at = Some(Instant::now() + longest.mul_f64(self.random.random_range(0.5..1.0)));
        self.greeter.traffic.dropped_outgoing.add(peer.waiting.len());
        peer.waiting.clear();
        Some(Input::Disconnected(id, Gone::Lost))
    }

    /// A connection is gone: what to tell the core, if it was the one that counted.
    pub(super) fn end(&mut self, id: NodeId, serial: u64, gone: Gone) -> Option<Input> {
        let peer = self.table.get_mut(&id)?;
        peer.link.take_if(|link| link.serial == serial)?;
        self.links -= 1;
        if gone == Gone::Expelled {
            peer.retry_at = Some(Instant::now() + EXPELLED);
        }
        if !peer.dialling && peer.answered_at.is_none() && peer.retry_at.is_none() {
            self.table.remove(&id);
        }
        Some(Input::Disconnected(id, gone))
    }

    /// Lets every link send what waits, and close with [`Code::Leave`].
    pub(super) fn leave(&mut self) {
        for link in self.table.drain().filter_map(|(_, peer)| peer.link) {
            // A full queue: dropping the sender closes the link too, and the endpoint says why.
            let _ = link.orders.try_send(Order::Leave);
        }
        self.links = 0;
    }

    /// Two connections between the same two processes: both sides keep the one that the smaller id dialled. If one of
    /// them is older than any dial can take, its other end is gone already: nobody dials whom he is connected to.
    fn settle_duplicate(&mut self, met: Box<Met>, until: u64) -> Vec<Input> {
        let smaller = self.us < met.hello.id;
        let Some(link) = self.table.get(&met.hello.id).and_then(|peer| peer.link.as_ref()) else {
            return self.install(met, until);
        };
        let crossed = link.since.elapsed() < GREETING && link.dialled != met.dialled;
        if !crossed || met.dialled == smaller {
            self.install(met, until);
        } else {
            let orders = self.run_link(&met);
            retire(met.connection, orders);
        }
        Vec::new()
    }

    /// Makes this the peer's link, in place of any before; what waited goes out on it.
    fn install(&mut self, met: Box<Met>, until: u64) -> Vec<Input> {
        let orders = self.run_link(&met);
        let now = Instant::now();
        let rtt = met.connection.rtt();
        let answered_at = met.dialled.then(|| met.address());
        let (id, boot) = (met.hello.id, met.hello.boot);
        let mut link = Standing {
            connection: met.connection,
            orders,
            serial: self.serial,
            boot,
            until,
            asked: 0,
            dialled: met.dialled,
            since: now,
            used: now,
        };
        let peer = self.table.entry(id).or_default();
        for parcel in peer.waiting.drain(..) {
            link.send(parcel, &self.greeter);
        }
        (peer.failures, peer.retry_at, peer.challenged) = (0, None, None);
        peer.answered_at = answered_at.or(peer.answered_at);
        match peer.link.replace(link) {
            Some(old) if old.boot == boot => retire(old.connection, old.orders),
            Some(old) => old.connection.close(Code::Closed.into(), b""),
            None => self.links += 1,
        }
        self.evict();
        vec![Input::Connected(met.hello), Input::Rtt(id, rtt)]
    }

    fn run_link(&mut self, met: &Met) -> mpsc::Sender<Order> {
        self.serial += 1;
        let (orders, queue) = mpsc::channel(MAX_QUEUE);
        let link = Link {
            peer: met.hello.id,
            serial: self.serial,
            connection: met.connection.clone(),
            room: met.connection.datagram_send_buffer_space(),
            arrivals: self.arrivals.clone(),
            traffic: Arc::clone(&self.greeter.traffic),
            gazette: self.greeter.gazette.clone(),
            lines: Arc::clone(&self.greeter.lines),
            trust: Arc::clone(&self.greeter.trust),
        };
        self.link_tasks.spawn(link.run(queue));
        orders
    }

    /// Keeps the number of links and of remembered failures within bounds.
    fn evict(&mut self) {
        if self.links > MAX_LINKS {
            let oldest = self.table.values().filter_map(|peer| peer.link.as_ref()).min_by_key(|link| link.used);
            if let Some(link) = oldest {
                // Its task reports the end.
                link.connection.close(Code::Closed.into(), b"");
            }
        }
        if self.table.len() > 2 * MAX_LINKS {
            let now = Instant::now();
            let counts = |peer: &Peer| peer.link.is_some() || peer.dialling || peer.retry_at.is_some_and(|at| at > now);
            self.table.retain(|_, peer| counts(peer));
        }
    }

    fn dial_is_over(&mut self, target: Option<Target>) {
        match target {
            Some(Target::Seed(address)) => drop(self.seeds.remove(&address)),
            Some(Target::Peer(id)) => self.table.entry(id).or_default().dialling = false,
            None => {}
        }
    }

    /// Dials, when it is its turn.
    fn dial(&mut self, target: Target, addresses: Vec<SocketAddr>) {
        let now = Instant::now();
        self.dial_slot = self.dial_slot.max(now) + DIAL_SPACING;
        let turn = self.dial_slot.checked_sub(DIAL_BURST).unwrap_or(now);
        let expected = if let Target::Peer(id) = target { Some(id) } else { None };
        let (greeter, arrivals) = (Arc::clone(&self.greeter), self.arrivals.clone());
        tokio::spawn(async move {
            sleep_until(turn).await;
            let arrival = match dial_any(&greeter, &addresses, expected).await {
                Ok(met) => Arrival::Met(Box::new(met), Some(target)),
                Err(why) => Arrival::Missed(target, why),
            };
            let _ = arrivals.send(arrival).await;
        });
    }
}

impl Standing {
    fn is_closed(&self) -> bool {
        self.connection.close_reason().is_some()
    }

    fn address(&self) -> SocketAddr {
        canonical(self.connection.remote_address())
    }

    fn send(&mut self, parcel: Parcel, greeter: &Greeter) {
        let traffic = &greeter.traffic;
        let sent = match parcel {
            Parcel::Message(message) => self.orders.try_send(Order::Send(message)).is_ok(),
            // QUIC would make room by dropping the oldest, uncounted.
            Parcel::Packet(packet) if self.connection.datagram_send_buffer_space() < packet.len() => false,
            Parcel::Packet(packet) => {
                traffic.datagrams_sent.add(1);
                traffic.datagram_bytes_sent.add(packet.len());
                self.connection.send_datagram(packet).is_ok()
            }
        };
        if !sent {
            traffic.dropped_outgoing.add(1);
        }
    }
}

/// Closes a connection in whose place another stands, once what is under way had its time, and whatever its peer does.
fn retire(connection: Connection, orders: mpsc::Sender<Order>) {
    tokio::spawn(async move {
        sleep(LINGER).await;
        connection.close(Code::Duplicate.into(), b"");
        drop(orders);
    });
}

/// Parcels that wait for a dial: a round of packets, not more, since they grow stale.
const MAX_WAITING: usize = 64;
/// Messages that wait on a link.
const MAX_QUEUE: usize = 64;
/// A full mesh up to here; above it the least recently used link goes.
const MAX_LINKS: usize = 1500;
/// How long a connection that was replaced stays open for what is still on its way.
const LINGER: Duration = Duration::from_secs(1);
/// How long no dial is tried between two of which one has closed for what the other did.
const EXPELLED: Duration = Duration::from_secs(10);
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// 50 dials a second, up to a second's worth at once.
const DIAL_SPACING: Duration = Duration::from_millis(20);
const DIAL_BURST: Duration = Duration::from_secs(1);
