//! Anti-entropy: hash, then buckets, then standings, then pages. Members ride along.
//!
//! Two nodes that agree find out with one hash each way. What a hash covers is each shown member's generation and how far
//! its book was read; a book is written by its owner alone, so equal marks are equal rows.
//! When that is enough to answer others, `ready` says.

mod ready;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use xxhash_rust::xxh3::xxh3_64;

use self::ready::Giver;
use super::{
    Mesh, Timer,
    catalog::Book,
    event::Generation,
    outbox::{End, Parcel},
    wire::{Digest, Fact, Frame, Mark, Readiness, Standing, Want},
};
use crate::model::{MemberState, NodeId, Time};

/// How this node keeps up with others.
#[derive(Debug, Default)]
pub(super) struct Sync {
    tokens: u32,
    /// Syncs whose answers are under way.
    open: BTreeMap<u32, Open>,
    /// Who asked while this node was no guide, and is to hear when it is more than it was.
    waiting: BTreeSet<NodeId>,
    /// What this node knows is all that the mesh knows.
    guides: bool,
    /// Who was first to tell it as a guide all there is, although somebody is missing: a second one is asked.
    guided: Option<NodeId>,
    /// When it met the first of the others.
    met: Option<Time>,
    rounds: u64,
    /// One sync was carried to its end.
    pub(super) done: bool,
    /// Whom to ask next: with whom that was, who may have heard of others that joined at the same time; or a peer of whom
    /// nobody had spoken, who may know others than this node.
    pub(super) host: Option<NodeId>,
    /// What this node's hash was when it asked last whether that is all.
    asked: u64,
    /// Who has said unasked that it is ready, and whether as a guide.
    heeded: BTreeSet<(NodeId, bool)>,
    /// What each peer's hash was when last heard, and when.
    roots: BTreeMap<NodeId, Root>,
}

/// An answer that is under way.
#[derive(Clone, Copy, Debug)]
struct Open {
    with: NodeId,
    /// The first token of the sync that it belongs to: a large one asks in several pieces.
    batch: u32,
    /// How many of its parts have come.
    come: u16,
    /// How ready its giver is.
    giver: Giver,
    /// The least ready any giver of the same sync was whose answer has come.
    least: Giver,
}

/// A peer's hash of all it knows.
#[derive(Clone, Copy, Debug)]
struct Root {
    hash: u64,
    heard: Time,
    /// Whether it has told something new since: what ends a part of an answer asks for the next.
    told: bool,
    /// Since when it was another than this node's at each comparison.
    apart: Option<Time>,
}

impl Root {
    /// Whether it differs although a sync had the time to repair it: what a write makes differ, its rumour repairs.
    fn differs(&self) -> bool {
        self.apart.is_some_and(|since| self.heard.since(since) >= REPAIRED)
    }
}

impl Sync {
    /// Waits no longer for answers that are under way.
    pub(super) fn give_up(&mut self) {
        self.open.clear();
    }

    /// Whether a node that knows nothing yet may begin to compare all with this peer.
    fn has_room_for(&self, peer: NodeId) -> bool {
        let (with_peer, others): (Vec<&Open>, Vec<&Open>) = self.open.values().partition(|open| open.with == peer);
        let with_peer: BTreeSet<u32> = with_peer.iter().map(|open| open.batch).collect();
        let others: BTreeSet<NodeId> = others.iter().map(|open| open.with).collect();
        with_peer.len().max(others.len()) < FIRST_SYNCS
    }

    /// Waits for one more answer, and where those are too many, for none of the oldest sync any more.
    fn wait(&mut self, token: u32, open: Open) {
        let is_crowded = self.open.values().filter(|other| other.with == open.with).count() >= MAX_OPEN_WITH_ONE;
        if is_crowded || self.open.len() >= MAX_OPEN {
            let others = self.open.values().filter(|other| other.batch != open.batch);
            let oldest = others.filter(|other| !is_crowded || other.with == open.with).map(|other| other.batch).next();
            self.open.retain(|_, other| Some(other.batch) != oldest);
        }
        self.open.insert(token, open);
    }

