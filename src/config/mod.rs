//! Settings: files, environment and flags become one [`Config`], made of the rooms' own.
//!
//! Each source is a *layer*: a TOML table that is checked by itself, so that a mistake is blamed on the file and line,
//! the variable or the flag it stands in. Layers are then laid over each other: flag > environment > file > default.

pub mod fuzz;
mod layer;
mod secrets;
mod services;
mod settings;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

pub use layer::with_hint;
pub use services::read as read_services;
pub use settings::{Listen, Seed};

use crate::{
    agent::{self, Secret},
    dns, http,
    model::{NodeName, Registration, RegistrationDraft},
};
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
    pub services: Vec<Registration>,
}

/// What the settings are read from. Nothing is read from the process itself, so that tests need none of it.
#[derive(Clone, Debug, Default)]
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

/// What an agent is started for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// To serve: it needs a secret, and keeps its state.
    #[default]
    Serve,
    /// To try things out: in memory, on loopback, with a throw-away secret.
    Try,
}

/// Why the settings cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {why}")]
pub struct Error {
    /// The file and line, the variable or the flag to blame.
    pub place: String,
    /// What is wrong there.
    pub why: String,
    /// What to type next.
    pub next: String,
}

impl Error {
    fn new(place: impl Into<String>, why: impl Into<String>) -> Self {
        Self { place: place.into(), why: why.into(), next: "hobnob config check".into() }
    }

    fn next(self, next: impl Into<String>) -> Self {
        Self { next: next.into(), ..self }
    }

    fn io(path: &Path, error: &io::Error) -> Self {
        Self::new(path.display().to_string(), error.to_string()).next(format!("ls -l {}", path.display()))
    }
}

impl Config {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// The first mistake, and whom to blame for it.
    pub fn load(sources: &Sources) -> Result<Self, Error> {
        let (table, services) = read(sources)?;
        let settings = settings(table)?;
        let secrets = find_secrets(sources, &settings)?;
        let node = settings.node.clone().or_else(host_name).ok_or_else(|| {
            Error::new("node", "is not given, and this host's name is no DNS label").next("hobnob agent --node NAME")
        })?;
        let agent = agent::Config {
            node,
            mesh: settings.mesh,
            datacenter: settings.datacenter,
            zone: settings.zone,
            meta: settings.meta,
            listen: settings.listen.mesh,
            advertise: settings.advertise,
            join: settings.join.into_iter().map(String::from).collect(),
            secrets,
            data_dir: settings.data_dir,
            ready_after: settings.ready_after,
        };
        let build = |draft: RegistrationDraft| draft.build().map_err(|error| Error::new("services", error.to_string()));
        let services = services.into_iter().map(build).collect::<Result<_, _>>()?;
        Ok(Self { agent, dns: settings.dns, http: settings.http, listen: settings.listen, services })
    }
}

/// The settings in effect, defaults included, as TOML. Secrets live in files of their own and are not among them.
///
/// # Errors
/// As [`Config::load`].
pub fn show(sources: &Sources) -> Result<String, Error> {
    let (given, services) = read(sources)?;
    let mut settings = settings(given.clone())?;
    settings.node = settings.node.or_else(host_name);
    let wrong = |error: toml::ser::Error| Error::new("settings", error.to_string());
    let mut table = Table::try_from(&settings).map_err(wrong)?;
    table.extend(given.into_iter().filter(|(key, _)| key == "dns" || key == "http"));
    let text = toml::to_string(&table).map_err(wrong)?;
    let names = services.iter().map(|service| format!("# registers {}\n", id(service)));
    Ok(text + &names.collect::<String>())
}

/// Lays all layers over each other and collects what is to be registered.
fn read(sources: &Sources) -> Result<(Table, Vec<RegistrationDraft>), Error> {
    let mut table = defaults(sources);
    let mut services = Vec::new();
    let places = Places::find(sources)?;
    for path in &places.settings {
        let (layer, found) = layer::file(path)?;
        layer::lay_over(&mut table, layer);
        services.extend(found);
    }
    for path in &places.services {
        services.extend(services::read(path)?);
    }
    for (name, value) in &sources.environment {
        if let Some(layer) = layer::variable(name, value)? {
            layer::lay_over(&mut table, layer);
        }
    }
    for (flag, path, value) in &sources.flags {
        layer::lay_over(&mut table, layer::flag(flag, path, value)?);
    }
    if let Some(twice) = first_twice(&services) {
        return Err(Error::new(format!("service {twice:?}"), "is in the files twice; give each instance its own id"));
    }
    Ok((table, services))
}

fn settings(table: Table) -> Result<Settings, Error> {
    table.try_into().map_err(|error: toml::de::Error| Error::new("settings", error.message()))
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

fn find_secrets(sources: &Sources, settings: &Settings) -> Result<Vec<Secret>, Error> {
    let by_flag = sources.flags.iter().any(|(_, path, _)| *path == "secret_file");
    let in_environment = sources.environment.get("HOBNOB_SECRET").filter(|_| !by_flag);
    match (in_environment, &settings.secret_file) {
        (Some(text), _) => secrets::parse("HOBNOB_SECRET", text),
        (None, Some(path)) => secrets::read(path),
        (None, None) if sources.purpose == Purpose::Try => Ok(vec![Secret::random()]),
        (None, None) => Err(Error::new("secret", "no --secret-file, HOBNOB_SECRET or secret_file: a mesh needs one")
            .next("hobnob keygen --out FILE, then hobnob agent --secret-file FILE; or, to try it, hobnob agent --dev")),
    }
}

/// Which files there are to read.
struct Places {
    settings: Vec<PathBuf>,
    services: Vec<PathBuf>,
}

impl Places {
    fn find(sources: &Sources) -> Result<Self, Error> {
        let mut places = Self { settings: Vec::new(), services: Vec::new() };
        if sources.files.is_empty() && sources.purpose == Purpose::Serve {
            places.folder(Path::new(CONFIG_DIR))?;
        }
        for path in &sources.files {
            match fs::metadata(path) {
                Ok(found) if found.is_dir() => places.folder(path)?,
                Ok(_) => places.settings.push(path.clone()),
                Err(error) => return Err(Error::io(path, &error)),
            }
        }
        Ok(places)
    }

    /// A folder laid out like `/etc/hobnob`; any part of it may be missing.
    fn folder(&mut self, folder: &Path) -> Result<(), Error> {
        let main = folder.join("hobnob.toml");
        if main.exists() {
            self.settings.push(main);
        }
        self.settings.extend(list(&folder.join("conf.d"), &["toml"])?);
        self.services.extend(list(&folder.join("services.d"), &["toml", "json"])?);
        Ok(())
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
        if path.extension().is_some_and(|ending| endings.iter().any(|wanted| ending == *wanted)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The nearest node name to this host's name.
fn host_name() -> Option<NodeName> {
    NodeName::from_hostname(&rustix::system::uname().nodename().to_string_lossy())
}

fn id(service: &RegistrationDraft) -> &str {
    service.id.as_deref().unwrap_or(&service.name)
}

fn first_twice(services: &[RegistrationDraft]) -> Option<&str> {
    let twice = |at: &usize| services[..*at].iter().any(|earlier| id(earlier) == id(&services[*at]));
    (0..services.len()).find(twice).map(|at| id(&services[at]))
}

/// Where settings are looked for when no `--config` is given.
const CONFIG_DIR: &str = "/etc/hobnob";
/// Where state is kept unless told otherwise.
const DATA_DIR: &str = "/var/lib/hobnob";

#[cfg(test)]
mod tests;
