//! What fuzzers call of the room of Consul's words.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::{
    definition,
    document::Document,
    expression::{self, MAX_LENGTH},
    fields::{self, Fields},
    filter,
};
use crate::model::{CheckKind, Registration};

/// Reads a text as a filter over each kind of rows. What is wrong is said with its place; what is read gives an answer for
/// any row, and its negation the other one.
///
/// # Panics
/// When it does not.
pub fn filter(bytes: &[u8]) {
    static SHOWN: LazyLock<[Value; 3]> = LazyLock::new(|| {
        let node = json!({"Node": "n1", "Datacenter": "dc1", "Meta": {"rack": "7"}, "Address": "10.0.0.1"});
        let service = json!({"ID": "web-1", "Service": "web", "Tags": ["v2"], "Meta": null, "Port": 8080,
            "Weights": {"Passing": 3}, "EnableTagOverride": false, "TaggedAddresses": {"lan": {"Port": 1}}});
        let checks = json!([{"CheckID": "a", "Status": "passing"}, {"CheckID": "b", "Status": "critical"}]);
        [json!({"Node": node, "Service": service, "Checks": checks}), service, node]
    });
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for fields in [fields::NODE, fields::CHECK, fields::SERVICE, fields::INSTANCE, fields::HEALTH] {
        let Some(expression) = read(text, fields) else { continue };
        let negation = read(&format!("not ({text})"), fields);
        for shown in &*SHOWN {
            let admits = filter::holds(&expression, shown);
            assert!(negation.as_ref().is_none_or(|not| filter::holds(not, shown) != admits), "{text:?}: {shown}");
        }
    }
}

fn read(text: &str, fields: Fields) -> Option<filter::Expr> {
    match expression::parse(text, fields) {
        Ok(expression) => Some(expression),
        Err(wrong) => {
            let said = wrong.to_string();
            let (place, why) = said.split_once("): ").expect("a place, and what is wrong");
            let offset: usize = place.rsplit('(').next().and_then(|at| at.parse().ok()).expect("a number");
            assert!(!why.is_empty() && (offset <= text.len() || text.len() > MAX_LENGTH), "{said:?} in {text:?}");
            None
        }
    }
}

/// See [`crate::http::fuzz::body`].
pub(in crate::http) fn body(bytes: &[u8]) {
    let Ok(document) = Document::parse(bytes) else { return };
    if let Ok(registration) = definition::service(&document) {
        holds(&registration);
    }
    if let Ok((check, _)) = definition::check(&document, "service:web", "a check") {
        assert!(!matches!(check.kind, CheckKind::Script(_)), "nobody runs a program over HTTP: {check:?}");
    }
}

/// What every face of HTTP promises of what it registers.
pub(in crate::http) fn holds(registration: &Registration) {
    assert!(registration.validate().is_ok(), "{registration:?} was accepted");
    assert!(registration.local_only_check().is_none(), "nobody runs a program over HTTP: {registration:?}");
}
