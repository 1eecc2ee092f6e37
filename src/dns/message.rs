//! Bytes in, bytes out: parses a packet, has it answered, and says what the reply was made from.

use std::{net::IpAddr, sync::Arc};

use hickory_proto::{
    op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::tsig::TsigError},
    serialize::binary::{BinDecodable, BinDecoder},
};

use super::{
    answer::{Answer, answer},
    cookie::{self, Cookies, Shown},
    reply::{Draft, Page, respell},
    settings::Config,
};
use crate::agent::{Basis, View};

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

/// Who asks, how, and when.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// Where the packet says it comes from.
    pub address: IpAddr,
    /// How it came.
    pub transport: Transport,
    /// Seconds of unix time.
    pub now: u32,
}

/// What answers are made from. It knows no socket and no clock.
#[derive(Debug)]
pub struct Face {
    pub(super) view: Arc<View>,
    pub(super) config: Config,
    cookies: Cookies,
}

/// A reply with what there is to know about it.
#[derive(Debug)]
pub struct Written {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Whether the client has proved that it is where it says (RFC 7873).
    pub proven: bool,
    /// Whether the name lies outside of all zones, or what it is an alias of does, and others may be asked for the client.
    pub foreign: bool,
    /// For how long it holds, where it may be kept.
    pub(super) keep: Option<Keep>,
}

/// As long as the view has this beat, the reply is the same but for its id, its spelling and its serial number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Keep {
    pub(super) basis: Basis,
    pub(super) beat: u64,
    pub(super) turns: u16,
    pub(super) serial_at: Option<u16>,
    /// Whether there is no such name.
    pub(super) is_missing: bool,
}

impl Face {
    /// A face of `view`. Whoever knows `secret` can make cookies that prove any address.
    #[must_use]
    pub const fn new(view: Arc<View>, config: Config, secret: [u8; 16]) -> Self {
        Self { view, config, cookies: Cookies::new(secret) }
    }

    /// The reply to `packet`, or `None` where silence is due: to replies, and to what is too short to hold a header.
    #[must_use]
    pub fn respond(&self, packet: &[u8], client: Client) -> Option<Written> {
        let header = Header::read(&mut BinDecoder::new(packet)).ok()?;
        if header.metadata.message_type == MessageType::Response {
            return None;
        }
        let mut head = Metadata::response_from_request(&header.metadata);
        head.recursion_available = self.config.forwards_for(client.address);
        let fail = |code, edns: Option<Edns>| {
            let reserved = if edns.is_some() { OPT_SIZE } else { 0 };
            let draft = Draft { head, query: None, edns, size: MIN_SIZE, reserved };
            draft.write(&Answer::failure(code)).map(Written::bare)
        };
        if header.metadata.op_code != OpCode::Query {
            let edns = header.counts.queries == 1 && Message::from_vec(packet).is_ok_and(|asked| asked.edns.is_some());
            return fail(ResponseCode::NotImp, edns.then(|| self.edns(&Shown::Nothing, client).0));
        }
        // Checked before the rest is parsed, because the parser reserves room for as many questions as the header claims.
        if header.counts.queries != 1 {
            let cookie = || self.cookie_alone(packet, head, client).filter(|_| header.counts.queries == 0);
            return cookie().or_else(|| fail(ResponseCode::FormErr, None));
        }
        let Ok(message) = Message::from_vec(packet) else { return fail(ResponseCode::FormErr, None) };
        let asked = message.queries.first()?;
        let mut query = Query::query(asked.name.to_lowercase(), asked.query_type);
        query.set_query_class(asked.query_class);
        let mut written = self.answer(packet, &message, &query, head, client)?;
        respell(&mut written.bytes, &asked.name);
        Some(written)
    }

    /// What we know ourselves of a name within our zones, with all aliases within them.
    pub(super) fn known(&self, name: &Name, kind: RecordType) -> Option<Message> {
        self.config.zone_of(name)?;
        let found = answer(&self.view, &self.config, &Query::query(name.to_lowercase(), kind), usize::from(MIN_SIZE));
        let mut message = Message::query();
        message.metadata.response_code = found.code;
        (message.answers, message.authorities) = (found.answers, found.authorities);
        Some(message)
    }

    fn answer(
        &self,
        packet: &[u8],
        message: &Message,
        query: &Query,
        head: Metadata,
        client: Client,
    ) -> Option<Written> {
        let Client { address, transport, now } = client;
        let edns = message.edns.as_ref();
        let shown = edns.map_or(Shown::Nothing, |edns| self.cookies.read(edns, address, now));
        let (own, reserved) = edns.map(|_| self.edns(&shown, client)).unzip();
        let size = transport.size(edns.map_or(MIN_SIZE, Edns::max_payload));
        let draft = Draft { head, query: Some(query), edns: own, size, reserved: reserved.unwrap_or_default() };
        let refusal = match shown {
            _ if !self.config.allows(address) => ResponseCode::Refused,
            _ if edns.is_some_and(|edns| edns.version() > EDNS_VERSION) => ResponseCode::BADVERS,
            Shown::Malformed => ResponseCode::FormErr,
            _ if !is_signed(message) => return self.look_up(draft, query, shown, client),
            _ if is_signed_within(packet) => ResponseCode::FormErr,
            _ => return bad_key(message, draft),
        };
        draft.write(&Answer::failure(refusal)).map(Written::bare)
    }

