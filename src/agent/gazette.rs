//! Edicts on their way: from whoever may sign them to every node, and onto this one's disk.
//!
//! A task of its own. A new edict goes to some random links at once, whoever hears it first hands it on; two nodes whose
//! law differs find out when they connect, and now and then afterwards. What is heard is verified before it counts, so a
//! member may withhold an edict and never forge one.

use std::{
    collections::HashMap,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use quinn::Connection;
use rand::{SeedableRng, seq::IteratorRandom};
use rand_pcg::Pcg32;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{
    Refused,
    hello::Greeter,
    link,
    peers::Arrival,
    scribe::{Reply, Scribe},
    traffic::Traffic,
    trust::{Edict, Law, MAX_OF_A_KIND, Taken, Trust},
};
use crate::{
    mesh::{Input, wire::MAX_MESSAGE},
    model::{NodeId, millis},
};

/// What the task hears.
pub(super) enum Heard {
    /// A link stands.
    Linked(NodeId, Connection),
    /// A peer has sent a notice.
    Notice(NodeId, Connection, Bytes),
    /// This node, or a person through it, decrees something; verified already.
    Decree(Edict, Reply),
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

/// What a peer has cost us. It is forgotten at each of our offers.
#[derive(Debug, Default)]
struct Spent {
    /// Edicts that it has sent, and those of them that nobody we believe has signed.
    heard: usize,
    forged: usize,
    /// How often it was sent all of ours, and the last time, which may go on.
    answers: usize,
    answering: Option<JoinHandle<()>>,
}

/// What one task owns.
pub(super) struct Gazette {
    trust: Arc<Trust>,
    traffic: Arc<Traffic>,
    scribe: Scribe,
    /// By peer and connection: of two that cross, either may be the one that stays.
    links: HashMap<(NodeId, usize), Connection>,
    /// What each peer has cost since the last offer.
    spent: HashMap<NodeId, Spent>,
    arrivals: mpsc::Sender<Arrival>,
    random: Pcg32,
}

impl Gazette {
    /// Takes up what an earlier life has kept.
    pub(super) fn open(
        greeter: &Greeter,
        directory: Option<&Path>,
        arrivals: &mpsc::Sender<Arrival>,
        seed: u64,
    ) -> Self {
        let (trust, traffic) = (Arc::clone(&greeter.trust), Arc::clone(&greeter.traffic));
        if let Some(directory) = directory {
            trust.open_law(directory, now());
        }
        let (random, arrivals) = (Pcg32::seed_from_u64(seed), arrivals.clone());
        let scribe = Scribe::new(&trust);
        Self { trust, traffic, scribe, links: HashMap::new(), spent: HashMap::new(), arrivals, random }
    }

    /// Runs until the loop has ended, and what is law is on the disk if that takes it.
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
                    Some(Heard::Decree(edict, reply)) => self.decree(edict, reply).await,
                    None => break,
                },
                () = self.scribe.written() => {}
                () = self.trust.signed() => self.proclaim().await,
                _ = offers.tick() => {
                    self.offer();
                    self.scribe.retry();
                }
                () = ended.closed() => break,
            }
        }
        self.scribe.finish().await;
    }

    fn meet(&mut self, peer: NodeId, connection: Connection) {
        if !self.trust.law().is_empty() {
            self.send(&connection, &[], true);
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
            return self.expel(peer, "a notice that makes no sense").await;
        };
        let answers = notice.edicts.is_empty();
        let (mut fresh, now) = (Vec::new(), now());
        let spent = self.spent.entry(peer).or_default();
        spent.heard += notice.edicts.len();
        if spent.heard > MAX_HEARD {
            return self.expel(peer, "more edicts than a law can have").await;
        }
        for edict in notice.edicts {
            // Who has not heard of a new authority yet cannot tell its word from a forgery: counted, and let be up to a
            // number that costs little to verify.
            let taken = if spent.forged < MAX_VERIFIED { self.trust.take(&edict, now) } else { Err("is one of many") };
            match taken {
                Ok(Taken::News) => fresh.push(edict),
                Ok(Taken::Known | Taken::NoRoom) => {}
                Err(why) => {
                    spent.forged += 1;
                    self.traffic.edicts_refused.add(1);
                    if self.trust.refuse(&edict, why, now) {
                        tracing::warn!(event = "edict_refused", %peer, why, next = "hobnob doctor");
                    } else {
                        tracing::debug!(event = "edict_refused", %peer, why);
                    }
                }
            }
        }
        if !fresh.is_empty() {
            self.enact(&fresh, Some(peer)).await;
            // Nobody waits for an answer: doctor tells what is not on the disk.
            self.scribe.keep(None);
        }
        if notice.summary == self.trust.law().summary() {
            self.trust.agreed();
        } else if notice.asks {
            // Two that cannot agree, since one does not believe the other's authority yet, must come to an end.
            self.send_all(peer, connection, answers);
        }
    }

    /// Has a peer's connection closed, with the reason.
    async fn expel(&self, peer: NodeId, why: &'static str) {
        let _ = self.arrivals.send(Arrival::Input(Input::Garbage(peer, why))).await;
    }

    async fn decree(&mut self, edict: Edict, reply: Reply) {
        let why = match self.trust.admit(&edict, now()) {
            Ok(Taken::News) => {
                self.enact(&[edict], None).await;
                return self.scribe.keep(Some(reply));
            }
            Ok(Taken::Known) => "says nothing new: the same or a later word stands".into(),
            Ok(Taken::NoRoom) => {
                format!("finds no room: {MAX_OF_A_KIND} of its kind are known; tokens go a day after they expire")
            }
            Err(why) => why,
        };
        let _ = reply.send(Err(Refused::Undecreed(why)));
    }

    /// Hands news on, and has the links looked at.
    async fn enact(&mut self, fresh: &[Edict], from: Option<NodeId>) {
        tracing::info!(event = "edicts", count = fresh.len(), "new words of the authority");
        self.traffic.edicts_taken.add(fresh.len());
        self.links.retain(|_, link| link.close_reason().is_none());
        let others = self.links.iter().filter(|((peer, _), _)| Some(*peer) != from).map(|(_, link)| link.clone());
        for link in others.sample(&mut self.random, FANOUT) {
            for part in fresh.chunks(PART) {
                self.send(&link, part, false);
            }
        }
        let _ = self.arrivals.send(Arrival::Decreed).await;
    }

    /// Keeps what was signed again, and tells it to those who cannot sign.
    async fn proclaim(&mut self) {
        if self.trust.signs_for_others() {
            let all: Vec<_> = self.trust.law().edicts().cloned().collect();
            self.enact(&all, None).await;
        }
        // Nobody waits for an answer: doctor tells what is not on the disk.
        self.scribe.keep(None);
        tracing::info!(event = "edicts_signed", "what is law stands by the authority that signs now");
    }

    /// Compares the law with one random peer.
    fn offer(&mut self) {
        self.spent.retain(|_, spent| {
            *spent = Spent { answering: spent.answering.take_if(|answer| !answer.is_finished()), ..Spent::default() };
            spent.answering.is_some()
        });
        self.trust.forget(now());
        self.links.retain(|_, link| link.close_reason().is_none());
        if self.trust.law().is_empty() {
            return;
        }
        if let Some(link) = self.links.values().choose(&mut self.random).cloned() {
            self.send(&link, &[], true);
        }
    }

    /// Sends all of ours, one part after the other, and asks for what we lack unless the other has just sent all of its
    /// own. Once at a time, and a few times between two offers: who asks for more is not heard.
    fn send_all(&mut self, peer: NodeId, to: &Connection, asks: bool) {
        let spent = self.spent.entry(peer).or_default();
        if spent.answers >= MAX_ANSWERS || spent.answering.as_ref().is_some_and(|answer| !answer.is_finished()) {
            return;
        }
        spent.answers += 1;
        let (law, to, traffic) = (self.trust.law(), to.clone(), Arc::clone(&self.traffic));
        spent.answering = Some(tokio::spawn(async move {
            let all: Vec<_> = law.edicts().cloned().collect();
            let mut parts = all.chunks(PART).peekable();
            while let Some(part) = parts.next() {
                // The last part asks: only then the other has all of ours to compare with.
                if !send(&to, &traffic, render(&law, part, asks && parts.peek().is_none())).await {
                    return;
                }
            }
            if all.is_empty() && asks {
                send(&to, &traffic, render(&law, &[], true)).await;
            }
        }));
    }

    fn send(&self, to: &Connection, edicts: &[Edict], asks: bool) {
        let (to, traffic, notice) = (to.clone(), Arc::clone(&self.traffic), render(&self.trust.law(), edicts, asks));
        tokio::spawn(async move { send(&to, &traffic, notice).await });
    }
}

