//! `/v1/agent/service/register` and `deregister`: this node's own instances.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};

use super::{
    definition::{self, done},
    document::Document,
    failure::{Answer, Failure},
    own,
    query::{Query, Tail},
    reports,
};
use crate::{
    http::{
        App, Shared,
        change::{Next, change},
        eureka::withdrawn,
    },
    model::{InstanceId, Registration},
};

/// Checks that were there before and are not named again stay, unless `replace-existing-checks` says otherwise.
pub(super) async fn register(State(app): Shared, query: Query, body: Document) -> Answer {
    let asked = definition::service(&body)?;
    if own::is_reserved(app.agent.view(), &asked.id) {
        let why = format!("Invalid service definition: the id {:?} is kept for rows of our own", asked.id);
        return Err(Failure::bad(why));
    }
    if !asked.name.is_label() && app.agent.view().registration(&asked.id).is_none() {
        let why = "DNS asks for it by escapes if at all: 63 letters, digits, hyphens and underscores at most need none";
        tracing::warn!(event = "service_name", service = %asked.name, why);
    }
    let replaces = query.flag("replace-existing-checks");
    put(&app, &asked.id, |before| {
        let mut registration = asked.clone();
        if let Some(before) = before.filter(|_| !replaces) {
            keep_checks(&mut registration, before);
        }
        Ok(registration)
    })
    .await
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

/// Stores and publishes what `make` makes of what is there, unless a check asks for what HTTP may not ask for.
pub(super) async fn put(
    app: &App,
    id: &InstanceId,
    make: impl Fn(Option<&Registration>) -> Result<Registration, Failure>,
) -> Answer {
    let mut losers = Vec::new();
    let next = |before: Option<&Registration>| {
        let registration = make(before)?;
        if !app.agent.has(&Arc::new(registration.clone())) {
            app.agent.leave_to_file(id)?;
        }
        if let Some(check) = registration.local_only_check() {
            let why =
                format!("Invalid check: {} runs programs or uses keys, which only a local file may ask for", check.id);
            return Err(Failure::new(StatusCode::FORBIDDEN, why));
        }
        losers = reports::others_with(app.agent.view(), before, &registration);
        losers.iter().try_for_each(|(other, _)| app.agent.leave_to_file(other))?;
        Ok(Next::Put(registration))
    };
    change(app, id, next).await?;
    for (other, check) in losers {
        reports::withdraw(app, &other, &check).await?;
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
    let next = |before: Option<&Registration>| {
        let standing = before.filter(|own| !own.is_taken_back());
        standing.map_or(Ok(Next::Same), |own| Ok::<_, Failure>(withdrawn(app, own)?))
    };
    change(app, id, next).await?;
    done()
}
