//! `/v1/kv/…` as a store that is empty and stays so. Clients that look for their settings there wait for a change, as
//! they would with Consul; refused, some of them would ask again at once and for ever.

use axum::{body::Body, extract::State, http::StatusCode};

use super::{
    failure::{Answer, Failure},
    query::Query,
    read::{marked, settle},
};
use crate::{agent::Topic, http::Shared};

/// All keys: the way to read one is to name it.
pub(super) async fn root(state: Shared, query: Query) -> Answer {
    if !query.flag("recurse") && !query.flag("keys") {
        return Err(Failure::bad("Missing key name"));
    }
    read(state, query).await
}

pub(super) async fn read(State(app): Shared, query: Query) -> Answer {
    app.ready()?;
    let mark = settle(&app, &query, &Topic::Nothing).await;
    let mut response = marked(Body::empty(), mark);
    *response.status_mut() = StatusCode::NOT_FOUND;
    response.headers_mut().remove(axum::http::header::CONTENT_TYPE);
    Ok(response)
}
