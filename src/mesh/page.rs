//! Pages: rows of one book as their owner signed them. The bytes are kept and handed on unchanged, so that a member may
//! withhold what another wrote, and cannot forge it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128};

use super::{
    claim::Key,
    notary::{BookKey, Notary, Signature},
    wire::{self, Malformed, Page},
};

/// A page with its signature, read and not yet believed.
#[derive(Debug)]
pub(super) struct Signed<'a> {
    pub(super) page: Page<'a>,
    bytes: &'a Bytes,
}

impl<'a> Signed<'a> {
    pub(super) fn read(bytes: &'a Bytes) -> Result<Self, Malformed> {
        let (_, body) = bytes.split_first_chunk::<SIGNATURE>().ok_or(Malformed::Length)?;
        let page: Page<'_> = wire::decode(body)?;
        let ordered = page.from < page.to && page.floor <= page.to && page.to <= page.written;
        let inside = page.rows.iter().all(|row| page.from < row.version && row.version <= page.to);
        // What a node says of itself stands alone, so that the rest can be checked with it.
        let is_plain =
            page.rows.iter().all(|row| row.key != Key::NODE || (page.rows.len() == 1 && row.version == page.to));
        if ordered && inside && is_plain { Ok(Self { page, bytes }) } else { Err(Malformed::Body) }
    }

    pub(super) fn is_signed_with(&self, key: &BookKey, notary: &dyn Notary) -> bool {
        let Some((signature, body)) = self.bytes.split_first_chunk::<SIGNATURE>() else { return false };
        notary.is_signed(key, &message(body), signature)
    }

    pub(super) const fn bytes(&self) -> &'a Bytes {
        self.bytes
    }
}

impl Page<'_> {
    /// What the owner says of itself, if that is what this page is for: it then holds nothing else.
    pub(super) fn node_row(&self) -> Option<&[u8]> {
        self.rows.iter().find(|row| row.key == Key::NODE).and_then(|row| row.body)
    }

    /// The page as it travels: the signature, then what is signed.
    pub(super) fn sign(&self, notary: &dyn Notary) -> Bytes {
        let body = wire::encode(self);
        let mut bytes = notary.sign(&message(&body)).to_vec();
        bytes.extend_from_slice(&body);
        bytes.into()
    }
}

/// What is signed, set apart from anything else that the key might ever sign.
fn message(body: &[u8]) -> Vec<u8> {
    [PURPOSE, body].concat()
}

/// A page and its place among others, as somebody sends it who was asked.
#[derive(Debug)]
pub(super) struct Sheet<'a> {
    pub(super) told: Told,
    pub(super) bytes: &'a Bytes,
}

/// What the sender of a page says of those he does not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// Nothing above this and below the page stands any more.
    pub(super) since: u64,
    /// The sender has forgotten tombstones up to this.
    pub(super) floor: u64,
}

impl Told {
    /// He says nothing of them.
    pub(super) const NOTHING: Self = Self { since: u64::MAX, floor: 0 };
}

/// What stands in a book: how many rows, and the sum of what their versions hash to, whatever their order. Rows of which a
/// reader is not told are missing in the number, and others in their place in the sum.
///
/// The sum is 512 bits wide (Bellare, Micciancio 1997, the additive hash; Lewi et al. 2019 for such lanes): who has all pages
/// that a book of the largest size ever had looks 2^40 times and more for others that come to the same (Wagner 2002).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    rows: u64,
    sum: [u64; 8],
}

/// A census as it is signed: 128 bits of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seal(u64, u64);

impl Census {
    /// The row of this version stands. Each version of a book is written once.
    pub(super) fn stand(&mut self, version: u64) {
        self.rows += 1;
        self.add(version, u64::wrapping_add);
    }

    /// It does not any more.
    pub(super) fn fall(&mut self, version: u64) {
        self.rows -= 1;
        self.add(version, u64::wrapping_sub);
    }

