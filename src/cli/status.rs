//! `hobnob status`: what a node says of itself.

use std::process::ExitCode;

use serde_json::Value;

use super::{
    client::Client,
    failure::Failure,
    output::{self, Reading, Shape},
};

pub(super) async fn run(client: &Client, reading: &Reading) -> Result<ExitCode, Failure> {
    let seen = output::read(client, reading, "/api/v1/status", &SHAPE).await?;
    if seen["members"]["down"].as_u64() > seen["members"]["alive"].as_u64() {
        output::say("more nodes are down than alive: this one may be cut off; hobnob doctor");
    }
    if let Some((why, next)) = outcast(&seen) {
        output::say(format_args!("{why}\n next: {next}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// That the mesh lets a node in no more, and what to do.
pub(super) fn outcast(status: &Value) -> Option<(String, String)> {
    let (since, by) = (status["outcast"]["since"].as_str()?, status["outcast"]["by"].as_str()?);
    let node = status["node"].as_str().unwrap_or("NODE");
    let serial = status["certificate"]["serial"].as_str().unwrap_or("SERIAL");
    let why = format!("this node is let in no more since {since}, by {by}");
    let revoked = match status["outcast"]["revoked"].as_str() {
        Some("node") => node.to_owned(),
        Some(_) => {
            let next = format!(
                "{}, and put the files where the old ones are: what this one is renewed to is refused with it; or, if nobody \
                 else has it, hobnob ca revoke --serial {serial} --undo, on a node that is let in",
                issue(status)
            );
            return Some((why, next));
        }
        None if by.contains("revoked") => format!("{node} --undo, or --serial {serial}"),
        None => {
            let issuer = status["certificate"]["issuer"].as_str().unwrap_or("its authority");
            let issue = issue(status);
            let next = format!("{issue}, of an authority that the others believe; this one is by {issuer}");
            return Some((why, next));
        }
    };
    let next =
        format!("hobnob ca revoke {revoked} --undo, on a node that is let in; or a certificate that is accepted");
    Some((why, next))
}

/// What issues a certificate for a node.
pub(super) fn issue(status: &Value) -> String {
    let node = status["node"].as_str().unwrap_or("NODE");
    match status["mesh"].as_str() {
        None | Some("default") => format!("hobnob ca issue {node}"),
        Some(mesh) => format!("hobnob ca issue {node} --mesh {mesh}"),
    }
}

const SHAPE: Shape = Shape {
    name: "node",
    columns: &[
        ("NODE", "node"),
        ("MESH", "mesh"),
        ("READY", "ready"),
        ("ALIVE", "members/alive"),
        ("SUSPECT", "members/suspect"),
        ("DOWN", "members/down"),
        ("SERVICES", "services"),
        ("INSTANCES", "instances"),
        ("AGREEMENT", "agreement"),
        ("VERSION", "version"),
    ],
};
