//! Who calls: strangers cost little, whoever they are, and a member of the mesh is let in.
//!
//! Few calls are answered at a time; when many come, a caller must first prove its address (RFC 9000 section 8.1.2), and
//! what is beyond that is refused unread; so are nearly all of those whose proven calls came to nothing too often (see
//! [`super::left`]).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{Instant, timeout},
};

use super::{
    hello::{GREETING, Greeter, Met, Missed},
    journal::Journal,
    left::{Caller, Left},
    peers::Arrival,
    quic::canonical,
    usher::usher,
    view::View,
    will::is_last_will,
};
use crate::mesh::Input;

/// Answers calls until the endpoint closes. Strangers cost little: few at a time, then address proof, then nothing.
pub(super) async fn listen(
    greeter: Arc<Greeter>,
    view: Arc<View>,
    journal: Arc<Journal>,
    links: watch::Receiver<usize>,
    arrivals: mpsc::Sender<Arrival>,
) {
    let mut seats = Seats::default();
    let [strangers, not_granted] = [(); 2].map(|()| Arc::<Seldom>::default());
    let left = Arc::new(Left::default());
    while let Some(incoming) = greeter.endpoint.accept().await {
        let under_way = seats.taken();
        let left_behind = greeter.endpoint.open_connections().saturating_sub(*links.borrow() + under_way);
        let busy = under_way > MAX_UNPROVEN || left_behind > MAX_LEFT_BEHIND;
        if busy && incoming.may_retry() && !incoming.remote_address_validated() {
            greeter.traffic.retries.add(1);
            // Refused only when it was validated already, which was asked.
            let _ = incoming.retry();
            continue;
        }
        let caller = Caller::at(canonical(incoming.remote_address()).ip(), &view);
        let is_proven = incoming.remote_address_validated();
        if is_proven && !left.answers(caller, left_behind, Instant::now()) {
            greeter.traffic.refused.add(1);
            incoming.refuse();
            continue;
        }
        let Some(seat) = seats.take(caller) else {
            greeter.traffic.refused.add(1);
            incoming.refuse();
            continue;
        };
        let (greeter, view, journal) = (Arc::clone(&greeter), Arc::clone(&view), Arc::clone(&journal));
        let (arrivals, left) = (arrivals.clone(), Arc::clone(&left));
        let (strangers, not_granted) = (Arc::clone(&strangers), Arc::clone(&not_granted));
        tokio::spawn(async move {
            let _seat = seat;
            let from = canonical(incoming.remote_address());
            let met = greeter.answer(incoming).await;
            if is_proven && met.as_ref().is_err_and(Missed::is_hung_up) {
                left.add(caller, Instant::now());
            }
            match met {
                Ok(met) if is_last_will(&met.hello) => hear_will(&greeter, met, &arrivals).await,
                Ok(met) => drop(arrivals.send(Arrival::Met(Box::new(met), None)).await),
                Err(Missed::NameInUse(holder)) => drop(arrivals.send(Arrival::NameInUse(holder)).await),
                Err(Missed::NameSaidInUse(by, at)) => drop(arrivals.send(Arrival::NameDisputed(by, at)).await),
                Err(Missed::Guest(connection)) => {
                    usher(&greeter.trust, &view, &journal, &not_granted, connection).await
                }
                Err(why @ (Missed::Stranger(_) | Missed::Untimely(_) | Missed::Outcast(_) | Missed::Revoked(_))) => {
                    if let Some(unsaid) = strangers.take(Instant::now()) {
                        // Quoted: a reason in it may be the stranger's own words.
                        tracing::warn!(event = "stranger", %from, why = why.to_string(), unsaid);
                    }
                }
                Err(why) => tracing::debug!(event = "call_failed", %from, %why),
            }
        });
    }
}

/// Handshakes under way: how many there may be.
struct Seats {
    known: Arc<Semaphore>,
    strange: Arc<Semaphore>,
    callers: HashMap<Caller, Arc<Semaphore>>,
}

impl Default for Seats {
    fn default() -> Self {
        let [known, strange] = [MAX_ANSWERING, MAX_ANSWERING_STRANGERS].map(|seats| Arc::new(Semaphore::new(seats)));
        Self { known, strange, callers: HashMap::new() }
    }
}

impl Seats {
    fn taken(&self) -> usize {
        MAX_ANSWERING + MAX_ANSWERING_STRANGERS - self.known.available_permits() - self.strange.available_permits()
    }

