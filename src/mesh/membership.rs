//! Who is here: what is heard about members is judged, and what follows from it is done.
//!
//! A member's word is evidence, not a verdict. Suspect needs somebody's failed probe. Down needs this node's own failed
//! look and the time in which the suspect could have refuted, or the member's own last will. A remote Down of somebody
//! seen alive is told to that somebody, who renews its generation: a healed partition so costs one renewal each and not
//! one flap. Only Left is final at once, and only from the mouth of the one who leaves.

use std::{collections::VecDeque, time::Duration};

use super::{
    DOWN_KEPT, Mesh, ROWS_KEPT, Timer,
    catalog::Book,
    claim::is_reachable,
    event::{Cause, Change, Event, Generation, Gone, Hello, MAX_MEMBERS, Output},
    invented::INVENTED_KEPT,
    look::Purpose,
    roster::{Seen, Verdict},
    rumor::Rumor,
    swim::{Effect, Head, Identity, Kind},
    wire::{Fact, Frame},
};
use crate::model::{MemberState, NodeId, Time};

impl Mesh {
    /// What this node says of itself.
    pub(super) fn fact_of_this(&self, state: MemberState) -> Fact {
        let (generation, incarnation) = (self.swim.generation(), self.swim.incarnation());
        Fact { id: self.id, generation, incarnation, state, by: self.id }
    }

    /// What this node says of a member, itself included.
    pub(super) fn fact_of(&self, id: NodeId) -> Option<Fact> {
        if id == self.id {
            return Some(self.fact_of_this(MemberState::Alive));
        }
        self.roster.get(id).map(|seen| seen.fact(id, self.id))
    }

    /// A connection stands, and the peer said who it is.
    pub(super) fn on_connected(&mut self, now: Time, hello: &Hello) {
        let peer = hello.id;
        if peer == self.id || hello.mesh != self.config.mesh || NodeId::of(&hello.mesh, &hello.node.name) != peer {
            return self.garbage(peer, "a hello in a name that is not its own");
        }
        // A clock far ahead of ours is not held against its owner, who speaks here for himself.
        let is_plausible = self.is_plausible(now, peer, peer, hello.generation.epoch());
        if !is_reachable(&hello.node) || !is_plausible {
            return self.garbage(peer, "a hello with an impossible address or generation");
        }
        if self.turns_away(peer) || self.bars(now, hello) {
            return;
        }
        let known = self.roster.get(peer).map(|seen| (seen.generation, seen.state));
        self.rumors.met(peer, hello.boot);
        let alive =
            Fact { id: peer, generation: hello.generation, incarnation: 0, state: MemberState::Alive, by: peer };
        if !self.judge(now, &alive, Cause::Hello) {
            return;
        }
        let Some(seen) = self.roster.get_mut(peer) else { return };
        (seen.linked, seen.heard, seen.answered) = (true, now, now);
        self.sync.met(peer);
        self.name(now, peer);
        self.note_return(now);
        self.note_company(now);
        self.correct(peer, hello.generation);
        self.catalog.entry(peer, || Book::new(hello.generation.epoch())).introduce(&hello.node);
        self.changes.insert(Change::Member(peer));
        if !self.ready || !self.sync.done {
            self.begin_with(now, peer);
        } else if known.is_none() {
            // Who joins begins by itself. Should it be ready, and know others, that is found out in the next round.
            self.sync.host = Some(peer);
        } else if known.is_some_and(|(_, state)| !state.is_shown()) {
            self.sync_with(peer);
        }
    }

    /// A connection is gone: a reason to look, no verdict.
    pub(super) fn on_disconnected(&mut self, now: Time, peer: NodeId, gone: Gone) {
        let Some(seen) = self.roster.get_mut(peer) else { return };
        seen.linked = false;
        let left = Fact { state: MemberState::Left, by: peer, ..seen.fact(peer, peer) };
        self.cut_off(now, peer);
        match gone {
            Gone::Left => self.believe_leaver(now, &left),
            Gone::Reset | Gone::Lost => self.look(now, peer, Purpose::Watch),
            Gone::Closed | Gone::Expelled => {}
        }
    }

