//! What must survive a restart: identity, epoch, keys, own registrations, known peers. One redb file, locked by its owner.
//!
//! Writes go through one thread that takes all that wait into one transaction: one fsync for many. They complete in the
//! order they were submitted, so that what the disk holds and what the mesh says can never differ in order.

use std::{
    fs::{DirBuilder, OpenOptions},
    io,
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

use super::{
    StartError,
    pulse::{self, Pulse},
};
use crate::model::{Epoch, HealthReport, InstanceId, MeshName, NodeId, NodeName, Registration};

/// Keys that must survive, so that a restarted node's stateless resets are believed (RFC 9000 section 10.3): its peers
/// then see the restart within one packet instead of a time-out.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct Keys {
    pub(super) reset: [u8; 32],
    pub(super) connection_ids: u64,
}

impl Keys {
    fn random() -> Result<Self, getrandom::Error> {
        let mut reset = [0; 32];
        getrandom::fill(&mut reset)?;
        Ok(Self { reset, connection_ids: getrandom::u64()? })
    }
}

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
    Row(InstanceId, Option<Vec<u8>>),
    /// The peers to start from next time, instead of those known before.
    Peers(Vec<KnownPeer>),
    /// What is known of the health of these instances; `None` deletes it.
    Reports(Vec<(String, Option<HealthReport>)>),
}

/// So many writes, the oldest first, are durable; or why they are not.
pub(super) struct Completed {
    pub(super) writes: usize,
    pub(super) outcome: Result<(), String>,
}

/// The writing end. Without a data directory every write is complete at once.
pub(super) struct Store {
    writer: Option<(sync_mpsc::Sender<Write>, JoinHandle<()>)>,
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
            return Ok((Self { writer: None, completed }, found));
        };
        let blame = |why: Unusable| match why {
            Unusable::Locked => StartError::InUse { path: directory.to_owned() },
            why => StartError::Data { path: directory.to_owned(), why: why.to_string() },
        };
        let database = open_file(directory).map_err(blame)?;
        let mut found = claim(&database, mesh, node, unix_millis).map_err(blame)?;
        let pulse = Pulse::open(directory).map_err(|why| blame(why.into()))?;
        found.lived_until = pulse.last.unwrap_or(unix_millis);
        let (sender, writes) = sync_mpsc::channel();
        let report = completed.clone();
        let mut file = OpenFile { directory: directory.to_owned(), database: Some(database), pulse: Some(pulse) };
        let thread = std::thread::Builder::new()
            .name("hobnob-store".into())
            .spawn(move || file.commit_groups(&writes, &report))
            .map_err(|why| blame(why.into()))?;
        Ok((Self { writer: Some((sender, thread)), completed }, found))
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

/// The bytes of a registration's row.
pub(super) fn row(registration: &Registration) -> Result<Vec<u8>, String> {
    rmp_serde::to_vec_named(registration).map_err(|why| why.to_string())
}

/// Why a data directory cannot be used; nothing in it was changed.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("another agent is using it")]
    Locked,
    #[error(
        "it belongs to node {node:?} of mesh {mesh:?}: start with --node {node} --mesh {mesh}, or give another --data-dir"
    )]
    Foreign { node: NodeName, mesh: MeshName },
    #[error("its {what} cannot be read ({why}): restore a backup, or move the file away to start empty")]
    Corrupt { what: &'static str, why: String },
    #[error("{0}")]
    Io(#[from] io::Error),
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

#[derive(Serialize, Deserialize)]
struct Identity {
    mesh: MeshName,
    node: NodeName,
    epoch: Epoch,
    keys: Keys,
}

fn open_file(directory: &Path) -> Result<Database, Unusable> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join(FILE))?;
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
    let identity = {
        let mut table = transaction.open_table(IDENTITY).map_err(Failed)?;
        let stored = table.get(()).map_err(Failed)?.map(|found| decode("identity", found.value())).transpose()?;
        let identity = match stored {
            Some(Identity { mesh: m, node: n, .. }) if m != *mesh || n != *node => {
                return Err(Unusable::Foreign { node: n, mesh: m });
            }
            Some(Identity { epoch, keys, .. }) => {
                // A clock that was set back must not bring an old epoch up again.
                let epoch = Epoch(unix_millis.max(epoch.0 + 1));
                Identity { mesh: mesh.clone(), node: node.clone(), epoch, keys }
            }
            None => {
                let keys = Keys::random().map_err(|why| Unusable::Database(why.to_string()))?;
                Identity { mesh: mesh.clone(), node: node.clone(), epoch: Epoch(unix_millis), keys }
            }
        };
        table.insert((), encode(&identity)?.as_slice()).map_err(Failed)?;
        // So that reading needs no case for a table that is not there yet.
        transaction.open_table(ROWS).map_err(Failed)?;
        transaction.open_table(PEERS).map_err(Failed)?;
        transaction.open_table(REPORTS).map_err(Failed)?;
        identity
    };
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
    let Identity { epoch, keys, .. } = identity;
    Ok(Found { epoch, keys, registrations, peers, reports, lived_until: unix_millis })
}

/// What the store's thread owns.
struct OpenFile {
    directory: PathBuf,
    /// None after a failure, a full disk say: redb takes nothing more until its file was opened anew.
    database: Option<Database>,
    pulse: Option<Pulse>,
}