    /// Who asks nothing but for a cookie gets one (RFC 7873 section 5.4).
    fn cookie_alone(&self, packet: &[u8], head: Metadata, client: Client) -> Option<Written> {
        let message = Message::from_vec(packet).ok()?;
        let shown = self.cookies.read(message.edns.as_ref()?, client.address, client.now);
        if !matches!(shown, Shown::Client(_) | Shown::Ours(_)) {
            return None;
        }
        let (edns, reserved) = self.edns(&shown, client);
        let draft = Draft { head, query: None, edns: Some(edns), size: MIN_SIZE, reserved };
        draft.write(&Answer::failure(ResponseCode::NoError)).map(Written::bare)
    }

    /// What goes with each reply to who speaks EDNS, with a cookie for who showed one, and its size.
    fn edns(&self, shown: &Shown, client: Client) -> (Edns, u16) {
        let (mut own, mut size) = (Edns::new(), OPT_SIZE);
        own.set_max_payload(OFF_HOST_SIZE);
        if let Shown::Client(half) | Shown::Ours(half) = shown {
            own.options_mut().insert(self.cookies.option(half, client.address, client.now));
            size += cookie::OPTION_SIZE;
        }
        (own, size)
    }

    fn look_up(&self, draft: Draft<'_>, query: &Query, shown: Shown, client: Client) -> Option<Written> {
        let most = usize::from(draft.size) / SMALLEST_RECORD + 1;
        let answer = answer(&self.view, &self.config, query, most);
        let page = draft.write(&answer)?;
        let foreign = answer.foreign && self.config.forwards_for(client.address);
        let proven = matches!(shown, Shown::Ours(_));
        let keep = answer.basis.filter(|_| shown == Shown::Nothing && !foreign).map(|(basis, beat)| Keep {
            basis,
            beat,
            turns: page.turns,
            serial_at: page.serial_at,
            is_missing: answer.code == ResponseCode::NXDomain,
        });
        Some(Written { bytes: page.bytes, proven, foreign, keep })
    }
}

fn is_signed(message: &Message) -> bool {
    message.additionals.iter().any(|record| matches!(record.data, RData::TSIG(_)))
}

/// Whether a signature is not the last record, as RFC 8945 section 5.1 wants it: then it is there without that one too.
fn is_signed_within(packet: &[u8]) -> bool {
    let mut packet = packet.to_vec();
    if let Some(count) = packet.get_mut(10..12).and_then(|count| count.first_chunk_mut()) {
        *count = u16::from_be_bytes(*count).saturating_sub(1).to_be_bytes();
    }
    Message::from_vec(&packet).is_ok_and(|message| is_signed(&message))
}

/// We share no key with anybody, and who signs wants to hear that rather than get what he cannot trust (RFC 8945 section
/// 5.2.1).
fn bad_key(message: &Message, draft: Draft<'_>) -> Option<Written> {
    let mut signature = message.additionals.last()?.clone();
    let RData::TSIG(said) = &mut signature.data else { return None };
    said.mac.clear();
    said.error = Some(TsigError::BadKey);
    let mut reply = Message::query();
    reply.metadata = draft.head;
    reply.metadata.response_code = ResponseCode::NotAuth;
    reply.queries.clone_from(&message.queries);
    // The signature is the last.
    reply.additionals.extend(draft.edns.as_ref().map(Record::from));
    reply.additionals.push(signature);
    Some(Written { bytes: reply.to_vec().ok()?, proven: false, foreign: false, keep: None })
}

impl Written {
    /// A reply that is the same for all views.
    fn bare(page: Page) -> Self {
        Self { bytes: page.bytes, proven: false, foreign: false, keep: None }
    }
}

impl Transport {
    /// The largest reply to a client that announced `offered` bytes (RFC 6891 section 6.2.5).
    pub(super) fn size(self, offered: u16) -> u16 {
        match self {
            Self::Tcp => u16::MAX,
            Self::Udp => offered.clamp(MIN_SIZE, OFF_HOST_SIZE),
            Self::Loopback => offered.clamp(MIN_SIZE, ON_HOST_SIZE),
        }
    }

    /// How a datagram from `address` came.
    #[must_use]
    pub fn of_datagram(address: IpAddr) -> Self {
        if address.to_canonical().is_loopback() { Self::Loopback } else { Self::Udp }
    }
}

/// RFC 1035 section 2.3.4: what a client takes that says nothing.
pub(super) const MIN_SIZE: u16 = 512;
const OFF_HOST_SIZE: u16 = 1232;
const ON_HOST_SIZE: u16 = 4096;
/// The only version there is (RFC 6891 section 6.1.3).
const EDNS_VERSION: u8 = 0;
/// An OPT record without options: root, type, class, TTL, length.
const OPT_SIZE: u16 = 11;
/// An owner pointer, type, class, TTL, length, and a TXT's empty string.
const SMALLEST_RECORD: usize = 13;
