//! Floor 1, the laws: a node's knowledge of its mesh as a pure value. No clock, no socket, no task, no chance but its
//! seed: time comes in as an argument, packets come in and go out as bytes. Drivers live in `sim` and `agent`.
//!
//! 1. One mutation ([`Mesh::handle`] or [`Mesh::command`]), then drain [`Mesh::poll`] to `None`.
//! 2. `now` never goes back.
//! 3. A book is written only by its owner.
//! 4. A mark (epoch, floor, version) only grows, in that order. A book forgotten with its owner is read anew.
//! 5. A rumour that leaves a gap is shown but not counted: the next sync fills the gap.
//! 6. A tombstone outlives every sync before it is folded into the floor; a reader below the floor takes the whole book.
//! 7. What is shown is the live rows of members that are not Down, or are held while this node is the one cut off; whoever
//!    flaps is shown late. A death edits no book: rows may lapse with it, by what they say themselves.
//! 8. Every queue has a limit, and a counter for what it dropped.
//! 9. The same seed and inputs give the same outputs, byte for byte.

mod barred;
mod budget;
mod catalog;
mod chance;
mod check;
mod claim;
mod clock;
mod damper;
mod delay;
pub mod event;
mod explain;
mod flap;
pub mod fuzz;
mod hold;
mod hosts;
mod inbox;
mod invented;
mod lapse;
mod leave;
mod look;
mod maintenance;
mod membership;
pub mod notary;
mod outbox;
mod page;
mod plausible;
mod protection;
mod publish;
mod ring;
mod roster;
mod rumor;
mod seek;
pub mod stats;
mod suspicion;
mod swim;
mod sync;
mod timer;
mod view;
mod vivaldi;
mod voucher;
mod warm;
mod will;
pub mod wire;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

pub use claim::fits;
pub use event::{
    ANNOUNCERS, Cause, Change, Command, Done, Event, Generation, Gone, HEIRS, Hello, Input, MAX_MEMBERS, Output,
    Rejected, Unprotected,
};
pub use explain::{Explanation, Flapping, Suspected, Testimony};
pub use hold::CutOff;
pub use notary::{BookKey, Notary, Numbers, Objection, SharedNotary, Signature, Vouched};
pub use protection::{PROTECT_FOR, Protection};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
pub use stats::Stats;
pub use view::{Held, Instance, Member};
pub use vivaldi::Place;
pub use warm::Card;

use self::{
    budget::Budgets,
    catalog::{Book, Catalog},
    check::Checks,
    claim::{Claim, Key},
    explain::Inquiry,
    hold::Guard,
    look::Look,
    outbox::{Outbox, packed},
    protection::Protections,
    roster::Roster,
    rumor::Rumors,
    swim::{Alarm, Swim},
    sync::Sync,
    timer::Timers,
    view::Index,
    will::Announced,
    wire::Frame,
};
use crate::model::{CheckName, Epoch, InstanceId, MeshName, Node, NodeId, Registration, ServiceName, Time};

/// What a core needs to begin.
#[derive(Clone, Debug)]
pub struct Config {
    /// The mesh it belongs to.
    pub mesh: MeshName,
    /// This node's word on itself.
    pub node: Node,
    /// Whom it knew when it ran last, and where they were.
    pub known: BTreeMap<NodeId, Vec<SocketAddr>>,
    /// Larger than that of any earlier process of this name.
    pub epoch: Epoch,
    /// A random number drawn at the start of the process.
    pub boot: u64,
    /// The seed of all its choices.
    pub seed: u64,
    /// The wall clock at [`Time::ZERO`], in unix milliseconds: for times that people read, and to tell an epoch that can
    /// be from one that cannot.
    pub unix_millis: u64,
    /// Signs its book, and checks what others signed.
    pub notary: SharedNotary,
}

/// A node's knowledge of its mesh.
#[derive(Debug)]
pub struct Mesh {
    config: Config,
    id: NodeId,
    epoch: Epoch,
    now: Time,
    rng: Pcg64Mcg,
    timers: Timers<Timer>,
    outbox: Outbox,
    changes: BTreeSet<Change>,
    stats: Stats,

