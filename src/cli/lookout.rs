//! Looks out for files that come, change or go, in the folders where one that counts may lie.
//!
//! Only what changes a file wakes this process: a folder such as `/etc` is read many times a second by others.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use futures_util::StreamExt;
use inotify::{EventMask, EventStream, Inotify, WatchDescriptor, WatchMask};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

/// Watches folders.
#[derive(Debug)]
pub(super) struct Lookout {
    /// `None` where the system has no watches to give.
    events: Option<EventStream<[u8; BUFFER]>>,
    folders: BTreeMap<PathBuf, WatchDescriptor>,
}

impl Lookout {
    /// One that watches nothing yet. A system that has no watches to give is told of: a signal still works.
    pub(super) fn new() -> Self {
        let events = Inotify::init().and_then(|inotify| inotify.into_event_stream([0; BUFFER]));
        let events = events.map_err(|why| warn!(%why, "files are not watched; SIGHUP reads them again")).ok();
        Self { events, folders: BTreeMap::new() }
    }

    /// Makes these the folders that are watched.
    pub(super) fn watch(&mut self, folders: Vec<PathBuf>) {
        let Some(mut watches) = self.events.as_ref().map(EventStream::watches) else { return };
        let mut before = std::mem::take(&mut self.folders);
        for folder in folders {
            // Also those known: one may have been made anew in between, and to watch twice is to watch once.
            match (watches.add(&folder, changes()), before.remove(&folder)) {
                (Ok(watch), None) => drop(self.folders.insert(folder, watch)),
                (Ok(watch), Some(old)) => {
                    before.extend((watch != old).then(|| (folder.clone(), old)));
                    self.folders.insert(folder, watch);
                }
                // Who may not read it for a moment sees by the old watch when he may again.
                (Err(_), Some(old)) => drop(self.folders.insert(folder, old)),
                (Err(why), None) => {
                    warn!(%why, folder = %folder.display(), "is not watched; SIGHUP reads it again");
                }
            }
        }
        for gone in before.into_values().filter(|old| self.folders.values().all(|kept| kept != old)) {
            // A folder that was removed is unwatched already.
            let _ = watches.remove(gone);
        }
    }

    /// Resolves when something has changed and the writer seems to be done. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        self.next().await;
        let patience = Instant::now() + AT_MOST;
        while Instant::now() < patience {
            if timeout_at((Instant::now() + QUIET).min(patience), self.next()).await.is_err() {
                return;
            }
        }
    }

    async fn next(&mut self) {
        let Some(events) = &mut self.events else { return std::future::pending().await };
        loop {
            match events.next().await {
                // That we unwatched it ourselves, or that a folder is gone, which was told before.
                Some(Ok(event)) if event.mask.contains(EventMask::IGNORED) => {}
                Some(Ok(_)) => return,
                Some(Err(_)) | None => return std::future::pending().await,
            }
        }
    }
}

/// Of a file: that its writer is done, that its rights differ, that it comes or goes. Of the folder: that it goes.
fn changes() -> WatchMask {
    WatchMask::CLOSE_WRITE
        | WatchMask::ATTRIB
        | WatchMask::CREATE
        | WatchMask::DELETE
        | WatchMask::MOVE
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::ONLYDIR
}

/// No write for so long: the writer is done.
const QUIET: Duration = Duration::from_millis(100);
/// Read at the latest after so long, whoever goes on writing beside.
const AT_MOST: Duration = Duration::from_secs(2);
/// Some events with the longest of names; the rest waits.
const BUFFER: usize = 4096;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn what_changes_a_file_is_seen_and_what_reads_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        fs::write(&file, "one").unwrap();
        let mut lookout = Lookout::new();
        lookout.watch(vec![folder.path().into()]);
        fs::read(&file).unwrap();
        fs::read_dir(folder.path()).unwrap().count();
        let mut inotify = lookout.events.take().unwrap().into_inotify();
        let why = inotify.read_events(&mut [0; BUFFER]).unwrap_err();
        assert_eq!(why.kind(), std::io::ErrorKind::WouldBlock, "nothing to tell");
        lookout.events = inotify.into_event_stream([0; BUFFER]).ok();
        fs::write(&file, "two").unwrap();
        lookout.changed().await;
        fs::rename(&file, folder.path().join("b.toml")).unwrap();
        lookout.changed().await;
        lookout.watch(Vec::new());
        assert!(lookout.folders.is_empty());
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_watched_anew_for_a_moment_is_watched_as_before() {
        let folder = tempfile::tempdir().unwrap();
        let [known, away] = ["known", "away"].map(|name| folder.path().join(name));
        fs::create_dir(&known).unwrap();
        let mut lookout = Lookout::new();
        lookout.watch(vec![known.clone()]);
        fs::rename(&known, &away).unwrap();
        lookout.changed().await;
        lookout.watch(vec![known.clone()]);
        fs::write(away.join("a.toml"), "one").unwrap();
        lookout.changed().await;
        // Another one in its place is watched instead.
        fs::create_dir(&known).unwrap();
        lookout.watch(vec![known.clone()]);
        fs::write(known.join("a.toml"), "two").unwrap();
        lookout.changed().await;
        assert_eq!(lookout.folders.len(), 1);
    }
}
