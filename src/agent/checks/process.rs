//! The check `process`: a pidfd becomes readable when its process ends (pidfd_open(2)), so that a death is seen at once
//! and nothing is polled while it lives. An id that is given to another process later is not taken for the first one.

use std::{fs, io, os::fd::OwnedFd, path::Path, time::Duration};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{Finding, engine::Told};
use crate::model::ProcessRef;

/// Watches until the check goes away. A pid file is read again at each `every` while its process is not there.
pub(super) async fn watch(process: ProcessRef, every: Duration, serial: u64, told: mpsc::Sender<Told>) {
    let mut again = interval(every);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        again.tick().await;
        let pid = match &process {
            ProcessRef::Pid(pid) => Ok(*pid),
            ProcessRef::File(path) => read(path),
        };
        let opened = pid.and_then(|pid| open(pid).map(|fd| (pid, fd)));
        let finding = match opened {
            Ok((pid, fd)) => {
                if told.send((serial, Finding::passing(format!("process {pid} runs")))).await.is_err() {
                    return;
                }
                // An error would mean that the runtime has stopped.
                let _ = fd.ready(Interest::READABLE).await;
                Finding::critical(format!("process {pid} has ended"))
            }
            Err(why) => Finding::critical(why),
        };
        let ended = matches!((&process, finding.output.ends_with("has ended")), (ProcessRef::Pid(_), true));
        if told.send((serial, finding)).await.is_err() {
            return;
        }
        if ended {
            // Whoever gets its id after it is somebody else.
            return std::future::pending().await;
        }
    }
}

fn read(path: &Path) -> Result<i32, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("pid file {}: {why}", path.display());
    let length = fs::metadata(path).map_err(|why| wrong(&why))?.len();
    if length > MAX_PID_FILE {
        return Err(wrong(&"is too long to hold a process's id"));
    }
    let text = fs::read_to_string(path).map_err(|why| wrong(&why))?;
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
