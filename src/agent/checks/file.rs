//! Small files of this machine that a check names: pid files and certificates. Whoever names one may name a pipe that nobody
//! writes to, or a device that never ends: only regular files are read, without waiting, and no further than they may be
//! long.

use std::{
    fs::OpenOptions,
    io::{Error, ErrorKind, Read, Result},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// The whole of a file, if it has at most `most` bytes.
pub(super) fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    // Opening a pipe would wait for a writer.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(Error::other("is no regular file"));
    }
    let mut bytes = Vec::new();
    // Files of the system have no length before they are read.
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(Error::new(ErrorKind::FileTooLarge, format!("is longer than {most} bytes")));
    }
    Ok(bytes)
}

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
