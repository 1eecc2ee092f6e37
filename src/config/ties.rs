//! The files that settings lead to. An agent starts without those of its checks, which may come later, and tries them at
//! each check; who checks the settings wants to hear of them now.

use std::path::Path;

use super::{Config, Error, MAX_FILE, Mistakes};
use crate::{
    agent::file,
    model::{CheckKind, CheckSpec, ProcessRef},
};

impl Config {
    /// This, if all that it leads to is there.
    ///
    /// # Errors
    /// Each file that cannot be read, and each whose place depends on where the agent is started.
    pub fn tied(self) -> Result<Self, Mistakes> {
        let mut mistakes = Vec::new();
        if let Some(tls) = &self.agent.tls {
            let all = [("ca", Some(&tls.ca)), ("cert", Some(&tls.cert)), ("key", Some(&tls.key))];
            for (key, path) in all.into_iter().chain([("ca_key", tls.ca_key.as_ref())]) {
                let why = path.and_then(|path| unreadable(path));
                mistakes.extend(why.map(|why| Error::new(format!("tls.{key}"), why)));
            }
        }
        for service in &self.services {
            let place = self.files.get(&service.id).map_or("services", String::as_str);
            let told = |(check, why)| Error::new(place, format!("check {check} of {}: {why}", service.id));
            let loose = service.checks.iter().flat_map(|check| loose(check).into_iter().map(|why| (&check.id, why)));
            mistakes.extend(loose.map(told));
        }
        Mistakes::unless(mistakes, Some(self))
    }
}

/// What a check leads to that is not there.
fn loose(check: &CheckSpec) -> Vec<String> {
    let tls = match &check.kind {
        CheckKind::Http(http) => http.tls.as_ref(),
        CheckKind::Tcp(tcp) => tcp.tls.as_ref(),
        CheckKind::Grpc(grpc) => grpc.tls.as_ref(),
        CheckKind::Process(ProcessRef::File(path)) if path.is_relative() => {
            return vec![format!(
                "pid_file {} is relative, and the agent runs elsewhere: write all of it",
                path.display()
            )];
        }
        _ => None,
    };
    let files = tls.map(|tls| [("ca", &tls.ca), ("cert", &tls.cert), ("key", &tls.key)]);
    let each = files.into_iter().flatten().filter_map(|(key, path)| Some((key, unreadable(path.as_deref()?)?)));
    each.map(|(key, why)| format!("tls.{key} {why}")).collect()
}

fn unreadable(path: &Path) -> Option<String> {
    file::text(path, MAX_FILE).err().map(|why| format!("{}: {why}", path.display()))
}