    /// Judges what a peer says about a member.
    pub(super) fn hear(&mut self, now: Time, from: NodeId, fact: &Fact) {
        let forged = fact.state == MemberState::Suspect && fact.by != self.id && self.roster.get(fact.by).is_none();
        if !self.is_plausible(now, from, fact.id, fact.generation.epoch()) {
            self.implausible(from, fact.id);
        } else if forged || (from != fact.id && fact.id != self.id && self.is_leap(fact)) {
            self.stats.dropped_unauthorized += 1;
        } else if self.is_return_on_hearsay(from, fact) {
            self.hear_of_a_return(now, from, fact);
        } else if fact.state == MemberState::Suspect && fact.id != self.id && !self.may_accuse(fact) {
            // The accuser has said so too often: whether it is true, this node finds out by itself.
            self.stats.accusations_over_budget += 1;
            self.look(now, fact.id, Purpose::Rumor);
        } else if fact.id == self.id {
            self.hear_of_this(now, from, fact);
        } else if fact.state == MemberState::Left {
            self.hear_of_a_goodbye(now, from, fact);
        } else if fact.state == MemberState::Alive && from != fact.id && !self.may_lift(fact) {
            self.stats.dropped_unauthorized += 1;
        } else {
            self.judge(now, fact, Cause::Told);
        }
    }

    /// Whether a claim names more renewals than any process can have made, or more denials: nobody may use up another's
    /// generations.
    fn is_leap(&self, fact: &Fact) -> bool {
        let (known, denials) = match self.roster.get(fact.id) {
            Some(seen) => (seen.generation, seen.incarnation),
            None if fact.id == self.id => (self.swim.generation(), self.swim.incarnation()),
            None => return false,
        };
        let renewed = fact.generation.0.saturating_sub(known.0);
        let denied = if renewed == 0 { fact.incarnation.saturating_sub(denials) } else { fact.incarnation };
        fact.generation.epoch() == known.epoch() && (renewed > MAX_LEAP || u64::from(denied) > MAX_LEAP)
    }

    /// Takes a claim over where it wins. False where there is no room for one more member.
    pub(super) fn judge(&mut self, now: Time, fact: &Fact, cause: Cause) -> bool {
        let id = fact.id;
        if fact.state != MemberState::Left && self.is_barred(id) {
            return true;
        }
        let Some(seen) = self.roster.get_mut(id) else { return self.meet(now, fact, cause) };
        match seen.weigh(now, fact) {
            Verdict::Stale => {}
            Verdict::News { was } => self.changed(now, fact, was, cause),
            Verdict::Confirmed => self.confirm(now, id, fact.by),
            Verdict::Accused => {
                self.send(id, &Frame::Renew(fact.generation));
                self.look_on_the_word_of(now, id, fact.by);
            }
        }
        true
    }

    fn meet(&mut self, now: Time, fact: &Fact, cause: Cause) -> bool {
        if self.roster.len() >= MAX_MEMBERS && cause == Cause::Hello {
            self.forget_the_invented(now, Duration::ZERO);
        }
        self.make_room_for(fact.id);
        if self.roster.len() >= MAX_MEMBERS {
            self.stats.dropped_full += 1;
            return false;
        }
        if !fact.state.is_shown() {
            // Of the dead that one never met there is nothing to show, and remembering them would make them immortal.
            return true;
        }
        let mut seen = Seen::new(fact.generation, now);
        (seen.incarnation, seen.state) = (fact.incarnation, fact.state);
        self.roster.entry(fact.id, || seen);
        self.catalog.entry(fact.id, || Book::new(fact.generation.epoch()));
        self.changed(now, fact, None, cause);
        true
    }

