//! One book per owner: rows, versions, tombstones, and the mark that says how far it was read.
//!
//! Only its owner writes a book (law 3). A reader merges deltas: a higher epoch replaces the book, then the higher
//! version of each row wins, so that merging is commutative, associative and idempotent. A delta that leaves a gap is
//! shown but not counted (law 5): the mark waits until another delta fills it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::{
    claim::{Claim, Key},
    ring::Ring,
    wire::{self, DELTA_SIZE, Delta, MAX_ROW, Mark, RowUpdate},
};
use crate::model::{Epoch, HealthReport, InstanceId, MeshName, Node, NodeId, Registration, ServiceName, Time};

/// The most rows one owner may have; a registration with checks takes two.
pub(super) const MAX_ROWS: usize = 50_000;
/// The most bytes of rows one owner may have.
pub(super) const MAX_BOOK_BYTES: usize = 32 << 20;
/// The most pieces of a book read ahead of a gap; more are shown and not remembered: the next sync brings them again.
const MAX_AHEAD: usize = 32;
/// How long a tombstone is kept before it folds into the floor: longer than any sync can be late (law 6).
pub(super) const TOMBSTONE_KEPT: Duration = Duration::from_secs(600);

/// One claim with its number; no claim is a tombstone.
#[derive(Clone, Debug)]
struct Row {
    version: u64,
    claim: Option<Claim>,
    /// As the owner wrote it; relayed unchanged.
    body: Bytes,
    /// When a tombstone came to be.
    buried: Time,
    /// The reader fell below the floor and this row has not been confirmed since.
    doubted: bool,
}

/// All rows of one owner.
#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    mark: Mark,
    /// The owner's word on itself: by row, or provisionally (version 0) by its hello.
    node: Option<Arc<Node>>,
    node_version: u64,
    /// The reader fell below the floor and reads the book again from the start.
    reread: Option<Reread>,
    /// Everything but the node's own row and what hangs on it; most books of a large mesh hold no rows.
    rows: Option<Box<Rows>>,
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
    /// What is fresh is asked for with every change: that must not cost a walk over the book.
    by_version: BTreeSet<(u64, Key)>,
    /// Ranges `(from, to]` merged beyond a gap.
    ahead: Vec<(u64, u64)>,
    bytes: usize,
}

/// What a merge did.
#[derive(Debug, Default)]
pub(super) struct Merged {
    /// The services whose instances may be shown otherwise now.
    pub(super) services: Vec<ServiceName>,
    /// The owner's word on itself changed.
    pub(super) node: bool,
    /// How many rows were new.
    pub(super) rows: u64,
    /// How many rows were malformed or over a limit.
    pub(super) bad_rows: u64,
    /// Whether a gap was left.
    pub(super) gap: bool,
    /// Instances that came to be or went: what an index needs.
    pub(super) index: Vec<Indexed>,
}

/// An instance came under a service's name, or went from it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Indexed {
    In(ServiceName, InstanceId),
    Out(ServiceName, InstanceId),
}

impl Book {
    pub(super) fn new(epoch: Epoch) -> Self {
        Self { mark: Mark { epoch, ..Mark::default() }, ..Self::default() }
    }

    /// A book read up to its first row, the node's own.
    pub(super) fn known(epoch: Epoch, node: Arc<Node>) -> Self {
        let mark = Mark { epoch, floor: 0, version: 1 };
        Self { mark, node: Some(node), node_version: 1, ..Self::default() }
    }

    pub(super) const fn mark(&self) -> Mark {
        self.mark
    }

    pub(super) const fn node(&self) -> Option<&Arc<Node>> {
        self.node.as_ref()
    }

    /// Takes the owner's word from its hello until its row arrives.
    pub(super) fn introduce(&mut self, node: &Node) {
        if self.node_version == 0 {
            self.node = Some(Arc::new(node.clone()));
        }
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
        self.len() + rows <= MAX_ROWS && self.rows.as_ref().map_or(0, |rows| rows.bytes) + bytes <= MAX_BOOK_BYTES
    }

