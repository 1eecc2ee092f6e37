//! The owner's side of a book: rows are written, signed page by page, and folded when they are old.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use super::{Book, MOSTLY_IDLE, Merged, Row, Rows};
use crate::{
    mesh::{
        claim::{self, Claim, Key, ROW_HEAD, TooLarge},
        notary::Notary,
        wire::{Mark, PAGE_SIZE, Page, RowUpdate},
    },
    model::{NodeId, Time},
};

/// What was written and not signed yet, by version.
#[derive(Clone, Debug, Default)]
pub(super) struct Fresh {
    rows: BTreeMap<u64, (Key, Option<Bytes>)>,
    pub(super) bytes: usize,
}

impl Fresh {
    pub(super) fn insert(&mut self, version: u64, key: Key, body: Option<Bytes>) {
        self.bytes += body.as_ref().map_or(0, Bytes::len);
        self.rows.insert(version, (key, body));
    }

    pub(super) fn remove(&mut self, version: u64) {
        let body = self.rows.remove(&version).and_then(|(_, body)| body);
        self.bytes -= body.map_or(0, |body| body.len());
    }
}

impl Book {
    /// Writes one row of one's own book: a claim, or its withdrawal.
    pub(in crate::mesh) fn write(&mut self, now: Time, key: Key, claim: Option<Claim>) -> Result<Merged, TooLarge> {
        let body = claim.as_ref().map(Claim::encode);
        let size = claim::size(&key, body.as_ref())?;
        let outlived = self.rows.as_ref().and_then(|rows| rows.outlived(&key));
        if claim.is_some() && outlived.is_none() && !self.has_room(1, size) {
            return Err(TooLarge::Book);
        }
        self.mark.version += 1;
        let version = self.mark.version;
        self.rows.get_or_insert_default().fresh.insert(version, key.clone(), body);
        let (mut merged, outlived) = (Merged::default(), outlived.unwrap_or_default());
        self.put(key, Row { version, claim, size, page: 0, outlived, buried: now, doubted: false }, &mut merged);
        Ok(merged)
    }

    /// Signs what was written since the last time, in pages of about [`PAGE_SIZE`] bytes.
    pub(in crate::mesh) fn sign(&mut self, owner: NodeId, notary: &dyn Notary) -> Vec<Bytes> {
        let Mark { epoch, floor, version: written } = self.mark;
        let rows = self.rows.get_or_insert_default();
        let (mut from, stands) = (rows.signed, self.census.seal());
        let mut fresh = std::mem::take(&mut rows.fresh).rows.into_iter().peekable();
        let mut pages = Vec::new();
        while from < written {
            let mut group: Vec<(u64, Key, Option<Bytes>)> = Vec::new();
            let mut size = 0;
            // The node's own row stands alone: it is what others can check the rest with.
            while let Some((at, (key, body))) = fresh.next_if(|(_, (key, body))| {
                let cost = body.as_ref().map_or(0, Bytes::len);
                group.is_empty() || (size + cost <= PAGE_SIZE && ![&group[0].1, key].contains(&&Key::Node))
            }) {
                size += body.as_ref().map_or(0, Bytes::len) + ROW_HEAD;
                group.push((at, key, body));
            }
            // What was written and replaced in between leaves no trace; the last page says how far the book goes.
            let is_last = fresh.peek().is_none() && group.first().is_none_or(|(_, key, _)| *key != Key::Node);
            let to = group.last().filter(|_| !is_last).map_or(written, |(at, ..)| *at);
            let texts: Vec<String> = group.iter().map(|(_, key, _)| key.text()).collect();
            let updates = group.iter().zip(&texts);
            let updates = updates.map(|((at, _, body), key)| RowUpdate { key, version: *at, body: body.as_deref() });
            let bytes = Page { owner, epoch, floor, from, to, written, stands, rows: updates.collect() }.sign(notary);
            self.shelve(group.into_iter().map(|(_, key, _)| key), to, floor, &bytes);
            pages.push(bytes);
            from = to;
        }
        pages
    }

    /// Puts a page of one's own on the shelf, with the rows that stand in it.
    fn shelve(&mut self, keys: impl Iterator<Item = Key>, to: u64, floor: u64, bytes: &Bytes) {
        let rows = self.rows.get_or_insert_default();
        let before = std::mem::replace(&mut rows.signed, to);
        rows.shelf.put(to, floor, bytes);
        for key in keys {
            if key == Key::Node {
                (self.papers.floor, self.papers.page) = (floor, bytes.clone());
            } else if let Some(row) = rows.by_key.get_mut(&key) {
                row.page = to;
                rows.shelf.stand(to, row.size);
            }
        }
        rows.shelf.clear(before, to);
        if self.papers.version == to {
            rows.shelf.clear(to, u64::MAX);
        }
    }

    /// Folds one's own tombstones that are old enough. True if there were any: readers follow by a page that says so.
    /// One whose dead still lie in some page is written again, since whoever reads that page must be told of it.
    pub(in crate::mesh) fn bury(&mut self, now: Time) -> bool {
        let Some(rows) = &self.rows else { return false };
        let is_old = |row: &Row| row.claim.is_none() && row.page != 0 && now.since(row.buried) >= TOMBSTONE_KEPT;
        let old: Vec<(&Key, u64)> =
            rows.by_key.iter().filter(|(_, row)| is_old(row)).map(|(key, row)| (key, row.version)).collect();
        let Some(floor) = old.iter().map(|(_, version)| *version).max() else { return false };
        let haunted = old
            .iter()
            .filter(|(key, _)| rows.outlived(key).is_some_and(|pages| !pages.is_empty()))
            .map(|(key, _)| (*key).clone());
        for key in haunted.collect::<Vec<_>>() {
            // Without a body it is within every limit.
            let _ = self.write(now, key, None);
        }
        self.fold(floor);
        self.mark.version += 1;
        true
    }

    /// The claims of one's own that stand in pages with little else, once such pages take more than what stands: to be
    /// written again, so that the pages go.
    pub(in crate::mesh) fn scattered(&self) -> Vec<(Key, Claim)> {
        let Some(rows) = self.rows.as_ref().filter(|rows| rows.shelf.bytes > 2 * rows.shelf.standing + MOSTLY_IDLE)
        else {
            return Vec::new();
        };
        let sparse = rows.by_key.iter().filter(|(_, row)| rows.shelf.is_sparse(row.page));
        sparse.filter_map(|(key, row)| Some((key.clone(), row.claim.clone()?))).collect()
    }
}

impl Rows {
    /// The pages from which somebody could read that `key` stands; `None` of a row that never was.
    fn outlived(&self, key: &Key) -> Option<Vec<u64>> {
        let row = self.by_key.get(key)?;
        let pages = row.outlived.iter().copied().chain(row.claim.as_ref().map(|_| row.page));
        Some(pages.filter(|page| self.shelf.holds(*page)).collect())
    }
}

/// How long a tombstone is kept before it folds into the floor: longer than any sync can be late (law 6).
const TOMBSTONE_KEPT: Duration = Duration::from_secs(600);
