//! Edicts on their way: from whoever may sign them to every node, and onto this one's disk.
//!
//! A task of its own. A new edict goes to some random links at once, whoever hears it first hands it on; two nodes whose
//! law differs find out when they connect, and now and then afterwards. What is heard is verified before it counts, so a
//! member may withhold an edict and never forge one.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use quinn::Connection;
use rand::{SeedableRng, seq::IteratorRandom};
use rand_pcg::Pcg32;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{
    file,
    hello::Greeter,
    keep, link,
    peers::Arrival,
    traffic::Traffic,
    trust::{Edict, Trust},
};
use crate::{
    mesh::{Input, wire::MAX_MESSAGE},
    model::NodeId,
};

/// What the task hears.
pub(super) enum Heard {
    /// A link stands.
    Linked(NodeId, Connection),
    /// A peer has sent a notice.
    Notice(NodeId, Connection, Bytes),
    /// This node, or a person through it, decrees something; verified already.
    Decree(Edict, oneshot::Sender<Result<(), String>>),
}

/// What travels: edicts, and a number that stands for all of the sender's.
#[derive(Debug, Serialize, Deserialize)]
struct Notice {
    summary: u64,
    #[serde(deserialize_with = "crate::model::list")]
    edicts: Vec<Edict>,
    /// Whether the sender wants what it lacks.
    asks: bool,
}

/// What one task owns.
pub(super) struct Gazette {
    trust: Arc<Trust>,
    traffic: Arc<Traffic>,
    file: Option<PathBuf>,
    /// By peer and connection: of two that cross, either may be the one that stays.
    links: HashMap<(NodeId, usize), Connection>,
    arrivals: mpsc::Sender<Arrival>,
    random: Pcg32,
}

impl Gazette {
    /// Reads what an earlier life has kept. What cannot be read, or is not signed by whom we believe now, is left out:
    /// the peers tell it again.
    pub(super) fn open(
        greeter: &Greeter,
        directory: Option<&Path>,
        arrivals: &mpsc::Sender<Arrival>,
        seed: u64,
    ) -> Self {
        let (trust, traffic) = (Arc::clone(&greeter.trust), Arc::clone(&greeter.traffic));
        let file = directory.map(|directory| directory.join(FILE));
        let kept = file.as_ref().and_then(|path| file::read(path, MAX_KEPT).ok());
        for edict in kept.and_then(|kept| rmp_serde::from_slice::<Vec<Edict>>(&kept).ok()).unwrap_or_default() {
            if let Err(why) = trust.take(&edict, now()) {
                tracing::warn!(event = "edict_forgotten", why);
            }
        }
        let random = Pcg32::seed_from_u64(seed);
        Self { trust, traffic, file, links: HashMap::new(), arrivals: arrivals.clone(), random }
    }

