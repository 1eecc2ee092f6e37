//! Looking whether a member is there: knocks, repeated until it answers or the last wait is over, by itself or through
//! others. What a look that failed is worth depends on why it was begun.

use std::time::Duration;

use super::{
    Mesh, Timer,
    event::{Cause, Done, Rejected},
    roster::Seen,
    wire::{Fact, Frame},
};
use crate::model::{MemberState, NodeId, Time};

/// One look at one member.
#[derive(Debug)]
pub(super) struct Look {
    began: Time,
    knocks: usize,
    purpose: Purpose,
    /// Who was asked to look as well, and when.
    asked: Vec<(NodeId, Time)>,
    /// Who said first, upon that, that he hears from the member.
    voucher: Option<NodeId>,
    /// Who holds the member for Down, while this node looks for itself.
    voices: Vec<NodeId>,
    /// Nobody at all answered the first time.
    repeated: bool,
}

/// Why a look was begun; of two reasons the later one here counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// Before this node agrees with those who suspect the member: a verdict needs evidence of one's own.
    Witness,
    /// Somebody holds it for Down, or a roll was called.
    Rumor,
    /// It is this node's to watch, or its connection broke: a failure is told to all.
    Watch,
    /// Somebody says that it has left.
    Goodbye,
    /// Somebody says that he has read its last will.
    Will,
}

impl Purpose {
    /// How long to wait after each knock where nothing speaks for longer.
    const fn waits(self) -> &'static [Duration] {
        match self {
            Self::Will => &HASTY_KNOCKS,
            Self::Goodbye => &PATIENT_KNOCKS,
            _ => &KNOCKS,
        }
    }
}

impl Look {
    /// One more is asked to look.
    pub(super) fn ask(&mut self, helper: NodeId, now: Time) {
        if !self.asked.iter().any(|(asked, _)| *asked == helper) {
            self.asked.push((helper, now));
        }
    }
}

impl Seen {
    /// How long an answer may take: the measured round trip and four times its variation (RFC 6298, section 2).
    fn patience(&self) -> Duration {
        let patience = self.distance.as_deref().and_then(|distance| distance.rtt.patience());
        patience.unwrap_or_default().min(MAX_PATIENCE)
    }

    /// How long a look takes that nobody answers.
    pub(super) fn look_takes(&self) -> Duration {
        KNOCKS.iter().map(|wait| self.patience().max(*wait)).sum()
    }
}

impl Mesh {
    /// Looks whether a member is there, unless that is being done for as good a reason.
    pub(super) fn look(&mut self, now: Time, id: NodeId, purpose: Purpose) {
        if !self.roster.get(id).is_some_and(|seen| seen.named && seen.state.is_shown()) {
            return;
        }
        if let Some(look) = self.looks.get_mut(&id)
            && (purpose != Purpose::Will || look.purpose == purpose)
        {
            look.purpose = look.purpose.max(purpose);
            return;
        }
        let look = Look {
            began: now,
            knocks: 0,
            purpose,
            asked: Vec::new(),
            voucher: None,
            voices: Vec::new(),
            repeated: false,
        };
        self.looks.insert(id, look);
        match purpose {
            // The other heirs' voices are on their way, and are cheaper than to dial whom they mourn.
            Purpose::Will => self.timers.set(now + HESITATION, Timer::Knock { id, began: now }),
            _ => self.knock(now, id, now),
        }
    }

    /// Somebody says that a member has left. Of those whom this node has to dial first only so many are looked for at a
    /// time: silence is evidence where a knock can have come there. Of the others it hears again when it compares notes.
    pub(super) fn look_for_a_leaver(&mut self, now: Time, id: NodeId) {
        let is_far = |id: &NodeId| self.roster.get(*id).is_some_and(|seen| !seen.linked);
        let far = self.looks.keys().filter(|id| is_far(id));
        if !is_far(&id) || far.take(MAX_FAR).count() < MAX_FAR {
            self.look(now, id, Purpose::Goodbye);
        }
    }

