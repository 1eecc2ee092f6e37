//! The check `process`: a pidfd becomes readable when its process ends (pidfd_open(2)), so that a death is seen at once
//! and nothing is polled while it lives. An id that is given to another process later is not taken for the first one.

use std::{io, os::fd::OwnedFd, path::Path, time::Duration};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{Finding, engine::Told};
use crate::{agent::file, model::ProcessRef};

/// Watches until the check goes away. At each `every` it tells again how it is, since `rise` and `fall` count that; a pid
/// file is read again then while its process is not there.
pub(super) async fn watch(process: ProcessRef, every: Duration, serial: u64, told: mpsc::Sender<Told>) {
    let mut again = interval(every);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // One that has ended: whoever gets its id after it is somebody else.
    let mut ended = None;
    loop {
        again.tick().await;
        let pid = match (ended, &process) {
            (Some(pid), ProcessRef::Pid(_)) => Err(format!("process {pid} has ended")),
            (_, ProcessRef::Pid(pid)) => Ok(*pid),
            (_, ProcessRef::File(path)) => read(path),
        };
        let found = pid.and_then(|pid| open(pid).map(|fd| (pid, fd)));
        let finding = match found {
            Ok((pid, fd)) => {
                loop {
                    if told.send((serial, Finding::passing(format!("process {pid} runs")))).await.is_err() {
                        return;
                    }
                    tokio::select! {
                        // An error would mean that the runtime has stopped.
                        _ = fd.ready(Interest::READABLE) => break,
                        _ = again.tick() => {}
                    }
                }
                ended = Some(pid);
                Finding::critical(format!("process {pid} has ended"))
            }
            Err(why) => Finding::critical(why),
        };
        if told.send((serial, finding)).await.is_err() {
            return;
        }
    }
}

fn read(path: &Path) -> Result<i32, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("pid file {}: {why}", path.display());
    let bytes = file::read(path, MAX_PID_FILE).map_err(|why| wrong(&why))?;
    let text = String::from_utf8_lossy(&bytes);
    let first = text.split_whitespace().next().unwrap_or_default();
    first.parse().map_err(|_| wrong(&"does not begin with a process's id"))
}

fn open(pid: i32) -> Result<AsyncFd<OwnedFd>, String> {
    let none = || format!("there is no process {pid}");
    let id = Pid::from_raw(pid).filter(|_| pid > 0).ok_or_else(none)?;
    let fd = pidfd_open(id, PidfdFlags::NONBLOCK).map_err(|why| match why {
        rustix::io::Errno::SRCH => none(),
        why => format!("process {pid} cannot be watched: {}", io::Error::from(why)),
    })?;
    // What is deprecated is unsound for descriptors that somebody else may close; this one is owned.
    #[expect(deprecated, reason = "its successor is unsafe to call, and an owned descriptor needs no such promise")]
    let watched = AsyncFd::with_interest(fd, Interest::READABLE);
    watched.map_err(|why| format!("process {pid} cannot be watched: {why}"))
}

const MAX_PID_FILE: u64 = 4096;
