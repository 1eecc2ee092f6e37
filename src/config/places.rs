//! Which files there are to read, and which folders to watch for others.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::{Error, Purpose, Sources};

/// The files to read, in order.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) settings: Vec<PathBuf>,
    pub(super) services: Vec<PathBuf>,
}

impl Places {
    /// Finds them; one that is named and is not there is a mistake.
    pub(super) fn find(sources: &Sources, mistakes: &mut Vec<Error>) -> Self {
        let mut places = Self::default();
        for path in roots(sources) {
            let found = match fs::metadata(&path) {
                Ok(found) if found.is_dir() => places.folder(&path),
                Ok(_) => {
                    places.settings.push(path);
                    Ok(())
                }
                // Nobody has to have a folder of settings.
                Err(_) if sources.files.is_empty() => Ok(()),
                Err(error) => Err(Error::io(&path, &error)),
            };
            mistakes.extend(found.err());
        }
        places
    }

    /// A folder laid out like `/etc/hobnob`; any part of it may be missing.
    fn folder(&mut self, folder: &Path) -> Result<(), Error> {
        let main = folder.join(MAIN);
        if main.exists() {
            self.settings.push(main);
        }
        self.settings.extend(list(&folder.join(SETTINGS), &["toml"])?);
        self.services.extend(list(&folder.join(SERVICES), &["toml", "json"])?);
        Ok(())
    }
}

/// The folders in which a file that counts may appear, change or go. Folders are watched and not files: an editor
/// replaces a file, and Kubernetes swaps a link beside it.
#[must_use]
pub fn folders(sources: &Sources) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    for path in roots(sources) {
        if path.is_dir() {
            found.extend([path.join(SETTINGS), path.join(SERVICES), path]);
        } else if let Some(parent) = path.parent() {
            found.insert(if parent.as_os_str().is_empty() { ".".into() } else { parent.to_path_buf() });
        }
    }
    found.retain(|folder| folder.is_dir());
    found.into_iter().collect()
}

fn roots(sources: &Sources) -> Vec<PathBuf> {
    match sources.purpose {
        Purpose::Serve if sources.files.is_empty() => vec![CONFIG_DIR.into()],
        _ => sources.files.clone(),
    }
}

/// The files of a folder that end in one of `endings`, by name; none if there is no such folder.
fn list(folder: &Path, endings: &[&str]) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(folder, &error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| Error::io(folder, &error))?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|ending| endings.iter().any(|wanted| ending == *wanted)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Where settings are looked for when no `--config` is given.
const CONFIG_DIR: &str = "/etc/hobnob";
/// What stands in such a folder.
const MAIN: &str = "hobnob.toml";
const SETTINGS: &str = "conf.d";
const SERVICES: &str = "services.d";
