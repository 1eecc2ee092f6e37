//! When a node may answer others.
//!
//! It is ready once it has heard what the mesh knows: from one that is ready, or, where nobody is, once it agrees with a
//! peer; and if it misses nobody whom it knew when it ran last, and no seed. So two that start again at the same moment
//! wait for the rest, and a whole mesh that starts again does not wait.
//!
//! One alone may be wrong, or lie: while somebody is missing it takes two that know all, or a moment in which no second one
//! was found.
//!
//! Who was told so, or agreed with all it remembers, or has been ready in company for a while, is a guide: whoever it
//! answers misses nobody any more. A node without a memory, or that found nobody in time, is ready and no guide yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use super::QUICK_ROUNDS;
use crate::{
    mesh::{
        Mesh, Timer,
        catalog::Book,
        event::Change,
        seek::STARTS_AGAIN,
        wire::{Frame, Readiness},
    },
    model::{MemberState, NodeId, Time},
};

/// How much the one knows who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Giver {
    /// No more than it has heard so far.
    Unready,
    /// What was to be found when it started.
    Ready,
    /// All.
    Guide,
}

impl Mesh {
    /// A peer is ready: so this is what its answer to that digest is worth; or, where it says so unasked, it is worth asking
    /// again, once for each thing to be said. Answers that nobody waits for any more ask for nothing.
    pub(in crate::mesh) fn on_ready(&mut self, now: Time, from: NodeId, said: Readiness) {
        if let Some(open) = self.sync.open.get_mut(&said.token).filter(|open| open.with == from) {
            open.giver = if said.guides { Giver::Guide } else { Giver::Ready };
        } else if said.token == 0 && !self.ready && !self.sync.heeded.contains(&(from, said.guides)) {
            self.sync.open.retain(|_, open| open.with != from);
            if self.begin_with(now, from) {
                self.sync.heeded.insert((from, said.guides));
            }
        }
    }

    /// A peer knows the same: no more is to be had from it than from one that is ready.
    pub(super) fn agreed(&mut self, now: Time, with: NodeId) {
        let answers = self.sync.open.values().filter(|open| open.with == with);
        let giver = answers.map(|open| open.giver).max().unwrap_or(Giver::Unready).max(Giver::Ready);
        self.synced(now, with, giver);
    }

    /// A sync was carried to its end: others may know that this node is here, and it may answer if this was all.
    pub(super) fn synced(&mut self, now: Time, with: NodeId, giver: Giver) {
        let is_first = !self.sync.done;
        if is_first {
            self.sync.done = true;
            self.sync.host = Some(with);
            self.sync.rounds = 0;
            let soon = QUICK_ROUNDS[0].mul_f64(0.5 + self.chance());
            self.timers.set(now + soon, Timer::Sync);
        }
        match giver {
            Giver::Guide if self.is_confirmed(now, with) => self.set_ready(true),
            Giver::Ready if !self.ready && self.missing().is_empty() => self.set_ready(!self.config.known.is_empty()),
            _ => self.agree_with(with),
        }
        self.announce(now);
    }

    /// Whether what a guide has told is all: nobody is missing, or so says another one too. Otherwise it will do after a moment.
    fn is_confirmed(&mut self, now: Time, guide: NodeId) -> bool {
        if self.ready || self.missing().is_empty() {
            return true;
        }
        if self.sync.guided.is_none() {
            self.timers.set(now + SECOND_OPINION, Timer::SecondOpinion);
        }
        *self.sync.guided.get_or_insert(guide) != guide
    }

    /// Something was heard from a peer. If it was the last of what was missing, the two may agree at once; who is missing
    /// may be found.
    pub(super) fn agree_with(&mut self, peer: NodeId) {
        if self.ready {
            return;
        }
        let (missing, root) = (self.missing(), self.root_hash());
        // Not twice with the same knowledge: two who cannot agree ask in rounds.
        if missing.is_empty() && std::mem::replace(&mut self.sync.asked, root) != root {
            self.sync_with(peer);
        }
        self.dial_some(&missing);
    }

    /// From now on it answers, and tells those who asked before, and all that it is here; whether it `guides` others is
    /// another matter.
    pub(in crate::mesh) fn set_ready(&mut self, guides: bool) {
        if !self.ready {
            self.ready = true;
            self.sync.heeded.clear();
            self.changes.insert(Change::Ready);
            self.weigh_all();
            self.sync.guides = guides || self.sync.met.is_some_and(|met| self.now.since(met) >= IN_COMPANY);
            self.tell_who_waits();
            self.announce(self.now);
        }
    }

    /// Somebody is here: from now on others have the time to find this node.
    pub(in crate::mesh) fn note_company(&mut self, now: Time) {
        if self.sync.met.is_none() {
            self.sync.met = Some(now);
            self.timers.set(now + IN_COMPANY, Timer::Guide);
        }
    }

    /// It was in company for so long that it has heard of everybody who is there.
    pub(in crate::mesh) fn guide(&mut self) {
        if self.ready && !self.sync.guides {
            self.sync.guides = true;
            self.tell_who_waits();
        }
    }

    fn tell_who_waits(&mut self) {
        let guides = self.sync.guides;
        let mut waiting = std::mem::take(&mut self.sync.waiting);
        waiting.retain(|peer| self.roster.get(*peer).is_some_and(|seen| seen.linked && seen.state.is_shown()));
        for peer in &waiting {
            self.send_stream(*peer, &Frame::Ready(Readiness { token: 0, guides }));
        }
        if !guides {
            self.sync.waiting = waiting;
        }
    }

    /// Where those may be found whom this node has reason to expect, and of whom it has not heard all yet or a goodbye.
    pub(in crate::mesh) fn missing(&self) -> Vec<SocketAddr> {
        let known: BTreeMap<SocketAddr, NodeId> =
            self.config.known.iter().flat_map(|(id, at)| at.iter().map(|at| (*at, *id))).collect();
        let heard = self.roster.iter().filter(|(id, _)| self.is_heard(*id));
        let heard = heard.filter_map(|(id, _)| self.catalog.get(id).and_then(Book::node)).map(AsRef::as_ref);
        let here = heard.chain([&self.config.node]).flat_map(|node| node.addresses.iter().copied());
        let here: BTreeSet<SocketAddr> = here.collect();
        let seeds = self.seeds.iter().copied().filter(|seed| !known.contains_key(seed) && !here.contains(seed));
        let unheard = known.iter().filter(|(_, id)| !self.is_heard(**id)).map(|(at, _)| *at);
        unheard.chain(seeds).collect()
    }

    /// Of those whom it knew when it ran last, whoever has not shown up yet and may.
    pub(crate) fn missed(&self) -> impl Iterator<Item = (&NodeId, &Vec<SocketAddr>)> {
        let waits = !self.sync.guides && self.now.since_start() < STARTS_AGAIN;
        self.config.known.iter().filter(move |(id, _)| waits && !self.is_heard(**id))
    }

    fn is_heard(&self, id: NodeId) -> bool {
        let Some(seen) = self.roster.get(id) else { return false };
        let is_read = self.catalog.get(id).is_some_and(Book::is_whole);
        seen.barred.is_some() || seen.state == MemberState::Left || (seen.state.is_shown() && is_read)
    }
}

/// How long one that is told all by a guide looks for a second one, while somebody is missing: a few round trips and a
/// handshake across the world.
const SECOND_OPINION: Duration = Duration::from_secs(1);
/// Who was in company for so long has been found by all who looked for it: as long as an agent waits for them.
const IN_COMPANY: Duration = Duration::from_secs(10);
