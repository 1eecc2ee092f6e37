//! The lean path: replies kept as bytes, for as long as the view has the beat they were made at.
//!
//! What is kept was written by [`Face::respond`]; what is sent differs from it in four places that do not depend on the
//! view: the id, two flags that are copied, the spelling of the question, the zone's serial number. Whatever is not a
//! plain question goes the long way.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    message::{Client, Face, Keep, MIN_SIZE, Transport},
    traffic::Traffic,
};

/// The replies that one thread keeps.
pub(super) struct Cache {
    kept: HashMap<u64, Entry, BuildHasherDefault<Hashed>>,
    /// How many the table may hold, which doubles as it grows.
    most: usize,
    /// How many bytes they take besides, those of names that exist and those of others.
    bytes: [usize; 2],
    /// How many they may take.
    room: usize,
    /// Which keys share a bucket is this process's secret.
    seed: u64,
    key: Vec<u8>,
}

/// What there is to know about a reply that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// See [`super::message::Written::proven`].
    pub(super) proven: bool,
    /// See [`super::message::Written::foreign`].
    pub(super) foreign: bool,
}

struct Entry {
    key: Box<[u8]>,
    keep: Keep,
    /// One for each order that the answers come in, by the question's id.
    replies: Box<[Option<Box<[u8]>>]>,
}

impl Cache {
    /// One that takes so many bytes at most.
    pub(super) fn new(seed: u64, budget: usize) -> Self {
        // At most half of it is the table's, which has a power of two of places, and leaves an eighth of them free.
        let places = 1 << (budget / 2 / PLACE).max(8).ilog2();
        let (most, room) = (places / 8 * 7, budget.saturating_sub(places * PLACE));
        Self { kept: HashMap::default(), most, bytes: [0; 2], room, seed, key: Vec::new() }
    }

    /// Appends the reply to `packet` to `room`; `None` where silence is due.
    pub(super) fn respond(
        &mut self,
        face: &Face,
        packet: &[u8],
        client: Client,
        traffic: &Traffic,
        room: &mut Vec<u8>,
    ) -> Option<Said> {
        let plain = face.config.allows(client.address)
            && fold(packet, client.transport, face.config.forwards_for(client.address), &mut self.key).is_some();
        let hash = xxh3_64_with_seed(&self.key, self.seed);
        if plain
            && let Some(entry) = self.kept.get(&hash)
            && *entry.key == *self.key
            && entry.keep.beat == face.view.beat(entry.keep.basis)
            && let Some(reply) = &entry.replies[usize::from(id(packet) % entry.keep.turns)]
        {
            let begin = room.len();
            room.extend_from_slice(reply);
            entry.keep.renew(&mut room[begin..], packet, self.key.len() - KEY_TAIL, face.view.serial());
            traffic.kept.add(1);
            return Some(Said { proven: false, foreign: false });
        }
        let written = face.respond(packet, client)?;
        room.extend_from_slice(&written.bytes);
        if let Some(keep) = written.keep.filter(|_| plain) {
            self.keep(hash, keep, id(packet), &written.bytes, traffic);
        }
        Some(Said { proven: written.proven, foreign: written.foreign })
    }

    /// How many bytes it takes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.kept.capacity() / 7 * 8 * PLACE + self.bytes.iter().sum::<usize>()
    }

    /// Where there is no room for more, all is forgotten and kept anew, which is cheaper than to know what was asked for
    /// last; names that do not exist, of which anybody can think of any number, go before they crowd out others.
    fn make_room(&mut self, traffic: &Traffic) {
        let [existing, missing] = self.bytes;
        let is_crowded = self.kept.len() == self.kept.capacity() && self.kept.len() > self.most / 2;
        if existing + missing > self.room || is_crowded {
            self.kept.clear();
            self.bytes = [0; 2];
            traffic.cleared.add(1);
        } else if missing > self.room / MISSING {
            self.kept.retain(|_, entry| !entry.keep.is_missing);
            self.bytes = [existing, 0];
        }
    }

    fn keep(&mut self, hash: u64, keep: Keep, id: u16, reply: &[u8], traffic: &Traffic) {
        self.make_room(traffic);
        let fresh = self.kept.get(&hash).is_none_or(|entry| entry.keep != keep || entry.key[..] != self.key[..]);
        if fresh {
            let entry = Entry { key: self.key.as_slice().into(), keep, replies: vec![None; keep.turns.into()].into() };
            self.bytes[usize::from(keep.is_missing)] += entry.size();
            if let Some(old) = self.kept.insert(hash, entry) {
                self.bytes[usize::from(old.keep.is_missing)] -= old.size();
            }
        }
        if let Some(entry) = self.kept.get_mut(&hash)
            && let Some(place) = entry.replies.get_mut(usize::from(id % keep.turns))
        {
            let bytes = &mut self.bytes[usize::from(keep.is_missing)];
            *bytes += taken(reply.len());
            *bytes -= place.replace(reply.into()).map_or(0, |old| taken(old.len()));
        }
    }
}

