//! Frames to and from bytes: versions and limits.
//!
//! A datagram or a stream is one version byte and then frames: `kind: u8, length: u16 (big endian), body`. A body is
//! MessagePack, behind a fixed head where that saves bytes on every copy. An unknown kind is skipped and counted; a
//! layout changes by a new kind. What travels on beyond its receiver (a registration, a node, a report) is a map with
//! names, kept as the bytes its owner wrote, so that fields this version does not know survive the relay.
//!
//! Every decoder here is bounded before it allocates: input by [`MAX_MESSAGE`], nesting by `MAX_DEPTH`, and a list
//! grows only by elements that are really there.

mod fields;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, de};

use super::{
    event::Generation,
    page::{Seal, Told},
    vivaldi::Place,
};
use crate::model::{Epoch, MemberState, NodeId};

/// The version of the protocol.
pub const VERSION: u8 = 1;
/// The most bytes of a datagram: what a fresh QUIC connection carries before it has discovered its MTU.
pub const MAX_PACKET: usize = 1150;
/// The most bytes of a stream.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// What one page aims at, so that a large book travels in pieces that other traffic can pass between.
pub(super) const PAGE_SIZE: usize = 16 * 1024;
/// The most bytes of one row: a registration with every field at its limit fits.
pub(super) const MAX_ROW: usize = 60 * 1024;
/// A frame's kind and length.
pub(super) const FRAME_HEAD: usize = 3;
/// Deeper than any value of ours, shallow enough for any stack.
const MAX_DEPTH: usize = 16;

/// One claim in a book, or that it was withdrawn (`body` is `None`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RowUpdate<'a> {
    pub(super) key: &'a str,
    pub(super) version: u64,
    #[serde(with = "fields::optional_bytes", borrow)]
    pub(super) body: Option<&'a [u8]>,
}

/// What an owner wrote into its book above version `from`, up to and with `to`, as far as it still stood when the page
/// was signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Page<'a> {
    pub(super) owner: NodeId,
    pub(super) epoch: Epoch,
    /// Tombstones up to this version are forgotten: who stands below it takes the whole book.
    pub(super) floor: u64,
    pub(super) from: u64,
    pub(super) to: u64,
    /// How far the book went when this was signed.
    pub(super) written: u64,
    /// What stood in it then.
    pub(super) stands: Seal,
    #[serde(deserialize_with = "list", borrow)]
    pub(super) rows: Vec<RowUpdate<'a>>,
}

/// What somebody says of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fact {
    pub(super) id: NodeId,
    pub(super) generation: Generation,
    pub(super) incarnation: u16,
    #[serde(with = "fields::state_number")]
    pub(super) state: MemberState,
    /// Who says so from his own evidence.
    pub(super) by: NodeId,
}

/// Where a reader stands in a book; only grows, in this order (law 4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Mark {
    pub(super) epoch: Epoch,
    pub(super) floor: u64,
    pub(super) version: u64,
}

/// A member and where its book stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Standing {
    pub(super) fact: Fact,
    pub(super) mark: Mark,
}

/// What one side knows of some buckets of nodes; the other answers with what is missing here, and asks for the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Digest {
    /// Names the sync, so that its parts can be counted.
    pub(super) token: u32,
    /// Which buckets this speaks of; empty for all.
    #[serde(deserialize_with = "list")]
    pub(super) buckets: Vec<u8>,
    #[serde(deserialize_with = "list")]
    pub(super) standings: Vec<Standing>,
}

/// Where the asker stands in books that the other has more of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Want {
    #[serde(deserialize_with = "list")]
    pub(super) marks: Vec<(NodeId, Mark)>,
}

