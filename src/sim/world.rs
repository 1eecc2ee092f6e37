//! The world: machines, a network, one heap of events, and a clock that jumps from event to event.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::{
    machine::{Birth, Disk, ELDERS, Machine, Traffic},
    network::{Network, Walls},
    oracle::{Depth, Oracle},
    queue::{Event, Queue},
};
use crate::{
    mesh::{self, Card, Change, Command, Gone, Input, Instance, Mesh},
    model::{InstanceId, MeshName, Node, NodeId, NodeName, Registration, ServiceName, Time},
};

/// What a world is made from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// All chance follows from it.
    pub seed: u64,
    /// How links behave at first.
    pub network: Network,
    /// How often the laws are checked.
    pub depth: Depth,
    /// What is kept of the cores' words.
    pub journal: Journal,
    /// What to run to see a failure again, without its seed.
    pub replay: &'static str,
}

impl Settings {
    /// One rack, every law checked after every step.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self { seed, network: Network::default(), depth: Depth::Every, journal: Journal::Events, replay: "cargo test" }
    }
}

/// What of all that the cores say is kept for [`World::take_log`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journal {
    /// Nothing.
    Off,
    /// Events for operators.
    Events,
    /// Changes of the view too: as many as rows times machines.
    Everything,
}

/// Something a machine's core said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// An event for operators.
    Event(mesh::Event),
    /// What may be shown is different.
    Changed(Change),
    /// Its name belongs to another; it has stopped.
    NameInUse,
}

/// Machines and what is between them. A machine is named by its number, in the order of their addition.
pub struct World {
    pub(super) settings: Settings,
    pub(super) now: Time,
    pub(super) rng: Pcg64Mcg,
    pub(super) queue: Queue,
    pub(super) machines: Vec<Machine>,
    pub(super) addresses: BTreeMap<SocketAddr, u32>,
    pub(super) walls: Walls,
    /// The number of the youngest connection.
    pub(super) connections: u32,
    /// Machines that were linked with each other from birth.
    pub(super) elders: BTreeMap<NodeId, u32>,
    /// Since when what is sent over a connection goes unanswered: by connection, sender, receiver.
    pub(super) silences: BTreeMap<(u32, u32, u32), Time>,
    pub(super) oracle: Oracle,
    pub(super) moves: u32,
    pub(super) steps: u64,
    pub(super) digest: u64,
    pub(super) log: Vec<(Time, usize, Seen)>,
}

