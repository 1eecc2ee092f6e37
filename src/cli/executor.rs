//! The executor: the tiny parent of `hobnob agent`, which outlives it and tells its peers when it dies without a goodbye.
//!
//! It holds nothing but the agent's last will, which the agent hands it through a socket and writes anew as members come
//! and go. It passes signals on, tells systemd what the agent says, takes in its orphans, ends with it what it still ran,
//! and ends with the agent's own exit code (128 and the signal's number where one ended it, as shells say it).
//! It has one thread and no cryptography in memory until there is something to say.

use std::{
    env, fs, io,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream as Pair, process::CommandExt},
    },
    path::PathBuf,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use futures_util::future::OptionFuture;
use rustix::process::{Pid, WaitStatus};
use sd_notify::NotifyState;
use tokio::{io::AsyncWriteExt, net::UnixStream, runtime::Builder, signal::unix::SignalKind, time::timeout};
use tracing::{error, info, warn};

use super::{
    failure::Failure,
    logs::{self, LogFormat},
    orphans::{self, End},
    output,
    parent::{self, Frames, Said, Word},
};
use crate::agent::Will;

/// Starts the agent again as a child, and lives as long as it does.
pub(super) fn run(log: LogFormat) -> Result<ExitCode, Failure> {
    let begun = |error: io::Error| Failure::new("cannot start the agent", error, "hobnob agent --no-will");
    let runtime = Builder::new_current_thread().enable_all().build().map_err(begun)?;
    let (mut end, will, mut signals) = runtime
        .block_on(async {
            // Before there is a child, so that no death goes unnoticed.
            let mut signals = Signals::listen()?;
            orphans::adopt();
            let (ours, theirs) = Pair::pair()?;
            ours.set_nonblocking(true)?;
            let child = spawn(theirs)?;
            let (end, will) = attend(child, UnixStream::from_std(ours)?, &mut signals).await?;
            Ok((end, will, signals))
        })
        .map_err(begun)?;
    let _log = will.as_ref().map(|_| logs::start(log, logs::DEFAULT)).transpose()?;
    let how = end.how;
    runtime.block_on(async {
        let told = OptionFuture::from(will.as_ref().map(|will| execute(will, how)));
        let buried = async {
            while !end.bury() {
                signals.next().await;
            }
        };
        let _ = tokio::join!(told, timeout(PATIENCE, buried));
    });
    Ok(ExitCode::from(code(how)))
}

/// This program again, with the same words, and one more that says where its parent is.
fn spawn(line: Pair) -> io::Result<Pid> {
    let mut words = env::args_os();
    let mut command = Command::new(program()?);
    if let Some(name) = words.next() {
        command.arg0(name);
    }
    // systemd believes the process it started, which tells what the child says.
    command.args(words).arg(parent::FLAG).stdin(OwnedFd::from(line)).env_remove("NOTIFY_SOCKET");
    if env::var_os(PURGE).is_none() {
        command.env(PURGE, "0");
    }
    let child = command.spawn()?;
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("a child without a number"))
}

/// The file that this process runs; where it was replaced meanwhile, what it was.
fn program() -> io::Result<PathBuf> {
    let path = env::current_exe()?;
    Ok(if fs::exists(&path)? { path } else { "/proc/self/exe".into() })
}

/// Waits for the child's end, and passes on what is said: that end, and its will unless it was taken back.
async fn attend(child: Pid, mut line: UnixStream, signals: &mut Signals) -> io::Result<(End, Option<Vec<u8>>)> {
    let (mut frames, mut will) = (Frames::default(), None);
    let mut open = true;
    let end = loop {
        tokio::select! {
            heard = signals.next() => match heard {
                Heard::Death => {
                    if let Some(end) = orphans::reap(child)? {
                        break end;
                    }
                }
                // Who does not listen any more is about to end.
                Heard::Word(word) => drop(line.write_all(&[word as u8]).await),
            },
            read = frames.read(&line), if open => {
                open = read;
                take(&mut frames, &mut will);
            }
        }
    };
    // What it said last is there already: nothing is waited for.
    frames.drain(&line);
    take(&mut frames, &mut will);
    Ok((end, will))
}

fn take(frames: &mut Frames, will: &mut Option<Vec<u8>>) {
    while let Some(said) = frames.next() {
        match said {
            Said::Will(bytes) => *will = Some(bytes),
            Said::Nothing => *will = None,
            Said::Ready => tell(&[NotifyState::Ready]),
            Said::Leaving => tell(&[NotifyState::Stopping]),
        }
    }
}

/// Tells systemd, where it has asked for that.
pub(super) fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        output::say(format_args!("hobnob: cannot tell systemd: {error}"));
    }
}

async fn execute(will: &[u8], ended: WaitStatus) {
    let begun = Instant::now();
    match Will::from_bytes(will) {
        Ok(will) if will.heirs() == 0 => warn!(event = "last_will", code = code(ended), "the agent died alone"),
        Ok(will) => {
            let of = will.heirs();
            match will.execute().await {
                Ok(told) => {
                    let millis = begun.elapsed().as_millis();
                    info!(event = "last_will", code = code(ended), told, of, millis, "the agent died: its peers know");
                }
                Err(why) => error!(event = "last_will", %why, "the agent died, and its peers cannot be told"),
            }
        }
        Err(why) => error!(event = "last_will", %why, "the agent died, and its peers cannot be told"),
    }
}

/// A child's exit code, as shells say it.
fn code(ended: WaitStatus) -> u8 {
    let code = ended.exit_status().unwrap_or_else(|| 128 + ended.terminating_signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// What the executor hears of.
enum Heard {
    Death,
    Word(Word),
}

struct Signals([tokio::signal::unix::Signal; 4]);

impl Signals {
    fn listen() -> io::Result<Self> {
        let [death, terminate, interrupt, hangup] =
            [SignalKind::child(), SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()]
                .map(tokio::signal::unix::signal);
        Ok(Self([death?, terminate?, interrupt?, hangup?]))
    }

    async fn next(&mut self) -> Heard {
        let [death, terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = death.recv() => Heard::Death,
            _ = terminate.recv() => Heard::Word(Word::Stop),
            _ = interrupt.recv() => Heard::Word(Word::Stop),
            _ = hangup.recv() => Heard::Word(Word::Reload),
        }
    }
}

/// What was killed is dead at once, unless it waits for a disk that hangs.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many milliseconds the allocator keeps what is free. It looks when something large is asked for: an agent that
/// has read its files and is idle would keep all that the parser took.
const PURGE: &str = "MIMALLOC_PURGE_DELAY";
