//! The hooks of a running agent: each follows one service, and runs its program when that is another than before.

use futures_util::StreamExt;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::program::{Program, essence};
use crate::{agent::Agent, config::Hook, http};

/// The hooks that are at work. Dropping them ends them, and what they run.
#[derive(Debug, Default)]
pub(super) struct Hooks(Vec<(Hook, AbortOnDropHandle<()>)>);

impl Hooks {
    /// Makes these the hooks at work. One that was there goes on undisturbed.
    pub(super) fn set(&mut self, agent: &Agent, wanted: &[Hook]) {
        let mut before = std::mem::take(&mut self.0);
        for hook in wanted {
            let known = before.iter().position(|(known, _)| known == hook).map(|at| before.swap_remove(at));
            self.0.push(known.unwrap_or_else(|| {
                let task = tokio::spawn(follow(agent.clone(), hook.clone()));
                (hook.clone(), AbortOnDropHandle::new(task))
            }));
        }
    }
}

/// Begins when answers may be given: before that every service looks as if it were gone.
async fn follow(agent: Agent, hook: Hook) {
    if agent.ready().await.is_err() {
        return;
    }
    let Hook { service, command, timeout, settle } = hook;
    let program = Program { command, timeout, settle };
    let (send, states) = watch::channel(None);
    let mut changes = agent.watch(service.as_str());
    let read = async {
        while changes.next().await.is_some() {
            let state = http::state(agent.view(), &service);
            // What is not in the state, such as who was measured how far away, is no change.
            let moved = send.send_if_modified(|last: &mut Option<_>| {
                let moved = last.as_ref().map(essence) != Some(essence(&state));
                *last = Some(state);
                moved
            });
            if moved {
                info!(%service, program = %program.command[0], "has changed: the hook runs");
            }
        }
    };
    let run = program.follow(states, |why| warn!(%service, why, "the hook has failed and is tried again"));
    tokio::select! {
        () = read => {}
        () = run => {}
    }
}
