//! The law on this node's disk: read at the start, replaced as one when it changes. What is not there is told of until it
//! is: after a restart nobody would know that it was ever decreed.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;

use super::{Edict, Trust};
use crate::agent::{file, keep};

#[derive(Default)]
pub(super) struct Archive {
    /// None where nothing is kept.
    file: OnceLock<PathBuf>,
    /// Why the last write failed; none once one has not.
    unkept: ArcSwapOption<String>,
    /// Since when a write has been under way.
    begun: ArcSwapOption<Instant>,
    /// Whether an earlier life's file is of no use, and no peer has told the law again.
    is_lost: AtomicBool,
}

impl Trust {
    /// Takes up what an earlier life has kept in this folder, and keeps its own there. What is not signed by whom we
    /// believe now is left out: the peers tell it again.
    pub(in crate::agent) fn open_law(&self, folder: &Path, now: u64) {
        let path = self.archive.file.get_or_init(|| folder.join(FILE));
        let read = match file::read(path, MAX_KEPT) {
            Err(why) if why.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            read => read.and_then(|kept| rmp_serde::from_slice::<Vec<Edict>>(&kept).map_err(io::Error::other)),
        };
        let kept = read.unwrap_or_else(|why| {
            let (file, moved) = (path.display(), fs::rename(path, aside(path)).err());
            tracing::error!(event = "edicts_damaged", %file, %why, ?moved, "set aside; the peers tell the law again");
            Vec::new()
        });
        self.archive.is_lost.store(aside(path).exists(), Ordering::Relaxed);
        for edict in &kept {
            if let Err(why) = self.take(edict, now) {
                tracing::warn!(event = "edict_forgotten", why);
            }
        }
        self.sign_again();
    }

    /// Puts all that is law in the place of what was kept. Waits for the disk.
    pub(in crate::agent) fn keep_law(&self) -> Result<(), String> {
        let Some(file) = self.archive.file.get() else { return Ok(()) };
        self.archive.begun.store(Some(Arc::new(Instant::now())));
        let law = self.law();
        let bytes = rmp_serde::to_vec_named(&law.edicts().collect::<Vec<_>>()).map_err(io::Error::other);
        let kept = bytes.and_then(|bytes| keep::replace(file, &bytes, keep::PRIVATE)).map_err(|why| why.to_string());
        self.archive.unkept.store(kept.as_ref().err().cloned().map(Arc::new));
        self.archive.begun.store(None);
        kept
    }

    /// Why what is law is not on the disk, as far as that is known: a disk may also hang.
    pub(in crate::agent) fn unkept(&self) -> Option<String> {
        self.unkept_at(Instant::now())
    }

    fn unkept_at(&self, now: Instant) -> Option<String> {
        let begun = self.archive.begun.load().as_deref().copied();
        let hangs_for = begun.map(|begun| now.saturating_duration_since(begun)).filter(|hung| *hung > HANGS_AFTER);
        let hangs = |hung: Duration| format!("the deny list is not on the disk since {} s: it hangs", hung.as_secs());
        self.archive.unkept.load().as_deref().cloned().or(hangs_for.map(hangs))
    }

    /// A peer's law is this node's: whatever was lost here, it would have told.
    pub(in crate::agent) fn agreed(&self) {
        self.archive.is_lost.store(false, Ordering::Relaxed);
    }

    /// The damaged file whose words nobody has told again, as long as it lies there.
    pub(in crate::agent) fn lost_law(&self) -> Option<PathBuf> {
        let path = self.archive.file.get().filter(|_| self.archive.is_lost.load(Ordering::Relaxed))?;
        Some(aside(path)).filter(|aside| aside.exists())
    }
}

/// Where a file goes that cannot be read.
fn aside(path: &Path) -> PathBuf {
    path.with_extension("damaged")
}

const FILE: &str = "edicts";
/// A disk that takes so long for 72 MB at most is not only busy.
const HANGS_AFTER: Duration = Duration::from_secs(10);
/// All edicts there may be, at their largest.
const MAX_KEPT: u64 = 72 << 20;

#[cfg(test)]
mod tests {
    use super::{
        super::{Word, tests::trust},
        *,
    };
    use crate::agent::{Secret, unix_millis};

    fn decree(by: &Trust, node: &str) {
        let now = unix_millis();
        let edict = by.decree(Word::DenyNode(node.try_into().unwrap()), false, now).unwrap();
        by.take(&edict, now).unwrap();
    }

    #[test]
    fn what_did_not_get_onto_the_disk_is_told_of_until_it_has() {
        let (folder, secret) = (tempfile::tempdir().unwrap(), [Secret::random()]);
        let node = trust("prod", "a", &secret);
        node.open_law(folder.path(), unix_millis());
        decree(&node, "stolen");
        // As on a full disk, nothing can be written.
        let full = folder.path().join("edicts.new");
        fs::create_dir(&full).unwrap();
        assert!(node.keep_law().is_err() && node.unkept().is_some());
        fs::remove_dir(full).unwrap();
        assert_eq!((node.keep_law(), node.unkept()), (Ok(()), None));
        let again = trust("prod", "a", &secret);
        again.open_law(folder.path(), unix_millis());
        assert_eq!(again.law().summary(), node.law().summary());
    }

    #[test]
    fn a_write_that_hangs_is_told_of() {
        let node = trust("prod", "a", &[Secret::random()]);
        let now = Instant::now();
        node.archive.begun.store(Some(Arc::new(now)));
        for (second, told) in [(10, None), (12, Some("the deny list is not on the disk since 12 s: it hangs"))] {
            assert_eq!(node.unkept_at(now + Duration::from_secs(second)).as_deref(), told);
        }
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_told_of_until_a_peer_has_told_the_law_or_it_is_taken_away() {
        let (folder, secret) = (tempfile::tempdir().unwrap(), [Secret::random()]);
        let open = || {
            let node = trust("prod", "a", &secret);
            node.open_law(folder.path(), unix_millis());
            node
        };
        for damage in [&b"xx"[..], b""] {
            fs::write(folder.path().join("edicts"), damage).unwrap();
            let node = open();
            let lost = node.lost_law().unwrap();
            assert_eq!(fs::read(&lost).unwrap(), damage);
            decree(&node, "stolen");
            node.keep_law().unwrap();
            assert_eq!(node.lost_law(), Some(lost.clone()), "what is written now is not what was lost");
            let node = open();
            assert_eq!((node.lost_law(), node.law().is_empty()), (Some(lost.clone()), false), "after a restart too");
            node.agreed();
            assert_eq!(node.lost_law(), None);
            let node = open();
            fs::remove_file(lost).unwrap();
            assert_eq!(node.lost_law(), None);
            assert_eq!(open().lost_law(), None);
        }
    }
}
