//! The reader's side of a book: pages are merged, what was missed is read again, and what was read is held against what its
//! owner signed.

use std::{collections::BTreeMap, time::Duration};

use super::{Book, Dispute, MAX_BOOK_BYTES, MAX_ROWS, MOSTLY_IDLE, Merged, Papers, Reread, Row, Rows};
use crate::{
    mesh::{
        claim::{Claim, Key, ROW_HEAD},
        page::{Census, Signed, Told, alone},
        wire::{MAX_ROW, Mark, RowUpdate},
    },
    model::{Epoch, MeshName, NodeId, Time},
};

impl Book {
    /// Merges what an owner of the mesh called `mesh` wrote and signed, with what its bringer says beside it.
    pub(in crate::mesh) fn merge(
        &mut self,
        now: Time,
        mesh: &MeshName,
        signed: &Signed<'_>,
        told: Option<Told>,
    ) -> Merged {
        let page = &signed.page;
        let mut merged = Merged::default();
        if page.epoch < self.mark.epoch {
            return merged;
        }
        if page.epoch > self.mark.epoch {
            self.succeed(page.epoch);
        }
        if page.written >= self.written {
            (self.written, self.stands) = (page.written, page.stands);
        }
        let reads_up_to = self.reread.map_or(0, |reread| reread.floor);
        if page.floor > self.mark.version && page.floor > reads_up_to {
            self.doubt(page.floor);
        }
        let bringers_floor = told.map_or(page.floor, |told| told.floor.max(page.floor));
        // Below the floor to be reached only who knows of it has a say: another would bring back the dead.
        let settled = match self.reread {
            Some(reread) if bringers_floor >= reread.floor => 0,
            Some(reread) => reread.floor,
            None => self.mark.floor,
        };
        // Who has forgotten tombstones that were not read here may skip them: what he leaves out is then a gap.
        let within = self.mark.version.max(self.reread.map_or(0, |reread| reread.floor));
        let since = told.filter(|told| told.floor <= within).map_or(page.from, |told| told.since.min(page.from));
        let since = since.max(settled);
        // What lies beyond a gap leaves room for what fills it.
        let room = if since <= self.reading().version { ROOM } else { ROOM / 2 };
        if !self.take_in(now, mesh, signed, settled, room, &mut merged) {
            return merged;
        }
        self.uncounted = self.uncounted.filter(|since| now.since(*since) < UNCOUNTED);
        if merged.bad_rows > 0 {
            self.uncounted = Some(now);
        }
        let (top, read) = (self.mark.version, self.reading().version);
        self.advance(since, page.to);
        let goes_on = self.reading().version > read;
        if let Some(Reread { floor, read }) = self.reread.filter(|reread| reread.read >= reread.floor) {
            self.reread = None;
            self.mark.version = self.mark.version.max(read);
            self.fold(floor);
        }
        let version = self.mark.version;
        // Not before all below the page was read: rows that were moved above the floor may still be on their way.
        if self.reread.is_none() && version >= page.to && page.floor > self.mark.floor {
            self.fold(page.floor);
        }
        if let Some(rows) = &mut self.rows {
            rows.shelf.clear_range(top.min(page.to), version);
        }
        if self.is_whole() {
            self.settle(&mut merged);
        } else if self.is_again() || self.is_read() {
            // Rows that went since then may be told of in a page that is on its way. A gap ends no doubt; but what is being
            // read from the start takes as long as it takes.
            let is_on_its_way = goes_on && self.is_again() && self.mark.version < self.written;
            self.unsound = self.unsound.filter(|_| !is_on_its_way).or(Some(now));
        }
        merged
    }

    /// Whether it is read from the start although it was read before.
    pub(in crate::mesh) fn is_again(&self) -> bool {
        self.reread.is_some() || self.disputed.is_some()
    }

    /// How far it was read; from the start, where it is read again.
    pub(in crate::mesh) fn reading(&self) -> Mark {
        self.reread.map_or(self.mark, |Reread { floor, read }| Mark { floor, version: read, ..self.mark })
    }

