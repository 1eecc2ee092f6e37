//! `hobnob force-leave`: give up on a node that is down and will not come back.

use std::process::ExitCode;

use clap::{Args, builder::NonEmptyStringValueParser};
use hyper::Method;

use super::{client::Client, failure::Failure, output};

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// The node to forget; it must be down
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    node: String,
}

pub(super) async fn run(client: &Client, flags: &Flags) -> Result<ExitCode, Failure> {
    let path = format!("/api/v1/force-leave/{}", super::client::segment(&flags.node));
    client.call(Method::POST, &path, None).await?.found()?;
    output::say(format_args!("{} is forgotten as if it had left", flags.node));
    Ok(ExitCode::SUCCESS)
}
