//! Carries what the cores want sent: connections, datagrams, streams, and what becomes of them on a bad day.
//!
//! A connection costs a handshake of one and a half round trips; both sides then hear who the other is. Datagrams may
//! be lost, doubled or late. A stream arrives as long as its connection lives, only later. A peer that stopped is
//! silent, and so is a wall; the sender learns of it when [`IDLE`] is over, or at once from a restarted machine's reset.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;

use super::{
    machine::{DIAL_TIMEOUT, Dial, Link, Parcel, Target},
    queue::{Event, Route},
    world::{Seen, World},
};
use crate::{
    mesh::{Gone, Input},
    model::{NodeId, Time},
};

impl World {
    /// Sends a parcel to a peer, dialling first where there is no connection.
    pub(super) fn send(&mut self, from: u32, to: NodeId, parcel: Parcel) {
        let Some(process) = self.machines[from as usize].process.as_mut() else { return };
        if let Some(link) = process.link(to, &self.elders) {
            let route = Route { connection: link.connection, from, to: link.peer };
            match self.silences.get(&route.key()) {
                Some(&since) if self.now.since(since) > IDLE => {
                    self.silences.remove(&route.key());
                    let back = Route { from: link.peer, to: from, ..route };
                    self.queue.push(self.now, Event::Closed(back, Gone::Lost));
                }
                _ => self.transmit(route, parcel),
            }
        } else if let Some(waiting) = process.waiting.get_mut(&to) {
            if waiting.len() < MAX_WAITING {
                waiting.push(parcel);
            }
        } else if let Some(&address) = process.mesh.addresses(to).first() {
            process.waiting.insert(to, vec![parcel]);
            self.dial(from, Target::Peer(to), address);
        }
    }

    fn transmit(&mut self, route: Route, parcel: Parcel) {
        let Route { from, to, .. } = route;
        let traffic = &mut self.machines[from as usize].traffic;
        match parcel {
            Parcel::Packet(bytes) => {
                traffic.packets += 1;
                traffic.packet_bytes += bytes.len() as u64;
                for delay in self.settings.network.copies(from, to, &mut self.rng).into_iter().flatten() {
                    self.queue.push(self.now + delay, Event::Packet(route, bytes.clone()));
                }
            }
            Parcel::Message(bytes) => {
                traffic.messages += 1;
                traffic.message_bytes += bytes.len() as u64;
                let delay = self.settings.network.transfer(from, to, bytes.len(), &mut self.rng);
                self.queue.push(self.now + delay, Event::Message(route, bytes, self.now));
            }
        }
    }

    /// Begins a handshake: three legs, each of which can be lost and is then repeated like a stream's packet.
    pub(super) fn dial(&mut self, from: u32, target: Target, address: SocketAddr) {
        let machine = &mut self.machines[from as usize];
        machine.traffic.dials += 1;
        let dial = Dial { from, life: machine.life, target, address, fails: self.now + DIAL_TIMEOUT };
        let network = &self.settings.network;
        let to = self.addresses.get(&address).copied().unwrap_or(from);
        let legs = [(from, to), (to, from), (from, to)];
        let takes: Duration = legs.into_iter().map(|(a, b)| network.transfer(a, b, 1, &mut self.rng)).sum();
        let event = if takes < DIAL_TIMEOUT { Event::Handshake(dial) } else { Event::DialFailed(dial) };
        self.queue.push(self.now + takes.min(DIAL_TIMEOUT), event);
    }

    /// The last leg arrives: both sides are connected, if both are there, hear each other and run.
    pub(super) fn shake_hands(&mut self, dial: Dial) {
        let from = dial.from;
        if self.machines[from as usize].life != dial.life {
            return;
        }
        let answering = self.addresses.get(&dial.address).copied().filter(|&to| {
            to != from
                && self.is_awake(from)
                && self.is_awake(to)
                && !self.walls.between(from, to)
                && !self.walls.between(to, from)
        });
        let Some(to) = answering else {
            self.queue.push(dial.fails, Event::DialFailed(dial));
            return;
        };
        self.connect(from, to);
        let waiting = match (dial.target, self.machines[from as usize].process.as_mut()) {
            (Target::Peer(peer), Some(process)) => process.waiting.remove(&peer).map(|parcels| (peer, parcels)),
            _ => None,
        };
        // Whoever else answers at a member's address is welcome, but does not get the member's mail.
        let Some((peer, parcels)) = waiting else { return };
        if peer == self.machines[to as usize].id {
            parcels.into_iter().for_each(|parcel| self.send(from, peer, parcel));
        }
    }

    /// Both sides have said hello. A connection that already stands between these two processes is kept instead.
    fn connect(&mut self, from: u32, to: u32) {
        if let Some(newcomer) = self.second_holder(from, to) {
            self.say(newcomer, Seen::NameInUse);
            return self.stop(newcomer as usize, Gone::Closed);
        }
        let stands = self.link(from, to);
        if stands.is_some() && stands == self.link(to, from) {
            return;
        }
        self.connections += 1;
        let connection = self.connections;
        let round_trip = self.settings.network.distance(from, to) * 2;
        let hello = |world: &Self, at: u32| world.machines[at as usize].process.as_ref().map(|p| p.mesh.hello());
        let (Some(from_hello), Some(to_hello)) = (hello(self, from), hello(self, to)) else { return };
        for (at, peer, hello) in [(from, to, to_hello), (to, from, from_hello)] {
            let peer_id = hello.id;
            if let Some(process) = self.machines[at as usize].process.as_mut() {
                process.tie(peer_id, Link { connection, peer });
            }
            self.deliver(at, Input::Connected(hello));
            self.deliver(at, Input::Rtt(peer_id, round_trip));
        }
    }

