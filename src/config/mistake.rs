//! What is wrong with settings, and whom to blame: the file and line, the variable or the flag. All of it is told at
//! once, so that nobody has to mend a file by trying again and again.

use std::{collections::BTreeMap, fmt, io, iter, path::Path};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {why}")]
pub struct Error {
    /// The file and line, the variable or the flag to blame.
    pub place: String,
    /// What is wrong there.
    pub why: String,
    /// What to type next.
    pub next: String,
    /// Whether it may pass by itself, without any file's being changed.
    passes: bool,
}

impl Error {
    pub(super) fn new(place: impl Into<String>, why: impl Into<String>) -> Self {
        Self { place: place.into(), why: why.into(), next: "hobnob config check".into(), passes: false }
    }

    pub(super) fn next(self, next: impl Into<String>) -> Self {
        Self { next: next.into(), ..self }
    }

    pub(super) fn io(path: &Path, error: &io::Error) -> Self {
        // What the system has no means for now, or a disk no answer, is no mistake of whoever wrote the file; and of rights
        // that are lacking for a moment nobody tells when they come back, if the folder could not be watched either.
        let is_written = error.kind() == io::ErrorKind::NotFound || error.raw_os_error().is_none();
        let blamed = Self::new(path.display().to_string(), error.to_string()).next(format!("ls -l {}", path.display()));
        Self { passes: !is_written, ..blamed }
    }

    /// This, where it names a setting, blamed on where that stands, or the part that it is missing from.
    pub(super) fn located(self, lines: &BTreeMap<String, String>) -> Self {
        let mut paths = iter::successors(Some(&*self.place), |path| Some(path.rsplit_once(['.', '['])?.0));
        let place = paths.find_map(|path| lines.get(path));
        match place.cloned() {
            Some(place) => Self { why: format!("{}: {}", self.place, self.why), place, ..self },
            None => self,
        }
    }

    /// The line its place ends in.
    fn line(&self) -> Option<usize> {
        self.place.rsplit_once(", line ")?.1.parse().ok()
    }
}

/// Sorts what was found in one file as a reader meets it.
pub(super) fn by_line(found: &mut [Error]) {
    found.sort_by_key(Error::line);
}

/// All that is wrong: at least one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(Vec<Error>);

impl Mistakes {
    /// `value`, unless something is wrong.
    pub(super) fn unless<T>(all: Vec<Error>, value: Option<T>) -> Result<T, Self> {
        match (all.is_empty(), value) {
            (true, Some(value)) => Ok(value),
            (true, None) => Err(Error::new("settings", "cannot be used").into()),
            (false, _) => Err(Self(all)),
        }
    }

    /// Each of them, in the order they were found.
    #[must_use]
    pub fn all(&self) -> &[Error] {
        &self.0
    }

    /// Whether one of them may pass without any file's being changed.
    #[must_use]
    pub(crate) fn pass(&self) -> bool {
        self.0.iter().any(|error| error.passes)
    }

    /// The one to mend first.
    #[must_use]
    pub fn first(&self) -> &Error {
        &self.0[0]
    }
}

impl From<Error> for Mistakes {
    fn from(error: Error) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        self.0.iter().try_for_each(|error| write!(out, "{}{error}", std::mem::replace(&mut between, "; ")))
    }
}

impl std::error::Error for Mistakes {}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn what_the_system_has_no_means_for_may_pass_and_what_somebody_wrote_may_not() {
        let io = |errno: Errno| Mistakes::from(Error::io(Path::new("a.toml"), &errno.into())).pass();
        for errno in [Errno::MFILE, Errno::NFILE, Errno::IO, Errno::STALE, Errno::ACCESS] {
            assert!(io(errno), "{errno}");
        }
        assert!(!io(Errno::NOENT));
        assert!(!Mistakes::from(Error::new("a.toml", "is wrong")).pass());
    }
}
