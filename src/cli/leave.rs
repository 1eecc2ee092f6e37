//! `hobnob leave`: make a node say goodbye and stop.

use std::process::ExitCode;

use hyper::Method;

use super::{client::Client, failure::Failure, output};

pub(super) async fn run(client: &Client) -> Result<ExitCode, Failure> {
    let path = "/api/v1/leave";
    client.call(Method::POST, path, None).await?.found()?;
    output::say("the node says goodbye and stops");
    Ok(ExitCode::SUCCESS)
}
