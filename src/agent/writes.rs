//! Writes on their way: checked, then on disk, then in the mesh, then answered; two to one id never overtake each other.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::Ipv4Addr,
    sync::Arc,
};

use tokio::sync::oneshot;

use super::{
    Refused, View,
    checks::Checks,
    store::{self, Completed, KnownPeer, Store, Write},
};
use crate::{
    mesh::{Command, Done, Mesh, Rejected},
    model::{HealthReport, Host, InstanceId, Registration, Time},
};

/// The answer to one ask.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Refused>>;

/// An answer held back until the view is published.
pub(super) enum Told {
    Put(Reply<Done>, Result<Done, Refused>),
    Other(Reply<()>, Result<(), Refused>),
    /// Those who wait until what they changed is kept.
    Kept(Vec<Reply<()>>, Result<(), String>),
}

impl Told {
    /// Who no longer waits is not told.
    pub(super) fn send(self) {
        match self {
            Self::Put(reply, answer) => drop(reply.send(answer)),
            Self::Other(reply, answer) => drop(reply.send(answer)),
            Self::Kept(replies, kept) => {
                for reply in replies {
                    let why = |why| Refused::Store(format!("{why} (what was asked for is in effect until a restart)"));
                    drop(reply.send(kept.clone().map_err(why)));
                }
            }
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
    /// Where checks stand; those wait for it who changed more than that.
    Reports(Vec<Reply<()>>),
    /// Nobody waits for it either.
    Peers,
}

/// The funnel. One write goes in by `put` or `remove`, and comes out by `apply` once it is durable.
pub(super) struct Writes {
    store: Store,
    pending: VecDeque<Pending>,
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
    /// Whether that of others is on its way: the next waits for it, so that a storm of flips costs one write at a time.
    keeping: bool,
    /// Who waits for what is not yet kept.
    waiting: Vec<Reply<()>>,
}

impl Writes {
    pub(super) fn new(store: Store, checks: Checks, own: impl IntoIterator<Item = Arc<Registration>>) -> Self {
        let own = own.into_iter().map(|registration| (registration.id.clone(), registration)).collect();
        Self {
            store,
            pending: VecDeque::new(),
            ids: HashMap::new(),
            own,
            doubtful: BTreeSet::new(),
            checks,
            unkept: BTreeSet::new(),
            keeping: false,
            waiting: Vec::new(),
        }
    }

    /// What is registered on this node.
    pub(super) fn own(&self) -> impl Iterator<Item = &Arc<Registration>> {
        self.own.values()
    }

    /// Whether no further write should be taken in now.
    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= MAX_PENDING
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
        self.submit(Write::Peers(peers), Pending::Peers);
    }

    /// Notes that somebody's health is to be kept.
    pub(super) fn keep(&mut self, instance: Option<InstanceId>) {
        self.unkept.insert(instance);
    }

    /// Takes in the outcome of a command whose effect is to be kept. An answer means that there is nothing to keep.
    pub(super) fn maintained(&mut self, reply: Reply<()>, done: Result<Done, Rejected>) -> Option<Told> {
        match done {
            Ok(Done::Changed | Done::Created) => {
                self.waiting.push(reply);
                None
            }
            done => Some(Told::Other(reply, done.map(drop).map_err(Into::into))),
        }
    }

    /// Stores what is to be kept of healths, unless that of others is on its way.
    pub(super) fn keep_reports(&mut self, mesh: &Mesh) {
        if self.keeping || self.unkept.is_empty() {
            return;
        }
        let report = |id: Option<InstanceId>| match id {
            Some(id) => (id.to_string(), mesh.health_report(&id)),
            None => {
                let reason = mesh.maintenance().cloned();
                (String::new(), reason.map(|reason| HealthReport { checks: Vec::new(), maintenance: Some(reason) }))
            }
        };
        let reports = std::mem::take(&mut self.unkept).into_iter().map(report).collect();
        let waiting = std::mem::take(&mut self.waiting);
        self.keeping = true;
        self.submit(Write::Reports(reports), Pending::Reports(waiting));
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
        if let Pending::Reports(waiting) = write {
            self.keeping = false;
            return Some(Told::Kept(waiting, outcome.clone()));
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
            (_, None) => return None,
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
            Pending::Mend(_) | Pending::Peers | Pending::Reports(_) => None,
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

    /// Brings the disk back to what is true where it may say something else, so that no refused write rises at the next
    /// start. What has a write on its way waits for that. A mend that fails is tried again with the next write.
    pub(super) fn mend(&mut self) {
        let still: Vec<_> = self.doubtful.iter().filter(|id| !self.ids.contains_key(*id)).cloned().collect();
        for id in still {
            let row = self.own.get(&id).and_then(|registration| store::row(registration).ok());
            self.submit(Write::Row(id.clone(), row), Pending::Mend(id));
        }
    }

    /// Releases the store. Blocks on the disk.
    pub(super) fn close(mut self) {
        self.mend();
        self.store.close();
    }
}

impl Pending {
    /// Whether somebody waits for it.
    pub(super) fn is_asked(&self) -> bool {
        matches!(self, Self::Put(..) | Self::Remove(..))
    }

    fn id(&self) -> Option<&InstanceId> {
        match self {
            Self::Put(registration, ..) => Some(&registration.id),
            Self::Remove(id, ..) | Self::Mend(id) => Some(id),
            Self::Peers | Self::Reports(_) => None,
        }
    }
}

fn not_found(id: &InstanceId) -> Refused {
    Rejected::NotFound(format!("registration {id:?}")).into()
}

/// Writes that wait for the disk: beyond it callers wait before they are taken in.
const MAX_PENDING: usize = 4096;
/// The most registrations of one node: with a check each, they fill the rows that peers accept of one owner.
const MAX_REGISTRATIONS: usize = 25_000;
const LIMIT: &str = "25,000 registrations";
