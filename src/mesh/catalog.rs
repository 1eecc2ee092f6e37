//! One book per owner: rows, versions, tombstones, and the mark that says how far it was read.
//!
//! Only its owner writes a book (law 3), page by signed page. A reader merges pages: a higher epoch replaces the book
//! (what the old one held is shown until the new one is read as far as it goes), then the higher version of each row wins,
//! so that merging is commutative, associative and idempotent. A page that leaves a gap is shown but not counted (law 5):
//! the mark waits until another page fills it.
//!
//! Who brings a page says which versions before it stand no more: that is his word, and no signature covers it. So each
//! page says what stands in the whole book. A book that does not come to that is read anew, from its owner's own mouth where
//! he can be asked (law 4 begins again with it).

mod author;
mod merged;
mod reader;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

pub(super) use self::merged::{Indexed, Merged};

use self::author::Fresh;
use super::{
    claim::{Claim, Key},
    event::Generation,
    notary::{BookKey, Vouched},
    page::{Census, Seal, Sheet, Shelf, Told},
    ring::Ring,
    wire::Mark,
};
use crate::model::{Epoch, HealthReport, InstanceId, Node, NodeId, Registration, Time};

/// The most rows one owner may have; a registration with checks takes two.
pub(super) const MAX_ROWS: usize = 50_000;
/// The most bytes of rows one owner may have.
pub(super) const MAX_BOOK_BYTES: usize = 32 << 20;

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

impl Row {
    /// Whether its owner counts it among what stands.
    const fn counts(&self) -> bool {
        self.claim.is_some() && self.version > 0 && !self.doubted
    }
}

/// All rows of one owner.
#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    mark: Mark,
    /// How far its owner said it goes, and what stood in it then.
    written: u64,
    stands: Seal,
    /// What stands as far as it was read, the node's own row included.
    census: Census,
    /// Whether that is all nobody can tell since then: rows came that could not be kept, or its owner counts otherwise.
    uncounted: Option<Time>,
    /// Since when it was at no time what its owner signed: first it was read as far as it goes, or from the start.
    unsound: Option<Time>,
    /// It is read anew for that.
    disputed: Option<Dispute>,
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
    /// The floor that this page shows.
    floor: u64,
    vouched: Option<Vouched>,
}

/// A book that was not what its owner signed.
#[derive(Clone, Copy, Debug)]
struct Dispute {
    /// Who alone is heard on it, if anybody could be asked.
    asked: Option<NodeId>,
    /// How often he or another was asked since it was begun anew, and how often that was.
    rounds: u8,
    tries: u8,
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
    /// Some are shown until the book is read as far as it goes, since they stood in what was read before: they have the
    /// version 0 or are doubted.
    unconfirmed: bool,
}

impl Book {
    pub(super) fn new(epoch: Epoch) -> Self {
        Self { mark: Mark { epoch, ..Mark::default() }, ..Self::default() }
    }

    /// A book read up to its first row, the node's own.
    pub(super) fn known(epoch: Epoch, node: Arc<Node>, page: Bytes, vouched: Option<Vouched>) -> Self {
        let papers = Papers { node: Some(node), version: 1, page, floor: 0, vouched };
        let mut book = Self { mark: Mark { epoch, floor: 0, version: 1 }, papers, ..Self::default() };
        book.census.stand(1);
        book
    }

    pub(super) const fn mark(&self) -> Mark {
        self.mark
    }

    /// Whether it was read as far as its owner said it goes, and comes to what he signed.
    pub(super) fn is_whole(&self) -> bool {
        self.is_read() && (self.uncounted.is_some() || self.written == 0 || self.census.seal() == self.stands)
    }

    const fn is_read(&self) -> bool {
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

    fn put(&mut self, key: Key, row: Row, merged: &mut Merged) {
        if let Some(Claim::Node(node)) = row.claim {
            if let Some(rows) = &mut self.rows {
                rows.fresh.remove(self.papers.version);
            }
            self.papers.node = Some(node);
            let before = std::mem::replace(&mut self.papers.version, row.version);
            Some(before).filter(|before| *before > 0).into_iter().for_each(|before| self.census.fall(before));
            self.census.stand(row.version);
            merged.node = true;
            return;
        }
        let top = self.mark.version;
        let rows = self.rows.get_or_insert_default();
        let new = row.claim.clone();
        rows.shelf.stand(row.page, row.size);
        if row.counts() {
            self.census.stand(row.version);
        }
        let old = rows.by_key.insert(key.clone(), row);
        if let Some(old) = &old {
            rows.fall(old, top);
            if old.counts() {
                self.census.fall(old.version);
            }
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

    /// Raises the floor: tombstones up to it are forgotten.
    fn fold(&mut self, floor: u64) {
        self.mark.floor = self.mark.floor.max(floor);
        let Some(rows) = &mut self.rows else { return };
        let gone: Vec<_> = rows.by_key.extract_if(.., |_, row| row.version <= floor && row.claim.is_none()).collect();
        gone.iter().for_each(|(_, row)| rows.fall(row, self.mark.version));
    }

    /// What a reader that stands at `reader` is missing, pages beyond a gap of ours included, oldest first; but before all
    /// the one with the owner's voucher, if he begins, and then the one that shows him the floor, if he is below it.
    pub(super) fn sheets(&self, reader: Mark) -> Vec<Sheet<'_>> {
        let Mark { epoch, version, .. } = self.mark;
        let own = Some((self.papers.version, self.papers.floor, &self.papers.page)).filter(|own| !own.2.is_empty());
        // A floor is told of with the page that shows it, or a reader could do nothing about it: an owner that lets it fall
        // keeps nobody from reading on.
        let floor = self.rows.iter().map(|rows| rows.shelf.floor()).chain(own.map(|own| own.1)).max().unwrap_or(0);
        // Who reads from the start again on account of this floor goes on where he is.
        let below = reader.epoch != epoch || reader.version.max(reader.floor) < floor;
        // Who has read all and not folded yet is told by the last page once more.
        let start = match (below, reader.floor < floor) {
            (true, _) => 0,
            (false, true) => reader.version.min(version.saturating_sub(1)),
            (false, false) => reader.version,
        };
        let mut pages: Vec<_> = self.rows.iter().flat_map(|rows| rows.shelf.above(start)).collect();
        pages.extend(own.filter(|own| own.0 > start));
        pages.sort_unstable_by_key(|(to, ..)| *to);
        let mut since = start;
        let mut sheets = Vec::with_capacity(pages.len());
        for (to, _, bytes) in &pages {
            let to = *to;
            // Beyond a gap nothing is known of what lies between.
            let told = Told { since: if to <= version { since } else { u64::MAX }, floor };
            since = to;
            sheets.push(Sheet { told, bytes });
        }
        if let Some(shows) = pages.iter().rposition(|page| page.1 == floor).filter(|_| below && floor > 0) {
            sheets[..=shows].rotate_right(1);
        }
        // Without the key he can make nothing of the rest.
        let begins = reader.epoch != epoch || reader.version == 0;
        if let Some((.., bytes)) = own.filter(|own| begins && sheets.first().is_some_and(|s| s.bytes != own.2)) {
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
