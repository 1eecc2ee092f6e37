//! One turn of the world: an event is handled by its machine's core, all that the core wants is carried out, the laws
//! are checked.

use std::sync::Arc;

use rand::RngExt;

use super::{
    machine::{Birth, Parcel, Process, Target},
    queue::Event,
    world::{Journal, Seen, World, mesh_name, number},
};
use crate::{
    mesh::{self, Change, Command, Gone, Input, Mesh, Numbers, Output},
    model::{Epoch, NodeId, Time},
};

impl World {
    pub(super) fn is_awake(&self, n: u32) -> bool {
        self.machines[n as usize].process.as_ref().is_some_and(|process| process.paused.is_none())
    }

    /// Hands an input to a machine's core and carries out what it wants.
    pub(super) fn deliver(&mut self, n: u32, input: Input) {
        let now = self.now;
        if let Some(process) = self.machines[n as usize].process.as_mut() {
            process.mesh.handle(process.local(now), input);
            self.drain(n);
        }
    }

    pub(super) fn command(&mut self, n: usize, command: Command) {
        let now = self.now;
        let Some(process) = self.machines[n].process.as_mut() else { return };
        let said = format!("{command:?}");
        if let Err(rejected) = process.mesh.command(process.local(now), command) {
            self.broken("S7: a running owner's catalogue equals what it registered", n, &format!("{said}: {rejected}"));
        }
        self.drain(number(n));
    }

    pub(super) fn dispatch(&mut self, event: Event) {
        self.steps += 1;
        let receiver = match &event {
            Event::Packet(route, _) | Event::Message(route, ..) | Event::Closed(route, _) => Some(route.to),
            Event::DialFailed(dial) => Some(dial.from),
            Event::Will { heir, .. } => Some(*heir),
            Event::Waited { n, .. } => Some(*n),
            _ => None,
        };
        let process = receiver.and_then(|n| self.machines[n as usize].process.as_mut());
        if let Some(inbox) = process.and_then(|process| process.paused.as_mut()) {
            inbox.push(event);
            return;
        }
        match event {
            Event::Wake(n) => self.wake(n),
            Event::Packet(route, bytes) => self.packet(route, bytes),
            Event::Message(route, bytes, sent) => self.message(route, bytes, sent),
            Event::Handshake(dial) => self.shake_hands(dial),
            Event::DialFailed(dial) => self.dial_failed(dial),
            Event::Closed(route, gone) => self.closed(route, gone),
            Event::Will { of, heir, epoch } => self.read_will(of, heir, epoch),
            Event::Waited { n, life } => {
                if self.machines[n as usize].life == life {
                    self.deliver(n, Input::Waited);
                }
            }
            Event::Fault(fault) => self.strike(&fault),
        }
    }

    fn wake(&mut self, n: u32) {
        let now = self.now;
        let Some(process) = self.machines[n as usize].process.as_mut() else { return };
        if process.paused.is_some() {
            return;
        }
        if process.wake <= now {
            process.wake = Time::NEVER;
        }
        if process.deadline() <= now {
            self.deliver(n, Input::Wake);
            let late = self.machines[n as usize].process.as_ref().is_some_and(|process| process.deadline() <= now);
            if late {
                self.broken("1: a core that was woken has handled all that was due", n as usize, "it wants Wake again");
            }
        } else {
            self.plan_wake(n);
        }
    }

    fn plan_wake(&mut self, n: u32) {
        let Some(process) = self.machines[n as usize].process.as_mut() else { return };
        let deadline = process.deadline().max(self.now);
        if deadline < process.wake {
            process.wake = deadline;
            self.queue.push(deadline, Event::Wake(n));
        }
    }

    /// Carries out all that a core wants (law 1), then asks the oracle.
    fn drain(&mut self, n: u32) {
        let (mut outputs, mut told) = (0, false);
        while let Some(output) = self.machines[n as usize].process.as_mut().and_then(|process| process.mesh.poll()) {
            outputs += 1;
            told |= tells(&output);
            if outputs > self.oracle.most_outputs(self.machines.len()) {
                self.broken("8: every queue has a limit", n as usize, "one step has more outputs than peers allow");
            }
            self.carry_out(n, output);
        }
        self.plan_wake(n);
        if self.oracle.is_due(self.steps, told) {
            self.check(n as usize);
        }
    }

