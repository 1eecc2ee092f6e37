//! Who does not belong to the mesh any more: the authority has revoked it, its certificate has ended, or nobody believed
//! here stands behind that.
//!
//! The driver closes its link; that alone would not keep it out. Members that have not heard of it, or that mean ill, may
//! go on speaking with it and for it. So it is Down at once, nothing that anybody says of it or brings from it counts, and
//! it stays so until the notary has nothing against it any more, or it shows a certificate against which there is nothing.

use super::{
    Mesh,
    catalog::Book,
    event::{Hello, Output},
    notary::Objection,
    roster::Seen,
    wire::Fact,
};
use crate::model::{MemberState, NodeId, Time};

impl Mesh {
    /// Whether what is said of a member, by itself or by others, counts for nothing.
    pub(super) fn is_barred(&self, id: NodeId) -> bool {
        self.roster.get(id).is_some_and(|seen| seen.barred.is_some())
    }

    /// Whether who has connected is turned away. The driver let it in by the certificate that it has now.
    pub(super) fn bars(&mut self, now: Time, hello: &Hello) -> bool {
        let (node, unix_millis) = (&hello.node, self.wall_clock(now));
        if self.is_barred(hello.id) {
            let known = self.catalog.get(hello.id).and_then(Book::node);
            let is_another = known.is_none_or(|known| known.voucher != node.voucher);
            if is_another && self.config.notary.vouched(&node.name, &node.voucher, unix_millis).is_ok() {
                self.unbar(hello.id);
            }
        }
        let is_barred = self.is_barred(hello.id);
        let is_barred = is_barred || self.config.notary.objection(&node.name, None, unix_millis).is_some();
        if is_barred {
            self.outbox.push(Output::Drop(hello.id));
        }
        is_barred
    }

    /// The notary has nothing against a member any more: how it is, those who speak with it say.
    pub(super) fn unbar(&mut self, id: NodeId) {
        if self.roster.get_mut(id).is_some_and(|seen| seen.barred.take().is_some()) {
            self.unvouched.remove(&id);
        }
    }

    /// Asks the notary of all members again.
    ///
    /// That a certificate has ended, or that nobody believes its authority, is seen by clocks and files of this node and
    /// of its authorities. Where that would take most of the mesh, this node included, it is taken for their fault: the
    /// links close, and nothing that works vanishes by it. What the authority revokes is its clear word.
    pub(super) fn ask_who_belongs(&mut self, now: Time) {
        let ids: Vec<NodeId> = self.roster.iter().map(|(id, _)| id).collect();
        let asked: Vec<_> = ids.into_iter().map(|id| (id, self.objection_to(now, id))).collect();
        let is_one = |seen: &Seen| seen.named && (seen.state.is_shown() || seen.barred.is_some());
        let counts = |id: &NodeId| self.roster.get(*id).is_some_and(is_one);
        let doubtful = asked.iter().filter(|(id, objection)| counts(id) && objection.is_some_and(is_doubtful)).count();
        let all = 1 + asked.iter().filter(|(id, _)| counts(id)).count();
        let own = usize::from(self.objection_to(now, self.id).is_some());
        let is_our_fault = (doubtful + own) * 2 > all;
        for (id, objection) in asked {
            match objection.filter(|objection| !(is_our_fault && is_doubtful(*objection))) {
                Some(objection) => self.bar(now, id, objection),
                None => self.unbar(id),
            }
        }
    }

    /// What the notary has against a member by now. A certificate that was not believed when it came may be since.
    fn objection_to(&mut self, now: Time, id: NodeId) -> Option<Objection> {
        let (notary, unix_millis) = (&self.config.notary, self.wall_clock(now));
        let book = self.catalog.get(id)?;
        let node = book.node()?;
        let objection = notary.objection(&node.name, book.vouched(), unix_millis)?;
        let Some(Ok(vouched)) = book.vouched().map(|_| notary.vouched(&node.name, &node.voucher, unix_millis)) else {
            return Some(objection);
        };
        let epoch = book.mark().epoch;
        self.catalog.get_mut(id)?.open(epoch, vouched);
        None
    }

    fn bar(&mut self, now: Time, id: NodeId, objection: Objection) {
        let this = self.id;
        let Some(seen) = self.roster.get_mut(id) else { return };
        if seen.barred.replace(objection) == Some(objection) || seen.state == MemberState::Left {
            return;
        }
        let was = seen.state;
        let fact = Fact { state: MemberState::Down, ..seen.fact(id, this) };
        seen.end(now, &fact);
        if was == MemberState::Down {
            seen.cause = objection.into();
            self.show(id);
        } else {
            self.changed(now, &fact, Some(was), objection.into());
        }
    }
}

/// Whether it is no word of the authority's.
const fn is_doubtful(objection: Objection) -> bool {
    !matches!(objection, Objection::Revoked)
}
