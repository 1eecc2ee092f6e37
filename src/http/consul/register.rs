//! `/v1/agent/service/register` and `deregister`: this node's own instances.

use std::{collections::BTreeSet, sync::Arc};

use axum::extract::State;

use super::{
    definition::{self, done},
    document::Document,
    failure::{Answer, Failure},
    own,
    query::{Query, Tail},
    reports,
};
use crate::{
    agent::Refused,
    http::{App, Shared},
    mesh::Rejected,
    model::{InstanceId, Registration},
};

/// Checks that were there before and are not named again stay, unless `replace-existing-checks` says otherwise.
pub(super) async fn register(State(app): Shared, query: Query, body: Document) -> Answer {
    let mut registration = definition::service(&body)?;
    if own::is_reserved(app.agent.view(), &registration.id) {
        let why = format!("Invalid service definition: the id {:?} is kept for rows of our own", registration.id);
        return Err(Failure::bad(why));
    }
    let before = app.agent.view().registration(&registration.id);
    if before.is_none() && !registration.name.is_label() {
        let why = "DNS asks for it by escapes if at all: 63 letters, digits, hyphens and underscores at most need none";
        tracing::warn!(event = "service_name", service = %registration.name, why);
    }
    if let Some(before) = before.filter(|_| !query.flag("replace-existing-checks")) {
        keep_checks(&mut registration, &before);
    }
    put(&app, registration).await
}

/// Gives a registration the checks of the one before it that it does not name.
pub(super) fn keep_checks(registration: &mut Registration, before: &Registration) {
    for check in &before.checks {
        let said = before.echo.as_ref().and_then(|echo| echo.checks.get(&check.id));
        if let Some(said) = said.filter(|_| registration.checks.iter().all(|new| new.id != check.id)) {
            definition::put_check(registration, check.clone(), said.clone());
        }
    }
}

/// Stores and publishes, unless a check asks for what HTTP may not ask for.
pub(super) async fn put(app: &Arc<App>, registration: Registration) -> Answer {
    if let Some(check) = registration.local_only_check() {
        let why =
            format!("Invalid check: {} runs programs or uses keys, which only a local file may ask for", check.id);
        return Err(Failure::new(axum::http::StatusCode::FORBIDDEN, why));
    }
    let before = app.agent.view().registration(&registration.id);
    let words = |own: &Registration| own.echo.as_ref().map(|echo| echo.checks.keys().cloned().collect::<BTreeSet<_>>());
    let known = before.and_then(|before| words(&before)).unwrap_or_default();
    let (owner, named) = (registration.id.clone(), words(&registration).unwrap_or_default());
    app.agent.put(registration).await?;
    for id in named.difference(&known) {
        reports::take_over(app, &owner, id).await?;
    }
    done()
}

/// What is not there is deregistered already.
pub(super) async fn deregister(State(app): Shared, Tail(id): Tail) -> Answer {
    match own::instance(app.agent.view(), &id) {
        Some(own) => remove(&app, &own.id).await,
        None => done(),
    }
}

/// Withdraws a registration, there or not.
pub(super) async fn remove(app: &App, id: &InstanceId) -> Answer {
    match app.agent.remove(id).await {
        Ok(()) | Err(Refused::Rejected(Rejected::NotFound(_))) => done(),
        Err(refused) => Err(refused.into()),
    }
}