    /// One part of an answer has come. If it was the last of all answers to a sync: how ready the least of its givers was.
    fn part(&mut self, token: u32, from: NodeId, of: u16) -> Option<Giver> {
        let open = self.open.get_mut(&token).filter(|open| open.with == from)?;
        open.come += 1;
        if open.come < of {
            return None;
        }
        let (batch, least) = (open.batch, open.giver.min(open.least));
        self.open.remove(&token);
        let mut others = self.open.values_mut().filter(|other| other.batch == batch).peekable();
        let is_last = others.peek().is_none();
        others.for_each(|other| other.least = other.least.min(least));
        is_last.then_some(least)
    }

    /// A peer is linked anew: what was under way on another connection may be lost.
    pub(super) fn met(&mut self, peer: NodeId) {
        self.heeded.retain(|(heeded, _)| *heeded != peer);
        self.told_by(peer);
    }

    /// A peer has told something new.
    pub(super) fn told_by(&mut self, peer: NodeId) {
        self.roots.get_mut(&peer).into_iter().for_each(|root| root.told = true);
    }
}

impl Mesh {
    /// A number that stands for what is known of one member.
    fn imprint(id: NodeId, generation: Generation, mark: Mark) -> u64 {
        let mut bytes = [0; 32];
        for (place, number) in bytes.as_chunks_mut().0.iter_mut().zip([id.0, generation.0, mark.epoch.0, mark.version])
        {
            *place = number.to_le_bytes();
        }
        xxh3_64(&bytes)
    }

    /// The hash of each bucket: the sum of its members' imprints, whatever their order.
    fn bucket_hashes(&self) -> [u64; 256] {
        let mut buckets = [0_u64; 256];
        let mut add = |id: NodeId, imprint: u64| {
            let bucket = &mut buckets[usize::from(bucket_of(id))];
            *bucket = bucket.wrapping_add(imprint);
        };
        let this = self.standing_of_this();
        add(self.id, Self::imprint(self.id, this.fact.generation, this.mark));
        for (id, seen) in self.roster.iter().filter(|(_, seen)| seen.named && seen.state.is_shown()) {
            let mark = self.catalog.get(id).map(Book::mark).unwrap_or_default();
            add(id, Self::imprint(id, seen.generation, mark));
        }
        buckets
    }

    pub(super) fn root_hash(&self) -> u64 {
        self.bucket_hashes().iter().enumerate().fold(0, |sum: u64, (at, hash)| {
            // Buckets are weighed by their place, so that the root tells them apart.
            sum.wrapping_add(hash.wrapping_mul(2 * at as u64 + 1))
        })
    }

    fn standing_of_this(&self) -> Standing {
        Standing { fact: self.fact_of_this(MemberState::Alive), mark: self.book().mark() }
    }

    fn standings(&self, to: NodeId, wanted: impl Fn(NodeId) -> bool) -> Vec<Standing> {
        let this = wanted(self.id).then(|| self.standing_of_this());
        let others =
            self.roster.iter().filter(|(id, seen)| wanted(*id) && seen.named && seen.state != MemberState::Left);
        let others = others.map(|(id, seen)| Standing { fact: seen.fact(id, self.id), mark: self.mark_for(to, id) });
        this.into_iter().chain(others).collect()
    }

    fn mark_for(&self, peer: NodeId, owner: NodeId) -> Mark {
        self.catalog.get(owner).map(|book| book.mark_for(peer)).unwrap_or_default()
    }

    /// Compares all with a peer, beginning with one hash.
    pub(super) fn sync_with(&mut self, peer: NodeId) {
        self.stats.syncs_started += 1;
        let root = self.root_hash();
        self.send(peer, &Frame::Root(root));
    }

    /// Begins the first sync with a peer: says where this node is, so that the peer can tell others, and compares all
    /// without asking for a hash, which is sure to differ. False where it compares with enough others.
    pub(super) fn begin_with(&mut self, now: Time, peer: NodeId) -> bool {
        if !self.sync.has_room_for(peer) {
            return false;
        }
        self.stats.syncs_started += 1;
        // The first page of the book is the node's own row; the peer asks for what it lacks of the others.
        self.publish(now);
        let first = self.book().sheets(Mark::default()).first().map(|sheet| (sheet.told, sheet.bytes.clone()));
        if let Some((told, page)) = first {
            self.send(peer, &Frame::Page { told, page: &page });
        }
        self.send_digests(peer, |_| true, &[]);
        true
    }

