//! `hobnob run`: an instance that lives exactly as long as a command. It is withdrawn before the command is told to end,
//! and also when nobody is left to withdraw it: this program reports to a check of its own, and is missed.

use std::{
    fs::File,
    future::ready,
    io,
    os::unix::process::ExitStatusExt,
    pin::pin,
    process::{ExitCode, ExitStatus},
    time::Duration,
};

use clap::Args;
use futures_util::FutureExt;
use rustix::{
    process::{Pid, Signal, getpgrp, kill_process},
    termios::tcgetpgrp,
};
use tokio::{
    process::{Child, Command},
    signal::unix::{self, SignalKind},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    client::Client,
    failure::{Code, Failure},
    heart::BEAT,
    output,
    register::{Instance, duration},
    stake::Stake,
};
use crate::agent::child;

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// The service it is an instance of
    #[arg(requires = "port")]
    name: String,
    #[command(flatten)]
    instance: Instance,
    /// When told to end: how long to wait between withdrawing the instance and telling the command
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    drain: Duration,
    /// How long the command may take to end once it was told; then it is killed
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    grace: Duration,
    /// The command and its arguments; it is told to end when somebody else takes the instance's id. Without HOBNOB_SECRET and HOBNOB_TOKEN in its environment
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

pub(super) async fn run(client: &Client, flags: Flags) -> Result<ExitCode, Failure> {
    let Flags { name, instance, drain, grace, command } = flags;
    let stake = Stake::new(client, instance.draft(name))?;
    let mut signals = Signals::listen().map_err(|error| Failure::new("cannot hear signals", error, "ulimit -n"))?;
    let mut begun = pin!(begin(&stake));
    let claimed = tokio::select! {
        claimed = &mut begun => claimed?,
        // There is no command yet that it could be meant for.
        signal = signals.next() => {
            withdraw(&stake, async { begun.await.map(drop) }).await;
            return Ok(ExitCode::from(code(ExitStatus::from_raw(signal.as_raw()))));
        }
    };
    let mut child = match spawn(&command) {
        Ok(child) => child,
        Err(failure) => {
            if claimed {
                withdraw(&stake, ready(Ok(()))).await;
            }
            return Err(failure);
        }
    };
    let stop = CancellationToken::new();
    let mut kept = pin!(keep(&stake, &stop, claimed));
    let (told, refused) = loop {
        tokio::select! {
            _ = child.wait() => break (None, None),
            refused = &mut kept => break (Some(Signal::TERM), refused.err()),
            signal = signals.next() => match signal {
                signal if is_typed(signal) => {}
                signal if is_end(signal) => break (Some(signal), None),
                other => forward(&child, other),
            },
        }
    };
    stop.cancel();
    let is_ours = refused.is_none();
    let withdrawn = async {
        if is_ours {
            withdraw(&stake, kept).await;
        }
    };
    let withdrawn = withdrawn.shared();
    let drained = async {
        withdrawn.clone().await;
        sleep(if is_ours { drain } else { Duration::ZERO }).await;
    };
    let ended = async {
        if let Some(signal) = told {
            end(&mut child, &mut signals, signal, drained, grace).await;
        }
        child.wait().await
    };
    let (ended, ()) = tokio::join!(ended, withdrawn.clone());
    let ended = ended.map_err(|error| Failure::new("lost sight of the command", error, "ps"))?;
    refused.map_or_else(|| Ok(ExitCode::from(code(ended))), Err)
}

/// Takes the id before there is a command, so that none is started for an agent that lets nobody in, or whose instance of
/// that id another one keeps. False where that has to wait: an agent that is away will come back.
async fn begin(stake: &Stake<'_>) -> Result<bool, Failure> {
    let claimed = match stake.claim().await {
        // Who was outrun finds out by whom.
        Err(failure) if failure.is_transient() && !failure.is_unreachable() => stake.claim().await,
        claimed => claimed,
    };
    match claimed {
        Err(failure) if failure.is_transient() => {
            output::say(format_args!("hobnob: {}; trying again", failure.sentence()));
            Ok(false)
        }
        claimed => claimed.map(|()| true),
    }
}

/// Keeps an instance registered and its heart beating until it is told to stop. Ends early only when the agent refuses,
/// for good: somebody else has the id, or this program never had the right. A right that is lost is no reason to end a
/// healthy command, and may be given again.
async fn keep(stake: &Stake<'_>, stop: &CancellationToken, mut entered: bool) -> Result<(), Failure> {
    // What kept it from being claimed was told.
    let (mut pause, mut registered, mut told) = (AGAIN, false, !entered);
    while !stop.is_cancelled() {
        let outcome = if registered { stake.beat().await } else { stake.enter().await.map(|()| true) };
        let wait = match outcome {
            Ok(known) => {
                (pause, told) = (AGAIN, false);
                let lost = registered && !known;
                registered = known;
                entered = true;
                if lost { Duration::ZERO } else { BEAT }
            }
            Err(failure) if failure.is_transient() || entered && failure.is_forbidden() => {
                if !std::mem::replace(&mut told, true) {
                    output::say(format_args!("hobnob: {}; trying again", failure.sentence()));
                }
                let wait = pause;
                pause = (pause * 2).min(BEAT);
                wait
            }
            Err(failure) => return Err(failure),
        };
        let _ = timeout(wait, stop.cancelled()).await;
    }
    Ok(())
}

