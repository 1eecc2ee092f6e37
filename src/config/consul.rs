//! Consul's service files in our words: `{"service": {...}}` and `{"services": [...]}`, keys in any case, with and without
//! underscores. A key that would change nothing is skipped; one whose meaning would be lost is a mistake.

use std::{borrow::Cow, collections::BTreeSet, time::Duration};

use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue},
};
use tracing::warn;

use super::{Error, document::Source};
use crate::model::{format_duration, parse_go_duration, with_hint};

type Value<'t> = Spanned<DeValue<'t>>;
type Key<'t> = Spanned<Cow<'t, str>>;

/// The services of a file, each with its path.
pub(super) fn services<'t>(source: Source<'t>, tree: Value<'t>) -> Result<Vec<(String, Value<'t>)>, Error> {
    let at = tree.span().start;
    let DeValue::Table(file) = tree.into_inner() else {
        return Err(source.blame(at, "is not {\"service\": {...}} or {\"services\": [...]}"));
    };
    let mut found = Vec::new();
    for (key, value) in file {
        match (&*folded(&key), value.get_ref()) {
            ("service", DeValue::Table(_)) => found.push(("service".to_owned(), value)),
            ("services", DeValue::Array(_)) => {
                let DeValue::Array(all) = value.into_inner() else { continue };
                found.extend(all.into_iter().enumerate().map(|(at, one)| (format!("services[{at}]"), one)));
            }
            ("check" | "checks", _) => {
                let why = "a check belongs to a service: move it into one, or give it an alias check there";
                return Err(source.blame(key.span().start, why));
            }
            _ => {
                let why = format!("`{}` is not a `service` or a list of `services`", key.get_ref());
                return Err(source.blame(key.span().start, why));
            }
        }
    }
    Ok(found)
}

/// One service in our words. What cannot be said in them is noted.
pub(super) fn service<'t>(source: Source<'t>, consul: Value<'t>, mistakes: &mut Vec<Error>) -> Option<Value<'t>> {
    let span = consul.span();
    let DeValue::Table(consul) = consul.into_inner() else {
        mistakes.push(source.blame(span.start, "a service is not an object"));
        return None;
    };
    said_twice(source, &consul, &[], mistakes);
    let (mut ours, mut words, mut checks) = (DeTable::new(), DeTable::new(), Vec::new());
    for (key, value) in consul {
        match &*folded(&key) {
            "check" => checks.push(value),
            "checks" => match value.into_inner() {
                DeValue::Array(all) => checks.extend(all),
                _ => mistakes.push(source.blame(key.span().start, "`checks` is not a list")),
            },
            "weights" => weights(source, value, &mut ours, mistakes),
            known if SERVICE_SKIPPED.contains(&known) || is_nothing(&value) => {}
            "taggedaddresses" => {
                drop(words.insert(renamed(&key, "tagged_addresses".into()), folded_within(source, value, mistakes)))
            }
            "enabletagoverride" => drop(words.insert(renamed(&key, "enable_tag_override".into()), value)),
            known if SERVICE_LOST.contains(&known) => {
                let why = format!("`{}` is not supported: it would be lost", key.get_ref());
                mistakes.push(source.blame(key.span().start, why));
            }
            known if SERVICE_WORDS.contains(&known) => drop(ours.insert(renamed(&key, known.into()), value)),
            _ => drop(ours.insert(key, value)),
        }
    }
    let several = checks.len() > 1;
    let (mut named, mut notes) = (DeArray::new(), DeTable::new());
    for (at, one) in checks.into_iter().enumerate() {
        let number = if several { format!(":{}", at + 1) } else { String::new() };
        let Some(mut check) = check(source, one, mistakes) else { continue };
        let id = name_check(&mut check, &ours, &number);
        if let Some(note) = check.get_mut().remove("notes") {
            notes.insert(Spanned::new(note.span(), id.into()), note);
        }
        named.push(Spanned::new(check.span(), DeValue::Table(check.into_inner())));
    }
    let nowhere = span.start..span.start;
    let new = |key: &'t str, value| (Spanned::new(nowhere.clone(), key.into()), Spanned::new(nowhere.clone(), value));
    words.extend([new("notes", DeValue::Table(notes))]);
    ours.extend([new("checks", DeValue::Array(named)), new("consul", DeValue::Table(words))]);
    Some(Spanned::new(span, DeValue::Table(ours)))
}