/// One frame.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Frame<'a> {
    /// A SWIM packet; its body is `swim`'s.
    Swim(&'a [u8]),
    /// A rumour of rows: its number on this link, where the receiver's arc ends, the signed page.
    Rows { seq: u32, until: NodeId, page: &'a [u8] },
    /// A rumour of a member.
    Fact { seq: u32, until: NodeId, fact: Fact },
    /// Rumours that arrived, by number.
    Ack(Vec<u32>),
    /// Asks for a comparison of all: the hash of what the sender knows.
    Root(u64),
    /// The hashes are equal; nothing to do.
    Same(u64),
    /// The hashes differ: here is one for each bucket.
    Buckets(Vec<u64>),
    /// See [`Digest`].
    Digest(Digest),
    /// See [`Want`].
    Want(Want),
    /// A signed page by sync: for the receiver alone.
    Page { told: Told, page: &'a [u8] },
    /// What the sender knows of members; for the receiver alone.
    Facts(Vec<Fact>),
    /// This stream is one of so many that answer the digest called `token`.
    Part { token: u32, of: u16 },
    /// "I know you under this generation, and as Down or as older than it: renew above it."
    Renew(Generation),
    /// Where the sender stands in Vivaldi's space.
    Place(Place),
    /// "Are you there?"
    Knock,
    /// "I am."
    Here,
    /// "Is this member there? I cannot reach it."
    Ask(NodeId),
    /// "I have just heard from this member."
    Vouch(NodeId),
    /// Another frame, to be handed on to a member that its sender cannot reach.
    Pass { to: NodeId, frame: &'a [u8] },
    /// "This member's own certificate told me that its process of this generation is dead."
    Will { id: NodeId, generation: Generation },
    /// "How do you see this member, and when did you last hear from it?"
    Inquire(NodeId),
    /// The answer to that.
    Witness(Witness),
    /// See [`Readiness`].
    Ready(Readiness),
}

/// "I answer others by what I know." It heads the answer to a digest; without one it tells whoever asked before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Readiness {
    /// The digest's number, or 0.
    pub(super) token: u32,
    /// And that is all that the mesh knows: not only all that was to be found when it started.
    pub(super) guides: bool,
}

/// How its sender sees a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Witness {
    pub(super) about: NodeId,
    #[serde(with = "fields::state_number")]
    pub(super) state: MemberState,
    /// How many milliseconds ago it was heard, if ever.
    pub(super) heard: Option<u32>,
    pub(super) mark: Mark,
}

/// Why bytes are no frames of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    Version,
    Length,
    Body,
}

impl Malformed {
    pub(super) const fn why(self) -> &'static str {
        match self {
            Self::Version => "speaks another version of the protocol",
            Self::Length => "frame with a wrong length",
            Self::Body => "frame with a body that cannot be read",
        }
    }
}

/// The frames of a datagram or a stream, one by one; an unknown kind is `Ok(None)`. Ends after the first malformed one.
pub(super) fn frames(bytes: &[u8]) -> impl Iterator<Item = Result<Option<Frame<'_>>, Malformed>> {
    let mut rest = match bytes.split_first() {
        Some((&VERSION, rest)) if bytes.len() <= MAX_MESSAGE => Ok(rest),
        _ => Err(Malformed::Version),
    };
    std::iter::from_fn(move || match rest {
        Ok([]) => None,
        Ok(bytes) => {
            let split = split_frame(bytes);
            rest = split.as_ref().map_or(Ok(&[][..]), |(_, _, after)| Ok(*after));
            let frame = split.and_then(|(kind, body, _)| Frame::read(kind, body));
            if frame.is_err() {
                rest = Ok(&[]);
            }
            Some(frame)
        }
        Err(malformed) => {
            rest = Ok(&[]);
            Some(Err(malformed))
        }
    })
}

/// One frame that fills `bytes` to the end.
pub(super) fn frame(bytes: &[u8]) -> Result<Option<Frame<'_>>, Malformed> {
    let (kind, body, after) = split_frame(bytes)?;
    if after.is_empty() { Frame::read(kind, body) } else { Err(Malformed::Length) }
}

fn split_frame(bytes: &[u8]) -> Result<(u8, &[u8], &[u8]), Malformed> {
    let [kind, high, low, rest @ ..] = bytes else { return Err(Malformed::Length) };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let (body, after) = rest.split_at_checked(length).ok_or(Malformed::Length)?;
    Ok((*kind, body, after))
}

