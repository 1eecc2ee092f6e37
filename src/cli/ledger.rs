//! Which registrations came from files: they are withdrawn when they are gone from the files, others never are.
//!
//! Registrations outlive a restart, so the ledger does too: a service that was taken out of its file while the agent was
//! stopped is withdrawn at the next start.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::{StreamExt, stream};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use crate::{
    agent::{Agent, Refused, file, keep},
    mesh::Rejected,
    model::{InstanceId, Registration},
};

/// The ids that came from files.
#[derive(Debug)]
pub(super) struct Ledger {
    ids: BTreeSet<InstanceId>,
    /// What was registered as the files have it, since they were last asked for as a whole.
    done: BTreeMap<InstanceId, Arc<Registration>>,
    file: Option<PathBuf>,
}

/// Why the files' services are not all registered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("instance {0}: {1}")]
    Refused(InstanceId, Refused),
    #[error("{0}: {1}")]
    Ledger(PathBuf, io::Error),
}

impl Ledger {
    /// The ledger in `data_dir`, or one that begins anew and lives in memory.
    pub(super) fn open(data_dir: Option<&Path>) -> Result<Self, Error> {
        let file = data_dir.map(|folder| folder.join(FILE));
        let text = match &file {
            None => String::new(),
            Some(path) => match file::text(path, MAX_FILE) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
                text => text.map_err(|error| Error::Ledger(path.clone(), error))?,
            },
        };
        let ids = text.lines().filter_map(|line| line.try_into().ok()).collect();
        Ok(Self { ids, done: BTreeMap::new(), file })
    }

    /// Whether a service is still to be registered. One that was and is gone again was withdrawn by its own checks: that some
    /// other file was touched does not bring it back.
    pub(super) fn lacks(&self, agent: &Agent, service: &Arc<Registration>) -> bool {
        !agent.has(service) && self.done.get(&service.id) != Some(service)
    }

    /// All are wanted anew, those that were withdrawn as well.
    pub(super) fn begin_anew(&mut self) {
        self.done.clear();
    }

    /// Makes the agent hold exactly `services` of what came from files. Returns how many it registered and withdrew.
    pub(super) async fn apply(
        &mut self,
        agent: &Agent,
        services: &[Arc<Registration>],
    ) -> Result<(usize, usize), Error> {
        let wanted: BTreeSet<_> = services.iter().map(|service| service.id.clone()).collect();
        let gone: Vec<_> = self.ids.difference(&wanted).cloned().collect();
        for id in wanted.difference(&self.ids).filter(|id| agent.view().registration(id).is_some()) {
            let why = "a file takes over what was registered by hand: it goes when the file does";
            warn!(event = "registration_taken_over", instance = %id, why);
        }
        // Written down before it is done, so that a crash in between forgets no instance.
        let known = self.ids.len();
        self.ids.extend(wanted);
        if self.ids.len() > known {
            self.save().await?;
        }
        // Those that stand already are left alone: a file does not speak for the programs whose reports they wait for.
        // Together, so that they share the disk's syncs. One that is refused does not keep the others out.
        let missing = services.iter().filter(|service| self.lacks(agent, service));
        let put = async |service: &Arc<Registration>| {
            agent.put_local(Arc::clone(service)).await.map_err(|error| Error::Refused(service.id.clone(), error))
        };
        let done: Vec<_> = stream::iter(missing).map(put).buffer_unordered(AT_ONCE).collect().await;
        let mut refused = done.into_iter().find_map(Result::err);
        let held = services.iter().filter(|service| !self.lacks(agent, service));
        self.done = held.map(|service| (service.id.clone(), Arc::clone(service))).collect();
        // Nor those that are to go in: at a limit they even make room for the next try.
        let take = async |id: &InstanceId| (id.clone(), agent.remove(id).await);
        let taken: Vec<_> = stream::iter(&gone).map(take).buffer_unordered(AT_ONCE).collect().await;
        for (id, done) in taken {
            match done {
                Ok(()) | Err(Refused::Rejected(Rejected::NotFound(_))) => {
                    info!(event = "registration_withdrawn", instance = %id, "it is in no file any more");
                    self.ids.remove(&id);
                }
                Err(error) => drop(refused.get_or_insert(Error::Refused(id, error))),
            }
        }
        if !gone.is_empty() {
            self.save().await?;
        }
        refused.map_or(Ok((services.len(), gone.len())), Err)
    }

    async fn save(&self) -> Result<(), Error> {
        let Some(path) = self.file.clone() else { return Ok(()) };
        // An id holds no control character, so a line holds an id.
        let text: String = self.ids.iter().map(|id| format!("{id}\n")).collect();
        let place = path.clone();
        let written = spawn_blocking(move || keep::replace(&path, text.as_bytes(), keep::PRIVATE)).await;
        let written = written.unwrap_or_else(|defect| Err(defect.into()));
        written.map_err(|error| Error::Ledger(place, error))
    }
}

/// The ledger's name in the data directory.
const FILE: &str = "services-from-files";
/// All registrations that one node may have, each with an id of the longest.
const MAX_FILE: u64 = 8 << 20;
/// Registrations on their way to the disk at a time: more would hold up those of others.
const AT_ONCE: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{agent::Secret, model::CheckDraft};

    #[tokio::test]
    async fn a_ledger_outlives_its_process() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(Some(folder.path())).unwrap();
        assert!(ledger.ids.is_empty());
        ledger.ids = ["b".try_into().unwrap(), "a c".try_into().unwrap()].into();
        ledger.save().await.unwrap();
        assert_eq!(Ledger::open(Some(folder.path())).unwrap().ids, ledger.ids);
    }

    async fn agent() -> Agent {
        let builder = Agent::builder().node("a").secret(Secret::random());
        builder.listen("127.0.0.1:0".parse().unwrap()).start().await.unwrap()
    }

    fn web(id: &str) -> Registration {
        Registration::new("web", 80).unwrap().id(id.try_into().unwrap())
    }

    #[tokio::test]
    async fn who_was_withdrawn_comes_back_when_it_is_asked_for_anew() {
        let agent = agent().await;
        let mut ledger = Ledger::open(None).unwrap();
        let (old, new) = (Arc::new(web("a")), Arc::new(Registration { port: None, ..web("a") }));
        for wanted in [&old, &new] {
            ledger.apply(&agent, &[Arc::clone(wanted)]).await.unwrap();
            assert!(agent.has(wanted), "its definition has changed");
            agent.remove(&wanted.id).await.unwrap();
            ledger.apply(&agent, &[Arc::clone(wanted), web("b").into()]).await.unwrap();
            assert!(!agent.has(wanted), "another one's has");
            ledger.begin_anew();
            ledger.apply(&agent, &[Arc::clone(wanted)]).await.unwrap();
            assert!(agent.has(wanted));
        }
    }

    #[tokio::test]
    async fn one_that_is_refused_keeps_no_other_in_or_out() {
        let agent = agent().await;
        let script = CheckDraft { script: Some(vec!["true".into()]), ..CheckDraft::default() }.build(0, "").unwrap();
        let mut ledger = Ledger::open(None).unwrap();
        assert_eq!(ledger.apply(&agent, &[web("old").into()]).await.unwrap(), (1, 0));
        let wanted = [web("off").check(script).into(), web("new").into()];
        let refused = ledger.apply(&agent, &wanted).await.unwrap_err();
        assert!(matches!(refused, Error::Refused(id, Refused::Forbidden(_)) if id.as_str() == "off"));
        let ids: Vec<_> = agent.view().registrations().iter().map(|own| own.id.to_string()).collect();
        assert_eq!(ids, ["new"]);
    }
}