    /// Somebody holds a member for Down: reason enough to look, and a voice should nobody answer.
    pub(super) fn look_on_the_word_of(&mut self, now: Time, id: NodeId, by: NodeId) {
        self.look(now, id, Purpose::Rumor);
        if let Some(look) = self.looks.get_mut(&id)
            && look.voices.len() < super::suspicion::MAX_ACCUSERS
            && !look.voices.contains(&by)
        {
            look.voices.push(by);
        }
    }

    /// Whether a look at this member is under way.
    pub(super) fn looks_at(&self, id: NodeId) -> bool {
        self.looks.contains_key(&id)
    }

    /// One knock, or what follows from the silence after the last.
    pub(super) fn knock(&mut self, now: Time, id: NodeId, began: Time) {
        let Some(look) = self.looks.get_mut(&id).filter(|look| look.began == began) else { return };
        let Some(seen) = self.roster.get(id).filter(|seen| seen.state.is_shown() && seen.sign_of_life() <= began)
        else {
            return self.answered(now, id);
        };
        let Some(wait) = look.purpose.waits().get(look.knocks) else { return self.unanswered(now, id) };
        let wait = self.swim.doubt.stretch(seen.patience().max(*wait));
        look.knocks += 1;
        let asks = look.knocks > 1 && look.purpose != Purpose::Will;
        let accusation = (seen.state == MemberState::Suspect).then(|| seen.fact(id, self.id));
        self.send(id, &Frame::Knock);
        if let Some(accusation) = accusation {
            // The suspect is told over every channel, so that it can refute (Lifeguard's buddy system).
            self.send(id, &Frame::Facts(vec![accusation]));
        }
        if asks {
            self.ask_others(now, id);
        }
        self.timers.set(now + wait, Timer::Knock { id, began });
    }

    fn answered(&mut self, now: Time, id: NodeId) {
        self.looks.remove(&id);
        let Some(seen) = self.roster.get_mut(id) else { return };
        if let Some(suspicion) = &mut seen.suspicion {
            // It lives and has not refuted: it may not know yet what is said of it. The time to refute begins anew.
            suspicion.begin_anew(now);
            self.tell_the_suspect(id);
            self.await_verdict(now, id);
        }
    }

    fn unanswered(&mut self, now: Time, id: NodeId) {
        let Some(look) = self.looks.remove(&id) else { return };
        if let Some(seen) = self.roster.get_mut(id).filter(|seen| seen.missed < Some(seen.sign_of_life())) {
            seen.missed = Some(look.began);
        }
        let silent = |(helper, at): &&(NodeId, Time)| self.roster.get(*helper).is_none_or(|seen| seen.heard < *at);
        let missed = look.asked.iter().filter(silent).count();
        if missed * 2 > look.asked.len() {
            // Lifeguard's missed nack: helpers that do not even say that they were asked make this node doubt itself. Most
            // of them have to: one may have died with whom it was to look for.
            self.swim.doubt.raise();
        }
        if missed >= ALONE && missed == look.asked.len() && !look.repeated {
            // Nobody answers at all: before anybody is accused, the fault is looked for here.
            self.looks.insert(id, Look { began: now, knocks: 0, asked: Vec::new(), repeated: true, ..look });
            return self.knock(now, id, now);
        }
        match look.purpose {
            Purpose::Watch => self.accuse(now, id),
            // A roll call found it: nobody else has said so yet.
            Purpose::Rumor if look.voices.is_empty() => self.accuse(now, id),
            Purpose::Rumor => self.agree(now, id, &look.voices),
            Purpose::Witness => self.bear_witness(now, id),
            Purpose::Goodbye => self.believe_goodbye(now, id),
            Purpose::Will => self.believe_will(now, id),
        }
    }

    /// Somebody said that this member has left, and it does not answer any more.
    fn believe_goodbye(&mut self, now: Time, id: NodeId) {
        if let Some(seen) = self.roster.get(id) {
            let left = Fact { state: MemberState::Left, by: id, ..seen.fact(id, id) };
            self.judge(now, &left, Cause::Left);
        }
    }

