//! foca, used for what it is best at: whom to probe when, direct and indirect pings, and refutation.
//!
//! What foca 2.0 would do and this mesh does otherwise, all of it here:
//! - It piggybacks updates, one packet at a time. Claims about members travel as rumours and by sync; foca's packets go
//!   out bare, and none that comes in carries a claim past `Mesh`'s judgement.
//! - Its clock declares a suspect Down, even one that has refuted meanwhile, and tells it so, upon which healthy members
//!   renew. Its `ChangeSuspectToDown` becomes [`Effect::Missed`]: our own evidence for our own clock.
//! - A ping is one datagram. Ours is repeated until it is answered: at 25 % loss that is worth more than all else.
//! - Its durations are frozen after the start. The timers are ours, and self-doubt stretches them.
//! - The sender in a header is whatever the packet says. Ours is whom the connection proved.

use std::{
    num::{NonZeroU8, NonZeroUsize},
    time::Duration,
};

use bytes::{Buf, BufMut};
use foca::{Foca, Header, Message, NoCustomBroadcast, Notification, Timer};
use rand_pcg::Pcg64Mcg;

use super::{event::Generation, suspicion::SelfDoubt, wire::MAX_PACKET};
use crate::model::{MemberState, NodeId, Time};

/// Who a node is to foca: its address is its id, and of two generations the larger one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) node: NodeId,
    pub(super) generation: Generation,
}

impl foca::Identity for Identity {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        Some(Self { generation: self.generation.next(), ..*self })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, other: &Self) -> bool {
        self.generation > other.generation
    }
}

/// What foca wants done.
#[derive(Debug)]
pub(super) enum Effect {
    /// Send this packet, bare.
    Send(NodeId, Vec<u8>),
    /// Call [`Swim::wake`] with this after so long.
    Later(Duration, Alarm),
    /// A ping of this node was not answered soon.
    Unanswered(NodeId),
    /// A probe of this node went unanswered, directly and through others.
    Missed(Identity),
    /// A probe of this node was answered; the round trip if it can be told.
    Answered(NodeId, Option<Duration>),
    /// This node took a new generation.
    Renewed,
}

/// A moment that foca or its probes wait for.
#[derive(Clone, Debug)]
pub(super) enum Alarm {
    Foca(Timer<Identity>),
    /// Repeat the ping of this probe, if it is still open.
    Repeat(u8, u8),
}

/// A ping that is out.
#[derive(Debug)]
struct Probe {
    target: NodeId,
    number: u8,
    packet: Vec<u8>,
    sent: Time,
    repeats: u8,
    answered: bool,
}

type Engine = Foca<Identity, Codec, Pcg64Mcg, NoCustomBroadcast>;

/// foca and the probe that is out.
pub(super) struct Swim {
    foca: Engine,
    incarnation: u16,
    probe: Option<Probe>,
    /// When the last was not answered in time.
    pub(super) unanswered: Time,
    pub(super) doubt: SelfDoubt,
    /// When a suspicion of this node last made it doubt itself.
    suspected: Time,
    effects: Vec<Effect>,
}

impl std::fmt::Debug for Swim {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Swim").field("identity", self.foca.identity()).finish_non_exhaustive()
    }
}

impl Swim {
    pub(super) fn new(node: NodeId, generation: Generation, rng: Pcg64Mcg) -> Self {
        let foca = Foca::new(Identity { node, generation }, config(), rng, Codec);
        Self {
            foca,
            incarnation: 0,
            probe: None,
            unanswered: Time::ZERO,
            doubt: SelfDoubt::default(),
            suspected: Time::ZERO,
            effects: Vec::new(),
        }
    }

    pub(super) fn generation(&self) -> Generation {
        self.foca.identity().generation
    }

    pub(super) const fn incarnation(&self) -> u16 {
        self.incarnation
    }

