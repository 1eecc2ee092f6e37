//! `hobnob status`: what a node says of itself.

use std::process::ExitCode;

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
    Ok(ExitCode::SUCCESS)
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
