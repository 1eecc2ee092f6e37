//! Settings: files, environment and flags become one [`Config`], made of the rooms' own.
//!
//! Each source is a *layer*: a TOML table that is checked by itself, so that a mistake is blamed on the file and line,
//! the variable or the flag it stands in. Layers are then laid over each other: flag > environment > file > default.

mod consul;
mod document;
pub mod fuzz;
mod hook;
pub(crate) mod joined;
mod layer;
mod mistake;
mod places;
mod secrets;
mod services;
mod settings;
mod ties;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use toml::{Table, Value};

pub use crate::model::with_hint;
pub use hook::Hook;
pub use mistake::{Error, Mistakes};
pub use places::folders;
pub use services::read as read_services;
pub use settings::{Listen, Seed};

use crate::{
    agent::{self, Secret, file, trust::Files},
    dns, http,
    model::{InstanceId, NodeName, Registration},
};
use layer::Layer;
use places::Places;
use services::Wanted;
use settings::Settings;

/// All that `hobnob agent` needs to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node.
    pub agent: agent::Config,
    /// Its DNS face.
    pub dns: dns::Config,
    /// Its HTTP face.
    pub http: http::Config,
    /// Where it listens.
    pub listen: Listen,
    /// What it registers by itself.
    pub services: Vec<Arc<Registration>>,
    /// The file that asks for each of them.
    pub files: BTreeMap<InstanceId, String>,
    /// Whether a parent process is to tell the peers when the agent dies without a goodbye, and to end what the programs of
    /// its checks and hooks have started. Without one that goes on when the agent is killed.
    pub will: bool,
    /// What it runs when a service changes.
    pub hooks: Vec<Hook>,
    /// Where in its file each of them stands.
    places: BTreeMap<InstanceId, String>,
    /// Where each setting stands, by its path.
    lines: BTreeMap<String, String>,
    /// The settings as they were given, layers laid over each other.
    effective: Table,
    /// The same as they were read last: what waits for a restart too.
    read: Table,
}

/// What the settings are read from. Nothing is read from the process itself, so that tests need none of it.
#[derive(Clone, Default)]
pub struct Sources {
    /// Files and folders, later ones over earlier ones; `/etc/hobnob`, if there is one, when empty.
    pub files: Vec<PathBuf>,
    /// The environment; only what begins with `HOBNOB_` counts, and systemd's `STATE_DIRECTORY`.
    pub environment: BTreeMap<String, String>,
    /// Flags: how the flag is called, where its setting lives (`listen.http`), what was given.
    pub flags: Vec<(&'static str, &'static str, Value)>,
    /// What for.
    pub purpose: Purpose,
}

/// The names alone: a variable may hold a secret.
impl fmt::Debug for Sources {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags: Vec<_> = self.flags.iter().map(|(flag, ..)| flag).collect();
        let variables: Vec<_> = self.environment.keys().filter(|name| name.starts_with("HOBNOB_")).collect();
        out.debug_struct("Sources")
            .field("files", &self.files)
            .field("environment", &variables)
            .field("flags", &flags)
            .field("purpose", &self.purpose)
            .finish()
    }
}

/// What an agent is started for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// To serve: it needs a secret, and keeps its state.
    #[default]
    Serve,
    /// To try things out: in memory, on loopback, with a throw-away secret.
    Try,
}

impl Config {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// All mistakes, and whom to blame for each.
    pub fn load(sources: &Sources) -> Result<Self, Mistakes> {
        let (config, mistakes) = Self::gather(sources);
        Mistakes::unless(mistakes, config)
    }

    /// As much of it as can be made out, and all that is wrong.
    fn gather(sources: &Sources) -> (Option<Self>, Vec<Error>) {
        let (mut mistakes, mut wrong) = (Vec::new(), Vec::new());
        let given = read(sources, &mut mistakes);
        let lines = given.lines.clone();
        let config = assemble(sources, given, &mut wrong);
        mistakes.extend(wrong.into_iter().map(|mistake| mistake.located(&lines)));
        (config, mistakes)
    }

