//! The hooks of a running agent: each follows one service, and runs its program when that is another than before.

use futures_util::StreamExt;
use tokio::sync::watch;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::AbortOnDropHandle,
};
use tracing::{info, warn};

use super::program::{Program, essence};
use crate::{agent::Agent, config::Hook, http, model::ServiceName};

/// The hooks that are at work. Dropping them ends them, and what they run.
#[derive(Debug, Default)]
pub(super) struct Hooks {
    at_work: Vec<(Hook, DropGuard, Task)>,
    /// Those that are not wanted any more, each in the last run that it is left.
    retired: Vec<(ServiceName, Task)>,
}

type Task = AbortOnDropHandle<()>;

impl Hooks {
    /// Makes these the hooks at work. One that was there goes on undisturbed; one that is not wanted any more finishes
    /// what it runs, and who follows the same service in its place begins after that.
    pub(super) fn set(&mut self, agent: &Agent, wanted: &[Hook]) {
        let mut before = std::mem::take(&mut self.at_work);
        let mut keep = |hook| before.iter().position(|(known, ..)| known == hook).map(|at| before.swap_remove(at));
        let kept: Vec<_> = wanted.iter().map(&mut keep).collect();
        self.retired.retain(|(_, task)| !task.is_finished());
        self.retired.extend(before.into_iter().map(|(hook, _stop, task)| (hook.service, task)));
        for (hook, kept) in wanted.iter().zip(kept) {
            self.at_work.push(kept.unwrap_or_else(|| {
                let same = self.retired.extract_if(.., |(service, _)| *service == hook.service);
                let (before, stop) = (same.map(|(_, task)| task).collect(), CancellationToken::new());
                let task = tokio::spawn(follow(agent.clone(), hook.clone(), before, stop.clone()));
                (hook.clone(), stop.drop_guard(), AbortOnDropHandle::new(task))
            }));
        }
    }
}

/// Begins when answers may be given: before that every service looks as if it were gone. Told to stop, it lets a run end.
async fn follow(agent: Agent, hook: Hook, before: Vec<Task>, stop: CancellationToken) {
    for task in before {
        // However it has ended, it runs nothing any more.
        let _ = task.await;
    }
    if agent.ready().await.is_err() || stop.is_cancelled() {
        return;
    }
    let Hook { service, command, timeout, settle } = hook;
    let program = Program { command, timeout, settle };
    let (send, states) = watch::channel(None);
    let mut changes = agent.watch(service.as_str());
    let read = async {
        // The runs end when there is nobody left to tell of a state.
        let send = send;
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
    tokio::join!(stop.run_until_cancelled(read), run);
}
