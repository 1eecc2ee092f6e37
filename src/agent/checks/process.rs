//! The check `process`: a pidfd becomes readable when its process ends (pidfd_open(2)), so that a death is seen at once
//! and nothing is polled while it lives. An id that is given to another process later is not taken for the first one:
//! not while the agent runs, and after its restart not where the process was there when the check was registered. A pid file
//! is believed until the process that it names was found missing, and again once it is written anew; and not if it is older
//! than that process, as one that was left behind when the machine went down. Where the clock on the wall was set since,
//! age proves nothing, and a healthy process is never called dead.

use std::{
    fs,
    future::pending,
    io,
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};

use super::{
    Failed, Finding, Means,
    engine::{LOOK_AGAIN, MAX_BACKOFF, Told, Word},
    failed::is_own,
};
use crate::{
    agent::{birth, file},
    model::{CheckKind, ProcessRef, Registration},
};

/// The process that was meant at some moment: an id, and when it was written into the pid file.
type Meant = (i32, Option<SystemTime>);

/// Who has ended, and how that is said. Whoever has that id later is another one.
type Ended = (Meant, String);

/// Watches until the check goes away. At each `every` it tells again how it is, since `rise` and `fall` count that. A pid
/// file is read again then, and sooner after a death: twice as late each time, so that a successor is seen when it has
/// been there for no longer than it took to come. One that takes over while its forerunner still lives is followed too, as
/// when nginx replaces its own program. Beyond what may be watched at a time, a process is looked at each `every`.
///
/// Who cannot read if there is a successor knows all the same that there was an end. That is told as often as it takes to
/// count, `fall` times, and no more: each would be taken for a look of now, and may withdraw whom nobody could look at.
pub(super) async fn watch(
    process: ProcessRef,
    every: Duration,
    fall: u32,
    means: Arc<Means>,
    serial: u64,
    told: mpsc::Sender<Told>,
) {
    let mut again = interval_at(Instant::now() + every, every);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut ended, mut soon, mut due, mut untold) = (None, LOOK_AGAIN, true, 0);
    loop {
        let found = find(&process, &mut ended);
        let lacks = matches!(found, Err(Failed::Node(_)));
        match found {
            Ok((meant, fd)) => {
                let watched = means.processes.enter().map(|place| (place, fd));
                let runs = Finding::passing(format!("process {} runs", meant.0));
                let has_ended = loop {
                    if told.send((serial, runs.clone().into())).await.is_err() {
                        return;
                    }
                    let end = async {
                        match &watched {
                            // An error would mean that the runtime has stopped.
                            Some((_, fd)) => drop(fd.ready(Interest::READABLE).await),
                            None => pending().await,
                        }
                    };
                    tokio::select! {
                        () = end => break true,
                        // What is half written names nobody yet: who is missing then is told at the next interval.
                        _ = again.tick() => if watched.is_none() || is_replaced(&process, &meant) { break false },
                    }
                };
                due = has_ended || watched.is_none();
                untold = if has_ended { fall } else { 0 };
                ended = has_ended.then(|| (meant, gone(meant.0))).or(ended);
                soon = SOON;
                continue;
            }
            Err(why) if due => {
                let seen = ended.as_ref().filter(|_| untold > 0 && lacks).map(|(_, why)| Finding::critical(why).into());
                untold = untold.saturating_sub(1);
                let word = Finding::of_failure(why).map_or_else(Word::Unable, Word::Found);
                for word in seen.into_iter().chain([word]) {
                    if told.send((serial, word)).await.is_err() {
                        return;
                    }
                }
            }
            Err(_) => {}
        }
        let most = if lacks { every.min(LOOK_AGAIN * MAX_BACKOFF) } else { every };
        soon = if lacks { soon.max(LOOK_AGAIN).min(most) } else { soon };
        due = tokio::select! {
            _ = again.tick() => true,
            () = sleep(soon), if soon < every => lacks && untold == 0,
        };
        soon = (soon * 2).min(most);
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

/// The process that is meant now, unless that has ended, or was never there.
fn find(process: &ProcessRef, ended: &mut Option<Ended>) -> Result<(Meant, AsyncFd<OwnedFd>), Failed> {
    let meant = match process {
        ProcessRef::Pid(pid) | ProcessRef::Born(pid, _) => (*pid, None),
        ProcessRef::File(path) => {
            let named = read(path).map_err(|why| Failed::of(&why, useless(path)))?;
            named.ok_or_else(|| useless(path))?
        }
    };
    if let Some((_, why)) = ended.as_ref().filter(|(known, _)| *known == meant) {
        return Err(why.clone().into());
    }
    let of_file = |why| if let ProcessRef::File(path) = process { useless(path) } else { why };
    let Some(fd) = open(meant.0).map_err(|why| why.reworded(of_file))? else {
        return Err(ended.insert((meant, of_file(format!("there is no process {}", meant.0)))).1.clone().into());
    };
    // Asked while the descriptor stands for whoever has the id.
    let is_meant = match process {
        ProcessRef::Born(pid, at) => birth(*pid).map(|birth| birth == *at),
        ProcessRef::File(_) => Some(!is_left_over(meant, birth::on_the_wall)),
        ProcessRef::Pid(_) => Some(true),
    };
    let waits_for_burial = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&Timespec::default())) == Ok(1);
    match is_meant.filter(|_| !waits_for_burial) {
        Some(true) => Ok((meant, fd)),
        // It could be read when the check was registered.
        None if !waits_for_burial => Err(Failed::Node(format!("when process {} began cannot be read", meant.0))),
        _ => Err(ended.insert((meant, of_file(gone(meant.0)))).1.clone().into()),
    }
}

