//! Writes on their way: checked, then on disk, then in the mesh, then answered; two to one id never overtake each other.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use super::{
    Refused, View,
    checks::Checks,
    drive::Ask,
    store::{self, Completed, KnownPeer, Store, Write},
};
use crate::{
    mesh::{Command, Done, Mesh, Rejected},
    model::{Epoch, HealthReport, Host, InstanceId, Registration, Time},
};

/// The answer to one ask.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Refused>>;

/// An answer held back until the view is published.
pub(super) enum Told {
    Put(Reply<Done>, Result<Done, Refused>),
    Other(Reply<()>, Result<(), Refused>),
}

impl Told {
    /// Who no longer waits is not told.
    pub(super) fn send(self) {
        match self {
            Self::Put(reply, answer) => drop(reply.send(answer)),
            Self::Other(reply, answer) => drop(reply.send(answer)),
        }
    }
}

/// What must stand under an id for a write to be carried out.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Over {
    /// Whatever there is.
    #[default]
    Anything,
    /// Nothing at all.
    Nothing,
    /// This, as it was read.
    This(Arc<Registration>),
}

impl Over {
    fn check(&self, id: &InstanceId, present: Option<&Arc<Registration>>) -> Result<(), Refused> {
        match (self, present) {
            (Self::Anything, _) | (Self::Nothing, None) => Ok(()),
            (Self::This(wanted), Some(present)) if wanted == present => Ok(()),
            _ => Err(Refused::Outdated(id.clone())),
        }
    }
}

/// One write that the store has not yet confirmed.
pub(super) enum Pending {
    Put(Arc<Registration>, Over, Reply<Done>),
    Remove(InstanceId, Over, Reply<()>),
    /// The disk goes back to what is true; nobody waits for it.
    Mend(InstanceId),
    /// An instance, or with `None` the node, out of service or back.
    Maintain(Option<InstanceId>, Option<Arc<str>>, Reply<()>),
    /// Where the checks of these stand, and who has said so and waits.
    Reports(BTreeSet<Option<InstanceId>>, Vec<Reply<()>>),
    /// Nor for that.
    Unasked,
}

/// The funnel. One write goes in by `put` or `remove`, and comes out by `apply` once it is durable.
pub(super) struct Writes {
    store: Store,
    pending: VecDeque<Pending>,
    /// What waits for one of them to the same id.
    held: Vec<Ask>,
    /// How many pending writes each id has.
    ids: HashMap<InstanceId, usize>,
    /// What is registered on this node, checks and all: the mesh's rows are without them.
    own: HashMap<InstanceId, Arc<Registration>>,
    /// Ids for which the disk may say something else than `own`: a write failed, or the mesh refused or expired it.
    doubtful: BTreeSet<InstanceId>,
    /// Who runs their checks.
    checks: Checks,
    /// Whose health is to be kept; the node's maintenance stands under `None`.
    unkept: BTreeSet<Option<InstanceId>>,
    /// Who waits for theirs to be kept.
    witnesses: Vec<Reply<()>>,
    /// Whether that of others is on its way: the next waits for it, so that a storm of flips costs one write at a time.
    keeping: bool,
    /// How many take something out of service or back: what is kept meanwhile must not undo it.
    maintaining: usize,
    /// When the disk, which failed, is tried again.
    again_at: Option<Instant>,
}

impl Writes {
    pub(super) fn new(store: Store, checks: Checks, own: impl IntoIterator<Item = Arc<Registration>>) -> Self {
        let own = own.into_iter().map(|registration| (registration.id.clone(), registration)).collect();
        Self {
            store,
            pending: VecDeque::new(),
            held: Vec::new(),
            ids: HashMap::new(),
            own,
            doubtful: BTreeSet::new(),
            checks,
            unkept: BTreeSet::new(),
            witnesses: Vec::new(),
            keeping: false,
            maintaining: 0,
            again_at: None,
        }
    }

    /// What is registered on this node.
    pub(super) fn own(&self) -> impl Iterator<Item = &Arc<Registration>> {
        self.own.values()
    }

    /// Whether no further write should be taken in now.
    pub(super) fn is_full(&self) -> bool {
        self.pending.len() + self.held.len() + self.witnesses.len() >= MAX_PENDING
    }

