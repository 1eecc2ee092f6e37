//! Programs that are run for this one: checks and hooks. Each leads a process group of its own, which is killed as a whole
//! when nobody waits for it any more, and none outlives this process, whatever becomes of that. What
//! they have started themselves is killed with them, when this process is killed by its executor, if it has one.

use std::{io, os::unix::process::ExitStatusExt, process::ExitStatus};

use rustix::{
    io::Errno,
    process::{Pid, Signal, getpid, getppid, kill_process_group, set_parent_process_death_signal},
};
use tokio::process::{Child, Command};

/// Starts a program, and names the group that it leads.
pub(crate) fn spawn(command: &mut Command) -> io::Result<(Child, Group)> {
    die_with_us(without_secrets(command).process_group(0));
    let child = command.spawn()?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    Ok((child, Group(group)))
}

/// What lets in whoever holds it is no business of a program that is run.
pub(crate) fn without_secrets(command: &mut Command) -> &mut Command {
    command.env_remove("HOBNOB_SECRET").env_remove("HOBNOB_TOKEN")
}

/// Has a program killed with the thread that starts it, at the latest when this process is (PR_SET_PDEATHSIG, prctl(2)):
/// nobody else would end it where this process has no executor. What the program has started itself goes on there.
#[allow(unsafe_code, reason = "what runs between fork and exec are system calls alone")]
fn die_with_us(command: &mut Command) {
    let us = getpid();
    let bind = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // Who died before that is not heard of.
        if getppid() == Some(us) { Ok(()) } else { Err(Errno::SRCH.into()) }
    };
    // SAFETY: two system calls, which allocate nothing and take no lock.
    unsafe { command.pre_exec(bind) };
}

/// All processes of one run; those that are left are killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Group(Option<Pid>);

impl Group {
    /// The program has ended: whom it leaves behind by itself, it means to. Who was killed has meant nothing.
    pub(crate) fn ended(mut self, how: ExitStatus) {
        if how.signal().is_none() {
            self.0 = None;
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Mostly there is nobody left.
        let _ = self.0.map(|group| kill_process_group(group, Signal::KILL));
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn who_ends_by_itself_may_leave_others_behind_and_who_is_killed_not() {
        for (end, says) in [("exit 3", "on\n"), ("kill -9 $$", "")] {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", &format!("exec 3<&0; (read -r word <&3; echo on) & {end}")]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let (mut child, group) = spawn(&mut command).unwrap();
            let input = child.stdin.take();
            group.ended(child.wait().await.unwrap());
            drop(input);
            let mut said = String::new();
            child.stdout.take().unwrap().read_to_string(&mut said).await.unwrap();
            assert_eq!(said, says, "{end}");
        }
    }
}
