//! `/v1/agent/check/…`: checks that come by themselves, and what programs say of theirs.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};

use super::{
    check::node_checks,
    definition::{self, done},
    document::Document,
    failure::{Answer, Failure},
    own,
    query::{Query, Tail},
    register,
};
use crate::{
    agent::View,
    http::{
        App, Shared,
        change::{Next, change},
        word::is_shown,
    },
    model::{CheckKind, CheckName, Echo, Health, InstanceId, MAX_CHECKS, Registration, Role},
};

/// A check of an instance, or of this node where no `ServiceID` says of which.
pub(super) async fn register(State(app): Shared, body: Document) -> Answer {
    let Some(name) = body.text("name")? else { return Err(Failure::bad("Missing check name")) };
    let (spec, said) = definition::check(&body, &name, &name)?;
    let service = body.text("serviceid")?;
    let unknown = |id: &str| Failure::internal(format!("ServiceID {id:?} does not exist"));
    let row = service.as_deref().unwrap_or(NODE_ROW);
    let id = InstanceId::try_from(row).map_err(|_| unknown(row))?;
    register::put(&app, &id, |before| {
        let mut registration = match (&service, before) {
            (None, before) => node_row(before)?,
            (Some(_), Some(own)) if own::is_instance(own) => own.clone(),
            (Some(id), _) => return Err(unknown(id)),
        };
        definition::put_check(&mut registration, spec.clone(), said.clone());
        registration.validate()?;
        Ok(registration)
    })
    .await
}

/// The row that holds this node's own checks, as it is or empty.
fn node_row(before: Option<&Registration>) -> Result<Registration, Failure> {
    if let Some(found) = before {
        return Ok(found.clone());
    }
    let mut row = Registration::new(node_checks().as_str(), 1)?.id(InstanceId::try_from(NODE_ROW)?);
    row.port = None;
    row.echo = Some(Arc::new(Echo { role: Some(Role::NodeChecks), ..Echo::default() }));
    Ok(row)
}

/// A check that is not there is deregistered already.
pub(super) async fn deregister(State(app): Shared, Tail(id): Tail) -> Answer {
    match find(app.agent.view(), &id) {
        Some((own, check)) => withdraw(&app, &own.id, &check).await,
        None => done(),
    }
}

/// Takes a check out of a registration; a row that holds no more checks of the node goes with the last.
pub(super) async fn withdraw(app: &App, id: &InstanceId, check: &CheckName) -> Answer {
    let next = |before: Option<&Registration>| {
        let Some(before) = before.filter(|own| own.checks.iter().any(|own| own.id == *check)) else {
            return Ok(Next::Same);
        };
        let mut registration = before.clone();
        definition::take_check(&mut registration, check);
        let is_over = id.as_str() == NODE_ROW && registration.checks.is_empty();
        Ok::<_, Failure>(if is_over { Next::Gone } else { Next::Put(registration) })
    };
    change(app, id, next).await?;
    done()
}

/// As with Consul one id is one check of the whole node, and who names it last has it: whose it was until now, by what
/// stands before it is written. Two who name it at a time do not find each other: better twice there than not at all.
pub(super) fn others_with(
    view: &View,
    before: Option<&Registration>,
    registration: &Registration,
) -> Vec<(InstanceId, CheckName)> {
    let owner = &registration.id;
    let is_known = |id| before.and_then(|before| before.echo.as_ref()).is_some_and(|echo| echo.checks.contains_key(id));
    // Made of the instance's own id, as most are: only who has such an id too may have had it.
    let is_derived = |id: &CheckName| {
        let rest = id.as_str().strip_prefix("service:").and_then(|rest| rest.strip_prefix(owner.as_str()));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    };
    let named = registration.echo.iter().flat_map(|echo| echo.checks.keys());
    let named: Vec<_> = named.filter(|id| !is_known(*id)).collect();
    let others = if named.iter().all(|id| is_derived(id)) {
        named.iter().flat_map(|id| likely(view, id.as_str())).collect()
    } else {
        view.registrations()
    };
    let others = others.into_iter().filter(|other| other.id != *owner && other.foreign().is_none());
    let with = |other: Arc<Registration>| {
        let called = |check: &&CheckName| named.iter().any(|id| is_called(&other, check, id.as_str()));
        let found = other.checks.iter().map(|check| &check.id).filter(called);
        found.map(|check| (other.id.clone(), check.clone())).collect::<Vec<_>>()
    };
    others.flat_map(with).collect()
}

