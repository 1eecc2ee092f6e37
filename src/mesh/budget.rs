//! What others may cost this node: a budget for each peer that sends what no honest one does, and one for accusations.
//!
//! What is wrong is charged to whoever brought it, never to whom it names. A relay may bring in good faith what it could
//! not check itself (a page whose owner it has not met): that costs it little. Who has spent all is shut out for a while:
//! its connection is closed with the reason, and a new one too. To this node it is silent then, and the others judge for
//! themselves.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use super::{
    Mesh,
    event::{Event, Output},
    roster::Seen,
    wire::Fact,
};
use crate::model::{MemberState, NodeId, Time};

/// What was spent since the last round of forgetting.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    spent: BTreeMap<NodeId, u32>,
    /// Who is shut out, and until when.
    shut: BTreeMap<NodeId, (Time, &'static str)>,
    /// Of whose garbage was told.
    told: BTreeSet<NodeId>,
    /// Pages that were forged, by who brought them and whose they were to be; and those of all whom this node never met.
    forged: BTreeMap<(NodeId, Option<NodeId>), u32>,
    /// Bytes of pages that were sent upon the question what is missing: which told something new; and which did not, by who
    /// sent them.
    told_news: usize,
    told_again: BTreeMap<NodeId, usize>,
    /// Members that others only speak of, in the order in which they did.
    pub(super) invented: VecDeque<NodeId>,
    /// What others' words have done.
    hearsay: BTreeMap<(Role, NodeId), u16>,
}

/// In what part a member has to do with what others say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Accuser,
    Suspect,
    Lifted,
}

impl Budgets {
    /// Begins a new round.
    pub(super) fn forget(&mut self, now: Time) {
        self.shut.retain(|_, (until, _)| now < *until);
        self.spent.clear();
        self.told.clear();
        self.forged.clear();
        self.told_news = 0;
        self.told_again.clear();
        self.hearsay.clear();
    }
}

impl Mesh {
    /// Drops what no honest peer sends, and charges its sender.
    pub(super) fn garbage(&mut self, peer: NodeId, why: &'static str) {
        self.drop_garbage(peer, why);
        self.charge(peer, GARBAGE, why);
    }

    /// Drops a page that its owner did not sign: who brought it may not have known the owner.
    pub(super) fn forgery(&mut self, peer: NodeId, owner: NodeId) {
        let why = "a page that its owner did not sign";
        self.stats.dropped_forged += 1;
        self.drop_garbage(peer, why);
        let mut count = |owner| *self.budgets.forged.entry((peer, owner)).or_default() += 1;
        count(Some(owner));
        if !self.roster.get(owner).is_some_and(Seen::is_known) {
            count(None);
        }
        self.charge(peer, DOUBTFUL, why);
    }

    /// Whether so many pages of this owner's were forged that this peer has brought that no more is looked at for a while.
    /// An owner with two keys can have them brought by whom it likes: nobody is shut out for those of one, nor for those of
    /// owners whom another may have made up.
    pub(super) fn is_tired_of(&self, peer: NodeId, owner: NodeId) -> bool {
        let forged = |owner| self.budgets.forged.get(&(peer, owner)).copied().unwrap_or(0);
        let is_known = self.roster.get(owner).is_some_and(Seen::is_known);
        forged(Some(owner)) >= FORGED_OF_ONE || (!is_known && forged(None) >= FORGED_OF_UNKNOWN)
    }

    /// Counts a page that was sent upon the question what is missing.
    pub(super) fn note_told(&mut self, from: NodeId, bytes: usize) {
        let again = self.budgets.told_again.entry(from).or_default();
        *again = again.saturating_add(bytes);
    }

    /// That page told something new.
    pub(super) fn note_news(&mut self, from: NodeId, bytes: usize) {
        self.budgets.told_again.entry(from).and_modify(|again| *again = again.saturating_sub(bytes));
        self.budgets.told_news = self.budgets.told_news.saturating_add(bytes);
    }

    /// Whether this node was told so much again within the minute, by this peer or by several, that it asks it for no more
    /// but in its rounds: an owner with two keys, one that has left one half of the mesh, or that has its book read from the
    /// start again and again, makes honest peers tell what is no use. Who starts is told all by several; and what one repeats
    /// unasked keeps nobody from asking the others.
    pub(super) fn was_told_enough(&self, peer: NodeId) -> bool {
        let most = MAX_TOLD_AGAIN.saturating_add(self.budgets.told_news.saturating_mul(2));
        let again = &self.budgets.told_again;
        let of_all = again.values().map(|bytes| (*bytes).min(most / 2));
        again.get(&peer).is_some_and(|bytes| *bytes > most) || of_all.fold(0, usize::saturating_add) > most
    }