    /// A peer's answers will not come any more.
    pub(super) fn cut_off(&mut self, now: Time, peer: NodeId) {
        let open = self.sync.open.len();
        self.sync.open.retain(|_, open| open.with != peer);
        if self.ready || self.sync.open.len() == open {
            return;
        }
        if let Some(other) = self.random_member(|seen| seen.linked && seen.state == MemberState::Alive) {
            self.begin_with(now, other);
        }
    }

    /// The regular round: one random peer, and one time in four one that may be beyond a partition.
    pub(super) fn sync_round(&mut self, now: Time) {
        self.settle_disputes(now);
        self.sync.rounds += 1;
        if let Some(host) = self.sync.host.take() {
            self.sync_with(host);
        } else if self.sync.rounds.is_multiple_of(LOST_EVERY) {
            self.seek_the_lost();
        } else if let Some(peer) = self.random_member(|seen| seen.state == MemberState::Alive) {
            self.sync_with(peer);
        }
        // Right after the first sync others still join; after that, seldom.
        let base = QUICK_ROUNDS.get(usize::try_from(self.sync.rounds).unwrap_or(usize::MAX)).copied();
        let longest = if self.ready { SYNC_PERIOD } else { UNREADY_PERIOD };
        let gap = base.unwrap_or(SYNC_PERIOD).min(longest).mul_f64(0.75 + 0.5 * self.chance());
        self.timers.set(now + gap, Timer::Sync);
        self.sync.roots.retain(|_, root| now.since(root.heard) < ROOTS_KEPT);
    }

    /// A peer's hash of all it knows.
    pub(super) fn on_root(&mut self, now: Time, from: NodeId, theirs: u64) {
        let last = self.sync.roots.get(&from).copied();
        let is_too_soon = last.is_some_and(|last| {
            let (since, is_the_same) = (now.since(last.heard), last.hash == theirs && !last.told);
            (since < ASK_AGAIN && is_the_same) || (since < TOLD_ENOUGH && self.was_told_enough(from))
        });
        if is_too_soon {
            return;
        }
        let ours = self.root_hash();
        let apart = (ours != theirs).then(|| last.and_then(|last| last.apart).unwrap_or(now));
        self.sync.roots.insert(from, Root { hash: theirs, heard: now, told: false, apart });
        if ours == theirs {
            self.send(from, &Frame::Same(ours));
            self.agreed(now, from);
        } else if self.roster.len() < FEW {
            self.send_digests(from, |_| true, &[]);
        } else {
            self.send_stream(from, &Frame::Buckets(self.bucket_hashes().to_vec()));
        }
    }

    pub(super) fn on_same(&mut self, now: Time, from: NodeId, theirs: u64) {
        // It was this node's own when it asked.
        self.sync.roots.insert(from, Root { hash: theirs, heard: now, told: false, apart: None });
        if theirs == self.root_hash() {
            self.stats.syncs_equal += 1;
            self.agreed(now, from);
        }
    }

    pub(super) fn on_buckets(&mut self, from: NodeId, theirs: &[u64]) {
        if theirs.len() != 256 {
            return self.garbage(from, "a bucket list of a wrong length");
        }
        let ours = self.bucket_hashes();
        let differing: Vec<u8> = (0..=255).filter(|at| ours[usize::from(*at)] != theirs[usize::from(*at)]).collect();
        if !differing.is_empty() {
            self.send_digests(from, |id| differing.contains(&bucket_of(id)), &differing);
        }
    }