    /// A seat, in the hall and of the caller's own, if both are to be had.
    fn take(&mut self, caller: Caller) -> Option<[OwnedSemaphorePermit; 2]> {
        // They are handed out here alone: one that nobody else holds has no caller under way.
        self.callers.retain(|_, seats| Arc::strong_count(seats) > 1);
        // A machine's own nodes may all start at once.
        let most = if caller.is_own() { MAX_ANSWERING } else { MAX_ANSWERING_ONE };
        let own = self.callers.entry(caller).or_insert_with(|| Arc::new(Semaphore::new(most)));
        let is_known = caller.is_own() || matches!(caller, Caller::Member(_));
        let hall = if is_known { &self.known } else { &self.strange };
        let own = Arc::clone(own).try_acquire_owned().ok()?;
        Some([Arc::clone(hall).try_acquire_owned().ok()?, own])
    }
}

/// A node's executor has called. It hangs up: what we said in answer must reach it first.
async fn hear_will(greeter: &Greeter, met: Met, arrivals: &mpsc::Sender<Arrival>) {
    if greeter.admit(&met.connection).is_err() {
        return;
    }
    if let Some(unsaid) = greeter.lines.last_will.take(Instant::now()) {
        tracing::info!(event = "last_will", node = %met.hello.node.name, from = %met.address(), unsaid);
    }
    let (node, epoch) = (met.hello.id, met.hello.generation.epoch());
    let _ = arrivals.send(Arrival::Input(Input::Will { node, epoch })).await;
    let _ = timeout(GREETING, met.connection.closed()).await;
}

/// What is told of now and then, since others can have it happen as often as they like.
#[derive(Debug, Default)]
pub(super) struct Seldom {
    /// How far ahead of its time a line may be told.
    ahead: Duration,
    /// When the next line would be due if all kept to the rate (GCRA), and how many were not told.
    told: Mutex<(Option<Instant>, u64)>,
}

impl Seldom {
    /// After so many lines at once, which it takes as many times [`TOLD_EVERY`] to have again.
    pub(super) fn after(lines: u32) -> Self {
        Self { ahead: TOLD_EVERY * lines.saturating_sub(1), told: Mutex::default() }
    }

    /// How many were not told of since the last that was; `None` if this one is not to be told of either.
    pub(super) fn take(&self, now: Instant) -> Option<u64> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let due = told.0.map_or(now, |due| due.max(now));
        if due - now > self.ahead {
            told.1 += 1;
            return None;
        }
        told.0 = Some(due + TOLD_EVERY);
        Some(std::mem::take(&mut told.1))
    }

    /// Whether it may tell as much as if nothing had ever been told.
    pub(super) fn is_rested(&self, now: Instant) -> bool {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).0.is_none_or(|due| due <= now)
    }
}

