//! Secret files: one secret a line, the first signs, all verify. What they hold is never repeated, in no error either.

use std::{fs::File, io::Read, os::unix::fs::PermissionsExt, path::Path};

use zeroize::Zeroizing;

use super::Error;
use crate::agent::Secret;

/// Reads the secrets in `path`, which nobody but its owner may be able to read.
pub(super) fn read(path: &Path) -> Result<Vec<Secret>, Error> {
    let place = path.display().to_string();
    let keygen = format!("hobnob keygen --out {place}");
    let mut file = File::open(path).map_err(|error| Error::new(&place, error.to_string()).next(&keygen))?;
    // Asked of the open file, so that what is checked is what is read.
    let mode = file.metadata().map_err(|error| Error::io(path, &error))?.permissions().mode();
    if mode & OTHERS != 0 {
        let why = format!("others can read it (mode {:o}); a secret is for its owner alone", mode & 0o777);
        return Err(Error::new(&place, why).next(format!("chmod 600 {place}")));
    }
    let mut text = Zeroizing::new(String::new());
    file.by_ref()
        .take(MAX_FILE)
        .read_to_string(&mut text)
        .map_err(|error| Error::new(&place, error.to_string()).next(&keygen))?;
    parse(&place, &text)
}

/// The secrets in `text`, one a line; `#` begins a comment.
pub(super) fn parse(place: &str, text: &str) -> Result<Vec<Secret>, Error> {
    let mut secrets = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = if text.lines().count() > 1 { format!("{place}, line {}", at + 1) } else { place.to_owned() };
        let secret = line.parse().map_err(|why: &str| Error::new(place, why).next("hobnob keygen"))?;
        secrets.push(secret);
    }
    if secrets.is_empty() {
        return Err(Error::new(place, "holds no secret").next("hobnob keygen"));
    }
    Ok(secrets)
}

/// The rights of the group and of everybody else.
const OTHERS: u32 = 0o077;
/// A secret is 44 bytes; a file of a thousand is a mistake.
const MAX_FILE: u64 = 64 * 1024;
