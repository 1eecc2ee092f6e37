//! A file as a tree that knows where each part of it stands: TOML as it is, Consul's JSON in the same form.
//!
//! To find every mistake and not just the first, what serde or a limit of ours complains about is noted with its line and
//! struck out of the tree, and the rest is read again, until nothing is left to complain about.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Range,
};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use toml::{
    Spanned,
    de::{self, DeArray, DeTable, DeValue},
};

use super::Error;
use crate::model::{FieldError, RegistrationDraft, with_hint};

/// Part of a file that is still to be read.
#[derive(Debug)]
pub(super) struct Document<'t> {
    source: Source<'t>,
    root: Spanned<DeTable<'t>>,
    /// Where it stands in the file, as errors say it: `services[1].`.
    prefix: String,
    /// The paths of what was struck out.
    struck: Vec<String>,
}

/// What a file is called, and its text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'t> {
    pub(super) name: &'t str,
    pub(super) text: &'t str,
}

impl Source<'_> {
    /// A complaint about what begins at byte `at`.
    pub(super) fn blame(&self, at: usize, why: impl Into<String>) -> Error {
        let mut first = Line::FIRST;
        Error::new(self.place(at, &mut first), why)
    }

    /// The line of byte `at`, counted from the line that was found last: for many places in their order.
    pub(super) fn place(&self, at: usize, last: &mut Line) -> String {
        if at < last.at {
            *last = Line::FIRST;
        }
        let between = self.text.as_bytes().get(last.at..at).unwrap_or_default();
        *last = Line { at, number: last.number + between.iter().filter(|byte| **byte == b'\n').count() };
        format!("{}, line {}", self.name, last.number)
    }
}

/// A place in a text, and the number of its line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    at: usize,
    number: usize,
}

impl Line {
    pub(super) const FIRST: Self = Self { at: 0, number: 1 };
}

impl<'t> Document<'t> {
    /// A text in TOML; `None` when its grammar is broken, for half a tree would only be guessed at.
    pub(super) fn toml(source: Source<'t>, mistakes: &mut Vec<Error>) -> Option<Self> {
        let (root, broken) = DeTable::parse_recoverable(source.text);
        for error in &broken {
            let at = error.span().map_or(0, |span| span.start);
            let complaint = source.blame(at, error.message().replace('\n', " "));
            // One slip confuses a parser for the rest of the line.
            if mistakes.last().is_none_or(|last| last.place != complaint.place) {
                note(mistakes, complaint);
            }
        }
        broken.is_empty().then(|| Self::part(source, root, String::new()))
    }

    /// A tree that was made from a part of the file.
    pub(super) const fn part(source: Source<'t>, root: Spanned<DeTable<'t>>, prefix: String) -> Self {
        Self { source, root, prefix, struck: Vec::new() }
    }