    /// Does all that follows when a member is seen otherwise than before.
    pub(super) fn changed(&mut self, now: Time, fact: &Fact, was: Option<MemberState>, cause: Cause) {
        let Fact { id, generation, incarnation, state, by } = *fact;
        if self.roster.get(id).is_some_and(|seen| seen.named) {
            self.swim.learn(now, id, generation, incarnation, state);
            self.carry_out(now);
        }
        match state {
            MemberState::Alive => {
                if was == Some(MemberState::Down) {
                    self.note_comeback(now, id);
                }
                self.note_return(now);
                if was.is_some_and(|was| !was.is_shown()) {
                    self.revived.push(*fact);
                    self.sync_soon(now, id);
                }
            }
            MemberState::Suspect => self.begin_suspicion(now, id, by),
            MemberState::Down | MemberState::Left => self.bury(now, id, state),
        }
        let cause = match (was, state) {
            (Some(MemberState::Suspect), MemberState::Alive) => Cause::Refuted,
            (Some(MemberState::Down | MemberState::Left), MemberState::Alive) => Cause::Returned,
            _ => cause,
        };
        if was == Some(state) {
            self.changes.insert(Change::Member(id));
        } else {
            self.show(id);
            let Some(seen) = self.roster.get_mut(id) else { return };
            seen.cause = cause;
            if seen.named {
                self.outbox.push(Output::Event(Event::Member { node: id, was, now: state, cause }));
            }
        }
        if state == MemberState::Down {
            self.give_up(now, id);
        }
    }

    /// Compares notes with a peer in a moment, unless that is about to be done with another.
    pub(super) fn sync_soon(&mut self, now: Time, peer: NodeId) {
        if self.comparing.is_none() {
            self.comparing = Some(peer);
            let soon = SOON.mul_f64(self.chance());
            self.timers.set(now + soon, Timer::Compare);
        }
    }

    /// What is shown of a member, and of every service of its, may be different now.
    pub(super) fn show(&mut self, id: NodeId) {
        self.changes.insert(Change::Member(id));
        let names =
            self.catalog.get(id).into_iter().flat_map(Book::registrations).map(|r| Change::Service(r.name.clone()));
        self.changes.extend(names);
    }

    fn bury(&mut self, now: Time, id: NodeId, state: MemberState) {
        if let Some(seen) = self.roster.get_mut(id) {
            seen.linked = false;
            seen.flaps.iter_mut().filter(|_| state == MemberState::Left).for_each(|flaps| flaps.leave());
        }
        self.send_copies_of_the_gone(now, id);
        self.outbox.push(Output::Drop(id));
        if state == MemberState::Left {
            self.forget_rows(id);
            self.note_return(now);
        } else {
            self.stats.downs += 1;
            self.note_fall(now, id);
            self.expect_lapse(now, id);
        }
    }

    /// Drops the rows of a member for good; its mark stays, so that no older epoch can rise again.
    fn forget_rows(&mut self, id: NodeId) {
        let merged = self.catalog.get_mut(id).map(Book::clear);
        if let Some(merged) = merged {
            self.merged(id, merged);
        }
    }

    /// Somebody speaks of this node.
    pub(super) fn hear_of_this(&mut self, now: Time, from: NodeId, fact: &Fact) {
        let ours = self.fact_of_this(MemberState::Alive);
        if fact.state == MemberState::Alive && fact.generation <= ours.generation {
            return;
        }
        if fact.generation > ours.generation {
            self.rise(now, fact.generation);
        } else if fact.state == MemberState::Left && fact.generation.epoch() == self.epoch && !self.leaving {
            // No incarnation refutes that, nor a renewal: whoever believed it has dropped the rows of this life.
            self.rise(now, ours.generation);
        } else if (fact.generation, fact.incarnation) < (ours.generation, ours.incarnation) && !self.leaving {
            // Refuted already, and the word did not get there.
            self.send(from, &Frame::Facts(vec![ours]));
            if fact.by != from && fact.by != self.id && self.roster.get(fact.by).is_some() {
                // Whoever brought this may reach him who said it, where this node does not.
                let mut frame = Vec::new();
                Frame::Facts(vec![ours]).write(&mut frame);
                self.send(from, &Frame::Pass { to: fact.by, frame: &frame });
            }
        } else {
            self.deny(now, fact);
        }
    }

