//! What comes in, frame by frame: each goes to the part of the core that knows what it means.

use bytes::Bytes;

use super::{
    Mesh,
    event::Output,
    rumor::Rumor,
    wire::{self, Frame},
};
use crate::model::{NodeId, Time};

impl Mesh {
    /// Reads a datagram or a stream.
    pub(super) fn read(&mut self, now: Time, from: NodeId, bytes: &Bytes) {
        if self.roster.get(from).is_none() {
            // Law of the border: nothing is accepted before the hello. Who is honest may have been forgotten here.
            return self.drop_garbage(from, "a packet before its hello");
        }
        if self.is_barred(from) {
            // On its way when the link was closed.
            self.stats.dropped_unauthorized += 1;
            return;
        }
        if self.is_shut_out(from) {
            return self.drop_garbage(from, "more, while its connection is closed");
        }
        if let Some(seen) = self.roster.get_mut(from) {
            seen.heard = now;
        }
        let mut heavy = 0;
        self.revived.clear();
        for frame in wire::frames(bytes) {
            match frame {
                Ok(Some(frame)) => {
                    if frame.is_answer() {
                        self.on_answer(now, from);
                    }
                    heavy += usize::from(frame.is_heavy());
                    if heavy > MAX_HEAVY {
                        return self.garbage(from, "more questions at once than any peer has");
                    }
                    self.on_frame(now, from, frame, bytes);
                }
                Ok(None) => self.stats.skipped_unknown += 1,
                Err(malformed) => self.garbage(from, malformed.why()),
            }
        }
        // Who is back was heard by comparing notes, as after a partition: this side of it does not know yet.
        for fact in std::mem::take(&mut self.revived) {
            let page = self.catalog.get(fact.id).and_then(|book| book.proof_of(fact.generation));
            let rumor = page.map_or(Rumor::Fact(fact), |page| Rumor::Rows(page.clone()));
            self.spread(now, &rumor, self.id);
        }
    }

    /// A peer hears what it is told.
    pub(super) fn on_answer(&mut self, now: Time, from: NodeId) {
        if let Some(seen) = self.roster.get_mut(from) {
            seen.answered = now;
        }
        for asker in self.asked.remove(&from).unwrap_or_default() {
            self.send(asker, &Frame::Vouch(from));
        }
    }

    fn on_frame(&mut self, now: Time, from: NodeId, frame: Frame<'_>, bytes: &Bytes) {
        match frame {
            Frame::Swim(packet) => self.on_swim(now, from, packet),
            Frame::Rows { seq, until, page } => self.on_rows(now, from, seq, until, bytes.slice_ref(page)),
            Frame::Fact { seq, until, fact } => self.on_fact(now, from, seq, until, fact),
            Frame::Ack(seqs) => self.rumors.acked(now, from, &seqs),
            Frame::Root(root) => self.on_root(now, from, root),
            Frame::Same(root) => self.on_same(now, from, root),
            Frame::Buckets(hashes) => self.on_buckets(from, &hashes),
            Frame::Digest(digest) => self.on_digest(now, from, &digest),
            Frame::Want(want) => self.on_want(now, from, &want),
            Frame::Page { told, page } => drop(self.take_page(now, from, &bytes.slice_ref(page), Some(told))),
            Frame::Facts(facts) => facts.iter().for_each(|fact| self.hear(now, from, fact)),
            Frame::Part { token, of } => self.on_part(now, from, token, of),
            Frame::Renew(generation) => self.on_renew(now, from, generation),
            Frame::Place(place) => self.on_place(from, place),
            Frame::Knock => self.on_knock(from),
            Frame::Here => self.outbox.push(Output::Here(from)),
            Frame::Ask(about) => self.on_ask(now, from, about),
            Frame::Vouch(about) => self.on_vouch(now, from, about),
            Frame::Will { id, generation } => self.on_will(now, from, id, generation),
            Frame::Inquire(about) => self.on_inquire(now, from, about),
            Frame::Witness(witness) => self.on_witness(now, from, &witness),
            Frame::Ready(readiness) => self.on_ready(now, from, readiness),
            Frame::Pass { to, frame } => self.on_pass(now, from, to, frame),
        }
    }

    pub(super) fn send_acks(&mut self, to: NodeId) {
        for seqs in self.rumors.owed(to).chunks(ACKS) {
            self.send(to, &Frame::Ack(seqs.to_vec()));
        }
    }
}

/// Questions in one packet that each cost a walk over all members to answer.
const MAX_HEAVY: usize = 8;
/// Acknowledgements in one frame.
const ACKS: usize = 200;
