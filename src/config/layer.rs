//! One layer of settings: a TOML table, checked where it comes from, then laid over the others.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use toml::{Table, Value};

use super::{
    Error,
    document::{Document, Source},
    mistake::by_line,
    services::{self, Wanted},
    settings::Settings,
};
use crate::model::with_hint;

/// Settings, and what is wanted registered beside them.
#[derive(Debug, Default)]
pub(super) struct Layer {
    pub(super) table: Table,
    pub(super) services: Vec<Wanted>,
    /// Where each setting stands, by its path.
    pub(super) lines: BTreeMap<String, String>,
    /// Whether a mistake has cost a part of the settings: what seems to be missing may stand there.
    pub(super) torn: bool,
}

impl Layer {
    fn lost() -> Self {
        Self { torn: true, ..Self::default() }
    }

    /// Lays `over` over it.
    pub(super) fn take(&mut self, over: Self) {
        lay_over(&mut self.table, over.table);
        // A list replaces the whole of another.
        self.lines.retain(|path, _| path.split_once('[').is_none_or(|(list, _)| !over.lines.contains_key(list)));
        self.lines.extend(over.lines);
        self.services.extend(over.services);
        self.torn |= over.torn;
    }

    /// The same of one setting that stands in no file.
    pub(super) fn take_one(&mut self, path: String, place: &str, table: Table) {
        self.take(Self { table, lines: BTreeMap::from([(path, place.to_owned())]), ..Self::default() });
    }
}

/// Reads one TOML file: its settings, and what it wants registered, both checked. What is wrong is noted.
pub(super) fn file(path: &Path, mistakes: &mut Vec<Error>) -> Layer {
    match super::text(path) {
        Ok(text) => parse(Source { name: &path.display().to_string(), text: &text }, mistakes),
        Err(error) => {
            mistakes.push(Error::io(path, &error));
            Layer::lost()
        }
    }
}

/// The same of a text.
pub(super) fn parse(source: Source<'_>, mistakes: &mut Vec<Error>) -> Layer {
    let before = mistakes.len();
    let Some(mut document) = Document::toml(source, mistakes) else { return Layer::lost() };
    let services = document.take("services");
    let services = services.map(|services| services::list(source, services, mistakes)).unwrap_or_default();
    let of_services = mistakes.len();
    // Read as settings, so that each is of its type; kept as a table, so that layers can be laid over each other.
    let sound = document.read::<Settings>(mistakes).and_then(|_| document.read::<Table>(mistakes));
    let torn = mistakes.len() > of_services;
    by_line(&mut mistakes[before..]);
    Layer { table: sound.unwrap_or_default(), services, lines: document.places(), torn }
}

/// A variable as a layer: `HOBNOB_LISTEN__HTTP` sets `listen.http`. `None` if it is not a setting.
pub(super) fn variable(name: &str, value: &str) -> Result<Option<Table>, Error> {
    let Some(key) = name.strip_prefix("HOBNOB_") else { return Ok(None) };
    if is_of_kubernetes(key, value) || NOT_SETTINGS.contains(&name) {
        return Ok(None);
    }
    let path = path(key);
    // A variable is text; which of its readings is meant, the setting's type decides.
    let as_toml = toml::from_str::<Table>(&format!("v = {value}")).ok().and_then(|mut table| table.remove("v"));
    let as_list = value.split(',').map(str::trim).filter(|item| !item.is_empty());
    let as_list = Value::Array(as_list.map(Value::from).collect());
    let mut mistake = None;
    for reading in [Some(Value::from(value)), as_toml, Some(as_list)].into_iter().flatten() {
        match checked(&path, reading) {
            Ok(layer) => return Ok(Some(layer)),
            // What is of the right type and wrong says more than what is not.
            Err(why) if mistake.is_none() || !why.starts_with("invalid type") => mistake = Some(why),
            Err(_) => {}
        }
    }
    Err(Error::new(name, mistake.unwrap_or_default()).next(format!("unset {name}, or give it a value that fits")))
}

/// The setting that is meant by what follows `HOBNOB_`.
pub(super) fn path(key: &str) -> String {
    key.to_ascii_lowercase().replace("__", ".")
}

/// Kubernetes tells every pod of each service, in variables that begin with the service's name: of one called `hobnob`,
/// and of one called `hobnob-dns`, in `HOBNOB_DNS_SERVICE_HOST`, `HOBNOB_DNS_PORT` and `HOBNOB_DNS_PORT_53_UDP_ADDR`.
fn is_of_kubernetes(key: &str, value: &str) -> bool {
    let words: Vec<&str> = key.split('_').collect();
    let protocol = |word: &str| ["TCP", "UDP", "SCTP"].contains(&word);
    words.windows(2).any(|pair| matches!(pair, ["SERVICE", "HOST" | "PORT"]))
        || words.windows(3).any(|three| three[0] == "PORT" && three[1].parse::<u16>().is_ok() && protocol(three[2]))
        || words.ends_with(&["PORT"])
            && value.split_once("://").is_some_and(|(scheme, _)| protocol(&scheme.to_uppercase()))
}

/// A flag as a layer.
pub(super) fn flag(flag: &str, path: &str, value: &Value) -> Result<Table, Error> {
    checked(path, value.clone()).map_err(|why| Error::new(flag, why).next("hobnob agent --help"))
}

fn checked(path: &str, value: Value) -> Result<Table, String> {
    let table = path.rsplit('.').fold(value, |inner, key| Value::Table(Table::from_iter([(key.to_owned(), inner)])));
    let Value::Table(table) = table else { return Err("names no setting".into()) };
    Settings::deserialize(table.clone()).map_err(|error| with_hint(error.message()))?;
    Ok(table)
}

/// Lays `over` over `under`: tables are merged, anything else is replaced.
pub(super) fn lay_over(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => lay_over(below, above),
            (_, value) => drop(under.insert(key, value)),
        }
    }
}

/// Variables with a meaning of their own: the secret is no setting, the others are read by commands.
const NOT_SETTINGS: [&str; 7] =
    ["HOBNOB_SECRET", "HOBNOB_API", "HOBNOB_API_CA", "HOBNOB_API_CERT", "HOBNOB_API_KEY", "HOBNOB_LOG", "HOBNOB_TOKEN"];