/// Whether a pid file was there before the process that has its id now. The first process of all is always the one meant.
fn is_left_over((pid, written): Meant, began: impl FnOnce(i32) -> Option<SystemTime>) -> bool {
    let written = written.filter(|_| pid != 1);
    written.is_some_and(|written| began(pid).is_some_and(|began| written < began))
}

fn gone(pid: i32) -> String {
    format!("process {pid} has ended")
}

/// Whether a pid file means another process by now.
fn is_replaced(process: &ProcessRef, meant: &Meant) -> bool {
    matches!(process, ProcessRef::File(path) if read(path).ok().flatten().is_some_and(|now| now != *meant))
}

/// Whom a pid file means, if anybody; an error where this node has no means to read it.
fn read(path: &Path) -> io::Result<Option<Meant>> {
    let written = path.metadata().and_then(|found| found.modified()).ok();
    let bytes = match file::read(path, MAX_PID_FILE) {
        Err(why) if is_own(&why) => return Err(why),
        read => read.unwrap_or_default(),
    };
    let pid = String::from_utf8_lossy(&bytes).split_whitespace().next().and_then(|pid| pid.parse().ok());
    Ok(pid.map(|pid| (pid, written)))
}

/// The same of a file that is not there, may not be read, or holds something else: more would tell whoever may register
/// which files this machine has, and what is in them.
fn useless(path: &Path) -> String {
    format!("pid file {} cannot be read, or names no process that runs", path.display())
}

/// `None` if there is no such process.
fn open(pid: i32) -> Result<Option<AsyncFd<OwnedFd>>, Failed> {
    let Some(id) = Pid::from_raw(pid).filter(|_| pid > 0) else { return Ok(None) };
    let fd = match pidfd_open(id, PidfdFlags::NONBLOCK) {
        Ok(fd) => fd,
        Err(Errno::SRCH) => return Ok(None),
        Err(why) => match process_of(pid) {
            Some(of) => return Err(format!("{pid} is a thread of process {of}: give the id of the process").into()),
            None => return Err(unwatched(pid, &why.into())),
        },
    };
    // What is deprecated is unsound for descriptors that somebody else may close; this one is owned.
    #[expect(deprecated, reason = "its successor is unsafe to call, and an owned descriptor needs no such promise")]
    let watched = AsyncFd::with_interest(fd, Interest::READABLE);
    watched.map(Some).map_err(|why| unwatched(pid, &why))
}

/// The process that a thread belongs to, if it is one: kernels disagree on what a pidfd of a thread is refused with.
fn process_of(thread: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let process = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()?;
    (process != thread).then_some(process)
}

fn unwatched(pid: i32, why: &io::Error) -> Failed {
    Failed::of(why, format!("process {pid} cannot be watched: {why}"))
}

/// When a process began, and in which realm; `None` where that cannot be known. Nobody else ever has both this and its id.
fn birth(pid: i32) -> Option<Box<str>> {
    Some(format!("{}/{}", birth::realm()?, birth::stat(pid)?.began).into())
}

/// Whether a birth is of the realm that this agent lives in.
fn is_of_now(birth: &str) -> bool {
    birth::realm().is_some_and(|realm| birth.rsplit_once('/').is_some_and(|(of, _)| of == realm))
}

const MAX_PID_FILE: u64 = 4096;
/// How soon after a death a pid file is read again: many programs are started anew at once.
const SOON: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use std::{process::Command, sync::mpsc, thread};

    use super::*;

    #[tokio::test]
    async fn who_takes_the_id_of_a_process_that_was_missing_is_not_believed_until_the_pid_file_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let file = ProcessRef::File(path.clone());
        let mut dead = Command::new("true").spawn().unwrap();
        dead.wait().unwrap();
        fs::write(&path, dead.id().to_string()).unwrap();
        let mut ended = None;
        let why = find(&file, &mut ended).unwrap_err();
        assert_eq!(why, Failed::Target(useless(&path)));
        let Some(((pid, written), _)) = &mut ended else { panic!("{why:?}") };
        assert_eq!(u32::try_from(*pid).unwrap(), dead.id());
        // No test can have an id given anew: another process's is put in its place, there and in the file.
        fs::write(&path, std::process::id().to_string()).unwrap();
        (*pid, *written) = read(&path).unwrap().unwrap();
        assert_eq!(find(&file, &mut ended).unwrap_err(), why, "said as before");
        let later = written_at(&ended) + Duration::from_secs(1);
        fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        assert!(find(&file, &mut ended).is_ok());
    }

    #[tokio::test]
    async fn the_id_of_a_thread_is_told_from_that_of_its_process() {
        let ((tell, told), (release, held)) = (mpsc::channel(), mpsc::channel::<()>());
        thread::spawn(move || (tell.send(fs::read_link("/proc/thread-self")), held.recv()));
        let own = told.recv().unwrap().unwrap();
        let thread = own.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let why = find(&ProcessRef::Pid(thread), &mut None).unwrap_err();
        drop(release);
        let process = std::process::id();
        let said = format!("{thread} is a thread of process {process}: give the id of the process");
        assert_eq!(why, Failed::Target(said));
    }

    #[test]
    fn a_pid_file_that_is_older_than_its_process_means_another_one() {
        let at = |secs| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(secs));
        assert!(is_left_over((7, at(99)), |_| at(100)));
        let believed = [((7, at(100)), at(100)), ((7, at(99)), None), ((7, None), at(100)), ((1, at(99)), at(100))];
        for (meant, began) in believed {
            assert!(!is_left_over(meant, |_| began), "{meant:?} since {began:?}");
        }
    }

    fn written_at(ended: &Option<Ended>) -> SystemTime {
        ended.as_ref().and_then(|((_, written), _)| *written).unwrap()
    }
}
