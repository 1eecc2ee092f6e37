//! What `hobnob join TOKEN` brings to a new machine: settings in the data directory, which lie below all others.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use rustix::process::geteuid;
use toml::{Table, Value};

use super::{
    layer::{self, Layer},
    mistake::Error,
};
use crate::agent::trust::Invitation;

/// The file's name.
pub(crate) const JOINED: &str = "joined.toml";

/// The settings as text. `papers` are pairs of a setting (`tls.ca`) and a file's path.
pub(crate) fn settings(node: &str, invitation: &Invitation, papers: &[(&str, String)]) -> String {
    let seeds: Vec<_> = invitation.seeds().map(ToString::to_string).collect();
    let mut table = Table::from_iter([
        ("node".to_owned(), Value::from(node)),
        ("mesh".to_owned(), invitation.mesh().as_str().into()),
        ("join".to_owned(), seeds.into()),
    ]);
    for (setting, path) in papers {
        let value = Value::from(path.as_str());
        let (section, key) = setting.split_once('.').unwrap_or(("", setting));
        let layer = Table::from_iter([(key.to_owned(), value)]);
        let layer = if section.is_empty() { layer } else { Table::from_iter([(section.to_owned(), layer.into())]) };
        layer::lay_over(&mut table, layer);
    }
    if let Some(tls) = table.get_mut("tls").and_then(Value::as_table_mut) {
        // Who was granted one certificate is granted the next.
        tls.insert("renew".into(), true.into());
    }
    table.to_string()
}

/// Lays all that was given over what an invitation brought, where one was used for this data directory.
pub(super) fn lay_under(all: &mut Layer, mistakes: &mut Vec<Error>) {
    let Some(file) = all.table.get("data_dir").and_then(Value::as_str).map(|dir| Path::new(dir).join(JOINED)) else {
        return;
    };
    if file.exists() {
        let mut under = match ours(&file) {
            Ok(()) => layer::file(&file, mistakes),
            Err(why) => return mistakes.push(why),
        };
        // Programs, for one, are run only at the word of settings that the administrator has written.
        for key in under.table.keys().filter(|key| !BROUGHT.contains(&key.as_str())) {
            let why = format!("{key}: an invitation brings no such setting");
            mistakes.push(Error::new(file.display().to_string(), why).next("move it to a file of --config"));
        }
        (under.services, under.torn) = (Vec::new(), false);
        under.take(std::mem::take(all));
        *all = under;
    }
}

/// Whether nobody else can have written these settings.
fn ours(file: &Path) -> Result<(), Error> {
    for path in file.parent().into_iter().chain([file]) {
        let place = path.display();
        let found = fs::metadata(path).map_err(|why| Error::io(path, &why))?;
        let us = geteuid();
        if found.mode() & OTHERS_WRITE != 0 {
            let why =
                format!("others can write there (mode {:o}), and settings are read from it", found.mode() & 0o777);
            return Err(Error::new(place.to_string(), why).next(format!("chmod o-w {place}")));
        }
        if !us.is_root() && ![0, us.as_raw()].contains(&found.uid()) {
            let why = format!(
                "belongs to user {}, not to {} who runs this, and settings are read from it",
                found.uid(),
                us.as_raw()
            );
            return Err(Error::new(place.to_string(), why).next(format!("ls -ld {place}")));
        }
    }
    Ok(())
}

/// All that [`settings`] may say.
const BROUGHT: [&str; 5] = ["join", "mesh", "node", "secret_file", "tls"];
const OTHERS_WRITE: u32 = 0o002;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_data_directory_sets_what_an_invitation_brings_and_only_its_owner_writes_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(JOINED);
        let read = |text: &str, open: &[(&Path, u32)]| {
            fs::write(&file, text).unwrap();
            for (path, mode) in [(folder.path(), 0o750), (&file, 0o640)].iter().chain(open) {
                fs::set_permissions(path, fs::Permissions::from_mode(*mode)).unwrap();
            }
            let table = Table::from_iter([("data_dir".to_owned(), folder.path().to_str().unwrap().into())]);
            let (mut all, mut mistakes) = (Layer { table, ..Layer::default() }, Vec::new());
            lay_under(&mut all, &mut mistakes);
            let mistakes: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
            (all.table.contains_key("node"), mistakes.join("; "))
        };
        let brought = "node = \"n\"\njoin = []\n[tls]\nrenew = true\n";
        assert_eq!(read(brought, &[]), (true, String::new()));
        for hostile in ["script_checks = true\n", "hooks = []\n", "[http]\nallow_insecure = true\n"] {
            let (_, why) = read(&format!("node = \"n\"\n{hostile}"), &[]);
            assert!(!why.is_empty(), "{hostile}");
        }
        assert!(read("node = \"n\"\nscript_checks = true\n", &[]).1.contains("script_checks: an invitation brings"));
        for open in [(folder.path(), 0o777), (&*file, 0o666)] {
            let (taken, why) = read(brought, &[open]);
            assert!(!taken && why.contains("others can write there"), "{why}");
        }
    }
}
