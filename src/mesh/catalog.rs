//! One book per owner: rows, versions, tombstones, and the mark that says how far it was read.
//!
//! Only its owner writes a book (law 3), page by signed page. A reader merges pages: a higher epoch replaces the book
//! (what the old one held is shown until the new one is read as far as it goes), then the higher version of each row wins,
//! so that merging is commutative, associative and idempotent. A page that leaves a gap is shown but not counted (law 5):
//! the mark waits until another page fills it.

mod author;
mod merged;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

pub(super) use self::merged::{Indexed, Merged};

use self::author::Fresh;
use super::{
    claim::{Claim, Key, ROW_HEAD},
    event::Generation,
    notary::{BookKey, Vouched},
    page::{Sheet, Shelf, Signed, Told, alone},
    ring::Ring,
    wire::{MAX_ROW, Mark, RowUpdate},
};
use crate::model::{Epoch, HealthReport, InstanceId, MeshName, Node, NodeId, Registration, Time};

/// The most rows one owner may have; a registration with checks takes two.
pub(super) const MAX_ROWS: usize = 50_000;
/// The most bytes of rows one owner may have.
pub(super) const MAX_BOOK_BYTES: usize = 32 << 20;
/// The most pieces of a book read ahead of a gap; more are shown and not remembered: the next sync brings them again.
const MAX_AHEAD: usize = 32;

/// One claim with its number; no claim is a tombstone.
#[derive(Clone, Debug)]
struct Row {
    version: u64,
    claim: Option<Claim>,
    /// How many bytes it takes in its page.
    size: usize,
    /// The page it stands in, by the last version there; none before the owner has signed one.
    page: u64,
    /// Pages of one's own that still hold earlier versions of it, dead: who reads them must be told of this one.
    outlived: Vec<u64>,
    /// When a tombstone came to be.
    buried: Time,
    /// The reader fell below the floor and this row has not been confirmed since.
    doubted: bool,
}

/// All rows of one owner.
#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    mark: Mark,
    /// How far its owner said it goes.
    written: u64,
    papers: Papers,
    /// The reader fell below the floor and reads the book again from the start.
    reread: Option<Reread>,
    /// Everything but the node's own row and what hangs on it; most books of a large mesh hold no rows.
    rows: Option<Box<Rows>>,
}

/// The owner's word on itself: by a page, or provisionally (version 0) by its hello.
#[derive(Clone, Debug, Default)]
struct Papers {
    node: Option<Arc<Node>>,
    version: u64,
    page: Bytes,
    vouched: Option<Vouched>,
}

/// How far a book was read again, and the floor to reach before unconfirmed rows go.
#[derive(Clone, Copy, Debug)]
struct Reread {
    floor: u64,
    read: u64,
}

#[derive(Clone, Debug, Default)]
struct Rows {
    by_key: BTreeMap<Key, Row>,
    shelf: Shelf,
    /// What the owner has written and not yet signed, by version.
    fresh: Fresh,
    /// How far the owner has signed it.
    signed: u64,
    /// Ranges `(from, to]` merged beyond a gap.
    ahead: Vec<(u64, u64)>,
    /// What stood in the book of the process before is shown until the new one is read this far: such rows have the
    /// version 0.
    inherited: Option<u64>,
}

impl Book {
    pub(super) fn new(epoch: Epoch) -> Self {
        Self { mark: Mark { epoch, ..Mark::default() }, ..Self::default() }
    }

    /// A book read up to its first row, the node's own.
    pub(super) fn known(epoch: Epoch, node: Arc<Node>, page: Bytes, vouched: Option<Vouched>) -> Self {
        let papers = Papers { node: Some(node), version: 1, page, vouched };
        Self { mark: Mark { epoch, floor: 0, version: 1 }, papers, ..Self::default() }
    }

    pub(super) const fn mark(&self) -> Mark {
        self.mark
    }

    /// Whether it was read as far as its owner said it goes.
    pub(super) const fn is_whole(&self) -> bool {
        self.mark.version > 0 && self.mark.version >= self.written && self.reread.is_none()
    }

    pub(super) const fn node(&self) -> Option<&Arc<Node>> {
        self.papers.node.as_ref()
    }

    /// The page in which the owner says that its process is there, which is of this generation.
    pub(super) fn proof_of(&self, generation: Generation) -> Option<&Bytes> {
        let page = Some(&self.papers.page).filter(|page| !page.is_empty());
        page.filter(|_| generation == Generation::first(self.mark.epoch))
    }

