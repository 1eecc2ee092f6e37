//! `hobnob checks`: every check of every instance, the worst first.

use std::{cmp::Reverse, process::ExitCode};

use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use super::{
    client::Client,
    failure::Failure,
    output::{self, Reading, Shape},
    services,
};

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// Of this service alone
    service: Option<String>,
    #[command(flatten)]
    reading: Reading,
}

pub(super) async fn run(client: &Client, flags: &Flags) -> Result<ExitCode, Failure> {
    let look = async || rows(client, flags.service.as_deref()).await.map(Value::Array);
    output::follow(&flags.reading, look, |rows| SHAPE.render(rows, flags.reading.format)).await?;
    Ok(ExitCode::SUCCESS)
}

async fn rows(client: &Client, service: Option<&str>) -> Result<Vec<Value>, Failure> {
    let names: Vec<String> = match service {
        Some(name) => vec![name.into()],
        None => {
            let all = client.get("/api/v1/services").await?;
            let names = all.as_array().into_iter().flatten().filter_map(|service| service["name"].as_str());
            names.map(String::from).collect()
        }
    };
    let instances = stream::iter(&names).map(async |name| client.get(&services::path(name)).await);
    let instances: Vec<Value> = instances.buffered(AT_ONCE).try_collect().await?;
    let mut rows: Vec<Value> = instances.iter().filter_map(Value::as_array).flatten().flat_map(of).collect();
    rows.sort_by_key(|row| Reverse(badness(&row["status"])));
    Ok(rows)
}

/// The checks of one instance.
fn of(instance: &Value) -> Vec<Value> {
    let checks = instance["checks"].as_array().into_iter().flatten();
    let row = |check: &Value| {
        json!({
            "node": instance["node"], "service": instance["name"], "instance": instance["id"], "check": check["name"],
            "status": check["status"], "since": check["since"], "output": check["output"],
        })
    };
    checks.map(row).collect()
}

fn badness(status: &Value) -> usize {
    ["passing", "warning", "critical"].iter().position(|known| status == known).unwrap_or_default()
}

const SHAPE: Shape = Shape {
    name: "check",
    columns: &[
        ("NODE", "node"),
        ("SERVICE", "service"),
        ("INSTANCE", "instance"),
        ("CHECK", "check"),
        ("STATUS", "status"),
        ("SINCE", "since"),
        ("OUTPUT", "output"),
    ],
};
/// How many services are asked for at a time.
const AT_ONCE: usize = 16;
