//! What must survive a restart: identity, epoch, keys, own registrations, known peers. One redb file, locked by its owner.
//!
//! Writes go through one thread that takes all that wait into one transaction: one fsync for many. They complete in the
//! order they were submitted, so that what the disk holds and what the mesh says can never differ in order.

mod identity;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io, iter,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self as sync_mpsc, RecvTimeoutError},
    },
    thread::JoinHandle,
};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::mpsc;

pub(super) use self::identity::Keys;

use self::identity::Identity;
use super::{
    StartError,
    pulse::{self, Pulse},
};
use crate::model::{Epoch, HealthReport, InstanceId, MeshName, NodeId, NodeName, Registration};

/// A node that was part of the mesh when last seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KnownPeer {
    pub(super) id: NodeId,
    pub(super) name: NodeName,
    pub(super) addresses: Vec<SocketAddr>,
}

/// What the store held when it was opened.
pub(super) struct Found {
    pub(super) epoch: Epoch,
    pub(super) keys: Keys,
    pub(super) registrations: Vec<Arc<Registration>>,
    pub(super) peers: Vec<KnownPeer>,
    /// Where the checks of each instance stood; the node's own maintenance stands under no name.
    pub(super) reports: Vec<(String, HealthReport)>,
    /// When the process that wrote it was last seen alive, in unix milliseconds; now, if nothing tells.
    pub(super) lived_until: u64,
}

/// One change to be made durable.
#[derive(Debug)]
pub(super) enum Write {
    /// The row of one of our registrations; `None` deletes it.
    Row(InstanceId, Option<Row>),
    /// The peers to start from next time, instead of those known before.
    Peers(Vec<KnownPeer>),
    /// The epoch of this process, in place of the one it began with.
    Epoch(Epoch),
    /// What is known of the health of these instances; `None` deletes it.
    Reports(Vec<(String, Option<HealthReport>)>),
}

/// A registration as it is stored.
#[derive(Debug)]
pub(super) struct Row {
    bytes: Vec<u8>,
    /// Whether anything is checked: a TTL runs on while this node is down, and nobody else looks then.
    is_checked: bool,
}

/// So many writes, the oldest first, are durable; or why they are not.
pub(super) struct Completed {
    pub(super) writes: usize,
    pub(super) outcome: Result<(), String>,
}

/// The writing end. Without a data directory every write is complete at once.
pub(super) struct Store {
    writer: Option<(sync_mpsc::Sender<Write>, JoinHandle<()>)>,
    /// The directory, if there was no store in it before.
    made: Option<PathBuf>,
    completed: mpsc::UnboundedSender<Completed>,
}

impl Store {
    /// Opens or creates the store of `node` in `mesh`, and reserves an epoch: it is on disk before anybody hears of it.
    /// Blocks on the disk.
    pub(super) fn open(
        directory: Option<&Path>,
        mesh: &MeshName,
        node: &NodeName,
        unix_millis: u64,
        completed: mpsc::UnboundedSender<Completed>,
    ) -> Result<(Self, Found), StartError> {
        let Some(directory) = directory else {
            let keys = Keys::random().map_err(|why| StartError::Config {
                field: "data_dir",
                why: format!("cannot be done without, since the system gives no randomness: {why}"),
            })?;
            let found = Found {
                epoch: Epoch(unix_millis),
                keys,
                registrations: Vec::new(),
                peers: Vec::new(),
                reports: Vec::new(),
                lived_until: unix_millis,
            };
            return Ok((Self { writer: None, made: None, completed }, found));
        };
        let blame = |why: Unusable| match why {
            Unusable::Locked => StartError::InUse { path: directory.to_owned() },
            why => StartError::Data { path: directory.to_owned(), why },
        };
        let made = (!directory.join(FILE).exists()).then(|| directory.to_owned());
        let opened = guarded(|| {
            let database = open_file(directory)?;
            let mut found = claim(&database, mesh, node, unix_millis)?;
            let pulse = Pulse::open(directory)?;
            found.lived_until = pulse.last.unwrap_or(unix_millis);
            Ok((database, found, pulse))
        });
        let (database, found, pulse) = opened.map_err(|why| {
            // Half a store would be in the way of the next try. Another agent's is none of ours.
            let another_s = matches!(why, Unusable::Locked | Unusable::Foreign { .. });
            made.iter().filter(|_| !another_s).for_each(|directory| unmake(directory));
            blame(why)
        })?;
        let (sender, writes) = sync_mpsc::channel();
        let report = completed.clone();
        let checked = found.registrations.iter().filter(|own| is_checked(own)).map(|own| own.id.clone()).collect();
        let (directory, database) = (directory.to_owned(), Some(database));
        let mut file = OpenFile { directory, database, pulse: Some(pulse), checked };
        let thread = std::thread::Builder::new()
            .name("hobnob-store".into())
            .spawn(move || file.commit_groups(&writes, &report))
            .map_err(|why| blame(why.into()))?;
        Ok((Self { writer: Some((sender, thread)), made, completed }, found))
    }

