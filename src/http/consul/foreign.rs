//! `/v1/catalog/register` and `deregister`: nodes that run no agent, and what stands on them. The node that accepts them
//! owns their rows: they live as long as it does.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::{
    check::node_checks,
    definition,
    document::Document,
    failure::{Answer, Failure},
    service::{self, foreign_id},
};
use crate::{
    agent::unix_millis,
    http::{App, Shared},
    model::{
        CheckDraft, CheckName, CheckStatus, Echo, EchoCheck, EchoNode, Health, InstanceId, MemberState, Registration,
        Role,
    },
};

/// What is said of one check: nobody runs it, whoever registers it brings its result.
struct Word {
    id: String,
    name: String,
    notes: String,
    output: String,
    status: Health,
    service: Option<String>,
}

pub(super) async fn register(State(app): Shared, body: Document) -> Answer {
    let node = node_of(&app, &body)?;
    let stands = on_node(&app, &node.name);
    let service = body.object("service")?.map(|service| bare(&app, &service, &node)).transpose()?;
    let mut checks: Vec<_> = body.object("check")?.into_iter().collect();
    checks.extend(body.objects("checks")?);
    let mut words = checks.iter().map(word).collect::<Result<Vec<_>, _>>()?;
    let inherited = service.as_ref().map(|service| inherited(&app, service)).unwrap_or_default();
    for old in inherited {
        if words.iter().all(|new| (&new.id, &new.service) != (&old.id, &old.service)) {
            words.push(old);
        }
    }
    let mut rows: Vec<Registration> = service.into_iter().collect();
    if rows.is_empty() && words.iter().all(|word| word.service.is_none()) || words.iter().any(|w| w.service.is_none()) {
        rows.push(node_row(&app, &node)?);
    }
    for word in &words {
        let id = foreign_id(&node.name, word.service.as_deref().unwrap_or_default());
        if rows.iter().all(|row| row.id.as_str() != id) {
            rows.push(known(&app, &id).ok_or_else(|| unknown(word))?);
        }
        if let Some(row) = rows.iter_mut().find(|row| row.id.as_str() == id) {
            put_word(row, word)?;
        }
    }
    // All is checked before the first row is written.
    for row in &rows {
        row.validate()?;
        if app.agent.view().registration(&row.id).is_some_and(|own| own.foreign().is_none()) {
            return Err(Failure::bad(format!("this agent has an instance of its own with the id {:?}", row.id)));
        }
    }
    // What else stands on the node is told where it is now.
    let rest = stands.into_iter().filter(|own| rows.iter().all(|row| row.id != own.id));
    let moved: Vec<_> = rest.filter_map(|own| moved(&own, &node).transpose()).collect::<Result<_, _>>()?;
    for row in rows.into_iter().chain(moved) {
        app.agent.put(said(&app, row)).await?;
    }
    for word in &words {
        let id = InstanceId::try_from(&*foreign_id(&node.name, word.service.as_deref().unwrap_or_default()))?;
        app.agent.report(&id, &CheckName::try_from(&*word.id)?, word.status, &word.output).await?;
    }
    Ok(yes())
}

/// What is said of an instance's checks by another agent, whose word on it counted until now.
fn inherited(app: &App, row: &Registration) -> Vec<Word> {
    let view = app.agent.view();
    let (this, service) = (view.this().map(|this| this.id), view.service(row.name.as_str()));
    let mut rows = service.iter().flat_map(|service| service.rows());
    let Some(shown) = rows.find(|shown| shown.registration.id == row.id && Some(shown.owner) != this) else {
        return Vec::new();
    };
    let said = shown.registration.echo.as_ref().map(|echo| &echo.checks);
    let word = |check: &CheckStatus| Word {
        id: check.id.to_string(),
        name: check.name.to_string(),
        notes: said.and_then(|said| said.get(&check.id)).map_or_else(String::new, |said| said.notes.clone()),
        output: check.output.to_string(),
        status: check.status,
        service: Some(service::id(row).to_owned()),
    };
    shown.report.checks.iter().map(word).collect()
}

