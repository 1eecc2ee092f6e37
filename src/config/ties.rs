//! The files and programs that settings lead to. An agent starts without those of its checks, which may come later, and
//! tries them at each check; who checks the settings wants to hear of them now.

use std::{
    env,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::{Config, Error, MAX_FILE, Mistakes, Sources};
use crate::{
    agent::file,
    model::{CheckKind, CheckSpec},
};

impl Config {
    /// As [`Config::load`], if all that it leads to is there.
    ///
    /// # Errors
    /// All mistakes, and each file that cannot be read, each program that is none, and each whose place depends on where the
    /// agent is started.
    pub fn check(sources: &Sources) -> Result<Self, Mistakes> {
        let (config, mut mistakes) = Self::gather(sources);
        mistakes.extend(config.iter().flat_map(Self::ties));
        Mistakes::unless(mistakes, config)
    }

    /// What is not there.
    fn ties(&self) -> Vec<Error> {
        let mut mistakes = Vec::new();
        if let Some(tls) = &self.agent.tls {
            let all = [
                ("ca", Some(&tls.ca)),
                ("cert", Some(&tls.cert)),
                ("key", Some(&tls.key)),
                ("ca_key", tls.ca_key.as_ref()),
            ];
            let held = || tls.check(&self.agent.mesh, &self.agent.node).map_err(|why| why.to_string());
            mistakes.extend(papers("tls", &all, held));
        }
        if let Some(tls) = &self.http.tls {
            let all = [("cert", Some(&tls.cert)), ("key", Some(&tls.key)), ("client_ca", tls.client_ca.as_ref())];
            mistakes.extend(papers("http.tls", &all, || tls.check().map_err(|why| why.to_string())));
        }
        for service in &self.services {
            let place = self.places.get(&service.id).map_or("services", String::as_str);
            let told = |(check, why)| Error::new(place, format!("check {check} of {}: {why}", service.id));
            let loose = service.checks.iter().flat_map(|check| loose(check).into_iter().map(|why| (&check.id, why)));
            mistakes.extend(loose.map(told));
        }
        for (n, hook) in self.hooks.iter().enumerate() {
            let why = hook.command.first().and_then(|program| missing(program));
            mistakes.extend(why.map(|why| Error::new(format!("hooks[{n}].command"), why)));
        }
        mistakes.into_iter().map(|mistake| mistake.located(&self.lines)).collect()
    }
}

/// What is wrong with the files of a section, or else with what they hold.
fn papers(section: &str, files: &[(&str, Option<&PathBuf>)], held: impl FnOnce() -> Result<(), String>) -> Vec<Error> {
    let lost = |(key, path): &(&str, Option<&PathBuf>)| {
        Some(Error::new(format!("{section}.{key}"), unreadable(path.as_deref()?)?))
    };
    let all: Vec<_> = files.iter().filter_map(lost).collect();
    if all.is_empty() { held().err().map(|why| Error::new(section, why)).into_iter().collect() } else { all }
}

/// What a check leads to that is not there.
fn loose(check: &CheckSpec) -> Vec<String> {
    let tls = match &check.kind {
        CheckKind::Http(http) => http.tls.as_ref(),
        CheckKind::Tcp(tcp) => tcp.tls.as_ref(),
        CheckKind::Grpc(grpc) => grpc.tls.as_ref(),
        CheckKind::Script(argv) => {
            let why = argv.first().and_then(|program| missing(program));
            return why.map(|why| format!("script {why}")).into_iter().collect();
        }
        _ => None,
    };
    let files = tls.map(|tls| [("ca", &tls.ca), ("cert", &tls.cert), ("key", &tls.key)]);
    let each = files.into_iter().flatten().filter_map(|(key, path)| Some((key, unreadable(path.as_deref()?)?)));
    each.map(|(key, why)| format!("tls.{key} {why}")).collect()
}

fn unreadable(path: &Path) -> Option<String> {
    relative(path).or_else(|| file::text(path, MAX_FILE).err().map(|why| format!("{}: {why}", path.display())))
}

fn relative(path: &Path) -> Option<String> {
    path.is_relative().then(|| format!("{} is relative, and the agent runs elsewhere: write all of it", path.display()))
}

/// Why nobody can run this: one without a folder is looked for where execvp(3) does.
fn missing(program: &str) -> Option<String> {
    let runs = |path: &Path| path.metadata().map(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
    if !program.contains('/') {
        let folders = env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
        let found = env::split_paths(&folders).any(|folder| runs(&folder.join(program)).unwrap_or_default());
        return (!found).then(|| format!("{program} is in no folder of PATH"));
    }
    let path = Path::new(program);
    relative(path).or_else(|| match runs(path) {
        Ok(true) => None,
        Ok(false) => Some(format!("{program} is no program that can be run: chmod +x it, or name another")),
        Err(why) => Some(format!("{program}: {why}")),
    })
}
