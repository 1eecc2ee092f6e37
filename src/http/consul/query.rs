//! What a request asks for in its target: Consul's parameters. Those that nobody knows are ignored, as Consul does.

use std::time::Duration;

use axum::{
    extract::{FromRequestParts, Path, Query as Pairs},
    http::{Uri, request::Parts},
};

use super::failure::Failure;
use crate::{
    http::App,
    model::{MemberState, parse_go_duration},
};

/// The parameters of a query.
#[derive(Debug)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
    /// The client has seen this number, and waits for a later one.
    pub(super) index: Option<u64>,
    /// How long it waits.
    pub(super) wait: Duration,
    /// The path and all that shapes the answer: what two queries with equal keys are told is the same.
    pub(super) key: String,
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        Self::parse(&parts.uri)
    }
}

impl Query {
    fn parse(uri: &Uri) -> Result<Self, Failure> {
        let pairs = Pairs::try_from_uri(uri).map_err(|why| Failure::bad(why.body_text()))?.0;
        let mut asked = Self { pairs, index: None, wait: DEFAULT_WAIT, key: key(uri) };
        if let Some(index) = asked.text("index") {
            let index = index.parse::<u64>().map_err(|_| Failure::bad("Invalid index"))?;
            // Who has seen nothing yet is told at once.
            asked.index = (index > 0).then_some(index);
        }
        if let Some(wait) = asked.text("wait") {
            // As Consul's, a wait that is less than none is the usual one.
            let wait = parse_go_duration(wait).map_err(|_| Failure::bad("Invalid wait time"))?;
            asked.wait = if wait.is_zero() { DEFAULT_WAIT } else { wait.min(MAX_WAIT) };
        }
        for other in ["stale", "cached"] {
            if asked.flag(other) && asked.flag("consistent") {
                let why = format!("Cannot specify ?{other} with ?consistent, conflicting semantics.");
                return Err(Failure::bad(why));
            }
        }
        Ok(asked)
    }

    /// The first value of a parameter; an empty one is none.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let (_, value) = self.pairs.iter().find(|(key, _)| key == name)?;
        Some(value.as_str()).filter(|text| !text.is_empty())
    }

    /// All values of a parameter that may be repeated.
    pub(super) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether a switch is on: `passing`, `passing=1`, `passing=true`.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.all(name).next().is_some_and(|value| !matches!(value, "0" | "f" | "F" | "false" | "FALSE" | "False"))
    }

    /// As [`Query::flag`], where Consul refuses what is neither yes nor no.
    pub(super) fn switch(&self, name: &str) -> Result<bool, Failure> {
        match self.all(name).next() {
            Some("" | "1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(_) => Err(Failure::bad(format!("Invalid value for ?{name}"))),
        }
    }

    /// The datacenter asked for: this node's own unless another one is named, which must be one of the mesh.
    pub(super) fn datacenter<'a>(&'a self, app: &'a App) -> Result<&'a str, Failure> {
        let own = &*app.agent.config().datacenter;
        let Some(asked) = self.text("dc").filter(|asked| !asked.eq_ignore_ascii_case(own)) else { return Ok(own) };
        let is_there = |member: &crate::mesh::Member| {
            member.state != MemberState::Left && member.node.datacenter.eq_ignore_ascii_case(asked)
        };
        if app.agent.view().nodes_where(is_there).is_empty() {
            return Err(Failure::no_path());
        }
        Ok(asked)
    }

    /// The pairs of meta data that a node must have; a key alone stands for it with an empty value.
    pub(super) fn node_meta(&self) -> Vec<(&str, &str)> {
        self.all("node-meta").map(|pair| pair.split_once(':').unwrap_or((pair, ""))).collect()
    }
}

/// The target without what only says how long to wait, or who asks: for one that says no such thing, as it was written.
fn key(uri: &Uri) -> String {
    let is_about_waiting = |pair: &&str| ["index=", "wait=", "token="].iter().any(|key| pair.starts_with(key));
    let mut key = uri.path().to_owned();
    let pairs = uri.query().into_iter().flat_map(|query| query.split('&')).filter(|pair| !is_about_waiting(pair));
    for (at, pair) in pairs.enumerate() {
        key.push(if at == 0 { '?' } else { '&' });
        key.push_str(pair);
    }
    key
}

/// What stands in a path behind its last fixed segment, percent-decoded: ids hold slashes, colons, anything.
#[derive(Debug)]
pub(super) struct Tail(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Tail {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(tail)| Self(tail)).map_err(|why| Failure::bad(why.body_text()))
    }
}

/// As Consul's.
const DEFAULT_WAIT: Duration = Duration::from_secs(5 * 60);
/// As Consul's: longer waits are cut to it.
const MAX_WAIT: Duration = Duration::from_secs(10 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<Query, Failure> {
        Query::parse(&format!("/v1/catalog/services?{query}").parse().unwrap())
    }

    #[test]
    fn what_only_says_how_to_wait_is_not_part_of_the_key() {
        let keys = ["passing&index=7&wait=5s", "passing", "index=9&passing"].map(|query| parse(query).unwrap().key);
        assert_eq!(keys, ["/v1/catalog/services?passing"; 3]);
        assert_eq!(parse("a=1&b&c=%20").unwrap().key, "/v1/catalog/services?a=1&b&c=%20");
        assert_ne!(parse("tag=a").unwrap().key, parse("tag=b").unwrap().key);
    }

    #[test]
    fn waits_are_bounded_and_mistakes_are_named() {
        let waits =
            ["", "wait=0s", "wait=-5s", "wait=1m30s", "wait=24h"].map(|query| parse(query).unwrap().wait.as_secs());
        assert_eq!(waits, [300, 300, 300, 90, 600]);
        let pairs = parse("node-meta=rack&node-meta=a:b:c").unwrap();
        assert_eq!(pairs.node_meta(), [("rack", ""), ("a", "b:c")]);
        assert_eq!(parse("index=0").unwrap().index, None);
        for (query, why) in [
            ("index=abc", "Invalid index"),
            ("index=-1", "Invalid index"),
            ("wait=xyz", "Invalid wait time"),
            ("wait=-", "Invalid wait time"),
            ("wait=1d", "Invalid wait time"),
            ("stale&consistent", "Cannot specify ?stale with ?consistent, conflicting semantics."),
            ("cached&consistent", "Cannot specify ?cached with ?consistent, conflicting semantics."),
        ] {
            assert_eq!(parse(query).unwrap_err(), Failure::bad(why), "{query}");
        }
    }

    #[test]
    fn a_switch_needs_no_value_and_may_repeat() {
        let asked = parse("passing&pretty=false&tag=a&tag=b%20c&unknown=1").unwrap();
        assert!(asked.flag("passing") && !asked.flag("pretty") && !asked.flag("stale"));
        assert_eq!(asked.all("tag").collect::<Vec<_>>(), ["a", "b c"]);
        assert_eq!(["passing", "pretty", "stale"].map(|name| asked.switch(name)), [Ok(true), Ok(false), Ok(false)]);
        let wrong = parse("passing=x").unwrap().switch("passing");
        assert_eq!(wrong, Err(Failure::bad("Invalid value for ?passing")));
    }
}
