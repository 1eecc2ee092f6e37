//! Rows on the move: what this node writes, and what others wrote.
//!
//! The first change after a pause leaves at once; further ones within [`COALESCE`] share a page.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    Mesh, Timer,
    catalog::{Book, Indexed, Merged},
    claim::{Claim, Key, TooLarge},
    event::{Change, Done, MAX_MEMBERS, Output, Rejected},
    page::{Signed, Told},
    plausible::RISE,
    roster::Seen,
    rumor::{Copy, Rumor},
    voucher::Proof,
    wire::{self, Fact, Frame, Mark, Want},
};
use crate::model::{Epoch, Health, HealthReport, InstanceId, MemberState, NodeId, Registration, Time};

impl Mesh {
    /// This node's own book.
    pub(super) fn book(&self) -> &Book {
        self.catalog.get(self.id).expect("law 3: one's own book stands from the start")
    }

    /// Writes one row of this node's book and has it published.
    pub(super) fn write(&mut self, now: Time, key: Key, claim: Option<Claim>) -> Result<(), Rejected> {
        self.enter(now, key, claim)?;
        self.publish_soon(now);
        Ok(())
    }

    /// Writes one row of this node's book, of which nobody is told yet.
    fn enter(&mut self, now: Time, key: Key, claim: Option<Claim>) -> Result<(), Rejected> {
        let id = self.id;
        let book = self.catalog.get_mut(id).expect("law 3: one's own book stands from the start");
        let merged = book.write(now, key, claim)?;
        self.merged(id, merged);
        Ok(())
    }

    fn publish_soon(&mut self, now: Time) {
        let due = self.publish_after;
        if self.publishing {
            return;
        }
        if now >= due {
            self.publish(now);
        } else {
            self.publishing = true;
            self.timers.set(due, Timer::Publish);
        }
    }

    /// Writes an instance into this node's book, checks and all.
    pub(super) fn put(&mut self, now: Time, registration: &Arc<Registration>) -> Result<Done, Rejected> {
        registration.validate()?;
        let id = &registration.id;
        let known = self.registration(id).cloned();
        // Nobody is told the recipes of checks; without any, the book shares what its owner holds.
        let published =
            if registration.checks.is_empty() { Arc::clone(registration) } else { Arc::new(registration.published()) };
        let same_checks = self.has_checks(registration);
        if same_checks {
            self.hear_again(now, registration);
        }
        if known.is_none() && !self.book().has_room(2, 2 * wire::MAX_ROW) {
            // Asked before either of its rows is written: a refusal leaves nothing half-done.
            return Err(TooLarge::Book.into());
        }
        let same_row = known.as_ref() == Some(&published);
        if same_row && same_checks {
            return Ok(Done::Unchanged);
        }
        if !same_row {
            self.enter(now, Key::Service(id.clone()), Some(Claim::Service(published)))?;
        }
        if !same_checks {
            // Told anyway, and what its new checks find first is to count at once.
            self.dampers.remove(id);
            self.watch_checks(now, registration);
        }
        // What was found of it in one service says nothing of another.
        let was_kept =
            known.as_ref().is_some_and(|known| known.name != registration.name) && self.protections.forget(id);
        if !same_checks || was_kept {
            let claim = self.report_of(id).map(|report| Claim::Health(Arc::new(report)));
            self.enter(now, Key::Health(id.clone()), claim)?;
        }
        // Told of in one page: an instance that begins critical is nowhere shown as one without checks, which passes.
        self.publish_soon(now);
        Ok(if known.is_some() { Done::Changed } else { Done::Created })
    }

    /// Withdraws an instance and what its checks said.
    pub(super) fn deregister(&mut self, now: Time, id: &InstanceId) -> Result<(), Rejected> {
        if self.registration(id).is_none() {
            return Err(Rejected::NotFound(format!("instance {id}")));
        }
        self.write(now, Key::Service(id.clone()), None)?;
        self.dampers.remove(id);
        if self.forget_checks(id) | self.maintenance.remove(id).is_some() {
            self.publish_report(now, id)?;
        }
        Ok(())
    }

