//! `hobnob reload`: have an agent read its files again.

use std::process::ExitCode;

use hyper::Method;

use super::{client::Client, failure::Failure, output};

pub(super) async fn run(client: &Client) -> Result<ExitCode, Failure> {
    let path = "/api/v1/reload";
    let done = client.call(Method::POST, path, None).await?.found()?;
    output::say(format_args!("reloaded: {} services from files, {} withdrawn", done["registered"], done["withdrawn"]));
    for setting in done["restart"].as_array().into_iter().flatten() {
        output::say(format_args!("  {} has changed, and waits for a restart", setting.as_str().unwrap_or_default()));
    }
    Ok(ExitCode::SUCCESS)
}