    // Who is here.
    swim: Swim,
    roster: Roster,
    /// At whom it looks, to see whether they are there.
    looks: BTreeMap<NodeId, Look>,
    wills: BTreeMap<NodeId, Announced>,
    inquiries: BTreeMap<NodeId, Inquiry>,
    guard: Guard,
    /// Who wants to know whether a member is there.
    asked: BTreeMap<NodeId, BTreeSet<NodeId>>,
    renewals: VecDeque<Time>,
    rises: VecDeque<Time>,
    /// After a pause, not before this.
    judges_again: Time,
    /// What others have cost.
    budgets: Budgets,
    place: Place,
    seeds: Vec<SocketAddr>,
    leaving: bool,

    // What they said.
    catalog: Catalog,
    index: Index,
    hosts: hosts::Hosts,
    protections: Protections,
    checks: Checks,
    wordy: BTreeSet<InstanceId>,
    /// Instances that change their minds often.
    dampers: BTreeMap<InstanceId, damper::Damper>,
    /// Instances taken out of service, and why.
    maintenance: BTreeMap<InstanceId, Arc<str>>,

    // How it travels.
    rumors: Rumors,
    sync: Sync,
    publish_after: Time,
    publishing: bool,
    announced: bool,
    pulling: BTreeSet<NodeId>,
    /// Rumours forwarded unchecked, by who brought them.
    gossip: BTreeMap<NodeId, u32>,
    /// Of whom a page was refused for its voucher, and none was believed since.
    unvouched: BTreeSet<NodeId>,
    /// Who was found to be back while one packet was read.
    revived: Vec<wire::Fact>,
    /// With whom notes are to be compared in a moment.
    comparing: Option<NodeId>,
    ready: bool,
}

/// What the core waits for.
#[derive(Debug)]
enum Timer {
    Swim(Alarm),
    Suspicion(NodeId, Generation),
    Knock { id: NodeId, began: Time },
    Watch,
    Publish,
    Pull { owner: NodeId, from: NodeId },
    Sync,
    Compare,
    Join(u32),
    Guide,
    SecondOpinion,
    Check { instance: InstanceId, check: CheckName },
    Words,
    Damped { instance: InstanceId, turn: damper::Turn },
    Unhide(NodeId),
    Mended,
    Unprotect(ServiceName),
    Lapse(NodeId),
    Forget,
}

impl Mesh {
    /// A core that knows nobody yet. `registrations` were restored from the store: they are its book from the start.
    /// When it is ready, the module `sync::ready` says.
    #[must_use]
    pub fn new(config: Config, registrations: Vec<Arc<Registration>>, now: Time) -> Self {
        let id = NodeId::of(&config.mesh, &config.node.name);
        let mut rng = Pcg64Mcg::seed_from_u64(config.seed ^ id.0);
        let swim = Swim::new(id, Generation::first(config.epoch), Pcg64Mcg::seed_from_u64(rng.random()));
        let mut mesh = Self {
            id,
            epoch: config.epoch,
            now,
            rng,
            timers: Timers::default(),
            outbox: Outbox::default(),
            changes: BTreeSet::new(),
            stats: Stats::default(),
            swim,
            roster: Roster::default(),
            looks: BTreeMap::new(),
            wills: BTreeMap::new(),
            inquiries: BTreeMap::new(),
            guard: Guard::default(),
            asked: BTreeMap::new(),
            renewals: VecDeque::new(),
            rises: VecDeque::new(),
            judges_again: now,
            budgets: Budgets::default(),
            place: vivaldi::ORIGIN,
            seeds: Vec::new(),
            leaving: false,
            catalog: Catalog::default(),
            index: Index::default(),
            hosts: hosts::Hosts::default(),
            protections: Protections::default(),
            checks: Checks::new(),
            wordy: BTreeSet::new(),
            dampers: BTreeMap::new(),
            maintenance: BTreeMap::new(),
            rumors: Rumors::new(id),
            sync: Sync::default(),
            publish_after: now,
            publishing: true,
            announced: false,
            pulling: BTreeSet::new(),
            gossip: BTreeMap::new(),
            unvouched: BTreeSet::new(),
            revived: Vec::new(),
            comparing: None,
            ready: false,
            config,
        };
        mesh.catalog.entry(id, || Book::new(mesh.epoch));
        mesh.vouch_for_itself(now, mesh.config.notary.voucher());
        let node = Claim::Node(Arc::new(mesh.config.node.clone()));
        // A node's own row is far below any limit; a registration that is not was refused when it first came.
        let _ = mesh.write(now, Key::Node, Some(node));
        for registration in registrations {
            let _ = mesh.put(now, &registration);
        }
        // Not before all that is restored stands in it: the first page tells how far the book goes.
        mesh.timers.set(now, Timer::Publish);
        mesh.timers.set(now + FORGET_EVERY, Timer::Forget);
        let phase = suspicion::WATCH.mul_f64(mesh.chance());
        mesh.timers.set(now + phase, Timer::Watch);
        mesh
    }