    /// Signs and sends out what was written since the last time.
    pub(super) fn publish(&mut self, now: Time) {
        self.publishing = false;
        self.publish_after = now + COALESCE;
        for page in self.sign_fresh() {
            self.spread(now, &Rumor::Rows(page), self.id);
        }
    }

    pub(super) fn sign_fresh(&mut self) -> Vec<Bytes> {
        let (id, notary) = (self.id, Arc::clone(&self.config.notary));
        let Some(book) = self.catalog.get_mut(id) else { return Vec::new() };
        book.sign(id, &*notary)
    }

    /// Takes old tombstones out of this node's own book, and gathers what stands scattered in it.
    pub(super) fn tidy_book(&mut self, now: Time) {
        let id = self.id;
        let Some(book) = self.catalog.get_mut(id) else { return };
        let buried = book.bury(now);
        let scattered = book.scattered();
        for (key, claim) in &scattered {
            // It stood before, so there is room for it.
            let written = book.write(now, key.clone(), Some(claim.clone()));
            debug_assert!(written.is_ok(), "law 3: what stands in a book can be written again");
        }
        if buried || !scattered.is_empty() {
            self.publish(now);
        }
    }

    /// Tells all, once, that this node is here and what it has.
    pub(super) fn announce(&mut self, now: Time) {
        if self.announced || self.roster.shown() == 0 {
            return;
        }
        self.announced = true;
        self.announce_anew(now);
    }

    pub(super) fn announce_anew(&mut self, now: Time) {
        self.spread(now, &Rumor::Fact(self.fact_of_this(MemberState::Alive)), self.id);
        self.sign_fresh();
        let pages: Vec<Bytes> =
            self.book().sheets(Mark::default()).into_iter().map(|sheet| sheet.bytes.clone()).collect();
        for page in pages {
            self.spread(now, &Rumor::Rows(page), self.id);
        }
    }

    /// Writes the whole book again under an epoch above `taken`.
    pub(super) fn rewrite_book(&mut self, now: Time, taken: Epoch) {
        // Two lives of this name that rise above the same must not meet: each has pages of its own.
        self.epoch = Epoch(taken.0 + 1 + self.index_below(RISE as usize) as u64);
        self.outbox.push(Output::Risen(self.epoch));
        let id = self.id;
        let Some(old) = self.catalog.remove(id) else { return };
        let mut book = Book::new(self.epoch);
        old.vouched().cloned().into_iter().for_each(|vouched| book.open(self.epoch, vouched));
        let node = old.node().cloned().unwrap_or_else(|| Arc::new(self.config.node.clone()));
        let mut rows = vec![(Key::Node, Claim::Node(node))];
        for registration in old.registrations() {
            rows.push((Key::Service(registration.id.clone()), Claim::Service(registration.clone())));
            let report = old.report(&registration.id).cloned();
            rows.extend(report.map(|report| (Key::Health(registration.id.clone()), Claim::Health(report))));
        }
        for (key, claim) in rows {
            // What fitted into the old book fits into the new one.
            let written = book.write(now, key, Some(claim));
            debug_assert!(written.is_ok(), "law 3: a rewritten book holds what the old one held");
        }
        self.catalog.entry(id, || book);
    }

    /// Sends a rumour to all members on the arc from this node to `until`.
    pub(super) fn spread(&mut self, now: Time, rumor: &Rumor, until: NodeId) {
        let copies = self.rumors.spread(now, &self.roster, rumor, until);
        self.send_copies(&copies);
    }

    fn send_copies(&mut self, copies: &[Copy]) {
        self.stats.rumors_sent += copies.len() as u64;
        for copy in copies {
            self.send(copy.to, &copy.frame());
        }
    }