    /// The connection that `at` has with the machine `peer`.
    fn link(&self, at: u32, peer: u32) -> Option<u32> {
        let link = self.machines[at as usize].process.as_ref()?.link(self.machines[peer as usize].id, &self.elders)?;
        (link.peer == peer).then_some(link.connection)
    }

    /// Of two sides that have said hello, the one whose name belongs to another. Two holders see it by themselves, and
    /// the younger yields; anybody else asks the holder he knows first whether it lives, as the agent does.
    fn second_holder(&self, from: u32, to: u32) -> Option<u32> {
        let machine = |n: u32| &self.machines[n as usize];
        if machine(from).id == machine(to).id {
            let age = |n: u32| machine(n).process.as_ref().map(|p| (p.mesh.hello().generation, p.mesh.hello().boot));
            return Some(if age(from) < age(to) { to } else { from });
        }
        [(from, to), (to, from)].into_iter().find_map(|(at, newcomer)| {
            let id = machine(newcomer).id;
            let mesh = &machine(at).process.as_ref()?.mesh;
            let known = mesh.member(id).filter(|member| member.state.is_shown())?;
            let holder = *self.addresses.get(&known.address()?)?;
            let lives = holder != newcomer && machine(holder).id == id && self.is_awake(holder);
            let answers = !self.walls.between(at, holder) && !self.walls.between(holder, at);
            (lives && answers).then_some(newcomer)
        })
    }

    pub(super) fn dial_failed(&mut self, dial: Dial) {
        let machine = &mut self.machines[dial.from as usize];
        if machine.life != dial.life {
            return;
        }
        if let Target::Peer(peer) = dial.target {
            if let Some(process) = machine.process.as_mut() {
                process.waiting.remove(&peer);
            }
            self.deliver(dial.from, Input::Disconnected(peer, Gone::Lost));
        }
    }

    /// A datagram comes to its machine.
    pub(super) fn packet(&mut self, route: Route, bytes: Bytes) {
        if self.arrives(route) {
            let from = self.machines[route.from as usize].id;
            self.deliver(route.to, Input::Packet(from, bytes));
        }
    }

    /// A stream comes to its machine; behind a wall it is sent again until the connection is given up.
    pub(super) fn message(&mut self, route: Route, bytes: Bytes, sent: Time) {
        if self.walls.between(route.from, route.to) || self.walls.between(route.to, route.from) {
            self.silences.entry(route.key()).or_insert(self.now);
            if self.now.since(sent) < IDLE {
                self.queue.push(self.now + RETRY, Event::Message(route, bytes, sent));
            }
        } else if self.arrives(route) {
            let from = self.machines[route.from as usize].id;
            self.deliver(route.to, Input::Message(from, bytes));
        }
    }

    /// Whether a parcel finds its connection; if not, the sender's silence begins, or a reset goes back.
    fn arrives(&mut self, route: Route) -> bool {
        let Route { connection, from, to } = route;
        let known = match &self.machines[to as usize].process {
            Some(_) if self.walls.between(from, to) => None,
            Some(process) => {
                let id = self.machines[from as usize].id;
                Some(process.link(id, &self.elders).is_some_and(|link| link.connection == connection))
            }
            None => None,
        };
        match known {
            Some(true) => {
                if !self.silences.is_empty() {
                    self.silences.remove(&route.key());
                }
                return true;
            }
            Some(false) if !self.is_older(connection, to) => self.answer(route, Gone::Closed),
            Some(false) if self.settings.network.resets => self.answer(route, Gone::Reset),
            _ => drop(self.silences.entry(route.key()).or_insert(self.now)),
        }
        false
    }

    /// Answers a packet of a connection that is not there any more.
    fn answer(&mut self, Route { connection, from, to }: Route, gone: Gone) {
        let delay = self.settings.network.delay(to, from, &mut self.rng);
        self.queue.push(self.now + delay, Event::Closed(Route { connection, from: to, to: from }, gone));
    }

    /// Whether a connection is older than the process that runs on `machine`.
    fn is_older(&self, connection: u32, machine: u32) -> bool {
        self.machines[machine as usize].process.as_ref().is_some_and(|p| connection < p.first_connection)
    }

    /// The other side (or time) says that a connection is gone.
    pub(super) fn closed(&mut self, route: Route, gone: Gone) {
        let Route { connection, from, to } = route;
        if gone != Gone::Lost && self.walls.between(from, to) {
            return;
        }
        let peer = self.machines[from as usize].id;
        let Some(process) = self.machines[to as usize].process.as_mut() else { return };
        if process.link(peer, &self.elders).is_some_and(|link| link.connection == connection) {
            process.untie(peer);
            self.deliver(to, Input::Disconnected(peer, gone));
        }
    }

    /// Closes one side's end and tells the other.
    pub(super) fn hang_up(&mut self, at: u32, peer: NodeId, gone: Gone) {
        let Some(process) = self.machines[at as usize].process.as_mut() else { return };
        process.waiting.remove(&peer);
        if let Some(link) = process.link(peer, &self.elders) {
            process.untie(peer);
            let route = Route { connection: link.connection, from: at, to: link.peer };
            let delay = self.settings.network.delay(at, link.peer, &mut self.rng);
            self.queue.push(self.now + delay, Event::Closed(route, gone));
        }
    }
}

/// A connection whose packets go unanswered for so long is lost: the agent's idle timeout.
pub(super) const IDLE: Duration = Duration::from_secs(10);
/// A stream behind a wall is tried again so often: a probe timeout after some back-off (RFC 9002 section 6.2.1).
const RETRY: Duration = Duration::from_millis(250);
/// Parcels that wait for one dial; the agent's queue per peer has a limit too.
const MAX_WAITING: usize = 64;