    /// Has others look for a member that does not answer here: the link may be broken and not the member.
    fn ask_others(&mut self, now: Time, about: NodeId) {
        for _ in 0..ASKED {
            let helper = self.random_member(|seen| seen.state == MemberState::Alive && seen.linked);
            let Some(helper) = helper.filter(|helper| *helper != about) else { continue };
            let Some(look) = self.looks.get_mut(&about) else { return };
            look.ask(helper, now);
            self.send(helper, &Frame::Ask(about));
        }
    }

    /// A knock that nothing follows from.
    pub(super) fn knock_once(&mut self, id: NodeId) -> Result<Done, Rejected> {
        if self.roster.get(id).is_none() {
            return Err(Rejected::NotFound(format!("member {id}")));
        }
        self.send(id, &Frame::Knock);
        Ok(Done::Changed)
    }

    /// A peer wants to know whether this node is there. One that is taken for dead here hears of that too.
    pub(super) fn on_knock(&mut self, from: NodeId) {
        self.send(from, &Frame::Here);
        self.tell_the_gone(from);
    }

    /// A peer cannot reach a member and asks for help. That it was asked is said at once, so that the peer knows which of
    /// its own links work.
    pub(super) fn on_ask(&mut self, now: Time, from: NodeId, about: NodeId) {
        self.send(from, &Frame::Here);
        let Some(seen) = self.roster.get(about).filter(|seen| seen.state.is_shown() && about != from) else { return };
        if seen.answered > Time::ZERO && now.since(seen.answered) < JUST_HEARD {
            self.send(from, &Frame::Vouch(about));
        } else if self.asked.len() < MAX_ASKED {
            self.asked.entry(about).or_default().insert(from);
            self.send(about, &Frame::Knock);
        }
    }

    /// Somebody vouches for a member: counts from who was asked to, while the question is open.
    pub(super) fn on_vouch(&mut self, now: Time, from: NodeId, about: NodeId) {
        let asked = |look: &&mut Look| look.asked.iter().any(|(asked, _)| *asked == from);
        let Some(look) = self.looks.get_mut(&about).filter(asked) else {
            self.stats.vouches_unasked += 1;
            return;
        };
        if let Some(seen) = self.roster.get_mut(about) {
            // Of somebody who has left, and never answered here, a single voice would make one who is back.
            if look.purpose != Purpose::Goodbye
                || seen.answered > Time::ZERO
                || look.voucher.is_some_and(|by| by != from)
            {
                seen.vouched = now;
            } else {
                look.voucher = Some(from);
            }
        }
    }
}

/// Waits after each knock; a peer whose measured round trip is longer is given that. Four knocks at 25 % loss each way
/// miss a living node once in 27 times.
const KNOCKS: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(80), Duration::from_millis(110), Duration::from_millis(160)];
/// The same where a last will is to be believed: whoever lives answers a hasty knock, and who says otherwise needs others.
const HASTY_KNOCKS: [Duration; 3] = [Duration::from_millis(8), Duration::from_millis(12), Duration::from_millis(20)];
/// The same where one voice is enough to believe a goodbye: as long as nobody could be silent anyway and stay, a look and
/// the shortest suspicion. A shorter pause is no reason to be gone.
const PATIENT_KNOCKS: [Duration; 6] = {
    let ([first, second, third, fourth], more) = (KNOCKS, Duration::from_millis(300));
    [first, second, third, fourth, more, more]
};
/// How long the first heir's voice is alone at most, where the others live.
const HESITATION: Duration = Duration::from_millis(5);
/// A peer farther away than any on Earth does not hold up a look for longer than this.
const MAX_PATIENCE: Duration = Duration::from_secs(1);
/// Members that are not linked here, looked for at a time, up to which a goodbye is looked into: fewer than are dialled
/// within a second.
const MAX_FAR: usize = 32;
/// How many others are asked to look, at each knock after the first.
const ASKED: usize = 3;
/// Who answered so lately need not be asked: longer, and one vouches for who died meanwhile.
const JUST_HEARD: Duration = Duration::from_millis(100);
/// So many helpers, and not one of them answers: the fault may be here.
const ALONE: usize = 2;
/// Members looked for on behalf of others at a time.
const MAX_ASKED: usize = 256;