    pub(super) fn resend(&mut self, now: Time) {
        let (copies, given_up) = self.rumors.overdue(now, &self.roster);
        self.send_copies(&copies);
        for copy in given_up {
            // The link to it may be broken and it alive: somebody else may reach it.
            let reachable = self.roster.get(copy.to).is_some_and(|seen| seen.state.is_shown());
            let other = self.random_member(|seen| seen.linked && seen.state == MemberState::Alive);
            if let Some(other) = other.filter(|other| reachable && *other != copy.to) {
                let mut frame = Vec::new();
                copy.loose().write(&mut frame);
                self.send(other, &Frame::Pass { to: copy.to, frame: &frame });
            }
        }
    }

    /// Hands on to a member what another could not bring there.
    pub(super) fn on_pass(&mut self, now: Time, from: NodeId, to: NodeId, frame: &[u8]) {
        let inner = match wire::frame(frame) {
            Ok(Some(inner @ (Frame::Page { .. } | Frame::Facts(_)))) if to != self.id && to != from => inner,
            _ => return self.garbage(from, "a frame to pass on that is not fit to be"),
        };
        // What this node says of itself counts more than hearsay: it hands on none of that.
        let is_own = match &inner {
            Frame::Facts(facts) => facts.iter().any(|fact| fact.id == self.id),
            _ => false,
        };
        if is_own {
            return self.garbage(from, "a frame to pass on that is not fit to be");
        }
        let inner = match inner {
            // Nor does it say, of what it has not read itself, what stands before it no more.
            Frame::Page { page, .. } if self.may_hand_on(now, from, page) => Frame::Page { told: Told::NOTHING, page },
            Frame::Facts(facts) => Frame::Facts(facts),
            _ => return,
        };
        if self.roster.get(to).is_some_and(|seen| seen.state.is_shown()) {
            self.send(to, &inner);
        }
    }

    fn may_hand_on(&mut self, now: Time, from: NodeId, page: &[u8]) -> bool {
        let page = Bytes::copy_from_slice(page);
        let signed = match Signed::read(&page) {
            Ok(signed) => signed,
            Err(malformed) => {
                self.garbage(from, malformed.why());
                return false;
            }
        };
        if signed.page.owner == self.id {
            self.garbage(from, "a frame to pass on that is not fit to be");
            return false;
        }
        if self.is_tired_of(from, signed.page.owner) {
            return false;
        }
        match self.prove(now, &signed) {
            Proof::Genuine => true,
            Proof::Unknown => self.may_gossip(from),
            bad @ (Proof::Forged | Proof::Unvouched) => {
                self.refuse_page(from, signed.page.owner, bad);
                false
            }
        }
    }

    pub(super) fn send_copies_of_the_gone(&mut self, now: Time, peer: NodeId) {
        let copies = self.rumors.gone(now, &self.roster, peer);
        self.send_copies(&copies);
    }

    /// A rumour of rows: forwarded, since the receiver answers for its arc, unless its owner did not write it.
    pub(super) fn on_rows(&mut self, now: Time, from: NodeId, seq: u32, until: NodeId, page: Bytes) {
        self.stats.rumors_received += 1;
        if !self.rumors.receive(now, from, seq) {
            self.stats.rumors_stale += 1;
            return;
        }
        match self.take_page(now, from, &page, None) {
            Taken::Refused => return,
            Taken::Unknown if !self.may_gossip(from) => return,
            Taken::Rows(0) => self.stats.rumors_stale += 1,
            Taken::Unknown | Taken::Rows(_) => {}
        }
        self.revived.clear();
        self.spread(now, &Rumor::Rows(page), until);
    }

    /// Whether one more rumour may be forwarded that cannot be checked yet, because its owner's own page is late.
    pub(super) fn may_gossip(&mut self, from: NodeId) -> bool {
        let spent = self.gossip.entry(from).or_default();
        *spent += 1;
        if *spent > MAX_GOSSIP {
            self.stats.dropped_unauthorized += 1;
        }
        *spent <= MAX_GOSSIP
    }

