//! Plain SWIM to compare with: foca 2.0 as it comes (memberlist's parameters for a local network, no Lifeguard), on the
//! same links as the simulator's.
//!
//! A node that is paused is blocked as in Lifeguard's experiment: what it would send waits, what it would hear waits, and
//! its timers run.

use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroU32,
    time::Duration,
};

use bytes::{Buf, BufMut};
use foca::{Foca, Header, Member, Message, NoCustomBroadcast, Notification, State, Timer};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// Who a node is to foca.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    node: u16,
    generation: u32,
}

impl foca::Identity for Identity {
    type Addr = u16;

    fn renew(&self) -> Option<Self> {
        Some(Self { generation: self.generation + 1, ..*self })
    }

    fn addr(&self) -> u16 {
        self.node
    }

    fn win_addr_conflict(&self, other: &Self) -> bool {
        self.generation > other.generation
    }
}

struct Node {
    foca: Foca<Identity, Codec, Pcg64Mcg, NoCustomBroadcast>,
    blocked: bool,
    /// What it has not sent, and what it has not heard.
    unsent: Vec<(u16, Vec<u8>)>,
    unheard: VecDeque<Vec<u8>>,
}

enum Event {
    Packet(u16, Vec<u8>),
    Timer(u16, Timer<Identity>),
}

/// Nodes and what is between them.
pub(crate) struct Plain {
    nodes: Vec<Node>,
    queue: BTreeMap<(Duration, u64), Event>,
    pushed: u64,
    now: Duration,
    rng: Pcg64Mcg,
    deaths: Vec<(usize, usize)>,
}

impl Plain {
    /// A mesh in which all have known each other for long.
    pub(crate) fn standing(seed: u64, nodes: usize) -> Self {
        let size = NonZeroU32::new(u32::try_from(nodes).unwrap()).unwrap();
        let identity = |n: usize| Identity { node: u16::try_from(n).unwrap(), generation: 0 };
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let mut node = |n| {
            let config = foca::Config::new_lan(size);
            let foca = Foca::new(identity(n), config, Pcg64Mcg::seed_from_u64(rng.random()), Codec);
            Node { foca, blocked: false, unsent: Vec::new(), unheard: VecDeque::new() }
        };
        let all = (0..nodes).map(&mut node).collect();
        let queue = BTreeMap::new();
        let mut plain = Self { nodes: all, queue, pushed: 0, now: Duration::ZERO, rng, deaths: Vec::new() };
        for n in 0..nodes {
            // Not all in step.
            plain.now = Duration::from_secs(1).mul_f64(n as f64 / nodes as f64);
            let others: Vec<_> = (0..nodes).filter(|other| *other != n).map(|n| Member::alive(identity(n))).collect();
            plain.with(n, |foca, sink| foca.apply_many(others.into_iter(), false, sink));
        }
        plain
    }

    /// Lets time pass.
    pub(crate) fn run_until(&mut self, until: Duration) {
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= until) {
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            match event {
                Event::Packet(to, packet) if self.nodes[usize::from(to)].blocked => {
                    self.nodes[usize::from(to)].unheard.push_back(packet);
                }
                Event::Packet(to, packet) => self.with(to.into(), |foca, sink| foca.handle_data(&packet, sink)),
                Event::Timer(n, timer) => self.with(n.into(), |foca, sink| foca.handle_timer(timer, sink)),
            }
        }
        self.now = until;
    }

    /// Blocks a node, or lets it go on.
    pub(crate) fn set_blocked(&mut self, n: usize, blocked: bool) {
        self.nodes[n].blocked = blocked;
        if !blocked {
            for (to, packet) in std::mem::take(&mut self.nodes[n].unsent) {
                self.send(to, packet);
            }
            for packet in std::mem::take(&mut self.nodes[n].unheard) {
                self.with(n, |foca, sink| foca.handle_data(&packet, sink));
            }
        }
    }

    /// Who took whom for dead since the last call.
    pub(crate) fn take_deaths(&mut self) -> Vec<(usize, usize)> {
        std::mem::take(&mut self.deaths)
    }

    fn push(&mut self, after: Duration, event: Event) {
        self.pushed += 1;
        self.queue.insert((self.now + after, self.pushed), event);
    }

    fn send(&mut self, to: u16, packet: Vec<u8>) {
        let takes = Duration::from_micros(250 + self.rng.random_range(0..50));
        self.push(takes, Event::Packet(to, packet));
    }

    /// Lets foca act, and does what it wants. Its errors are about packets that crossed a change.
    fn with(&mut self, n: usize, act: impl FnOnce(&mut Engine, &mut Sink) -> Result<(), foca::Error>) {
        let mut sink = Sink::default();
        let _ = act(&mut self.nodes[n].foca, &mut sink);
        for (to, packet) in sink.sent {
            if self.nodes[n].blocked {
                self.nodes[n].unsent.push((to, packet));
            } else {
                self.send(to, packet);
            }
        }
        let number = u16::try_from(n).unwrap();
        sink.timers.into_iter().for_each(|(after, timer)| self.push(after, Event::Timer(number, timer)));
        self.deaths.extend(sink.deaths.into_iter().map(|dead| (n, usize::from(dead))));
    }
}

