//! What the fuzzer and the test over its corpus call: files and requests that somebody wrote, or mangled.

use super::{
    document::Source,
    layer, secrets,
    services::{self, Wanted},
    settings,
};
use crate::model::RegistrationDraft;

/// Reads a text as everything a file of ours may be: settings, service files of both forms, secrets. What is accepted
/// must be buildable, and what is refused must say where and why.
///
/// # Panics
/// When it does not.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut mistakes = Vec::new();
    let layer::Layer { table, services: wanted, .. } = layer::parse(Source { name: "a.toml", text }, &mut mistakes);
    assert!(settings(table).is_ok(), "a layer that was checked is settings");
    buildable(wanted);
    buildable(services::parse(Source { name: "a.json", text }, &mut mistakes));
    for mistake in mistakes {
        assert!(!mistake.why.is_empty() && mistake.place.starts_with("a."), "{mistake:?}");
    }
    drop(secrets::parse("a", text));
    if let Some((name, value)) = text.split_once('=') {
        drop(layer::variable(&format!("HOBNOB_{name}"), value));
    }
}

/// Reads a registration as the HTTP API takes it. One that is built is written and read again as the same.
///
/// # Panics
/// When it is not.
pub fn registration(bytes: &[u8]) {
    let Ok(draft) = serde_json::from_slice::<RegistrationDraft>(bytes) else { return };
    let written = serde_json::to_vec(&draft).expect("a draft can be written");
    let again: RegistrationDraft = serde_json::from_slice(&written).expect("what was written can be read");
    let (one, other) = (draft.build(), again.build());
    assert!(one == other, "S13: {one:?} was read again as {other:?}");
    if let Ok(registration) = one {
        let published = registration.published();
        assert!(published.validate().is_ok() && published.checks.is_empty(), "{published:?}");
    }
}

fn buildable(all: Vec<Wanted>) {
    for wanted in all {
        let built = wanted.draft.build();
        assert!(built.is_ok(), "{built:?} was accepted");
    }
}
