//! The loop: one task owns the mesh, feeds it what the world and the users say, and carries out what it wants done.
//!
//! It takes many inputs for each wake, publishes every changed name once at the end, and only then replies, so that who
//! was told "done" sees it. It waits for nothing but its queues and its timer: not for a peer, a dial or the disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::task::TaskTracker;

use super::{
    View,
    clock::Clock,
    hello::{Greeter, Missed},
    journal::Journal,
    known::Known,
    lines::Subject,
    looks::{Knocks, Look},
    namesake::{self, Disputes},
    peers::{Arrival, Parcel, Peers, Target},
    quic::Code,
    seek::Seek,
    status::Status,
    store::{Completed, KnownPeer, Row},
    unix_millis,
    writes::{Over, Pending, Reply, Told, Writes},
};
use crate::{
    mesh::{Change, Command, Done, Input, Mesh, Objection, Output},
    model::{CheckName, Health, InstanceId, NodeId, Registration},
};

/// What handles ask of the loop.
pub(super) enum Ask {
    /// Store and publish; the row is already rendered.
    Put { registration: Arc<Registration>, over: Over, row: Row, reply: Reply<Done> },
    /// Withdraw.
    Remove { id: InstanceId, over: Over, reply: Reply<()> },
    /// A program's word on its own check.
    Report { instance: InstanceId, check: CheckName, status: Health, output: Arc<str>, reply: Reply<()> },
    /// Have a member that is Down forgotten.
    ForceLeave { id: NodeId, reply: Reply<()> },
    /// Take an instance or the node out of service, or back.
    Maintain { instance: Option<InstanceId>, reason: Option<Arc<str>>, reply: Reply<()> },
    /// Say goodbye and stop.
    Leave,
}

/// The queues that the loop listens to.
pub(super) struct Inbox {
    pub(super) asks: mpsc::Receiver<Ask>,
    /// Who wants to look. A queue of its own: asks wait while the disk is behind.
    pub(super) looks: mpsc::Receiver<Look>,
    pub(super) arrivals: mpsc::Receiver<Arrival>,
    pub(super) completed: mpsc::UnboundedReceiver<Completed>,
}

/// All that the loop owns.
pub(super) struct Drive {
    pub(super) mesh: Mesh,
    pub(super) clock: Clock,
    pub(super) view: Arc<View>,
    pub(super) status: Arc<Status>,
    pub(super) journal: Arc<Journal>,
    pub(super) greeter: Arc<Greeter>,
    pub(super) peers: Peers,
    /// The tasks of links, to wait for when leaving.
    pub(super) link_tasks: TaskTracker,
    /// How many links stand.
    pub(super) links: watch::Sender<usize>,
    pub(super) writes: Writes,
    pub(super) agenda: Agenda,
}

/// What the loop has to remember until it gets to it.
pub(super) struct Agenda {
    changed: BTreeSet<Change>,
    told: Vec<Told>,
    /// When to serve what is stored, mesh or not; `None` once answers are given, and while they are held.
    pub(super) ready_at: Option<Instant>,
    /// The same while answers wait for a word.
    pub(super) held: Option<Instant>,
    /// From when on the fingerprint may be computed again.
    sum_at: Instant,
    /// Whether something has changed since it was: then the loop wakes for it.
    unsummed: bool,
    /// Why seeds are of no use; empty while anybody is connected.
    failed: BTreeMap<SocketAddr, String>,
    pub(super) known: Known,
    pub(super) knocks: Knocks,
    disputes: Disputes,
    ending: Option<Ending>,
}

enum Ending {
    /// Somebody asked, or nobody holds a handle any more.
    Leave,
    /// Another node has our name: go without a word, for the goodbye would be his.
    Yield(String),
}

impl Agenda {
    pub(super) fn new(ready_after: Duration, known: Vec<KnownPeer>) -> Self {
        let now = Instant::now();
        Self {
            changed: BTreeSet::new(),
            told: Vec::new(),
            ready_at: None,
            held: Some(now + ready_after),
            sum_at: now,
            unsummed: false,
            failed: BTreeMap::new(),
            known: Known::new(known),
            knocks: Knocks::new(),
            disputes: Disputes::default(),
            ending: None,
        }
    }
}

impl Drive {
    /// Publishes what was restored, before anybody can ask. With nobody to `seek`, that is all there is to know.
    pub(super) fn begin(&mut self, seek: &Seek) {
        for registration in self.writes.own() {
            self.view.set_registration(&registration.id, Some(Arc::clone(registration)));
            self.writes.watch(&self.mesh, registration);
        }
        self.drain();
        if seek.is_idle() {
            self.join(Vec::new());
        }
        self.publish();
    }