    /// Writes one row of one's own book: a claim, or its withdrawal.
    pub(super) fn write(&mut self, now: Time, key: Key, claim: Option<Claim>) -> Result<Merged, TooLarge> {
        let body = claim.as_ref().map(Claim::encode).unwrap_or_default();
        if body.len() > MAX_ROW {
            return Err(TooLarge::Row);
        }
        let is_new = self.rows.as_ref().is_none_or(|rows| !rows.by_key.contains_key(&key));
        if claim.is_some() && is_new && !self.has_room(1, body.len()) {
            return Err(TooLarge::Book);
        }
        self.mark.version += 1;
        let mut merged = Merged::default();
        let row = Row { version: self.mark.version, claim, body, buried: now, doubted: false };
        self.put(key, row, &mut merged);
        Ok(merged)
    }

    /// Merges what somebody says its owner wrote, in the mesh called `mesh`.
    pub(super) fn merge(&mut self, now: Time, mesh: &MeshName, delta: &Delta<'_>) -> Merged {
        let mut merged = Merged::default();
        if delta.epoch < self.mark.epoch {
            return merged;
        }
        if delta.epoch > self.mark.epoch {
            self.replace(delta.epoch, &mut merged);
        }
        let reads_up_to = self.reread.map_or(0, |reread| reread.floor);
        if delta.floor > self.mark.version && delta.floor > reads_up_to {
            self.doubt(delta.floor);
        }
        self.catch_up(delta.floor, &mut merged);
        // Below the floor to be reached only a delta that knows of it has a say: an older one would bring back the dead.
        let settled = match self.reread {
            Some(reread) if delta.floor >= reread.floor => 0,
            Some(reread) => reread.floor,
            None => self.mark.floor,
        };
        for update in delta.rows.iter().filter(|update| update.version > settled) {
            self.merge_row(now, mesh, delta.owner, update, &mut merged);
        }
        merged.gap = !self.advance(delta.from.max(settled), delta.to);
        if let Some(Reread { floor, read }) = self.reread.filter(|reread| reread.read >= reread.floor) {
            self.reread = None;
            self.mark.version = self.mark.version.max(read);
            self.fold(floor, &mut merged);
        }
        self.catch_up(delta.floor, &mut merged);
        merged
    }

    /// Follows the owner's floor as far as the book was read.
    fn catch_up(&mut self, floor: u64, merged: &mut Merged) {
        if self.reread.is_none() && floor > self.mark.floor && self.mark.version >= floor {
            self.fold(floor, merged);
        }
    }

    fn merge_row(&mut self, now: Time, mesh: &MeshName, owner: NodeId, update: &RowUpdate<'_>, merged: &mut Merged) {
        let Some(key) = Key::parse(update.key) else {
            merged.bad_rows += 1;
            return;
        };
        let known = match key {
            Key::Node => (self.node_version, false),
            _ => {
                self.rows.as_ref().and_then(|r| r.by_key.get(&key)).map_or((0, false), |row| (row.version, row.doubted))
            }
        };
        if update.version < known.0 || (update.version == known.0 && !known.1) {
            return;
        }
        let parsed = update.body.map(|body| Claim::parse(&key, body).filter(|_| body.len() <= MAX_ROW));
        let claim = match parsed {
            None if key != Key::Node => None,
            // A node speaks of itself, under its own name.
            Some(Some(Claim::Node(node))) if NodeId::of(mesh, &node.name) != owner => return merged.bad_rows += 1,
            Some(Some(claim)) => Some(claim),
            None | Some(None) => return merged.bad_rows += 1,
        };
        let full = self.rows.as_ref().is_some_and(|rows| {
            let grown = rows.bytes + update.body.map_or(0, <[u8]>::len);
            // Twice what a writer may have: tombstones and rows about to be replaced are not held against it.
            grown > 2 * MAX_BOOK_BYTES || (known.0 == 0 && rows.by_key.len() >= 2 * MAX_ROWS)
        });
        if full {
            merged.bad_rows += 1;
            return;
        }
        merged.rows += 1;
        let body = update.body.map(Bytes::copy_from_slice).unwrap_or_default();
        self.put(key, Row { version: update.version, claim, body, buried: now, doubted: false }, merged);
    }

