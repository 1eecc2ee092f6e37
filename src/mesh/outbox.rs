//! What goes out, packed: frames for one peer share a datagram until it is full; a frame too large for one is a stream.

use std::collections::{BTreeMap, VecDeque};

use super::{
    event::Output,
    stats::Stats,
    wire::{FRAME_HEAD, Frame, MAX_PACKET, VERSION},
};
use crate::model::NodeId;

/// Datagrams being filled, and what is ready to go.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    filling: BTreeMap<NodeId, Vec<u8>>,
    ready: VecDeque<Output>,
}

impl Outbox {
    /// Puts a frame on its way to a peer.
    pub(super) fn frame(&mut self, to: NodeId, frame: &Frame<'_>, stats: &mut Stats) {
        let packet = self.filling.entry(to).or_insert_with(|| vec![VERSION]);
        let start = packet.len();
        frame.write(packet);
        if packet.len() <= MAX_PACKET {
            return;
        }
        let mut rest = vec![VERSION];
        rest.extend_from_slice(&packet[start..]);
        packet.truncate(start);
        let full = std::mem::take(packet);
        self.filling.remove(&to);
        if full.len() > 1 {
            self.packet(to, full, stats);
        }
        if rest.len() > MAX_PACKET {
            self.message(to, rest, stats);
        } else {
            self.filling.insert(to, rest);
        }
    }

    /// Puts a whole stream on its way.
    pub(super) fn message(&mut self, to: NodeId, bytes: Vec<u8>, stats: &mut Stats) {
        stats.messages_sent += 1;
        stats.message_bytes_sent += bytes.len() as u64;
        self.ready.push_back(Output::Message(to, bytes.into()));
    }

    /// Puts anything else out.
    pub(super) fn push(&mut self, output: Output) {
        self.ready.push_back(output);
    }

    /// Takes the next thing that is ready.
    pub(super) fn pop(&mut self) -> Option<Output> {
        self.ready.pop_front()
    }

    /// The peers for which a datagram is being filled.
    pub(super) fn addressees(&self) -> Vec<NodeId> {
        self.filling.keys().copied().collect()
    }

    /// Closes every datagram being filled.
    pub(super) fn seal(&mut self, stats: &mut Stats) {
        for (to, packet) in std::mem::take(&mut self.filling) {
            self.packet(to, packet, stats);
        }
    }

    fn packet(&mut self, to: NodeId, bytes: Vec<u8>, stats: &mut Stats) {
        stats.packets_sent += 1;
        stats.packet_bytes_sent += bytes.len() as u64;
        self.ready.push_back(Output::Packet(to, bytes.into()));
    }
}

/// Frames that travel together, behind the version.
pub(super) fn packed(frames: &[Frame<'_>]) -> Vec<u8> {
    let mut packet = vec![VERSION];
    frames.iter().for_each(|frame| frame.write(&mut packet));
    packet
}

/// Frames gathered into streams of a bounded size.
#[derive(Debug, Default)]
pub(super) struct Parcel {
    bodies: Vec<Vec<u8>>,
    size: usize,
}

/// How an answer ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// It is whole: each stream says how many belong to it.
    Token(u32),
    /// There is more: here is the sender's hash, to compare and ask again.
    Again(u64),
}

impl Parcel {
    /// Adds frames that stay together in one stream.
    pub(super) fn frames(&mut self, frames: &[Frame<'_>]) {
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut bytes));
        self.size += bytes.len();
        match self.bodies.last_mut() {
            Some(body) if body.len() + bytes.len() <= STREAM_SIZE => body.extend(bytes),
            _ => self.bodies.push(bytes),
        }
    }

    /// How many bytes it holds.
    pub(super) const fn size(&self) -> usize {
        self.size
    }

    /// The streams; one, if there is nothing to say but how it ends.
    pub(super) fn streams(mut self, end: End) -> impl Iterator<Item = Vec<u8>> {
        if self.bodies.is_empty() {
            self.bodies.push(Vec::new());
        }
        let of = u16::try_from(self.bodies.len()).unwrap_or(u16::MAX);
        self.bodies.into_iter().enumerate().map(move |(at, body)| {
            let mut bytes = Vec::with_capacity(1 + body.len() + FRAME_HEAD + PART_SIZE);
            bytes.push(VERSION);
            bytes.extend(body);
            match end {
                End::Token(token) => Frame::Part { token, of }.write(&mut bytes),
                End::Again(root) if at + 1 == usize::from(of) => Frame::Root(root).write(&mut bytes),
                End::Again(_) => {}
            }
            bytes
        })
    }
}

/// What one stream of a sync aims at: room for a delta of the usual size and some more.
const STREAM_SIZE: usize = 32 * 1024;
/// An upper bound for the frame that ends a stream.
const PART_SIZE: usize = 16;
