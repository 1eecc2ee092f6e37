//! `/v1/agent/maintenance` and `/v1/agent/service/maintenance/:id`: out of service on purpose.

use axum::extract::State;

use super::{
    definition::done,
    failure::{Answer, Failure},
    own,
    query::{Query, Tail},
};
use crate::http::{Shared, word::is_shown};

pub(super) async fn service(State(app): Shared, Tail(asked): Tail, query: Query) -> Answer {
    let reason = reason(&query, "no reason was given for this service's maintenance")?;
    let own = own::instance(app.agent.view(), &asked);
    let own = own.ok_or_else(|| Failure::absent(format!("No service registered with ID {asked:?}")))?;
    // What ends here comes back from here no more, whoever has the word.
    if reason.is_some() {
        is_shown(&app, &own.id)?;
    }
    app.agent.maintain(Some(&own.id), reason.as_deref()).await?;
    done()
}

pub(super) async fn node(State(app): Shared, query: Query) -> Answer {
    let reason = reason(&query, "no reason was given for this node's maintenance")?;
    app.agent.maintain(None, reason.as_deref()).await?;
    done()
}

/// Why, if it begins; `None` if it ends.
fn reason(query: &Query, default: &str) -> Result<Option<String>, Failure> {
    let Some(enable) = query.text("enable") else { return Err(Failure::bad("Missing value for enable")) };
    match &*enable.to_ascii_lowercase() {
        "true" | "1" | "t" => Ok(Some(query.text("reason").unwrap_or(default).to_owned())),
        "false" | "0" | "f" => Ok(None),
        _ => Err(Failure::bad(format!("Invalid value for enable: {enable:?}"))),
    }
}
