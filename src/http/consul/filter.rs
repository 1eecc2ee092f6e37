//! `filter=`: Consul's boolean expressions over the fields of what would be shown. [`super::expression`] reads them.

use regex::Regex;
use serde::Serialize;
use serde_json::Value;

use super::{
    expression,
    failure::Failure,
    fields::{Fields, Kind},
    query::Query,
};

/// A filter that makes sense for the fields it was read for.
#[derive(Clone, Debug)]
pub(super) struct Filter(Expr);

/// An expression.
#[derive(Clone, Debug)]
pub(super) enum Expr {
    All(Vec<Expr>),
    Any(Vec<Expr>),
    Not(Box<Expr>),
    Test(Vec<String>, Kind, Sense, Test),
}

/// Whether a test is to hold of a field, or not to hold. Where a field is that of each element of a list one element is
/// enough for either, so that `Checks.Status != "passing"` is no negation of `Checks.Status == "passing"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sense {
    Is,
    IsNot,
}

/// What is asked of a field.
#[derive(Clone, Debug)]
pub(super) enum Test {
    Is(String),
    Number(i64),
    Flag(bool),
    /// A list or a map has this element or key, a text has this part.
    Has(String),
    Empty,
    Matches(Regex),
}

impl Filter {
    /// The filter of a query, if it has one.
    pub(super) fn of(query: &Query, fields: Fields) -> Result<Option<Self>, Failure> {
        let Some(text) = query.text("filter") else { return Ok(None) };
        let expression = expression::parse(text, fields)
            .map_err(|wrong| Failure::bad(format!("Failed to create boolean expression evaluator: {wrong}")))?;
        Ok(Some(Self(expression)))
    }

    /// Whether what would be shown passes.
    pub(super) fn admits(&self, shown: &impl Serialize) -> bool {
        // What cannot be written is not shown either.
        serde_json::to_value(shown).is_ok_and(|value| holds(&self.0, &value))
    }
}

pub(super) fn holds(expression: &Expr, value: &Value) -> bool {
    match expression {
        Expr::All(parts) => parts.iter().all(|part| holds(part, value)),
        Expr::Any(parts) => parts.iter().any(|part| holds(part, value)),
        Expr::Not(part) => !holds(part, value),
        Expr::Test(path, kind, sense, test) => {
            passes(path, value, &|value| judge(*kind, test, value) == (*sense == Sense::Is))
        }
    }
}

/// Walks to the field. On the way through a list one element that passes is enough.
fn passes(path: &[String], value: &Value, judge: &impl Fn(&Value) -> bool) -> bool {
    match (path.split_first(), value) {
        (Some(_), Value::Array(elements)) => elements.iter().any(|element| passes(path, element, judge)),
        (Some((first, rest)), Value::Object(map)) => {
            map.get(first).map_or_else(|| judge(&Value::Null), |next| passes(rest, next, judge))
        }
        (Some(_), _) => judge(&Value::Null),
        (None, value) => judge(value),
    }
}

fn judge(kind: Kind, test: &Test, value: &Value) -> bool {
    match (test, value) {
        (Test::Empty, Value::Null) => true,
        (Test::Empty, Value::String(text)) => text.is_empty(),
        (Test::Empty, Value::Array(list)) => list.is_empty(),
        (Test::Empty, Value::Object(map)) => map.is_empty(),
        (Test::Is(wanted), Value::String(text)) => text == wanted,
        (Test::Number(wanted), Value::Number(number)) => number.as_i64() == Some(*wanted),
        (Test::Flag(wanted), Value::Bool(flag)) => flag == wanted,
        // What is left away is what it would be: no text, zero, off.
        (Test::Is(wanted), Value::Null) => kind == Kind::Text && wanted.is_empty(),
        (Test::Number(wanted), Value::Null) => *wanted == 0,
        (Test::Flag(wanted), Value::Null) => !wanted,
        (Test::Has(part), Value::String(text)) => text.contains(part.as_str()),
        (Test::Has(part), Value::Array(list)) => list.iter().any(|element| element == part.as_str()),
        (Test::Has(key), Value::Object(map)) => map.contains_key(key),
        (Test::Matches(pattern), Value::String(text)) => pattern.is_match(text),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::consul::fields::HEALTH;

    fn admits(text: &str) -> bool {
        let shown = serde_json::json!({
            "Node": {"Node": "n1", "Datacenter": "dc1", "Meta": {"rack": "r-7"}},
            "Service": {"ID": "web-1", "Service": "web", "Tags": ["v2", "blue"], "Meta": null, "Port": 8080,
                "Weights": {"Passing": 3, "Warning": 1}, "EnableTagOverride": false,
                "TaggedAddresses": {"lan": {"Address": "10.0.0.5", "Port": 8080}}},
            "Checks": [{"CheckID": "serfHealth", "Status": "passing"}, {"CheckID": "ttl", "Status": "critical"}],
        });
        Filter(expression::parse(text, HEALTH).unwrap()).admits(&shown)
    }

    #[test]
    fn every_operator_means_what_it_says() {
        for (text, expected) in [
            ("Service.Service == web", true),
            ("Service.Service != web", false),
            ("Service.Port == 8080", true),
            ("Service.Port != 8080", false),
            ("Service.EnableTagOverride == false", true),
            ("v2 in Service.Tags", true),
            ("\"v3\" not in Service.Tags", true),
            ("Service.Tags contains blue", true),
            ("Service.Tags not contains blue", false),
            ("rack in Node.Meta", true),
            ("Node.Meta.rack == `r-7`", true),
            ("Node.Meta[\"rack\"] == \"r-7\"", true),
            ("Node.Meta.row == x", false),
            ("Node.Meta.row != x", true),
            ("Node.Meta.row == ``", false),
            ("Node.Meta.row != ``", true),
            ("Node.Meta.row is empty", true),
            ("Service.Kind == ``", true),
            ("Service.Meta is empty", true),
            ("Service.Tags is not empty", true),
            ("Service.ID matches \"^web-[0-9]+$\"", true),
            ("Service.ID not matches `^db`", true),
            ("Service.ID contains eb-", true),
            ("Service.TaggedAddresses.lan.Port == 8080", true),
            ("Service.Kind is empty", true),
            ("Checks is not empty", true),
            ("Checks.Status == critical", true),
            ("Checks.Status == bogus", false),
            ("Checks.Status != passing", true),
            ("not Checks.Status == passing", false),
            ("Checks.Status not matches `^pass`", true),
            ("Checks.CheckID != bogus", true),
            ("serf not in Checks.CheckID", true),
            ("Checks.CheckID not contains e", true),
            ("Checks.Output is not empty", false),
            ("Service.TaggedAddresses[\"lan\"].Address == `10.0.0.5`", true),
            ("Service.Connect.Native == false and Service.Proxy.DestinationServiceName == ``", true),
        ] {
            assert_eq!(admits(text), expected, "{text}");
        }
    }

    #[test]
    fn and_binds_closer_than_or_and_not_closest() {
        for (text, expected) in [
            ("Node.Node == x and Service.Port == 1 or Service.Service == web", true),
            ("Node.Node == x and (Service.Port == 1 or Service.Service == web)", false),
            ("not Node.Node == x and Service.Service == web", true),
            ("not (Node.Node == n1 and Service.Service == web)", false),
            ("not not Node.Node == n1", true),
        ] {
            assert_eq!(admits(text), expected, "{text}");
        }
    }
}
