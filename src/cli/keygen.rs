//! `hobnob keygen`: a fresh secret, on stdout or in a file that nobody else can read.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use zeroize::Zeroizing;

use super::{ca::write_new, failure::Failure, output};
use crate::agent::Secret;

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// Write it to a new file that only its owner can read
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(flags: &Flags) -> Result<ExitCode, Failure> {
    let secret = Secret::random().reveal();
    let Some(path) = &flags.out else {
        output::print(&secret);
        return Ok(ExitCode::SUCCESS);
    };
    // A new file alone: a secret that is overwritten locks a whole mesh out.
    write_new(&[(path.clone(), Zeroizing::new(format!("{}\n", secret.as_str())))])?;
    Ok(ExitCode::SUCCESS)
}
