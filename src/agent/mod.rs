//! Floor 2b, the real driver: one task owns the mesh; quinn moves its packets, redb keeps what must not be lost.
//!
//! [`Agent`] is the handle that embedders and faces hold: `Clone + Send + Sync`, cheap to copy. Behind it runs the loop
//! (`drive`), which owns the mesh, the table of `peers` and the `writes` on their way to the `store`. Everything that
//! has to wait is a task that reports to it: a `link` for each connection, a `hello` for each dial and call, `seek`
//! while nobody is connected. `quic` and `trust` are the port and who may pass it.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the driver brings clock, chance and sockets")]

mod address;
mod atlas;
pub(crate) mod backlog;
mod basis;
pub(crate) mod birth;
mod builder;
pub mod checks;
pub(crate) mod child;
mod clock;
mod config;
mod dial;
mod door;
mod drive;
pub(crate) mod expiry;
pub(crate) mod file;
mod gazette;
mod hello;
mod journal;
mod judge;
pub(crate) mod keep;
mod known;
mod left;
pub(crate) mod limit;
mod lines;
mod link;
mod looks;
mod lookup;
mod marks;
mod namesake;
mod peers;
mod pulse;
mod quic;
mod registered;
mod rights;
mod scribe;
pub mod secret;
mod seek;
mod socket;
mod start;
mod status;
mod store;
mod tell;
#[cfg(test)]
mod tests;
mod traffic;
pub mod trust;
mod usher;
mod view;
pub(crate) mod vigil;
pub mod will;
mod writes;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot, watch};

pub use crate::mesh::PROTECT_FOR;
pub use atlas::Tenants;
pub use basis::Basis;
pub use builder::Builder;
pub use config::{Config, Opens};
pub use gazette::now as unix_millis;
pub use journal::{Entry, Flip, Journal, Move, News, Paper};
pub use looks::PATIENCE;
pub use lookup::{Changes, Instances, NoInstance};
pub use marks::Topic;
pub use registered::Registered;
pub use secret::Secret;
pub use store::{FILE as STORE, OPENING, Unusable};
pub(crate) use traffic::counters;
pub use traffic::{Counter, Tally, Traffic};
pub use usher::enrol;
pub use view::{NodeWord, Service, View, Waiter};
pub use will::Will;
pub use writes::Over;

use crate::{
    mesh::{Done, Rejected, Stats, fits},
    model::{CheckKind, CheckName, Health, InstanceId, NodeId, Registration, Time},
};
use clock::Clock;
use drive::Ask;
use looks::Look;
use status::Status;

/// A handle to a running agent.
#[derive(Clone, Debug)]
pub struct Agent {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    view: Arc<View>,
    config: Config,
    trust: Arc<trust::Trust>,
    gazette: mpsc::Sender<gazette::Heard>,
    address: SocketAddr,
    clock: Clock,
    status: Arc<Status>,
    traffic: Arc<Traffic>,
    /// The files that ask for registrations.
    defined: ArcSwap<BTreeMap<InstanceId, String>>,
    asks: mpsc::Sender<Ask>,
    looks: mpsc::Sender<Look>,
    seeds: mpsc::Sender<Vec<String>>,
    journal: Arc<Journal>,
    /// How the loop ended, once it has.
    stopped: watch::Receiver<Option<Result<(), String>>>,
    runtime: tokio::runtime::Handle,
}

/// Why an agent did not start. Nothing was left behind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The mesh port could not be opened.
    #[error("cannot listen on {address} (UDP): {why}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// The system's word on it.
        why: std::io::Error,
    },
    /// The data directory cannot be used.
    #[error("cannot use data directory {path}: {why}")]
    Data {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        why: Unusable,
    },
    /// Another process uses the data directory.
    #[error(
        "cannot use data directory {path}: another agent is using it: stop that one, or give this one another --data-dir"
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A setting makes no sense.
    #[error("{field} {why}")]
    Config {
        /// The setting.
        field: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// Why a write was refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The mesh does not take it.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// It is not, or no more, what whoever asks takes it for.
    #[error("registration {0:?} is not what it was to be by now: read it again")]
    Outdated(InstanceId),
    /// It stands in a file of this node.
    #[error("registration {0:?} is defined in {1}, and the next reload would undo this: edit that file")]
    Defined(InstanceId, String),
    /// The authority's word it cannot be.
    #[error("{0}")]
    Undecreed(String),
    /// It could not be stored durably.
    #[error("could not be stored: {0}")]
    Store(String),
    /// Who asks may not ask for that.
    #[error("{0}")]
    Forbidden(String),
    /// The agent has stopped.
    #[error("the agent has stopped")]
    Stopped,
}

