//! What `hobnob join TOKEN` brings to a new machine: settings in the data directory, which lie below all others.

use std::path::Path;

use toml::{Table, Value};

use super::{layer, mistake::Error};
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
pub(super) fn lay_under(table: &mut Table, mistakes: &mut Vec<Error>) {
    let Some(file) = table.get("data_dir").and_then(Value::as_str).map(|dir| Path::new(dir).join(JOINED)) else {
        return;
    };
    if file.exists() {
        let mut under = layer::file(&file, mistakes).table;
        layer::lay_over(&mut under, std::mem::take(table));
        *table = under;
    }
}