    /// Takes a key out, to be read by itself.
    pub(super) fn take(&mut self, key: &str) -> Option<Spanned<DeValue<'t>>> {
        self.root.get_mut().remove(key)
    }

    /// Each key that is still there, and where it stands.
    pub(super) fn keys(&self) -> impl Iterator<Item = (&str, usize)> {
        self.root.get_ref().keys().map(|key| (key.get_ref().as_ref(), key.span().start))
    }

    /// Where each part of it that is still there stands, by its path: `tls.ca`, `hooks[1].command`.
    pub(super) fn places(&self) -> BTreeMap<String, String> {
        let mut found = Vec::new();
        paths(self.root.get_ref(), "", &mut found);
        found.sort_by_key(|(_, at)| *at);
        let mut line = Line::FIRST;
        found.into_iter().map(|(path, at)| (path, self.source.place(at, &mut line))).collect()
    }

    /// What the rest of it says. Every mistake is noted; `None` when there is nothing to go on with.
    pub(super) fn read<T: DeserializeOwned>(&mut self, mistakes: &mut Vec<Error>) -> Option<T> {
        loop {
            let error = match T::deserialize(de::Deserializer::from(self.root.clone())) {
                Ok(value) => return Some(value),
                Err(error) => error,
            };
            let span = error.span().unwrap_or_else(|| self.root.span());
            let (source, prefix) = (self.source, self.prefix.clone());
            let complain = |path: Option<&str>| {
                // An unknown key is named by the complaint.
                let path = path.filter(|_| !error.message().starts_with("unknown field")).unwrap_or_default();
                let place = format!("{prefix}{path}");
                let place = place.trim_end_matches('.');
                let colon = if place.is_empty() { "" } else { ": " };
                source.blame(span.start, format!("{place}{colon}{}", with_hint(error.message())))
            };
            self.strike(&span, complain, mistakes)?;
        }
    }

    /// Where a path such as `checks[0].http` leads.
    pub(super) fn start_of(&self, path: &str) -> usize {
        locate(self.root.get_ref(), path).unwrap_or_else(|| self.root.span()).start
    }

    /// The registration it asks for, if nothing is wrong with it.
    pub(super) fn registration(&mut self, mistakes: &mut Vec<Error>) -> Option<RegistrationDraft> {
        let before = mistakes.len();
        loop {
            let mut draft: RegistrationDraft = self.read(mistakes)?;
            // What else is wrong shows under any name, and with any port.
            if draft.name.is_empty() && mistakes.len() > before {
                draft.name = "nameless".into();
            }
            if self.struck.iter().any(|path| path == "port") {
                draft.port = Some(1);
            }
            let Err(FieldError { field, why }) = draft.clone().build() else {
                return (mistakes.len() == before).then_some(draft);
            };
            let place = locate(self.root.get_ref(), &field);
            let at = place.clone().unwrap_or_else(|| self.root.span());
            let complaint = self.source.blame(at.start, format!("{}{} {why}", self.prefix, self.original(&field)));
            match place {
                Some(span) => self.strike(&span, |_| complaint, mistakes)?,
                None if mistakes.len() == before => note(mistakes, complaint),
                None => return None,
            }
        }
    }

    /// Takes what stands exactly at `span` out of the tree and complains about it: unless a part of it was struck out
    /// before, for what follows from that is no second mistake.
    fn strike(
        &mut self,
        span: &Range<usize>,
        complain: impl FnOnce(Option<&str>) -> Error,
        mistakes: &mut Vec<Error>,
    ) -> Option<()> {
        let path = strike(self.root.get_mut(), span).map(|path| self.original(&path));
        let follows = |path: &String| self.struck.iter().any(|struck| lies_in(struck, path));
        if !path.as_ref().is_some_and(follows) {
            note(mistakes, complain(path.as_deref()));
        }
        self.struck.push(path?);
        Some(())
    }

    /// A path as it is in the file: what was struck out of a list before has moved the rest of the list up.
    fn original(&self, path: &str) -> String {
        let Some((list, rest)) = path.split_once('[') else { return path.to_owned() };
        let Some((now, rest)) = rest.split_once(']') else { return path.to_owned() };
        let struck =
            self.struck.iter().filter_map(|path| path.strip_prefix(list)?.strip_prefix('[')?.strip_suffix(']'));
        let mut gone: Vec<usize> = struck.filter_map(|at| at.parse().ok()).collect();
        gone.sort_unstable();
        let now = now.parse().unwrap_or(0);
        let then = gone.into_iter().fold(now, |at, gone| if gone <= at { at + 1 } else { at });
        format!("{list}[{then}]{rest}")
    }
}

fn note(mistakes: &mut Vec<Error>, complaint: Error) {
    if mistakes.len() < MAX_MISTAKES {
        mistakes.push(complaint);
    }
}

