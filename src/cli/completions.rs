//! `hobnob completions`: what a shell needs to complete our words.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, failure::Failure, output};

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// The shell
    shell: Shell,
}

pub(super) fn run(flags: &Flags) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(flags.shell, &mut Cli::command(), "hobnob", &mut script);
    output::print(String::from_utf8_lossy(&script).trim_end());
    Ok(ExitCode::SUCCESS)
}
