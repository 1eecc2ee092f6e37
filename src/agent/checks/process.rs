//! The check `process`: a pidfd becomes readable when its process ends (pidfd_open(2)), so that a death is seen at once
//! and nothing is polled while it lives. An id that is given to another process later is not taken for the first one:
//! not while the agent runs, and after its restart not where the process was there when the check was registered. A pid file
//! is believed: by the clock on the wall, which jumps, its age proves nothing, and a healthy process is never called dead.

use std::{
    io,
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};

use super::{Finding, engine::Told};
use crate::{
    agent::{birth, file},
    model::{CheckKind, ProcessRef, Registration},
};

/// The process that was meant at some moment: an id, and when it was written into the pid file.
type Meant = (i32, Option<SystemTime>);

/// Watches until the check goes away. At each `every` it tells again how it is, since `rise` and `fall` count that. A pid
/// file is read again then, and sooner after a death: twice as late each time, so that a successor is seen when it has
/// been there for no longer than it took to come. One that takes over while its forerunner still lives is followed too, as
/// when nginx replaces its own program.
pub(super) async fn watch(process: ProcessRef, every: Duration, serial: u64, told: mpsc::Sender<Told>) {
    let mut again = interval_at(Instant::now() + every, every);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut ended, mut soon, mut due) = (None, every, true);
    loop {
        match find(&process, ended.as_ref()) {
            Ok((meant, fd)) => {
                let runs = Finding::passing(format!("process {} runs", meant.0));
                due = loop {
                    if told.send((serial, runs.clone().into())).await.is_err() {
                        return;
                    }
                    tokio::select! {
                        // An error would mean that the runtime has stopped.
                        _ = fd.ready(Interest::READABLE) => break true,
                        // What is half written names nobody yet: who is missing then is told at the next interval.
                        _ = again.tick() => if is_replaced(&process, &meant) { break false },
                    }
                };
                ended = due.then_some(meant).or(ended);
                soon = SOON;
                continue;
            }
            Err(why) if due => {
                if told.send((serial, Finding::critical(why).into())).await.is_err() {
                    return;
                }
            }
            Err(_) => {}
        }
        due = tokio::select! {
            _ = again.tick() => true,
            () = sleep(soon), if soon < every => false,
        };
        soon = (soon * 2).min(every);
    }
}

/// Says which processes the checks of a registration mean that name one by its id: those that have these ids now. Who only
/// says again what is `present` means the same as then, unless that was before the machine or the container began anew.
pub(in crate::agent) fn identify(registration: &mut Arc<Registration>, present: Option<&Registration>) {
    let is_vague = |kind: &CheckKind| matches!(kind, CheckKind::Process(ProcessRef::Pid(_)));
    if !registration.checks.iter().any(|check| is_vague(&check.kind)) {
        return;
    }
    let present = present.filter(|present| vague(present) == **registration);
    for (n, check) in Arc::make_mut(registration).checks.iter_mut().enumerate() {
        let CheckKind::Process(ProcessRef::Pid(pid)) = check.kind else { continue };
        let known = present.and_then(|present| present.checks.get(n)).map(|check| &check.kind);
        check.kind = match (known, birth(pid)) {
            (Some(known @ CheckKind::Process(ProcessRef::Born(_, at))), _) if is_of_now(at) => known.clone(),
            (_, Some(birth)) => CheckKind::Process(ProcessRef::Born(pid, birth)),
            (_, None) => continue,
        };
    }
}

/// A registration as it was written.
fn vague(registration: &Registration) -> Registration {
    let mut written = registration.clone();
    for check in &mut written.checks {
        if let CheckKind::Process(ProcessRef::Born(pid, _)) = check.kind {
            check.kind = CheckKind::Process(ProcessRef::Pid(pid));
        }
    }
    written
}

/// The process that is meant now, unless that has ended.
fn find(process: &ProcessRef, ended: Option<&Meant>) -> Result<(Meant, AsyncFd<OwnedFd>), String> {
    let meant = match process {
        ProcessRef::Pid(pid) | ProcessRef::Born(pid, _) => (*pid, None),
        ProcessRef::File(path) => read(path)?,
    };
    let gone = || format!("process {} has ended", meant.0);
    if ended == Some(&meant) {
        return Err(gone());
    }
    let fd = open(meant.0)?;
    // Asked while the descriptor stands for whoever has the id.
    let is_meant = match process {
        ProcessRef::Born(pid, at) => birth(*pid).as_ref() == Some(at),
        ProcessRef::Pid(_) | ProcessRef::File(_) => true,
    };
    let waits_for_burial = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&Timespec::default())) == Ok(1);
    if is_meant && !waits_for_burial { Ok((meant, fd)) } else { Err(gone()) }
}

/// Whether a pid file means another process by now.
fn is_replaced(process: &ProcessRef, meant: &Meant) -> bool {
    matches!(process, ProcessRef::File(path) if read(path).is_ok_and(|now| now != *meant))
}

fn read(path: &Path) -> Result<Meant, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("pid file {}: {why}", path.display());
    let written = path.metadata().and_then(|found| found.modified()).ok();
    let bytes = file::read(path, MAX_PID_FILE).map_err(|why| wrong(&why))?;
    let text = String::from_utf8_lossy(&bytes);
    let first = text.split_whitespace().next().unwrap_or_default();
    let pid = first.parse().map_err(|_| wrong(&"does not begin with a process's id"))?;
    Ok((pid, written))
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

/// When a process began, and in which realm; `None` where that cannot be known. Nobody else ever has both this and its id.
fn birth(pid: i32) -> Option<Box<str>> {
    Some(format!("{}/{}", birth::realm()?, birth::of(pid)?.at).into())
}

/// Whether a birth is of the realm that this agent lives in.
fn is_of_now(birth: &str) -> bool {
    birth::realm().is_some_and(|realm| birth.rsplit_once('/').is_some_and(|(of, _)| of == realm))
}

const MAX_PID_FILE: u64 = 4096;
/// How soon after a death a pid file is read again: many programs are started anew at once.
const SOON: Duration = Duration::from_millis(50);