/// Whether `path` is `ancestor` or a part of it.
fn lies_in(path: &str, ancestor: &str) -> bool {
    path.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Takes what stands exactly at `span` out of a tree, and returns its path. A list of tables stands where its first one
/// does: the innermost is meant.
fn strike(table: &mut DeTable<'_>, span: &Range<usize>) -> Option<String> {
    let inner = table.iter_mut().find_map(|(key, value)| {
        let inner = strike_in(value.get_mut(), span)?;
        Some(format!("{}{inner}", key.get_ref()))
    });
    inner.or_else(|| {
        let is_it = |key: &Spanned<_>, value: &Spanned<_>| key.span() == *span || value.span() == *span;
        let key = table.iter().find(|(key, value)| is_it(key, value)).map(|(key, _)| key.get_ref().to_string())?;
        table.remove(key.as_str());
        Some(key)
    })
}

fn strike_in(value: &mut DeValue<'_>, span: &Range<usize>) -> Option<String> {
    match value {
        DeValue::Table(table) => strike(table, span).map(|path| format!(".{path}")),
        DeValue::Array(items) => {
            let inner = items.iter_mut().enumerate().find_map(|(at, item)| {
                let inner = strike_in(item.get_mut(), span)?;
                Some(format!("[{at}]{inner}"))
            });
            inner.or_else(|| {
                let at = items.iter().position(|item| item.span() == *span)?;
                *items = items.iter().filter(|item| item.span() != *span).cloned().collect();
                Some(format!("[{at}]"))
            })
        }
        _ => None,
    }
}

/// The paths of all parts of a tree, and where each begins.
fn paths(table: &DeTable<'_>, above: &str, found: &mut Vec<(String, usize)>) {
    for (key, value) in table {
        let path = format!("{above}{}", key.get_ref());
        match value.get_ref() {
            DeValue::Table(table) => paths(table, &format!("{path}."), found),
            DeValue::Array(items) => {
                for (n, item) in items.iter().enumerate() {
                    if let DeValue::Table(table) = item.get_ref() {
                        paths(table, &format!("{path}[{n}]."), found);
                        found.push((format!("{path}[{n}]"), item.span().start));
                    }
                }
            }
            _ => {}
        }
        found.push((path, key.span().start));
    }
}

/// Where a path such as `checks[0].http` or `meta.a.b` leads: as near to it as there is something.
fn locate(table: &DeTable<'_>, path: &str) -> Option<Range<usize>> {
    // A key may hold dots itself: the longest that fits is meant.
    let fits = |key: &str| lies_in(path, key);
    let (key, value) =
        table.iter().filter(|(key, _)| fits(key.get_ref())).max_by_key(|(key, _)| key.get_ref().len())?;
    Some(locate_in(value, &path[key.get_ref().len()..]))
}

fn locate_in(value: &Spanned<DeValue<'_>>, rest: &str) -> Range<usize> {
    let inner = match value.get_ref() {
        DeValue::Table(table) => rest.strip_prefix('.').and_then(|path| locate(table, path)),
        DeValue::Array(items) => rest.strip_prefix('[').and_then(|rest| {
            let (at, rest) = rest.split_once(']')?;
            Some(locate_in(items.get(at.parse::<usize>().ok()?)?, rest))
        }),
        _ => None,
    };
    inner.unwrap_or_else(|| value.span())
}

/// A JSON text in the form of a tree of TOML: `null` says nothing and is left away.
pub(super) fn json<'t>(source: Source<'t>) -> Result<Spanned<DeValue<'t>>, Error> {
    // A byte order mark is no part of the text (RFC 8259 section 8.1).
    let text = source.text.trim_start_matches('\u{feff}');
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| {
        let why = error.to_string();
        // The place is said in our own words.
        let why = why.split(" at line ").next().unwrap_or_default();
        Error::new(format!("{}, line {}", source.name, error.line().max(1)), why)
    })?;
    let nothing = || source.blame(0, "holds nothing");
    branch(source, raw, MAX_DEPTH)?.ok_or_else(nothing)
}

/// One value with all that is in it.
fn branch<'t>(source: Source<'t>, raw: &'t RawValue, depth: usize) -> Result<Option<Spanned<DeValue<'t>>>, Error> {
    let text = raw.get();
    let at = offset(source, raw);
    let depth = depth.checked_sub(1).ok_or_else(|| source.blame(at, "is nested too deeply"))?;
    let refused = |why: &dyn std::fmt::Display| source.blame(at, why.to_string());
    let value = match text.as_bytes().first() {
        Some(b'{') => {
            let Fields(fields) = serde_json::from_str(text).map_err(|error| refused(&error))?;
            let (mut table, mut keys) = (DeTable::new(), BTreeSet::new());
            for (key, value) in fields {
                if !keys.insert(key.clone()) {
                    // Its value stands nearest: what comes first would be lost without a word.
                    return Err(source.blame(offset(source, value), format!("`{key}` is said a second time")));
                }
                if let Some(value) = branch(source, value, depth)? {
                    table.insert(Spanned::new(value.span(), Cow::from(key)), value);
                }
            }
            DeValue::Table(table)
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|error| refused(&error))?;
            let items = items.into_iter().filter_map(|item| branch(source, item, depth).transpose());
            DeValue::Array(items.collect::<Result<DeArray<'_>, _>>()?)
        }
        Some(b'"') => DeValue::String(serde_json::from_str::<String>(text).map_err(|error| refused(&error))?.into()),
        Some(b't' | b'f') => DeValue::Boolean(text == "true"),
        Some(b'n') => return Ok(None),
        // A number of JSON is one of TOML.
        _ => DeValue::parse(text).map_err(|error| refused(&error.message()))?.into_inner(),
    };
    Ok(Some(Spanned::new(at..at + text.len(), value)))
}

/// Where a value begins: both are slices of one text.
fn offset(source: Source<'_>, raw: &RawValue) -> usize {
    raw.get().as_ptr().addr().saturating_sub(source.text.as_ptr().addr())
}

/// The fields of an object as they stand in it, with those that come twice.
struct Fields<'t>(Vec<(String, &'t RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        from.deserialize_map(InOrder)
    }
}

/// The most mistakes told of one file: beyond that it is a file of another kind.
const MAX_MISTAKES: usize = 100;
/// How deep JSON may be nested: three times what a definition needs.
const MAX_DEPTH: usize = 16;
