//! Rumours: what is fresh leaves at once, and whoever hears it first forwards it at once.
//!
//! Every copy carries the arc of the ring its receiver answers for. The receiver splits that arc among at most
//! [`FANOUT`] members in it and sends each of them a copy with its share: a k-ary broadcast over the ring of ids (the
//! method is that of El-Ansary, Alima, Brand, Haridi 2003 for structured overlays). The tree needs no upkeep, since every
//! node knows all members; each node gets one copy; the depth is the logarithm of the mesh. Two nodes whose rosters
//! differ still cover the arc between them, as far as either knows it.
//!
//! Each copy is acknowledged on its link, a moment later and many at once. One that is not is sent again, and after
//! [`TRIES`] the arc passes to the next member in it. What is lost all the same, sync repairs.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use super::{
    delay::Delay,
    page::Told,
    roster::Roster,
    wire::{Fact, Frame},
};
use crate::model::{MemberState, NodeId, Time};

/// What a rumour is about.
#[derive(Clone, Debug)]
pub(super) enum Rumor {
    /// A page as its owner signed it.
    Rows(Bytes),
    Fact(Fact),
}

/// A copy that nobody has acknowledged yet.
#[derive(Debug)]
struct Sent {
    rumor: Rumor,
    until: NodeId,
    at: Time,
    due: Time,
    tries: u8,
}

/// One direction of traffic with one peer.
#[derive(Debug, Default)]
struct Link {
    /// The number of the last copy sent.
    last: u32,
    /// The largest number received, and which of those just below it were.
    top: u32,
    received: u128,
    /// The process at the other end: another one begins to number anew.
    boot: u64,
}

/// A copy to be handed to the outbox.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) to: NodeId,
    pub(super) seq: u32,
    pub(super) until: NodeId,
    pub(super) rumor: Rumor,
}

impl Copy {
    /// The same for somebody who does not take it from us: unnumbered, to be handed on by another.
    pub(super) fn loose(&self) -> Frame<'_> {
        match &self.rumor {
            Rumor::Rows(page) => Frame::Page { told: Told::NOTHING, page },
            Rumor::Fact(fact) => Frame::Facts(vec![*fact]),
        }
    }

    pub(super) fn frame(&self) -> Frame<'_> {
        let (seq, until) = (self.seq, self.until);
        match &self.rumor {
            Rumor::Rows(page) => Frame::Rows { seq, until, page },
            Rumor::Fact(fact) => Frame::Fact { seq, until, fact: *fact },
        }
    }
}

/// All rumours under way.
#[derive(Debug)]
pub(super) struct Rumors {
    this: NodeId,
    links: BTreeMap<NodeId, Link>,
    sent: BTreeMap<(NodeId, u32), Sent>,
    due: BTreeMap<(Time, NodeId, u32), ()>,
    /// Numbers received and not yet acknowledged.
    owed: BTreeMap<NodeId, Vec<u32>>,
    acks_due: Time,
    /// How long acknowledgements take.
    delay: Delay,
    pub(super) resent: u64,
    pub(super) dropped: u64,
}

impl Rumors {
    pub(super) fn new(this: NodeId) -> Self {
        Self {
            this,
            links: BTreeMap::new(),
            sent: BTreeMap::new(),
            due: BTreeMap::new(),
            owed: BTreeMap::new(),
            acks_due: Time::NEVER,
            delay: Delay::default(),
            resent: 0,
            dropped: 0,
        }
    }

    /// When [`Rumors::overdue`] or [`Rumors::acks`] wants to be called.
    pub(super) fn next(&self) -> Time {
        self.due.first_key_value().map_or(Time::NEVER, |((at, ..), ())| *at).min(self.acks_due)
    }