    /// A member brings rows of its own book beyond what any may have. Whoever else hands them on may have had room.
    pub(super) fn overfull(&mut self, owner: NodeId, rows: u64) {
        if rows > 0 {
            self.charge(owner, u32::try_from(rows).unwrap_or(u32::MAX), "a book larger than any may be");
        }
    }

    /// Drops a claim from beyond the future: clocks may differ by more than they should. It is charged to nobody who says it
    /// of another: he may have it from that other himself, who is believed further than hearsay is.
    pub(super) fn implausible(&mut self, peer: NodeId, about: NodeId) {
        self.stats.dropped_unauthorized += 1;
        if peer == about {
            self.charge(peer, DOUBTFUL, "a generation from the far future");
        }
    }

    /// Counts garbage, and tells of it once in a while.
    pub(super) fn drop_garbage(&mut self, peer: NodeId, why: &'static str) {
        self.stats.dropped_malformed += 1;
        if self.budgets.told.len() < MAX_TOLD && self.budgets.told.insert(peer) {
            self.outbox.push(Output::Event(Event::Garbage { peer, why }));
        }
    }

    fn charge(&mut self, peer: NodeId, cost: u32, why: &'static str) {
        if self.roster.get(peer).is_none() {
            return;
        }
        let spent = self.budgets.spent.entry(peer).or_default();
        *spent = spent.saturating_add(cost);
        if *spent > BUDGET && !self.is_shut_out(peer) {
            self.budgets.shut.insert(peer, (self.now + SHUT_OUT, why));
            self.stats.expelled += 1;
            self.outbox.push(Output::Event(Event::Expelled { peer, why }));
            self.outbox.push(Output::Expel(peer, why));
        }
    }

    /// Whether nothing of this peer's is read now.
    pub(super) fn is_shut_out(&self, peer: NodeId) -> bool {
        self.shut_out(peer).is_some()
    }

    /// Why a peer is shut out, if it is.
    fn shut_out(&self, peer: NodeId) -> Option<&'static str> {
        self.budgets.shut.get(&peer).filter(|(until, _)| self.now < *until).map(|(_, why)| *why)
    }

    /// Whether a peer that has connected is still shut out; then it is told so.
    pub(super) fn turns_away(&mut self, peer: NodeId) -> bool {
        let Some(why) = self.shut_out(peer) else { return false };
        self.outbox.push(Output::Expel(peer, why));
        true
    }

    /// Whether one more suspicion may begin on the word of this accuser, and against this suspect, within the minute.
    pub(super) fn may_accuse(&mut self, fact: &Fact) -> bool {
        let is_new = |seen: &Seen| seen.state == MemberState::Alive || seen.is_before(fact);
        if !self.roster.get(fact.id).is_some_and(is_new) {
            return true;
        }
        self.spend(Role::Accuser, fact.by, MAX_ACCUSATIONS) & self.spend(Role::Suspect, fact.id, MAX_SUSPICIONS)
    }

    /// Whether others may say once more within the minute that a member whom nobody suspects here has denied a suspicion, or
    /// renewed: nobody is driven by hearsay to where it cannot deny any more.
    pub(super) fn may_lift(&mut self, fact: &Fact) -> bool {
        let lifts = |seen: &Seen| seen.state == MemberState::Alive && seen.is_before(fact);
        !self.roster.get(fact.id).is_some_and(lifts) || self.spend(Role::Lifted, fact.id, MAX_SUSPICIONS)
    }

    fn spend(&mut self, role: Role, id: NodeId, most: u16) -> bool {
        let spent = self.budgets.hearsay.entry((role, id)).or_default();
        *spent = spent.saturating_add(1);
        *spent <= most
    }
}

/// What a peer may spend within a minute.
const BUDGET: u32 = 4_096;
/// What nobody sends by mistake: sixty-four of them are no accident.
const GARBAGE: u32 = 64;
/// What an honest relay may bring: four times what it hands on unchecked for one peer.
const DOUBTFUL: u32 = 1;
/// Forged pages of one owner that one peer may bring within a minute: far fewer than would shut it out.
const FORGED_OF_ONE: u32 = 64;
/// And of all owners whom this node has not met: of sixteen at least, and so many has who holds a secret that all share.
const FORGED_OF_UNKNOWN: u32 = 1_024;
/// What this node may be told again within a minute, in bytes, and be as quick to ask as ever.
const MAX_TOLD_AGAIN: usize = 16 << 20;
/// How long a peer is shut out: long enough for its operator to see it, short enough for a mended one.
const SHUT_OUT: Duration = Duration::from_secs(60);
/// Peers of whose garbage is told, each once between two rounds of forgetting; the rest is counted alone.
const MAX_TOLD: usize = 64;
/// Suspicions that may begin within a minute on one accuser's word: more than it can probe.
const MAX_ACCUSATIONS: u16 = 256;
/// Suspicions of one member that may begin within a minute on others' words: more than any bad link brings about.
const MAX_SUSPICIONS: u16 = 12;
