//! One layer of settings: a TOML table, checked where it comes from, then laid over the others.

use std::{fs, path::Path};

use serde::Deserialize;
use toml::{Spanned, Table, Value};

use super::{Error, settings::Settings};
use crate::model::RegistrationDraft;

/// Reads one TOML file: its settings, and what it wants registered, both checked.
pub(super) fn file(path: &Path) -> Result<(Table, Vec<RegistrationDraft>), Error> {
    let text = fs::read_to_string(path).map_err(|error| Error::io(path, &error))?;
    parse(&path.display().to_string(), &text)
}

/// The same of a text that is called `name` in errors.
pub(super) fn parse(name: &str, text: &str) -> Result<(Table, Vec<RegistrationDraft>), Error> {
    let blame = |error: toml::de::Error| {
        let line = error.span().map_or(1, |span| line(text, span.start));
        Error::new(format!("{name}, line {line}"), with_hint(error.message()))
    };
    toml::from_str::<Settings>(text).map_err(blame)?;
    let drafts = toml::from_str::<Services>(text).map_err(blame)?.services;
    let mut services = Vec::with_capacity(drafts.len());
    for (at, draft) in drafts.into_iter().enumerate() {
        let line = line(text, draft.span().start);
        let wrong = |error| Error::new(format!("{name}, line {line}"), format!("services[{at}].{error}"));
        draft.get_ref().clone().build().map_err(wrong)?;
        services.push(draft.into_inner());
    }
    let mut table: Table = toml::from_str(text).map_err(blame)?;
    table.remove("services");
    Ok((table, services))
}

/// The part of a file that wants something registered; [`Settings`] has already refused unknown keys.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Services {
    services: Vec<Spanned<RegistrationDraft>>,
}

/// A variable as a layer: `HOBNOB_LISTEN__HTTP` sets `listen.http`. `None` if it is not a setting.
pub(super) fn variable(name: &str, value: &str) -> Result<Option<Table>, Error> {
    let Some(key) = name.strip_prefix("HOBNOB_") else { return Ok(None) };
    // Kubernetes tells every pod about a service called `hobnob` in such variables.
    let of_kubernetes = key == "PORT" || key.starts_with("PORT_") || key.starts_with("SERVICE_");
    if of_kubernetes || NOT_SETTINGS.contains(&name) {
        return Ok(None);
    }
    let path = key.to_ascii_lowercase().replace("__", ".");
    // A variable is text; which of its readings is meant, the setting's type decides.
    let as_toml = toml::from_str::<Table>(&format!("v = {value}")).ok().and_then(|mut table| table.remove("v"));
    let as_list = value.split(',').map(str::trim).filter(|item| !item.is_empty());
    let as_list = Value::Array(as_list.map(Value::from).collect());
    let mut first = None;
    for reading in [Some(Value::from(value)), as_toml, Some(as_list)].into_iter().flatten() {
        match checked(&path, reading) {
            Ok(layer) => return Ok(Some(layer)),
            Err(why) => drop(first.get_or_insert(why)),
        }
    }
    Err(Error::new(name, first.unwrap_or_default()).next(format!("unset {name}, or give it a value that fits")))
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

/// serde's message on one line, with "did you mean" when it is about an unknown key. It quotes that key first, then those
/// it knows.
#[must_use]
pub fn with_hint(message: &str) -> String {
    if message.starts_with("invalid socket address") {
        return "is no IP address with a port, such as 127.0.0.1:8500 or [::]:7946".into();
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = message.starts_with("unknown field").then(|| quoted.next()).flatten();
    match unknown.and_then(|key| closest(key, quoted).map(|near| (key, near))) {
        Some((key, near)) => format!("unknown key `{key}`; did you mean `{near}`?"),
        None => message.replace("unknown field", "unknown key").trim().replace('\n', " "),
    }
}

/// The word among `known` that `word` was most likely meant to be.
fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |candidate: &str| strsim::damerau_levenshtein(&word.to_ascii_lowercase(), candidate);
    known.into_iter().min_by_key(|known| distance(known)).filter(|known| distance(known) <= word.len().max(3) / 2)
}

/// The line that byte `at` of `text` stands in, from 1.
fn line(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// Variables with a meaning of their own: the secret is no setting, the others are read by commands.
const NOT_SETTINGS: [&str; 4] = ["HOBNOB_SECRET", "HOBNOB_API", "HOBNOB_LOG", "HOBNOB_TOKEN"];
