//! `hobnob rtt` and `hobnob ping`: how far away a node is, as it is known and as it is now.

use std::process::ExitCode;

use clap::Args;
use hyper::Method;
use serde_json::Value;

use super::{
    client::{Client, segment},
    failure::Failure,
    output::{self, Reading, Shape},
};

#[derive(Debug, Args)]
pub(super) struct Rtt {
    /// A node
    node: String,
    /// Another one, instead of the node that is asked
    other: Option<String>,
    #[command(flatten)]
    reading: Reading,
}

#[derive(Debug, Args)]
pub(super) struct Ping {
    /// The node to knock at
    node: String,
    /// How often, one after the other
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    count: u16,
    #[command(flatten)]
    reading: Reading,
}

pub(super) async fn rtt(client: &Client, flags: &Rtt) -> Result<ExitCode, Failure> {
    let path = match &flags.other {
        Some(other) => format!("/api/v1/rtt/{}?from={}", segment(other), segment(&flags.node)),
        None => format!("/api/v1/rtt/{}", segment(&flags.node)),
    };
    output::read(client, &flags.reading, &path, &RTT).await?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn ping(client: &Client, flags: &Ping) -> Result<ExitCode, Failure> {
    let path = format!("/api/v1/ping/{}", segment(&flags.node));
    let knock = async || {
        let mut answers = Vec::new();
        for _ in 0..flags.count {
            answers.push(client.call(Method::POST, &path, None).await?.found()?);
        }
        Ok(Value::Array(answers))
    };
    output::follow(&flags.reading, knock, |answers| PING.render(answers, flags.reading.format)).await?;
    Ok(ExitCode::SUCCESS)
}

const RTT: Shape =
    Shape { name: "to", columns: &[("FROM", "from"), ("TO", "to"), ("RTT MS", "rtt_ms"), ("KNOWN", "known")] };
const PING: Shape = Shape { name: "to", columns: &[("FROM", "from"), ("TO", "to"), ("RTT MS", "rtt_ms")] };
