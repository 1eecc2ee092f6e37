//! What the files ask of a running agent: services, seeds, hooks. Read at the start and again on SIGHUP, on a call, and
//! when a file has changed. All or nothing: with a mistake in the files everything stays as it was.

use std::{future::pending, time::Duration};

use tokio::{task::spawn_blocking, time::sleep};
use tracing::{error, info, warn};

use super::{
    failure::Failure,
    hooks::Hooks,
    ledger::{self, Ledger},
};
use crate::{
    agent::Agent,
    config::{Config, Mistakes, Purpose, Sources},
    http::Reloaded,
};

/// What is in force.
#[derive(Debug)]
pub(super) struct Definitions {
    sources: Sources,
    config: Config,
    ledger: Ledger,
    hooks: Hooks,
    /// What was wrong when the files were read last: told once, not on every look.
    wrong: Option<Mistakes>,
    /// Whether what they say could not all be done, or read.
    behind: bool,
}

/// Why the files are read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Somebody asked for it.
    Asked,
    /// A file in one of the folders has changed, which may be none of ours.
    Seen,
}

impl Definitions {
    /// Registers what the files say, and starts their hooks.
    pub(super) async fn open(agent: &Agent, sources: Sources, config: Config) -> Result<Self, Failure> {
        let unreadable =
            |error: ledger::Error| Failure::new("cannot tell what came from files", error, "hobnob config check");
        let mut ledger = Ledger::open(config.agent.data_dir.as_deref()).map_err(unreadable)?;
        agent.define(config.files.clone());
        // One service that is refused is no reason to keep all the others from their clients.
        let applied = ledger.apply(agent, &config.services).await;
        if let Err(why) = &applied {
            error!(%why, "begun in part; it is tried again");
        }
        let mut hooks = Hooks::default();
        hooks.set(agent, &config.hooks);
        Ok(Self { sources, config, ledger, hooks, wrong: None, behind: applied.is_err() })
    }

    /// Where the files are.
    pub(super) const fn sources(&self) -> &Sources {
        &self.sources
    }

    /// When what could not be done is to be tried again: a full disk sends no word when it has room.
    pub(super) async fn overdue(&self) {
        if self.behind { sleep(TRY_AGAIN).await } else { pending().await }
    }

    /// Takes in what the files say now: services and hooks follow them at once, new seeds are tried, the rest waits for a
    /// restart.
    pub(super) async fn reload(
        &mut self,
        agent: &Agent,
        newer: Result<Config, Mistakes>,
        cause: Cause,
    ) -> Result<Reloaded, Vec<String>> {
        let newer = match newer {
            Ok(newer) => newer,
            Err(mistakes) => return Err(self.refuse(mistakes, cause)),
        };
        let recovered = self.wrong.take().is_some();
        if cause == Cause::Seen
            && !self.behind
            && self.config.is_same(&newer)
            && !self.config.services.iter().any(|service| self.ledger.lacks(agent, service))
        {
            if recovered {
                info!("the files are in order again, and say what is in force");
            }
            return Ok(Reloaded::default());
        }
        // A throw-away secret stays for life; other papers than those of the start wait for a restart, as is said below.
        if self.sources.purpose == Purpose::Serve
            && let Err(why) = self.renew(agent, &newer).await
        {
            error!(why, "not reloaded; the old settings stay");
            return Err(vec![why]);
        }
        let restart = self.config.fixed(&newer);
        for setting in &restart {
            warn!(setting, "has changed in the files, and waits for a restart");
        }
        agent.define(newer.files.clone());
        if cause == Cause::Asked {
            self.ledger.begin_anew();
        }
        let applied = self.ledger.apply(agent, &newer.services).await;
        self.behind = applied.is_err();
        self.hooks.set(agent, &newer.hooks);
        if newer.agent.join != self.config.agent.join
            && let Err(why) = agent.seek(&newer.agent.join).await
        {
            warn!(why, "the new seeds are not tried");
        }
        let hooks = newer.hooks.len();
        // What waits for a restart goes on to differ from what runs.
        self.config = self.config.with(newer);
        let (registered, withdrawn) = applied.map_err(|why| {
            error!(%why, "reloaded in part; it is tried again");
            vec![format!("done in part, and tried again: {why}")]
        })?;
        info!(registered, withdrawn, hooks, "reloaded");
        Ok(Reloaded { registered, withdrawn, restart })
    }

    /// Has the agent prove itself by what its files hold now. They are read beside the loop, as all files are.
    async fn renew(&self, agent: &Agent, newer: &Config) -> Result<(), String> {
        let (agent, secrets, tls) = (agent.clone(), newer.agent.secrets.clone(), self.config.agent.tls.clone());
        let renewed = spawn_blocking(move || agent.renew(&secrets, tls.as_ref()).map_err(|why| why.to_string()));
        renewed.await.unwrap_or_else(|defect| Err(defect.to_string()))
    }

    fn refuse(&mut self, mistakes: Mistakes, cause: Cause) -> Vec<String> {
        let all = mistakes.all().iter().map(ToString::to_string).collect();
        if cause == Cause::Asked || self.wrong.as_ref() != Some(&mistakes) {
            for why in &all {
                error!(why, "not reloaded; the old settings stay");
            }
        }
        // What has no descriptor to be read with now sends no word when it has one.
        self.behind |= mistakes.pass();
        self.wrong = Some(mistakes);
        all
    }
}

/// From one try to do what the files say to the next.
const TRY_AGAIN: Duration = Duration::from_secs(5);