    /// Queues a write; its completion arrives on the channel given to [`Store::open`]. The caller bounds the queue.
    pub(super) fn submit(&self, write: Write) {
        let queued = self.writer.as_ref().map(|(sender, _)| sender.send(write).map_err(|_| "the store has stopped"));
        if let Some(Ok(())) = queued {
            return;
        }
        let outcome = queued.unwrap_or(Ok(())).map_err(Into::into);
        // Nobody listens only while the agent stops.
        let _ = self.completed.send(Completed { writes: 1, outcome });
    }

    /// Closes it, and takes away what opening it has made. Blocks on the disk.
    pub(super) fn undo(mut self) {
        let made = self.made.take();
        self.close();
        made.iter().for_each(|directory| unmake(directory));
    }

    /// Finishes what is queued and releases the lock. Blocks on the disk.
    pub(super) fn close(self) {
        if let Some((sender, thread)) = self.writer {
            drop(sender);
            if thread.join().is_err() {
                tracing::error!(
                    event = "store_failed",
                    "the store's thread panicked; what it had acknowledged is on disk"
                );
            }
        }
    }
}

/// A registration's row.
pub(super) fn row(registration: &Registration) -> Result<Row, String> {
    let bytes = rmp_serde::to_vec_named(registration).map_err(|why| why.to_string())?;
    Ok(Row { bytes, is_checked: is_checked(registration) })
}

fn is_checked(registration: &Registration) -> bool {
    !registration.checks.is_empty()
}

/// Why a data directory cannot be used; nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It has an owner who lives.
    #[error("another agent is using it")]
    Locked,
    /// It is another node's.
    #[error(
        "it belongs to node {node:?} of mesh {mesh:?}: start with --node {node} --mesh {mesh}, or give another --data-dir"
    )]
    Foreign {
        /// Whose it is.
        node: NodeName,
        /// In which mesh.
        mesh: MeshName,
    },
    /// What it holds makes no sense.
    #[error("its {what} cannot be read ({why}): restore a backup, or move the file away to start empty")]
    Corrupt {
        /// Which part of it.
        what: &'static str,
        /// How that shows.
        why: String,
    },
    /// The system does not let us.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The library that keeps it does not take it.
    #[error("{0}")]
    Database(String),
}

/// redb has an error for each step, all of them storage errors here.
impl<E: Into<redb::Error>> From<Failed<E>> for Unusable {
    fn from(Failed(error): Failed<E>) -> Self {
        match error.into() {
            redb::Error::Corrupted(why) => Self::Corrupt { what: FILE, why },
            redb::Error::Io(why) => Self::Io(why),
            other => Self::Database(other.to_string()),
        }
    }
}

struct Failed<E>(E);

/// Runs what reads a store that may be damaged, on a thread of its own: redb believes its pages, and panics over damaged
/// ones.
fn guarded<T: Send>(read: impl FnOnce() -> Result<T, Unusable> + Send) -> Result<T, Unusable> {
    let damaged = || Unusable::Corrupt { what: FILE, why: "it is damaged inside".into() };
    std::thread::scope(|scope| {
        let reading = std::thread::Builder::new().name(OPENING.into()).spawn_scoped(scope, read)?;
        reading.join().unwrap_or_else(|_| Err(damaged()))
    })
}

/// Takes a store away that holds nothing yet.
fn unmake(directory: &Path) {
    for file in [FILE, FRESH, pulse::FILE] {
        // What cannot be removed is in nobody's way who could.
        let _ = fs::remove_file(directory.join(file));
    }
}

