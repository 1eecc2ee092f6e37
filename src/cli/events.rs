//! `hobnob events`: what happened in the mesh, as the asked node saw it, and why.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use serde_json::Value;

use super::{
    client::Client,
    failure::Failure,
    output::{self, Format, Reading, Shape},
};

#[derive(Debug, Args)]
pub(super) struct Flags {
    #[command(flatten)]
    reading: Reading,
    /// Only what happened after the event with this id
    #[arg(long, value_name = "ID")]
    after: Option<String>,
}

/// Prints the events that the node remembers; with `--watch`, each further one as it happens.
pub(super) async fn run(client: &Client, flags: &Flags) -> Result<ExitCode, Failure> {
    let mut after = flags.after.clone();
    loop {
        let path = after.as_ref().map_or_else(|| PATH.into(), |id| format!("{PATH}?after={id}"));
        let events = client.get(&path).await?;
        let rows = events.as_array().map(Vec::as_slice).unwrap_or_default();
        match flags.reading.format {
            Format::Table => output::print(&rows.iter().map(line).collect::<Vec<_>>().join("\n")),
            // One text for what is there; afterwards one for each event.
            Format::Json if flags.reading.watch => output::print(&SHAPE.render(&events, Format::Jsonl)),
            format => output::print(&SHAPE.render(&events, format)),
        }
        if !flags.reading.watch {
            return Ok(ExitCode::SUCCESS);
        }
        after = rows.last().and_then(|row| row["id"].as_str()).map(String::from).or(after);
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// One event as a line of a log: lines can follow each other for ever, columns cannot.
fn line(event: &Value) -> String {
    let text = |field: &str| output::cell(&event[field]);
    let subject = match (text("instance"), text("node")) {
        (instance, node) if instance.is_empty() => node,
        (instance, node) => format!("{instance} on {node}"),
    };
    let subject = if subject.is_empty() { text("service") } else { subject };
    let change = match (text("was"), text("now")) {
        (was, now) if was.is_empty() => now,
        (was, now) => format!("{was} -> {now}"),
    };
    let why = text("why");
    let words = [text("at"), text("event"), subject, change, text("check"), text("cause")];
    let head = words.iter().filter(|word| !word.is_empty()).cloned().collect::<Vec<_>>().join("  ");
    if why.is_empty() { head } else { format!("{head}  ({why})") }
}

const PATH: &str = "/api/v1/events";
const SHAPE: Shape = Shape { name: "event", columns: &[] };
/// How often `--watch` looks: what people notice.
const WATCH_EVERY: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_a_line_with_its_reason() {
        let member = json!({"id": "1-2", "at": "T", "event": "member", "node": "c", "was": "alive", "now": "down",
            "cause": "will", "why": "its process died"});
        assert_eq!(line(&member), "T  member  c  alive -> down  will  (its process died)");
        let health = json!({"id": "1-3", "at": "T", "event": "health", "node": "c", "instance": "web-1", "was": "passing",
            "now": "critical", "check": "http-1", "cause": "check", "why": ""});
        assert_eq!(line(&health), "T  health  web-1 on c  passing -> critical  http-1  check");
    }
}
