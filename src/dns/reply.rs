//! An answer as bytes, fitted to the size that the client can take.
//!
//! Sizing is our own. Additional records go first, then answers, and only a cut answer sets TC (RFC 2181 section 9), and only where TCP has
//! room for more.
//! What remains of a cut set is its beginning in a fixed order, so that a client that cannot ask again over TCP sees
//! the same servers each time; only complete sets are rotated. Owner names are written as pointers by hand where they
//! repeat the question or an SRV target, because `hickory-proto` stops to compress after 120 names.
//!
//! The question stands in lower case while the reply is written, and as it was asked afterwards: so one reply, once
//! written, serves every spelling of its question.

use std::collections::BTreeMap;

use hickory_proto::{
    ProtoError,
    op::{Edns, Header, HeaderCounts, Metadata, Query},
    rr::{DNSClass, Name, RData, Record},
    serialize::binary::{BinEncodable, BinEncoder},
};

use super::answer::Answer;

/// A reply about to be written.
pub(super) struct Draft<'a> {
    pub(super) head: Metadata,
    /// In lower case.
    pub(super) query: Option<&'a Query>,
    pub(super) edns: Option<Edns>,
    /// The most bytes it may take.
    pub(super) size: u16,
    /// How many of them its OPT record takes.
    pub(super) reserved: u16,
}

/// A reply, written.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) bytes: Vec<u8>,
    /// In how many orders it comes: which one, the question's id says.
    pub(super) turns: u16,
    /// Where the zone's serial number stands, if it does.
    pub(super) serial_at: Option<u16>,
}

impl Draft<'_> {
    /// All of `answer`, rotated, or as much of it as fits.
    pub(super) fn write(mut self, answer: &Answer) -> Option<Page> {
        self.head.response_code = answer.code;
        self.head.authoritative = answer.authoritative;
        // The id is the client's own randomness: rotating by it needs none of ours, and no state.
        let turns = u16::try_from(answer.equals).unwrap_or(u16::MAX).max(1);
        let start = usize::from(self.head.id % turns);
        let written = match self.try_write(answer, start) {
            Ok((page, true)) => Ok(Page { turns, ..page }),
            Ok((page, false)) if start == 0 => Ok(page),
            _ => self.try_write(answer, 0).map(|(page, _)| page),
        };
        written.inspect_err(|why| tracing::error!(%why, query = ?self.query, "an answer could not be encoded")).ok()
    }

    /// The reply with the answers rotated to begin at `start`, and whether all records fit.
    fn try_write(&self, answer: &Answer, start: usize) -> Result<(Page, bool), ProtoError> {
        let mut bytes = Vec::with_capacity(usize::from(self.size.min(ROOM)));
        let mut writer = Writer { encoder: BinEncoder::new(&mut bytes), places: BTreeMap::new(), serial_at: None };
        writer.encoder.set_max_size(self.size - self.reserved);
        let place = writer.encoder.place::<Header>()?;
        let mut counts = HeaderCounts::default();
        if let Some(query) = self.query {
            writer.remember(&query.name);
            query.emit(&mut writer.encoder)?;
            counts.queries = 1;
        }
        let (equals, rest) = answer.answers.split_at(answer.equals.min(answer.answers.len()));
        let (tail, first) = equals.split_at(start.min(equals.len()));
        let answers = writer.section([first, tail, rest])?;
        let authorities = if answers.complete { writer.section([&answer.authorities[..]])? } else { Section::CUT };
        let additionals = if authorities.complete { writer.section([&answer.additionals[..]])? } else { Section::CUT };
        (counts.answers, counts.authorities, counts.additionals) =
            (answers.written, authorities.written, additionals.written);
        writer.encoder.set_max_size(self.size);
        if let Some(edns) = &self.edns {
            let mut edns = edns.clone();
            edns.set_rcode_high(self.head.response_code.high());
            edns.emit(&mut writer.encoder)?;
            counts.additionals += 1;
        }
        let mut metadata = self.head;
        // Cut short over TCP, there is nothing to ask again by: a resolver that reads TC there fails (unbound does).
        metadata.truncation = !authorities.complete && self.size < u16::MAX;
        let serial_at = writer.serial_at;
        place.replace(&mut writer.encoder, Header { metadata, counts })?;
        Ok((Page { bytes, turns: 1, serial_at }, additionals.complete))
    }
}