/// The node that a body registers; one that runs an agent speaks for itself.
fn node_of(app: &App, body: &Document) -> Result<Arc<EchoNode>, Failure> {
    let missing = || Failure::bad("Must provide node and address");
    let name = body.text("node")?.ok_or_else(missing)?;
    is_here(app, body, &name)?;
    if body.flag("skipnodeupdate")?
        && let Some(known) = on_node(app, &name).first().and_then(|own| own.echo.as_ref()?.node.clone())
    {
        return Ok(known);
    }
    let address = body.text("address")?.ok_or_else(missing)?;
    let some = |pairs: std::collections::BTreeMap<String, String>| (!pairs.is_empty()).then_some(pairs);
    Ok(Arc::new(EchoNode {
        name,
        address,
        id: body.text("id")?.unwrap_or_default(),
        tagged_addresses: some(body.pairs("taggedaddresses")?),
        meta: some(body.pairs("nodemeta")?),
    }))
}

/// What this agent took in for a node.
fn on_node(app: &App, name: &str) -> Vec<Arc<Registration>> {
    let mut own = app.agent.view().registrations();
    own.retain(|own| own.foreign().is_some_and(|node| node.name == name));
    own
}

/// A row on a node as that is known now, if it is another one.
fn moved(own: &Registration, node: &Arc<EchoNode>) -> Result<Option<Registration>, Failure> {
    let Some(echo) = own.echo.as_ref().filter(|echo| echo.node.as_ref() != Some(node)) else { return Ok(None) };
    let mut row = own.clone();
    if row.address.is_some() && echo.address.as_deref() == Some("") {
        row.address = Some((&*node.address).try_into()?);
    }
    row.echo = Some(Arc::new(Echo { node: Some(Arc::clone(node)), ..Echo::clone(echo) }));
    Ok(Some(row))
}

/// Refuses a node of another datacenter, and one that is a member.
fn is_here(app: &App, body: &Document, name: &str) -> Result<(), Failure> {
    let datacenter = body.text("datacenter")?;
    if datacenter.is_some_and(|asked| !asked.eq_ignore_ascii_case(&app.agent.config().datacenter)) {
        return Err(Failure::no_path());
    }
    match app.agent.view().node(name) {
        Some(member) if member.state != MemberState::Left => Err(Failure::bad(format!(
            "node {name:?} runs an agent and speaks for itself: register with that agent, /v1/agent/service/register"
        ))),
        _ => Ok(()),
    }
}

/// The row as the last word on its instance, later than what is shown of that; one that is shown already stays as it is.
fn said(app: &App, mut row: Registration) -> Registration {
    let view = app.agent.view();
    let (this, service) = (view.this().map(|this| this.id), view.service(row.name.as_str()));
    let shown = service.iter().flat_map(|service| service.rows()).find(|shown| shown.registration.id == row.id);
    let said = |own: &Registration| own.echo.as_ref().map_or(0, |echo| echo.said);
    let say = |row: &mut Registration, said| Arc::make_mut(row.echo.get_or_insert_default()).said = said;
    if let Some(own) = view.registration(&row.id).filter(|_| shown.is_some_and(|shown| Some(shown.owner) == this)) {
        say(&mut row, said(&own));
        if row == *own {
            return row;
        }
    }
    let later = shown.map_or(0, |shown| said(&shown.registration).saturating_add(1));
    say(&mut row, unix_millis().max(later));
    row
}

fn bare(app: &App, body: &Document, node: &Arc<EchoNode>) -> Result<Registration, Failure> {
    let mut row = definition::bare(body, "service")?;
    row.id = foreign_id(&node.name, row.id.as_str()).as_str().try_into()?;
    let mut echo = Arc::unwrap_or_clone(row.echo.take().unwrap_or_default());
    // Programs are sent to the service's address, else to its node's; what was written is shown.
    if row.address.is_none() {
        echo.address = Some(String::new());
        row.address = Some((&*node.address).try_into()?);
    }
    echo.node = Some(Arc::clone(node));
    row.echo = Some(Arc::new(echo));
    if let Some(before) = known(app, row.id.as_str()) {
        super::register::keep_checks(&mut row, &before);
    }
    Ok(row)
}