impl<'a> Frame<'a> {
    fn read(kind: u8, body: &'a [u8]) -> Result<Option<Self>, Malformed> {
        Ok(Some(match kind {
            kind::SWIM => Self::Swim(body),
            kind::ROWS => {
                let (seq, until, page) = rumor_head(body)?;
                Self::Rows { seq, until, page }
            }
            kind::FACT => {
                let (seq, until, fact) = rumor_head(body)?;
                Self::Fact { seq, until, fact: decode(fact)? }
            }
            kind::ACK => {
                let (seqs, rest) = body.as_chunks::<4>();
                if !rest.is_empty() {
                    return Err(Malformed::Length);
                }
                Self::Ack(seqs.iter().map(|seq| u32::from_be_bytes(*seq)).collect())
            }
            kind::ROOT => Self::Root(number(body)?),
            kind::SAME => Self::Same(number(body)?),
            kind::BUCKETS => {
                let (hashes, rest) = body.as_chunks::<8>();
                if !rest.is_empty() {
                    return Err(Malformed::Length);
                }
                Self::Buckets(hashes.iter().map(|hash| u64::from_be_bytes(*hash)).collect())
            }
            kind::DIGEST => Self::Digest(decode(body)?),
            kind::WANT => Self::Want(decode(body)?),
            kind::PAGE => {
                let (since, rest) = body.split_first_chunk().ok_or(Malformed::Length)?;
                let (floor, page) = rest.split_first_chunk().ok_or(Malformed::Length)?;
                let told = Told { since: u64::from_be_bytes(*since), floor: u64::from_be_bytes(*floor) };
                Self::Page { told, page }
            }
            kind::FACTS => Self::Facts(decode::<List<Fact>>(body)?.0),
            kind::PART => {
                let (token, of) = decode(body)?;
                Self::Part { token, of }
            }
            kind::RENEW => Self::Renew(Generation(number(body)?)),
            kind::PLACE => Self::Place(decode(body)?),
            kind::KNOCK => Self::Knock,
            kind::HERE => Self::Here,
            kind::ASK => Self::Ask(NodeId(number(body)?)),
            kind::VOUCH => Self::Vouch(NodeId(number(body)?)),
            kind::WILL => {
                let (id, generation) = body.split_first_chunk().ok_or(Malformed::Length)?;
                Self::Will { id: NodeId(u64::from_be_bytes(*id)), generation: Generation(number(generation)?) }
            }
            kind::INQUIRE => Self::Inquire(NodeId(number(body)?)),
            kind::WITNESS => Self::Witness(decode(body)?),
            kind::READY => {
                let (token, rest) = body.split_first_chunk().ok_or(Malformed::Length)?;
                let &[guides @ 0..=1] = rest else { return Err(Malformed::Body) };
                Self::Ready(Readiness { token: u32::from_be_bytes(*token), guides: guides == 1 })
            }
            kind::PASS => {
                let (to, frame) = body.split_first_chunk().ok_or(Malformed::Length)?;
                Self::Pass { to: NodeId(u64::from_be_bytes(*to)), frame }
            }
            _ => return Ok(None),
        }))
    }

    /// Appends this frame to `into`.
    pub(super) fn write(&self, into: &mut Vec<u8>) {
        let start = into.len();
        into.extend([self.kind(), 0, 0]);
        match self {
            Self::Swim(body) => into.extend_from_slice(body),
            Self::Rows { seq, until, page } => {
                write_rumor_head(*seq, *until, into);
                into.extend_from_slice(page);
            }
            Self::Page { told, page } => {
                into.extend(told.since.to_be_bytes());
                into.extend(told.floor.to_be_bytes());
                into.extend_from_slice(page);
            }
            Self::Fact { seq, until, fact } => {
                write_rumor_head(*seq, *until, into);
                encode_into(fact, into);
            }
            Self::Ack(seqs) => seqs.iter().for_each(|seq| into.extend(seq.to_be_bytes())),
            Self::Root(hash) | Self::Same(hash) => into.extend(hash.to_be_bytes()),
            Self::Buckets(hashes) => hashes.iter().for_each(|hash| into.extend(hash.to_be_bytes())),
            Self::Digest(digest) => encode_into(digest, into),
            Self::Want(want) => encode_into(want, into),
            Self::Facts(facts) => encode_into(facts, into),
            Self::Part { token, of } => encode_into(&(token, of), into),
            Self::Renew(generation) => into.extend(generation.0.to_be_bytes()),
            Self::Place(place) => encode_into(place, into),
            Self::Knock | Self::Here => {}
            Self::Ask(id) | Self::Vouch(id) | Self::Inquire(id) => into.extend(id.0.to_be_bytes()),
            Self::Will { id, generation } => {
                into.extend(id.0.to_be_bytes());
                into.extend(generation.0.to_be_bytes());
            }
            Self::Witness(witness) => encode_into(witness, into),
            Self::Ready(Readiness { token, guides }) => {
                into.extend(token.to_be_bytes());
                into.push(u8::from(*guides));
            }
            Self::Pass { to, frame } => {
                into.extend(to.0.to_be_bytes());
                into.extend_from_slice(frame);
            }
        }
        let length = u16::try_from(into.len() - start - FRAME_HEAD).unwrap_or(u16::MAX);
        debug_assert!(usize::from(length) == into.len() - start - FRAME_HEAD, "a frame outgrew its limit");
        into[start + 1..start + FRAME_HEAD].copy_from_slice(&length.to_be_bytes());
    }

    /// Whether answering it may cost a walk over all members.
    pub(super) const fn is_heavy(&self) -> bool {
        matches!(
            self,
            Self::Root(_)
                | Self::Same(_)
                | Self::Buckets(_)
                | Self::Digest(_)
                | Self::Want(_)
                | Self::Part { .. }
                | Self::Ready(_)
        )
    }