    /// A rumour of a member.
    pub(super) fn on_fact(&mut self, now: Time, from: NodeId, seq: u32, until: NodeId, fact: Fact) {
        self.stats.rumors_received += 1;
        if !self.rumors.receive(now, from, seq) {
            self.stats.rumors_stale += 1;
            return;
        }
        if !self.is_plausible(now, from, fact.id, fact.generation.epoch()) {
            return self.implausible(from, fact.id);
        }
        self.hear(now, from, &fact);
        self.revived.clear();
        // Of this node nobody hears from it what another says.
        let own = || self.fact_of_this(if self.leaving { MemberState::Left } else { MemberState::Alive });
        let fact = if fact.id == self.id { own() } else { fact };
        self.spread(now, &Rumor::Fact(fact), until);
    }

    /// Merges a page, whoever brought it, if its owner signed it.
    pub(super) fn take_page(&mut self, now: Time, from: NodeId, bytes: &Bytes, told: Option<Told>) -> Taken {
        let signed = match Signed::read(bytes) {
            Ok(signed) => signed,
            Err(malformed) => {
                self.garbage(from, malformed.why());
                return Taken::Refused;
            }
        };
        let (owner, epoch) = (signed.page.owner, signed.page.epoch);
        if owner == self.id {
            // Law 3: nobody tells this node what it wrote.
            return Taken::Refused;
        }
        if told.is_some() {
            self.note_told(from, bytes.len());
        }
        if self.is_tired_of(from, owner) || self.catalog.get(owner).is_some_and(|book| book.mark().epoch > epoch) {
            // Written by a process before the one known here: nobody needs it, and nobody can check it any more.
            return Taken::Refused;
        }
        let has_left = |seen: &Seen| seen.state == MemberState::Left && epoch <= seen.generation.epoch();
        if told.is_some() && signed.page.node_row().is_none() && self.roster.get(owner).is_some_and(has_left) {
            // Not worth a look at who signed it, unless it is a rumour: those go on to who may see that otherwise.
            return Taken::Refused;
        }
        match self.prove(now, &signed) {
            Proof::Genuine => {}
            Proof::Unknown => {
                self.pull_later(now, owner, from);
                return Taken::Unknown;
            }
            bad @ (Proof::Forged | Proof::Unvouched) => {
                self.refuse_page(from, owner, bad);
                return Taken::Refused;
            }
        }
        let Some(seen) = self.roster.get(owner) else {
            self.pull_later(now, owner, from);
            return Taken::Unknown;
        };
        if epoch > seen.generation.epoch() {
            // A page that is proved announces the life in which it was written; this one is of a life beyond belief.
            return Taken::Refused;
        }
        if seen.state == MemberState::Left {
            // The last words of one who is gone.
            return Taken::Rows(0);
        }
        self.keep_page(now, from, &signed, told)
    }

    /// Merges a page that was proved, of a member that is shown here.
    fn keep_page(&mut self, now: Time, from: NodeId, signed: &Signed<'_>, told: Option<Told>) -> Taken {
        let (owner, epoch, to) = (signed.page.owner, signed.page.epoch, signed.page.to);
        let book = self.catalog.entry(owner, || Book::new(epoch));
        if !book.hears(from) {
            return Taken::Rows(0);
        }
        let (read, is_again) = (book.reading(), book.is_again());
        let merged = book.merge(now, &self.config.mesh, signed, told);
        let (rows, beyond, mark) = (merged.rows, merged.beyond, book.mark());
        let is_new = rows > 0 || book.reading() != read;
        if is_new {
            self.sync.told_by(from);
            if told.is_some() && !is_again {
                self.note_news(from, signed.bytes().len());
            }
        }
        self.stats.rows_merged += rows;
        self.stats.dropped_rows += merged.bad_rows;
        self.merged(owner, merged);
        if from == owner {
            self.overfull(owner, beyond);
        }
        if mark.epoch == epoch && mark.version < to && told.is_none() {
            self.stats.gaps += 1;
            self.pull_later(now, owner, from);
        }
        Taken::Rows(rows)
    }