    /// Runs until told to leave; the reason if it stops for another.
    pub(super) async fn run(mut self, mut inbox: Inbox) -> Result<(), String> {
        let timer = sleep_until(self.wake_at());
        tokio::pin!(timer);
        while !(self.agenda.ending.is_some() && self.writes.is_empty()) {
            if timer.deadline() != self.wake_at() {
                timer.as_mut().reset(self.wake_at());
            }
            tokio::select! {
                ask = inbox.asks.recv(), if !self.writes.is_full() && self.agenda.ending.is_none() => match ask {
                    Some(ask) => self.ask(ask),
                    None => self.agenda.ending = Some(Ending::Leave),
                },
                Some(arrival) = inbox.arrivals.recv() => self.arrive(arrival),
                Some(look) = inbox.looks.recv() => self.show(look),
                Some(completed) = inbox.completed.recv() => self.complete(&completed),
                () = &mut timer => {}
            }
            self.take_more(&mut inbox);
            self.keep_time();
            self.publish();
        }
        self.stop(inbox).await
    }

    /// What else has come in: one publication for all of it.
    fn take_more(&mut self, inbox: &mut Inbox) {
        for _ in 0..MAX_BATCH {
            let Ok(arrival) = inbox.arrivals.try_recv() else { break };
            self.arrive(arrival);
        }
        while let Ok(completed) = inbox.completed.try_recv() {
            self.complete(&completed);
        }
        for _ in 0..MAX_BATCH {
            if self.writes.is_full() || self.agenda.ending.is_some() {
                break;
            }
            let Ok(ask) = inbox.asks.try_recv() else { break };
            self.ask(ask);
        }
    }

    fn ask(&mut self, ask: Ask) {
        let Some(ask) = self.writes.hold(ask) else { return };
        let told = match ask {
            Ask::Put { registration, over, row, reply } => {
                let own = self.view.row(&registration.id);
                let told = self.writes.put(registration, over, row, reply);
                if let (Some(Told::Put(_, Ok(Done::Unchanged))), Some(own)) = (&told, own) {
                    // Nothing to store; but who is silent until a TTL runs out has spoken.
                    let _ = self.command(Command::Register(own));
                    self.drain();
                }
                told
            }
            Ask::Remove { id, over, reply } => self.writes.remove(id, over, reply),
            Ask::Report { instance, check, status, output, reply } => {
                let report = Command::Report { instance: instance.clone(), check, status, output };
                let done = self.command(report);
                self.drain();
                match done {
                    Ok(_) => self.writes.witness(instance, reply),
                    Err(rejected) => Some(Told::Other(reply, Err(rejected.into()))),
                }
            }
            Ask::ForceLeave { id, reply } => {
                let done = self.command(Command::ForceLeave(id));
                self.drain();
                Some(Told::Other(reply, done.map(drop).map_err(Into::into)))
            }
            Ask::Maintain { instance, reason, reply } => self.writes.maintain(&self.mesh, instance, reason, reply),
            Ask::Leave => {
                self.agenda.ending = Some(Ending::Leave);
                None
            }
        };
        self.agenda.told.extend(told);
    }

