//! Who calls: strangers cost little, whoever they are, and a member of the mesh is let in.
//!
//! Few calls are answered at a time; when many come, a caller must first prove its address (RFC 9000 section 8.1.2), and
//! what is beyond that is refused unread.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use tokio::sync::{Semaphore, mpsc};

use super::{
    hello::{Greeter, Missed},
    peers::Arrival,
    quic::canonical,
};

/// Answers calls until the endpoint closes. Strangers cost little: few at a time, then address proof, then nothing.
pub(super) async fn listen(greeter: Arc<Greeter>, arrivals: mpsc::Sender<Arrival>) {
    let answering = Arc::new(Semaphore::new(MAX_ANSWERING));
    let mut sources: HashMap<IpAddr, Arc<Semaphore>> = HashMap::new();
    while let Some(incoming) = greeter.endpoint.accept().await {
        let busy = answering.available_permits() < MAX_ANSWERING - MAX_UNPROVEN;
        if busy && incoming.may_retry() && !incoming.remote_address_validated() {
            greeter.traffic.retries.add(1);
            // Refused only when it was validated already, which was asked.
            let _ = incoming.retry();
            continue;
        }
        // Only this task hands them out: who alone holds it has no caller under way.
        sources.retain(|_, seats| Arc::strong_count(seats) > 1);
        let source = canonical(incoming.remote_address()).ip();
        // A machine's own nodes may all start at once.
        let most = if source.is_loopback() { MAX_ANSWERING } else { MAX_ANSWERING_ONE };
        let seats = sources.entry(source).or_insert_with(|| Arc::new(Semaphore::new(most)));
        let permits = [Arc::clone(&answering), Arc::clone(seats)].map(Semaphore::try_acquire_owned);
        let [Ok(everywhere), Ok(here)] = permits else {
            greeter.traffic.refused.add(1);
            incoming.refuse();
            continue;
        };
        let (greeter, arrivals) = (Arc::clone(&greeter), arrivals.clone());
        tokio::spawn(async move {
            let _permits = (everywhere, here);
            let from = canonical(incoming.remote_address());
            match greeter.answer(incoming).await {
                Ok(met) => drop(arrivals.send(Arrival::Met(Box::new(met), None)).await),
                Err(Missed::NameInUse(holder)) => drop(arrivals.send(Arrival::NameInUse(holder)).await),
                Err(Missed::NameSaidInUse(holder)) => drop(arrivals.send(Arrival::NameSaidInUse(holder)).await),
                Err(why @ Missed::Stranger(_)) => tracing::warn!(event = "stranger", %from, %why),
                Err(why) => tracing::debug!(event = "call_failed", %from, %why),
            }
        });
    }
}

/// Handshakes under way from now on for callers who have proved their address.
const MAX_ANSWERING: usize = 256;
/// And how many of them for one address, so that it does not take all seats.
const MAX_ANSWERING_ONE: usize = 32;
/// And how many for callers who have not.
const MAX_UNPROVEN: usize = 64;