    /// Keeps back a write on condition while another to its id is on its way: it is judged by what that leaves, before it
    /// reaches the disk, where a crash would find what nobody was told.
    pub(super) fn hold(&mut self, ask: Ask) -> Option<Ask> {
        let (id, over) = match &ask {
            Ask::Put { registration, over, .. } => (&registration.id, over),
            Ask::Remove { id, over, .. } => (id, over),
            _ => return Some(ask),
        };
        if *over == Over::Anything || !self.ids.contains_key(id) {
            return Some(ask);
        }
        self.held.push(ask);
        None
    }

    /// What was kept back until now. There is none where nothing is on its way.
    pub(super) fn held(&mut self) -> Vec<Ask> {
        std::mem::take(&mut self.held)
    }

    /// Whether nothing is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Takes in a registration whose row is rendered already. An answer means that there is nothing to store.
    pub(super) fn put(
        &mut self,
        registration: Arc<Registration>,
        over: Over,
        row: store::Row,
        reply: Reply<Done>,
    ) -> Option<Told> {
        let id = registration.id.clone();
        let on_its_way = self.ids.contains_key(&id);
        let present = self.own.get(&id);
        if !on_its_way && let Err(refused) = over.check(&id, present) {
            return Some(Told::Put(reply, Err(refused)));
        }
        if !on_its_way && present == Some(&registration) {
            return Some(Told::Put(reply, Ok(Done::Unchanged)));
        }
        if !on_its_way && present.is_none() && self.own.len() + self.pending.len() >= MAX_REGISTRATIONS {
            return Some(Told::Put(reply, Err(Rejected::Full(LIMIT).into())));
        }
        self.submit(Write::Row(id, Some(row)), Pending::Put(registration, over, reply));
        None
    }

    /// Takes in a withdrawal. An answer means that there is nothing to withdraw.
    pub(super) fn remove(&mut self, id: InstanceId, over: Over, reply: Reply<()>) -> Option<Told> {
        if !self.ids.contains_key(&id) {
            let present = self.own.get(&id).ok_or_else(|| not_found(&id));
            if let Err(refused) = present.and_then(|present| over.check(&id, Some(present))) {
                return Some(Told::Other(reply, Err(refused)));
            }
        }
        self.submit(Write::Row(id.clone(), None), Pending::Remove(id, over, reply));
        None
    }

    /// The mesh has withdrawn an instance by itself.
    pub(super) fn expire(&mut self, view: &View, id: InstanceId) {
        self.own.remove(&id);
        self.checks.forget(&id);
        view.set_registration(&id, None);
        self.doubtful.insert(id);
        self.mend();
    }

    /// Stores the peers to start from next time.
    pub(super) fn keep_peers(&mut self, peers: Vec<KnownPeer>) {
        self.submit(Write::Peers(peers), Pending::Unasked);
    }

    /// Notes that somebody's health is to be kept. A disk that failed is tried with it at once.
    pub(super) fn keep(&mut self, instance: Option<InstanceId>) {
        self.unkept.insert(instance);
        self.again_at = None;
    }

    /// Answers who has reported on an instance, at once if nothing is to be kept of it, else when that is on the disk. A
    /// disk that fails is no reason to refuse what the mesh knows already: the agent says that elsewhere.
    pub(super) fn witness(&mut self, instance: InstanceId, reply: Reply<()>) -> Option<Told> {
        if self.again_at.is_some() || !self.unkept.contains(&Some(instance)) {
            return Some(Told::Other(reply, Ok(())));
        }
        self.witnesses.push(reply);
        None
    }

    /// Takes in what takes an instance or the node out of service, or back. An answer means that there is nothing to do.
    pub(super) fn maintain(
        &mut self,
        mesh: &Mesh,
        instance: Option<InstanceId>,
        reason: Option<Arc<str>>,
        reply: Reply<()>,
    ) -> Option<Told> {
        match mesh.foresee_maintenance(instance.as_ref(), reason.as_ref()) {
            Ok(Done::Changed | Done::Created) => {}
            done => return Some(Told::Other(reply, done.map(drop).map_err(Into::into))),
        }
        let report = report(mesh, instance.as_ref()).unwrap_or_default();
        let report = HealthReport { maintenance: reason.clone(), ..report };
        let report = Some(report).filter(|report| *report != HealthReport::default());
        self.maintaining += 1;
        self.submit(Write::Reports(vec![(key(instance.as_ref()), report)]), Pending::Maintain(instance, reason, reply));
        None
    }

