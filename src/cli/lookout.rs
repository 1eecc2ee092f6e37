//! Looks out for files that come, change or go, in the folders where one that counts may lie.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tracing::warn;

/// Watches folders.
#[derive(Debug)]
pub(super) struct Lookout {
    watcher: Option<RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
    moved: mpsc::Receiver<()>,
}

impl Lookout {
    /// One that watches nothing yet. A system that has no watches to give is told of: a signal still works.
    pub(super) fn new() -> Self {
        let (tell, moved) = mpsc::channel(1);
        let look = move |event: notify::Result<Event>| {
            if event.is_ok_and(|event| is_change(event.kind)) {
                // One word waiting says all there is to say.
                let _ = tell.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(look);
        let watcher = watcher.map_err(|why| warn!(%why, "files are not watched; SIGHUP reads them again")).ok();
        Self { watcher, folders: BTreeSet::new(), moved }
    }

    /// Makes these the folders that are watched.
    pub(super) fn watch(&mut self, folders: Vec<PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        let folders: BTreeSet<_> = folders.into_iter().collect();
        for gone in self.folders.difference(&folders) {
            // A folder that was removed is unwatched already.
            let _ = watcher.unwatch(gone);
        }
        for folder in &folders {
            // Also those known: one may have been removed and made anew in between, and to watch twice is to watch once.
            if let Err(why) = watcher.watch(folder, RecursiveMode::NonRecursive)
                && !self.folders.contains(folder)
            {
                warn!(%why, folder = %folder.display(), "is not watched; SIGHUP reads it again");
            }
        }
        self.folders = folders;
    }

    /// Resolves when something has changed and the writer seems to be done. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        if self.moved.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        let patience = Instant::now() + AT_MOST;
        while Instant::now() < patience {
            match timeout_at((Instant::now() + QUIET).min(patience), self.moved.recv()).await {
                Ok(Some(())) => {}
                _ => return,
            }
        }
    }
}

/// Reading a file is told of too, and we read them.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) | EventKind::Other => false,
        _ => true,
    }
}

/// No write for so long: the writer is done.
const QUIET: Duration = Duration::from_millis(100);
/// Read at the latest after so long, whoever goes on writing beside.
const AT_MOST: Duration = Duration::from_secs(2);