pub(super) async fn pass(State(app): Shared, Tail(id): Tail, query: Query) -> Answer {
    report(&app, &id, Health::Passing, query.text("note").unwrap_or_default()).await
}

pub(super) async fn warn(State(app): Shared, Tail(id): Tail, query: Query) -> Answer {
    report(&app, &id, Health::Warning, query.text("note").unwrap_or_default()).await
}

pub(super) async fn fail(State(app): Shared, Tail(id): Tail, query: Query) -> Answer {
    report(&app, &id, Health::Critical, query.text("note").unwrap_or_default()).await
}

pub(super) async fn update(State(app): Shared, Tail(id): Tail, body: Document) -> Answer {
    let status = definition::status(&body)?.ok_or_else(|| Failure::bad("Invalid check status: ''"))?;
    report(&app, &id, status, &body.text("output")?.unwrap_or_default()).await
}

/// A check that is gone is 404, so that its client registers again; Consul's own words stay.
async fn report(app: &App, id: &str, status: Health, output: &str) -> Answer {
    let wrong = |status| Failure::new(status, format!("CheckID {id:?} does not have associated TTL"));
    let (own, check) = find(app.agent.view(), id).ok_or_else(|| wrong(StatusCode::NOT_FOUND))?;
    let is_ttl = own.checks.iter().any(|spec| spec.id == check && matches!(spec.kind, CheckKind::Ttl(_)));
    if !is_ttl {
        return Err(wrong(StatusCode::INTERNAL_SERVER_ERROR));
    }
    is_shown(app, &own.id)?;
    app.agent.report(&own.id, &check, status, output).await?;
    done()
}

/// The service that a check of this id belongs to.
pub(in crate::http) fn service_of_check(view: &View, id: &str) -> Option<String> {
    find(view, id).map(|(own, _)| own.name.to_string())
}

/// The services whose checks an instance takes that calls its own by its id.
pub(in crate::http) fn services_of_derived(view: &View, instance: &str) -> Vec<String> {
    let named = |own: &Registration, id: &str| own.checks.iter().any(|check| is_called(own, &check.id, id));
    let ids = std::iter::once(format!("service:{instance}"));
    let ids = ids.chain((1..=MAX_CHECKS).map(|number| format!("service:{instance}:{number}")));
    let owners = |id: String| likely(view, &id).filter(|own| named(own, &id)).collect::<Vec<_>>();
    ids.flat_map(owners).map(|own| own.name.to_string()).collect()
}

/// The instance and the check that an id means. Most ids say which instance: only the others are looked for.
fn find(view: &View, id: &str) -> Option<(Arc<Registration>, CheckName)> {
    let named = |own: &Registration| {
        own.checks.iter().find(|check| is_called(own, &check.id, id)).map(|check| check.id.clone())
    };
    likely(view, id).find_map(|own| named(&own).map(|check| (own, check))).or_else(|| {
        let all = view.registrations().into_iter().filter(|own| own.foreign().is_none());
        all.into_iter().find_map(|own| named(&own).map(|check| (own, check)))
    })
}

/// Who may have a check of this id, by all that the id can mean.
fn likely(view: &View, id: &str) -> impl Iterator<Item = Arc<Registration>> {
    let rest = id.strip_prefix("service:").unwrap_or(id);
    let shorter = rest.rsplit_once(':').map(|(instance, _)| instance);
    let likely = [Some(rest), shorter, Some(NODE_ROW)].into_iter().flatten();
    let likely = likely.filter_map(|instance| view.registration(&InstanceId::try_from(instance).ok()?));
    likely.filter(|own| own.foreign().is_none())
}

/// Whether a check has this id on its node: see [`super::check`].
fn is_called(own: &Registration, check: &CheckName, id: &str) -> bool {
    let has_own = |check| own.echo.as_ref().is_some_and(|echo| echo.checks.contains_key(check));
    if has_own(check) {
        return check.as_str() == id;
    }
    let rest = id.strip_prefix("service:").and_then(|rest| rest.strip_prefix(own.id.as_str()));
    let mut others: Vec<_> = own.checks.iter().map(|check| &check.id).filter(|check| !has_own(check)).collect();
    others.sort();
    match (others.len(), rest, rest.and_then(|rest| rest.strip_prefix(':')).map(str::parse::<usize>)) {
        (1, Some(""), _) => true,
        (2.., _, Some(Ok(number))) => {
            number.checked_sub(1).and_then(|at| others.get(at)).is_some_and(|id| *id == check)
        }
        _ => false,
    }
}

/// The id of the row that holds this node's own checks.
pub(super) const NODE_ROW: &str = "@node";
