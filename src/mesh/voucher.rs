//! Vouchers: how a page is held against its owner's certificate, and what is made of one that nobody here believes.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Mesh,
    catalog::Book,
    claim::{Claim, Key},
    event::Change,
    page::Signed,
};
use crate::model::{MemberState, NodeId, Time};

/// What a page's signature is worth here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// Its owner wrote it.
    Genuine,
    /// Its owner did not write it.
    Forged,
    /// Its owner's voucher is not believed here: as when the authority behind it was dropped, or its certificate is over.
    Unvouched,
    /// Nobody here knows its owner's key yet.
    Unknown,
}

impl Mesh {
    /// Who belongs may be different now, this node's certificate too. Not left to housekeeping: who starts in between
    /// believes the new authority alone, and could read nothing of this node.
    pub(super) fn ask_the_notary(&mut self, now: Time) {
        self.renew_voucher(now);
        self.ask_who_belongs(now);
    }

    /// Has all told of this node's voucher, where its certificate is another.
    fn renew_voucher(&mut self, now: Time) {
        let voucher = self.config.notary.voucher();
        if voucher != self.config.node.voucher {
            self.vouch_for_itself(now, voucher);
            let node = Claim::Node(Arc::new(self.config.node.clone()));
            let _ = self.write(now, Key::Node, Some(node));
        }
    }

    /// Takes over a voucher of this node's own.
    pub(super) fn vouch_for_itself(&mut self, now: Time, voucher: Bytes) {
        let (name, unix_millis) = (&self.config.node.name, self.wall_clock(now));
        let vouched = self.config.notary.vouched(name, &voucher, unix_millis);
        self.config.node.voucher = voucher;
        if let (Ok(vouched), Some(book)) = (vouched, self.catalog.get_mut(self.id)) {
            book.open(self.epoch, vouched);
        }
    }

    /// Whether the owner signed a page; one with its voucher opens its book.
    pub(super) fn prove(&mut self, now: Time, signed: &Signed<'_>) -> Proof {
        let (page, notary) = (&signed.page, Arc::clone(&self.config.notary));
        let book = self.catalog.get(page.owner).filter(|book| book.mark().epoch >= page.epoch);
        if book.is_some_and(|book| book.mark().epoch > page.epoch) {
            return Proof::Unknown;
        }
        let by_key = book.and_then(Book::key).map(|key| signed.is_signed_with(key, &*notary));
        let known = match by_key {
            // A process has one key, whatever else its certificate vouches for.
            Some(false) => return Proof::Forged,
            _ if self.is_barred(page.owner) => Proof::Unvouched,
            Some(true) => Proof::Genuine,
            None => Proof::Unknown,
        };
        let Some(claim) = page.node_row().map(|body| Claim::parse(&Key::Node, body)) else { return known };
        let Some(Claim::Node(node)) = claim else { return if by_key == Some(true) { known } else { Proof::Forged } };
        if NodeId::of(&self.config.mesh, &node.name) != page.owner {
            return Proof::Forged;
        }
        if by_key == Some(true) && !book.is_some_and(|book| book.is_new_voucher(page.to, &node.voucher)) {
            return known;
        }
        let Ok(vouched) = notary.vouched(&node.name, &node.voucher, self.wall_clock(now)) else {
            return if by_key.is_none() { Proof::Unvouched } else { known };
        };
        if !signed.is_signed_with(&vouched.key, &*notary) {
            return Proof::Forged;
        }
        self.unbar(page.owner);
        self.hear_of_a_new_life(now, page.owner, page.epoch);
        if self.roster.get(page.owner).is_some_and(|seen| seen.generation.epoch() >= page.epoch) {
            let book = self.catalog.entry(page.owner, || Book::new(page.epoch));
            book.open(page.epoch, vouched);
            if self.unvouched.remove(&page.owner) && self.is_ready() {
                self.changes.insert(Change::Ready);
            }
        }
        Proof::Genuine
    }

    /// Drops a page that is not genuine. Who brings a few whose vouchers are not believed here may well believe them
    /// himself, and is charged for none of them.
    pub(super) fn refuse_page(&mut self, from: NodeId, owner: NodeId, proof: Proof) {
        if proof == Proof::Forged {
            return self.forgery(from, owner);
        }
        self.stats.dropped_unauthorized += 1;
        if self.is_barred(owner) {
            // Its owner wrote it, and who has not heard the word hands it on in good faith, however much there is of it.
            return;
        }
        if self.roster.get(owner).is_some() {
            self.unvouched.insert(owner);
        }
        if !self.may_gossip(from) {
            self.forgery(from, owner);
        }
    }

    /// Who is here, and of whom pages are refused since his voucher is not believed.
    pub fn unvouched(&self) -> impl Iterator<Item = NodeId> {
        let is_here = |id: &NodeId| self.roster.get(*id).is_some_and(|s| s.linked && s.state == MemberState::Alive);
        self.unvouched.iter().copied().filter(is_here)
    }

    /// Whether answers may be given: all is heard that the mesh knows (see `sync::ready`), or there is nobody to hear; and nothing
    /// was refused of whoever is here and whose voucher is not believed yet. The driver does not wait for that for ever.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready && self.unvouched().next().is_none()
    }
}