    /// What is to be done since the last call.
    pub(super) fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Takes in a packet whose head was judged before: its sender is a member foca knows under that generation.
    pub(super) fn receive(&mut self, now: Time, from: NodeId, head: &Head, packet: &[u8]) {
        if let (Kind::Ack, Some(probe)) = (head.kind, &mut self.probe)
            && (probe.target, probe.number, probe.answered) == (from, head.number, false)
        {
            probe.answered = true;
            // Karn's rule: the answer to a repeated ping does not tell which of them it answers.
            let rtt = (probe.repeats == 0).then(|| now - probe.sent);
            self.effects.push(Effect::Answered(from, rtt));
            self.doubt.relieve();
        }
        self.with(now, |foca, sink| foca.handle_data(packet, sink));
    }

    /// Tells foca how a member is seen.
    pub(super) fn learn(
        &mut self,
        now: Time,
        node: NodeId,
        generation: Generation,
        incarnation: u16,
        state: MemberState,
    ) {
        let state = match state {
            MemberState::Alive => foca::State::Alive,
            MemberState::Suspect => foca::State::Suspect,
            MemberState::Down | MemberState::Left => foca::State::Down,
        };
        let member = foca::Member::new(Identity { node, generation }, incarnation, state);
        self.with(now, |foca, sink| foca.apply_many(std::iter::once(member), false, sink));
    }

    /// Somebody suspects this node in its present generation and incarnation: answers with a larger one.
    pub(super) fn refute(&mut self, now: Time, incarnation: u16) {
        // No faster than its own probes relieve it: anybody can say that another suspects.
        if now.since(self.suspected) >= PROBE_PERIOD {
            self.suspected = now;
            self.doubt.raise();
        }
        let this = *self.foca.identity();
        self.incarnation = incarnation + 1;
        let suspected = foca::Member::new(this, incarnation, foca::State::Suspect);
        self.with(now, |foca, sink| foca.apply_many(std::iter::once(suspected), false, sink));
    }

    /// Forgets a member that has been Down for long.
    pub(super) fn forget(&mut self, now: Time, node: NodeId, generation: Generation) {
        let gone = Timer::RemoveDown(Identity { node, generation });
        self.with(now, |foca, sink| foca.handle_timer(gone, sink));
    }

    /// Takes the next generation, as after being taken for dead.
    pub(super) fn renew(&mut self, now: Time) {
        let this = *self.foca.identity();
        let down = foca::Member::down(this);
        self.with(now, |foca, sink| foca.apply_many(std::iter::once(down), false, sink));
    }

    /// Takes a generation above all that others know.
    pub(super) fn rise(&mut self, now: Time, generation: Generation) {
        let node = self.foca.identity().node;
        self.with(now, |foca, sink| foca.change_identity(Identity { node, generation }, sink));
        self.incarnation = 0;
        self.effects.push(Effect::Renewed);
    }

    /// A moment has come.
    pub(super) fn wake(&mut self, now: Time, alarm: Alarm) {
        match alarm {
            Alarm::Foca(timer) => {
                self.with(now, |foca, sink| foca.handle_timer(timer, sink));
            }
            Alarm::Repeat(number, repeat) => {
                let Some(probe) = self.probe.as_mut().filter(|probe| probe.number == number && !probe.answered) else {
                    return;
                };
                if repeat == 0 {
                    self.effects.push(Effect::Unanswered(probe.target));
                }
                probe.repeats += 1;
                self.effects.push(Effect::Send(probe.target, probe.packet.clone()));
                if usize::from(repeat) + 1 < REPEATS.len() {
                    let gap = REPEATS[usize::from(repeat) + 1] - REPEATS[usize::from(repeat)];
                    self.effects.push(Effect::Later(self.doubt.stretch(gap), Alarm::Repeat(number, repeat + 1)));
                }
            }
        }
    }

    /// Lets foca act, and turns what it wants into effects.
    fn with(&mut self, now: Time, act: impl FnOnce(&mut Engine, &mut Sink) -> Result<(), foca::Error>) {
        let mut sink = Sink { this: self.foca.identity().node, wants: Vec::new() };
        // foca's errors speak of packets it did not like and of timers that came too late: neither is ours to mend.
        let _ = act(&mut self.foca, &mut sink);
        for want in sink.wants {
            self.carry(now, want);
        }
    }

