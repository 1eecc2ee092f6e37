//! Logs: to stderr, filtered by `HOBNOB_LOG`.

use std::{
    env,
    io::{self, IsTerminal},
};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use super::failure::{Code, Failure};

/// What a log line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// For people
    #[default]
    Text,
    /// For machines: one JSON object a line
    Json,
}

/// Starts to log what `HOBNOB_LOG` lets through, or else `filter`.
pub(super) fn start(format: LogFormat, filter: &str) -> Result<(), Failure> {
    let given = env::var("HOBNOB_LOG").ok();
    let wrong = |error| {
        let next = format!("HOBNOB_LOG={DEFAULT}");
        Failure::new("HOBNOB_LOG is no log filter", error, next).code(Code::Usage)
    };
    let filter = EnvFilter::builder().parse(given.as_deref().unwrap_or(filter)).map_err(wrong)?;
    let colour = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colour);
    // A log that cannot be written, on a full disk say, is told nowhere: to stderr it would be a panic.
    let lines = lines.log_internal_errors(false);
    match format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
    Ok(())
}

/// What an agent logs unless told otherwise: the libraries tell of every connection at their usual level, and those of DNS
/// of every odd packet, with its bytes; the counters have these.
pub(super) const DEFAULT: &str =
    "info,hickory_proto=off,hickory_net=error,hickory_resolver=error,quinn=warn,quinn_proto=warn,rustls=warn";