    /// Copies for all members on the arc from this node to `until`.
    pub(super) fn spread(&mut self, now: Time, roster: &Roster, rumor: &Rumor, until: NodeId) -> Vec<Copy> {
        let arc: Vec<(NodeId, bool)> = roster
            .arc(self.this, until)
            .filter(|(_, seen)| seen.named && seen.state.is_shown())
            .map(|(id, seen)| (id, seen.state == MemberState::Alive))
            .collect();
        let share = arc.len().div_ceil(FANOUT).max(1);
        let mut copies = Vec::new();
        for (at, members) in arc.chunks(share).enumerate() {
            let end = arc.get((at + 1) * share).map_or(until, |(next, _)| *next);
            let relay = members.iter().position(|(_, alive)| *alive);
            // Those before the relay are Suspect: they are told, and nothing hangs on them.
            for (id, _) in &members[..relay.unwrap_or(members.len())] {
                copies.extend(self.send(now, *id, leaf(*id), rumor.clone(), 0));
            }
            if let Some((id, _)) = relay.and_then(|place| members.get(place)) {
                copies.extend(self.send(now, *id, end, rumor.clone(), 0));
            }
        }
        copies
    }

    fn send(&mut self, now: Time, to: NodeId, until: NodeId, rumor: Rumor, tries: u8) -> Option<Copy> {
        if self.sent.len() >= MAX_SENT {
            self.dropped += 1;
            return None;
        }
        let link = self.links.entry(to).or_default();
        link.last = link.last.wrapping_add(1);
        let seq = link.last;
        let due = now + self.patience(tries);
        self.due.insert((due, to, seq), ());
        self.sent.insert((to, seq), Sent { rumor: rumor.clone(), until, at: now, due, tries });
        Some(Copy { to, seq, until, rumor })
    }

    /// Notes a copy from a peer. False if that very copy came before: it is acknowledged again and means nothing.
    pub(super) fn receive(&mut self, now: Time, from: NodeId, seq: u32) -> bool {
        self.owed.entry(from).or_default().push(seq);
        let link = self.links.entry(from).or_default();
        self.acks_due = self.acks_due.min(now + ACK_DELAY);
        let ahead = seq.wrapping_sub(link.top);
        if ahead != 0 && ahead < u32::MAX / 2 {
            link.received = link.received.checked_shl(ahead).unwrap_or(0) | 1;
            link.top = seq;
            return true;
        }
        // One too late to remember is taken for new: to forward it twice costs a copy, to lose it costs a sync.
        let bit = 1_u128.checked_shl(link.top.wrapping_sub(seq)).unwrap_or(0);
        let known = link.received & bit != 0;
        link.received |= bit;
        !known
    }

    /// Notes what a peer acknowledges.
    pub(super) fn acked(&mut self, now: Time, from: NodeId, seqs: &[u32]) {
        for seq in seqs {
            let Some(sent) = self.sent.remove(&(from, *seq)) else { continue };
            self.due.remove(&(sent.due, from, *seq));
            if sent.tries == 0 {
                self.delay.observe(now - sent.at);
            }
        }
    }

    /// A round trip to some peer: before any copy was acknowledged, the best guess there is.
    pub(super) fn measured(&mut self, rtt: Duration) {
        self.delay.observe(rtt + ACK_DELAY);
    }

    /// The acknowledgements owed to one peer, to ride on whatever goes there now.
    pub(super) fn owed(&mut self, to: NodeId) -> Vec<u32> {
        self.owed.remove(&to).unwrap_or_default()
    }

    /// The peers whose acknowledgements can wait no longer.
    pub(super) fn acks(&mut self, now: Time) -> Vec<NodeId> {
        if self.acks_due > now {
            return Vec::new();
        }
        self.acks_due = Time::NEVER;
        self.owed.keys().copied().collect()
    }

    /// How long to wait for the acknowledgement of the `tries`-th repeat.
    fn patience(&self, tries: u8) -> Duration {
        let first = self.delay.patience().unwrap_or(FIRST_PATIENCE).clamp(MIN_PATIENCE, MAX_PATIENCE);
        (first * 2_u32.pow(u32::from(tries))).min(MAX_PATIENCE)
    }