    fn complete(&mut self, completed: &Completed) {
        self.greeter.traffic.commits.add(1);
        let done = self.writes.confirmed(completed);
        // To take back what failed needs no room, and tells nothing of the next write.
        if completed.outcome.is_err() || !done.iter().all(Pending::is_mend) {
            self.status.unstored.store(completed.outcome.as_ref().err().cloned().map(Arc::new));
        }
        let asked = done.iter().any(Pending::is_asked);
        for write in done {
            let now = self.now();
            self.agenda.told.extend(self.writes.apply(&mut self.mesh, &self.view, now, write, &completed.outcome));
            self.drain();
        }
        self.writes.held().into_iter().for_each(|ask| self.ask(ask));
        if asked {
            self.writes.mend();
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        let inputs = match arrival {
            Arrival::Input(input) => return self.handle(input),
            Arrival::Met(met, target) => {
                let holder = self.holder(met.hello.id);
                self.peers.meet(met, target, holder)
            }
            Arrival::Judged(newcomer, holder) => self.peers.judge(newcomer, holder),
            Arrival::Missed(target, why) => {
                match target {
                    Target::Seed(seed) => self.note_failed(seed, &why),
                    Target::Peer(peer) => tracing::debug!(event = "dial_failed", %peer, %why),
                }
                match why {
                    Missed::NameInUse(holder) => self.yield_name(holder),
                    Missed::NameSaidInUse(by, holder) => self.check_holder(by, holder),
                    _ => {}
                }
                self.peers.miss(target).into_iter().collect()
            }
            Arrival::Ended { peer, serial, gone } => self.peers.end(peer, serial, gone).into_iter().collect(),
            Arrival::NameInUse(holder) => return self.yield_name(holder),
            Arrival::NameDisputed(by, holder) => return self.check_holder(by, holder),
            Arrival::Found(addresses) => return self.join(addresses),
            Arrival::Renewed => return self.renewed(),
            Arrival::Round => return self.expire(),
            Arrival::Decreed => {
                self.peers.recheck(&[Objection::Revoked]);
                vec![Input::Renewed]
            }
            Arrival::Moved(addresses) => return self.moved(addresses),
        };
        inputs.into_iter().for_each(|input| self.handle(input));
    }

    pub(super) fn expire(&mut self) {
        self.peers.expire(unix_millis());
    }

    fn join(&mut self, addresses: Vec<SocketAddr>) {
        // Refused only while leaving, when nobody is sought any more.
        let _ = self.command(Command::Join(addresses));
        self.drain();
    }

    /// One mutation, then drain: the first law.
    pub(super) fn handle(&mut self, input: Input) {
        let now = self.now();
        self.mesh.handle(now, input);
        self.drain();
    }

    pub(super) fn drain(&mut self) {
        while let Some(output) = self.mesh.poll() {
            match output {
                Output::Packet(to, packet) => {
                    self.peers.send(to, Parcel::Packet(packet), || self.mesh.addresses(to).to_vec());
                }
                Output::Message(to, message) => {
                    self.peers.send(to, Parcel::Message(message), || self.mesh.addresses(to).to_vec());
                }
                Output::Dial(address) => self.peers.dial_seed(address),
                Output::Drop(id) => self.peers.forget(id),
                Output::Expel(id, why) => self.peers.expel(id, why),
                Output::Changed(changes) if self.agenda.changed.is_empty() => self.agenda.changed = changes,
                Output::Changed(changes) => self.agenda.changed.extend(changes),
                Output::Event(event) => self.tell(event),
                Output::Here(id) => self.answered(id),
                Output::Keep(instance) => self.writes.keep(instance),
                Output::Spoken(id) => self.view.set_words(&id, self.mesh.health_report(&id)),
                Output::Expired(id) => {
                    tracing::warn!(event = "expired", %id, "critical for too long: deregistered");
                    self.writes.expire(&self.view, id);
                }
                Output::Risen(epoch) => self.writes.keep_epoch(epoch),
                Output::NameInUse => tracing::warn!(
                    event = "renewals_exhausted",
                    "this node is taken for dead again and again; is another one of its name alive?"
                ),
            }
        }
    }

    /// Says once why a seed is of no use, and keeps it for whoever asks why this node is not ready.
    fn note_failed(&mut self, seed: SocketAddr, why: &Missed) {
        let why = why.to_string();
        let failed = &self.agenda.failed;
        if failed.get(&seed) == Some(&why) || failed.len() >= MAX_FAILED {
            return;
        }
        if let Some(unsaid) = self.unsaid(Subject::Seed(seed)) {
            tracing::warn!(event = "seed_failed", %seed, why, unsaid);
        }
        let failed = &mut self.agenda.failed;
        failed.insert(seed, why);
        let sentences = failed.iter().map(|(seed, why)| format!("seed {seed} cannot be joined: {why}"));
        self.status.failed.store(Arc::new(sentences.collect()));
    }

    /// A peer says that we share our name: before we go, the other one must answer.
    fn check_holder(&mut self, by: NodeId, holder: SocketAddr) {
        if self.agenda.disputes.are_looked_into(by, holder, Instant::now()) {
            tokio::spawn(namesake::check_holder(Arc::clone(&self.greeter), holder, self.peers.arrivals()));
        }
    }

    fn yield_name(&mut self, holder: SocketAddr) {
        let name = &self.greeter.hello.load().node.name;
        self.agenda.ending = Some(Ending::Yield(format!(
            "another living node is called {name} at {holder}; give this one another name with --node"
        )));
    }

    /// Publishes each changed name once, then lets the replies go.
    fn publish(&mut self) {
        let now = Instant::now();
        self.agenda.unsummed |= self.agenda.changed.iter().any(|change| !matches!(change, Change::Distance(_)));
        if self.agenda.sum_at <= now {
            self.agenda.sum_at = now + SUM_EVERY;
            self.agenda.unsummed = false;
            self.name_the_awaited();
            self.status.fingerprint.store(self.mesh.root(), Ordering::Relaxed);
            self.status.agreement.store(self.mesh.agreement().to_bits(), Ordering::Relaxed);
        }
        self.writes.keep_reports(&self.mesh, now);
        let changed = std::mem::take(&mut self.agenda.changed);
        for change in changed {
            match change {
                Change::Service(name) => {
                    let (rows, unshown) = self.mesh.words(&name);
                    self.tell_of_health(&name, &rows);
                    self.view.set_unshown(&name, unshown);
                    self.view.set_service(&name, Some(rows).filter(|rows| !rows.is_empty()));
                }
                Change::Member(id) => {
                    self.agenda.known.changed(now, id);
                    self.publish_member(id);
                }
                Change::Distance(id) => self.publish_member(id),
                // Asked for below: it may have come before there was anybody to tell.
                Change::Ready => {}
            }
        }
        self.name_the_unvouched();
        if self.view.has_news() {
            self.view.advance();
        }
        let links = self.peers.links();
        self.links.send_if_modified(|known| std::mem::replace(known, links) != links);
        if links > 0 && self.mesh.is_ready() && !self.agenda.failed.is_empty() {
            self.agenda.failed.clear();
            self.status.failed.store(Arc::default());
        }
        if self.agenda.ready_at.is_some() && self.mesh.is_ready() {
            self.open("all is heard, or there is nobody to hear", None);
        }
        self.agenda.told.drain(..).for_each(Told::send);
    }

    fn publish_member(&mut self, id: NodeId) {
        match self.mesh.member(id) {
            Some(member) => {
                self.tell_of_move(&member);
                if id == self.mesh.id() {
                    self.view.set_this(member.clone());
                    self.greeter.hello.store(Arc::new(self.mesh.hello()));
                }
                self.view.set_node(&Arc::clone(&member.node).name, Some(member));
            }
            None => {
                if let Some(gone) = self.view.node_by_id(id) {
                    self.view.set_node(&gone.node.name, None);
                }
            }
        }
    }

    fn open(&mut self, why: &str, unheard: Option<String>) {
        self.agenda.ready_at = None;
        self.agenda.known.hurry(Instant::now());
        self.view.set_ready(true);
        tracing::info!(event = "ready", why, unheard);
    }

    /// The earliest of all that waits for a moment.
    fn wake_at(&self) -> Instant {
        let sum_at = self.agenda.unsummed.then_some(self.agenda.sum_at);
        let own = [self.agenda.ready_at, self.agenda.known.at(), self.writes.again_at(), sum_at];
        let own = own.into_iter().flatten().min();
        let core = self.clock.instant(self.mesh.deadline());
        own.map_or(core, |own| own.min(core))
    }

    /// Does what is due.
    fn keep_time(&mut self) {
        if self.mesh.deadline() <= self.clock.now() {
            self.handle(Input::Wake);
        }
        let now = Instant::now();
        if self.agenda.ready_at.is_some_and(|at| at <= now) {
            self.name_the_awaited();
            self.handle(Input::Waited);
            let awaited = self.status.awaited.load();
            let unheard = (!awaited.is_empty()).then(|| awaited.join(", "));
            self.open("nobody who knows the mesh was found in time: serving what is known", unheard);
        }
        self.keep_known(now);
    }

    /// Says goodbye where that is due, lets the links flush, closes port and store.
    async fn stop(mut self, inbox: Inbox) -> Result<(), String> {
        // Tasks that report must not wait for a loop that no longer listens.
        drop(inbox);
        let (code, outcome) = match self.agenda.ending.take() {
            Some(Ending::Yield(why)) => (Code::Closed, Err(why)),
            Some(Ending::Leave) | None => {
                self.save_known();
                // A core that is leaving already refuses, and that is fine.
                let _ = self.command(Command::Leave);
                self.drain();
                self.peers.leave();
                self.link_tasks.close();
                // Whoever does not listen by then finds out by probing.
                let _ = timeout(FLUSH, self.link_tasks.wait()).await;
                (Code::Leave, Ok(()))
            }
        };
        self.view.set_ready(false);
        self.greeter.endpoint.close(code.into(), b"");
        let _ = timeout(GOODBYE, self.greeter.endpoint.wait_idle()).await;
        self.writes.finish(&self.mesh);
        let writes = self.writes;
        // A panic in the store's thread is already in the log.
        let _ = tokio::task::spawn_blocking(|| writes.close()).await;
        tracing::info!(event = "stopped", outcome = ?outcome);
        outcome
    }
}

/// Inputs of one kind taken for each wake: many enough to share a publication, few enough to keep time.
const MAX_BATCH: usize = 256;
/// Seeds that failed and are remembered: enough to see what is wrong.
const MAX_FAILED: usize = 64;
/// The fingerprint costs a walk over the books' hashes: not for each packet.
const SUM_EVERY: Duration = Duration::from_secs(1);
/// How long a goodbye may take to leave.
const FLUSH: Duration = Duration::from_millis(500);
/// How long peers may take to acknowledge that we closed.
const GOODBYE: Duration = Duration::from_millis(300);