    pub(super) fn seal(&self) -> Seal {
        let mut bytes = [0; 72];
        for (place, number) in bytes.as_chunks_mut().0.iter_mut().zip([self.rows].into_iter().chain(self.sum)) {
            *place = number.to_le_bytes();
        }
        let hash = xxh3_128(&bytes);
        Seal(hash as u64, (hash >> 64) as u64)
    }

    fn add(&mut self, version: u64, add: fn(u64, u64) -> u64) {
        for (lane, seed) in self.sum.iter_mut().zip(1..) {
            *lane = add(*lane, xxh3_64_with_seed(&version.to_le_bytes(), seed));
        }
    }

    #[cfg(test)]
    pub(super) fn of(versions: &[u64]) -> Self {
        let mut census = Self::default();
        versions.iter().for_each(|version| census.stand(*version));
        census
    }
}

/// The pages of one book in which some row still stands, by the last version in them.
#[derive(Clone, Debug, Default)]
pub(super) struct Shelf {
    pages: BTreeMap<u64, Shelved>,
    /// Bytes of all pages, and of the rows in them that stand.
    pub(super) bytes: usize,
    pub(super) standing: usize,
}

#[derive(Clone, Debug)]
struct Shelved {
    bytes: Bytes,
    /// The floor it shows.
    floor: u64,
    rows: usize,
    standing: usize,
}

/// A page that keeps nothing else in memory, such as the stream it came in.
pub(super) fn alone(page: &Bytes) -> Bytes {
    Bytes::copy_from_slice(page)
}

impl Shelf {
    /// Puts a page there, as yet without a row that stands.
    pub(super) fn put(&mut self, to: u64, floor: u64, bytes: &Bytes) {
        self.pages.entry(to).or_insert_with(|| {
            self.bytes += bytes.len();
            Shelved { bytes: alone(bytes), floor, rows: 0, standing: 0 }
        });
    }

    /// A row of so many bytes stands in the page `to`.
    pub(super) fn stand(&mut self, to: u64, size: usize) {
        if let Some(page) = self.pages.get_mut(&to) {
            page.rows += 1;
            page.standing += size;
            self.standing += size;
        }
    }

    /// A row does not stand any more. Its page goes with its last row, unless it is the `top`: the last one read says how
    /// far the book goes.
    pub(super) fn fall(&mut self, to: u64, size: usize, top: u64) {
        if let Some(page) = self.pages.get_mut(&to) {
            page.rows -= 1;
            page.standing -= size;
            self.standing -= size;
        }
        self.clear(to, top);
    }

    /// Takes a page away in which no row stands, if it lies below the top.
    pub(super) fn clear(&mut self, to: u64, top: u64) {
        if to < top && self.pages.get(&to).is_some_and(|page| page.rows == 0) {
            self.bytes -= self.pages.remove(&to).map_or(0, |page| page.bytes.len());
        }
    }

    /// Clears all pages from `from` up to the top.
    pub(super) fn clear_range(&mut self, from: u64, top: u64) {
        let idle: Vec<u64> =
            self.pages.range(from..top).filter(|(_, page)| page.rows == 0).map(|(to, _)| *to).collect();
        idle.into_iter().for_each(|to| self.clear(to, top));
    }

    /// The highest floor that any of the pages shows.
    pub(super) fn floor(&self) -> u64 {
        self.pages.values().map(|page| page.floor).max().unwrap_or(0)
    }

    /// The pages that end above `start`, each with where it ends and the floor it shows.
    pub(super) fn above(&self, start: u64) -> impl Iterator<Item = (u64, u64, &Bytes)> {
        self.pages.range(start.saturating_add(1)..).map(|(to, page)| (*to, page.floor, &page.bytes))
    }

    /// Whether the page `to` is still there.
    pub(super) fn holds(&self, to: u64) -> bool {
        self.pages.contains_key(&to)
    }

    /// Whether the page `to` is mostly rows that do not stand any more.
    pub(super) fn is_sparse(&self, to: u64) -> bool {
        self.pages.get(&to).is_some_and(|page| page.standing * 2 < page.bytes.len())
    }
}

const SIGNATURE: usize = size_of::<Signature>();
const PURPOSE: &[u8] = b"hobnob page 1: ";
