//! `/v1/status/…`: who leads. Nobody does: each node answers for itself, and clients only ask whether somebody does.

use axum::extract::State;

use super::{failure::Answer, query::Query, read::plain};
use crate::{http::Shared, model::MemberState};

pub(super) async fn leader(State(app): Shared, query: Query) -> Answer {
    app.ready()?;
    let this = app.agent.view().this();
    let address = this.and_then(|this| this.address()).map_or_else(String::new, |address| address.to_string());
    Ok(plain(&query, &address))
}

pub(super) async fn peers(State(app): Shared, query: Query) -> Answer {
    app.ready()?;
    let alive = app.agent.view().nodes_where(|member| member.state == MemberState::Alive);
    let addresses: Vec<_> = alive.iter().filter_map(|member| member.address()).collect();
    Ok(plain(&query, &addresses))
}
