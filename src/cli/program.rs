//! A program that is run whenever a state is another: the state as JSON on its standard input, one run at a time, each
//! limited in time. What changes during a run is made up for by one more run with the last state.

use std::{future::pending, process::Stdio, time::Duration};

use serde_json::Value;
use tokio::{
    io::AsyncWriteExt,
    process::Command,
    sync::watch,
    time::{sleep, timeout},
};

use crate::agent::child;

/// What to run, and within which limits.
#[derive(Clone, Debug)]
pub(super) struct Program {
    /// The program and its arguments.
    pub(super) command: Vec<String>,
    /// How long one run may take.
    pub(super) timeout: Duration,
    /// How long the state must have been the same before a run.
    pub(super) settle: Duration,
}

/// A state, once there is one.
pub(super) type States = watch::Receiver<Option<Value>>;

/// What makes a state of a service another one: not what a check says, nor whether a node is doubted, for whoever is sent
/// there is the same.
pub(super) fn essence(state: &Value) -> Vec<Value> {
    let mut instances = state["instances"].as_array().cloned().unwrap_or_default();
    for instance in instances.iter_mut().filter_map(Value::as_object_mut) {
        instance.retain(|field, _| !["checks", "member"].contains(&field.as_str()));
    }
    instances
}

impl Program {
    /// Runs for each state until there are no more. A run that fails is told to `complain` and tried again, until it
    /// succeeds or the state is another. Dropping the future kills what runs.
    pub(super) async fn follow(&self, mut states: States, complain: impl Fn(&str)) {
        let mut failures = 0;
        loop {
            if failures == 0 && states.changed().await.is_err() {
                return;
            }
            let settled = async { while let Ok(Ok(())) = timeout(self.settle, states.changed()).await {} };
            // One that never settles is told of all the same.
            let _ = timeout(self.settle * MOST_SETTLES, settled).await;
            let Some(state) = states.borrow_and_update().clone() else { continue };
            let Err(why) = self.run(&state).await else {
                failures = 0;
                continue;
            };
            complain(&why);
            let pause = PAUSE.saturating_mul(1 << failures.min(LONGEST_PAUSE));
            failures += 1;
            tokio::select! {
                () = sleep(pause) => {}
                changed = states.changed() => match changed {
                    Ok(()) => failures = 1,
                    Err(_) => return,
                },
            }
        }
    }

    /// One run.
    async fn run(&self, state: &Value) -> Result<(), String> {
        let [program, arguments @ ..] = &self.command[..] else { return Err("there is no program to run".into()) };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped());
        let (mut child, group) = child::spawn(&mut command).map_err(|why| format!("cannot run {program:?}: {why}"))?;
        let input = child.stdin.take();
        let feed = async {
            // A program need not read what it is told, and may leave its input to what it leaves behind.
            if let Some(mut input) = input {
                let _ = input.write_all(format!("{state}\n").as_bytes()).await;
            }
            pending().await
        };
        let ended = async {
            tokio::select! {
                ended = child.wait() => ended,
                never = feed => never,
            }
        };
        let ended = timeout(self.timeout, ended).await;
        if let Ok(Ok(how)) = ended {
            group.ended(how);
        }
        match ended {
            Err(_) => Err(format!("{program:?} was killed after {:?}", self.timeout)),
            Ok(Err(why)) => Err(format!("lost sight of {program:?}: {why}")),
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("{program:?} ended with {status}")),
        }
    }
}

/// How many times as long as it should settle a state may go on changing before it is told.
const MOST_SETTLES: u32 = 10;
/// How long to wait after the first failure; twice as long after each further one, up to 64 s.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: u32 = 6;

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, sync::Mutex};

    use serde_json::json;

    use super::*;
    use crate::agent::birth;

    fn shell(script: &str, folder: &Path) -> Program {
        let script = format!("cd {}; {script}", folder.display());
        let command = vec!["sh".into(), "-c".into(), script];
        Program { command, timeout: Duration::from_secs(20), settle: Duration::from_millis(1) }
    }

    #[tokio::test]
    async fn changes_during_a_run_become_one_more_run_with_the_last() {
        let folder = tempfile::tempdir().unwrap();
        // Each run blocks until the test lets it go on through its gate; a second beside it would find the lock.
        let script = "mkdir lock || echo twice >> all; cat >> all; cat gate$(wc -l < all) > /dev/null; rmdir lock";
        let program = shell(script, folder.path());
        let gates = [1, 2].map(|run| folder.path().join(format!("gate{run}")));
        assert!(std::process::Command::new("mkfifo").args(&gates).status().unwrap().success());
        let (send, states) = watch::channel(None);
        let following = tokio::spawn(async move { program.follow(states, |why| panic!("{why}")).await });
        send.send_replace(Some(json!(1)));
        // Opening for writing waits for the reader: the first run is in its middle.
        let mut open = gates
            .into_iter()
            .map(|gate| tokio::task::spawn_blocking(move || fs::OpenOptions::new().write(true).open(gate).unwrap()));
        let first = open.next().unwrap().await.unwrap();
        (2..=9).for_each(|n| drop(send.send_replace(Some(json!(n)))));
        drop(first);
        drop(open.next().unwrap().await.unwrap());
        drop(send);
        following.await.unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("all")).unwrap(), "1\n9\n");
    }

    #[tokio::test]
    async fn a_state_that_never_settles_is_told_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let ran = folder.path().join("ran");
        let program = Program { settle: Duration::from_millis(50), ..shell("touch ran", folder.path()) };
        let (send, states) = watch::channel(None);
        let following = tokio::spawn(async move { program.follow(states, |why| panic!("{why}")).await });
        let mut n = 0;
        while !ran.exists() {
            n += 1;
            send.send_replace(Some(json!(n)));
            tokio::task::yield_now().await;
        }
        drop(send);
        following.await.unwrap();
    }

    #[tokio::test]
    async fn a_run_that_hangs_is_killed_with_all_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let mut program = shell("sleep 1000 & echo $! > pid; wait", folder.path());
        program.timeout = Duration::from_secs(3);
        let why = program.run(&json!({})).await.unwrap_err();
        assert!(why.contains("killed after 3s"), "{why}");
        let pid: i32 = fs::read_to_string(folder.path().join("pid")).unwrap().trim().parse().unwrap();
        while birth::stat(pid).is_some_and(|child| !child.is_dead) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_a_run_leaves_behind_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let wait = "(while ! [ -e go ]; do sleep 0.01; done; touch went) > /dev/null 2>&1 &";
        shell(wait, folder.path()).run(&json!({})).await.unwrap();
        fs::write(folder.path().join("go"), "").unwrap();
        while !folder.path().join("went").exists() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_a_run_leaves_behind_may_hold_its_input() {
        let folder = tempfile::tempdir().unwrap();
        let state = json!("more than a pipe holds".repeat(10_000));
        let leave = "exec 3<&0; (while ! [ -e go ]; do sleep 0.01; done; touch went) <&3 > /dev/null 2>&1 &";
        shell(leave, folder.path()).run(&state).await.unwrap();
        fs::write(folder.path().join("go"), "").unwrap();
        while !folder.path().join("went").exists() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_fails_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let program = shell("[ -e again ] && exit 0; touch again; exit 7", folder.path());
        let said = Mutex::new(Vec::new());
        let (send, states) = watch::channel(None);
        send.send_replace(Some(json!(1)));
        drop(send);
        program.follow(states, |why| said.lock().unwrap().push(why.to_owned())).await;
        assert!(said.lock().unwrap().len() <= 1, "{said:?}");
    }
}