fn open_file(directory: &Path) -> Result<Database, Unusable> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let (path, fresh) = (directory.join(FILE), directory.join(FRESH));
    if path.exists() {
        return stored(&path);
    }
    // Under another name until it is a store: a first start that is cut short leaves nothing that the next one trips over.
    let file = open(&fresh)?;
    if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
        return Err(Unusable::Locked);
    }
    if path.exists() {
        // Another's first start has ended between the two looks, and this name was made anew.
        fs::remove_file(fresh)?;
        return stored(&path);
    }
    file.set_len(0)?;
    let database = database(file)?;
    fs::rename(fresh, path)?;
    File::open(directory)?.sync_all()?;
    Ok(database)
}

/// A store that was one before: redb would take an empty file for a new one.
fn stored(path: &Path) -> Result<Database, Unusable> {
    let file = open(path)?;
    match file.metadata()?.len() {
        0 => Err(Unusable::Corrupt { what: FILE, why: "it is empty".into() }),
        _ => database(file),
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn database(file: File) -> Result<Database, Unusable> {
    Database::builder().set_cache_size(CACHE_BYTES).create_file(file).map_err(|why| match why {
        DatabaseError::DatabaseAlreadyOpen => Unusable::Locked,
        DatabaseError::Storage(redb::StorageError::Io(why)) if why.kind() == io::ErrorKind::InvalidData => {
            Unusable::Corrupt { what: FILE, why: why.to_string() }
        }
        other => Failed(other).into(),
    })
}

/// Checks whose the store is, reserves the next epoch durably, and reads the rest.
fn claim(database: &Database, mesh: &MeshName, node: &NodeName, unix_millis: u64) -> Result<Found, Unusable> {
    let transaction = database.begin_write().map_err(Failed)?;
    let Identity { epoch, keys, .. } = Identity::claim(&transaction, mesh, node, unix_millis)?;
    // So that reading needs no case for a table that is not there yet.
    transaction.open_table(ROWS).map_err(Failed)?;
    transaction.open_table(PEERS).map_err(Failed)?;
    transaction.open_table(REPORTS).map_err(Failed)?;
    transaction.commit().map_err(Failed)?;

    let snapshot = database.begin_read().map_err(Failed)?;
    let mut registrations = Vec::new();
    for row in snapshot.open_table(ROWS).map_err(Failed)?.iter().map_err(Failed)? {
        registrations.push(Arc::new(decode("registrations", row.map_err(Failed)?.1.value())?));
    }
    let mut peers = Vec::new();
    for row in snapshot.open_table(PEERS).map_err(Failed)?.iter().map_err(Failed)? {
        peers.push(decode("known peers", row.map_err(Failed)?.1.value())?);
    }
    let mut reports = Vec::new();
    for row in snapshot.open_table(REPORTS).map_err(Failed)?.iter().map_err(Failed)? {
        let (id, report) = row.map_err(Failed)?;
        // What a check said last is no reason not to start.
        reports.extend(decode("reports", report.value()).ok().map(|report| (id.value().to_owned(), report)));
    }
    Ok(Found { epoch, keys, registrations, peers, reports, lived_until: unix_millis })
}

/// What the store's thread owns.
struct OpenFile {
    directory: PathBuf,
    /// None after a failure, a full disk say: redb takes nothing more until its file was opened anew.
    database: Option<Database>,
    pulse: Option<Pulse>,
    /// Whose next process has to know until when this one lived. Without any nothing is woken for it.
    checked: BTreeSet<InstanceId>,
}

impl OpenFile {
    /// The store's thread: ends when the sender is gone and the queue is empty.
    fn commit_groups(&mut self, writes: &sync_mpsc::Receiver<Write>, completed: &mpsc::UnboundedSender<Completed>) {
        let mut group = Vec::new();
        loop {
            let heard = if self.checked.is_empty() {
                writes.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                writes.recv_timeout(pulse::EVERY)
            };
            match heard {
                Ok(first) => group.extend(iter::once(first).chain(writes.try_iter()).take(MAX_GROUP)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.live(&group);
            if group.is_empty() {
                continue;
            }
            let outcome = self.commit_or_reopen(&group);
            if let Err(why) = &outcome {
                tracing::error!(event = "store_failed", %why);
            }
            // Nobody listens only while the agent stops.
            let _ = completed.send(Completed { writes: group.len(), outcome });
            group.clear();
        }
    }

    /// Says that this process lives, if anybody needs to know once these are written.
    fn live(&mut self, group: &[Write]) {
        for write in group {
            match write {
                Write::Row(id, Some(row)) if row.is_checked => drop(self.checked.insert(id.clone())),
                Write::Row(id, _) => drop(self.checked.remove(id)),
                Write::Peers(_) | Write::Epoch(_) | Write::Reports(_) => {}
            }
        }
        self.pulse.iter().filter(|_| !self.checked.is_empty()).for_each(Pulse::beat);
    }

    /// Commits one group. Where that fails the file is opened anew at once, to hold on to its lock, or else before the
    /// next group.
    fn commit_or_reopen(&mut self, group: &[Write]) -> Result<(), String> {
        // A panic would leave everybody who waits for an answer without one.
        let outcome = match catch_unwind(AssertUnwindSafe(|| self.commit(group))) {
            Ok(outcome) => outcome.map_err(|why| format!("{why}; free space, then try again")),
            Err(_) => Err("the store panicked, which is a defect; the log tells more".into()),
        };
        if self.database.is_none() {
            self.database = catch_unwind(|| open_file(&self.directory).ok()).unwrap_or_default();
        }
        outcome
    }

    fn commit(&mut self, group: &[Write]) -> Result<(), Unusable> {
        let database = match self.database.take() {
            Some(database) => database,
            None => open_file(&self.directory)?,
        };
        commit(&database, group)?;
        self.database = Some(database);
        Ok(())
    }
}

fn commit(database: &Database, group: &[Write]) -> Result<(), Unusable> {
    let transaction = database.begin_write().map_err(Failed)?;
    {
        let mut rows = transaction.open_table(ROWS).map_err(Failed)?;
        for write in group {
            match write {
                Write::Row(id, Some(row)) => drop(rows.insert(id.as_str(), row.bytes.as_slice()).map_err(Failed)?),
                Write::Row(id, None) => drop(rows.remove(id.as_str()).map_err(Failed)?),
                Write::Reports(reports) => {
                    let mut table = transaction.open_table(REPORTS).map_err(Failed)?;
                    for (id, report) in reports {
                        match report {
                            Some(report) => {
                                drop(table.insert(id.as_str(), encode(report)?.as_slice()).map_err(Failed)?)
                            }
                            None => drop(table.remove(id.as_str()).map_err(Failed)?),
                        }
                    }
                }
                Write::Epoch(epoch) => Identity::rise(&transaction, *epoch)?,
                Write::Peers(peers) => {
                    let mut table = transaction.open_table(PEERS).map_err(Failed)?;
                    table.retain(|_, _| false).map_err(Failed)?;
                    for peer in peers.iter().take(MAX_KNOWN_PEERS) {
                        table.insert(peer.id.0, encode(peer)?.as_slice()).map_err(Failed)?;
                    }
                }
            }
        }
    }
    transaction.commit().map_err(Failed)?;
    Ok(())
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, Unusable> {
    rmp_serde::to_vec_named(value).map_err(|why| Unusable::Database(why.to_string()))
}

fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, Unusable> {
    rmp_serde::from_slice(bytes).map_err(|why| Unusable::Corrupt { what, why: why.to_string() })
}

/// Where a store is opened. Who reports panics may leave out this thread's: they become an error.
pub const OPENING: &str = "hobnob-opening";
/// The store's file in the data directory.
pub const FILE: &str = "hobnob.redb";
/// What the store is called until it is one.
const FRESH: &str = "hobnob.redb.new";
const ROWS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("registrations");
const PEERS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("peers");
const REPORTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("reports");
/// redb's own default is a gigabyte; all we ever read is read once, at the start.
const CACHE_BYTES: usize = 1 << 20;
/// The most writes that share an fsync: keeps the wait of the first among them short.
const MAX_GROUP: usize = 1024;
/// Whom the next start waits for: a hundred bytes each.
pub(super) const MAX_KNOWN_PEERS: usize = 4096;
