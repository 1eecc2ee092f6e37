//! `hobnob man`: the manual, all commands in one page, for `man -l` or a folder of the system.

use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::{Cli, failure::Failure, output};

pub(super) fn run() -> Result<ExitCode, Failure> {
    let failed = |error| Failure::new("cannot write the manual", error, "hobnob --help");
    let mut program = Cli::command();
    program.build();
    let mut page = Vec::new();
    Man::new(program.clone()).render(&mut page).map_err(failed)?;
    for command in program.get_subcommands_mut() {
        section(command, &mut page).map_err(failed)?;
    }
    output::print(String::from_utf8_lossy(&page).trim_end());
    Ok(ExitCode::SUCCESS)
}

/// What one command does and takes.
fn section(command: &mut Command, page: &mut Vec<u8>) -> std::io::Result<()> {
    let title = command.get_bin_name().unwrap_or(command.get_name()).to_uppercase();
    page.extend(format!(".SH \"{title}\"\n").bytes());
    let man = Man::new(command.clone());
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    command.get_subcommands_mut().try_for_each(|below| section(below, page))
}