    /// Whether only who has just heard something says it. SWIM's own answers are its packets' to tell.
    pub(super) const fn is_answer(&self) -> bool {
        use Frame::{Ack, Buckets, Here, Part, Same, Vouch, Witness};
        matches!(self, Here | Ack(_) | Same(_) | Buckets(_) | Part { .. } | Vouch(_) | Witness(_))
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Swim(_) => kind::SWIM,
            Self::Rows { .. } => kind::ROWS,
            Self::Fact { .. } => kind::FACT,
            Self::Ack(_) => kind::ACK,
            Self::Root(_) => kind::ROOT,
            Self::Same(_) => kind::SAME,
            Self::Buckets(_) => kind::BUCKETS,
            Self::Digest(_) => kind::DIGEST,
            Self::Want(_) => kind::WANT,
            Self::Page { .. } => kind::PAGE,
            Self::Facts(_) => kind::FACTS,
            Self::Part { .. } => kind::PART,
            Self::Renew(_) => kind::RENEW,
            Self::Place(_) => kind::PLACE,
            Self::Knock => kind::KNOCK,
            Self::Here => kind::HERE,
            Self::Ask(_) => kind::ASK,
            Self::Vouch(_) => kind::VOUCH,
            Self::Pass { .. } => kind::PASS,
            Self::Will { .. } => kind::WILL,
            Self::Inquire(_) => kind::INQUIRE,
            Self::Witness(_) => kind::WITNESS,
            Self::Ready(_) => kind::READY,
        }
    }
}

mod kind {
    pub(super) const SWIM: u8 = 1;
    pub(super) const ROWS: u8 = 2;
    pub(super) const FACT: u8 = 3;
    pub(super) const ACK: u8 = 4;
    pub(super) const ROOT: u8 = 5;
    pub(super) const SAME: u8 = 6;
    pub(super) const BUCKETS: u8 = 7;
    pub(super) const DIGEST: u8 = 8;
    pub(super) const WANT: u8 = 9;
    pub(super) const PAGE: u8 = 10;
    pub(super) const FACTS: u8 = 11;
    pub(super) const PART: u8 = 12;
    pub(super) const RENEW: u8 = 13;
    pub(super) const PLACE: u8 = 14;
    pub(super) const KNOCK: u8 = 15;
    pub(super) const HERE: u8 = 16;
    pub(super) const ASK: u8 = 17;
    pub(super) const VOUCH: u8 = 18;
    pub(super) const PASS: u8 = 19;
    pub(super) const WILL: u8 = 20;
    pub(super) const INQUIRE: u8 = 21;
    pub(super) const WITNESS: u8 = 22;
    pub(super) const READY: u8 = 23;
}

fn number(body: &[u8]) -> Result<u64, Malformed> {
    body.try_into().map(u64::from_be_bytes).map_err(|_| Malformed::Length)
}

fn rumor_head(body: &[u8]) -> Result<(u32, NodeId, &[u8]), Malformed> {
    let (seq, rest) = body.split_first_chunk().ok_or(Malformed::Length)?;
    let (until, rest) = rest.split_first_chunk().ok_or(Malformed::Length)?;
    Ok((u32::from_be_bytes(*seq), NodeId(u64::from_be_bytes(*until)), rest))
}

fn write_rumor_head(seq: u32, until: NodeId, into: &mut Vec<u8>) {
    into.extend(seq.to_be_bytes());
    into.extend(until.0.to_be_bytes());
}

/// Reads one MessagePack value that must fill `bytes` to the end.
pub(super) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Malformed> {
    if bytes.len() > MAX_MESSAGE {
        return Err(Malformed::Length);
    }
    let mut from = rmp_serde::Deserializer::from_read_ref(bytes);
    from.set_max_depth(MAX_DEPTH);
    let value = T::deserialize(&mut from).map_err(|_| Malformed::Body)?;
    // rmp-serde does not say what it left unread; but where nothing is left there is no next marker.
    match de::IgnoredAny::deserialize(&mut from) {
        Err(rmp_serde::decode::Error::InvalidMarkerRead(end)) if end.kind() == std::io::ErrorKind::UnexpectedEof => {
            Ok(value)
        }
        _ => Err(Malformed::Length),
    }
}

/// Writes a value as arrays: for what ends at its receiver.
pub(super) fn encode_into(value: &impl Serialize, into: &mut Vec<u8>) {
    // Writing to memory cannot fail, and no type of ours refuses to be written.
    if rmp_serde::encode::write(into, value).is_err() {
        debug_assert!(false, "a value of ours could not be written");
    }
}

/// A value as arrays, by itself.
pub(super) fn encode(value: &impl Serialize) -> Bytes {
    let mut bytes = Vec::new();
    encode_into(value, &mut bytes);
    bytes.into()
}

/// A value as maps with names: for what travels on beyond its receiver.
pub(super) fn encode_named(value: &impl Serialize) -> Bytes {
    let bytes = rmp_serde::to_vec_named(value);
    debug_assert!(bytes.is_ok(), "a value of ours could not be written");
    bytes.unwrap_or_default().into()
}

/// A list that grows only by elements that are there, whatever length its head claims.
struct List<T>(Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        crate::model::list(from).map(Self)
    }
}

fn list<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    crate::model::list(from)
}

#[cfg(test)]
mod golden;
