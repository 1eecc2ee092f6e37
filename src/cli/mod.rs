//! The command line: one file per noun. Data goes to stdout, talk to stderr, and a failure is three lines and a code.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a face stands outside the core's virtual time"
)]

mod agent;
mod asked;
mod ca;
mod checks;
mod client;
mod completions;
mod definitions;
mod demo;
mod distance;
mod doctor;
mod events;
mod executor;
mod explain;
mod failure;
mod force_leave;
mod heart;
mod hooks;
mod install;
mod join;
mod keygen;
mod leave;
mod ledger;
mod logs;
mod lookout;
mod maintenance;
mod man;
mod members;
mod node;
mod orphans;
mod output;
mod parent;
mod program;
mod register;
mod reload;
mod resolve;
mod run;
mod services;
mod settings;
mod simulate;
mod stake;
mod status;
mod stream;
mod tls;
mod token;
mod watch;

use std::{env, process::ExitCode};

use clap::{Parser, Subcommand};

use client::{Client, Target};
use failure::Failure;
use output::Reading;

/// Gossip-based service discovery and health mesh: no servers, no leader, no quorum.
#[derive(Debug, Parser)]
#[command(name = "hobnob", version, propagate_version = true, args_override_self = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node of the mesh
    Agent(agent::Flags),
    /// Run a whole mesh in this process, and watch a node die
    Demo(demo::Flags),
    /// Print a fresh secret for a mesh
    Keygen(keygen::Flags),
    /// Make a certification authority, and certificates for nodes
    #[command(subcommand)]
    Ca(ca::Command),
    /// Rights for programs and people over HTTP
    #[command(subcommand)]
    Token(token::Command),
    /// What this node says of itself
    Status(Reading),
    /// The nodes of the mesh
    Members(Reading),
    /// The services of the mesh
    Services(Reading),
    /// The instances of one service
    Service(services::Flags),
    /// The checks of all instances, the worst first
    Checks(checks::Flags),
    /// What is wrong with this node and its surroundings
    Doctor(Reading),
    /// Register an instance on this node
    Register(register::Flags),
    /// Withdraw an instance of this node
    Deregister(register::Which),
    /// Register an instance while a command lives
    Run(run::Flags),
    /// What this node's DNS answers, and why each instance is or is not in it
    Resolve(resolve::Flags),
    /// Look for the mesh through more addresses
    Join(join::Flags),
    /// What happened in the mesh, and why
    Events(events::Flags),
    /// Why a node or a service is shown or not, and on whose evidence
    Explain(explain::Flags),
    /// A line, or a run of a program, for each change of a service
    Watch(watch::Flags),
    /// Take an instance or this node out of service, or back into it
    #[command(subcommand)]
    Maintenance(maintenance::Maintenance),
    /// The round trip between nodes, as far as it is known
    Rtt(distance::Rtt),
    /// Knock at a node, and see how long its answer takes
    Ping(distance::Ping),
    /// Have this node read its files again
    Reload,
    /// Make this node say goodbye and stop
    Leave,
    /// Give up on a node that is down and will not come back
    ForceLeave(force_leave::Flags),
    /// Have the resolver of this host forward our names
    #[command(subcommand)]
    Dns(install::Command),
    /// Check or show the settings
    #[command(subcommand)]
    Config(settings::Command),
    /// Try settings out in virtual time: convergence, detection, bytes, false alarms
    Simulate(simulate::Flags),
    /// Print completions for a shell
    Completions(completions::Flags),
    /// Print the manual
    Man,
}

/// Runs the program: what `main` is.
#[must_use]
pub fn main() -> ExitCode {
    let words = || env::args_os().map(|word| word.to_string_lossy().into_owned());
    let parsed = Cli::try_parse().map_err(|error| Failure::from_clap(error, words()));
    let outcome = parsed.and_then(|cli| cli.command.run(&cli.target));
    outcome.unwrap_or_else(|failure| failure.report())
}

