//! Why a member is seen as it is: all the evidence that this node has, and what others say when they are asked.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Mesh,
    catalog::Book,
    event::{Cause, Done, Generation, Rejected},
    wire::{Frame, Mark, Witness},
};
use crate::model::{Epoch, MemberState, NodeId, Time};

/// Why a member is seen as it is. Times are the core's; [`Mesh::wall_clock`] turns them into unix milliseconds.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Who.
    pub node: NodeId,
    /// How it is seen.
    pub state: MemberState,
    /// Since when.
    pub since: Time,
    /// Why.
    pub cause: Cause,
    /// Under which generation.
    pub generation: Generation,
    /// Whether a connection stands.
    pub linked: bool,
    /// When it was last heard from directly.
    pub heard: Option<Time>,
    /// When it last answered this node: when it last heard as well as spoke.
    pub answered: Option<Time>,
    /// When another member last vouched for it.
    pub vouched: Option<Time>,
    /// Whether this node is looking whether it is there.
    pub looking: bool,
    /// While it is Suspect: by whom, and until when it may refute.
    pub suspicion: Option<Suspected>,
    /// How often it came back lately, and what follows from that.
    pub flapping: Flapping,
    /// Since when its instances are kept although it is Down, because this node is the one cut off.
    pub held: Option<Time>,
    /// How many others were asked by the last [`Command::Inquire`](super::Command::Inquire).
    pub asked: usize,
    /// What those answered, and when, by node; a minute ago perhaps, where another one asked then.
    pub testimonies: Vec<Testimony>,
}

/// A suspicion that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspected {
    /// Since when.
    pub since: Time,
    /// When it becomes a verdict, unless it is refuted.
    pub until: Time,
    /// Who says so, the first one first; the others confirm it.
    pub accusers: Vec<NodeId>,
    /// When this node's own look failed; without one there is no verdict.
    pub witnessed: Option<Time>,
}

/// How often a member came back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flapping {
    /// Returns within the last ten minutes.
    pub returns: usize,
    /// Until when what it serves stays hidden, although it is back.
    pub hidden_until: Option<Time>,
}

/// How another member sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Testimony {
    /// Who says so.
    pub by: NodeId,
    /// When that was said.
    pub at: Time,
    /// How it sees the member.
    pub state: MemberState,
    /// When it last heard from the member, before `at`.
    pub heard_ago: Option<Duration>,
    /// The epoch of the book it holds.
    pub epoch: Epoch,
    /// How far it has read that.
    pub version: u64,
}

/// Answers to one question.
#[derive(Debug)]
pub(super) struct Inquiry {
    at: Time,
    answers: BTreeMap<NodeId, Option<Testimony>>,
}

impl Mesh {
    /// Why a member is seen as it is; `None` for this node itself and for whom it does not know.
    #[must_use]
    pub fn explain(&self, id: NodeId) -> Option<Explanation> {
        let seen = self.roster.get(id)?;
        let others = self.roster.shown().saturating_sub(1);
        let ever = |at: Time| (at > Time::ZERO).then_some(at);
        let answers: Vec<_> = self.inquiries.get(&id).into_iter().flat_map(|asked| asked.answers.values()).collect();
        Some(Explanation {
            node: id,
            state: seen.state,
            since: seen.since,
            cause: seen.cause,
            generation: seen.generation,
            linked: seen.linked,
            heard: ever(seen.heard),
            answered: ever(seen.answered),
            vouched: ever(seen.vouched),
            looking: self.looks_at(id),
            suspicion: seen.suspicion.as_deref().map(|suspicion| suspicion.report(others)),
            flapping: seen.flaps.as_deref().map(|flaps| flaps.report(self.now)).unwrap_or_default(),
            held: seen.held,
            asked: answers.len(),
            testimonies: answers.into_iter().filter_map(|answer| *answer).collect(),
        })
    }

    /// This node's doubt in itself, Lifeguard's local health: 0 is healthy, 8 the most.
    #[must_use]
    pub const fn doubt(&self) -> u8 {
        self.swim.doubt.points()
    }

    /// Asks the members linked with this node how they see another.
    pub(super) fn inquire(&mut self, now: Time, about: NodeId) -> Result<Done, Rejected> {
        if self.roster.get(about).is_none() {
            return Err(Rejected::NotFound(format!("member {about}")));
        }
        self.inquiries.retain(|_, inquiry| now.since(inquiry.at) < ANSWERS_KEPT);
        if self.inquiries.len() >= MAX_INQUIRIES && !self.inquiries.contains_key(&about) {
            return Err(Rejected::Full("16 open questions about members"));
        }
        let linked = self.roster.iter().filter(|(id, seen)| seen.linked && seen.state.is_shown() && *id != about);
        let asked: Vec<NodeId> = linked.map(|(id, _)| id).take(MAX_ANSWERS).collect();
        for peer in &asked {
            self.send(*peer, &Frame::Inquire(about));
        }
        let inquiry = self.inquiries.entry(about).or_insert_with(|| Inquiry { at: now, answers: BTreeMap::new() });
        inquiry.at = now;
        inquiry.answers.retain(|by, _| asked.contains(by));
        for peer in asked {
            inquiry.answers.entry(peer).or_default();
        }
        Ok(Done::Changed)
    }

    pub(super) fn on_inquire(&mut self, now: Time, from: NodeId, about: NodeId) {
        let mark = self.catalog.get(about).map(Book::mark).unwrap_or_default();
        let (state, heard) = match self.roster.get(about) {
            Some(seen) => (seen.state, (seen.heard > Time::ZERO).then(|| now.since(seen.heard))),
            None if about == self.id => (MemberState::Alive, Some(Duration::ZERO)),
            None => return,
        };
        let heard = heard.map(|ago| u32::try_from(ago.as_millis()).unwrap_or(u32::MAX));
        self.send(from, &Frame::Witness(Witness { about, state, heard, mark }));
    }

    /// An answer; counts from those who were asked.
    pub(super) fn on_witness(&mut self, now: Time, from: NodeId, witness: &Witness) {
        let Witness { about, state, heard, mark: Mark { epoch, version, .. } } = *witness;
        let answer = self.inquiries.get_mut(&about).and_then(|inquiry| inquiry.answers.get_mut(&from));
        if let Some(answer) = answer {
            let heard_ago = heard.map(|millis| Duration::from_millis(millis.into()));
            *answer = Some(Testimony { by: from, at: now, state, heard_ago, epoch, version });
        }
    }
}

/// Answers are old after this.
const ANSWERS_KEPT: Duration = Duration::from_secs(60);
/// Members asked about at a time.
const MAX_INQUIRIES: usize = 16;
/// Members asked: enough for a picture, and one packet each.
const MAX_ANSWERS: usize = 256;