/// A notice as it travels.
fn render(law: &Law, edicts: &[Edict], asks: bool) -> Bytes {
    let notice = Notice { summary: law.summary(), edicts: edicts.to_vec(), asks };
    let mut bytes = vec![NOTICE];
    // Writing to memory cannot fail, and no type of ours refuses to be written.
    bytes.extend(rmp_serde::to_vec_named(&notice).unwrap_or_default());
    debug_assert!(bytes.len() <= MAX_MESSAGE, "a notice outgrew its limit");
    bytes.into()
}

/// Whether the peer has taken it.
async fn send(to: &Connection, traffic: &Traffic, notice: Bytes) -> bool {
    let sent = link::write_all(to, notice).await.is_some();
    let count = if sent { &traffic.notices_sent } else { &traffic.streams_failed };
    count.add(1);
    sent
}

/// The wall clock in unix milliseconds.
#[must_use]
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    millis(since)
}

/// The first byte of a stream that carries a notice; streams for the core begin with the protocol's version.
pub(super) const NOTICE: u8 = 0xed;
/// Each hands news on to so many: of a thousand nodes, all but one in nine million hear it at once, that one later.
const FANOUT: usize = 16;
/// Edicts in one notice: each is at most 2.1 KiB.
const PART: usize = 30;
/// From one comparison with a random peer to the next.
const OFFER_EVERY: Duration = Duration::from_secs(15);
/// Above it those that have ended are cleared away.
const MAX_LINKS: usize = 2000;
/// Between two offers, that many forged edicts of a peer are verified, at 60 µs each.
const MAX_VERIFIED: usize = 256;
/// With more than so many in all it is shut out: an honest one sends all of its law a few times.
const MAX_HEARD: usize = 8 * 2 * MAX_OF_A_KIND;
/// Times that a peer is sent all of ours between two offers: when it connects, at its own offer, and what crosses.
const MAX_ANSWERS: usize = 4;
/// A notice nests three deep.
const MAX_DEPTH: usize = 16;

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::{sync::oneshot, time::timeout};

    use super::*;
    use crate::agent::{
        Secret,
        hello::tests::{greeter, meet},
        scribe::tests::hang,
        trust::Word,
    };

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_disk_that_hangs_holds_up_no_word_and_is_told_to_whom_it_was_promised_alone() {
        let (folder, secret) = (tempfile::tempdir().unwrap(), Secret::random());
        let (host, peer) = (greeter("a", 1, &secret), greeter("b", 2, &secret));
        let (here, there) = meet(&host, &peer).await;
        let (here, there) = (here.unwrap(), there.unwrap());
        let (arrivals, mut arrived) = mpsc::channel(64);
        let (say, heard) = mpsc::channel(1);
        tokio::spawn(Gazette::open(&host, Some(folder.path()), &arrivals, 1).run(heard));
        let pipe = hang(folder.path());
        say.send(Heard::Linked(here.hello.id, here.connection.clone())).await.unwrap();
        let word = |name: &str| {
            let word = Word::DenyNode(name.try_into().unwrap());
            host.trust.decree(word, false, now()).unwrap()
        };
        let [(reply, mut first), (again, mut second)] = [(); 2].map(|()| oneshot::channel());
        for (name, reply) in [("first", reply), ("second", again)] {
            say.send(Heard::Decree(word(name), reply)).await.unwrap();
        }
        let notice = render(&Law::default(), &[word("third")], false).slice(1..);
        say.send(Heard::Notice(here.hello.id, here.connection.clone(), notice)).await.unwrap();
        let acted = async {
            for _ in 0..3 {
                assert!(matches!(arrived.recv().await, Some(Arrival::Decreed)));
            }
            // What was decreed here is handed on; what the peer has said it knows.
            for _ in 0..2 {
                there.connection.accept_uni().await.unwrap();
            }
        };
        let acted = timeout(PATIENCE, acted).await;
        let is_early = first.try_recv().is_ok() || second.try_recv().is_ok();
        // A pipe cannot be synced: this write fails, and the next has a disk again.
        let read = tokio::task::spawn_blocking(move || fs::read(pipe)).await.unwrap();
        assert!(acted.is_ok() && !is_early && read.is_ok());
        let first = timeout(PATIENCE, first).await.unwrap().unwrap();
        assert!(matches!(first, Err(Refused::Store(_))), "{first:?}");
        let second = timeout(PATIENCE, second).await.unwrap().unwrap();
        assert_eq!((second.is_ok(), host.trust.unkept()), (true, None));
        let again = greeter("a", 3, &secret);
        again.trust.open_law(folder.path(), now());
        assert_eq!(again.trust.law().summary(), host.trust.law().summary(), "all three are kept");
    }
}
