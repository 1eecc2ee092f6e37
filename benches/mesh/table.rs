//! The table that a bench prints, line by line: `[-- FILTER...] [--quick]`.

use std::{
    fmt,
    time::{Duration, Instant},
};

/// What stands above the lines.
const HEAD: &str = "| figure | target | measured | known peer |\n|---|---|---|---|";

/// How much to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// What a figure needs to be worth citing.
    Full,
    /// Enough to see that all of it still works.
    Quick,
}

impl Effort {
    /// The one or the other.
    pub(crate) fn pick<T>(self, full: T, quick: T) -> T {
        if self == Self::Full { full } else { quick }
    }
}

/// One measurement, which gives some lines of the table.
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) run: fn(Effort) -> Vec<Row>,
}

/// Prints the table of all figures that the program's arguments ask for.
pub(crate) fn print(machine: &str, figures: &[Figure]) {
    let (mut filters, mut effort) = (Vec::new(), Effort::Full);
    for word in std::env::args().skip(1).filter(|word| word != "--bench") {
        match word.as_str() {
            "--quick" => effort = Effort::Quick,
            _ => filters.push(word),
        }
    }
    println!("{machine}\n\n{HEAD}");
    let is_wanted = |figure: &&Figure| filters.is_empty() || filters.iter().any(|filter| figure.name.contains(filter));
    for figure in figures.iter().filter(is_wanted) {
        let began = Instant::now();
        eprintln!("{} ...", figure.name);
        (figure.run)(effort).iter().for_each(|row| println!("{row}"));
        eprintln!("{} took {:.0} s", figure.name, began.elapsed().as_secs_f64());
    }
}

/// One line of the table.
pub(crate) struct Row {
    figure: String,
    target: &'static str,
    measured: String,
    peer: String,
}

impl fmt::Display for Row {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { figure, target, measured, peer } = self;
        write!(out, "| {figure} | {target} | {measured} | {peer} |")
    }
}

/// A line of the table.
pub(crate) fn row(
    figure: impl Into<String>,
    target: &'static str,
    measured: impl Into<String>,
    peer: impl Into<String>,
) -> Row {
    Row { figure: figure.into(), target, measured: measured.into(), peer: peer.into() }
}

/// Moments of one kind, sorted: their median, or any other quantile.
pub(crate) struct Spans(Vec<Duration>);

impl Spans {
    /// Of these.
    pub(crate) fn of(spans: impl IntoIterator<Item = Duration>) -> Self {
        let mut spans: Vec<_> = spans.into_iter().collect();
        spans.sort_unstable();
        Self(spans)
    }

    /// The smallest that this part of all does not exceed, in milliseconds.
    pub(crate) fn millis(&self, part: f64) -> f64 {
        let rank = (self.0.len() as f64 * part).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1].as_secs_f64() * 1e3
    }
}
