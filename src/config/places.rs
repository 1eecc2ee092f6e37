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

/// The folders in which a file that counts may appear, change or go, and those where a link on the way to one may be
/// another. Folders are watched and not files: an editor replaces a file, and Kubernetes swaps a link beside it.
#[must_use]
pub fn folders(sources: &Sources) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    for path in roots(sources) {
        let mut files = vec![path.clone()];
        if path.is_dir() {
            let parts = [path.join(SETTINGS), path.join(SERVICES)];
            // What cannot be listed is told of when it is read.
            files.extend(parts.iter().flat_map(|part| list(part, &["toml", "json"]).unwrap_or_default()));
            files.push(path.join(MAIN));
            files.extend(parts.clone());
            found.extend(parts);
            found.insert(path);
        } else if let Some(parent) = path.parent() {
            found.insert(if parent.as_os_str().is_empty() { ".".into() } else { parent.to_path_buf() });
        }
        let mut links = MAX_LINKS;
        files.iter().for_each(|file| follow(file, MAX_DEPTH, &mut links, &mut found));
    }
    found.retain(|folder| folder.is_dir());
    found.into_iter().collect()
}

/// Notes the folder of each link on the way to a file, and the folder where that way ends if there was one.
fn follow(path: &Path, depth: usize, links: &mut usize, found: &mut BTreeSet<PathBuf>) {
    let Some(depth) = depth.checked_sub(1) else { return };
    let mut at = PathBuf::new();
    let mut was_link = false;
    for part in path.components() {
        at.push(part);
        let (Ok(target), Some(next)) = (fs::read_link(&at), links.checked_sub(1)) else { continue };
        *links = next;
        let folder = at.parent().map(Path::to_path_buf).unwrap_or_default();
        at = folder.join(target);
        found.insert(if folder.as_os_str().is_empty() { ".".into() } else { folder });
        follow(&at, depth, links, found);
        was_link = true;
    }
    if was_link && let Some(folder) = at.parent() {
        found.insert(folder.to_path_buf());
    }
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

/// Links that are followed on the way to the files of one root: enough for a folder of them.
const MAX_LINKS: usize = 1024;
/// Links to links: as many as the kernel follows, and an end to circles.
const MAX_DEPTH: usize = 40;
/// Where settings are looked for when no `--config` is given.
const CONFIG_DIR: &str = "/etc/hobnob";
/// What stands in such a folder.
const MAIN: &str = "hobnob.toml";
const SETTINGS: &str = "conf.d";
const SERVICES: &str = "services.d";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_way_to_a_file_is_watched_and_a_circle_has_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["etc/services.d", "far/..v1", "near"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        for (target, link) in [
            ("../../near/web.toml", "etc/services.d/web.toml"),
            ("../far/..data/web.toml", "near/web.toml"),
            ("..v1", "far/..data"),
            ("db.toml/db.toml", "etc/services.d/db.toml"),
        ] {
            symlink(target, at(link)).unwrap();
        }
        let sources = Sources { files: vec![at("etc")], ..Sources::default() };
        let found: BTreeSet<_> = folders(&sources).iter().filter_map(|folder| folder.canonicalize().ok()).collect();
        let root = folder.path().canonicalize().unwrap();
        assert_eq!(found, ["etc", "etc/services.d", "near", "far", "far/..v1"].map(|name| root.join(name)).into());
    }
}
