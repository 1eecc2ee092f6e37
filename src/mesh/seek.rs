//! Finding the mesh: seeds at the start, and again whenever all others are lost.

use std::{net::SocketAddr, time::Duration};

use super::{
    Mesh, Timer,
    catalog::Book,
    event::{Done, Output},
};
use crate::model::{MemberState, Time};

impl Mesh {
    /// Notes where the mesh may be found, and begins to look.
    pub(super) fn join(&mut self, now: Time, seeds: Vec<SocketAddr>) -> Done {
        let known = self.seeds.len();
        let fresh: Vec<SocketAddr> = seeds.into_iter().filter(|seed| !self.seeds.contains(seed)).collect();
        self.seeds.extend(fresh.iter().take(MAX_SEEDS.saturating_sub(known)));
        if self.seeds.is_empty() {
            self.set_ready();
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
            if self.sync.done || self.leaving {
                return self.timers.set(now + SEEK_SLOWLY, Timer::Join(0));
            }
            // The first sync's answer did not come, or not all of it.
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
/// Seeds remembered.
const MAX_SEEDS: usize = 256;
