//! `hobnob maintenance`: a node or one of its instances out of service on purpose, and back.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::json;

use super::{
    client::{Client, segment},
    failure::Failure,
    output,
};

#[derive(Debug, Subcommand)]
pub(super) enum Maintenance {
    /// Take it out of service
    On {
        #[command(flatten)]
        which: Which,
        /// Why, for whoever wonders
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Bring it back
    Off(Which),
}

#[derive(Debug, Args)]
pub(super) struct Which {
    /// An instance of this node; the node and all that is on it where none is given
    id: Option<String>,
}

pub(super) async fn run(client: &Client, command: &Maintenance) -> Result<ExitCode, Failure> {
    let (Which { id }, reason, enabled) = match command {
        Maintenance::On { which, reason } => (which, reason.as_str(), true),
        Maintenance::Off(which) => (which, "", false),
    };
    let path = match id {
        Some(id) => format!("/api/v1/maintenance/{}", segment(id)),
        None => "/api/v1/maintenance".into(),
    };
    let asked = json!({ "enabled": enabled, "reason": reason });
    client.call(Method::PUT, &path, Some(&asked)).await?.found()?;
    let what = id.as_deref().unwrap_or("this node");
    output::say(format_args!("{what} is {}", if enabled { "out of service" } else { "back in service" }));
    Ok(ExitCode::SUCCESS)
}
