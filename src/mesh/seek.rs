//! Finding the mesh: seeds at the start, and again whenever all others are lost.

use std::{net::SocketAddr, time::Duration};

use super::{
    Member, Mesh, Timer,
    catalog::Book,
    event::{Cause, Done, Output},
};
use crate::model::{MemberState, NodeId, Time};

impl Mesh {
    /// Notes where the mesh may be found, and begins to look.
    pub(super) fn join(&mut self, now: Time, seeds: Vec<SocketAddr>) -> Done {
        let known = self.seeds.len();
        let fresh: Vec<SocketAddr> = seeds.into_iter().filter(|seed| !self.seeds.contains(seed)).collect();
        self.seeds.extend(fresh.iter().take(MAX_SEEDS.saturating_sub(known)));
        if self.seeds.is_empty() {
            self.set_ready(false);
        } else if known == 0 {
            self.seek(now, 0);
        } else {
            self.dial(&fresh);
        }
        if fresh.is_empty() { Done::Unchanged } else { Done::Changed }
    }

    /// Dials every seed, again and again with growing pauses, until somebody answers.
    pub(super) fn seek(&mut self, now: Time, tries: u32) {
        if self.roster.iter().any(|(_, seen)| seen.linked && seen.state.is_shown()) || self.leaving {
            // Found; should all be lost again, the next round begins from here.
            if (self.ready && self.sync.done) || self.leaving {
                return self.timers.set(now + SEEK_SLOWLY, Timer::Join(0));
            }
            // The first sync's answer did not come, or not all of it, or its giver knows no more than this node.
            self.dial_some(&self.missing());
            self.sync.give_up();
            if let Some(peer) = self.random_member(|seen| seen.linked && seen.state.is_shown()) {
                self.begin_with(now, peer);
            }
            return self.timers.set(now + SEEK * 4, Timer::Join(0));
        }
        let seeds = self.seeds.clone();
        self.dial(&seeds);
        let pause = (SEEK * 2_u32.saturating_pow(tries)).min(SEEK_SLOWLY).mul_f64(0.75 + 0.5 * self.chance());
        self.timers.set(now + pause, Timer::Join((tries + 1).min(8)));
    }

    fn dial(&mut self, seeds: &[SocketAddr]) {
        seeds.iter().for_each(|seed| self.outbox.push(Output::Dial(*seed)));
    }

    /// Dials some of many, others each time.
    pub(super) fn dial_some(&mut self, missing: &[SocketAddr]) {
        let first = self.index_below(missing.len());
        let some = missing.iter().cycle().skip(first).take(MISSING_AT_ONCE.min(missing.len()));
        self.dial(&some.copied().collect::<Vec<_>>());
    }

    /// Whom to expect at the next start, and where: who is here; who has gone so lately that it may only be starting again;
    /// and of those whom this node knew when it ran last, whoever has not shown up yet and may.
    #[must_use]
    pub fn acquaintances(&self) -> Vec<(NodeId, Vec<SocketAddr>)> {
        let is_given_up =
            |id: NodeId| self.roster.get(id).is_some_and(|seen| seen.barred.is_some() || seen.cause == Cause::Forced);
        let others = self.members().filter(|member| member.id != self.id && !is_given_up(member.id));
        let (here, gone): (Vec<_>, Vec<_>) = others.partition(Member::is_shown);
        let lately = gone.into_iter().filter(|member| self.now.since(member.since) < STARTS_AGAIN);
        let mut met: Vec<_> =
            here.into_iter().chain(lately).map(|member| (member.id, member.node.addresses.clone())).collect();
        let missed: Vec<_> = self.missed().filter(|(id, _)| met.iter().all(|(other, _)| other != *id)).collect();
        met.extend(missed.into_iter().map(|(id, at)| (*id, at.clone())));
        met
    }

    /// Looks beyond a partition: at a member that is Down, and at a seed that is no member.
    pub(super) fn seek_the_lost(&mut self) {
        if let Some(peer) = self.random_member(|seen| seen.state == MemberState::Down) {
            self.sync_with(peer);
        }
        let strangers: Vec<_> = self.seeds.iter().copied().filter(|seed| !self.is_member_at(*seed)).collect();
        if let Some(seed) = strangers.get(self.index_below(strangers.len())) {
            self.outbox.push(Output::Dial(*seed));
        }
    }

    fn is_member_at(&self, address: SocketAddr) -> bool {
        let shown = self.roster.iter().filter(|(_, seen)| seen.state.is_shown());
        shown
            .filter_map(|(id, _)| self.catalog.get(id).and_then(Book::node))
            .any(|node| node.addresses.contains(&address))
    }
}

/// The first pause between two tries to find the mesh, and the longest.
const SEEK: Duration = Duration::from_millis(500);
const SEEK_SLOWLY: Duration = Duration::from_secs(5);
/// A machine, or all of a mesh one after the other, has started again by then.
pub(super) const STARTS_AGAIN: Duration = Duration::from_secs(600);
/// Of those who are missing while some are here, so many are dialled at a time.
const MISSING_AT_ONCE: usize = 8;
/// Seeds remembered.
const MAX_SEEDS: usize = 256;
