//! Finding the mesh: seeds by name, resolved again on every try, and when they are silent the peers of last time.
//!
//! A task of its own, asleep while any peer is connected.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    net::lookup_host,
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use super::{hello::Greeter, peers::Arrival, status::Status};

/// Where to look for the mesh.
pub(super) struct Seek {
    /// `host:port` as given.
    pub(super) seeds: Vec<String>,
    /// Addresses of peers from the store.
    pub(super) stored: Vec<SocketAddr>,
    /// Where this node itself answers, as it says itself: a node in its own list of seeds is usual.
    pub(super) bound: SocketAddr,
    pub(super) greeter: Arc<Greeter>,
}

impl Seek {
    /// Whether there is anybody to look for.
    pub(super) fn is_idle(&self) -> bool {
        self.seeds.is_empty() && self.stored.is_empty()
    }

    /// Reports addresses to try while nobody is connected, until the loop or the last handle is gone.
    pub(super) async fn run(
        mut self,
        mut more: mpsc::Receiver<Vec<String>>,
        mut links: watch::Receiver<usize>,
        arrivals: mpsc::Sender<Arrival>,
        status: Arc<Status>,
    ) {
        for round in 0_usize.. {
            if !self.is_idle() {
                self.try_once(round, &arrivals, &status).await;
            }
            // Seeds first: what is stored may be a mesh of long ago.
            let soon = round == 0 && !self.stored.is_empty();
            let alone = async {
                sleep(if soon { SEEDS_FIRST } else { TRY_AGAIN }).await;
                // The loop has ended when its end of the channel has: the arm below sees it.
                let _ = links.wait_for(|links| *links == 0).await;
            };
            tokio::select! {
                () = alone, if !self.is_idle() => {}
                seeds = more.recv() => match seeds {
                    Some(seeds) => self.remember(seeds),
                    None => return,
                },
                () = arrivals.closed() => return,
            }
        }
    }

    fn remember(&mut self, seeds: Vec<String>) {
        for seed in seeds {
            if !self.seeds.contains(&seed) && self.seeds.len() < MAX_SEEDS {
                self.seeds.push(seed);
            }
        }
    }

    async fn try_once(&self, round: usize, arrivals: &mpsc::Sender<Arrival>, status: &Status) {
        let (mut found, mut troubles) = (Vec::new(), Vec::new());
        let answers = join_all(self.seeds.iter().map(|seed| resolve(seed))).await;
        for (seed, answer) in self.seeds.iter().zip(answers) {
            match answer {
                Ok(addresses) => found.extend(addresses),
                Err(why) => {
                    tracing::warn!(event = "seed_unresolved", %seed, %why);
                    troubles.push(format!("{why}; it is tried again"));
                }
            }
        }
        let all_resolved = troubles.is_empty();
        status.troubles.store(Arc::new(troubles));
        // Before it is asked whether anybody was found: a list of seeds that holds only oneself names nobody.
        let own = self.greeter.hello.load();
        found.retain(|address| *address != self.bound && !own.node.addresses.contains(address));
        drop(own);
        if round > 0 || found.is_empty() {
            let first = round * STORED_AT_ONCE % self.stored.len().max(1);
            found.extend(self.stored.iter().cycle().skip(first).take(STORED_AT_ONCE.min(self.stored.len())));
        }
        found.sort_unstable();
        found.dedup();
        if all_resolved || !found.is_empty() {
            let _ = arrivals.send(Arrival::Found(found)).await;
        }
    }
}

/// The addresses of one `host:port`, or a sentence that names it.
pub(super) async fn resolve(seed: &str) -> Result<Vec<SocketAddr>, String> {
    match timeout(RESOLVE_TIMEOUT, lookup_host(seed)).await {
        Ok(Ok(addresses)) => Ok(addresses.take(MAX_SEEDS).collect()),
        Ok(Err(why)) => Err(format!("seed {seed} does not resolve: {why}")),
        Err(_) => Err(format!("seed {seed} does not resolve: no answer in time")),
    }
}

/// How long the seeds have, before those of last time are tried as well.
const SEEDS_FIRST: Duration = Duration::from_millis(100);
/// From one try to the next while nobody is connected.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// The resolver's own patience is longer than a try.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(4);
/// Stored peers added to each try.
const STORED_AT_ONCE: usize = 8;
/// The most seeds, and the most addresses of one.
const MAX_SEEDS: usize = 64;