/// Gives a check the id and the name that Consul would where it brings none; returns its id.
fn name_check(check: &mut Spanned<DeTable<'_>>, service: &DeTable<'_>, number: &str) -> String {
    // Empty, so that nobody takes it for a place in the file.
    let span = check.span().start..check.span().start;
    let check = check.get_mut();
    let text = |table: &DeTable<'_>, key| table.get(key).and_then(|text| text.get_ref().as_str()).map(String::from);
    let name = text(service, "name").unwrap_or_default();
    let own = text(service, "id").unwrap_or_else(|| name.clone());
    for (key, text) in [("id", format!("service:{own}{number}")), ("name", format!("Service '{name}' check"))] {
        if !check.contains_key(key) {
            check.insert(
                Spanned::new(span.clone(), key.into()),
                Spanned::new(span.clone(), DeValue::String(text.into())),
            );
        }
    }
    text(check, "id").unwrap_or_default()
}

/// Tables by keys of the client's own, with keys of Consul's.
fn folded_within<'t>(source: Source<'t>, value: Value<'t>, mistakes: &mut Vec<Error>) -> Value<'t> {
    let span = value.span();
    let DeValue::Table(all) = value.into_inner() else { return Spanned::new(span, DeValue::Boolean(false)) };
    let each = all.into_iter().map(|(key, value)| (key, with_folded_keys(source, value, mistakes)));
    Spanned::new(span, DeValue::Table(each.collect()))
}

fn with_folded_keys<'t>(source: Source<'t>, value: Value<'t>, mistakes: &mut Vec<Error>) -> Value<'t> {
    let span = value.span();
    let folded = match value.into_inner() {
        DeValue::Table(table) => {
            said_twice(source, &table, &[], mistakes);
            DeValue::Table(table.into_iter().map(|(key, value)| (renamed(&key, folded(&key)), value)).collect())
        }
        other => other,
    };
    Spanned::new(span, folded)
}

/// `{"passing": 10, "warning": 1}`: the share of traffic in either state; 1 where it is not said.
fn weights<'t>(source: Source<'t>, value: Value<'t>, ours: &mut DeTable<'t>, mistakes: &mut Vec<Error>) {
    let span = value.span();
    let DeValue::Table(weights) = value.into_inner() else {
        mistakes.push(source.blame(span.start, "`weights` is not {\"passing\": 10, \"warning\": 1}"));
        return;
    };
    said_twice(source, &weights, &[], mistakes);
    if let Ok(one) = DeValue::parse("1") {
        ours.insert(Spanned::new(span.clone(), "warning_weight".into()), Spanned::new(span, one.into_inner()));
    }
    for (key, weight) in weights {
        match &*folded(&key) {
            "passing" => {
                if is_nought(&weight) {
                    mistakes.push(source.blame(weight.span().start, "weights: `passing` is not greater than 0"));
                }
                ours.insert(renamed(&key, "weight".into()), weight);
            }
            "warning" => {
                let name = renamed(&key, "warning_weight".into());
                ours.remove(&name);
                ours.insert(name, weight);
            }
            _ => {
                let why = format!("unknown field `{}`, expected `passing` or `warning`", key.get_ref());
                mistakes.push(source.blame(key.span().start, format!("weights: {}", with_hint(&why))));
            }
        }
    }
}

/// Notes what is said again in other letters or by another of Consul's words, and would take the place of the first.
fn said_twice(source: Source<'_>, table: &DeTable<'_>, words: &[(&str, &str)], mistakes: &mut Vec<Error>) {
    let mut all: Vec<_> = table.iter().collect();
    all.sort_by_key(|(key, _)| key.span().start);
    let (mut spelt, mut meant) = (BTreeSet::new(), BTreeSet::new());
    for (key, value) in all {
        let folded = folded(key);
        let word =
            words.iter().find(|(theirs, _)| *theirs == folded).map_or(folded.clone(), |(_, ours)| (*ours).into());
        // Consul's tools write out every word, and leave those empty that they do not mean.
        if !spelt.insert(folded) || !is_nothing(value) && !meant.insert(word) {
            mistakes.push(source.blame(key.span().start, format!("`{}` is said a second time", key.get_ref())));
        }
    }
}