impl Agent {
    /// Starts an agent: opens the store, binds the port, and begins to look for the mesh. Returns once it listens,
    /// which is before it is ready: see [`Agent::ready`].
    ///
    /// # Errors
    /// [`StartError`]; nothing is left behind.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        start::start(config).await
    }

    /// An agent's settings, one by one.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// What may be shown, read without entering the loop; faces keep a clone of the `Arc`.
    #[must_use]
    pub fn view(&self) -> &Arc<View> {
        &self.shared.view
    }

    /// The settings it was started with, with the address in use.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Where the mesh port listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Resolves once answers may be given. Cancel-safe.
    ///
    /// # Errors
    /// The reason, if the agent stopped before.
    pub async fn ready(&self) -> Result<(), String> {
        let mut index = self.shared.view.subscribe();
        while !self.shared.view.is_ready() {
            tokio::select! {
                // The view lives as long as this handle.
                _ = index.changed() => {}
                ended = self.stopped() => return ended.and(Err("the agent has stopped".into())),
            }
        }
        Ok(())
    }

    /// Lets answers be given from now on, where [`Opens::Told`] waits for this.
    pub async fn open(&self) {
        // Refused only when it has stopped already.
        let _ = self.look(Look::Open).await;
    }

    /// Registers or changes one instance on behalf of somebody else: [`Agent::put_local`] without the checks that are for
    /// this machine's own files and programs alone. Dropping the future does not take the registration back.
    ///
    /// # Errors
    /// [`Refused`]; nothing was changed.
    pub async fn put(&self, registration: Registration) -> Result<Done, Refused> {
        self.put_over(registration, Over::Anything).await
    }

    /// [`Agent::put`] over what is still as it was.
    ///
    /// # Errors
    /// [`Refused`], also where a file asks for something else; nothing was changed.
    pub async fn put_over(&self, registration: Registration, over: Over) -> Result<Done, Refused> {
        if let Some(check) = registration.local_only_check() {
            return Err(Refused::Forbidden(format!(
                "check {} runs a program or uses a key of this machine: only this machine's files may ask for that; \
                 write the service into services.d",
                check.id
            )));
        }
        let (registration, row) = self.ready_to_store(registration.into())?;
        if !self.has(&registration) {
            self.leave_to_file(&registration.id)?;
        }
        self.ask(|reply| Ask::Put { registration, over, row, reply }).await
    }

    /// Registers or changes one instance. Once this returns it is on disk, visible here, and on its way to the others.
    /// Dropping the future does not take the registration back.
    ///
    /// # Errors
    /// [`Refused`]; nothing was changed.
    pub async fn put_local(&self, registration: impl Into<Arc<Registration>>) -> Result<Done, Refused> {
        let (registration, row) = self.ready_to_store(registration.into())?;
        self.ask(|reply| Ask::Put { registration, over: Over::Anything, row, reply }).await
    }

    /// A registration that has nothing against it.
    fn ready_to_store(&self, mut registration: Arc<Registration>) -> Result<(Arc<Registration>, store::Row), Refused> {
        registration.validate().map_err(Rejected::from)?;
        fits(&registration)?;
        let script = registration.checks.iter().find(|check| matches!(check.kind, CheckKind::Script(_)));
        if let Some(check) = script.filter(|_| !self.shared.config.checks.scripts) {
            return Err(Refused::Forbidden(format!(
                "check {} is a script, and scripts are off on this node: set script_checks = true in its settings, and \
                 restart it",
                check.id
            )));
        }
        self.identify(&mut registration);
        let row = store::row(&registration).map_err(Refused::Store)?;
        Ok((registration, row))
    }

    /// Whether this is registered here just so.
    pub(crate) fn has(&self, registration: &Arc<Registration>) -> bool {
        self.identify(&mut Arc::clone(registration))
    }

    /// Says which processes are meant; true if that is registered here just so.
    fn identify(&self, registration: &mut Arc<Registration>) -> bool {
        let present = self.view().row(&registration.id);
        checks::identify(registration, present.as_deref());
        present.as_ref() == Some(registration)
    }

    /// Withdraws one instance of this node. Dropping the future does not bring it back.
    ///
    /// # Errors
    /// [`Rejected::NotFound`] when there is none of that id, [`Refused::Defined`] when a file asks for it.
    pub async fn remove(&self, id: &InstanceId) -> Result<(), Refused> {
        self.remove_over(id, Over::Anything).await
    }

    /// [`Agent::remove`] of what is still as it was.
    ///
    /// # Errors
    /// As there, and [`Refused::Outdated`].
    pub async fn remove_over(&self, id: &InstanceId, over: Over) -> Result<(), Refused> {
        self.leave_to_file(id)?;
        let id = id.clone();
        self.ask(|reply| Ask::Remove { id, over, reply }).await
    }

    /// Refuses to touch what a file asks for.
    pub(crate) fn leave_to_file(&self, id: &InstanceId) -> Result<(), Refused> {
        match self.shared.defined.load().get(id) {
            Some(file) => Err(Refused::Defined(id.clone(), file.clone())),
            None => Ok(()),
        }
    }

    /// Says which registrations are asked for by files, and by which: [`Agent::put`] and [`Agent::remove`]
    /// leave them to the files.
    pub fn define(&self, files: BTreeMap<InstanceId, String>) {
        self.shared.defined.store(Arc::new(files));
    }

    /// A program's word on its own TTL check.
    ///
    /// # Errors
    /// [`Rejected::NotFound`] when there is no such check.
    pub async fn report(
        &self,
        instance: &InstanceId,
        check: &CheckName,
        status: Health,
        output: &str,
    ) -> Result<(), Refused> {
        let (instance, check, output) = (instance.clone(), check.clone(), output.into());
        self.ask(|reply| Ask::Report { instance, check, status, output, reply }).await
    }

    /// Takes an instance of this node, or with `None` the node, out of service for this reason, or with no reason back
    /// into it. Once this returns it is on disk, visible here, and on its way to the others.
    ///
    /// # Errors
    /// [`Rejected::NotFound`] when there is no such instance.
    pub async fn maintain(&self, instance: Option<&InstanceId>, reason: Option<&str>) -> Result<(), Refused> {
        let (instance, reason) = (instance.cloned(), reason.map(Into::into));
        self.ask(|reply| Ask::Maintain { instance, reason, reply }).await
    }

    /// Looks for the mesh through these `host:port`s too. Returns how many addresses they resolved to.
    ///
    /// # Errors
    /// When one of them does not resolve; then none is tried.
    pub async fn join(&self, seeds: &[String]) -> Result<usize, String> {
        let answers = join_all(seeds.iter().map(|seed| seek::resolve(seed))).await;
        let troubles: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).map(String::as_str).collect();
        if !troubles.is_empty() {
            return Err(troubles.join("; "));
        }
        self.seek(seeds).await?;
        Ok(answers.iter().flatten().map(Vec::len).sum())
    }

    /// Looks for the mesh through these `host:port`s too, now and for as long as nobody is found, whether or not they
    /// resolve by now.
    ///
    /// # Errors
    /// When the agent has stopped.
    pub async fn seek(&self, seeds: &[String]) -> Result<(), String> {
        self.shared.seeds.send(seeds.to_vec()).await.map_err(|_| Refused::Stopped.to_string())
    }

    /// Says goodbye, waits until the peers have heard it, and stops. What is stored stays, for the next start.
    pub async fn leave(&self) {
        // Refused only when it has stopped already.
        let _ = self.shared.asks.send(Ask::Leave).await;
        // The reason, if it was another, is for those who wait for it.
        let _ = self.stopped().await;
    }

    /// Resolves when the agent has stopped, with the reason if it was not asked to. Cancel-safe.
    ///
    /// # Errors
    /// The reason, as a sentence that says what to do.
    pub async fn stopped(&self) -> Result<(), String> {
        let mut stopped = self.shared.stopped.clone();
        match stopped.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Ok(())),
            Err(_) => Err("the agent's loop ended by a defect; its log tells more".into()),
        }
    }

    /// A copy of the core's counters; all zero once it has stopped.
    pub async fn stats(&self) -> Stats {
        self.look(Look::Stats).await.unwrap_or_default()
    }

    /// What is to be said should this process die, as of now; `None` once it has stopped. Ask again when members have
    /// changed, and keep it in a process that outlives this one: see [`will`].
    pub async fn will(&self) -> Option<Will> {
        self.look(Look::Will).await
    }

    /// Whether its loop has come to an end in order: then there is nothing left to say.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.shared.stopped.borrow().is_some()
    }

    /// What the driver has moved and dropped.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.shared.traffic
    }

    /// What happened that an operator may want to read, and why.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.shared.journal
    }

    /// Declares that a member which is Down will not come back: it is forgotten everywhere as if it had left.
    ///
    /// # Errors
    /// [`Rejected::Alive`] when it is not Down, [`Rejected::NotFound`] when it is not known.
    pub async fn force_leave(&self, id: NodeId) -> Result<(), Refused> {
        self.ask(|reply| Ask::ForceLeave { id, reply }).await
    }

    /// A hash of all that this node knows: equal on two nodes that agree.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.shared.status.fingerprint.load(Ordering::Relaxed)
    }

    /// The part of the peers heard from lately whose fingerprint was this node's: 0 to 1.
    #[must_use]
    pub fn agreement(&self) -> f64 {
        f64::from_bits(self.shared.status.agreement.load(Ordering::Relaxed))
    }

    /// Why the last write to the store, or of what was decreed, failed; `None` once one has not.
    #[must_use]
    pub fn unstored(&self) -> Option<String> {
        self.shared.status.unstored.load().as_deref().cloned().or_else(|| self.shared.trust.unkept())
    }

    /// Now, by this process's clock.
    #[must_use]
    pub fn now(&self) -> Time {
        self.shared.clock.now()
    }

    /// A moment of this process's clock in unix milliseconds, by what the wall clock says now.
    #[must_use]
    pub fn unix_millis(&self, at: Time) -> u64 {
        self.shared.clock.by_the_wall(at)
    }

    /// Sends an ask and waits for its answer.
    async fn ask<T>(&self, ask: impl FnOnce(writes::Reply<T>) -> Ask) -> Result<T, Refused> {
        let (reply, answer) = oneshot::channel();
        self.shared.asks.send(ask(reply)).await.map_err(|_| Refused::Stopped)?;
        answer.await.unwrap_or(Err(Refused::Stopped))
    }
}
