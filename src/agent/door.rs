//! Who calls: strangers cost little, whoever they are, and a member of the mesh is let in.
//!
//! Few calls are answered at a time; when many come, a caller must first prove its address (RFC 9000 section 8.1.2), and
//! what is beyond that is refused unread; so are those whose proven calls came to nothing too often.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{Instant, timeout},
};

use super::{
    hello::{GREETING, Greeter, Met, Missed},
    journal::Journal,
    peers::Arrival,
    quic::{IDLE, canonical},
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
    let answering = Arc::new(Semaphore::new(MAX_ANSWERING));
    let [strangers, not_granted] = [(); 2].map(|()| Arc::<Seldom>::default());
    let left = Arc::new(Left::default());
    let mut sources: HashMap<IpAddr, Arc<Semaphore>> = HashMap::new();
    while let Some(incoming) = greeter.endpoint.accept().await {
        let under_way = MAX_ANSWERING - answering.available_permits();
        // A first packet that says goodbye leaves a connection behind that quinn keeps until it has idled long enough.
        let left_behind = greeter.endpoint.open_connections().saturating_sub(*links.borrow() + under_way);
        let busy = under_way > MAX_UNPROVEN || left_behind > MAX_LEFT_BEHIND;
        if busy && incoming.may_retry() && !incoming.remote_address_validated() {
            greeter.traffic.retries.add(1);
            // Refused only when it was validated already, which was asked.
            let _ = incoming.retry();
            continue;
        }
        // Only this task hands them out: who alone holds it has no caller under way.
        sources.retain(|_, seats| Arc::strong_count(seats) > 1);
        let source = canonical(incoming.remote_address()).ip();
        let is_proven = incoming.remote_address_validated();
        if is_proven && left.is_too_much_of(source, Instant::now()) {
            greeter.traffic.refused.add(1);
            incoming.refuse();
            continue;
        }
        // A machine's own nodes may all start at once.
        let most = if source.is_loopback() { MAX_ANSWERING } else { MAX_ANSWERING_ONE };
        let seats = sources.entry(source).or_insert_with(|| Arc::new(Semaphore::new(most)));
        let permits = [Arc::clone(&answering), Arc::clone(seats)].map(Semaphore::try_acquire_owned);
        let [Ok(everywhere), Ok(here)] = permits else {
            greeter.traffic.refused.add(1);
            incoming.refuse();
            continue;
        };
        let (greeter, view, journal) = (Arc::clone(&greeter), Arc::clone(&view), Arc::clone(&journal));
        let (arrivals, left) = (arrivals.clone(), Arc::clone(&left));
        let (strangers, not_granted) = (Arc::clone(&strangers), Arc::clone(&not_granted));
        tokio::spawn(async move {
            let _permits = (everywhere, here);
            let from = canonical(incoming.remote_address());
            let met = greeter.answer(incoming).await;
            if is_proven && met.as_ref().is_err_and(Missed::is_hung_up) {
                left.add(source, Instant::now());
            }
            match met {
                Ok(met) if is_last_will(&met.hello) => hear_will(&greeter, met, &arrivals).await,
                Ok(met) => drop(arrivals.send(Arrival::Met(Box::new(met), None)).await),
                Err(Missed::NameInUse(holder)) => drop(arrivals.send(Arrival::NameInUse(holder)).await),
                Err(Missed::NameSaidInUse(holder)) => drop(arrivals.send(Arrival::NameSaidInUse(holder)).await),
                Err(Missed::Guest(connection)) => {
                    usher(&greeter.trust, &view, &journal, &not_granted, connection).await
                }
                Err(why @ (Missed::Stranger(_) | Missed::Untimely(_) | Missed::Outcast(_) | Missed::Revoked(_))) => {
                    if let Some(unsaid) = strangers.take(Instant::now()) {
                        tracing::warn!(event = "stranger", %from, %why, unsaid);
                    }
                }
                Err(why) => tracing::debug!(event = "call_failed", %from, %why),
            }
        });
    }
}