    /// Says that this node lives, to all: in a larger incarnation, which whoever has heard nothing of it for long, and is told
    /// by others, would not believe if it was much larger; or in a new generation.
    fn deny(&mut self, now: Time, fact: &Fact) {
        let can_refute = fact.state == MemberState::Suspect && fact.incarnation < LAST_INCARNATION;
        if !can_refute || self.is_leap(fact) {
            let is_done = self.leaving || self.renew(now);
            if is_done || !can_refute {
                return;
            }
        }
        self.swim.refute(now, fact.incarnation);
        self.carry_out(now);
        self.spread(now, &Rumor::Fact(self.fact_of_this(MemberState::Alive)), self.id);
    }

    /// A peer knows this node under a generation at which it is Down, or under a larger one.
    pub(super) fn on_renew(&mut self, now: Time, from: NodeId, generation: Generation) {
        if !self.is_plausible(now, from, self.id, generation.epoch()) {
            self.implausible(from, self.id);
        } else if generation > self.swim.generation() {
            self.rise(now, generation);
        } else if generation == self.swim.generation() && !self.leaving {
            self.renew(now);
        }
    }

    /// Takes the next generation. False if there were too many within the minute.
    fn renew(&mut self, now: Time) -> bool {
        let generation = self.swim.generation();
        if generation.next().epoch() != self.epoch {
            self.rise(now, generation);
        } else if ration(&mut self.renewals, now) {
            self.swim.renew(now);
            self.carry_out(now);
        } else {
            return false;
        }
        true
    }

    /// Others know more of this name than this process ever said: an earlier life with a clock ahead of ours, a second
    /// holder, or a liar. The book is written again under an epoch above all that.
    pub(super) fn rise(&mut self, now: Time, above: Generation) {
        let above = above.epoch().max(self.epoch);
        if !self.may_rise_above(now, above) {
            self.stats.dropped_unauthorized += 1;
            return;
        }
        if !ration(&mut self.rises, now) {
            if self.rises.len() == RENEWALS_A_MINUTE && self.sync.done {
                self.rises.push_back(now);
                self.outbox.push(Output::NameInUse);
            }
            return;
        }
        self.rewrite_book(now, above);
        self.swim.rise(now, Generation::first(self.epoch));
        self.carry_out(now);
        self.announce_anew(now);
    }

    /// A SWIM packet: its head is judged first, and foca sees it only if its sender is who it says and is a member.
    pub(super) fn on_swim(&mut self, now: Time, from: NodeId, packet: &[u8]) {
        let Some(head) = Head::read(packet).filter(|head| head.source.node == from && from != self.id) else {
            return self.garbage(from, "a SWIM packet in another's name");
        };
        let unknown = |id| self.roster.get(id).is_none() && id != self.id;
        if head.third.is_some_and(|third| unknown(third.node)) {
            self.stats.dropped_unauthorized += 1;
            return;
        }
        if !self.is_plausible(now, from, from, head.source.generation.epoch()) {
            return self.implausible(from, from);
        }
        if matches!(head.kind, Kind::Ack | Kind::IndirectAck) {
            self.on_answer(now, from);
        }
        let (generation, incarnation) = (head.source.generation, head.incarnation);
        let fact = Fact { id: from, generation, incarnation, state: MemberState::Alive, by: from };
        self.judge(now, &fact, Cause::Hello);
        if self.correct(from, generation) {
            return;
        }
        let Some(seen) = self.roster.get(from) else { return };
        if head.target.node == self.id && head.target.generation != self.swim.generation() {
            // It speaks to who this node was before it renewed.
            let ours = self.fact_of_this(MemberState::Alive);
            return self.send(from, &Frame::Facts(vec![ours]));
        }
        if seen.state == MemberState::Suspect && head.kind == Kind::Ping {
            // The suspect is told on the spot, so that it can refute within a round trip (Lifeguard's buddy system).
            let fact = seen.fact(from, self.id);
            self.send(from, &Frame::Facts(vec![fact]));
        }
        self.swim.receive(now, from, &head, packet);
        self.carry_out(now);
    }

    /// Tells a peer that speaks under `generation` what is known of it, where that is no use to it any more: true then.
    ///
    /// Only who is gone here has to renew. Who is known under a later generation has renewed already, most likely, and
    /// this is what it said before: to renew for that again and again would use up what a minute allows.
    fn correct(&mut self, peer: NodeId, generation: Generation) -> bool {
        let Some(seen) = self.roster.get(peer) else { return false };
        if !seen.state.is_shown() {
            self.tell_the_gone(peer);
        } else if seen.generation > generation {
            let known = seen.fact(peer, self.id);
            self.send(peer, &Frame::Facts(vec![known]));
        } else {
            return false;
        }
        true
    }