/// Puts the question's name back as it was asked (RFC 1035 section 4.1.1 has it copied; 0x20 relies on that).
pub(super) fn respell(reply: &mut [u8], asked: &Name) {
    let mut at = HEADER;
    for label in asked.iter() {
        if let Some(place) = reply.get_mut(at + 1..=at + label.len()) {
            place.copy_from_slice(label);
        }
        at += 1 + label.len();
    }
}

/// How much of a section was written.
struct Section {
    written: u16,
    complete: bool,
}

impl Section {
    /// Nothing, because what comes before did not fit.
    const CUT: Self = Self { written: 0, complete: false };
}

struct Writer<'b, 'a> {
    encoder: BinEncoder<'b>,
    /// Where names begin that later records may point to (RFC 1035 section 4.1.4).
    places: BTreeMap<&'a Name, u16>,
    serial_at: Option<u16>,
}

impl<'a> Writer<'_, 'a> {
    /// Notes that `name` will be written here, in full.
    fn remember(&mut self, name: &'a Name) {
        self.place(name, self.encoder.offset());
    }

    fn place(&mut self, name: &'a Name, at: usize) {
        if let Some(at) = u16::try_from(at).ok().filter(|at| *at < POINTER) {
            self.places.entry(name).or_insert(at);
        }
    }

    /// Writes the records that fit; the first that does not ends the section and leaves no byte behind.
    fn section<const N: usize>(&mut self, records: [&'a [Record]; N]) -> Result<Section, ProtoError> {
        let mut written = 0;
        for record in records.into_iter().flatten() {
            let begin = self.encoder.offset();
            match self.record(record) {
                Ok(()) => written += 1,
                Err(ProtoError::MaxBufferSizeExceeded(_)) => {
                    self.encoder.set_offset(begin);
                    self.encoder.trim();
                    self.serial_at = self.serial_at.filter(|at| usize::from(*at) < begin);
                    return Ok(Section { written, complete: false });
                }
                Err(why) => return Err(why),
            }
        }
        Ok(Section { written, complete: true })
    }

    fn record(&mut self, record: &'a Record) -> Result<(), ProtoError> {
        let encoder = &mut self.encoder;
        match self.places.get(&record.name) {
            Some(at) => encoder.emit_u16(POINTER_MARK | at)?,
            None => record.name.emit(encoder)?,
        }
        record.record_type().emit(encoder)?;
        DNSClass::IN.emit(encoder)?;
        encoder.emit_u32(record.ttl)?;
        let length = encoder.place::<u16>()?;
        let data = encoder.offset();
        record.data.emit(encoder)?;
        let bytes = u16::try_from(encoder.len_since_place(&length)).map_err(|_| ProtoError::from("rdata too long"))?;
        length.replace(encoder, bytes)?;
        match &record.data {
            // RFC 2782: a target is written in full, after priority, weight and port.
            RData::SRV(srv) => self.place(&srv.target, data + 6),
            RData::SOA(_) => self.serial_at = u16::try_from(self.encoder.offset() - SERIAL_FROM_END).ok(),
            _ => {}
        }
        Ok(())
    }
}

/// Where the question begins.
const HEADER: usize = 12;
/// What most replies need at most.
const ROOM: u16 = 1232;
/// Serial, refresh, retry, expire and minimum end a SOA record, four bytes each (RFC 1035 section 3.3.13).
const SERIAL_FROM_END: usize = 20;
/// Pointers have 14 bits, and the mark that tells them from labels.
const POINTER: u16 = 0x4000;
const POINTER_MARK: u16 = 0xC000;