/// The row that holds a node's own checks, and stands for the node while nothing else does.
fn node_row(app: &App, node: &Arc<EchoNode>) -> Result<Registration, Failure> {
    let id = foreign_id(&node.name, "");
    let mut row = match known(app, &id) {
        Some(row) => row,
        None => Registration::new(node_checks().as_str(), 1)?.id(id.as_str().try_into()?),
    };
    row.port = None;
    let echo = row.echo.take().unwrap_or_default();
    let echo = Echo { role: Some(Role::NodeChecks), node: Some(Arc::clone(node)), ..Arc::unwrap_or_clone(echo) };
    row.echo = Some(Arc::new(echo));
    Ok(row)
}

fn known(app: &App, id: &str) -> Option<Registration> {
    let found = app.agent.view().registration(&InstanceId::try_from(id).ok()?)?;
    Some(Registration::clone(&found))
}

fn unknown(word: &Word) -> Failure {
    Failure::bad(format!("check {:?} is of a service that this node has not been told of: register both", word.id))
}

fn word(body: &Document) -> Result<Word, Failure> {
    let name = body.text("name")?;
    let id = body.text("checkid")?.or(name.clone()).ok_or_else(|| Failure::bad("a check needs CheckID or Name"))?;
    Ok(Word {
        name: name.unwrap_or_else(|| id.clone()),
        id,
        notes: body.text("notes")?.unwrap_or_default(),
        output: body.text("output")?.unwrap_or_default(),
        status: definition::status(body)?.unwrap_or(Health::Critical),
        service: body.text("serviceid")?,
    })
}

/// A result that stands until another one comes: a TTL longer than anything runs.
fn put_word(row: &mut Registration, word: &Word) -> Result<(), Failure> {
    let draft = CheckDraft {
        id: Some(word.id.clone()),
        name: Some(word.name.clone()),
        initial: Some(word.status),
        ..CheckDraft::ttl(FOR_EVER)
    };
    let said = EchoCheck { notes: word.notes.clone(), kind: String::new() };
    definition::put_check(row, draft.build(0, "check")?, said);
    Ok(())
}

/// Withdraws a service, or else a check, or a node with all that stands on it. What is not there is withdrawn already; what
/// another agent took in is that one's to withdraw.
pub(super) async fn deregister(State(app): Shared, body: Document) -> Answer {
    let Some(name) = body.text("node")? else { return Err(Failure::bad("Must provide node")) };
    is_here(&app, &body, &name)?;
    let (service, check) = (body.text("serviceid")?, body.text("checkid")?);
    let meant = service.as_ref().map(|service| foreign_id(&name, service));
    let is_meant = |row: &Registration| {
        let checks = row.echo.iter().flat_map(|echo| echo.checks.keys());
        let holds = |check: &String| checks.clone().any(|known| known.as_str() == check);
        row.foreign().is_some_and(|node| node.name == name)
            && meant.as_ref().is_none_or(|id| row.id.as_str() == id)
            && (meant.is_some() || check.as_ref().is_none_or(holds))
    };
    let (going, rest): (Vec<_>, Vec<_>) = on_node(&app, &name).into_iter().partition(|own| is_meant(own));
    if let Some(node) = going.first().and_then(|own| own.echo.as_ref()?.node.as_ref()).filter(|_| rest.is_empty())
        && service.is_some()
    {
        // It stays until it is withdrawn itself.
        app.agent.put(said(&app, node_row(&app, node)?)).await?;
    }
    for own in going {
        match check.as_ref().filter(|_| meant.is_none()) {
            None => drop(super::register::remove(&app, &own.id).await?),
            Some(check) => {
                let mut row = Registration::clone(&own);
                definition::take_check(&mut row, &CheckName::try_from(check.as_str())?);
                app.agent.put(row).await?;
            }
        }
    }
    let rows = app.agent.view().rows();
    let others = rows.iter().flat_map(|service| service.rows()).filter(|row| {
        row.node.name != app.agent.config().node
            && *row.node.datacenter == *app.agent.config().datacenter
            && is_meant(&row.registration)
    });
    let owners: BTreeSet<_> = others.map(|row| row.node.name.as_str()).collect();
    if !owners.is_empty() {
        let owners = Vec::from_iter(owners).join(", ");
        let why = format!("it stands by the word of {owners}, which took it in too: deregister it there as well");
        return Err(Failure::new(StatusCode::CONFLICT, why));
    }
    Ok(yes())
}

fn yes() -> Response {
    Json(true).into_response()
}

/// A hundred years.
const FOR_EVER: std::time::Duration = std::time::Duration::from_secs(100 * 365 * 86_400);