impl Command {
    fn run(self, target: &Target) -> Result<ExitCode, Failure> {
        match self {
            Self::Agent(flags) => return agent::run(&flags),
            Self::Demo(flags) => return demo::run(&flags),
            Self::Keygen(flags) => return keygen::run(&flags),
            Self::Dns(command) => return install::run(&command),
            Self::Ca(command @ (ca::Command::Init(_) | ca::Command::Issue(_))) => return ca::run(&command),
            Self::Config(command) => return settings::run(&command),
            Self::Simulate(flags) => return simulate::run(&flags),
            Self::Completions(flags) => return completions::run(&flags),
            Self::Man => return man::run(),
            _ => {}
        }
        let client = Client::new(target)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::new("cannot start", error, "ulimit -n"))?;
        runtime.block_on(self.ask(&client))
    }

    /// The commands that talk to a running agent.
    async fn ask(self, client: &Client) -> Result<ExitCode, Failure> {
        match self {
            Self::Ca(ca::Command::Revoke(flags)) => ca::revoke(client, flags).await,
            Self::Ca(ca::Command::SignAgain(flags)) => ca::sign_again(client, flags).await,
            Self::Token(command) => token::run(client, command).await,
            Self::Status(reading) => status::run(client, &reading).await,
            Self::Members(reading) => members::run(client, &reading).await,
            Self::Services(reading) => services::list(client, &reading).await,
            Self::Service(flags) => services::show(client, &flags).await,
            Self::Checks(flags) => checks::run(client, &flags).await,
            Self::Doctor(reading) => doctor::run(client, &reading).await,
            Self::Register(flags) => register::register(client, flags).await,
            Self::Deregister(which) => register::deregister(client, &which).await,
            Self::Run(flags) => run::run(client, flags).await,
            Self::Resolve(flags) => resolve::run(client, &flags).await,
            Self::Join(flags) => join::run(client, &flags).await,
            Self::Events(flags) => events::run(client, &flags).await,
            Self::Explain(flags) => explain::run(client, &flags).await,
            Self::Watch(flags) => watch::run(client, &flags).await,
            Self::Maintenance(command) => maintenance::run(client, &command).await,
            Self::Rtt(flags) => distance::rtt(client, &flags).await,
            Self::Ping(flags) => distance::ping(client, &flags).await,
            Self::Reload => reload::run(client).await,
            Self::Leave => leave::run(client).await,
            Self::ForceLeave(flags) => force_leave::run(client, &flags).await,
            Self::Agent(_)
            | Self::Demo(_)
            | Self::Keygen(_)
            | Self::Dns(_)
            | Self::Ca(_)
            | Self::Config(_)
            | Self::Simulate(_)
            | Self::Man
            | Self::Completions(_) => {
                unreachable!("Command::run has run it")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_makes_sense() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_surface_promises_is_taken() {
        for line in [
            "agent --config a.toml --config b.toml --data-dir d --node n --mesh m --listen [::]:0 --advertise 10.0.0.1:1 \
             --join a:1 --join b:1 --http 127.0.0.1:0 --dns 127.0.0.1:0 --datacenter d --zone z --secret-file s --dev \
             --ready-file r",
            "demo --nodes 5 --script f",
            "members --format jsonl --watch",
            "service web --require --format name",
            "register web --port 80 --id web-1 --address 10.0.0.1 --tag a --tag b --meta k=v --check ttl=30s,rise=2",
            "register --file web.toml",
            "run web --port 80 -- sleep 5",
            "resolve web --type srv",
            "--api unix:/run/hobnob.sock leave",
            "events --format jsonl --watch --after 1-2",
            "explain web",
            "force-leave c",
            "dns install --unbound --zone mesh.internal --zone consul --server 127.0.0.1:8600 --write a.conf",
            "dns install --coredns --write",
            "config show --config a.toml",
            "completions bash",
            "man",
            "doctor --format json --watch",
            "explain web --watch",
            "ping b --watch",
            "config show --format json",
            "checks web --format jsonl --watch",
            "simulate --nodes 50 --loss 0.05",
            "watch web --exec cat",
            "reload",
            "maintenance on web-1 --reason moving",
            "maintenance off",
            "rtt b --format json",
            "rtt a b",
            "ping b --count 5",
            "run web --port 80 --drain 5s --grace 10s --check ttl=30s -- sleep 5",
        ] {
            let words = std::iter::once("hobnob").chain(line.split_whitespace());
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
    }
}