    /// Takes in what the world says. Cannot fail: what makes no sense is counted and dropped.
    pub fn handle(&mut self, now: Time, input: Input) {
        self.now = self.now.max(now);
        let now = self.now;
        match input {
            Input::Wake => self.wake(now),
            Input::Connected(hello) => self.on_connected(now, &hello),
            Input::Disconnected(peer, gone) => self.on_disconnected(now, peer, gone),
            Input::Packet(from, bytes) => {
                self.stats.packets_received += 1;
                self.read(now, from, &bytes);
            }
            Input::Message(from, bytes) => {
                self.stats.messages_received += 1;
                self.read(now, from, &bytes);
            }
            Input::Garbage(peer, why) => self.garbage(peer, why),
            Input::Rtt(peer, rtt) => self.on_rtt(peer, rtt),
            Input::Will { node, epoch } => self.inherit(now, node, epoch),
            Input::Checked { instance, check, status, output } => {
                // What does not fit into a full book follows with the next result; who is gone has none.
                let _ = self.take_result(now, &instance, &check, status, &output);
            }
            Input::Waited => self.set_ready(false),
            Input::Renewed => self.ask_the_notary(now),
            Input::Unable { instance, check, why } => self.take_inability(now, &instance, &check, &why),
            Input::Moved(node) => {
                self.config.node = Node {
                    voucher: self.config.notary.voucher(),
                    maintenance: self.config.node.maintenance.take(),
                    ..*node
                };
                let claim = Claim::Node(Arc::new(self.config.node.clone()));
                let _ = self.write(now, Key::Node, Some(claim));
            }
        }
    }

    /// Takes a user's command.
    ///
    /// # Errors
    /// [`Rejected`]; nothing was changed.
    pub fn command(&mut self, now: Time, command: Command) -> Result<Done, Rejected> {
        self.now = self.now.max(now);
        let now = self.now;
        if self.leaving {
            return Err(Rejected::Leaving);
        }
        match command {
            Command::Join(seeds) => Ok(self.join(now, seeds)),
            Command::Register(registration) => self.put(now, &registration),
            Command::Deregister(id) => self.deregister(now, &id).map(|()| Done::Changed),
            Command::Report { instance, check, status, output } => self.report(now, &instance, &check, status, &output),
            Command::Maintain { instance, reason } => self.maintain(now, instance.as_ref(), reason),
            Command::Knock(id) => self.knock_once(id),
            Command::Inquire(about) => self.inquire(now, about),
            Command::ForceLeave(id) => self.force_leave(now, id),
            Command::ProtectFor(lasts) => Ok(self.protect_for(lasts)),
            Command::Leave => {
                self.leaving = true;
                self.keep_words();
                let left = self.fact_of_this(crate::model::MemberState::Left);
                self.spread(now, &rumor::Rumor::Fact(left), self.id);
                Ok(Done::Changed)
            }
        }
    }

    /// Takes the next thing to be done; `None` when all is drained.
    pub fn poll(&mut self) -> Option<Output> {
        if let Some(output) = self.outbox.pop() {
            return Some(output);
        }
        if !self.changes.is_empty() {
            self.weigh_changes();
            return Some(Output::Changed(std::mem::take(&mut self.changes)));
        }
        for to in self.outbox.addressees() {
            self.send_acks(to);
        }
        self.outbox.seal(&mut self.stats);
        self.outbox.pop()
    }

    /// When to send [`Input::Wake`].
    #[must_use]
    pub fn deadline(&self) -> Time {
        self.timers.next().min(self.rumors.next())
    }