impl World {
    /// An empty world.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            rng: Pcg64Mcg::seed_from_u64(settings.seed),
            oracle: Oracle::new(&settings),
            settings,
            now: Time::ZERO,
            queue: Queue::default(),
            machines: Vec::new(),
            addresses: BTreeMap::new(),
            walls: Walls::default(),
            connections: 0,
            elders: BTreeMap::new(),
            silences: BTreeMap::new(),
            moves: 0,
            steps: 0,
            digest: 0,
            log: Vec::new(),
        }
    }

    /// A world of `machines` that all start now, know the first three of them as seeds, and nobody else.
    #[must_use]
    pub fn cold(settings: Settings, machines: usize) -> Self {
        let mut world = Self::new(settings);
        world.populate(machines);
        (0..machines).for_each(|n| world.start(n));
        world
    }

    /// A world of `machines` that have known each other for long: each has a connection with each.
    #[must_use]
    pub fn warm(settings: Settings, machines: usize) -> Self {
        let mut world = Self::new(settings);
        world.populate(machines);
        let configs: Vec<_> = (0..machines).map(|n| world.boot(n)).collect();
        let mut peers: Vec<Card> = configs.iter().map(Card::of).collect();
        peers.sort_unstable_by_key(Card::id);
        for (n, config) in configs.into_iter().enumerate() {
            world.begin(n, Birth::Linked, |now| Mesh::with_peers(config, &peers, now));
        }
        world.elders = world.machines.iter().zip(0..).map(|(machine, n)| (machine.id, n)).collect();
        world.connections = ELDERS;
        world
    }

    /// Adds a machine that is not running yet. Its seeds are the first three machines. Two machines of one name are
    /// two holders of that name.
    ///
    /// # Panics
    /// When `name` is not a node's name.
    pub fn add(&mut self, name: &str) -> usize {
        let n = self.machines.len();
        let address = self.fresh_address(n);
        let node = node(name, address);
        let seeds =
            self.machines.iter().filter_map(Machine::address).take(SEEDS).chain([address]).take(SEEDS).collect();
        self.machines.push(Machine {
            id: NodeId::of(&mesh_name(), &node.name),
            node,
            seeds,
            disk: Disk::default(),
            clock_error: 0,
            life: 0,
            process: None,
            traffic: Traffic::default(),
        });
        n
    }

    /// Starts a machine that does not run, with what its disk holds.
    pub fn start(&mut self, n: usize) {
        if self.machines[n].process.is_some() {
            return;
        }
        let config = self.boot(n);
        let machine = &self.machines[n];
        let registrations = machine.disk.registrations.values().cloned().collect();
        let own = machine.address();
        let known = machine.disk.known.iter().filter_map(|(_, addresses)| addresses.first());
        let known = machine.seeds.iter().chain(known.take(KNOWN_PEERS)).filter(|&&at| Some(at) != own);
        let join = Command::Join(known.copied().collect());
        self.begin(n, Birth::Alone, |now| Mesh::new(config, registrations, now));
        self.command(n, join);
        let life = self.machines[n].life;
        self.queue.push(self.now + READY_AFTER, Event::Waited { n: number(n), life });
    }

    /// Ends a machine's process between two instructions. Its peers hear nothing.
    pub fn crash(&mut self, n: usize) {
        let machine = &mut self.machines[n];
        let Some(process) = machine.process.take() else { return };
        machine.life += 1;
        // As the agent does, which saves them while they are there: to be cut off is no reason to forget them.
        let known = process.mesh.acquaintances();
        if !known.is_empty() {
            machine.disk.known = known;
        }
    }

    /// Ends a machine's process (SIGKILL); the parent that outlives it brings its last will to some that run.
    pub fn kill(&mut self, n: usize) {
        let Some(epoch) = self.mesh(n).map(Mesh::epoch) else { return };
        self.crash(n);
        let running: Vec<u32> = self.running().map(number).collect();
        let first = if running.is_empty() { 0 } else { self.rng.random_range(0..running.len()) };
        for heir in running.iter().cycle().skip(first).take(mesh::HEIRS.min(running.len())).copied() {
            let legs = [(number(n), heir), (heir, number(n)), (number(n), heir)];
            let takes: Duration =
                legs.iter().map(|(a, b)| self.settings.network.transfer(*a, *b, 1, &mut self.rng)).sum();
            self.queue.push(self.now + takes, Event::Will { of: number(n), heir, epoch });
        }
    }

    /// Loses a machine's disk: its epoch, its registrations, its known peers. It must not run.
    pub fn wipe(&mut self, n: usize) {
        let machine = &mut self.machines[n];
        if machine.process.is_none() {
            machine.disk = Disk::default();
        }
    }

    /// Sets how wrong a machine's wall clock is, in milliseconds.
    pub fn set_clock(&mut self, n: usize, error_millis: i64) {
        let now = self.now;
        let machine = &mut self.machines[n];
        machine.clock_error = error_millis;
        let unix_millis = machine.unix_millis(now);
        if let Some(process) = &mut machine.process {
            process.mesh.set_wall_clock(process.local(now), unix_millis);
        }
    }

    /// Stops a machine's process (SIGSTOP): nothing is handled, everything waits.
    pub fn pause(&mut self, n: usize) {
        if let Some(process) = &mut self.machines[n].process {
            process.paused.get_or_insert_default();
        }
    }

    /// Lets a paused process go on: all that waited comes at once, its deadlines late.
    pub fn resume(&mut self, n: usize) {
        let Some(waited) = self.machines[n].process.as_mut().and_then(|process| process.paused.take()) else { return };
        waited.into_iter().for_each(|event| self.queue.push(self.now, event));
        self.queue.push(self.now, Event::Wake(number(n)));
    }

    /// Says goodbye and stops.
    pub fn leave(&mut self, n: usize) {
        if !self.is_awake(number(n)) {
            return;
        }
        self.oracle.leaves(self.machines[n].id);
        self.command(n, Command::Leave);
        self.stop(n, Gone::Left);
    }

    /// Gives a machine another address, unless it is paused. A running one notices; its peers have to be told.
    pub fn relocate(&mut self, n: usize) {
        if self.machines[n].process.is_some() && !self.is_awake(number(n)) {
            return;
        }
        if let Some(old) = self.machines[n].address() {
            self.addresses.remove(&old);
        }
        let address = self.fresh_address(n);
        self.machines[n].node.addresses = vec![address];
        let node = self.machines[n].node.clone();
        if self.machines[n].process.is_some() {
            self.deliver(number(n), Input::Moved(Box::new(node)));
        }
    }

    /// Registers an instance on a running machine; a 200 means that its disk has it.
    pub fn register(&mut self, n: usize, registration: Registration) {
        if self.is_awake(number(n)) {
            let registration = Arc::new(registration);
            self.oracle.registered(self.machines[n].id, &registration);
            self.machines[n].disk.registrations.insert(registration.id.clone(), registration.clone());
            self.command(n, Command::Register(registration));
        }
    }

    /// Withdraws an instance from a running machine.
    pub fn deregister(&mut self, n: usize, id: &InstanceId) {
        if self.is_awake(number(n)) && self.machines[n].disk.registrations.remove(id).is_some() {
            self.command(n, Command::Deregister(id.clone()));
        }
    }

    /// Gives a running machine's core a command.
    pub fn order(&mut self, n: usize, command: Command) {
        if let Command::ForceLeave(id) = command {
            self.oracle.leaves(id);
        }
        if self.is_awake(number(n)) {
            self.command(n, command);
        }
    }

    /// Builds a wall: nothing passes from a machine in `from` to one in `to` any more.
    pub fn cut(&mut self, from: &[usize], to: &[usize]) {
        self.walls.build(self.machines.len(), from, to);
    }

    /// Tears all walls down.
    pub fn heal(&mut self) {
        self.walls.tear_down();
    }

    /// How links behave, to be changed.
    pub const fn network_mut(&mut self) -> &mut Network {
        &mut self.settings.network
    }

    /// Lets so much time pass.
    pub fn run(&mut self, duration: Duration) {
        let until = self.now + duration;
        while let Some((at, event)) = self.queue.pop(until) {
            self.now = at;
            self.dispatch(event);
        }
        self.now = until;
    }

    /// Runs until `wanted` holds, looking every `step`; how long it took, or `None` when it did not hold `within`.
    pub fn run_until(
        &mut self,
        within: Duration,
        step: Duration,
        mut wanted: impl FnMut(&Self) -> bool,
    ) -> Option<Duration> {
        let start = self.now;
        while !wanted(self) {
            if self.now.since(start) >= within {
                return None;
            }
            self.run(step);
        }
        Some(self.now.since(start))
    }

    /// Runs until all machines that run agree and show exactly what is registered (law L1); how long that took.
    ///
    /// # Panics
    /// When it takes longer than `within`: says who disagrees about what, and how to replay it.
    pub fn converge(&mut self, within: Duration) -> Duration {
        match self.run_until(within, CONVERGE_STEP, Self::agrees) {
            Some(took) => took,
            None => {
                let (n, what) = self.disagreement().unwrap_or_default();
                self.broken("L1: after faults stop, all connected nodes are equal within a stated time", n, &what)
            }
        }
    }

    /// The virtual time.
    #[must_use]
    pub const fn now(&self) -> Time {
        self.now
    }

    /// How many machines there are, running or not.
    #[must_use]
    pub const fn machines(&self) -> usize {
        self.machines.len()
    }

    /// A machine's node.
    #[must_use]
    pub fn id(&self, n: usize) -> NodeId {
        self.machines[n].id
    }

    /// A machine's core, if it runs.
    #[must_use]
    pub fn mesh(&self, n: usize) -> Option<&Mesh> {
        self.machines[n].process.as_ref().map(|process| &process.mesh)
    }

    /// The numbers of the machines that run.
    pub fn running(&self) -> impl Iterator<Item = usize> {
        self.machines.iter().enumerate().filter(|(_, machine)| machine.process.is_some()).map(|(n, _)| n)
    }

    /// The instances of a service that a machine shows.
    #[must_use]
    pub fn shown(&self, n: usize, service: &ServiceName) -> Vec<Instance> {
        self.mesh(n).and_then(|mesh| mesh.service(service)).unwrap_or_default()
    }

    /// What a machine should have: its registrations as its user knows them.
    pub fn registrations(&self, n: usize) -> impl Iterator<Item = &Arc<Registration>> {
        self.machines[n].disk.registrations.values()
    }

    /// What a machine has sent.
    #[must_use]
    pub fn traffic(&self, n: usize) -> Traffic {
        self.machines[n].traffic
    }

    /// All that the cores said since the last call, and when.
    pub fn take_log(&mut self) -> Vec<(Time, usize, Seen)> {
        std::mem::take(&mut self.log)
    }

    /// A hash of all outputs so far: equal for equal runs (law 9).
    #[must_use]
    pub const fn digest(&self) -> u64 {
        self.digest
    }

    /// How many events were handled.
    #[must_use]
    pub const fn steps(&self) -> u64 {
        self.steps
    }

    /// Schedules an event of a plan.
    pub(super) fn schedule(&mut self, after: Duration, event: Event) {
        self.queue.push(self.now + after, event);
    }

    fn populate(&mut self, machines: usize) {
        for n in 0..machines {
            self.add(&format!("n{n}"));
        }
    }

    fn fresh_address(&mut self, n: usize) -> SocketAddr {
        self.moves += 1;
        let address = SocketAddr::from((Ipv4Addr::from_bits(FIRST_ADDRESS + self.moves), MESH_PORT));
        self.addresses.insert(address, number(n));
        address
    }
}

