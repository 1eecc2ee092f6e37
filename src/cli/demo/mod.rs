//! `hobnob demo`: a mesh of real nodes in one process. A service is registered on one, resolved through another's DNS,
//! its node is killed, comes back, loses its power, and the times of all that are printed.
//!
//! The story is a script like any other; on a terminal the same words can be typed afterwards.

mod cable;
mod script;
mod stage;

use std::{
    fs,
    io::{self, IsTerminal},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;
use tokio::{runtime::Builder, task::block_in_place};

use super::{
    failure::{Code, Failure},
    logs::{self, LogFormat},
    output,
};
use script::Step;
use stage::Stage;

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// How many nodes, 1 to 100
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u8).range(1..=MAX_NODES))]
    nodes: u8,
    /// Play these steps instead, one a line; `help` among them lists what there is
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
}

pub(super) fn run(flags: &Flags) -> Result<ExitCode, Failure> {
    // The nodes' own words would drown the story's; HOBNOB_LOG brings them back.
    let _log = logs::start(LogFormat::Text, "error")?;
    let (name, text) = match &flags.script {
        Some(path) => (path.display().to_string(), read(path)?),
        // One node alone has no second one to ask.
        None if flags.nodes == 1 => {
            let told = STORY.lines().filter(|line| !line.ends_with("n2")).map(|line| format!("{line}\n"));
            ("the story".to_owned(), told.collect())
        }
        None => ("the story".to_owned(), STORY.to_owned()),
    };
    let steps = script::parse(&text).map_err(|(line, why)| {
        Failure::new(format!("{name}, line {line} is no step"), why, "hobnob demo --help").code(Code::Usage)
    })?;
    let runtime = Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new("cannot start", error, "ulimit -a"))?;
    runtime.block_on(play(flags, steps))
}

async fn play(flags: &Flags, steps: Vec<Step>) -> Result<ExitCode, Failure> {
    let mut stage = Stage::new(usize::from(flags.nodes)).await?;
    for step in steps {
        output::say(format_args!("> {step}"));
        if !stage.play(&step).await? {
            return Ok(ExitCode::SUCCESS);
        }
    }
    if flags.script.is_none() && io::stdin().is_terminal() && io::stdout().is_terminal() {
        converse(&mut stage).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Plays what is typed. A step that fails is told, and the next one may be typed.
async fn converse(stage: &mut Stage) -> Result<(), Failure> {
    output::print(script::HELP);
    let mut lines = io::stdin().lines();
    while let Some(line) = block_in_place(|| lines.next()) {
        let line = line.map_err(|error| Failure::new("cannot read what you type", error, "hobnob demo"))?;
        let played = match line.parse::<Step>() {
            Ok(step) => stage.play(&step).await,
            Err(_) if line.trim().is_empty() => continue,
            Err(why) => Err(Failure::new("that is no step", why, "help")),
        };
        match played {
            Ok(true) => {}
            Ok(false) => break,
            Err(failure) => drop(failure.report()),
        }
    }
    Ok(())
}

fn read(path: &std::path::Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| {
        Failure::new(format!("cannot read {}", path.display()), error, "hobnob demo --script FILE").code(Code::Usage)
    })
}

/// Each node takes some threads and sockets of this one process.
const MAX_NODES: i64 = 100;
/// What is played when no script is given. A mesh of one node plays what names no other.
const STORY: &str = "\
register web 8080 on n1
wait web seen
resolve web on n2
kill n1
wait web gone
resolve web on n2
restart n1
wait web seen
unplug n1
wait web gone
report
";