    /// The first words on a new connection.
    #[must_use]
    pub fn hello(&self) -> Hello {
        Hello {
            protocol: wire::VERSION,
            mesh: self.config.mesh.clone(),
            id: self.id,
            generation: self.swim.generation(),
            boot: self.config.boot,
            node: self.config.node.clone(),
            features: Vec::new(),
        }
    }

    /// This node's id.
    #[must_use]
    pub const fn id(&self) -> NodeId {
        self.id
    }

    /// The epoch under which this node's book is written now.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// An order-free hash of all it knows: equal on two nodes that agree.
    #[must_use]
    pub fn root(&self) -> u64 {
        self.root_hash()
    }

    /// The part of the peers heard from lately whose root was ours: 0 to 1.
    #[must_use]
    pub fn agreement(&self) -> f64 {
        self.agreement_of()
    }

    /// What it has done and dropped.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            rumors_resent: self.rumors.resent,
            dropped_full: self.stats.dropped_full + self.rumors.dropped,
            ..self.stats
        }
    }

    fn wake(&mut self, now: Time) {
        let due = self.deadline();
        if now.since(due) > OVERSLEPT && due != Time::NEVER && now >= self.judges_again {
            // This process was paused. What others said meanwhile is still in the socket: that is heard before anybody is
            // judged. Not for ever: who is starved all the time must judge some time.
            self.swim.doubt.raise();
            self.outbox.push(Output::Event(Event::Paused { late: now.since(due) }));
            self.judges_again = now + GRACE * 2;
            self.stand_still(now.since(due) + GRACE);
            self.timers.postpone(now, now + GRACE, |timer| {
                matches!(
                    timer,
                    Timer::Swim(_) | Timer::Suspicion(..) | Timer::Knock { .. } | Timer::Watch | Timer::Check { .. }
                )
            });
        }
        for to in self.rumors.acks(now) {
            self.send_acks(to);
        }
        self.resend(now);
        while let Some(timer) = self.timers.due(now) {
            self.on_timer(now, timer);
        }
    }

    fn on_timer(&mut self, now: Time, timer: Timer) {
        match timer {
            Timer::Swim(alarm) => {
                self.swim.wake(now, alarm);
                self.carry_out(now);
            }
            Timer::Suspicion(id, generation) => self.on_suspicion(now, id, generation),
            Timer::Knock { id, began } => self.knock(now, id, began),
            Timer::Watch => self.watch(now),
            Timer::Publish => self.publish(now),
            Timer::Pull { owner, from } => self.pull(owner, from),
            Timer::Sync => self.sync_round(now),
            Timer::Compare => {
                if let Some(peer) = self.comparing.take() {
                    self.sync_with(peer);
                }
            }
            Timer::Guide => self.guide(),
            Timer::SecondOpinion => self.set_ready(true),
            Timer::Join(tries) => self.seek(now, tries),
            Timer::Check { instance, check } => self.on_check(now, &instance, &check),
            Timer::Words => self.publish_words(now),
            Timer::Damped { instance, turn } => self.on_damped(now, &instance, turn),
            Timer::Unhide(id) => self.unhide(now, id),
            Timer::Mended => self.mended(now),
            Timer::Unprotect(name) => drop(self.changes.insert(Change::Service(name))),
            Timer::Lapse(id) => self.on_lapse(now, id),
            Timer::Forget => {
                self.forget(now);
                self.forget_turns();
                self.timers.set(now + FORGET_EVERY, Timer::Forget);
            }
        }
    }

    fn send(&mut self, to: NodeId, frame: &Frame<'_>) {
        self.outbox.frame(to, frame, &mut self.stats);
    }

    fn send_stream(&mut self, to: NodeId, frame: &Frame<'_>) {
        self.outbox.message(to, packed(std::slice::from_ref(frame)), &mut self.stats);
    }
}

/// How long the rows of a Down member are kept, and longer while one of them says so.
const ROWS_KEPT: Duration = Duration::from_secs(15 * 60);
/// How long a Down member is remembered, with the mark of its book, so that no older epoch rises again.
const DOWN_KEPT: Duration = Duration::from_secs(24 * 3600);
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// A loop that wakes later than this was not running.
pub(crate) const OVERSLEPT: Duration = Duration::from_millis(300);
/// How long a process that was paused listens before it judges.
const GRACE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod insider;
#[cfg(test)]
mod tests;