/// The most handshakes under way with callers from members' addresses, and from this machine.
const MAX_ANSWERING: usize = 256;
/// And with strangers, who take no member's seat.
const MAX_ANSWERING_STRANGERS: usize = 128;
/// And with one caller, so that it does not take all of them.
const MAX_ANSWERING_ONE: usize = 32;
/// And how many for callers who have not.
const MAX_UNPROVEN: usize = 32;
/// Connections that are neither a link's nor a call's, of 20 KB each, until callers have to prove their address, which costs
/// them a round trip: after a busy moment more than these are closing, and nobody is kept out.
const MAX_LEFT_BEHIND: usize = 32;
/// One line of a kind in so long a time; the counter of failed handshakes has all strangers.
const TOLD_EVERY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use rustls::{Side, crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256, quic::Version};
    use tokio::{net::UdpSocket, task::yield_now};

    use super::*;
    use crate::{
        agent::{Counter, Secret, hello::tests::greeter, left::MAX_LEFT_BY_ONE},
        mesh::Member,
        model::{Epoch, MemberState, Time},
    };

    #[test]
    fn strangers_take_no_member_s_seat_and_nobody_another_s() {
        let mut seats = Seats::default();
        let stranger = |n: u64| Caller::Stranger(IpAddr::from([192, 0, (n / 256) as u8, n as u8]));
        let strange: Vec<_> = (0..1_000).filter_map(|n| seats.take(stranger(n / 100))).collect();
        assert_eq!((strange.len(), seats.taken()), (MAX_ANSWERING_STRANGERS, MAX_ANSWERING_STRANGERS));
        let member = Caller::Member([192, 0, 0, 9].into());
        let seated: Vec<_> = (0..100).map_while(|_| seats.take(member)).collect();
        assert_eq!(seated.len(), MAX_ANSWERING_ONE);
        let own: Vec<_> = (0..1_000).map_while(|_| seats.take(Caller::Stranger([127, 0, 0, 1].into()))).collect();
        assert_eq!(own.len(), MAX_ANSWERING - MAX_ANSWERING_ONE);
        drop((strange, seated, own));
        assert!(seats.taken() == 0 && seats.take(stranger(0)).is_some());
    }

    #[tokio::test]
    async fn strangers_cannot_fill_the_log() {
        let (strangers, now) = (Seldom::default(), Instant::now());
        let told: Vec<_> = (0..40).filter_map(|second| strangers.take(now + Duration::from_secs(second))).collect();
        assert_eq!(told, [0, 9, 9, 9]);
    }

    /// A first packet to this connection id that holds an application's goodbye (RFC 9000 sections 17.2.2 and 19.19).
    fn goodbye(to: &[u8], token: &[u8]) -> Vec<u8> {
        const LENGTH: usize = 1200;
        let suite = TLS13_AES_128_GCM_SHA256.tls13().and_then(|suite| suite.quic_suite()).unwrap();
        let keys = suite.keys(to, Side::Client, Version::V1).local;
        let two_bytes = |number: usize| (0x4000 | u16::try_from(number).unwrap()).to_be_bytes();
        // A number of four bytes.
        let mut packet = vec![0xc3, 0, 0, 0, 1];
        for id in [to, b"stranger"] {
            packet.push(u8::try_from(id.len()).unwrap());
            packet.extend(id);
        }
        packet.extend(two_bytes(token.len()));
        packet.extend(token);
        packet.extend(two_bytes(LENGTH - packet.len() - 2));
        packet.extend([0; 4]);
        let mut payload = vec![0; LENGTH - packet.len() - keys.packet.tag_len()];
        payload[0] = 0x1d;
        let tag = keys.packet.encrypt_in_place(0, &packet, &mut payload).unwrap();
        let (first, header) = packet.split_first_mut().unwrap();
        let number = header.len() - 4;
        keys.header.encrypt_in_place(&payload[..16], first, &mut header[number..]).unwrap();
        packet.extend(payload);
        packet.extend(tag.as_ref());
        packet
    }

    /// Calls and hangs up at once; proves its address where that is asked for.
    async fn hang_up(host: &Greeter, socket: &UdpSocket, call: u64) {
        let traffic = &host.traffic;
        let answered =
            || [&traffic.handshakes_failed, &traffic.retries, &traffic.refused].map(Counter::read).iter().sum::<u64>();
        let until = async |count| {
            while answered() < count {
                yield_now().await;
            }
        };
        let (before, retries) = (answered(), traffic.retries.read());
        socket.send(&goodbye(&call.to_be_bytes(), b"")).await.unwrap();
        until(before + 1).await;
        if traffic.retries.read() > retries {
            let mut buffer = [0; 2048];
            let retry = loop {
                let length = socket.recv(&mut buffer).await.unwrap();
                // The rest are refusals of earlier calls.
                if buffer[0] & 0xf0 == 0xf0 {
                    break &buffer[..length];
                }
            };
            let ids = &retry[5..];
            let ours = 1 + usize::from(ids[0]);
            let (theirs, rest) = ids[ours + 1..].split_at(ids[ours].into());
            socket.send(&goodbye(theirs, &rest[..rest.len() - 16])).await.unwrap();
            until(before + 2).await;
        }
    }

    /// The same, once more where a datagram was lost on the way.
    async fn call_until_answered(host: &Greeter, socket: &UdpSocket, call: u64) {
        for again in 0..60 {
            if timeout(Duration::from_secs(1), hang_up(host, socket, again << 32 | call)).await.is_ok() {
                return;
            }
        }
        panic!("each call is answered or not");
    }

    #[tokio::test]
    async fn who_calls_to_say_goodbye_leaves_only_so_much_behind_and_shuts_no_member_out() {
        let (host, view) = (greeter("a", 1, &Secret::random()), Arc::<View>::default());
        let (arrivals, _arrived) = mpsc::channel(1);
        let own = (Arc::clone(&host), Arc::clone(&view));
        tokio::spawn(listen(own.0, own.1, Arc::default(), watch::channel(0).1, arrivals));
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(host.endpoint.local_addr().unwrap()).await.unwrap();
        let (began, mut calls) = (Instant::now(), 0..2000);
        while host.traffic.refused.read() < 10 {
            call_until_answered(&host, &socket, calls.next().expect("the limit is not so far")).await;
        }
        let left = host.endpoint.open_connections();
        let anyway = usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
        let most = MAX_LEFT_BEHIND + 1 + MAX_LEFT_BY_ONE as usize;
        assert!((most..=most + anyway).contains(&left), "{left} connections");

        let node = Arc::new(host.hello.load().node.clone());
        let (id, state, since) = (host.hello.load().id, MemberState::Alive, Time::ZERO);
        let member =
            Member { id, node, state, epoch: Epoch(1), since, rtt: None, place: None, version: 1, held: false };
        view.set_node(&Arc::clone(&member.node).name, Some(member));
        let refused = host.traffic.refused.read();
        for call in calls.take(100) {
            call_until_answered(&host, &socket, call).await;
        }
        assert_eq!(host.traffic.refused.read(), refused, "a member is there too");
    }
}
