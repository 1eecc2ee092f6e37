//! Bytes in, bytes out: parses a packet, has it answered, and fits the reply to the size the client can take.
//!
//! Sizing is our own. Additional records go first, then answers, and only a cut answer sets TC (RFC 2181 section 9).
//! What remains of a cut set is its beginning in a fixed order, so that a client that cannot ask again over TCP sees
//! the same servers each time; only complete sets are rotated. Owner names are written as pointers by hand where they
//! repeat the question or an SRV target, because `hickory-proto` stops to compress after 120 names.

use std::collections::BTreeMap;

use hickory_proto::{
    ProtoError,
    op::{Edns, Header, HeaderCounts, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record},
    serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder},
};

use super::{
    answer::{Answer, answer},
    zone::Config,
};
use crate::agent::View;

/// How a packet came, which limits the size of its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP: what the length prefix can say.
    Tcp,
    /// UDP from another host: what no path fragments (DNS flag day 2020).
    Udp,
    /// UDP on this host, where nothing is fragmented: what resolvers use to ask for.
    Loopback,
}

/// The reply to `packet`, or `None` where silence is due: to replies, and to what is too short to hold a header.
#[must_use]
pub fn respond(view: &View, config: &Config, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let header = Header::read(&mut BinDecoder::new(packet)).ok()?;
    if header.metadata.message_type == MessageType::Response {
        return None;
    }
    let head = Metadata::response_from_request(&header.metadata);
    let fail = |code, query| Reply { head, query, edns: None, size: MIN_SIZE }.write(&Answer::failure(code));
    if header.metadata.op_code != OpCode::Query {
        return fail(ResponseCode::NotImp, None);
    }
    // Checked before the rest is parsed, because the parser reserves room for as many questions as the header claims.
    if header.counts.queries != 1 {
        return fail(ResponseCode::FormErr, None);
    }
    let Ok(message) = Message::from_vec(packet) else { return fail(ResponseCode::FormErr, None) };
    let query = message.queries.first()?;
    let Some(edns) = &message.edns else {
        let size = transport.size(MIN_SIZE);
        return Reply { head, query: Some(query), edns: None, size }.answer(view, config);
    };
    let mut own = Edns::new();
    own.set_max_payload(OFF_HOST_SIZE);
    let reply = Reply { head, query: Some(query), edns: Some(own), size: transport.size(edns.max_payload()) };
    if edns.version() > EDNS_VERSION {
        return reply.write(&Answer::failure(ResponseCode::BADVERS));
    }
    reply.answer(view, config)
}

impl Transport {
    /// The largest reply to a client that announced `offered` bytes (RFC 6891 section 6.2.5).
    fn size(self, offered: u16) -> u16 {
        match self {
            Self::Tcp => u16::MAX,
            Self::Udp => offered.clamp(MIN_SIZE, OFF_HOST_SIZE),
            Self::Loopback => offered.clamp(MIN_SIZE, ON_HOST_SIZE),
        }
    }
}

/// A reply about to be written.
struct Reply<'a> {
    head: Metadata,
    query: Option<&'a Query>,
    edns: Option<Edns>,
    size: u16,
}

impl Reply<'_> {
    fn answer(self, view: &View, config: &Config) -> Option<Vec<u8>> {
        let query = self.query?;
        let most = usize::from(self.size) / SMALLEST_RECORD + 1;
        self.write(&answer(view, config, query, most))
    }

    /// All of `answer`, rotated, or as much of it as fits.
    fn write(mut self, answer: &Answer) -> Option<Vec<u8>> {
        self.head.response_code = answer.code;
        self.head.authoritative = answer.authoritative;
        // The id is the client's own randomness: rotating by it needs none of ours, and no state.
        let start = usize::from(self.head.id) % answer.equals.max(1);
        let written = match self.try_write(answer, start) {
            Ok((bytes, true)) => Ok(bytes),
            Ok((bytes, false)) if start == 0 => Ok(bytes),
            _ => self.try_write(answer, 0).map(|(bytes, _)| bytes),
        };
        written.inspect_err(|why| tracing::error!(%why, query = ?self.query, "an answer could not be encoded")).ok()
    }

    /// The reply with the answers rotated to begin at `start`, and whether all records fit.
    fn try_write(&self, answer: &Answer, start: usize) -> Result<(Vec<u8>, bool), ProtoError> {
        let mut bytes = Vec::with_capacity(usize::from(OFF_HOST_SIZE));
        let mut writer = Writer { encoder: BinEncoder::new(&mut bytes), places: BTreeMap::new() };
        let reserved = if self.edns.is_some() { OPT_SIZE } else { 0 };
        writer.encoder.set_max_size(self.size - reserved);
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
            Record::from(&edns).emit(&mut writer.encoder)?;
            counts.additionals += 1;
        }
        let mut metadata = self.head;
        metadata.truncation = !authorities.complete;
        place.replace(&mut writer.encoder, Header { metadata, counts })?;
        Ok((bytes, additionals.complete))
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
        if let RData::SRV(srv) = &record.data {
            // RFC 2782: a target is written in full, after priority, weight and port.
            self.place(&srv.target, data + 6);
        }
        Ok(())
    }
}

/// RFC 1035 section 2.3.4: what a client takes that says nothing.
const MIN_SIZE: u16 = 512;
const OFF_HOST_SIZE: u16 = 1232;
const ON_HOST_SIZE: u16 = 4096;
/// The only version there is (RFC 6891 section 6.1.3).
const EDNS_VERSION: u8 = 0;
/// An OPT record without options: root, type, class, TTL, length.
const OPT_SIZE: u16 = 11;
/// An owner pointer, type, class, TTL, length, and a TXT's empty string.
const SMALLEST_RECORD: usize = 13;
/// Pointers have 14 bits, and the mark that tells them from labels.
const POINTER: u16 = 0x4000;
const POINTER_MARK: u16 = 0xC000;