    /// When the disk is to be tried again, if it failed.
    pub(super) const fn again_at(&self) -> Option<Instant> {
        self.again_at
    }

    /// Stores what is to be kept of healths, unless that of others is on its way or the disk is given time.
    pub(super) fn keep_reports(&mut self, mesh: &Mesh, now: Instant) {
        match self.again_at {
            Some(at) if at > now => return,
            Some(_) => {
                self.again_at = None;
                self.mend();
            }
            None => {}
        }
        if !self.keeping && self.maintaining == 0 {
            self.keep_all(mesh);
        }
    }

    fn keep_all(&mut self, mesh: &Mesh) {
        if self.unkept.is_empty() {
            return;
        }
        let (kept, witnesses) = (std::mem::take(&mut self.unkept), std::mem::take(&mut self.witnesses));
        let reports = kept.iter().map(|id| (key(id.as_ref()), report(mesh, id.as_ref()))).collect();
        self.keeping = true;
        self.submit(Write::Reports(reports), Pending::Reports(kept, witnesses));
    }

    fn submit(&mut self, write: Write, pending: Pending) {
        if let Some(id) = pending.id() {
            *self.ids.entry(id.clone()).or_default() += 1;
        }
        self.pending.push_back(pending);
        self.store.submit(write);
    }

    /// The writes that the store has just confirmed or failed, oldest first.
    pub(super) fn confirmed(&mut self, completed: &Completed) -> Vec<Pending> {
        let done: Vec<_> = self.pending.drain(..completed.writes.min(self.pending.len())).collect();
        for id in done.iter().filter_map(Pending::id) {
            if let Some(count) = self.ids.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    self.ids.remove(id);
                }
            }
        }
        done
    }

    /// Brings a durable write into the mesh and the list of own registrations.
    pub(super) fn apply(
        &mut self,
        mesh: &mut Mesh,
        view: &View,
        now: Time,
        write: Pending,
        outcome: &Result<(), String>,
    ) -> Option<Told> {
        if outcome.is_err() && matches!(write, Pending::Mend(_) | Pending::Reports(..) | Pending::Maintain(..)) {
            self.again_at = Some(Instant::now() + TRY_AGAIN);
            // The next try is no reason to have anybody wait.
            self.witnesses.drain(..).for_each(|reply| Told::Other(reply, Ok(())).send());
        }
        let stored = match (outcome, write.id()) {
            (Ok(()), Some(id)) => {
                self.doubtful.remove(id);
                Ok(())
            }
            (Err(why), Some(id)) => {
                self.doubtful.insert(id.clone());
                Err(Refused::Store(why.clone()))
            }
            (outcome, None) => outcome.clone().map_err(Refused::Store),
        };
        match write {
            Pending::Put(registration, over, reply) => {
                let may = stored.and_then(|()| self.check(&registration.id, &over));
                let done = may.and_then(|()| self.register(mesh, view, now, registration));
                Some(Told::Put(reply, done))
            }
            Pending::Remove(id, over, reply) => {
                let may = stored.and_then(|()| self.check(&id, &over));
                let done = may.and_then(|()| self.deregister(mesh, view, now, id));
                Some(Told::Other(reply, done))
            }
            Pending::Maintain(instance, reason, reply) => {
                self.maintaining -= 1;
                let command = Command::Maintain { instance: instance.clone(), reason };
                let done = stored.and_then(|()| Ok(mesh.command(now, command).map(drop)?));
                if done.is_err() {
                    self.unkept.insert(instance);
                }
                Some(Told::Other(reply, done))
            }
            Pending::Reports(kept, witnesses) => {
                self.keeping = false;
                if stored.is_err() {
                    self.unkept.extend(kept);
                }
                witnesses.into_iter().for_each(|reply| Told::Other(reply, Ok(())).send());
                None
            }
            Pending::Mend(_) | Pending::Unasked => None,
        }
    }

    /// Whether what stands under an id now, after the writes that went before, is what it was to be.
    fn check(&mut self, id: &InstanceId, over: &Over) -> Result<(), Refused> {
        let met = over.check(id, self.own.get(id));
        if met.is_err() {
            self.doubtful.insert(id.clone());
        }
        met
    }

    fn register(
        &mut self,
        mesh: &mut Mesh,
        view: &View,
        now: Time,
        registration: Arc<Registration>,
    ) -> Result<Done, Refused> {
        let id = registration.id.clone();
        let done = mesh.command(now, Command::Register(Arc::clone(&registration)));
        if done.is_ok() {
            view.set_registration(&id, Some(Arc::clone(&registration)));
            self.watch(mesh, &registration);
            self.own.insert(id, registration);
        } else {
            self.doubtful.insert(id);
        }
        Ok(done?)
    }

    /// Has an instance's checks run, and those it had before no more.
    pub(super) fn watch(&self, mesh: &Mesh, registration: &Arc<Registration>) {
        let address = mesh.addresses(mesh.id()).first();
        self.checks.watch(registration, Host::Address(address.map_or(Ipv4Addr::LOCALHOST.into(), |at| at.ip())));
    }

    fn deregister(&mut self, mesh: &mut Mesh, view: &View, now: Time, id: InstanceId) -> Result<(), Refused> {
        let done = mesh.command(now, Command::Deregister(id.clone()));
        if done.is_ok() {
            view.set_registration(&id, None);
            self.checks.forget(&id);
            self.own.remove(&id);
        } else {
            self.doubtful.insert(id);
        }
        Ok(done.map(drop)?)
    }

    /// Has the next life of this node begin above this epoch.
    pub(super) fn keep_epoch(&mut self, epoch: Epoch) {
        self.submit(Write::Epoch(epoch), Pending::Unasked);
    }

    /// Brings the disk back to what is true where it may say something else, so that no refused write rises at the next
    /// start. What has a write on its way waits for that. A mend that fails is tried again with the next write, or soon.
    pub(super) fn mend(&mut self) {
        let still: Vec<_> = self.doubtful.iter().filter(|id| !self.ids.contains_key(*id)).cloned().collect();
        for id in still {
            let row = self.own.get(&id).and_then(|registration| store::row(registration).ok());
            self.submit(Write::Row(id.clone(), row), Pending::Mend(id));
        }
    }

    /// Stores what is left to be kept.
    pub(super) fn finish(&mut self, mesh: &Mesh) {
        self.mend();
        self.keep_all(mesh);
    }

    /// Releases the store. Blocks on the disk.
    pub(super) fn close(self) {
        self.store.close();
    }
}

