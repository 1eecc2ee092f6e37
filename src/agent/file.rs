//! Files of this machine that somebody names: settings, services, secrets, certificates, pid files. Whoever names one may
//! name a pipe that nobody writes to, or a device that never ends: only regular files are read, without waiting, and no
//! further than they may be long. `/dev/null` is a file with nothing in it.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{Error, ErrorKind, Read, Result},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    time::SystemTime,
};

use zeroize::Zeroizing;

/// When a file was last changed, its length, and who may read it.
pub(crate) type Stamp = Option<(SystemTime, u64, u32)>;

pub(crate) fn stamp(path: &Path) -> Stamp {
    path.metadata().ok().and_then(|found| Some((found.modified().ok()?, found.len(), found.mode())))
}

/// Opens a regular file, to be read.
fn open(path: &Path) -> Result<File> {
    let admit = |found: &Metadata| {
        let is_file = found.is_file() || path == Path::new("/dev/null");
        if is_file { Ok(()) } else { Err(Error::other("is no regular file")) }
    };
    // Asked before as well: a device may be set off by opening it.
    admit(&path.metadata()?)?;
    // Opening a pipe would wait for a writer.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    admit(&file.metadata()?)?;
    Ok(file)
}

/// All that an open file holds, if that is at most `most` bytes.
fn whole(file: File, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // Files of the system have no length before they are read.
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(Error::new(ErrorKind::FileTooLarge, format!("is longer than {most} bytes")));
    }
    Ok(bytes)
}

/// The whole of a file, if it has at most `most` bytes.
pub(crate) fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    whole(open(path)?, most)
}

/// The same of a text.
pub(crate) fn text(path: &Path, most: u64) -> Result<String> {
    of_text(read(path, most)?)
}

/// The same of one that nobody but its owner may be able to read.
pub(crate) fn secret(path: &Path, most: u64) -> std::result::Result<Zeroizing<String>, Untold> {
    let file = open(path)?;
    // Asked of the open file, so that what is checked is what is read.
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & OTHERS != 0 {
        return Err(Untold::Readable(mode));
    }
    Ok(Zeroizing::new(of_text(whole(file, most)?)?))
}

/// Why a secret is not taken.
#[derive(Debug)]
pub(crate) enum Untold {
    Unread(Error),
    /// Others can read it: the file's mode.
    Readable(u32),
}

impl From<Error> for Untold {
    fn from(why: Error) -> Self {
        Self::Unread(why)
    }
}

fn of_text(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|_| Error::new(ErrorKind::InvalidData, "is no text in UTF-8"))
}

/// The rights of the group and of everybody else.
const OTHERS: u32 = 0o077;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_a_small_regular_file_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        std::fs::write(&path, "4711").unwrap();
        assert_eq!(read(&path, 4).unwrap(), b"4711");
        assert!(read(&path, 3).is_err());
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for odd in [&*pipe, folder.path(), Path::new("/dev/zero"), Path::new("/no/such/file")] {
            assert!(read(odd, 4096).is_err(), "{}", odd.display());
        }
    }
}
