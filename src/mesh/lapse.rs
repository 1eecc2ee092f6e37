//! Instances whose node is gone for longer than their checks may be critical: they lapse. Nobody withdraws them, for only
//! its owner writes a book (law 3): each node that saw the owner go Down stops listing them by the same rule, from what
//! the row itself says and since when its owner is Down. Should the owner come back, its word counts again at once.
//!
//! A row that says nothing of it lapses after [`ROWS_KEPT`], and none stands for longer than its owner is remembered.

use super::{DOWN_KEPT, Mesh, ROWS_KEPT, Timer, catalog::Book, event::Change, roster::Seen};
use crate::model::{MemberState, NodeId, Registration, Time};

impl Seen {
    /// When an instance of this member lapses, if it is on its way. Not while this node is the one cut off.
    fn lapse_of(&self, registration: &Registration) -> Option<Time> {
        let is_gone = self.state == MemberState::Down && self.held.is_none();
        is_gone.then(|| self.since + registration.lapses_after.unwrap_or(ROWS_KEPT).min(DOWN_KEPT))
    }

    /// Whether an instance of this member has lapsed.
    pub(super) fn has_lapsed(&self, now: Time, registration: &Registration) -> bool {
        self.lapse_of(registration).is_some_and(|at| at <= now)
    }
}

impl Mesh {
    /// A member is Down, or more is known of its rows: waits for the next of them to lapse.
    pub(super) fn expect_lapse(&mut self, now: Time, id: NodeId) {
        let Some(seen) = self.roster.get(id).filter(|seen| seen.state == MemberState::Down) else { return };
        let rows = self.catalog.get(id).into_iter().flat_map(Book::registrations);
        let Some(next) = rows.filter_map(|row| seen.lapse_of(row)).filter(|at| *at > now).min() else { return };
        // One timer for each member; one that comes too early sets the next.
        if let Some(seen) = self.roster.get_mut(id).filter(|seen| seen.lapses_at <= now || next < seen.lapses_at) {
            seen.lapses_at = next;
            self.timers.set(next, Timer::Lapse(id));
        }
    }

    /// Whether a member that is gone for as long as rows are kept has one all the same that did not lapse.
    pub(super) fn awaits_lapse(&self, now: Time, id: NodeId) -> bool {
        let Some(seen) = self.roster.get(id).filter(|seen| seen.state == MemberState::Down) else { return false };
        let mut rows = self.catalog.get(id).into_iter().flat_map(Book::registrations);
        rows.any(|row| !seen.has_lapsed(now, row))
    }

    /// Some of a member's rows may have lapsed.
    pub(super) fn on_lapse(&mut self, now: Time, id: NodeId) {
        let Some(seen) = self.roster.get(id) else { return };
        let rows = self.catalog.get(id).into_iter().flat_map(Book::registrations);
        let lapsed = rows.filter(|row| seen.has_lapsed(now, row)).map(|row| Change::Service(row.name.clone()));
        self.changes.extend(lapsed);
        self.expect_lapse(now, id);
    }
}