    /// What is to be sent again, or to somebody else, because nobody acknowledged it; and what was given up.
    pub(super) fn overdue(&mut self, now: Time, roster: &Roster) -> (Vec<Copy>, Vec<Copy>) {
        let mut copies = Vec::new();
        let mut given_up = Vec::new();
        while let Some(((at, to, seq), ())) = self.due.first_key_value().map(|(key, ())| (*key, ())) {
            if at > now {
                break;
            }
            self.due.pop_first();
            let Some(sent) = self.sent.remove(&(to, seq)) else { continue };
            if sent.tries + 1 == TRIES {
                given_up.push(Copy { to, seq, until: sent.until, rumor: sent.rumor.clone() });
            }
            copies.extend(self.again(now, roster, to, seq, sent));
        }
        self.resent += copies.len() as u64;
        (copies, given_up)
    }

    /// The next try of a copy; after [`TRIES`] its arc passes to an heir, and `to` is told for itself alone a while yet.
    fn again(&mut self, now: Time, roster: &Roster, to: NodeId, seq: u32, sent: Sent) -> Vec<Copy> {
        let Sent { rumor, until, at, tries, .. } = sent;
        let tries = tries.saturating_add(1);
        let hopeful = roster.get(to).is_some_and(|seen| seen.state.is_shown());
        let passes_on = (tries >= TRIES || !hopeful) && until != leaf(to);
        let mut copies = Vec::new();
        if passes_on {
            let next = roster
                .arc(to, until)
                .find(|(id, seen)| *id != self.this && seen.named && seen.state == MemberState::Alive);
            copies.extend(next.and_then(|(heir, _)| self.send(now, heir, until, rumor.clone(), 0)));
        }
        if hopeful && tries < LAST_TRIES {
            // Under the same number, so that a copy whose acknowledgement was lost is known for what it is.
            let until = if passes_on { leaf(to) } else { until };
            let due = now + self.patience(tries);
            self.due.insert((due, to, seq), ());
            copies.push(Copy { to, seq, until, rumor: rumor.clone() });
            self.sent.insert((to, seq), Sent { rumor, until, at, due, tries });
        }
        copies
    }

    /// Passes on what a peer that is gone was to forward.
    pub(super) fn gone(&mut self, now: Time, roster: &Roster, peer: NodeId) -> Vec<Copy> {
        let open: Vec<u32> = self.sent.range((peer, 0)..=(peer, u32::MAX)).map(|((_, seq), _)| *seq).collect();
        let mut copies = Vec::new();
        for seq in open {
            let Some(mut sent) = self.sent.remove(&(peer, seq)) else { continue };
            self.due.remove(&(sent.due, peer, seq));
            sent.tries = LAST_TRIES;
            copies.extend(self.again(now, roster, peer, seq, sent));
        }
        copies
    }

    /// Forgets a peer for good.
    pub(super) fn forget(&mut self, peer: NodeId) {
        self.links.remove(&peer);
        self.owed.remove(&peer);
    }

    /// A peer has said which process it is: another one than before begins to number anew.
    pub(super) fn met(&mut self, peer: NodeId, boot: u64) {
        let link = self.links.entry(peer).or_default();
        if link.boot != boot {
            (link.boot, link.top, link.received) = (boot, 0, 0);
            self.owed.remove(&peer);
        }
    }
}

/// The end of an arc that holds nobody but `id` itself.
const fn leaf(id: NodeId) -> NodeId {
    NodeId(id.0.wrapping_add(1))
}

/// Into how many parts an arc is split: two hops reach 72 nodes, four reach 4,680.
const FANOUT: usize = 8;
/// How often a copy is sent to the same node before its arc passes to another.
const TRIES: u8 = 3;
/// Acknowledgements gather for so long, or until something else goes the same way.
const ACK_DELAY: Duration = Duration::from_millis(2);
/// How often it is sent to one that is seen alive, before sync is trusted with the rest.
const LAST_TRIES: u8 = 6;
/// Before anything was measured.
const FIRST_PATIENCE: Duration = Duration::from_millis(20);
const MIN_PATIENCE: Duration = Duration::from_millis(6);
const MAX_PATIENCE: Duration = Duration::from_millis(500);
/// Copies remembered until acknowledged; beyond, sync repairs what is lost.
const MAX_SENT: usize = 65_536;
