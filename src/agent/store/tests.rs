//! What is written comes back, and what cannot be is refused by name.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::SystemTime,
};

use super::*;
use crate::model::{Before, CheckDraft, CheckStatus, Health};

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
    let peer = KnownPeer { id: NodeId(7), name: "b".try_into().unwrap(), addresses: vec![([10, 0, 0, 1], 1).into()] };
    store.submit(Write::Peers(vec![peer.clone()]));
    // It had to rise above what others knew.
    let risen = Epoch(before.epoch.0 + 50_000);
    store.submit(Write::Epoch(risen));
    let mut done = 0;
    while done < 104 {
        let Completed { writes, outcome } = completed.blocking_recv().unwrap();
        outcome.unwrap();
        done += writes;
    }
    store.close();
    let (_store, after, _) = open(directory.path(), "A").unwrap();
    assert_eq!(after.epoch, Epoch(risen.0 + 1));
    assert_eq!(after.keys.reset, before.keys.reset);
    let ports: Vec<_> = after.registrations.iter().map(|r| r.port.unwrap().get()).collect();
    assert_eq!(ports, [100], "the last of two writes to one id wins");
    assert_eq!(after.peers, [peer]);
}

#[test]
fn it_is_said_that_this_process_lives_where_something_is_checked_and_nowhere_else() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _, mut completed) = open(directory.path(), "a").unwrap();
    let alive = std::fs::File::options().write(true).open(directory.path().join("alive")).unwrap();
    let ttl = CheckDraft { ttl: Some("1m".into()), ..CheckDraft::default() }.build(0, "check").unwrap();
    let tcp = CheckDraft::tcp(":1").build(0, "check").unwrap();
    let web = Registration::new("web", 1).unwrap();
    for (web, lives) in
        [(web.clone(), false), (web.clone().check(ttl), true), (web.clone(), false), (web.check(tcp), true)]
    {
        store.submit(Write::Row(web.id.clone(), Some(row(&web).unwrap())));
        completed.blocking_recv().unwrap().outcome.unwrap();
        alive.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        store.submit(Write::Peers(Vec::new()));
        completed.blocking_recv().unwrap().outcome.unwrap();
        assert_eq!(alive.metadata().unwrap().modified().unwrap() > SystemTime::UNIX_EPOCH, lives);
    }
}

#[test]
fn since_when_a_check_has_failed_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _, mut completed) = open(directory.path(), "a").unwrap();
    let status = |name: &str, before| CheckStatus {
        id: name.try_into().unwrap(),
        name: name.try_into().unwrap(),
        status: Health::Passing,
        output: "".into(),
        since: 1,
        before,
    };
    let failed = Before { status: Health::Passing, seen: 3, failed: 7 };
    let checks = vec![status("a", Some(failed)), status("b", None)];
    let kept = vec![("web".to_owned(), HealthReport { checks, ..HealthReport::default() })];
    store.submit(Write::Reports(kept.iter().map(|(id, report)| (id.clone(), Some(report.clone()))).collect()));
    completed.blocking_recv().unwrap().outcome.unwrap();
    store.close();
    assert_eq!(open(directory.path(), "a").unwrap().1.reports, kept);
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

#[test]
fn a_store_that_was_emptied_is_damage_and_no_new_node() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path(), "a").unwrap().0.close();
    std::fs::write(directory.path().join(FILE), "").unwrap();
    let why = open(directory.path(), "a").err().unwrap().to_string();
    assert!(why.contains("hobnob.redb cannot be read (it is empty)") && why.contains("move the file away"), "{why}");
}

#[test]
fn a_file_that_is_damaged_inside_is_refused_whatever_redb_does() {
    for (from, step) in [(512, 7), (4_096, 1), (4_096, 7), (4_096, 13), (8_192, 7)] {
        let directory = tempfile::tempdir().unwrap();
        let (store, ..) = open(directory.path(), "a").unwrap();
        (1..=40).for_each(|port| put(&store, &format!("web-{port}"), port));
        store.close();
        let path = directory.path().join(FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.iter_mut().skip(from).step_by(step).for_each(|byte| *byte ^= 0xff);
        std::fs::write(&path, bytes).unwrap();
        let why = open(directory.path(), "a").err().unwrap().to_string();
        assert!(why.contains("cannot be read") && why.contains("restore a backup"), "{from}, {step}: {why}");
        assert!(path.exists());
    }
}

#[test]
fn a_first_start_that_was_cut_short_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let fresh = directory.path().join(FRESH);
    std::fs::write(&fresh, [0; 4_096]).unwrap();
    let another = std::fs::File::open(&fresh).unwrap();
    another.lock().unwrap();
    let why = open(directory.path(), "a").err().unwrap().to_string();
    assert!(why.contains("another agent is using it") && fresh.exists(), "{why}");
    another.unlock().unwrap();
    open(directory.path(), "a").unwrap().0.close();
    assert!(!fresh.exists());
    open(directory.path(), "a").unwrap().0.close();
}

#[test]
fn a_first_start_that_fails_leaves_nothing_and_a_later_one_what_was_there() {
    let directory = tempfile::tempdir().unwrap();
    let files = || std::fs::read_dir(directory.path()).unwrap().count();
    open(directory.path(), "a").unwrap().0.undo();
    assert_eq!(files(), 0);
    std::fs::create_dir(directory.path().join(pulse::FILE)).unwrap();
    assert!(open(directory.path(), "a").is_err());
    assert_eq!(files(), 1, "no half of a store");
    std::fs::remove_dir(directory.path().join(pulse::FILE)).unwrap();
    open(directory.path(), "a").unwrap().0.close();
    open(directory.path(), "a").unwrap().0.undo();
    assert_eq!(open(directory.path(), "b").err().unwrap().to_string().matches("it belongs to node \"a\"").count(), 1);
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
    let mut file = OpenFile { directory: directory.path().to_owned(), database, pulse: None, checked: BTreeSet::new() };
    let row = Row { bytes: vec![1], is_checked: false };
    let group = [Write::Row("one".try_into().unwrap(), Some(row))];
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
