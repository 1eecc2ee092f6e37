//! The check `script`: a program without a shell around it. All that it started is killed when time is up or the check
//! goes away.

use std::process::Stdio;

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
};

use super::{Failed, Finding, Home, MAX_OUTPUT, text};
use crate::agent::child;

pub(super) async fn run(argv: &[String], home: &Home) -> Result<Finding, Failed> {
    let Some((program, arguments)) = argv.split_first() else { return Err("names no program".to_owned().into()) };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("HOBNOB_INSTANCE", home.instance.as_str())
        .env("HOBNOB_ADDRESS", home.host.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(port) = home.port {
        command.env("HOBNOB_PORT", port.to_string());
    }
    let spawned = child::spawn(&mut command);
    let (mut child, group) = spawned.map_err(|why| Failed::of(&why, format!("cannot run {program:?}: {why}")))?;
    let mut said = Vec::new();
    let ended = listen(&mut child, &mut said).await;
    if let Ok(how) = ended {
        group.ended(how);
    }
    let output = text(&said);
    Ok(match ended.map(|status| (status.code(), status)) {
        Ok((Some(0), _)) => Finding::passing(output),
        Ok((Some(1), _)) => Finding::warning(output),
        Ok((_, status)) if output.is_empty() => Finding::critical(status.to_string()),
        Ok((_, status)) => Finding::critical(format!("{status}: {output}")),
        Err(why) => Finding::critical(format!("{program:?} was lost: {why}")),
    })
}

/// Waits for the program's end, and keeps the first of what it says. What children of its own say after that is not
/// waited for.
async fn listen(child: &mut Child, said: &mut Vec<u8>) -> std::io::Result<std::process::ExitStatus> {
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let (mut first, mut second) = ([0; 1024], [0; 1024]);
    let mut ended = None;
    loop {
        tokio::select! {
            // What was said before the end is heard first.
            biased;
            count = some(&mut out, &mut first) => keep(said, &first[..count], &mut out),
            count = some(&mut err, &mut second) => keep(said, &second[..count], &mut err),
            status = child.wait(), if ended.is_none() => ended = Some(status?),
            () = std::future::ready(()), if ended.is_some() => {}
        }
        if let Some(status) = ended.filter(|_| true) {
            drain(said, &mut out, &mut first).await;
            drain(said, &mut err, &mut second).await;
            return Ok(status);
        }
    }
}

/// The next words of a pipe; never comes once it is closed.
async fn some(pipe: &mut Option<impl AsyncRead + Unpin>, buffer: &mut [u8]) -> usize {
    match pipe {
        Some(open) => open.read(buffer).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

fn keep<P>(said: &mut Vec<u8>, words: &[u8], pipe: &mut Option<P>) {
    if words.is_empty() {
        *pipe = None;
    }
    said.extend_from_slice(&words[..words.len().min(MAX_OUTPUT - said.len())]);
}

/// Takes what already lies in a pipe.
async fn drain(said: &mut Vec<u8>, pipe: &mut Option<impl AsyncRead + Unpin>, buffer: &mut [u8]) {
    while pipe.is_some() && said.len() < MAX_OUTPUT {
        tokio::select! {
            biased;
            count = some(pipe, buffer) => keep(said, &buffer[..count], pipe),
            () = tokio::task::yield_now() => return,
        }
    }
}