    fn carry_out(&mut self, n: u32, output: Output) {
        self.note(n, &output);
        self.check_output(n as usize, &output);
        match output {
            Output::Packet(to, bytes) => self.send(n, to, Parcel::Packet(bytes)),
            Output::Message(to, bytes) => self.send(n, to, Parcel::Message(bytes)),
            Output::Dial(address) => self.dial(n, Target::Seed, address),
            Output::Drop(peer) => self.hang_up(n, peer, Gone::Closed),
            Output::Expel(peer, _) => self.hang_up(n, peer, Gone::Expelled),
            Output::Keep(_) | Output::Spoken(_) | Output::Here(_) => {}
            Output::Risen(epoch) => self.machines[n as usize].disk.epoch = Some(epoch),
            Output::Expired(id) => drop(self.machines[n as usize].disk.registrations.remove(&id)),
            Output::Changed(changes) => changes.into_iter().for_each(|change| self.say(n, Seen::Changed(change))),
            Output::Event(event) => {
                self.check_event(n as usize, &event);
                self.say(n, Seen::Event(event));
            }
            Output::NameInUse => {
                self.say(n, Seen::NameInUse);
                self.stop(n as usize, Gone::Closed);
            }
        }
    }

    pub(super) fn say(&mut self, n: u32, seen: Seen) {
        let kept = match (self.settings.journal, &seen) {
            (Journal::Off, _) => false,
            (Journal::Events, Seen::Changed(_)) => false,
            (Journal::Events | Journal::Everything, _) => true,
        };
        if kept {
            self.log.push((self.now, n as usize, seen));
        }
    }

    fn read_will(&mut self, of: u32, heir: u32, epoch: Epoch) {
        if !self.walls.between(of, heir) && !self.walls.between(heir, of) {
            self.deliver(heir, Input::Will { node: self.machines[of as usize].id, epoch });
        }
    }

    /// Folds an output into the digest.
    fn note(&mut self, n: u32, output: &Output) {
        use xxhash_rust::xxh3::xxh3_64_with_seed as hash;
        let mut seed = self.digest ^ u64::from(n);
        seed = hash(&self.now.since_start().as_nanos().to_le_bytes(), seed);
        self.digest = match output {
            Output::Packet(to, bytes) | Output::Message(to, bytes) => hash(bytes, seed ^ to.0),
            Output::Changed(changes) => changes.iter().fold(seed, |seed, change| match change {
                Change::Service(name) => hash(name.as_str().as_bytes(), seed),
                other => hash(format!("{other:?}").as_bytes(), seed),
            }),
            other => hash(format!("{other:?}").as_bytes(), seed),
        };
    }

    /// Closes all connections in order and ends the process.
    pub(super) fn stop(&mut self, n: usize, gone: Gone) {
        let Some(process) = &self.machines[n].process else { return };
        let peers: Vec<NodeId> = process.linked(&self.elders);
        peers.into_iter().for_each(|peer| self.hang_up(number(n), peer, gone));
        self.crash(n);
    }

    /// Draws what a process needs to begin, and makes its epoch durable.
    pub(super) fn boot(&mut self, n: usize) -> mesh::Config {
        let machine = &mut self.machines[n];
        let unix_millis = machine.unix_millis(self.now);
        let epoch = Epoch(machine.disk.epoch.map_or(0, |stored| stored.0 + 1).max(unix_millis));
        machine.disk.epoch = Some(epoch);
        let (boot, seed) = (self.rng.random(), self.rng.random());
        let notary = Arc::new(Numbers::new(self.settings.seed, &machine.node.name, boot));
        let (node, known) = (machine.node.clone(), machine.disk.known.iter().cloned().collect());
        mesh::Config { mesh: mesh_name(), node, known, epoch, boot, seed, unix_millis, notary }
    }

    pub(super) fn begin(&mut self, n: usize, birth: Birth, core: impl FnOnce(Time) -> Mesh) {
        let machine = &mut self.machines[n];
        machine.life += 1;
        machine.process = Some(Process::born(core(Time::ZERO), self.now, self.connections + 1, birth));
        self.oracle.started(n);
        self.drain(number(n));
    }
}

/// Whether an output says that this node sees something otherwise than before; distances, which no law is about, aside.
fn tells(output: &Output) -> bool {
    match output {
        Output::Packet(..) | Output::Message(..) | Output::Dial(_) => false,
        Output::Changed(changes) => changes.iter().any(|change| !matches!(change, Change::Distance(_))),
        _ => true,
    }
}
