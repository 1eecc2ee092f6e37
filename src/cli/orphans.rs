//! Orphans: processes whose parents have ended before them. Those among an agent's descendants come to its executor.
//!
//! What an ended program has left behind, it meant to: it goes on when the agent stops, and is buried when it ends. What the
//! agent still runs when it is killed is to end with it: each run leads a process group of its own, and nobody else is
//! left who would end the whole of it. A daemon that leads a group without a session cannot be told from a run then.

use std::{fs, io, iter};

use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process_group, set_child_subreaper, test_kill_process_group,
    wait, waitpgid, waitpid,
};

use crate::agent::birth;

/// Has them come to this process (PR_SET_CHILD_SUBREAPER, prctl(2)) as they come to PID 1.
pub(super) fn adopt() {
    // Where that is not to be had, they go on as they would without a parent.
    let _ = set_child_subreaper(Some(getpid()));
}

/// The end of an agent.
pub(super) struct End {
    /// How it ended.
    pub(super) how: WaitStatus,
    /// The groups of what it ran then, which are killed.
    left: Vec<Pid>,
}

impl End {
    /// Buries those of them that are dead; whether they all are. Who outlives this process may come to one that buries nobody.
    pub(super) fn bury(&mut self) -> bool {
        self.left.retain(|group| {
            while let Ok(Some(_)) = waitpgid(*group, WaitOptions::NOHANG) {}
            test_kill_process_group(*group).is_ok()
        });
        self.left.is_empty()
    }
}

/// Takes in whoever has ended: the end of `agent`, if it has. What it ran then is killed.
pub(super) fn reap(agent: Pid) -> io::Result<Option<End>> {
    let here = children();
    // The children of an agent come to us when the last of its threads is ending: if its first one is not, none of those
    // that are here was its child. Else they are to stay as they are until it is known whom they led.
    let is_dying = birth::stat(agent.as_raw_pid()).is_none_or(|agent| agent.is_ending);
    match waitpid(Some(agent), WaitOptions::NOHANG) {
        Ok(Some((_, how))) => {
            // Who stops as he should has ended what he ran.
            let left = if how.exit_status() == Some(0) { Vec::new() } else { children().unwrap_or_default() };
            return Ok(Some(End { how, left: left.into_iter().filter(|child| kill(*child)).collect() }));
        }
        Ok(None) => {}
        Err(why) => return Err(why.into()),
    }
    match here {
        Some(here) if !is_dying => {
            for child in here.into_iter().filter(|child| *child != agent) {
                let _ = waitpid(Some(child), WaitOptions::NOHANG);
            }
        }
        Some(_) => {}
        // Where they cannot be told apart, they are buried all the same.
        None => return Ok(bury_all(agent).map(|how| End { how, left: Vec::new() })),
    }
    Ok(None)
}

fn bury_all(agent: Pid) -> Option<WaitStatus> {
    let mut ended = iter::from_fn(|| wait(WaitOptions::NOHANG).ok().flatten());
    ended.find_map(|(pid, status)| (pid == agent).then_some(status))
}

/// Kills the group of a run, if `child` leads one. A daemon leads a session of its own.
fn kill(child: Pid) -> bool {
    let pid = child.as_raw_pid();
    let own = birth::stat("self").map(|own| own.session);
    let leads = birth::stat(pid).is_some_and(|child| child.group == pid && Some(child.session) == own);
    leads && kill_process_group(child, Signal::KILL).is_ok()
}

/// Those of this process, which has one thread; `None` where the kernel does not tell (CONFIG_PROC_CHILDREN).
fn children() -> Option<Vec<Pid>> {
    let list = fs::read_to_string("/proc/thread-self/children").ok()?;
    Some(list.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect())
}
