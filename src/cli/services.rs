//! `hobnob services` and `hobnob service`: what the mesh serves.

use std::process::ExitCode;

use clap::Args;
use hyper::{Method, StatusCode};
use serde_json::Value;

use super::{
    client::{self, Client},
    failure::{Code, Failure},
    output::{self, Reading, Shape},
};

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// The service
    name: String,
    /// Fail with code 3 when no instance of it is passing
    #[arg(long)]
    require: bool,
    #[command(flatten)]
    reading: Reading,
}

pub(super) async fn list(client: &Client, reading: &Reading) -> Result<ExitCode, Failure> {
    output::read(client, reading, "/api/v1/services", &SERVICES).await?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn show(client: &Client, flags: &Flags) -> Result<ExitCode, Failure> {
    let path = path(&flags.name);
    if flags.require && client.call(Method::GET, &path, None).await?.status == StatusCode::NOT_FOUND {
        return Err(unhealthy(&flags.name, "nobody registers it"));
    }
    let instances = output::read(client, &flags.reading, &path, &INSTANCES).await?;
    let passing = |instance: &Value| instance["health"] == "passing";
    match &instances {
        Value::Array(all) if flags.require && !all.iter().any(passing) => {
            Err(unhealthy(&flags.name, &format!("it has {} instances, none of them passing", all.len())))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Where the API keeps the instances of a service.
pub(super) fn path(name: &str) -> String {
    format!("/api/v1/services/{}", client::segment(name))
}

fn unhealthy(name: &str, why: &str) -> Failure {
    let next = format!("hobnob resolve {name}, to see what keeps each instance out");
    Failure::new(format!("nothing of service {name:?} is passing"), why, next).code(Code::Unhealthy)
}

const SERVICES: Shape = Shape {
    name: "name",
    columns: &[
        ("SERVICE", "name"),
        ("INSTANCES", "instances"),
        ("PASSING", "passing"),
        ("WARNING", "warning"),
        ("CRITICAL", "critical"),
        ("TAGS", "tags"),
    ],
};

const INSTANCES: Shape = Shape {
    name: "id",
    columns: &[
        ("ID", "id"),
        ("NODE", "node"),
        ("ADDRESS", "address"),
        ("PORT", "port"),
        ("HEALTH", "health"),
        ("MEMBER", "member"),
        ("TAGS", "tags"),
    ],
};
