//! How a command fails: three lines (what failed, why we think so, what to type next) and an exit code.

use std::{fmt::Display, process::ExitCode};

use clap::{CommandFactory, error::ErrorKind};

use super::output;
use crate::config;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(super) struct Failure {
    code: Code,
    what: String,
    why: String,
    next: String,
    /// Whether it may pass by itself.
    transient: bool,
}

/// The exit codes; 0 is success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// Asked for help or the version: no failure at all.
    Help = 0,
    /// It failed while running.
    Runtime = 1,
    /// The command line or the settings are wrong.
    Usage = 2,
    /// Nothing healthy where something healthy was required.
    Unhealthy = 3,
    /// No agent answers.
    Unreachable = 4,
    /// The agent does not allow it.
    Forbidden = 5,
    /// `run` found the command and could not run it, as shells say it.
    NotExecutable = 126,
    /// `run` did not find the command, as shells say it.
    NotFound = 127,
}

impl Failure {
    /// A failure at run time.
    pub(super) fn new(what: impl Display, why: impl Display, next: impl Display) -> Self {
        let one_line = |text: &dyn Display| text.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        Self {
            code: Code::Runtime,
            what: one_line(&what),
            why: one_line(&why),
            next: one_line(&next),
            transient: false,
        }
    }

    /// The same with another code.
    pub(super) fn code(self, code: Code) -> Self {
        Self { code, ..self }
    }

    /// The same with something else to type next.
    pub(super) fn instead(self, next: String) -> Self {
        Self { next, ..self }
    }

    /// The same as one that may pass by itself: the agent is away, or not ready.
    pub(super) fn transient(self) -> Self {
        Self { transient: true, ..self }
    }

    /// What to type next.
    #[cfg(test)]
    pub(super) fn next(&self) -> &str {
        &self.next
    }

    /// Whether to try again makes sense.
    pub(super) const fn is_transient(&self) -> bool {
        self.transient
    }

    /// Whether nobody answered at all.
    pub(super) fn is_unreachable(&self) -> bool {
        self.code == Code::Unreachable
    }

    /// Whether the agent does not allow it.
    pub(super) fn is_forbidden(&self) -> bool {
        self.code == Code::Forbidden
    }

    /// Whether what was asked for makes no sense.
    pub(super) fn is_usage(&self) -> bool {
        self.code == Code::Usage
    }

    /// clap's word in our form.
    pub(super) fn from_clap(error: clap::Error, words: impl Iterator<Item = String>) -> Self {
        if !error.use_stderr() {
            output::print(error.render().to_string().trim_end());
            return Self::new("", "", "").code(Code::Help);
        }
        let text = error.render().to_string();
        // What to type next is said in our own place.
        let text = text.split("For more information").next().unwrap_or_default();
        let (head, usage) = text.split_once("Usage:").unwrap_or((text, ""));
        let usage = usage.lines().next().unwrap_or_default().trim();
        let (what, tip) = head.split_once("tip:").unwrap_or((head, ""));
        let what = match error.kind() {
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "no command was given",
            _ => what.trim().trim_start_matches("error:"),
        };
        let why = match (tip.trim(), usage) {
            ("", "") => "the command line does not take it".into(),
            ("", usage) => format!("the command is used like this: {usage}"),
            (tip, _) => tip.to_owned(),
        };
        Self::new(what, why, format!("{} --help", meant(words))).code(Code::Usage)
    }

    /// Tells the user, and gives the exit code.
    pub(super) fn report(&self) -> ExitCode {
        if self.code != Code::Help {
            output::say(format_args!("error: {}\n  why: {}\n next: {}", self.what, self.why, self.next));
        }
        ExitCode::from(self.code as u8)
    }

    /// What failed and why, for a log line.
    pub(super) fn sentence(&self) -> String {
        format!("{}: {}", self.what, self.why)
    }
}

/// The command that these words mean, as far as they mean one.
fn meant(words: impl Iterator<Item = String>) -> String {
    let mut command = super::Cli::command();
    let mut name = command.get_name().to_owned();
    for word in words.skip(1).take_while(|word| word != "--") {
        if let Some(below) = command.find_subcommand(&word) {
            name = format!("{name} {}", below.get_name());
            command = below.clone();
        }
    }
    name
}

impl From<config::Mistakes> for Failure {
    fn from(mistakes: config::Mistakes) -> Self {
        let (first, count) = (mistakes.first(), mistakes.all().len());
        let what = match count {
            1 => "the settings cannot be used".to_owned(),
            _ => format!("the settings cannot be used: {count} mistakes"),
        };
        let next = match count {
            1 if first.next == CHECK => with_files(CHECK, std::env::args()),
            1 => first.next.clone(),
            _ => format!("{}, which tells them all", with_files(CHECK, std::env::args())),
        };
        Self::new(what, first, next).code(Code::Usage)
    }
}

/// A command, of the same files as the one that was typed.
fn with_files(command: &str, typed: impl Iterator<Item = String>) -> String {
    let mut words = typed.take_while(|word| word != "--");
    let mut full = command.to_owned();
    while let Some(word) = words.next() {
        let file = if word == "--config" { words.next() } else { word.strip_prefix("--config=").map(Into::into) };
        file.iter().for_each(|file| full.extend([" --config ", file]));
    }
    full
}

/// Tells what is wrong with the settings.
const CHECK: &str = "hobnob config check";

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn a_wrong_flag_is_three_lines_too() {
        for (line, what, why, next) in [
            ("members --fromat json", "unexpected argument '--fromat' found", "--format", "hobnob members --help"),
            ("--api x ping b --count x", "'x'", "", "hobnob ping --help"),
            ("ca issue", "<NODE>", "hobnob ca issue", "hobnob ca issue --help"),
            ("nonsense", "'nonsense'", "", "hobnob --help"),
        ] {
            let words = || std::iter::once("hobnob").chain(line.split(' ')).map(String::from);
            let error = super::super::Cli::try_parse_from(words()).unwrap_err();
            let failure = Failure::from_clap(error, words());
            assert_eq!((failure.code, &*failure.next), (Code::Usage, next));
            assert!(failure.what.contains(what) && failure.why.contains(why), "{failure:?}");
        }
    }

    #[test]
    fn settings_are_checked_where_they_were_given() {
        let typed = "hobnob agent --config /a --dev --config=b -- --config c";
        assert_eq!(with_files(CHECK, typed.split(' ').map(Into::into)), "hobnob config check --config /a --config b");
    }

    #[test]
    fn each_part_is_one_line() {
        let failure = Failure::new("a\nb", "c\n  d", "e");
        assert_eq!((&*failure.what, &*failure.why), ("a b", "c d"));
    }
}