    fn put(&mut self, key: Key, row: Row, merged: &mut Merged) {
        if let Some(Claim::Node(node)) = row.claim {
            self.node = Some(node);
            self.node_version = row.version;
            merged.node = true;
            return;
        }
        let rows = self.rows.get_or_insert_default();
        rows.bytes += row.body.len();
        let new = row.claim.clone();
        let fresh = (row.version, key.clone());
        let old = rows.by_key.insert(key.clone(), row);
        if let Some(old) = &old {
            rows.by_version.remove(&(old.version, key.clone()));
        }
        rows.by_version.insert(fresh);
        rows.bytes -= old.as_ref().map_or(0, |old| old.body.len());
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

    /// Forgets an older epoch's rows: the new book replaces them at once.
    fn replace(&mut self, epoch: Epoch, merged: &mut Merged) {
        merged.index.extend(self.registrations().map(|r| Indexed::Out(r.name.clone(), r.id.clone())));
        merged.services.extend(self.registrations().map(|r| r.name.clone()));
        let node = self.node.take();
        *self = Self { node, ..Self::new(epoch) };
    }

    /// Drops every row, as when the owner has left or was Down for long. The epoch stays, so that no older one rises
    /// again; should the owner come back within it, its book is read anew.
    pub(super) fn clear(&mut self) -> Merged {
        let mut merged = Merged::default();
        self.replace(self.mark.epoch, &mut merged);
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
            if let Some(rows) = &mut self.rows {
                rows.bytes -= row.body.len();
                rows.by_version.remove(&(row.version, key.clone()));
            }
            if row.claim.is_some() {
                self.note(&key, row.claim, None, merged);
            }
        }
    }

    /// Folds one's own tombstones that are old enough. Readers follow when they hear of the new floor.
    pub(super) fn bury(&mut self, now: Time) {
        let old = |row: &&Row| row.claim.is_none() && now.since(row.buried) >= TOMBSTONE_KEPT;
        let floor = self.rows.iter().flat_map(|rows| rows.by_key.values()).filter(old).map(|row| row.version).max();
        if let Some(floor) = floor.filter(|floor| *floor > self.mark.floor) {
            self.fold(floor, &mut Merged::default());
        }
    }

    /// What a reader that stands at `reader` is missing, rows beyond a gap of ours included, in pieces of about [`DELTA_SIZE`] bytes, oldest first.
    pub(super) fn deltas(&self, owner: NodeId, reader: Mark) -> Vec<Bytes> {
        let below = reader.epoch != self.mark.epoch || reader.version < self.mark.floor;
        let start = if below { 0 } else { reader.version };
        let mut fresh: Vec<(u64, String, &Row)> = Vec::new();
        let node_row = self.node_row();
        if let Some(row) = node_row.as_ref().filter(|row| row.version > start) {
            fresh.push((row.version, Key::Node.text(), row));
        }
        if let Some(rows) = &self.rows {
            let newer = rows.by_version.range((start.saturating_add(1), Key::Node)..);
            let rows = newer.filter_map(|(version, key)| Some((*version, key.text(), rows.by_key.get(key)?)));
            fresh.extend(rows);
        }
        fresh.sort_unstable_by_key(|(version, ..)| *version);
        self.pieces(owner, start, &fresh)
    }

    fn pieces(&self, owner: NodeId, start: u64, fresh: &[(u64, String, &Row)]) -> Vec<Bytes> {
        let Mark { epoch, floor, version } = self.mark;
        let mut pieces = Vec::new();
        let mut delta = Delta { owner, epoch, floor, from: start, to: start, rows: Vec::new() };
        let mut size = 0;
        for (row_version, key, row) in fresh {
            let cost = key.len() + row.body.len() + ROW_HEAD;
            if size + cost > DELTA_SIZE && !delta.rows.is_empty() {
                pieces.push(wire::encode(&delta));
                delta = Delta { from: delta.to, rows: Vec::new(), ..delta };
                size = 0;
            }
            size += cost;
            delta.to = version.min(*row_version);
            let body = row.claim.as_ref().map(|_| &*row.body);
            delta.rows.push(RowUpdate { key, version: *row_version, body });
        }
        delta.to = version;
        pieces.push(wire::encode(&delta));
        pieces
    }

    fn node_row(&self) -> Option<Row> {
        let claim = Claim::Node(Arc::clone(self.node.as_ref()?));
        let body = claim.encode();
        (self.node_version > 0).then(|| Row {
            version: self.node_version,
            claim: Some(claim),
            body,
            buried: Time::ZERO,
            doubted: false,
        })
    }
}

/// A row or a book is over its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TooLarge {
    Row,
    Book,
}

/// All books by owner.
pub(super) type Catalog = Ring<Book>;

/// What a row costs on the wire beside its key and its body.
const ROW_HEAD: usize = 16;