    /// Notes what a merge changed of what may be shown.
    pub(super) fn merged(&mut self, owner: NodeId, merged: Merged) {
        for indexed in merged.index {
            match indexed {
                Indexed::In(name, id) => self.index.insert(name, owner, id),
                Indexed::Out(name, id) => self.index.remove(&name, owner, &id),
            }
        }
        if merged.node {
            self.name(self.now, owner);
            self.changes.insert(Change::Member(owner));
            let names = self.catalog.get(owner).into_iter().flat_map(Book::registrations);
            self.changes.extend(names.map(|registration| Change::Service(registration.name.clone())));
        }
        if !merged.services.is_empty() {
            self.expect_lapse(self.now, owner);
        }
        for name in merged.services {
            if let Some(book) = self.catalog.get(owner) {
                let is_critical = |report: &Arc<HealthReport>| report.health() == Health::Critical;
                self.index.weigh(&name, owner, |id| book.report(id).is_some_and(is_critical));
            }
            self.changes.insert(Change::Service(name));
        }
    }

    /// Reads those books anew that are not what their owners signed: from their owners, where they are linked, else from
    /// another peer each time.
    pub(super) fn settle_disputes(&mut self, now: Time) {
        let is_shown = |owner| self.roster.get(owner).is_some_and(|seen| seen.state.is_shown());
        let disputed: Vec<NodeId> =
            self.catalog.iter().filter(|(id, book)| book.is_disputed(now) && is_shown(*id)).map(|(id, _)| id).collect();
        for owner in self.turned(disputed).into_iter().take(MAX_DISPUTES) {
            let linked = |seen: &Seen| seen.linked && seen.state.is_shown();
            let other = self.random_member(linked);
            let is_linked = self.roster.get(owner).is_some_and(linked);
            let Some(book) = self.catalog.get_mut(owner) else { continue };
            let asked = if is_linked && book.asks_the_owner() { Some(owner) } else { other };
            self.stats.books_misread += u64::from(book.read_anew(now, asked));
            let mark = book.reading();
            asked.into_iter().for_each(|asked| self.send(asked, &Frame::Want(Want { marks: vec![(owner, mark)] })));
        }
    }

    /// A book has a gap, or its owner is not known: if that is still so in a moment, asks who brought the news.
    pub(super) fn pull_later(&mut self, now: Time, owner: NodeId, from: NodeId) {
        if self.roster.len() < MAX_MEMBERS && self.pulling.len() < MAX_PULLS && self.pulling.insert(owner) {
            self.timers.set(now + GAP_PATIENCE, Timer::Pull { owner, from });
        }
    }

    pub(super) fn pull(&mut self, owner: NodeId, from: NodeId) {
        self.pulling.remove(&owner);
        if self.was_told_enough(from) {
            return;
        }
        match (self.roster.get(owner), self.catalog.get(owner)) {
            (Some(_), Some(book)) => {
                let want = Want { marks: vec![(owner, book.reading())] };
                self.send(from, &Frame::Want(want));
            }
            // One question is enough, however many have brought what cannot be placed.
            _ => self.sync_soon(self.now, from),
        }
    }
}

/// What came of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Its owner never wrote it, or it is no page.
    Refused,
    /// Nobody here can tell yet.
    Unknown,
    /// Merged, with so many rows that were new.
    Rows(u64),
}

/// Changes within so long of the last that left share a page.
const COALESCE: Duration = Duration::from_millis(3);
/// What is late by more than this is held for lost.
const GAP_PATIENCE: Duration = Duration::from_millis(60);
/// Rumours forwarded for one peer, between two rounds of forgetting, whose owner is not known yet.
const MAX_GOSSIP: u32 = 1_000;
/// Books read anew in one round: for each, all members are looked through.
const MAX_DISPUTES: usize = 16;
/// Books asked for at a time; the rest is left to sync.
const MAX_PULLS: usize = 256;
