//! `hobnob join`: look for the mesh through more addresses.

use std::process::ExitCode;

use clap::Args;
use hyper::Method;
use serde_json::json;

use super::{client::Client, failure::Failure};
use crate::config::Seed;

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// Where a node of the mesh listens: host:port
    #[arg(required = true, value_name = "ADDR")]
    addresses: Vec<Seed>,
}

pub(super) async fn run(client: &Client, flags: &Flags) -> Result<ExitCode, Failure> {
    let path = "/api/v1/join";
    client.call(Method::POST, path, Some(&json!({ "addresses": flags.addresses }))).await?.found(path)?;
    eprintln!("looking for the mesh there; `hobnob members` shows who was found");
    Ok(ExitCode::SUCCESS)
}