    /// Whether `newer` says the same as what was read last.
    #[must_use]
    pub fn is_same(&self, newer: &Self) -> bool {
        self.read == newer.read && self.services == newer.services && self.files == newer.files
    }

    /// This with all of `newer` that a running node can take over.
    #[must_use]
    pub fn with(&self, newer: Self) -> Self {
        let mut effective = self.effective.clone();
        for setting in RELOADED {
            match newer.effective.get(setting) {
                Some(value) => drop(effective.insert(setting.into(), value.clone())),
                None => drop(effective.remove(setting)),
            }
        }
        let agent = agent::Config { join: newer.agent.join, ..self.agent.clone() };
        let (services, files, places, hooks) = (newer.services, newer.files, newer.places, newer.hooks);
        Self { agent, services, files, places, hooks, lines: newer.lines, effective, read: newer.read, ..self.clone() }
    }

    /// The settings that differ in `newer` and that a running node cannot take over.
    #[must_use]
    pub fn fixed(&self, newer: &Self) -> Vec<String> {
        let mut changed = Vec::new();
        differences("", &self.effective, &newer.effective, &mut changed);
        changed.retain(|setting| !RELOADED.contains(&setting.as_str()));
        changed
    }
}

/// Makes what an agent needs of the laid-out layers.
fn assemble(sources: &Sources, given: Layer, mistakes: &mut Vec<Error>) -> Option<Config> {
    let Layer { table, services, lines, torn } = given;
    let settings = settings(table.clone()).map_err(|error| mistakes.push(error)).ok()?;
    let tls = find_files(sources, &settings, mistakes);
    let https = find_https(&settings.http, mistakes, torn);
    let secrets = if settings.tls.is_empty() { find_secrets(sources, &settings) } else { Ok(Vec::new()) };
    let secrets =
        secrets.map_err(|error| mistakes.extend(Some(error).filter(|error| !torn || error.place != NO_SECRET)));
    if let Err(why) = settings.http.check_place(settings.listen.http) {
        mistakes.push(Error::new("listen.http", why).next("hobnob agent --http 127.0.0.1:8500"));
    }
    if let Err(why) = settings.dns.check_place(settings.listen.dns) {
        mistakes.push(Error::new("dns.forward", why).next("forward = [\"192.0.2.53:53\"]"));
    }
    let named = || tls.as_ref().and_then(|files| files.names(&settings.mesh));
    let Some(node) = settings.node.clone().or_else(named).or_else(host_name) else {
        let nameless = Error::new("node", "is not given, and this host's name is no DNS label");
        mistakes.push(nameless.next("hobnob agent --node NAME"));
        return None;
    };
    let agent = agent::Config {
        node,
        mesh: settings.mesh,
        datacenter: settings.datacenter,
        zone: settings.zone,
        meta: settings.meta,
        listen: settings.listen.mesh,
        advertise: settings.advertise,
        join: settings.join.into_iter().map(String::from).collect(),
        secrets: secrets.unwrap_or_default(),
        tls,
        data_dir: settings.data_dir,
        ready_after: settings.ready_after,
        protect_for: settings.protect_for,
        checks: agent::checks::Config {
            scripts: settings.script_checks,
            allow: settings.checks.allow,
            deny: settings.checks.deny,
        },
        opens: agent::Opens::default(),
    };
    mistakes.extend(agent.check().err().map(|(field, why)| Error::new(field, why)));
    if !settings.script_checks {
        mistakes.extend(services.iter().filter_map(script_while_off));
    }
    let (mut files, mut places) = (BTreeMap::new(), BTreeMap::new());
    let build = |Wanted { draft, place, .. }| match draft.build() {
        Ok(registration) => {
            files.insert(registration.id.clone(), place.split(", line ").next().unwrap_or_default().to_owned());
            places.insert(registration.id.clone(), place);
            Ok(Arc::new(registration))
        }
        Err(error) => Err(Error::new(place, error.to_string())),
    };
    let services: Result<_, _> = services.into_iter().map(build).collect();
    Some(Config {
        agent,
        dns: settings.dns,
        http: http::Config { tls: https, ..settings.http },
        listen: settings.listen,
        services: services.map_err(|error| mistakes.push(error)).ok()?,
        files,
        places,
        hooks: settings.hooks,
        will: settings.will,
        lines,
        read: table.clone(),
        effective: table,
    })
}

