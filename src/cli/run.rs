//! `hobnob run`: an instance that lives exactly as long as a command.

use std::{
    io,
    os::unix::process::ExitStatusExt,
    process::{ExitCode, ExitStatus},
};

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    signal::unix::{self, SignalKind},
};

use super::{
    client::Client,
    failure::{Code, Failure},
    register::{self, Instance},
};

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// The service it is an instance of
    #[arg(requires = "port")]
    name: String,
    #[command(flatten)]
    instance: Instance,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

pub(super) async fn run(client: &Client, flags: Flags) -> Result<ExitCode, Failure> {
    // Asked first, so that no command is started for an agent that is not there or lets nobody in.
    client.get("/api/v1/status").await?;
    let mut signals = Signals::listen().map_err(|error| Failure::new("cannot hear signals", error, "ulimit -n"))?;
    let mut child = spawn(&flags.command)?;
    let id = match register::put(client, flags.instance.draft(flags.name)).await {
        Ok(id) => id,
        Err(failure) => {
            forward(&child, Signal::TERM);
            let _ = child.wait().await;
            return Err(failure);
        }
    };
    let ended = loop {
        tokio::select! {
            status = child.wait() => break status,
            signal = signals.next() => forward(&child, signal),
        }
    };
    if let Err(failure) = register::remove(client, &id).await {
        eprintln!("hobnob: {}", failure.sentence());
    }
    let ended = ended.map_err(|error| Failure::new("lost sight of the command", error, "ps"))?;
    Ok(ExitCode::from(code(ended)))
}

fn spawn(command: &[String]) -> Result<Child, Failure> {
    let [program, arguments @ ..] = command else { unreachable!("clap requires a command") };
    Command::new(program).args(arguments).spawn().map_err(|error| {
        let code = if error.kind() == io::ErrorKind::NotFound { Code::NotFound } else { Code::NotExecutable };
        Failure::new(format!("cannot run {program:?}"), error, format!("command -v {program}")).code(code)
    })
}

/// The signals that are meant for the command.
struct Signals([unix::Signal; 3]);

impl Signals {
    fn listen() -> io::Result<Self> {
        let [terminate, interrupt, hangup] =
            [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(unix::signal);
        Ok(Self([terminate?, interrupt?, hangup?]))
    }

    async fn next(&mut self) -> Signal {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => Signal::TERM,
            _ = interrupt.recv() => Signal::INT,
            _ = hangup.recv() => Signal::HUP,
        }
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