    /// Sends what is known of the members `wanted`, split so that each stream stays small.
    fn send_digests(&mut self, peer: NodeId, wanted: impl Fn(NodeId) -> bool, buckets: &[u8]) {
        let batch = self.sync.tokens.wrapping_add(1);
        let mut standings = self.standings(peer, wanted);
        if standings.len() <= STANDINGS {
            return self.send_digest(peer, batch, buckets.to_vec(), standings);
        }
        standings.sort_unstable_by_key(|standing| standing.fact.id);
        let all: Vec<u8> = (0..=255).collect();
        let mut asked: Vec<u8> = Vec::new();
        let mut group: Vec<Standing> = Vec::new();
        let mut rest = &standings[..];
        for bucket in if buckets.is_empty() { &all } else { buckets } {
            let inside;
            (inside, rest) = rest.split_at(rest.partition_point(|standing| bucket_of(standing.fact.id) <= *bucket));
            if group.len() + inside.len() > STANDINGS && !asked.is_empty() {
                self.send_digest(peer, batch, std::mem::take(&mut asked), std::mem::take(&mut group));
            }
            asked.push(*bucket);
            // A bucket beyond any honest mesh's is cut; its rest follows in later syncs.
            group.extend(inside.iter().take(STANDINGS));
        }
        self.send_digest(peer, batch, asked, group);
    }

    fn send_digest(&mut self, peer: NodeId, batch: u32, buckets: Vec<u8>, standings: Vec<Standing>) {
        self.sync.tokens = self.sync.tokens.wrapping_add(1);
        let token = self.sync.tokens;
        self.sync.wait(token, Open { with: peer, batch, come: 0, giver: Giver::Unready, least: Giver::Guide });
        self.send_stream(peer, &Frame::Digest(Digest { token, buckets, standings }));
    }

    /// Answers a digest: what the other lacks, and a request for what is lacking here.
    pub(super) fn on_digest(&mut self, now: Time, from: NodeId, digest: &Digest) {
        if digest.standings.len() > STANDINGS {
            return self.garbage(from, "a digest longer than any peer sends");
        }
        let mut want = Want { marks: Vec::new() };
        let mut facts: Vec<Fact> = Vec::new();
        let mut behind: BTreeMap<NodeId, Mark> = BTreeMap::new();
        let mut told: Vec<NodeId> = digest.standings.iter().map(|standing| standing.fact.id).collect();
        told.sort_unstable();
        for Standing { fact, mark } in &digest.standings {
            self.hear(now, from, fact);
            if let Some(ours) = self.fact_of(fact.id)
                && (ours.generation, ours.incarnation, ours.state) != (fact.generation, fact.incarnation, fact.state)
            {
                facts.push(ours);
            }
            let ours = self.mark_for(from, fact.id);
            let (we, they) = ((ours.epoch, ours.version), (mark.epoch, mark.version));
            if we > they {
                behind.insert(fact.id, *mark);
            } else if we < they && fact.id == self.id {
                // Somebody knows more of this node's book than it ever wrote.
                if !self.is_plausible(now, from, self.id, mark.epoch) {
                    return self.implausible(from, self.id);
                }
                self.rise(now, Generation::first(mark.epoch));
            } else if we < they && self.roster.get(fact.id).is_some_and(|seen| seen.state.is_shown()) {
                want.marks.push((fact.id, ours));
            }
        }
        let covered = |id: NodeId| digest.buckets.is_empty() || digest.buckets.contains(&bucket_of(id));
        for Standing { fact, .. } in self.standings(from, covered) {
            if told.binary_search(&fact.id).is_err() && fact.state.is_shown() {
                behind.insert(fact.id, Mark::default());
            }
        }
        let mut parcel = Parcel::default();
        if self.ready {
            parcel.frames(&[Frame::Ready(Readiness { token: digest.token, guides: self.sync.guides })]);
        }
        if !self.sync.guides {
            self.sync.waiting.insert(from);
        }
        for chunk in facts.chunks(STANDINGS) {
            parcel.frames(&[Frame::Facts(chunk.to_vec())]);
        }
        if !want.marks.is_empty() {
            parcel.frames(&[Frame::Want(want)]);
        }
        self.answer(now, from, parcel, behind, digest.token);
    }

    /// Answers a request for rows.
    pub(super) fn on_want(&mut self, now: Time, from: NodeId, want: &Want) {
        if want.marks.len() > STANDINGS {
            return self.garbage(from, "a request longer than any peer sends");
        }
        let mut readers: BTreeMap<NodeId, Mark> = want.marks.iter().copied().collect();
        readers.retain(|owner, mark| {
            let ours = self.catalog.get(*owner).map(Book::mark).unwrap_or_default();
            (ours.epoch, ours.version) > (mark.epoch, mark.version)
        });
        // Nobody counts the parts of this: it is the second half of a sync whose first half was counted.
        self.answer(now, from, Parcel::default(), readers, 0);
    }