/// A service whose check the agent would refuse to run.
fn script_while_off(service: &Wanted) -> Option<Error> {
    let (at, place) = service.script.as_ref()?;
    let why = format!(
        "checks[{at}] of {:?} is a script, and scripts are off on this node: set script_checks = true in its settings",
        service.id()
    );
    Some(Error::new(place, why))
}

/// The settings in effect, defaults included, as TOML. Secrets live in files of their own and are not among them.
///
/// # Errors
/// As [`Config::load`], but for the secrets, which need not be there.
pub fn show(sources: &Sources) -> Result<String, Mistakes> {
    let (table, ids) = effective(sources)?;
    let text = toml::to_string(&table).map_err(|error| Error::new("settings", error.to_string()))?;
    Ok(text + &ids.iter().map(|id| format!("# registers {id}\n")).collect::<String>())
}

/// The same as JSON, with the ids of what is registered under `registers`.
///
/// # Errors
/// As [`show`].
pub fn shown(sources: &Sources) -> Result<serde_json::Value, Mistakes> {
    let (table, ids) = effective(sources)?;
    let mut all = serde_json::to_value(table).map_err(|error| Error::new("settings", error.to_string()))?;
    all["registers"] = ids.into();
    Ok(all)
}

/// The settings in effect, and the ids of what is registered.
fn effective(sources: &Sources) -> Result<(Table, Vec<String>), Mistakes> {
    let mut mistakes = Vec::new();
    let Layer { table: given, services, .. } = read(sources, &mut mistakes);
    Mistakes::unless(mistakes, Some(()))?;
    let mut settings = settings(given.clone())?;
    settings.node = settings.node.or_else(host_name);
    let mut table = Table::try_from(&settings).map_err(|error| Error::new("settings", error.to_string()))?;
    layer::lay_over(&mut table, given);
    Ok((table, services.iter().map(|service| service.id().to_owned()).collect()))
}

/// Lays all layers over each other and collects what is to be registered.
fn read(sources: &Sources, mistakes: &mut Vec<Error>) -> Layer {
    let mut all = Layer { table: defaults(sources), ..Layer::default() };
    let places = Places::find(sources, mistakes);
    for path in &places.settings {
        all.take(layer::file(path, mistakes));
    }
    for path in &places.services {
        all.services.extend(services::file(path, mistakes));
    }
    let variables = sources.environment.iter().map(|(name, value)| {
        let path = layer::path(name.trim_start_matches("HOBNOB_"));
        (path, name.as_str(), layer::variable(name, value))
    });
    let flags = sources.flags.iter().map(|(flag, path, value)| {
        let layer = layer::flag(flag, path, value).map(Some);
        ((*path).to_owned(), *flag, layer)
    });
    for (path, place, layer) in variables.chain(flags) {
        match layer {
            Ok(layer) => layer.into_iter().for_each(|table| all.take_one(path.clone(), place, table)),
            Err(error) => mistakes.push(error),
        }
    }
    joined::lay_under(&mut all, mistakes);
    let mut places = BTreeMap::new();
    for service in &all.services {
        if let Some(first) = places.insert(service.id(), &service.place) {
            let why = format!("{:?} is in {first} too; give each instance its own id", service.id());
            mistakes.push(Error::new(&service.place, why));
        }
    }
    all
}

/// What stands in a file of settings or services.
fn text(path: &Path) -> io::Result<String> {
    file::text(path, MAX_FILE)
}

fn settings(table: Table) -> Result<Settings, Error> {
    table.try_into().map_err(|error: toml::de::Error| Error::new("settings", error.message()))
}

/// The paths of the settings that differ between two tables.
fn differences(path: &str, one: &Table, other: &Table, found: &mut Vec<String>) {
    let keys: BTreeSet<_> = one.keys().chain(other.keys()).collect();
    for key in keys {
        let below = format!("{path}{key}");
        match (one.get(key), other.get(key)) {
            (Some(Value::Table(one)), Some(Value::Table(other))) => {
                differences(&format!("{below}."), one, other, found);
            }
            (one, other) if one != other => found.push(below),
            _ => {}
        }
    }
}

