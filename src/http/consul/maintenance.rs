//! `/v1/agent/maintenance` and `/v1/agent/service/maintenance/:id`: out of service on purpose. As with Consul, maintenance
//! is a check that is critical as long as it is there, so it travels, hides and survives a restart as checks do.

use std::{sync::Arc, time::Duration};

use axum::{extract::State, http::StatusCode};
use futures_util::future::try_join_all;

use super::{
    definition::{self, done},
    failure::{Answer, Failure},
    node::foreign,
    query::{Query, Tail},
    register,
    reports::{self, NODE_ROW},
};
use crate::{
    agent::View,
    http::{App, Shared},
    model::{CheckDraft, CheckName, EchoCheck, Health, InstanceId, Registration},
};

pub(super) async fn service(State(app): Shared, Tail(id): Tail, query: Query) -> Answer {
    let reason = reason(&query, "no reason was given for this service's maintenance")?;
    let own = InstanceId::try_from(&*id).ok().and_then(|id| app.agent.view().registration(&id));
    let own = own.ok_or_else(|| Failure::absent(format!("No service registered with ID {id:?}")))?;
    let mut row = Registration::clone(&own);
    set(&mut row, &format!("_service_maintenance:{id}"), "Service Maintenance Mode", reason.as_deref())?;
    register::put(&app, row).await
}

/// The node's own row says it, and each of its instances is hidden by a check of the same id.
pub(super) async fn node(State(app): Shared, query: Query) -> Answer {
    let reason = reason(&query, "no reason was given for this node's maintenance")?;
    let view = app.agent.view();
    let mut rows: Vec<_> = instances(view).map(|own| Registration::clone(&own)).collect();
    rows.push(reports::node_row(view)?);
    for row in &mut rows {
        set(row, NODE, "Node Maintenance Mode", reason.as_deref())?;
    }
    let (empty, rows): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|row| row.id.as_str() == NODE_ROW && row.checks.is_empty());
    for row in empty {
        register::remove(&app, &row.id).await?;
    }
    try_join_all(rows.into_iter().map(|row| register::put(&app, row))).await?;
    done()
}

/// What is registered while the node is in maintenance is so too.
pub(super) fn inherit(app: &Arc<App>, registration: &mut Registration) -> Result<(), Failure> {
    let row = InstanceId::try_from(NODE_ROW).ok().and_then(|id| app.agent.view().registration(&id));
    let said = row.and_then(|row| Some(row.echo.as_ref()?.checks.get(&CheckName::try_from(NODE).ok()?)?.notes.clone()));
    set(registration, NODE, "Node Maintenance Mode", said.as_deref())
}

/// Puts the check there, or takes it away.
fn set(row: &mut Registration, id: &str, name: &str, reason: Option<&str>) -> Result<(), Failure> {
    let check = CheckName::try_from(id)?;
    let Some(reason) = reason else {
        definition::take_check(row, &check);
        return Ok(());
    };
    let draft = CheckDraft {
        id: Some(id.into()),
        name: Some(name.into()),
        initial: Some(Health::Critical),
        ..CheckDraft::ttl(FOR_EVER)
    };
    let said = EchoCheck { notes: reason.into(), kind: "maintenance".into() };
    definition::put_check(row, draft.build(0, "check")?, said);
    Ok(())
}

/// Why, if it begins; `None` if it ends.
fn reason(query: &Query, default: &str) -> Result<Option<String>, Failure> {
    let Some(enable) = query.text("enable") else { return Err(Failure::bad("Missing value for enable")) };
    let reason = query.text("reason").unwrap_or(default);
    if reason.len() > MAX_REASON {
        return Err(Failure::new(StatusCode::BAD_REQUEST, "the reason is longer than 512 bytes"));
    }
    match &*enable.to_ascii_lowercase() {
        "true" | "1" | "t" => Ok(Some(reason.to_owned())),
        "false" | "0" | "f" => Ok(None),
        _ => Err(Failure::bad(format!("Invalid value for enable: {enable:?}"))),
    }
}

fn instances(view: &View) -> impl Iterator<Item = Arc<Registration>> {
    let own = view.registrations().into_iter();
    own.filter(|own| foreign(own).is_none() && own.echo.as_ref().is_none_or(|echo| echo.role.is_none()))
}

/// The id of the check that stands for a node's maintenance; on its instances it is not shown again.
pub(super) const NODE: &str = "_node_maintenance";
/// A hundred years: nobody reports it.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);
const MAX_REASON: usize = 512;
