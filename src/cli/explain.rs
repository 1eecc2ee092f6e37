//! `hobnob explain`: why a node or a service is shown or not, and on whose evidence.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::{
    client::{self, Client},
    failure::Failure,
    output::{self, Format, Reading, Shape},
};

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// A node or a service
    name: String,
    #[command(flatten)]
    reading: Reading,
}

pub(super) async fn run(client: &Client, flags: &Flags) -> Result<ExitCode, Failure> {
    let path = format!("/api/v1/explain/{}", client::segment(&flags.name));
    let show = |answer: &Value| match flags.reading.format {
        Format::Table => people(answer),
        Format::Name if answer["kind"] != "node" => INSTANCES.render(&answer["instances"], Format::Name),
        format => OBSERVERS.render(answer, format),
    };
    output::follow(&flags.reading, async || client.get(&path).await, show).await?;
    Ok(ExitCode::SUCCESS)
}

/// The reason first, then who says so.
fn people(answer: &Value) -> String {
    if answer["kind"] == "node" {
        return node(answer);
    }
    let nodes = answer["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let parts = std::iter::once(INSTANCES.render(&answer["instances"], Format::Table)).chain(nodes.iter().map(node));
    parts.collect::<Vec<_>>().join("\n\n")
}

fn node(answer: &Value) -> String {
    let text = |field: &str| output::cell(&answer[field]);
    let mut lines = format!("{}: {}, since {}", text("node"), text("why"), text("since"));
    for (title, pointer) in FACTS {
        let value = answer.pointer(pointer).map(output::cell).unwrap_or_default();
        if !value.is_empty() && value != "0" && value != "false" {
            lines += &format!("\n  {title}: {value}");
        }
    }
    let observers = &answer["observers"];
    if observers.as_array().is_some_and(|all| !all.is_empty()) {
        lines += "\n";
        lines += &OBSERVERS.render(observers, Format::Table);
    }
    lines
}

/// What is said where there is something to say.
const FACTS: [(&str, &str); 9] = [
    ("heard, ms ago", "/heard_ms_ago"),
    ("vouched for by another node", "/vouched"),
    ("suspected since", "/suspicion/since"),
    ("suspected by", "/suspicion/by"),
    ("confirmations", "/suspicion/confirmations"),
    ("may answer until", "/suspicion/until"),
    ("came back lately, times", "/flapping/returns"),
    ("hidden until", "/flapping/hidden_until"),
    ("book read up to version", "/version"),
];
const OBSERVERS: Shape = Shape {
    name: "node",
    columns: &[
        ("OBSERVER", "node"),
        ("SEES IT", "state"),
        ("HEARD MS AGO", "heard_ms_ago"),
        ("BOOK EPOCH", "epoch"),
        ("BOOK VERSION", "version"),
    ],
};
const INSTANCES: Shape = Shape {
    name: "id",
    columns: &[("INSTANCE", "id"), ("NODE", "node"), ("HEALTH", "health"), ("SHOWN", "shown"), ("WHY", "why")],
};

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_reason_comes_first() {
        let answer = json!({"kind": "node", "node": "c", "why": "suspect: no answer", "since": "T", "heard_ms_ago": 900,
            "suspicion": {"by": ["a", "b"], "confirmations": 1}, "flapping": {"returns": 0}, "version": 7,
            "observers": [{"node": "a", "state": "suspect", "heard_ms_ago": 901, "epoch": 1, "version": 7}]});
        let text = people(&answer);
        assert!(
            text.starts_with("c: suspect: no answer, since T\n  heard, ms ago: 900\n  suspected by: a,b\n"),
            "{text}"
        );
        assert!(!text.contains("came back") && text.contains("OBSERVER"), "{text}");
    }
}
