//! Secret files: one secret a line, the first signs, all verify. What they hold is never repeated, in no error either.

use std::{io::ErrorKind, path::Path};

use super::Error;
use crate::agent::{
    Secret,
    file::{self, Untold},
};

/// Reads the secrets in `path`, which nobody but its owner may be able to read.
pub(super) fn read(path: &Path) -> Result<Vec<Secret>, Error> {
    let place = path.display().to_string();
    let keygen = format!("hobnob keygen --out {place}");
    let text = file::secret(path, MAX_FILE).map_err(|why| match why {
        Untold::Unread(error) if error.kind() == ErrorKind::NotFound => {
            Error::new(&place, error.to_string()).next(&keygen)
        }
        Untold::Unread(error) => Error::io(path, &error),
        Untold::Readable(mode) => {
            let why = format!("others can read it (mode {mode:o}); a secret is for its owner alone");
            Error::new(&place, why).next(format!("chmod 600 {place}"))
        }
    })?;
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

/// A secret is 44 bytes; a file of a thousand is a mistake.
const MAX_FILE: u64 = 64 * 1024;
