//! What reading commands print: tables for people, JSON for programs, names for shells.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use clap::{Args, ValueEnum};
use comfy_table::{Table, presets};
use serde_json::Value;

use super::{
    client::Client,
    failure::{Code, Failure},
};

/// The flags of every reading command.
#[derive(Clone, Debug, Args)]
pub(super) struct Reading {
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    pub(super) format: Format,
    /// Print it again whenever it changes
    #[arg(long)]
    pub(super) watch: bool,
}

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Columns for people
    #[default]
    Table,
    /// One JSON text, as the API gives it
    Json,
    /// One JSON text a line
    Jsonl,
    /// Names alone, one a line
    Name,
}

/// How an answer of the API becomes a table.
pub(super) struct Shape {
    /// The field that names an item.
    pub(super) name: &'static str,
    /// A title for each column, and the field to show in it.
    pub(super) columns: &'static [(&'static str, &'static str)],
}

/// Reads `path` and prints it; again on each change with `--watch`. Returns what was printed last.
pub(super) async fn read(client: &Client, reading: &Reading, path: &str, shape: &Shape) -> Result<Value, Failure> {
    follow(reading, async || client.get(path).await, |answer| shape.render(answer, reading.format)).await
}

/// Looks and prints what is seen; again on each change with `--watch`. Returns what was printed last.
pub(super) async fn follow(
    reading: &Reading,
    mut look: impl AsyncFnMut() -> Result<Value, Failure>,
    show: impl Fn(&Value) -> String,
) -> Result<Value, Failure> {
    let mut last = None;
    loop {
        let seen = look().await?;
        // How long ago something was changes always, and is no news.
        let news = essence(&seen);
        if last.as_ref() != Some(&news) {
            print(&show(&seen));
        }
        if !reading.watch {
            return Ok(seen);
        }
        last = Some(news);
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// A value without what moves while nothing happens.
fn essence(value: &Value) -> Value {
    match value {
        Value::Array(all) => all.iter().map(essence).collect(),
        Value::Object(all) => {
            let moving = |key: &str| key.ends_with("_ms_ago") || ["heard", "answered", "vouched"].contains(&key);
            let lasting = all.iter().filter(|(key, _)| !moving(key));
            Value::Object(lasting.map(|(key, value)| (key.clone(), essence(value))).collect())
        }
        one => one.clone(),
    }
}

impl Shape {
    /// `answer` as text, without the final line feed.
    pub(super) fn render(&self, answer: &Value, format: Format) -> String {
        let items: &[Value] = match answer {
            Value::Array(items) => items,
            one => std::slice::from_ref(one),
        };
        match format {
            Format::Table => self.table(items),
            Format::Json => format!("{answer:#}"),
            Format::Jsonl => lines(items.iter().map(Value::to_string)),
            Format::Name => lines(items.iter().map(|item| cell(&item[self.name]))),
        }
    }

    fn table(&self, items: &[Value]) -> String {
        let mut table = table(self.columns.iter().map(|(title, _)| *title));
        for item in items {
            // A JSON pointer, so that a column may show a field of a field.
            let field = |field: &str| item.pointer(&format!("/{field}")).map(cell).unwrap_or_default();
            table.add_row(self.columns.iter().map(|(_, name)| field(name)));
        }
        table.trim_fmt()
    }
}

/// An empty table: with lines on a terminal, plain in a pipe. Nothing is cut in either.
pub(super) fn table<'a>(titles: impl IntoIterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table.load_style(if io::stdout().is_terminal() { presets::UTF8_HORIZONTAL_ONLY } else { presets::NOTHING });
    table.set_header(titles.into_iter().collect::<Vec<_>>());
    table
}

/// A value as people read it: text without quotes, lists with commas, nothing for null.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
        Value::Array(all) => all.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Object(all) => {
            all.iter().map(|(key, value)| format!("{key}={}", cell(value))).collect::<Vec<_>>().join(",")
        }
        Value::Number(number) if number.is_f64() => format!("{:.2}", number.as_f64().unwrap_or_default()),
        other => other.to_string(),
    }
}

fn lines(all: impl Iterator<Item = String>) -> String {
    all.collect::<Vec<_>>().join("\n")
}

/// Writes a block of data to stdout; nothing at all if it is empty. Ends the program where that cannot be done: in peace
/// when nobody reads on, as a failure when data is lost.
pub(super) fn print(text: &str) {
    if text.is_empty() {
        return;
    }
    let mut out = io::stdout().lock();
    let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush()) else { return };
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    let failure = Failure::new("cannot write all of the output", error, "free space, then the same again");
    let _ = failure.report();
    std::process::exit(Code::Runtime as i32);
}

/// Talks to the user on stderr. That nobody listens, or a log is full, keeps no command from what it does: `eprintln!`
/// would panic there.
pub(super) fn say(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// How often `--watch` looks: what people notice.
const WATCH_EVERY: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SHAPE: Shape =
        Shape { name: "name", columns: &[("NAME", "name"), ("TAGS", "tags"), ("ALIVE", "members/alive")] };

    #[test]
    fn an_answer_takes_four_forms() {
        let answer = json!([{"name": "web", "tags": ["a", "b"], "members": {"alive": 3}}, {"name": "a-longer-name"}]);
        let table = SHAPE.render(&answer, Format::Table);
        let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words, [vec!["NAME", "TAGS", "ALIVE"], vec!["web", "a,b", "3"], vec!["a-longer-name"]]);
        assert_eq!(SHAPE.render(&answer, Format::Name), "web\na-longer-name");
        assert_eq!(SHAPE.render(&answer, Format::Jsonl).lines().count(), 2);
        assert_eq!(serde_json::from_str::<Value>(&SHAPE.render(&answer, Format::Json)).unwrap(), answer);
        assert_eq!(SHAPE.render(&json!([]), Format::Jsonl), "");
    }

    #[test]
    fn that_time_goes_by_is_no_news() {
        let seen = |ago: u64, state: &str| json!([{"state": state, "heard": ago, "seen_by": [{"heard_ms_ago": ago}]}]);
        assert_eq!(essence(&seen(1, "alive")), essence(&seen(2, "alive")));
        assert_ne!(essence(&seen(1, "alive")), essence(&seen(1, "down")));
    }

    #[test]
    fn another_node_s_text_cannot_move_the_cursor() {
        assert_eq!(cell(&json!("a\u{1b}[2Jb\nc")), "a [2Jb c");
    }
}