    fn carry(&mut self, now: Time, want: Want) {
        match want {
            Want::Send(to, packet) => {
                if let Some(head) = Head::read(&packet).filter(|head| head.kind == Kind::Ping) {
                    let (target, number) = (to, head.number);
                    let packet = packet.clone();
                    self.probe = Some(Probe { target, number, packet, sent: now, repeats: 0, answered: false });
                    self.effects.push(Effect::Later(self.doubt.stretch(REPEATS[0]), Alarm::Repeat(number, 0)));
                }
                self.effects.push(Effect::Send(to, packet));
            }
            Want::Timer(_, Timer::ChangeSuspectToDown { member_id, .. }) => {
                self.doubt.raise();
                self.effects.push(Effect::Missed(member_id));
            }
            Want::Timer(after, timer) => {
                let after = match timer {
                    Timer::ProbeRandomMember(_) | Timer::SendIndirectProbe { .. } => self.doubt.stretch(after),
                    _ => after,
                };
                self.effects.push(Effect::Later(after, Alarm::Foca(timer)));
            }
            Want::Renewed => {
                self.incarnation = 0;
                self.effects.push(Effect::Renewed);
            }
        }
    }
}

fn config() -> foca::Config {
    foca::Config {
        probe_period: PROBE_PERIOD,
        probe_rtt: PROBE_RTT,
        num_indirect_probes: const { NonZeroUsize::new(3).unwrap() },
        // Updates travel as rumours; foca keeps what it wants to piggyback for one packet, and that goes out bare.
        max_transmissions: const { NonZeroU8::new(1).unwrap() },
        suspect_to_down_after: Duration::from_secs(86_400),
        // `Mesh` says when: one timer for all instead of one each.
        remove_down_after: None,
        max_packet_size: const { NonZeroUsize::new(MAX_PACKET).unwrap() },
        notify_down_members: false,
        periodic_announce: None,
        periodic_announce_to_down_members: None,
        periodic_gossip: None,
    }
}

/// What foca asked for in one call.
struct Sink {
    this: NodeId,
    wants: Vec<Want>,
}

enum Want {
    Send(NodeId, Vec<u8>),
    Timer(Duration, Timer<Identity>),
    Renewed,
}

impl foca::Runtime<Identity> for Sink {
    fn notify(&mut self, notification: Notification<'_, Identity>) {
        if let Notification::Rejoin(_) = notification {
            self.wants.push(Want::Renewed);
        }
    }

    fn send_to(&mut self, to: Identity, packet: &[u8]) {
        let bare = Head::read(packet).map_or(0, |head| head.length);
        if to.node != self.this && bare > 0 {
            self.wants.push(Want::Send(to.node, packet[..bare].to_vec()));
        }
    }

    fn submit_after(&mut self, timer: Timer<Identity>, after: Duration) {
        self.wants.push(Want::Timer(after, timer));
    }
}

/// A SWIM packet's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ping,
    Ack,
    PingReq,
    IndirectPing,
    IndirectAck,
    ForwardedAck,
    Gossip,
}

const KINDS: [Kind; 7] =
    [Kind::Ping, Kind::Ack, Kind::PingReq, Kind::IndirectPing, Kind::IndirectAck, Kind::ForwardedAck, Kind::Gossip];

/// What a SWIM packet says, beside who sent it and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) source: Identity,
    pub(super) incarnation: u16,
    pub(super) target: Identity,
    pub(super) number: u8,
    /// Whom an indirect probe is about.
    pub(super) third: Option<Identity>,
    /// How many bytes it takes.
    length: usize,
}

/// The head as it is written: a MessagePack array.
type Written = (u8, u64, u64, u16, u64, u64, u8, Option<(u64, u64)>);