    /// Sends what these readers are missing, each owner's fact ahead of its rows: streams overtake one another.
    fn answer(&mut self, now: Time, to: NodeId, mut parcel: Parcel, readers: BTreeMap<NodeId, Mark>, token: u32) {
        if readers.contains_key(&self.id) {
            // What is written and not signed yet cannot be sent.
            self.publish(now);
        }
        // From a random one on: what cannot be read of one, or never ends, leaves nobody else unread.
        'all: for (owner, mark) in self.turned(readers.into_iter().collect()) {
            let Some((book, fact)) = self.catalog.get(owner).zip(self.fact_of(owner)) else { continue };
            if book.mark().version == 0 {
                continue;
            }
            let mut sheets = book.sheets(mark);
            // The last says how far the book goes. It comes next to the first: who has read a part knows that it is one.
            if let [_, rest @ ..] = &mut sheets[..] {
                rest.rotate_right(rest.len().min(1));
            }
            for sheet in sheets {
                if parcel.size() > MAX_ANSWER {
                    break 'all;
                }
                self.stats.sync_pages_sent += 1;
                parcel.frames(&[Frame::Facts(vec![fact]), Frame::Page { told: sheet.told, page: sheet.bytes }]);
            }
        }
        let end = if parcel.size() > MAX_ANSWER { End::Again(self.root_hash()) } else { End::Token(token) };
        for stream in parcel.streams(end) {
            self.outbox.message(to, stream, &mut self.stats);
        }
    }

    /// One stream of an answer has been read to its end.
    pub(super) fn on_part(&mut self, now: Time, from: NodeId, token: u32, of: u16) {
        if token == 0 {
            // What was asked for besides has come.
            return self.agree_with(from);
        }
        if let Some(giver) = self.sync.part(token, from, of) {
            self.synced(now, from, giver);
        }
    }

    pub(super) fn agreement_of(&self) -> f64 {
        let heard = self.sync.roots.len();
        let same = self.sync.roots.values().filter(|root| !root.differs()).count();
        if heard == 0 { 1.0 } else { same as f64 / heard as f64 }
    }
}

/// Which of 256 buckets a node falls into.
const fn bucket_of(id: NodeId) -> u8 {
    id.0.to_be_bytes()[0]
}

/// From one sync to the next, on average.
pub(super) const SYNC_PERIOD: Duration = Duration::from_secs(5);
/// The first rounds after the first sync, while others may be joining as well.
const QUICK_ROUNDS: [Duration; 4] =
    [Duration::from_millis(150), Duration::from_millis(300), Duration::from_millis(600), Duration::from_millis(1_500)];
/// The most of it until this node is ready.
const UNREADY_PERIOD: Duration = Duration::from_millis(600);
/// One round in so many goes to a seed or to a member that is Down.
const LOST_EVERY: u64 = 4;
/// Meshes smaller than this skip the buckets: 2 KiB of hashes would outweigh all standings.
const FEW: usize = 48;
/// Standings in one stream: 60 bytes each.
const STANDINGS: usize = 500;
/// Peers that a node which knows nothing yet compares all with at a time: a seed is called by everybody at once.
const FIRST_SYNCS: usize = 3;
/// Syncs of ours whose answers we wait for at a time; with one peer, as many as it takes to name 20,000 members.
const MAX_OPEN: usize = 256;
const MAX_OPEN_WITH_ONE: usize = 48;
/// One answer aims at this; who lacks more asks again.
const MAX_ANSWER: usize = 1 << 20;
/// The same question from the same peer is answered once within this.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// A peer is asked again after so long, where what it is asked for was told often enough.
const TOLD_ENOUGH: Duration = Duration::from_secs(4);
/// A sync is done by then.
const REPAIRED: Duration = Duration::from_secs(1);
/// A peer's hash counts for `agreement` as long as this.
const ROOTS_KEPT: Duration = Duration::from_secs(60);
