//! `hobnob config`: what an agent would run with, without running it.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{
    agent,
    failure::Failure,
    output::{self, Format, Shape},
};
use crate::config::{self, Config};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Check everything an agent reads when it starts
    Check(Flags),
    /// Print the settings in effect as TOML, without secrets
    Show(Shown),
}

#[derive(Debug, Args)]
pub(super) struct Shown {
    #[command(flatten)]
    settings: agent::Settings,
    /// How to print them; a table is TOML
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, Args)]
pub(super) struct Flags {
    #[command(flatten)]
    settings: agent::Settings,
}

pub(super) fn run(command: &Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Check(flags) => {
            let config = match Config::check(&flags.settings.sources()) {
                Ok(config) => config,
                Err(mistakes) => {
                    // Data, for editors and pipelines to read; the failure that follows names the first alone.
                    let lines: Vec<_> = mistakes.all().iter().map(ToString::to_string).collect();
                    output::print(&lines.join("\n"));
                    return Err(mistakes.into());
                }
            };
            output::say(format_args!(
                "the settings of node {} are fine; it registers {}",
                config.agent.node,
                config.services.len()
            ));
        }
        Command::Show(Shown { settings, format: Format::Table }) => {
            output::print(config::show(&settings.sources())?.trim_end());
        }
        Command::Show(Shown { settings, format }) => {
            output::print(&SHAPE.render(&config::shown(&settings.sources())?, *format));
        }
    }
    Ok(ExitCode::SUCCESS)
}

const SHAPE: Shape = Shape { name: "node", columns: &[] };
