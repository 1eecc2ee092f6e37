//! Service files: TOML with `[[services]]`, and Consul's JSON (`{"service": {...}}`, `{"services": [...]}`) as far as a
//! registration can say the same. A key that would change nothing is skipped; one that would be lost is an error.

use std::{fs, path::Path};

use serde_json::{Map, Value};

use super::{
    Error,
    layer::{self, with_hint},
};
use crate::model::RegistrationDraft;

/// Reads the services in one file, by its ending: `.json` is Consul's form, anything else TOML. They are checked.
///
/// # Errors
/// The first mistake, with its place.
pub fn read(path: &Path) -> Result<Vec<RegistrationDraft>, Error> {
    let place = path.display().to_string();
    if path.extension().is_some_and(|ending| ending == "json") {
        let text = fs::read_to_string(path).map_err(|error| Error::io(path, &error))?;
        return json(&place, &text);
    }
    let (settings, services) = layer::file(path)?;
    match settings.keys().next() {
        None => Ok(services),
        Some(key) => Err(Error::new(place, format!("holds `{key}`: a service file holds [[services]] alone"))),
    }
}

pub(super) fn json(place: &str, text: &str) -> Result<Vec<RegistrationDraft>, Error> {
    let file: Map<String, Value> = serde_json::from_str(text)
        .map_err(|error| Error::new(format!("{place}, line {}", error.line()), error.to_string()))?;
    let mut found = Vec::new();
    for (key, value) in file {
        match (&*folded(&key), value) {
            ("service", one) => found.push(("service".to_owned(), one)),
            ("services", Value::Array(all)) => {
                found.extend(all.into_iter().enumerate().map(|(at, one)| (format!("services[{at}]"), one)));
            }
            _ => return Err(Error::new(place, format!("`{key}` is not `service` or a list of `services`"))),
        }
    }
    found
        .into_iter()
        .map(|(path, one)| registration(one).map_err(|why| Error::new(format!("{place}, {path}"), why)))
        .collect()
}

fn registration(consul: Value) -> Result<RegistrationDraft, String> {
    let Value::Object(consul) = consul else { return Err("is not an object".into()) };
    let mut ours = Map::new();
    let mut checks = Vec::new();
    for (key, value) in consul {
        match &*folded(&key) {
            "check" => checks.push(value),
            "checks" => match value {
                Value::Array(all) => checks.extend(all),
                _ => return Err("`checks` is not a list".into()),
            },
            "weights" => {
                let passing = value.as_object().into_iter().flatten().find(|(key, _)| folded(key) == "passing");
                ours.extend(passing.map(|(_, weight)| ("weight".to_owned(), weight.clone())));
            }
            "enabletagoverride" | "token" | "taggedaddresses" => {}
            known => drop(ours.insert(known.to_owned(), value)),
        }
    }
    let checks = checks.into_iter().map(check).collect::<Result<_, _>>()?;
    ours.insert("checks".into(), Value::Array(checks));
    let draft: RegistrationDraft = serde_json::from_value(ours.into()).map_err(|e| with_hint(&e.to_string()))?;
    draft.clone().build().map_err(|error| error.to_string())?;
    Ok(draft)
}

/// Consul's words for a check in ours. A kind is passed on as it is: whether it can be run is the check's own affair.
fn check(consul: Value) -> Result<Value, String> {
    let Value::Object(consul) = consul else { return Err("a check is not an object".into()) };
    let mut ours = Map::new();
    for (key, value) in consul {
        let folded = folded(&key);
        let key = match &*folded {
            "id" | "checkid" | "name" if ours.contains_key("name") => continue,
            "id" | "checkid" | "name" => "name",
            "status" => "initial",
            "deregistercriticalserviceafter" => "deregister_after",
            // Consul counts what comes before the change, we count the change too.
            "successbeforepassing" => {
                ours.insert("rise".into(), (value.as_u64().unwrap_or(0) + 1).into());
                continue;
            }
            "failuresbeforecritical" => {
                ours.insert("fall".into(), (value.as_u64().unwrap_or(0) + 1).into());
                continue;
            }
            "notes" => continue,
            other => other,
        };
        ours.insert(key.to_owned(), value);
    }
    Ok(ours.into())
}

/// Consul takes its keys in any case, with and without underscores.
fn folded(key: &str) -> String {
    key.replace('_', "").to_ascii_lowercase()
}