impl Pending {
    /// Whether somebody waits for it.
    pub(super) fn is_asked(&self) -> bool {
        matches!(self, Self::Put(..) | Self::Remove(..))
    }

    pub(super) const fn is_mend(&self) -> bool {
        matches!(self, Self::Mend(_))
    }

    fn id(&self) -> Option<&InstanceId> {
        match self {
            Self::Put(registration, ..) => Some(&registration.id),
            Self::Remove(id, ..) | Self::Mend(id) => Some(id),
            Self::Maintain(..) | Self::Reports(..) | Self::Unasked => None,
        }
    }
}

/// What is to be kept of the health of an instance, or with `None` of the node.
fn report(mesh: &Mesh, instance: Option<&InstanceId>) -> Option<HealthReport> {
    match instance {
        Some(id) => mesh.health_report(id),
        None => mesh
            .maintenance()
            .map(|reason| HealthReport { maintenance: Some(Arc::clone(reason)), ..HealthReport::default() }),
    }
}

/// What it is kept under.
fn key(instance: Option<&InstanceId>) -> String {
    instance.map(ToString::to_string).unwrap_or_default()
}

fn not_found(id: &InstanceId) -> Refused {
    Rejected::NotFound(format!("registration {id:?}")).into()
}

/// Writes that wait for the disk: beyond it callers wait before they are taken in.
const MAX_PENDING: usize = 4096;
/// From one try of a disk that fails to the next: a full one sends no word when it has room.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// The most registrations of one node: with a check each, they fill the rows that peers accept of one owner.
const MAX_REGISTRATIONS: usize = 25_000;
const LIMIT: &str = "25,000 registrations";
