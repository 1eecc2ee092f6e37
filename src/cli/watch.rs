//! `hobnob watch`: a line, or a run of a program, for each change of a service. It goes on when the agent is away for a
//! while.

use std::{convert::Infallible, process::ExitCode, time::Duration};

use clap::Args;
use serde_json::Value;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::sleep,
};

use super::{
    client::{self, Client},
    failure::Failure,
    output::{self, Format},
    program::{Program, essence},
    register::duration,
};

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// The service
    name: String,
    /// A command for the shell to run at each change, the new state as JSON on its standard input, and without
    /// HOBNOB_SECRET and HOBNOB_TOKEN in its environment
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    /// How long one run may take; then it is killed with all it started
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = some_time, requires = "exec")]
    timeout: Duration,
    /// How long the service must have been the same before a run
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = duration, requires = "exec")]
    settle: Duration,
    /// How to print it
    #[arg(long, value_enum, default_value_t, conflicts_with = "exec")]
    format: Format,
}

pub(super) async fn run(client: &Client, flags: &Flags) -> Result<ExitCode, Failure> {
    let Some(command) = &flags.exec else {
        follow(client, &flags.name, |state| output::print(&line(&state, flags.format))).await?;
        return Ok(ExitCode::SUCCESS);
    };
    let command = ["sh", "-c", command].map(String::from).to_vec();
    let program = Program { command, timeout: flags.timeout, settle: flags.settle };
    let (send, states) = watch::channel(None);
    let told = follow(client, &flags.name, |state| drop(send.send_replace(Some(state))));
    let deaf = |error| Failure::new("cannot hear signals", error, "ulimit -n");
    let mut interrupt = signal(SignalKind::interrupt()).map_err(deaf)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(deaf)?;
    // Whatever ends it, what runs is killed: its group is dropped.
    tokio::select! {
        ended = told => ended?,
        () = program.follow(states, |why| output::say(format_args!("hobnob: {why}; trying again"))) => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn some_time(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|time| if time.is_zero() { Err("leaves no run the time to end".into()) } else { Ok(time) })
}

/// Hands each state to `tell`: the first one, and each that differs from the one before. Ends when there is no hope.
async fn follow(client: &Client, service: &str, mut tell: impl FnMut(Value)) -> Result<(), Failure> {
    let path = format!("/api/v1/watch?service={}", client::segment(service));
    let (mut last, mut seen) = (None::<String>, None);
    let mut pause = AGAIN;
    loop {
        let ended = async {
            let mut stream = client.stream(&path, last.as_deref()).await?;
            loop {
                let event = stream.next().await?;
                pause = AGAIN;
                last = event.id.or(last.take());
                let Ok(state) = serde_json::from_str::<Value>(&event.data) else { continue };
                let now = essence(&state);
                if seen.as_ref() != Some(&now) {
                    seen = Some(now);
                    tell(state);
                }
            }
        };
        let ended: Result<Infallible, Failure> = ended.await;
        let Err(failure) = ended;
        // Nobody there from the start is a mistake; who was there comes back, and a right may be given again.
        let may_pass = failure.is_transient() || failure.is_forbidden();
        if !may_pass || seen.is_none() && (failure.is_unreachable() || failure.is_forbidden()) {
            return Err(failure);
        }
        output::say(format_args!("hobnob: {}; trying again", failure.sentence()));
        sleep(pause).await;
        pause = (pause * 2).min(AT_LAST);
    }
}

/// A state as it is printed.
fn line(state: &Value, format: Format) -> String {
    let instances = state["instances"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |instance: &Value, field: &str| instance[field].as_str().unwrap_or_default().to_owned();
    let passing: Vec<_> = instances.iter().filter(|instance| instance["health"] == "passing").collect();
    match format {
        Format::Json => format!("{state:#}"),
        Format::Jsonl => state.to_string(),
        Format::Name => passing.iter().map(|instance| text(instance, "id")).collect::<Vec<_>>().join(" "),
        Format::Table => {
            let one = |instance: &Value| {
                let place = match &instance["port"] {
                    Value::Null => text(instance, "address"),
                    port => format!("{}:{port}", text(instance, "address")),
                };
                format!("  {}@{} {place} {}", text(instance, "id"), text(instance, "node"), text(instance, "health"))
            };
            let all: String = instances.iter().map(one).collect();
            format!("{} {}/{}{all}", text(state, "service"), passing.len(), instances.len())
        }
    }
}

/// How long after a loss the agent is asked again, at first and at most.
const AGAIN: Duration = Duration::from_millis(200);
const AT_LAST: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_state_is_one_line() {
        let instance = |id: &str, health: &str| json!({"id": id, "node": "n", "address": "10.0.0.1", "port": 80, "health": health});
        let state =
            json!({"service": "web", "index": 7, "instances": [instance("a", "passing"), instance("b", "critical")]});
        assert_eq!(line(&state, Format::Table), "web 1/2  a@n 10.0.0.1:80 passing  b@n 10.0.0.1:80 critical");
        assert_eq!(line(&state, Format::Name), "a");
        assert_eq!(line(&state, Format::Jsonl).lines().count(), 1);
    }
}