    /// Takes over the rows of a page that are above `settled` and new. False where there is no room for the page.
    fn take_in(
        &mut self,
        now: Time,
        mesh: &MeshName,
        signed: &Signed<'_>,
        settled: u64,
        room: usize,
        merged: &mut Merged,
    ) -> bool {
        let page = &signed.page;
        if page.node_row().is_none() {
            let is_crowded = room < ROOM && self.len() + page.rows.len() > room * MAX_ROWS;
            let rows = self.rows.get_or_insert_default();
            if is_crowded || rows.shelf.bytes + signed.bytes().len() > room * MAX_BOOK_BYTES + MOSTLY_IDLE {
                merged.exceed(page.rows.len());
                return false;
            }
            rows.shelf.put(page.to, page.floor, signed.bytes());
        }
        for update in page.rows.iter().filter(|update| update.version > settled) {
            self.merge_row(now, mesh, signed, update, merged);
        }
        true
    }

    fn merge_row(
        &mut self,
        now: Time,
        mesh: &MeshName,
        signed: &Signed<'_>,
        update: &RowUpdate<'_>,
        merged: &mut Merged,
    ) {
        let Some(key) = Key::parse(update.key) else { return merged.bad_rows += 1 };
        let known = match key {
            Key::Node => (self.papers.version, false),
            _ => {
                self.rows.as_ref().and_then(|r| r.by_key.get(&key)).map_or((0, false), |row| (row.version, row.doubted))
            }
        };
        if update.version < known.0 || (update.version == known.0 && !known.1) {
            return;
        }
        if update.body.is_some_and(|body| body.len() > MAX_ROW) {
            return merged.exceed(1);
        }
        let parsed = update.body.map(|body| Claim::parse(&key, body));
        let claim = match parsed {
            None if key != Key::Node => None,
            // A node speaks of itself, under its own name.
            Some(Some(Claim::Node(node))) if NodeId::of(mesh, &node.name) != signed.page.owner => {
                return merged.bad_rows += 1;
            }
            Some(Some(claim)) => Some(claim),
            None | Some(None) => return merged.bad_rows += 1,
        };
        if known.0 == 0 && self.len() >= ROOM * MAX_ROWS {
            return merged.exceed(1);
        }
        merged.rows += 1;
        if key == Key::Node {
            (self.papers.floor, self.papers.page) = (signed.page.floor, alone(signed.bytes()));
        }
        let size = update.key.len() + update.body.map_or(0, <[u8]>::len) + ROW_HEAD;
        let (version, page, outlived) = (update.version, signed.page.to, Vec::new());
        self.put(key, Row { version, claim, size, page, outlived, buried: now, doubted: false }, merged);
    }

    /// A new process has begun a new book. What the old one held is shown until the new one is read as far as it goes, so
    /// that a restart hides nothing that comes back.
    pub(super) fn succeed(&mut self, epoch: Epoch) {
        let rows = self.rows.take();
        let papers = Papers { node: self.papers.node.take(), ..Papers::default() };
        *self = Self { papers, ..Self::new(epoch) };
        self.inherit(rows);
    }

    /// What stood in `rows` is shown until the book is read as far as it goes.
    fn inherit(&mut self, rows: Option<Box<Rows>>) {
        let old = rows.map(|rows| rows.by_key).unwrap_or_default();
        let standing = old.into_iter().filter(|(_, row)| row.claim.is_some());
        let inherit = |row| Row { version: 0, size: 0, page: 0, outlived: Vec::new(), doubted: false, ..row };
        let by_key: BTreeMap<_, _> = standing.map(|(key, row)| (key, inherit(row))).collect();
        if !by_key.is_empty() {
            self.rows = Some(Box::new(Rows { by_key, unconfirmed: true, ..Rows::default() }));
        }
    }

    /// The reader fell below the floor: it reads the whole book again, and rows not confirmed on the way will go. Until
    /// then they are shown, and the mark stays where it was (law 4).
    fn doubt(&mut self, floor: u64) {
        self.reread = Some(Reread { floor, read: 0 });
        let Some(rows) = &mut self.rows else { return };
        rows.ahead.clear();
        rows.unconfirmed = true;
        for row in rows.by_key.values_mut().filter(|row| row.version <= floor) {
            if row.counts() {
                self.census.fall(row.version);
            }
            row.doubted = true;
        }
    }

    /// Counts `(from, to]` as read, and what was read ahead and is now joined.
    fn advance(&mut self, from: u64, to: u64) {
        let read = self.reread.as_mut().map_or(&mut self.mark.version, |reread| &mut reread.read);
        if *read >= to {
            return;
        }
        if from > *read {
            let ahead = &mut self.rows.get_or_insert_default().ahead;
            if ahead.len() < MAX_AHEAD && !ahead.contains(&(from, to)) {
                ahead.push((from, to));
            }
            return;
        }
        *read = to;
        let Some(rows) = &mut self.rows else { return };
        while let Some(joined) = rows.ahead.iter().position(|(from, _)| *from <= *read) {
            let (_, to) = rows.ahead.swap_remove(joined);
            *read = (*read).max(to);
        }
    }