    /// Does what foca wants done.
    pub(super) fn carry_out(&mut self, now: Time) {
        for effect in self.swim.effects() {
            match effect {
                Effect::Send(to, packet) => self.send_swim(to, &packet),
                Effect::Later(after, alarm) => self.timers.set(now + after, Timer::Swim(alarm)),
                // A look takes half the time of the rest of the probe, and asks more others.
                Effect::Unanswered(id) => {
                    self.swim.unanswered = now;
                    self.look(now, id, Purpose::Watch);
                }
                Effect::Missed(Identity { node, generation }) => self.miss(now, node, generation),
                Effect::Answered(id, rtt) => rtt.into_iter().for_each(|rtt| self.on_rtt(id, rtt)),
                Effect::Renewed => {
                    self.stats.renewals += 1;
                    self.outbox.push(Output::Event(Event::Renewed));
                    self.changes.insert(Change::Member(self.id));
                    self.spread(now, &Rumor::Fact(self.fact_of_this(MemberState::Alive)), self.id);
                }
            }
        }
    }

    fn send_swim(&mut self, to: NodeId, packet: &[u8]) {
        if Head::read(packet).is_some_and(|head| head.kind == Kind::Ack) {
            let place = self.place;
            self.send(to, &Frame::Place(place));
        }
        if let Some(fact) =
            self.roster.get(to).filter(|seen| seen.state == MemberState::Suspect).map(|s| s.fact(to, self.id))
        {
            self.send(to, &Frame::Facts(vec![fact]));
        }
        self.send(to, &Frame::Swim(packet));
    }

    /// Forgets what is old enough: rows of the dead first, and later that they ever were.
    pub(super) fn forget(&mut self, now: Time) {
        let gone = |kept: Duration| move |seen: &Seen| !seen.state.is_shown() && now.since(seen.since) >= kept;
        let [rowless, forgotten] = [ROWS_KEPT, DOWN_KEPT].map(|kept| {
            let is_gone = gone(kept);
            self.roster.iter().filter(|(_, seen)| is_gone(seen)).map(|(id, _)| id).collect::<Vec<_>>()
        });
        for id in rowless {
            if self.catalog.get(id).is_some_and(|book| book.len() > 0) && !self.awaits_lapse(now, id) {
                self.forget_rows(id);
            }
        }
        for id in forgotten {
            self.changes.insert(Change::Member(id));
            if let Some(seen) = self.roster.remove(id) {
                self.swim.forget(now, id, seen.generation);
            }
            self.catalog.remove(id);
            self.rumors.forget(id);
        }
        self.asked.clear();
        self.wills.clear();
        self.forget_the_invented(now, INVENTED_KEPT);
        self.tire_of_holding(now);
        self.budgets.forget(now);
        self.gossip.clear();
        self.unvouched.retain(|id| self.roster.get(*id).is_some_and(|seen| seen.state.is_shown()));
        self.ask_the_notary(now);
        self.tidy_book(now);
    }
}

/// Whether one more is within what a minute allows; if so it is counted.
fn ration(spent: &mut VecDeque<Time>, now: Time) -> bool {
    spent.retain(|at| now.since(*at) < Duration::from_secs(60));
    let within = spent.len() < RENEWALS_A_MINUTE;
    if within {
        spent.push_back(now);
    }
    within
}

/// Two holders of one name must not chase each other for ever.
const RENEWALS_A_MINUTE: usize = 5;
/// Renewals of a process by which hearsay may be ahead of what is known: at the cap of five a minute, what a partition of
/// twelve minutes hides.
const MAX_LEAP: u64 = 64;
/// After a heal everybody compares notes with somebody from the other side, spread over this time.
const SOON: Duration = Duration::from_millis(150);
/// A generation's incarnations are 16 bits; it is renewed well before they run out.
const LAST_INCARNATION: u16 = u16::MAX - 1_000;