/// Takes the instance out of every answer, if the agent can be reached soon, once it is `kept` no more: what is under way
/// must not register again what is withdrawn now.
async fn withdraw(stake: &Stake<'_>, kept: impl Future<Output = Result<(), Failure>>) {
    let until = Instant::now() + PATIENCE;
    let withdrawn = async {
        match kept.await {
            Ok(()) => stake.withdraw(until).await.map_err(|failure| (failure, MISSED)),
            Err(refused) => Err((refused, "nothing was registered")),
        }
    };
    match timeout_at(until, withdrawn).await {
        Ok(Ok(())) => {}
        Ok(Err((failure, then))) => output::say(format_args!("hobnob: {}; {then}", failure.sentence())),
        Err(_) => output::say(format_args!("hobnob: the agent is slow to answer; {MISSED}")),
    }
}

/// Waits for the last requests to come in, tells the command to end, and kills it when it does not. Whatever else is said
/// meanwhile still reaches it.
async fn end(
    child: &mut Child,
    signals: &mut Signals,
    signal: Signal,
    drained: impl Future<Output = ()>,
    grace: Duration,
) {
    let mut drained = pin!(drained);
    let told = loop {
        tokio::select! {
            _ = child.wait() => return,
            () = &mut drained => break signal,
            another = signals.next() => match another {
                another if is_typed(another) => break signal,
                // Who says it twice is in a hurry.
                another if is_end(another) => break another,
                other => forward(child, other),
            },
        }
    };
    forward(child, told);
    let mut patience = pin!(sleep(grace));
    loop {
        tokio::select! {
            _ = child.wait() => return,
            () = &mut patience => {
                output::say(format_args!("hobnob: the command did not end within {grace:?}: killed"));
                return forward(child, Signal::KILL);
            }
            another = signals.next() => if !is_typed(another) { forward(child, another) },
        }
    }
}

fn spawn(command: &[String]) -> Result<Child, Failure> {
    let [program, arguments @ ..] = command else { unreachable!("clap requires a command") };
    child::without_secrets(&mut Command::new(program)).args(arguments).spawn().map_err(|error| {
        let code = if error.kind() == io::ErrorKind::NotFound { Code::NotFound } else { Code::NotExecutable };
        Failure::new(format!("cannot run {program:?}"), error, format!("command -v {program}")).code(code)
    })
}

/// Whether a signal may come of a key: what a terminal shows gets it from there, the command as well as we.
fn is_typed(signal: Signal) -> bool {
    let is_shown = || File::open("/dev/tty").is_ok_and(|tty| tcgetpgrp(&tty).is_ok_and(|group| group == getpgrp()));
    matches!(signal, Signal::INT | Signal::QUIT) && is_shown()
}

/// Whether a signal means the end.
fn is_end(signal: Signal) -> bool {
    matches!(signal, Signal::TERM | Signal::INT | Signal::QUIT)
}

/// The signals that are meant for the command.
struct Signals([(unix::Signal, Signal); 6]);

impl Signals {
    fn listen() -> io::Result<Self> {
        let hear = |kind: SignalKind, signal: Signal| Ok::<_, io::Error>((unix::signal(kind)?, signal));
        Ok(Self([
            hear(SignalKind::terminate(), Signal::TERM)?,
            hear(SignalKind::interrupt(), Signal::INT)?,
            hear(SignalKind::quit(), Signal::QUIT)?,
            hear(SignalKind::hangup(), Signal::HUP)?,
            hear(SignalKind::user_defined1(), Signal::USR1)?,
            hear(SignalKind::user_defined2(), Signal::USR2)?,
        ]))
    }

    /// The next of them. Cancel-safe.
    async fn next(&mut self) -> Signal {
        let each = self.0.iter_mut().map(|(heard, signal)| Box::pin(async { heard.recv().await.map(|()| *signal) }));
        futures_util::future::select_all(each).await.0.unwrap_or(Signal::TERM)
    }
}

fn forward(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have died in between, which the next wait tells.
        let _ = kill_process(pid, signal);
    }
}

/// The command's own code; 128 and the signal's number where one ended it, as shells say it.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// How soon an agent that is away is asked again, at first.
const AGAIN: Duration = Duration::from_millis(100);
/// What an agent on this machine takes to answer, and far more: nobody waits longer for it at the end.
const PATIENCE: Duration = Duration::from_secs(3);
/// What becomes of an instance that could not be withdrawn.
const MISSED: &str = "what is registered there will miss its heartbeat";