/// Consul's words for a check in ours. What cannot be said in them is noted.
fn check<'t>(source: Source<'t>, consul: Value<'t>, mistakes: &mut Vec<Error>) -> Option<Spanned<DeTable<'t>>> {
    let span = consul.span();
    let DeValue::Table(consul) = consul.into_inner() else {
        mistakes.push(source.blame(span.start, "a check is not an object"));
        return None;
    };
    said_twice(source, &consul, &CHECK_WORDS, mistakes);
    let (mut ours, mut tls, mut follows, mut warning) = (DeTable::new(), None::<DeTable<'t>>, true, None);
    for (key, value) in consul {
        let folded = folded(&key);
        match &*folded {
            switch if SWITCHES.contains(&switch) => match (switch, value.get_ref()) {
                (_, DeValue::Boolean(false)) => {}
                ("disableredirects", DeValue::Boolean(true)) => follows = false,
                ("tlsskipverify", DeValue::Boolean(true)) => {
                    let verify = Spanned::new(value.span(), DeValue::Boolean(false));
                    tls.get_or_insert_default().insert(renamed(&key, "verify".into()), verify);
                }
                (_, DeValue::Boolean(true)) => drop(tls.get_or_insert_default()),
                _ => mistakes.push(source.blame(key.span().start, format!("`{}` is not true or false", key.get_ref()))),
            },
            known if CHECK_SKIPPED.contains(&known) || is_nothing(&value) => {}
            // What is run has an interval: by none it is a mistake.
            known if known != "interval" && DURATIONS.contains(&known) && is_no_time(&value) => {}
            known if CHECK_LOST.contains(&known) => {
                mistakes.push(source.blame(key.span().start, format!("`{}` is not supported", key.get_ref())));
            }
            "tlsservername" => drop(tls.get_or_insert_default().insert(renamed(&key, "server_name".into()), value)),
            "header" => drop(ours.insert(renamed(&key, "headers".into()), one_line_each(source, value, mistakes))),
            "successbeforepassing" | "failuresbeforecritical" => {
                let name = if folded.starts_with('s') { "rise" } else { "fall" };
                ours.insert(renamed(&key, name.into()), at_least_one(value));
            }
            "failuresbeforewarning" => warning = Some((key, value)),
            other => {
                let name = CHECK_WORDS.iter().find(|(theirs, _)| *theirs == other).map(|(_, ours)| *ours);
                let key = name.map_or_else(|| key.clone(), |name| renamed(&key, name.into()));
                let time = duration(&value).filter(|_| DURATIONS.contains(&other));
                ours.insert(key, time.map_or(value.clone(), |time| written(value.span(), time)));
            }
        }
    }
    // Of what is reported, or follows another, no interval says nothing.
    let waits = ["ttl", "alias", "node"].iter().any(|kind| ours.contains_key(*kind));
    if waits && ours.get("interval").is_some_and(is_no_time) {
        ours.remove("interval");
    }
    if let Some((key, warning)) = warning {
        judge_warning(source, &key, &warning, &ours, mistakes);
    }
    // A node alone is what the check stands for, not where to look for something else.
    if !ours.contains_key("alias")
        && let Some((key, node)) = ours.remove_entry("node")
    {
        ours.insert(renamed(&key, "alias".into()), node);
    }
    // Empty, so that nobody takes it for a place in the file, and not the one of what is named later.
    let within = span.start + 1..span.start + 1;
    let new = |key: &'t str, value| (Spanned::new(within.clone(), key.into()), Spanned::new(within.clone(), value));
    let http = ours.get("http").map(|url| url.get_ref().as_str().is_some_and(|url| url.starts_with("https:")));
    // As Consul does: TLS is for https alone, and up to ten redirects are followed.
    if let Some(tls) = tls.filter(|_| http != Some(false)) {
        ours.extend([new("tls", DeValue::Table(tls))]);
    }
    if let Some(ten) = DeValue::parse("10").ok().filter(|_| http.is_some() && follows) {
        ours.extend([new("redirects", ten.into_inner())]);
    }
    Some(Spanned::new(span, ours))
}

/// Failures that would be a warning before they are critical, which no check here has: a node whose files ask for it starts
/// all the same, and says so. Nothing is lost where nought says nothing, nor of what is reported or follows another, which
/// Consul believes at once. More of them than are critical is what Consul refuses too.
fn judge_warning(
    source: Source<'_>,
    key: &Key<'_>,
    warning: &Value<'_>,
    check: &DeTable<'_>,
    mistakes: &mut Vec<Error>,
) {
    let key = key.get_ref();
    let Some(count) = number(warning) else {
        mistakes.push(source.blame(warning.span().start, format!("`{key}` is not a whole number")));
        return;
    };
    let critical = check.get("fall").and_then(number).unwrap_or(0);
    let blame = |why| source.blame(warning.span().start, format!("`{key}` {why}"));
    if count > critical {
        mistakes.push(blame("above `failures_before_critical` makes no sense, and Consul refuses it"));
    } else if (1..critical).contains(&count) && !["ttl", "alias", "node"].iter().any(|kind| check.contains_key(*kind)) {
        let Error { place, why, .. } =
            blame("below `failures_before_critical` is ignored: no check warns of failures before it is critical");
        warn!(place, "{why}");
    }
}

/// A whole number as Consul's decoder takes it: in a text too, and with a fraction of nothing.
fn number(value: &Value<'_>) -> Option<i64> {
    match value.get_ref() {
        DeValue::Integer(number) => number.as_str().parse().ok(),
        DeValue::Float(number) => number.as_str().trim_end_matches('0').strip_suffix('.')?.parse().ok(),
        DeValue::String(text) if text.is_empty() => Some(0),
        DeValue::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// `{"Accept": ["a", "b"]}`: a header with several values is one line with commas (RFC 9110 section 5.3).
fn one_line_each<'t>(source: Source<'t>, headers: Value<'t>, mistakes: &mut Vec<Error>) -> Value<'t> {
    let span = headers.span();
    let DeValue::Table(headers) = headers.into_inner() else {
        mistakes.push(source.blame(span.start, "`header` is not {\"NAME\": [\"text\"]}"));
        return Spanned::new(span, DeValue::Table(DeTable::new()));
    };
    let each = headers.into_iter().map(|(key, value)| {
        let lines = match value.get_ref() {
            DeValue::Array(lines) => lines.iter().map(|line| line.get_ref().as_str()).collect::<Option<Vec<_>>>(),
            line => line.as_str().map(|line| vec![line]),
        };
        let line = lines.map(|lines| lines.join(", "));
        if line.is_none() {
            let why = format!("header `{}` is not a text or a list of texts", key.get_ref());
            mistakes.push(source.blame(value.span().start, why));
        }
        (key, Spanned::new(value.span(), DeValue::String(line.unwrap_or_default().into())))
    });
    Spanned::new(span, DeValue::Table(each.collect()))
}

/// Consul names the number of results that it takes, and means one by nought.
fn at_least_one(value: Value<'_>) -> Value<'_> {
    // A tree of TOML borrows its numbers from a text.
    match DeValue::parse("1") {
        Ok(one) if is_nought(&value) => Spanned::new(value.span(), one.into_inner()),
        _ => value,
    }
}

fn is_nought(value: &Value<'_>) -> bool {
    value.get_ref().as_integer().is_some_and(|number| number.as_str() == "0")
}

/// Consul's tools write what was not given as an empty text, list or object, or as 0 or false.
fn is_nothing(value: &Value<'_>) -> bool {
    match value.get_ref() {
        DeValue::String(text) => text.is_empty(),
        DeValue::Array(items) => items.is_empty(),
        DeValue::Table(table) => table.is_empty(),
        DeValue::Boolean(is) => !is,
        _ => false,
    }
}

/// What Go takes for a duration; what it does not is refused later, as it was written.
fn duration(value: &Value<'_>) -> Option<Duration> {
    parse_go_duration(value.get_ref().as_str()?).ok()
}

fn is_no_time(value: &Value<'_>) -> bool {
    duration(value) == Some(Duration::ZERO)
}

fn written<'t>(span: std::ops::Range<usize>, time: Duration) -> Value<'t> {
    Spanned::new(span, DeValue::String(format_duration(time).into()))
}

fn renamed<'t>(key: &Key<'t>, name: String) -> Key<'t> {
    Spanned::new(key.span(), name.into())
}

fn folded(key: &Key<'_>) -> String {
    key.get_ref().replace(['_', '-'], "").to_ascii_lowercase()
}

/// What makes no difference here: the mesh has no tokens in files, no areas of a WAN.
const SERVICE_SKIPPED: [&str; 2] = ["token", "locality"];
/// What somebody relies on who wrote it.
const SERVICE_LOST: [&str; 6] = ["connect", "proxy", "kind", "socketpath", "namespace", "partition"];
/// What is called the same here.
const SERVICE_WORDS: [&str; 7] = ["id", "name", "address", "port", "ports", "tags", "meta"];
/// What makes no difference to a check.
const CHECK_SKIPPED: [&str; 2] = ["outputmaxsize", "serviceid"];
/// What is on or off, and nothing else.
const SWITCHES: [&str; 4] = ["disableredirects", "tcpusetls", "grpcusetls", "tlsskipverify"];
/// What is a length of time. By none, and by less, nothing is said.
const DURATIONS: [&str; 4] = ["interval", "timeout", "ttl", "deregistercriticalserviceafter"];
/// What cannot be checked here.
const CHECK_LOST: [&str; 6] = ["shell", "dockercontainerid", "osservice", "h2ping", "h2pingusetls", "tlsserverca"];
/// Consul's words and ours.
const CHECK_WORDS: [(&str, &str); 19] = [
    ("id", "id"),
    ("checkid", "id"),
    ("name", "name"),
    ("notes", "notes"),
    ("interval", "interval"),
    ("timeout", "timeout"),
    ("http", "http"),
    ("method", "method"),
    ("body", "body"),
    ("tcp", "tcp"),
    ("udp", "udp"),
    ("grpc", "grpc"),
    ("ttl", "ttl"),
    ("args", "script"),
    ("scriptargs", "script"),
    ("aliasservice", "alias"),
    ("aliasnode", "node"),
    ("status", "initial"),
    ("deregistercriticalserviceafter", "deregister_after"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::services;

    /// What is wrong with a service of which this is said besides its name.
    fn wrong(said: &str) -> Vec<Error> {
        let text = format!("{{\"service\": {{\"name\": \"a\", {said}}}}}");
        let mut mistakes = Vec::new();
        let found = services::parse(Source { name: "a.json", text: &text }, &mut mistakes);
        assert!(found.len() == 1 || !mistakes.is_empty(), "{text}");
        mistakes
    }

    #[test]
    fn failures_that_would_only_warn_are_no_reason_not_to_start() {
        let found = |kind: &str, warning: &str| {
            let times = format!("\"failures_before_warning\": {warning}, \"failures_before_critical\": 3");
            wrong(&format!("\"check\": {{{kind}, {times}}}"))
        };
        let tcp = r#""tcp": "127.0.0.1:1", "interval": "10s""#;
        for (warning, why) in [("4", "above"), (r#""4""#, "above"), ("1.5", "number"), ("true", "number")] {
            let wrong = found(tcp, warning);
            assert!(wrong.len() == 1 && wrong[0].why.contains(why), "{warning}: {wrong:?}");
        }
        for kind in [tcp, r#""ttl": "10s""#, r#""alias_service": "b""#] {
            for warning in ["-1", "0", "1", "1.0", r#""2""#, r#""""#, "3"] {
                assert_eq!(found(kind, warning), [], "{kind} {warning}");
            }
        }
    }

    #[test]
    fn a_service_that_passes_has_a_share() {
        let found = |weights: &str| wrong(&format!("\"weights\": {weights}"));
        let wrong = found(r#"{"passing": 0, "warning": 2}"#);
        assert!(wrong.len() == 1 && wrong[0].why.contains("`passing` is not greater"), "{wrong:?}");
        for weights in [r#"{"passing": 1, "warning": 0}"#, r#"{"warning": 2}"#, "{}"] {
            assert_eq!(found(weights), [], "{weights}");
        }
    }

    #[test]
    fn durations_are_go_s() {
        let found = |check: &str| wrong(&format!("\"check\": {{{check}}}"));
        let tcp = |also: &str| format!("\"tcp\": \"127.0.0.1:1\", {also}");
        for also in [
            r#""interval": "+5s""#,
            r#""interval": "5s", "timeout": "0""#,
            r#""interval": "5s", "timeout": "-1s", "deregister_critical_service_after": "0s", "ttl": "0""#,
        ] {
            assert_eq!(found(&tcp(also)), [], "{also}");
        }
        for kind in [r#""ttl": "30s""#, r#""alias_service": "b""#, r#""alias_node": "n""#] {
            assert_eq!(found(&format!("{kind}, \"interval\": \"0s\"")), [], "{kind}");
        }
        for also in [r#""interval": "5""#, r#""interval": "soon""#, r#""interval": "0s""#] {
            assert_eq!(found(&tcp(also)).len(), 1, "{also}");
        }
    }
}
