//! The house rules that a compiler cannot see: floors, who may name which crate, sizes, names, module docs.
//! Each failure says where it is and what to do.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// One source file, by its path below `src`.
struct Source {
    path: String,
    lines: Vec<String>,
}

impl Source {
    /// The room it belongs to: the folder or the file right below `src`.
    fn room(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap_or_default()
    }

    /// Its lines of code with their numbers, up to the unit tests: comments and doc tests may name anybody.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let tests = self.lines.iter().position(|line| line.trim() == "#[cfg(test)]").unwrap_or(self.lines.len());
        let lines = self.lines[..tests].iter().enumerate().map(|(at, line)| (at + 1, line.as_str()));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    fn is_test(&self) -> bool {
        self.path.contains("tests/") || self.path.ends_with("tests.rs")
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("src can be read") {
            let path: PathBuf = entry.expect("src can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).expect("a source is text");
                let path = path.strip_prefix(&root).expect("it lies below src").display().to_string();
                found.push(Source { path, lines: text.lines().map(String::from).collect() });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Fails with all complaints at once.
fn demand(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// What each room may import from the others, by the floors of `lib.rs`.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("mesh", &["model"]),
    ("sim", &["model", "mesh"]),
    ("agent", &["model", "mesh"]),
    ("dns", &["model", "mesh", "agent"]),
    ("http", &["model", "mesh", "agent"]),
    ("config", &["model", "agent", "dns", "http"]),
    ("cli", &["model", "mesh", "agent", "dns", "http", "config", "sim"]),
    ("lib", &["model", "mesh", "agent", "dns", "http", "config", "sim", "cli"]),
    ("main", &[]),
];

#[test]
fn imports_go_down_only() {
    let mut complaints = Vec::new();
    for source in sources() {
        let room = source.room();
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == room) else {
            complaints.push(format!("src/{}:1: `{room}` is a new room: give it a floor in tests/tidy.rs", source.path));
            continue;
        };
        for (line, used) in imports(&source) {
            let known = MAY_IMPORT.iter().any(|(name, _)| *name == used);
            if known && used != room && !allowed.contains(&used.as_str()) {
                let advice = "move what it needs to a lower floor, or pass it in as data";
                complaints.push(format!("src/{}:{line}: `{room}` imports `{used}`: {advice}", source.path));
            }
        }
    }
    demand(&complaints);
}

/// The rooms that a file imports by `crate::room` or `use crate::{room, ...}`, each with its line.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut depth = 0;
    for (number, line) in source.code() {
        let mut rest = line;
        while depth == 0
            && let Some((_, after)) = rest.split_once("crate::")
        {
            match after.strip_prefix('{') {
                Some(list) => (depth, rest) = (1, list),
                None => {
                    found.push((number, word(after)));
                    rest = after;
                }
            }
        }
        if depth > 0 {
            depth = list(rest, depth, |name| found.push((number, name)));
        }
    }
    found
}

/// Walks through a part of `crate::{ ... }`, gives each name on its first level to `take`, and returns the depth reached.
fn list(text: &str, mut depth: usize, mut take: impl FnMut(String)) -> usize {
    let mut at_start = true;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return 0,
            '}' => depth -= 1,
            ',' => at_start = true,
            c if depth == 1 && at_start && c.is_alphanumeric() => {
                take(word(&text[at..]));
                at_start = false;
            }
            _ => {}
        }
    }
    depth
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Which crates only some files may name.
const CRATES: &[(&str, &[&str])] = &[
    ("tokio", &["agent/", "dns/", "http/", "cli/", "main.rs"]),
    ("tokio_util", &["agent/", "dns/", "http/", "cli/"]),
    ("quinn", &["agent/"]),
    ("quinn_proto", &["agent/"]),
    ("rustls", &["agent/", "http/tls", "cli/tls"]),
    ("tokio_rustls", &["http/", "cli/", "agent/"]),
    ("redb", &["agent/"]),
    ("foca", &["mesh/swim"]),
    ("rmp_serde", &["mesh/", "agent/"]),
    ("hickory_proto", &["dns/", "agent/checks/dns", "agent/checks/tests"]),
    ("hickory_resolver", &["dns/"]),
    ("hickory_server", &["dns/"]),
    ("libc", &["dns/datagrams.rs", "agent/file.rs"]),
    ("axum", &["http/"]),
    ("hyper", &["http/", "cli/", "agent/checks/"]),
    ("clap", &["cli/"]),
    ("toml", &["config/"]),
];

#[test]
fn each_library_has_its_room() {
    let mut complaints = Vec::new();
    for source in sources() {
        for (line, code) in source.code() {
            for (library, rooms) in CRATES {
                let allowed = rooms.iter().any(|room| source.path.starts_with(room));
                if !allowed && names_crate(code, library) {
                    let rooms = rooms.join(", ");
                    complaints.push(format!(
                        "src/{}:{line}: names `{library}`, which belongs to {rooms}: call that room instead",
                        source.path
                    ));
                }
            }
        }
    }
    demand(&complaints);
}

/// Whether a line says `library::` or imports the library, and not something that only ends like it.
fn names_crate(code: &str, library: &str) -> bool {
    code.match_indices(&format!("{library}::")).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

/// The longest file, with its unit tests: past that a concept is missing, and wants a name and a file of its own.
const MAX_FILE: usize = 500;
/// The longest function.
const MAX_FUNCTION: usize = 70;

#[test]
fn files_and_functions_fit_a_head() {
    let mut complaints = Vec::new();
    for source in sources() {
        let length = source.lines.len();
        if length > MAX_FILE {
            complaints
                .push(format!("src/{}:{MAX_FILE}: {length} lines: name the missing concept, move it", source.path));
        }
        for (start, length) in functions(&source.lines) {
            if length > MAX_FUNCTION {
                complaints.push(format!("src/{}:{start}: a function of {length} lines: name its steps", source.path));
            }
        }
    }
    demand(&complaints);
}

/// Every function's first line and length: from `fn` to where its braces close again.
fn functions(lines: &[String]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut open: Vec<(usize, usize)> = Vec::new();
    let (mut depth, mut pending) = (0_usize, None);
    for (at, line) in lines.iter().enumerate() {
        let code = bare(line);
        if code.split([' ', '(']).any(|word| word == "fn") && !code.trim_end().ends_with(';') {
            pending = pending.or(Some(at));
        }
        for c in code.chars() {
            match c {
                '{' => {
                    open.extend(pending.take().map(|start| (start, depth)));
                    depth += 1;
                }
                '}' => {
                    depth = depth.saturating_sub(1);
                    if let Some((start, _)) = open.pop_if(|(_, outside)| *outside == depth) {
                        found.push((start + 1, at - start + 1));
                    }
                }
                ';' if depth == open.last().map_or(0, |(_, outside)| outside + 1) => pending = None,
                _ => {}
            }
        }
    }
    found
}

/// A line without its comment and without what stands in quotes.
fn bare(line: &str) -> String {
    let mut code = String::new();
    let mut characters = line.chars().peekable();
    let mut quoted = false;
    while let Some(c) = characters.next() {
        match c {
            '\\' => drop(characters.next()),
            '\'' if !quoted && matches!(characters.peek(), Some('{' | '}' | '"')) => drop(characters.next()),
            '"' => quoted = !quoted,
            '/' if !quoted && characters.peek() == Some(&'/') => break,
            c if !quoted => code.push(c),
            _ => {}
        }
    }
    code
}

#[test]
fn a_name_says_what_it_is() {
    const BANNED: [&str; 5] = ["util", "helper", "common", "manager", "types"];
    let mut complaints = Vec::new();
    for source in sources() {
        for part in source.path.trim_end_matches(".rs").split('/') {
            if BANNED.iter().any(|banned| part == *banned || part == format!("{banned}s")) {
                complaints.push(format!("src/{}:1: `{part}` says nothing: call it what it is", source.path));
            }
        }
        for (line, code) in source.code() {
            let named = ["struct ", "enum ", "trait ", "mod "].iter().find_map(|kind| code.split_once(kind));
            let name = named.map(|(_, rest)| word(rest).to_lowercase()).unwrap_or_default();
            if BANNED.iter().any(|banned| name.ends_with(banned)) {
                complaints.push(format!("src/{}:{line}: `{name}` says nothing: call it what it is", source.path));
            }
        }
    }
    demand(&complaints);
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent = |source: &Source| !source.lines.first().is_some_and(|line| line.starts_with("//! "));
    let advice = "begin with `//! ` and what it is, then why";
    let sources = sources();
    let complaints = sources.iter().filter(|source| silent(source));
    demand(&complaints.map(|source| format!("src/{}:1: no module doc: {advice}", source.path)).collect::<Vec<_>>());
}

#[test]
fn nothing_is_left_for_later() {
    let mut complaints = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        for (line, code) in source.code() {
            if ["todo!(", "unimplemented!(", "dbg!("].iter().any(|left| code.contains(left)) {
                complaints.push(format!("src/{}:{line}: unfinished: finish it", source.path));
            }
        }
        for (at, line) in source.lines.iter().enumerate() {
            if line.contains(concat!("TO", "DO")) || line.contains(concat!("FIX", "ME")) {
                complaints.push(format!("src/{}:{}: a wish is no code: do it, or open an issue", source.path, at + 1));
            }
        }
    }
    demand(&complaints);
}

#[test]
fn nothing_dies_of_a_full_log() {
    let mut complaints = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        for (line, _) in source.code().filter(|(_, code)| code.contains("print!(") || code.contains("println!(")) {
            let advice = "it panics where it cannot write: call `cli::output::print` for data, `say` for talk";
            complaints.push(format!("src/{}:{line}: prints: {advice}", source.path));
        }
    }
    demand(&complaints);
}

#[test]
fn the_scan_sees_what_it_should() {
    let lines = |text: &str| text.lines().map(String::from).collect::<Vec<_>>();
    assert_eq!(
        functions(&lines("fn a() {\n  let b = '{';\n  \"}\"; // }\n}\nfn c();\nfn d(\n) {\n}")),
        [(1, 4), (6, 3)]
    );
    let source = Source {
        path: "dns/a.rs".into(),
        lines: lines(
            "use crate::{\n    agent::{Agent, View},\n    http,\n};\nlet a = crate::mesh::Mesh;\n// crate::sim",
        ),
    };
    let found: Vec<String> = imports(&source).into_iter().map(|(_, name)| name).collect();
    assert_eq!(found, ["agent", "http", "mesh"]);
    assert!(names_crate("use quinn::Endpoint;", "quinn") && !names_crate("my_quinn::x", "quinn"));
}