/// The mesh every simulated machine belongs to.
pub(super) fn mesh_name() -> MeshName {
    parsed("sim")
}

fn node(name: &str, address: SocketAddr) -> Node {
    Node {
        name: parsed::<NodeName>(name),
        addresses: vec![address],
        datacenter: "dc1".into(),
        zone: "".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        meta: BTreeMap::new(),
        maintenance: None,
        voucher: Bytes::new(),
    }
}

fn parsed<T: for<'a> TryFrom<&'a str, Error: std::fmt::Display>>(text: &str) -> T {
    T::try_from(text).unwrap_or_else(|invalid| panic!("the author of this simulation wrote: {invalid}"))
}

/// A machine's number as the events hold it: small, since there are millions of them.
pub(super) fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// 10.0.0.0: the simulated network.
const FIRST_ADDRESS: u32 = 0x0a00_0000;
const MESH_PORT: u16 = 7979;
/// Seeds a machine is configured with, and peers its disk remembers.
pub(super) const SEEDS: usize = 3;
const KNOWN_PEERS: usize = 16;
/// How long a process waits for somebody who knows the mesh, as the agent does.
const READY_AFTER: Duration = Duration::from_secs(10);
/// How often [`World::converge`] looks.
const CONVERGE_STEP: Duration = Duration::from_millis(5);