    /// Takes the owner's word from its hello until its row arrives.
    pub(super) fn introduce(&mut self, node: &Node) {
        if self.papers.version == 0 {
            self.papers.node = Some(Arc::new(node.clone()));
        }
    }

    /// What the owner's voucher has proved, once it was seen.
    pub(super) const fn vouched(&self) -> Option<&Vouched> {
        self.papers.vouched.as_ref()
    }

    /// The key that its pages are signed with, once the owner has proved one.
    pub(super) fn key(&self) -> Option<&BookKey> {
        self.vouched().map(|vouched| &vouched.key)
    }

    /// Whether the owner's word on itself in a page that ends there is news, and brings another voucher.
    pub(super) fn is_new_voucher(&self, to: u64, voucher: &Bytes) -> bool {
        to > self.papers.version && self.node().is_none_or(|node| node.voucher != *voucher)
    }

    /// Takes over what the owner's voucher proved for the process of this epoch; a new process's book replaces the old.
    pub(super) fn open(&mut self, epoch: Epoch, vouched: Vouched) {
        if epoch > self.mark.epoch {
            self.succeed(epoch);
        }
        self.papers.vouched = Some(vouched);
    }

    pub(super) fn registration(&self, id: &InstanceId) -> Option<&Arc<Registration>> {
        match self.claim(&Key::Service(id.clone()))? {
            Claim::Service(registration) => Some(registration),
            _ => None,
        }
    }

    pub(super) fn report(&self, id: &InstanceId) -> Option<&Arc<HealthReport>> {
        match self.claim(&Key::Health(id.clone()))? {
            Claim::Health(report) => Some(report),
            _ => None,
        }
    }