    /// The book was read as far as it goes, and comes to what its owner signed: what was not found in it goes.
    fn settle(&mut self, merged: &mut Merged) {
        (self.unsound, self.disputed) = (None, None);
        let Some(rows) = self.rows.as_mut().filter(|rows| rows.unconfirmed) else { return };
        rows.unconfirmed = false;
        let gone: Vec<_> = rows.by_key.extract_if(.., |_, row| row.version == 0 || row.doubted).collect();
        for (_, row) in gone.iter().filter(|(_, row)| row.version > 0) {
            rows.fall(row, self.mark.version);
        }
        for (key, row) in gone {
            self.note(&key, row.claim, None, merged);
        }
    }

    /// Whether it is not what its owner signed, for longer than an answer is on its way; or is being read anew for that.
    pub(in crate::mesh) fn is_disputed(&self, now: Time) -> bool {
        self.disputed.is_some() || self.is_unsound(now)
    }

    fn is_unsound(&self, now: Time) -> bool {
        let patience = if self.is_read() { UNDER_WAY } else { LONGEST_READ };
        self.unsound.is_some_and(|since| now.since(since) >= patience)
    }

    /// Whether its owner should be asked for it: every other time, for he may not answer.
    pub(in crate::mesh) fn asks_the_owner(&self) -> bool {
        self.disputed.is_none_or(|dispute| dispute.rounds.is_multiple_of(2))
    }

    /// Whether what a peer brings of it counts. Whoever misled this node would do it again: in a dispute who was asked is
    /// heard alone.
    pub(in crate::mesh) fn hears(&self, peer: NodeId) -> bool {
        self.disputed.and_then(|dispute| dispute.asked).is_none_or(|asked| asked == peer)
    }

    /// How far a peer is told that it was read: one that is not heard need not send what it has.
    pub(in crate::mesh) fn mark_for(&self, peer: NodeId) -> Mark {
        if self.hears(peer) { self.reading() } else { Mark { version: self.written, ..self.mark } }
    }

    /// Begins to read the book again, by what `asked` will say, or goes on with that. What was read is shown until then.
    /// Where that comes to the same again and again, its owner counts otherwise than others. True if it is begun.
    pub(in crate::mesh) fn read_anew(&mut self, now: Time, asked: Option<NodeId>) -> bool {
        let (tries, is_unsound) = (self.disputed.map_or(0, |dispute| dispute.tries), self.is_unsound(now));
        match &mut self.disputed {
            Some(dispute) if !is_unsound => {
                (dispute.asked, dispute.rounds) = (asked, dispute.rounds.wrapping_add(1));
                return false;
            }
            _ if tries >= MAX_TRIES => {
                // Nor does it go further than anybody can read.
                self.mark.version = self.mark.version.max(self.reading().version);
                self.written = self.mark.version;
                (self.unsound, self.disputed, self.reread, self.uncounted) = (None, None, None, Some(now));
                return false;
            }
            disputed => *disputed = Some(Dispute { asked, rounds: 0, tries: tries + 1 }),
        }
        (self.unsound, self.reread) = (None, None);
        self.mark = Mark { epoch: self.mark.epoch, ..Mark::default() };
        self.census = Census::default();
        if self.papers.version > 0 {
            self.census.stand(self.papers.version);
        }
        let rows = self.rows.take();
        self.inherit(rows);
        true
    }
}

/// How often a book is read anew before its owner is taken at his pages alone.
const MAX_TRIES: u8 = 4;
/// For so long he is: what made him count otherwise may have gone.
const UNCOUNTED: Duration = Duration::from_secs(600);
/// What one answer says has come within so long.
const UNDER_WAY: Duration = Duration::from_secs(5);
/// So long the largest book takes, over ten megabits a second.
const LONGEST_READ: Duration = Duration::from_secs(30);
/// A reader has room for so many times what a writer may have: neither tombstones nor pages in which little stands any more
/// are held against it.
const ROOM: usize = 2;
/// The most pieces of a book read ahead of a gap; more are shown and not remembered: the next sync brings them again.
const MAX_AHEAD: usize = 32;