type Engine = Foca<Identity, Codec, Pcg64Mcg, NoCustomBroadcast>;

/// What foca wants done.
#[derive(Default)]
struct Sink {
    sent: Vec<(u16, Vec<u8>)>,
    timers: Vec<(Duration, Timer<Identity>)>,
    deaths: Vec<u16>,
}

impl foca::Runtime<Identity> for Sink {
    fn notify(&mut self, notification: Notification<'_, Identity>) {
        if let Notification::MemberDown(identity) = notification {
            self.deaths.push(identity.node);
        }
    }

    fn send_to(&mut self, to: Identity, packet: &[u8]) {
        self.sent.push((to.node, packet.to_vec()));
    }

    fn submit_after(&mut self, timer: Timer<Identity>, after: Duration) {
        self.timers.push((after, timer));
    }
}

/// foca's packets, in as few bytes as it takes.
struct Codec;

/// It never comes to this: only what was written here is read here.
#[derive(Debug, thiserror::Error)]
#[error("not a packet of this bench")]
struct Foreign;

fn put(buf: &mut impl BufMut, identity: Identity) {
    buf.put_u16(identity.node);
    buf.put_u32(identity.generation);
}

fn take(buf: &mut impl Buf) -> Result<Identity, Foreign> {
    let node = buf.try_get_u16().map_err(|_| Foreign)?;
    Ok(Identity { node, generation: buf.try_get_u32().map_err(|_| Foreign)? })
}

impl foca::Codec<Identity> for Codec {
    type Error = Foreign;

    fn encode_header(&mut self, header: &Header<Identity>, mut buf: impl BufMut) -> Result<(), Foreign> {
        let (kind, number, third) = match &header.message {
            Message::Ping(number) => (0, *number, None),
            Message::Ack(number) => (1, *number, None),
            Message::PingReq { target, probe_number } => (2, *probe_number, Some(*target)),
            Message::IndirectPing { origin, probe_number } => (3, *probe_number, Some(*origin)),
            Message::IndirectAck { target, probe_number } => (4, *probe_number, Some(*target)),
            Message::ForwardedAck { origin, probe_number } => (5, *probe_number, Some(*origin)),
            Message::Announce => (6, 0, None),
            Message::Feed => (7, 0, None),
            Message::Gossip => (8, 0, None),
            Message::Broadcast => (9, 0, None),
            Message::TurnUndead => (10, 0, None),
        };
        if buf.remaining_mut() < HEADER {
            return Err(Foreign);
        }
        put(&mut buf, header.src);
        buf.put_u16(header.src_incarnation);
        put(&mut buf, header.dst);
        buf.put_u8(kind);
        buf.put_u8(number);
        put(&mut buf, third.unwrap_or(header.src));
        Ok(())
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Identity>, Foreign> {
        let src = take(&mut buf)?;
        let src_incarnation = buf.try_get_u16().map_err(|_| Foreign)?;
        let dst = take(&mut buf)?;
        let kind = buf.try_get_u8().map_err(|_| Foreign)?;
        let probe_number = buf.try_get_u8().map_err(|_| Foreign)?;
        let third = take(&mut buf)?;
        let message = match kind {
            0 => Message::Ping(probe_number),
            1 => Message::Ack(probe_number),
            2 => Message::PingReq { target: third, probe_number },
            3 => Message::IndirectPing { origin: third, probe_number },
            4 => Message::IndirectAck { target: third, probe_number },
            5 => Message::ForwardedAck { origin: third, probe_number },
            6 => Message::Announce,
            7 => Message::Feed,
            8 => Message::Gossip,
            9 => Message::Broadcast,
            10 => Message::TurnUndead,
            _ => return Err(Foreign),
        };
        Ok(Header { src, src_incarnation, dst, message })
    }

    fn encode_member(&mut self, member: &Member<Identity>, mut buf: impl BufMut) -> Result<(), Foreign> {
        if buf.remaining_mut() < MEMBER {
            return Err(Foreign);
        }
        put(&mut buf, *member.id());
        buf.put_u16(member.incarnation());
        buf.put_u8(match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        Ok(())
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Identity>, Foreign> {
        let id = take(&mut buf)?;
        let incarnation = buf.try_get_u16().map_err(|_| Foreign)?;
        let state = match buf.try_get_u8().map_err(|_| Foreign)? {
            0 => State::Alive,
            1 => State::Suspect,
            _ => State::Down,
        };
        Ok(Member::new(id, incarnation, state))
    }
}

/// Bytes of a header, and of a member.
const HEADER: usize = 6 + 2 + 6 + 2 + 6;
const MEMBER: usize = 6 + 2 + 1;