/// The layer under all others: what cannot be a constant.
fn defaults(sources: &Sources) -> Table {
    let mut table = Table::new();
    if sources.purpose == Purpose::Try {
        let listen = Table::from_iter([("mesh".to_owned(), Value::from("127.0.0.1:7946"))]);
        table.insert("listen".into(), listen.into());
    } else {
        // systemd gives several folders with colons between them (systemd.exec, StateDirectory=).
        let given = sources.environment.get("STATE_DIRECTORY").and_then(|all| all.split(':').next());
        table.insert("data_dir".into(), given.unwrap_or(DATA_DIR).into());
    }
    table
}

/// The files of certificate mode, if that is the mode.
fn find_files(sources: &Sources, settings: &Settings, mistakes: &mut Vec<Error>) -> Option<Files> {
    if settings.tls.is_empty() {
        return None;
    }
    let given = [
        ("secret_file", settings.secret_file.is_some()),
        (IN_ENVIRONMENT, sources.environment.contains_key(IN_ENVIRONMENT)),
    ];
    for (place, _) in given.into_iter().filter(|(_, is_given)| *is_given) {
        let why = "stands beside [tls]: a mesh lives by its secret or by certificates";
        let mistake = Error::new(place, why);
        mistakes.push(if place == IN_ENVIRONMENT { mistake.next("unset HOBNOB_SECRET") } else { mistake });
    }
    let missing = |key| Error::new(format!("tls.{key}"), "is missing: [tls] wants ca, cert and key");
    let missing = |key| missing(key).next("hobnob ca issue NODE --mesh MESH");
    settings.tls.clone().files().map_err(|keys| mistakes.extend(keys.into_iter().map(missing))).ok()
}

/// The files of HTTPS, if that is served. What a mistake has cost is not missing.
fn find_https(http: &http::Config, mistakes: &mut Vec<Error>, torn: bool) -> Option<http::Files> {
    let missing = http.tls.as_ref()?.missing();
    let wants = |key: &&str| {
        let why = Error::new(format!("http.tls.{key}"), "is missing: [http.tls] wants cert and key");
        why.next(format!("{key} = \"/etc/hobnob/http-{key}.pem\""))
    };
    mistakes.extend(missing.iter().filter(|_| !torn).map(wants));
    http.tls.clone().filter(|_| missing.is_empty())
}

fn find_secrets(sources: &Sources, settings: &Settings) -> Result<Vec<Secret>, Error> {
    let by_flag = sources.flags.iter().any(|(_, path, _)| *path == "secret_file");
    let in_environment = sources.environment.get(IN_ENVIRONMENT).filter(|_| !by_flag);
    match (in_environment, &settings.secret_file) {
        (Some(text), _) => secrets::parse(IN_ENVIRONMENT, text),
        (None, Some(path)) => secrets::read(path),
        (None, None) if sources.purpose == Purpose::Try => Ok(vec![Secret::random()]),
        (None, None) => Err(Error::new(NO_SECRET, "no --secret-file, HOBNOB_SECRET or secret_file: a mesh needs one")
            .next("hobnob keygen --out FILE, then hobnob agent --secret-file FILE; or, to try it, hobnob agent --dev")),
    }
}

/// The nearest node name to this host's name.
fn host_name() -> Option<NodeName> {
    NodeName::from_hostname(&rustix::system::uname().nodename().to_string_lossy())
}

/// The variable that holds a secret itself.
const IN_ENVIRONMENT: &str = "HOBNOB_SECRET";
/// What a mistake is blamed on that stands nowhere.
const NO_SECRET: &str = "secret";
/// All the services that one node may have take a third of it.
const MAX_FILE: u64 = 32 << 20;
/// What a running node takes over when it reads its files again.
const RELOADED: [&str; 3] = ["hooks", "join", "secret_file"];
/// Where state is kept unless told otherwise.
pub(crate) const DATA_DIR: &str = "/var/lib/hobnob";

#[cfg(test)]
mod tests;