/// A node's executor has called. It hangs up: what we said in answer must reach it first.
async fn hear_will(greeter: &Greeter, met: Met, arrivals: &mpsc::Sender<Arrival>) {
    if greeter.admit(&met.connection).is_err() {
        return;
    }
    tracing::info!(event = "last_will", node = %met.hello.node.name, from = %met.address());
    let (node, epoch) = (met.hello.id, met.hello.generation.epoch());
    let _ = arrivals.send(Arrival::Input(Input::Will { node, epoch })).await;
    let _ = timeout(GREETING, met.connection.closed()).await;
}

/// What is told of now and then, since callers can have it happen as often as they like.
#[derive(Debug, Default)]
pub(super) struct Seldom(Mutex<(Option<Instant>, u64)>);

impl Seldom {
    /// How many were not told of since the last that was; `None` if this one is not to be told of either.
    pub(super) fn take(&self, now: Instant) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.0.is_some_and(|at| now - at < TOLD_EVERY) {
            told.1 += 1;
            return None;
        }
        told.0 = Some(now);
        Some(std::mem::take(&mut told.1))
    }
}

/// Connections that callers with proven addresses have hung up on before they stood: how many each has left behind, and
/// since when they are counted. A network of IPv6 is one caller, who may have any address of it.
#[derive(Debug, Default)]
struct Left(Mutex<BTreeMap<IpAddr, (u32, Instant)>>);

impl Left {
    fn add(&self, source: IpAddr, now: Instant) {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counted.retain(|_, (_, since)| now - *since < IDLE);
        if counted.len() < MAX_COUNTED || counted.contains_key(&network(source)) {
            counted.entry(network(source)).or_insert((0, now)).0 += 1;
        }
    }

    fn is_too_much_of(&self, source: IpAddr, now: Instant) -> bool {
        let counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counted.get(&network(source)).is_some_and(|(count, since)| *count >= MAX_LEFT_BY_ONE && now - *since < IDLE)
    }
}

/// The part of an address that one caller cannot choose.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        IpAddr::V4(_) => address,
    }
}

/// Handshakes under way from now on for callers who have proved their address.
const MAX_ANSWERING: usize = 256;
/// And how many of them for one address, so that it does not take all seats.
const MAX_ANSWERING_ONE: usize = 32;
/// And how many for callers who have not.
const MAX_UNPROVEN: usize = 64;
/// Connections that are neither a link's nor a call's, of 20 KB each, until callers have to prove their address: those that
/// are closing after a busy moment are some hundreds.
const MAX_LEFT_BEHIND: usize = 512;
/// And how many of these one caller may leave who has proved his address, 5 MB, until the first of them are gone.
const MAX_LEFT_BY_ONE: u32 = 256;
/// Callers counted at a time: more are more machines than strangers have.
const MAX_COUNTED: usize = 4096;
/// One line about callers of a kind in so long a time; the counter of failed handshakes has all strangers.
const TOLD_EVERY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn strangers_cannot_fill_the_log() {
        let (strangers, now) = (Seldom::default(), Instant::now());
        let told: Vec<_> = (0..40).filter_map(|second| strangers.take(now + Duration::from_secs(second))).collect();
        assert_eq!(told, [0, 9, 9, 9]);
    }

    #[tokio::test]
    async fn who_hangs_up_too_often_is_not_answered_until_that_is_over() {
        let (left, now) = (Left::default(), Instant::now());
        let [one, same, other] = ["2001:db8::1", "2001:db8::2", "192.0.2.1"].map(|address| address.parse().unwrap());
        for _ in 0..MAX_LEFT_BY_ONE {
            assert!(!left.is_too_much_of(same, now));
            left.add(one, now);
        }
        assert!(left.is_too_much_of(same, now) && !left.is_too_much_of(other, now));
        assert!(!left.is_too_much_of(same, now + IDLE));
        left.add(same, now + IDLE);
        assert!(!left.is_too_much_of(same, now + IDLE), "counted anew");
    }
}