    pub(super) fn registrations(&self) -> impl Iterator<Item = &Arc<Registration>> {
        self.rows.iter().flat_map(|rows| rows.by_key.values()).filter_map(|row| match &row.claim {
            Some(Claim::Service(registration)) => Some(registration),
            _ => None,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.rows.as_ref().map_or(0, |rows| rows.by_key.len())
    }

    fn claim(&self, key: &Key) -> Option<&Claim> {
        self.rows.as_ref()?.by_key.get(key)?.claim.as_ref()
    }

    /// Whether so many more rows, of so many bytes together, fit.
    pub(super) fn has_room(&self, rows: usize, bytes: usize) -> bool {
        let standing = self.rows.as_ref().map_or(0, |rows| rows.shelf.standing + rows.fresh.bytes);
        self.len() + rows <= MAX_ROWS && standing + bytes <= MAX_BOOK_BYTES
    }

    /// Merges what an owner of the mesh called `mesh` wrote and signed, with what its bringer says beside it.
    pub(super) fn merge(&mut self, now: Time, mesh: &MeshName, signed: &Signed<'_>, told: Option<Told>) -> Merged {
        let page = &signed.page;
        let mut merged = Merged::default();
        if page.epoch < self.mark.epoch {
            return merged;
        }
        if page.epoch > self.mark.epoch {
            self.succeed(page.epoch);
        }
        self.written = self.written.max(page.written);
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
        if !self.take_in(now, mesh, signed, settled, &mut merged) {
            return merged;
        }
        // Who has forgotten tombstones that were not read here may skip them: what he leaves out is then a gap.
        let within = self.mark.version.max(self.reread.map_or(0, |reread| reread.floor));
        let since = told.filter(|told| told.floor <= within).map_or(page.from, |told| told.since.min(page.from));
        let top = self.mark.version;
        merged.gap = !self.advance(since.max(settled), page.to);
        if let Some(Reread { floor, read }) = self.reread.filter(|reread| reread.read >= reread.floor) {
            self.reread = None;
            self.mark.version = self.mark.version.max(read);
            self.fold(floor, &mut merged);
        }
        let version = self.mark.version;
        // Not before all below the page was read: rows that were moved above the floor may still be on their way.
        if self.reread.is_none() && version >= page.to && page.floor > self.mark.floor {
            self.fold(page.floor, &mut merged);
        }
        if let Some(rows) = &mut self.rows {
            rows.shelf.clear_range(top.min(page.to), version);
        }
        self.disinherit(page.written, &mut merged);
        merged
    }

    /// Takes over the rows of a page that are above `settled` and new. False where there is no room for the page.
    fn take_in(&mut self, now: Time, mesh: &MeshName, signed: &Signed<'_>, settled: u64, merged: &mut Merged) -> bool {
        let page = &signed.page;
        if page.node_row().is_none() {
            let rows = self.rows.get_or_insert_default();
            // Twice what a writer may have: pages in which little stands any more are not held against it.
            if rows.shelf.bytes + signed.bytes().len() > 2 * MAX_BOOK_BYTES + MOSTLY_IDLE {
                merged.exceed(page.rows.len());
                return false;
            }
            rows.shelf.put(page.to, signed.bytes());
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
        // Twice what a writer may have: tombstones are not held against it.
        if known.0 == 0 && self.len() >= 2 * MAX_ROWS {
            return merged.exceed(1);
        }
        merged.rows += 1;
        if key == Key::Node {
            self.papers.page = alone(signed.bytes());
        }
        let size = update.key.len() + update.body.map_or(0, <[u8]>::len) + ROW_HEAD;
        let (version, page, outlived) = (update.version, signed.page.to, Vec::new());
        self.put(key, Row { version, claim, size, page, outlived, buried: now, doubted: false }, merged);
    }

    fn put(&mut self, key: Key, row: Row, merged: &mut Merged) {
        if let Some(Claim::Node(node)) = row.claim {
            if let Some(rows) = &mut self.rows {
                rows.fresh.remove(self.papers.version);
            }
            self.papers.node = Some(node);
            self.papers.version = row.version;
            merged.node = true;
            return;
        }
        let top = self.mark.version;
        let rows = self.rows.get_or_insert_default();
        let new = row.claim.clone();
        rows.shelf.stand(row.page, row.size);
        let old = rows.by_key.insert(key.clone(), row);
        if let Some(old) = &old {
            rows.fall(old, top);
        }
        let old = old.and_then(|row| row.claim);
        if old != new {
            self.note(&key, old, new, merged);
        }
    }

    /// Notes which names are touched when `key` goes from `old` to `new`.
    fn note(&self, key: &Key, old: Option<Claim>, new: Option<Claim>, merged: &mut Merged) {
        let service = |claim: Option<Claim>| match claim {
            Some(Claim::Service(registration)) => Some(registration.name.clone()),
            _ => None,
        };
        match key {
            Key::Node => merged.node = true,
            Key::Health(id) => {
                merged.services.extend(self.registration(id).map(|registration| registration.name.clone()))
            }
            Key::Service(id) => {
                let (was, is) = (service(old), service(new));
                if was != is {
                    merged.index.extend(was.clone().map(|name| Indexed::Out(name, id.clone())));
                    merged.index.extend(is.clone().map(|name| Indexed::In(name, id.clone())));
                }
                merged.services.extend(was.into_iter().chain(is));
            }
        }
    }

    /// A new process has begun a new book. What the old one held is shown until the new one is read as far as it goes, so
    /// that a restart hides nothing that comes back.
    fn succeed(&mut self, epoch: Epoch) {
        let old = self.rows.take().map(|rows| rows.by_key).unwrap_or_default();
        let standing = old.into_iter().filter(|(_, row)| row.claim.is_some());
        let inherit = |row| Row { version: 0, size: 0, page: 0, outlived: Vec::new(), doubted: false, ..row };
        let by_key: BTreeMap<_, _> = standing.map(|(key, row)| (key, inherit(row))).collect();
        let papers = Papers { node: self.papers.node.take(), ..Papers::default() };
        *self = Self { papers, ..Self::new(epoch) };
        if !by_key.is_empty() {
            self.rows = Some(Box::new(Rows { by_key, inherited: Some(u64::MAX), ..Rows::default() }));
        }
    }

    /// Forgets what was inherited and is not in the new book, once that is read as far as its owner said it goes.
    fn disinherit(&mut self, written: u64, merged: &mut Merged) {
        let Some(rows) = &mut self.rows else { return };
        let Some(until) = rows.inherited.map(|until| until.min(written)) else { return };
        rows.inherited = Some(until);
        if self.mark.version < until {
            return;
        }
        rows.inherited = None;
        let gone: Vec<_> = rows.by_key.extract_if(.., |_, row| row.version == 0).collect();
        for (key, row) in gone {
            self.note(&key, row.claim, None, merged);
        }
    }

    /// Drops every row, as when the owner has left or was Down for long. The epoch stays, so that no older one rises
    /// again; should the owner come back within it, its book is read anew.
    pub(super) fn clear(&mut self) -> Merged {
        let mut merged = Merged::default();
        merged.index.extend(self.registrations().map(|r| Indexed::Out(r.name.clone(), r.id.clone())));
        merged.services.extend(self.registrations().map(|r| r.name.clone()));
        // Known by sight until its page comes again; that it may be let in no more is not forgotten with its rows.
        let (node, vouched) = (self.papers.node.take(), self.papers.vouched.take());
        let papers = Papers { node, vouched, ..Papers::default() };
        *self = Self { papers, ..Self::new(self.mark.epoch) };
        merged
    }

    /// The reader fell below the floor: it reads the whole book again, and rows not confirmed on the way will go. Until
    /// then they are shown, and the mark stays where it was (law 4).
    fn doubt(&mut self, floor: u64) {
        self.reread = Some(Reread { floor, read: 0 });
        if let Some(rows) = &mut self.rows {
            rows.ahead.clear();
            rows.by_key.values_mut().filter(|row| row.version <= floor).for_each(|row| row.doubted = true);
        }
    }

    /// Counts `(from, to]` as read, and what was read ahead and is now joined. False if a gap is left.
    fn advance(&mut self, from: u64, to: u64) -> bool {
        let read = self.reread.as_mut().map_or(&mut self.mark.version, |reread| &mut reread.read);
        if *read >= to {
            return true;
        }
        if from > *read {
            let ahead = &mut self.rows.get_or_insert_default().ahead;
            if ahead.len() < MAX_AHEAD && !ahead.contains(&(from, to)) {
                ahead.push((from, to));
            }
            return false;
        }
        *read = to;
        let Some(rows) = &mut self.rows else { return true };
        while let Some(joined) = rows.ahead.iter().position(|(from, _)| *from <= *read) {
            let (_, to) = rows.ahead.swap_remove(joined);
            *read = (*read).max(to);
        }
        true
    }

    /// Raises the floor: tombstones and unconfirmed rows up to it are forgotten.
    fn fold(&mut self, floor: u64, merged: &mut Merged) {
        self.mark.floor = floor;
        let Some(rows) = &mut self.rows else { return };
        let gone: Vec<Key> = rows
            .by_key
            .iter()
            .filter(|(_, row)| row.version <= floor && (row.doubted || row.claim.is_none()))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            let Some(row) = self.rows.as_mut().and_then(|rows| rows.by_key.remove(&key)) else { continue };
            let top = self.mark.version;
            if let Some(rows) = &mut self.rows {
                rows.fall(&row, top);
            }
            if row.claim.is_some() {
                self.note(&key, row.claim, None, merged);
            }
        }
    }

    /// What a reader that stands at `reader` is missing, pages beyond a gap of ours included, oldest first; but before all
    /// the one with the owner's voucher, if he begins, and then the one that shows him the floor, if he is below it.
    pub(super) fn sheets(&self, reader: Mark) -> Vec<Sheet<'_>> {
        let Mark { epoch, floor, version } = self.mark;
        let below = reader.epoch != epoch || reader.version < floor;
        // Who has read all and not folded yet is told by the last page once more.
        let start = match (below, reader.floor < floor) {
            (true, _) => 0,
            (false, true) => reader.version.min(version.saturating_sub(1)),
            (false, false) => reader.version,
        };
        let own = Some((self.papers.version, &self.papers.page)).filter(|(to, page)| *to > start && !page.is_empty());
        let mut pages: Vec<(u64, &Bytes)> = self.rows.iter().flat_map(|rows| rows.shelf.above(start)).collect();
        pages.extend(own);
        pages.sort_unstable_by_key(|(to, _)| *to);
        let mut since = start;
        let mut sheets = Vec::with_capacity(pages.len());
        for (to, bytes) in pages {
            // Beyond a gap nothing is known of what lies between.
            let told = Told { since: if to <= version { since } else { u64::MAX }, floor };
            since = to;
            sheets.push(Sheet { told, bytes });
        }
        if below && floor > 0 {
            sheets.rotate_right(1);
        }
        // Without the key he can make nothing of the rest.
        let begins = reader.epoch != epoch || reader.version == 0;
        if let Some((_, bytes)) = own.filter(|(_, own)| begins && sheets.first().is_some_and(|s| s.bytes != *own)) {
            sheets.insert(0, Sheet { told: Told { since: u64::MAX, floor }, bytes });
        }
        sheets
    }
}

impl Rows {
    /// A row was replaced or forgotten.
    fn fall(&mut self, row: &Row, top: u64) {
        if row.page == 0 {
            self.fresh.remove(row.version);
        } else {
            self.shelf.fall(row.page, row.size, top);
        }
    }
}

/// All books by owner.
pub(super) type Catalog = Ring<Book>;

/// Pages that hold little may take this much beside what stands, before what does is gathered in new ones.
const MOSTLY_IDLE: usize = 256 << 10;
