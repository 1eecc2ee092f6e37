//! Small files that are replaced as one: whoever reads them, even after a power cut, finds the old or the new.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, fchown},
    path::Path,
};

/// Puts `bytes` in the place of what stood there, for those whom `mode` lets in. Once this returns they are on the disk;
/// what fails leaves nothing.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let out = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&fresh)?;
    settle(path, Path::new(&fresh), out, bytes)
}

/// The same with a file of the operator's: for those who could read it, and by a name that he has no use for.
pub(crate) fn exchange(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let was = fs::metadata(path)?;
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".hobnob-new");
    // What a process has left that was killed.
    let _ = fs::remove_file(&fresh);
    let out = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(&fresh)?;
    // Nobody but root gives a file away; a group of his own everybody may.
    let _ = fchown(&out, Some(was.uid()), Some(was.gid())).or_else(|_| fchown(&out, None, Some(was.gid())));
    out.set_permissions(was.permissions())?;
    settle(path, Path::new(&fresh), out, bytes)
}

fn settle(path: &Path, fresh: &Path, mut out: File, bytes: &[u8]) -> io::Result<()> {
    let done = out.write_all(bytes).and_then(|()| out.sync_all()).and_then(|()| fs::rename(fresh, path));
    done.inspect_err(|_| drop(fs::remove_file(fresh)))?;
    // The name too has to survive.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// What helps where a write of this process has failed with these words of the system's.
pub(crate) fn mend(why: &str) -> &'static str {
    if why.contains("open files") {
        "it may open no more files: LimitNOFILE=NUMBER in its unit, or ulimit -n, then a restart"
    } else {
        "see to the disk of data_dir: df, mount"
    }
}

/// For this process's user alone.
pub(crate) const PRIVATE: u32 = 0o600;
/// For everybody to read, within the umask.
pub(crate) const PUBLIC: u32 = 0o644;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_helps_against_a_lack_of_descriptors_is_no_room_on_the_disk() {
        for (errno, word) in [(24, "LimitNOFILE"), (23, "LimitNOFILE"), (28, "df"), (30, "mount")] {
            assert!(mend(&io::Error::from_raw_os_error(errno).to_string()).contains(word), "{errno}");
        }
    }

    #[test]
    fn what_is_replaced_is_there_whole_and_for_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edicts");
        for text in ["a long one", "short"] {
            replace(&path, text.as_bytes(), PRIVATE).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        assert!(replace(&folder.path().join("nowhere/x"), b"", PRIVATE).is_err());
        let taken = folder.path().join("taken");
        fs::create_dir_all(taken.join("in")).unwrap();
        assert!(replace(&taken, b"", PRIVATE).is_err());
        assert!(!folder.path().join("taken.new").exists(), "nothing is left of what failed");
    }
}
