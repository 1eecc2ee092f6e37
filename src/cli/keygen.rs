//! `hobnob keygen`: a fresh secret, on stdout or in a file that nobody else can read.

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::PathBuf, process::ExitCode};

use clap::Args;

use super::{failure::Failure, output};
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
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    written.and_then(|mut file| writeln!(file, "{}", secret.as_str())).map_err(|error| {
        let next = format!("hobnob keygen --out {}.new", path.display());
        Failure::new(format!("cannot write a secret to {}", path.display()), error, next)
    })?;
    Ok(ExitCode::SUCCESS)
}