impl Entry {
    /// What it takes besides its place in the table.
    fn size(&self) -> usize {
        let replies = self.replies.iter().flatten().map(|reply| taken(reply.len())).sum::<usize>();
        taken(self.key.len()) + taken(size_of_val(&*self.replies)) + replies
    }
}

impl Keep {
    /// Makes a kept reply the reply to `packet`, whose question is as long as the kept one's.
    fn renew(&self, reply: &mut [u8], packet: &[u8], question: usize, serial: u32) {
        reply[..2].copy_from_slice(&packet[..2]);
        reply[2] = reply[2] & !RD | packet[2] & RD;
        reply[3] = reply[3] & !CD | packet[3] & CD;
        reply[HEADER..HEADER + question].copy_from_slice(&packet[HEADER..HEADER + question]);
        if let Some(at) = self.serial_at.map(usize::from) {
            reply[at..at + 4].copy_from_slice(&serial.to_be_bytes());
        }
    }
}

/// Makes `key` of a plain question: its name in lower case, type and class, and what else its reply depends on: the size
/// the client takes, and whether EDNS and recursion are spoken of. `None` for anything that is not plain: a query with
/// one question, and at most an OPT record of version 0 without options, and nothing after it.
fn fold(packet: &[u8], transport: Transport, recursion: bool, key: &mut Vec<u8>) -> Option<()> {
    key.clear();
    let (header, rest) = packet.split_first_chunk::<HEADER>()?;
    // QR and the opcode are zero, and so are the counts of answers and authorities.
    if header[2] & 0xF8 != 0 || header[4..10] != [0, 1, 0, 0, 0, 0] || header[10] != 0 || header[11] > 1 {
        return None;
    }
    let mut at = 0;
    loop {
        let length = usize::from(*rest.get(at)?);
        if length > MAX_LABEL || at + length >= MAX_NAME {
            return None;
        }
        let label = rest.get(at + 1..=at + length)?;
        key.push(length as u8);
        key.extend(label.iter().map(u8::to_ascii_lowercase));
        at += 1 + length;
        if length == 0 {
            break;
        }
    }
    let (kind, rest) = rest.get(at..)?.split_first_chunk::<4>()?;
    key.extend_from_slice(kind);
    let (offered, has_edns) = match (header[11], rest) {
        (0, []) => (MIN_SIZE, 0),
        // Root, type OPT, the size, the upper bits of a status, version 0, flags, no data.
        (1, [0, 0, 41, high, low, _, 0, _, _, 0, 0]) => (u16::from_be_bytes([*high, *low]), 1),
        _ => return None,
    };
    key.extend_from_slice(&transport.size(offered).to_be_bytes());
    key.push(has_edns | u8::from(recursion) << 1);
    Some(())
}

/// What an allocation takes at most: allocators know four sizes between a power of two and the next.
const fn taken(bytes: usize) -> usize {
    bytes + bytes / 4 + 16
}

fn id(packet: &[u8]) -> u16 {
    packet.first_chunk().map_or(0, |id| u16::from_be_bytes(*id))
}

/// Keys are hashes already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("the only keys are u64");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

const HEADER: usize = 12;
const RD: u8 = 0x01;
const CD: u8 = 0x10;
/// What stands in a key after the question.
const KEY_TAIL: usize = 3;
/// RFC 1035 section 2.3.4.
const MAX_LABEL: usize = 63;
const MAX_NAME: usize = 255;
/// What all threads together may take: 10,000 names, A and SRV of one instance each, take 6.6 MB in each of them.
pub(super) const BUDGET: usize = 32 << 20;
/// What a place in the table takes.
const PLACE: usize = size_of::<(u64, Entry)>() + 1;
/// The part of the room that names may take which do not exist.
const MISSING: usize = 8;