impl Head {
    /// Reads the head of a packet; what follows it is not ours.
    pub(super) fn read(packet: &[u8]) -> Option<Self> {
        let mut rest = packet;
        let mut from = rmp_serde::Deserializer::new(&mut rest);
        from.set_max_depth(4);
        let (kind, source, generation, incarnation, target, target_generation, number, third): Written =
            serde::Deserialize::deserialize(&mut from).ok()?;
        let identity = |node, generation| Identity { node: NodeId(node), generation: Generation(generation) };
        Some(Self {
            kind: *KINDS.get(usize::from(kind))?,
            source: identity(source, generation),
            incarnation,
            target: identity(target, target_generation),
            number,
            third: third.map(|(node, generation)| identity(node, generation)),
            length: packet.len() - rest.len(),
        })
    }
}

/// foca's packets on the wire.
struct Codec;

/// A packet that is not foca's.
#[derive(Debug, thiserror::Error)]
#[error("not a SWIM packet")]
struct NotSwim;

impl foca::Codec<Identity> for Codec {
    type Error = NotSwim;

    fn encode_header(&mut self, header: &Header<Identity>, buf: impl BufMut) -> Result<(), NotSwim> {
        let (kind, number, third) = match &header.message {
            Message::Ping(number) => (Kind::Ping, *number, None),
            Message::Ack(number) => (Kind::Ack, *number, None),
            Message::PingReq { target, probe_number } => (Kind::PingReq, *probe_number, Some(target)),
            Message::IndirectPing { origin, probe_number } => (Kind::IndirectPing, *probe_number, Some(origin)),
            Message::IndirectAck { target, probe_number } => (Kind::IndirectAck, *probe_number, Some(target)),
            Message::ForwardedAck { origin, probe_number } => (Kind::ForwardedAck, *probe_number, Some(origin)),
            Message::Gossip | Message::Announce | Message::Feed | Message::Broadcast | Message::TurnUndead => {
                (Kind::Gossip, 0, None)
            }
        };
        let written: Written = (
            kind as u8,
            header.src.node.0,
            header.src.generation.0,
            header.src_incarnation,
            header.dst.node.0,
            header.dst.generation.0,
            number,
            third.map(|third| (third.node.0, third.generation.0)),
        );
        rmp_serde::encode::write(&mut buf.writer(), &written).map_err(|_| NotSwim)
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Identity>, NotSwim> {
        let head = Head::read(buf.chunk()).ok_or(NotSwim)?;
        buf.advance(head.length);
        let (probe_number, third) = (head.number, head.third.ok_or(NotSwim));
        let message = match head.kind {
            Kind::Ping => Message::Ping(probe_number),
            Kind::Ack => Message::Ack(probe_number),
            Kind::PingReq => Message::PingReq { target: third?, probe_number },
            Kind::IndirectPing => Message::IndirectPing { origin: third?, probe_number },
            Kind::IndirectAck => Message::IndirectAck { target: third?, probe_number },
            Kind::ForwardedAck => Message::ForwardedAck { origin: third?, probe_number },
            Kind::Gossip => Message::Gossip,
        };
        Ok(Header { src: head.source, src_incarnation: head.incarnation, dst: head.target, message })
    }

    /// Nothing: claims about members travel as rumours and by sync.
    fn encode_member(&mut self, _: &foca::Member<Identity>, _: impl BufMut) -> Result<(), NotSwim> {
        Ok(())
    }

    fn decode_member(&mut self, _: impl Buf) -> Result<foca::Member<Identity>, NotSwim> {
        Err(NotSwim)
    }
}

/// From one probe to the next.
const PROBE_PERIOD: Duration = Duration::from_secs(1);
/// How long a direct ping, repeats included, may take before others are asked.
const PROBE_RTT: Duration = Duration::from_millis(400);
/// When an unanswered ping is repeated.
const REPEATS: [Duration; 4] =
    [Duration::from_millis(80), Duration::from_millis(200), Duration::from_millis(450), Duration::from_millis(700)];
