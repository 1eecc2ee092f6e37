//! Logs: to stderr, filtered by `HOBNOB_LOG`.

use std::{
    env,
    io::{self, IsTerminal},
};

use clap::ValueEnum;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
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

/// Starts to log what `HOBNOB_LOG` lets through, or else `filter`, until what it returns is dropped.
///
/// Nobody waits for who reads the log: an agent that did would be silent, and taken for dead, for as long as a terminal is
/// stopped or a pipe full. Lines that nobody takes in time are lost.
#[must_use = "the log ends with it"]
pub(super) fn start(format: LogFormat, filter: &str) -> Result<WorkerGuard, Failure> {
    let given = env::var("HOBNOB_LOG").ok();
    let wrong = |error| {
        let next = format!("HOBNOB_LOG={DEFAULT}");
        Failure::new("HOBNOB_LOG is no log filter", error, next).code(Code::Usage)
    };
    let filter = EnvFilter::builder().parse(given.as_deref().unwrap_or(filter)).map_err(wrong)?;
    let colour = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(WAITING_LINES).finish(io::stderr());
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(colour);
    // A log that cannot be written, on a full disk say, is told nowhere: to stderr it would be a panic.
    let lines = lines.log_internal_errors(false);
    match format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
    Ok(guard)
}

/// How many lines may wait to be written: a few megabytes.
const WAITING_LINES: usize = 16_384;

/// What an agent logs unless told otherwise: the libraries tell of every connection at their usual level, and those of DNS
/// of every odd packet, with its bytes; the counters have these.
pub(super) const DEFAULT: &str =
    "info,hickory_proto=off,hickory_net=error,hickory_resolver=error,quinn=warn,quinn_proto=error,rustls=warn";