impl OpenFile {
    /// The store's thread: ends when the sender is gone and the queue is empty.
    fn commit_groups(&mut self, writes: &sync_mpsc::Receiver<Write>, completed: &mpsc::UnboundedSender<Completed>) {
        let mut group = Vec::new();
        loop {
            match writes.recv_timeout(pulse::EVERY) {
                Ok(first) => group.push(first),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.pulse.iter().for_each(Pulse::beat);
            if group.is_empty() {
                continue;
            }
            group.extend(writes.try_iter().take(MAX_GROUP - 1));
            let outcome = self.commit_or_reopen(&group);
            if let Err(why) = &outcome {
                tracing::error!(event = "store_failed", %why);
            }
            // Nobody listens only while the agent stops.
            let _ = completed.send(Completed { writes: group.len(), outcome });
            group.clear();
        }
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
                Write::Row(id, Some(row)) => drop(rows.insert(id.as_str(), row.as_slice()).map_err(Failed)?),
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

const FILE: &str = "hobnob.redb";
const IDENTITY: TableDefinition<'_, (), &[u8]> = TableDefinition::new("identity");
const ROWS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("registrations");
const PEERS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("peers");
const REPORTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("reports");
/// redb's own default is a gigabyte; all we ever read is read once, at the start.
const CACHE_BYTES: usize = 1 << 20;
/// The most writes that share an fsync: keeps the wait of the first among them short.
const MAX_GROUP: usize = 1024;
/// Enough to find the mesh again when most of them are gone.
pub(super) const MAX_KNOWN_PEERS: usize = 256;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn open(directory: &Path, node: &str) -> Result<(Store, Found, mpsc::UnboundedReceiver<Completed>), StartError> {
        let (sender, completed) = mpsc::unbounded_channel();
        let (mesh, node) = ("prod".try_into().unwrap(), node.try_into().unwrap());
        let (store, found) = Store::open(Some(directory), &mesh, &node, 1_000, sender)?;
        Ok((store, found, completed))
    }

    fn put(store: &Store, id: &str, port: u16) {
        let registration = Registration::new("web", port).unwrap().id(id.try_into().unwrap());
        store.submit(Write::Row(registration.id.clone(), Some(row(&registration).unwrap())));
    }

    #[test]
    fn what_was_acknowledged_is_there_after_a_restart_under_a_larger_epoch() {
        let directory = tempfile::tempdir().unwrap();
        let (store, before, mut completed) = open(directory.path(), "a").unwrap();
        for port in 1..=100 {
            put(&store, "one", port);
        }
        put(&store, "two", 7);
        store.submit(Write::Row("two".try_into().unwrap(), None));
        let peer =
            KnownPeer { id: NodeId(7), name: "b".try_into().unwrap(), addresses: vec![([10, 0, 0, 1], 1).into()] };
        store.submit(Write::Peers(vec![peer.clone()]));
        let mut done = 0;
        while done < 103 {
            let Completed { writes, outcome } = completed.blocking_recv().unwrap();
            outcome.unwrap();
            done += writes;
        }
        store.close();
        let (_store, after, _) = open(directory.path(), "A").unwrap();
        assert_eq!(after.epoch, Epoch(before.epoch.0 + 1));
        assert_eq!(after.keys.reset, before.keys.reset);
        let ports: Vec<_> = after.registrations.iter().map(|r| r.port.unwrap().get()).collect();
        assert_eq!(ports, [100], "the last of two writes to one id wins");
        assert_eq!(after.peers, [peer]);
    }

    #[test]
    fn a_directory_in_use_or_of_another_node_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let (store, ..) = open(directory.path(), "a").unwrap();
        let why = open(directory.path(), "a").err().unwrap().to_string();
        assert!(why.contains("another agent is using it"), "{why}");
        store.close();
        let why = open(directory.path(), "b").err().unwrap().to_string();
        assert!(why.contains("it belongs to node \"a\" of mesh \"prod\""), "{why}");
    }

    #[test]
    fn a_damaged_file_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let garbage = b"not a database, but somebody's letters".repeat(200);
        std::fs::write(&path, &garbage).unwrap();
        let why = open(directory.path(), "a").err().unwrap().to_string();
        assert!(why.contains("cannot be read"), "{why}");
        assert_eq!(std::fs::read(&path).unwrap(), garbage);
    }

    /// A disk that is full as long as it is told to be.
    #[derive(Debug)]
    struct Disk {
        memory: redb::backends::InMemoryBackend,
        full: Arc<AtomicBool>,
    }

    impl redb::StorageBackend for Disk {
        fn len(&self) -> io::Result<u64> {
            self.memory.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.memory.read(offset, out)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.memory.set_len(len)
        }
        fn sync_data(&self) -> io::Result<()> {
            if self.full.load(Ordering::Relaxed) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.memory.write(offset, data)
        }
    }

    #[test]
    fn one_failed_write_does_not_fail_those_after_it() {
        let directory = tempfile::tempdir().unwrap();
        let full = Arc::new(AtomicBool::new(false));
        let disk = Disk { memory: redb::backends::InMemoryBackend::new(), full: Arc::clone(&full) };
        let database = Some(Database::builder().create_with_backend(disk).unwrap());
        let mut file = OpenFile { directory: directory.path().to_owned(), database, pulse: None };
        let group = [Write::Row("one".try_into().unwrap(), Some(vec![1]))];
        file.commit_or_reopen(&group).unwrap();
        full.store(true, Ordering::Relaxed);
        let why = file.commit_or_reopen(&group).unwrap_err();
        assert!(why.contains("free space, then try again"), "{why}");
        file.commit_or_reopen(&group).unwrap();
    }

    #[test]
    fn only_the_owner_may_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("data");
        open(&directory, "a").unwrap().0.close();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&directory.join(FILE))), (0o700, 0o600));
    }
}