    /// Runs until the loop has ended.
    pub(super) async fn run(mut self, mut heard: mpsc::Receiver<Heard>) {
        let ended = self.arrivals.clone();
        // By the clock: whoever hears something all the time compares all the same.
        let mut offers = interval_at(Instant::now() + OFFER_EVERY, OFFER_EVERY);
        offers.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                heard = heard.recv() => match heard {
                    Some(Heard::Linked(peer, connection)) => self.meet(peer, connection),
                    Some(Heard::Notice(peer, connection, bytes)) => self.hear(peer, &connection, &bytes).await,
                    Some(Heard::Decree(edict, reply)) => drop(reply.send(self.decree(edict).await)),
                    None => return,
                },
                _ = offers.tick() => self.offer(),
                () = ended.closed() => return,
            }
        }
    }

    fn meet(&mut self, peer: NodeId, connection: Connection) {
        if !self.trust.law().is_empty() {
            self.send(&connection, Vec::new(), true);
        }
        self.links.insert((peer, connection.stable_id()), connection);
        if self.links.len() > MAX_LINKS {
            self.links.retain(|_, link| link.close_reason().is_none());
        }
    }

    async fn hear(&mut self, peer: NodeId, connection: &Connection, bytes: &[u8]) {
        let mut from = rmp_serde::Deserializer::from_read_ref(bytes);
        from.set_max_depth(MAX_DEPTH);
        let Ok(notice) = Notice::deserialize(&mut from) else {
            self.traffic.edicts_refused.add(1);
            let garbage = Input::Garbage(peer, "a notice that makes no sense");
            let _ = self.arrivals.send(Arrival::Input(garbage)).await;
            return;
        };
        let answers = notice.edicts.is_empty();
        let (mut fresh, now) = (Vec::new(), now());
        for edict in notice.edicts {
            match self.trust.take(&edict, now) {
                Ok(true) => fresh.push(edict),
                Ok(false) => {}
                // Who has not heard of a new authority yet cannot tell its word from a forgery: counted, and let be.
                Err(why) => {
                    self.traffic.edicts_refused.add(1);
                    tracing::debug!(event = "edict_refused", %peer, why);
                }
            }
        }
        if !fresh.is_empty() {
            self.enact(&fresh, Some(peer)).await;
        }
        if notice.asks && notice.summary != self.trust.law().summary() {
            // Two that cannot agree, since one does not believe the other's authority yet, must come to an end.
            self.send_all(connection, answers);
        }
    }

    async fn decree(&mut self, edict: Edict) -> Result<(), String> {
        match self.trust.take(&edict, now()) {
            Ok(true) => {
                self.enact(&[edict], None).await;
                Ok(())
            }
            Ok(false) => Err("says nothing new, or the mesh has no room for more".into()),
            Err(why) => Err(why.into()),
        }
    }

    /// Makes news durable, hands them on, and has the links looked at.
    async fn enact(&mut self, fresh: &[Edict], from: Option<NodeId>) {
        tracing::info!(event = "edicts", count = fresh.len(), "new words of the authority");
        self.traffic.edicts_taken.add(fresh.len());
        if let Err(why) = self.keep().await {
            tracing::error!(event = "edicts_not_kept", %why, "they hold, but a restart has to hear them again");
        }
        self.links.retain(|_, link| link.close_reason().is_none());
        let others = self.links.iter().filter(|((peer, _), _)| Some(*peer) != from).map(|(_, link)| link.clone());
        for link in others.sample(&mut self.random, FANOUT) {
            for part in fresh.chunks(PART) {
                self.send(&link, part.to_vec(), false);
            }
        }
        let _ = self.arrivals.send(Arrival::Renewed).await;
    }

    /// Compares the law with one random peer.
    fn offer(&mut self) {
        if self.trust.law().is_empty() {
            return;
        }
        self.links.retain(|_, link| link.close_reason().is_none());
        if let Some(link) = self.links.values().choose(&mut self.random).cloned() {
            self.send(&link, Vec::new(), true);
        }
    }

    /// Sends all of ours, and asks for what we lack unless the other has just sent all of its own.
    fn send_all(&self, to: &Connection, asks: bool) {
        let all: Vec<_> = self.trust.law().edicts().cloned().collect();
        let parts = all.chunks(PART).map(<[_]>::to_vec).collect::<Vec<_>>();
        // The last part asks: only then the other has all of ours to compare with.
        let last = parts.len();
        for (at, part) in parts.into_iter().enumerate() {
            self.send(to, part, asks && at + 1 == last);
        }
        if last == 0 && asks {
            self.send(to, Vec::new(), true);
        }
    }

    fn send(&self, to: &Connection, edicts: Vec<Edict>, asks: bool) {
        let notice = Notice { summary: self.trust.law().summary(), edicts, asks };
        let mut bytes = vec![NOTICE];
        // Writing to memory cannot fail, and no type of ours refuses to be written.
        bytes.extend(rmp_serde::to_vec_named(&notice).unwrap_or_default());
        debug_assert!(bytes.len() <= MAX_MESSAGE, "a notice outgrew its limit");
        let (to, traffic) = (to.clone(), Arc::clone(&self.traffic));
        tokio::spawn(async move {
            match link::write_all(&to, bytes.into()).await {
                Some(()) => traffic.notices_sent.add(1),
                None => traffic.streams_failed.add(1),
            }
        });
    }

    /// Writes all of them to the disk, in place of what was there.
    async fn keep(&self) -> io::Result<()> {
        let Some(file) = self.file.clone() else { return Ok(()) };
        let all: Vec<_> = self.trust.law().edicts().cloned().collect();
        let bytes = rmp_serde::to_vec_named(&all).map_err(io::Error::other)?;
        // A disk may be slow, and the links are not to wait for it.
        spawn_blocking(move || keep::replace(&file, &bytes, keep::PRIVATE)).await?
    }
}

/// The wall clock in unix milliseconds.
#[must_use]
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The first byte of a stream that carries a notice; streams for the core begin with the protocol's version.
pub(super) const NOTICE: u8 = 0xed;
const FILE: &str = "edicts";
/// Each hands news on to so many: of a thousand nodes, all but one in nine million hear it at once, that one later.
const FANOUT: usize = 16;
/// Edicts in one notice: each is at most 1.2 KiB.
const PART: usize = 50;
/// From one comparison with a random peer to the next.
const OFFER_EVERY: Duration = Duration::from_secs(15);
/// Above it those that have ended are cleared away.
const MAX_LINKS: usize = 2000;
/// All edicts there may be, at their largest.
const MAX_KEPT: u64 = 4 << 20;
/// A notice nests three deep.
const MAX_DEPTH: usize = 16;
