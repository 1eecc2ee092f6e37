//! Writes on their way: checked, then on disk, then in the mesh, then answered; two to one id never overtake each other.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use tokio::sync::oneshot;

use super::{
    Refused, View,
    store::{self, Completed, KnownPeer, Store, Write},
};
use crate::{
    mesh::{Command, Done, Mesh, Rejected},
    model::{InstanceId, Registration, Time},
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

/// One write that the store has not yet confirmed.
pub(super) enum Pending {
    Put(Arc<Registration>, Reply<Done>),
    Remove(InstanceId, Reply<()>),
    /// Nobody waits for it.
    Unasked,
}

/// The funnel. One write goes in by `put` or `remove`, and comes out by `apply` once it is durable.
pub(super) struct Writes {
    store: Store,
    pending: VecDeque<Pending>,
    /// How many pending writes each id has.
    ids: HashMap<InstanceId, usize>,
    /// Registrations of this node, those on their way included.
    own: usize,
}

impl Writes {
    pub(super) fn new(store: Store, own: usize) -> Self {
        Self { store, pending: VecDeque::new(), ids: HashMap::new(), own }
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
        mesh: &Mesh,
        registration: Arc<Registration>,
        row: Vec<u8>,
        reply: Reply<Done>,
    ) -> Option<Told> {
        let id = registration.id.clone();
        let on_its_way = self.ids.contains_key(&id);
        let present = mesh.registration(&id);
        if !on_its_way && present == Some(&registration) {
            return Some(Told::Put(reply, Ok(Done::Unchanged)));
        }
        if !on_its_way && present.is_none() && self.own + self.pending.len() >= MAX_REGISTRATIONS {
            return Some(Told::Put(reply, Err(Rejected::Full(LIMIT).into())));
        }
        self.submit(Write::Row(id, Some(row)), Pending::Put(registration, reply));
        None
    }

    /// Takes in a withdrawal. An answer means that there is nothing to withdraw.
    pub(super) fn remove(&mut self, mesh: &Mesh, id: InstanceId, reply: Reply<()>) -> Option<Told> {
        if !self.ids.contains_key(&id) && mesh.registration(&id).is_none() {
            return Some(Told::Other(reply, Err(not_found(&id))));
        }
        self.submit(Write::Row(id.clone(), None), Pending::Remove(id, reply));
        None
    }

    /// Stores the peers to start from next time.
    pub(super) fn keep_peers(&mut self, peers: Vec<KnownPeer>) {
        self.submit(Write::Peers(peers), Pending::Unasked);
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
        let failed = outcome.as_ref().err().map(|why| Refused::Store(why.clone()));
        match (write, failed) {
            (Pending::Put(_, reply), Some(why)) => Some(Told::Put(reply, Err(why))),
            (Pending::Remove(_, reply), Some(why)) => Some(Told::Other(reply, Err(why))),
            (Pending::Unasked, _) => None,
            (Pending::Put(registration, reply), None) => {
                let id = registration.id.clone();
                let answer = mesh.command(now, Command::Register(Arc::clone(&registration)));
                match &answer {
                    Ok(done) => {
                        self.own += usize::from(*done == Done::Created);
                        view.set_registration(&id, Some(registration));
                    }
                    Err(_) => self.restore(mesh, id),
                }
                Some(Told::Put(reply, answer.map_err(Into::into)))
            }
            (Pending::Remove(id, reply), None) => {
                let answer = mesh.command(now, Command::Deregister(id.clone()));
                match &answer {
                    Ok(_) => {
                        self.own = self.own.saturating_sub(1);
                        view.set_registration(&id, None);
                    }
                    Err(_) => self.restore(mesh, id),
                }
                Some(Told::Other(reply, answer.map(drop).map_err(Into::into)))
            }
        }
    }

    /// The mesh refused what the disk already holds: the disk goes back to what the mesh says.
    fn restore(&mut self, mesh: &Mesh, id: InstanceId) {
        let row = mesh.registration(&id).and_then(|registration| store::row(registration).ok());
        self.submit(Write::Row(id, row), Pending::Unasked);
    }

    /// Releases the store. Blocks on the disk.
    pub(super) fn close(self) {
        self.store.close();
    }
}

impl Pending {
    fn id(&self) -> Option<&InstanceId> {
        match self {
            Self::Put(registration, _) => Some(&registration.id),
            Self::Remove(id, _) => Some(id),
            Self::Unasked => None,
        }
    }
}

fn not_found(id: &InstanceId) -> Refused {
    Rejected::NotFound(format!("registration {id:?}")).into()
}

/// Writes that wait for the disk: beyond it callers wait before they are taken in.
const MAX_PENDING: usize = 4096;
/// The most registrations of one node. The store loads so many within a second, and peers bound what they accept.
const MAX_REGISTRATIONS: usize = 100_000;
const LIMIT: &str = "100,000 registrations";
