//! `near=`: the nearest first, by network coordinates (`_agent` is this node). Without a known distance all stays in order.

use std::time::Duration;

use super::query::Query;
use crate::{agent::View, http::App};

/// Sorts `rows` by the distance of the node that `node` names for each, if the query asks for it.
pub(super) fn sort<T>(app: &App, query: &Query, rows: &mut [T], node: impl Fn(&T) -> &str) {
    let Some(near) = query.text("near") else { return };
    let view = app.agent.view();
    let own = app.agent.config().node.as_str();
    let from = if near == "_agent" { own } else { near };
    rows.sort_by_cached_key(|row| distance(view, own, from, node(row)));
}

fn distance(view: &View, own: &str, from: &str, to: &str) -> Duration {
    let known = || {
        let (from, to) = (view.node(from)?, view.node(to)?);
        if from.node.name.as_str().eq_ignore_ascii_case(own) {
            // What was measured is better than what was estimated.
            return if from.id == to.id { Some(Duration::ZERO) } else { to.rtt };
        }
        from.rtt_to(&to)
    };
    known().unwrap_or(Duration::MAX)
}
