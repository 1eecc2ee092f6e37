//! `hobnob members`: the nodes of the mesh, as the asked one sees them.

use std::process::ExitCode;

use super::{
    client::Client,
    failure::Failure,
    output::{self, Reading, Shape},
};

pub(super) async fn run(client: &Client, reading: &Reading) -> Result<ExitCode, Failure> {
    output::read(client, reading, "/api/v1/members", &SHAPE).await?;
    Ok(ExitCode::SUCCESS)
}

const SHAPE: Shape = Shape {
    name: "node",
    columns: &[
        ("NODE", "node"),
        ("STATE", "state"),
        ("ADDRESS", "address"),
        ("RTT MS", "rtt_ms"),
        ("ZONE", "zone"),
        ("DATACENTER", "datacenter"),
        ("VERSION", "version"),
    ],
};
