//! `/v1/catalog/register` and `deregister`: nodes that run no agent, and what stands on them. The node that accepts them
//! owns their rows: they live as long as it does.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

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
    service::foreign_id,
};
use crate::{
    agent::Refused,
    http::{
        App, Shared,
        change::{Next, change, said},
    },
    mesh::Rejected,
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
    /// The row that it is a check of.
    row: InstanceId,
}

/// What a registration is about.
struct Asked {
    node: Arc<EchoNode>,
    service: Option<Registration>,
    words: Vec<Word>,
}

pub(super) async fn register(State(app): Shared, body: Document) -> Answer {
    let asked = Asked::read(&app, &body)?;
    let view = app.agent.view();
    let mut rows: BTreeSet<_> = asked.words.iter().map(|word| word.row.clone()).collect();
    rows.insert(match &asked.service {
        Some(service) => service.id.clone(),
        None => row_id(&asked.node.name, None)?,
    });
    // What else stands on the node is told where it is now.
    let rest: Vec<_> = on_node(&app, &asked.node.name).into_iter().filter(|own| !rows.contains(&own.id)).collect();
    // All is checked before the first row is written.
    for id in &rows {
        asked.row(&app, id, view.registration(id).as_deref())?;
    }
    for own in &rest {
        moved(own, &asked.node)?;
    }
    for id in &rows {
        change(&app, id, |before| asked.row(&app, id, before).map(Next::Put)).await?;
    }
    for own in &rest {
        let next = |before: Option<&Registration>| -> Result<Next, Failure> {
            let moved = before.map(|before| moved(before, &asked.node)).transpose()?.flatten();
            Ok(moved.map_or(Next::Same, |row| Next::Put(said(&app, row))))
        };
        change(&app, &own.id, next).await?;
    }
    agree(&app, &asked.node.name).await?;
    for word in &asked.words {
        let check = CheckName::try_from(&*word.id)?;
        match app.agent.report(&word.row, &check, word.status, &word.output).await {
            // Withdrawn meanwhile by somebody else: that was later.
            Ok(()) | Err(Refused::Rejected(Rejected::NotFound(_))) => {}
            Err(refused) => return Err(refused.into()),
        }
    }
    Ok(yes())
}

impl Asked {
    fn read(app: &App, body: &Document) -> Result<Self, Failure> {
        let node = node_of(app, body)?;
        let service = body.object("service")?.map(|service| bare(&service, &node)).transpose()?;
        let mut checks: Vec<_> = body.object("check")?.into_iter().collect();
        checks.extend(body.objects("checks")?);
        let mut words = checks.iter().map(|check| word(check, &node.name)).collect::<Result<Vec<_>, _>>()?;
        for old in service.iter().flat_map(|service| inherited(app, service)) {
            if words.iter().all(|new| (&new.id, &new.row) != (&old.id, &old.row)) {
                words.push(old);
            }
        }
        Ok(Self { node, service, words })
    }

    /// What becomes of one row, given what it was.
    fn row(&self, app: &App, id: &InstanceId, before: Option<&Registration>) -> Result<Registration, Failure> {
        if before.is_some_and(|own| own.foreign().is_none()) {
            return Err(Failure::bad(format!("this agent has an instance of its own with the id {id:?}")));
        }
        let mut row = match (self.service.as_ref().filter(|service| service.id == *id), before) {
            (Some(service), None) => service.clone(),
            (Some(service), Some(before)) => {
                let mut service = service.clone();
                super::register::keep_checks(&mut service, before);
                service
            }
            _ if *id == row_id(&self.node.name, None)? => node_row(before, &self.node)?,
            (None, Some(before)) => moved(before, &self.node)?.unwrap_or_else(|| before.clone()),
            (None, None) => return Err(unknown(self.words.iter().find(|word| word.row == *id))),
        };
        self.words.iter().filter(|word| word.row == *id).try_for_each(|word| put_word(&mut row, word))?;
        row.validate()?;
        Ok(said(app, row))
    }
}

/// The id of what stands on a node: a service, or else the row of the node itself.
fn row_id(node: &str, service: Option<&str>) -> Result<InstanceId, Failure> {
    Ok(foreign_id(node, service.unwrap_or_default()).as_str().try_into()?)
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
        row: row.id.clone(),
    };
    shown.report.checks.iter().map(word).collect()
}

/// The node that a body registers; one that runs an agent speaks for itself.
fn node_of(app: &App, body: &Document) -> Result<Arc<EchoNode>, Failure> {
    let missing = || Failure::bad("Must provide node and address");
    let name = body.text("node")?.ok_or_else(missing)?;
    here(app, body)?;
    without_agent(app, &name)?;
    if body.flag("skipnodeupdate")?
        && let Some(known) = on_node(app, &name).first().and_then(|own| own.echo.as_ref()?.node.clone())
    {
        return Ok(known);
    }
    let address = body.text("address")?.ok_or_else(missing)?;
    let some = |pairs: BTreeMap<String, String>| (!pairs.is_empty()).then_some(pairs);
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
    own.retain(|own| own.foreign().is_some_and(|node| node.is_called(name)));
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

/// Has all that this agent took in for a node say what the last word says of it: who registers beside others has not seen
/// what they write.
async fn agree(app: &App, name: &str) -> Result<(), Failure> {
    let of = |own: &Registration| own.echo.as_ref().and_then(|echo| echo.node.clone());
    let last = || on_node(app, name).iter().max_by_key(|own| (own.said(), own.id.clone())).and_then(|own| of(own));
    loop {
        let node = last();
        let mut behind = on_node(app, name);
        behind.retain(|own| of(own) != node);
        if behind.is_empty() {
            return Ok(());
        }
        for own in behind {
            let next = |before: Option<&Registration>| -> Result<Next, Failure> {
                let (Some(before), Some(node)) = (before, last()) else { return Ok(Next::Same) };
                Ok(moved(before, &node)?.map_or(Next::Same, |row| Next::Put(said(app, row))))
            };
            change(app, &own.id, next).await?;
        }
    }
}

/// Refuses what is about another datacenter.
fn here(app: &App, body: &Document) -> Result<(), Failure> {
    let datacenter = body.text("datacenter")?;
    if datacenter.is_some_and(|asked| !asked.eq_ignore_ascii_case(&app.agent.config().datacenter)) {
        return Err(Failure::no_path());
    }
    Ok(())
}

/// Refuses a node that is a member.
fn without_agent(app: &App, name: &str) -> Result<(), Failure> {
    match app.agent.view().node(name) {
        Some(member) if member.state != MemberState::Left => Err(Failure::bad(format!(
            "node {name:?} runs an agent and speaks for itself: ask that one, under /v1/agent"
        ))),
        _ => Ok(()),
    }
}

fn bare(body: &Document, node: &Arc<EchoNode>) -> Result<Registration, Failure> {
    // Go's clients send noughts where nobody gave any: here, unlike for its own, Consul takes what is none for that.
    let weights = definition::weights(body)?;
    let weights = weights.filter(|given| matches!(given, (1..=MAX_WEIGHT, 0..=MAX_WEIGHT)));
    let mut row = definition::bare(body, "service", weights)?;
    row.id = row_id(&node.name, Some(row.id.as_str()))?;
    let mut echo = Arc::unwrap_or_clone(row.echo.take().unwrap_or_default());
    // Programs are sent to the service's address, else to its node's; what was written is shown.
    if row.address.is_none() {
        echo.address = Some(String::new());
        row.address = Some((&*node.address).try_into()?);
    }
    echo.node = Some(Arc::clone(node));
    row.echo = Some(Arc::new(echo));
    Ok(row)
}

/// The row that holds a node's own checks, and stands for the node while nothing else does.
fn node_row(before: Option<&Registration>, node: &Arc<EchoNode>) -> Result<Registration, Failure> {
    let mut row = match before {
        Some(row) => row.clone(),
        None => Registration::new(node_checks().as_str(), 1)?.id(row_id(&node.name, None)?),
    };
    row.port = None;
    let echo = row.echo.take().unwrap_or_default();
    let echo = Echo { role: Some(Role::NodeChecks), node: Some(Arc::clone(node)), ..Arc::unwrap_or_clone(echo) };
    row.echo = Some(Arc::new(echo));
    Ok(row)
}

fn unknown(word: Option<&Word>) -> Failure {
    let id = word.map_or("", |word| &word.id);
    Failure::bad(format!("check {id:?} is of a service that this node has not been told of: register both"))
}

fn word(body: &Document, node: &str) -> Result<Word, Failure> {
    let name = body.text("name")?;
    let id = body.text("checkid")?.or(name.clone()).ok_or_else(|| Failure::bad("a check needs CheckID or Name"))?;
    Ok(Word {
        name: name.unwrap_or_else(|| id.clone()),
        id,
        notes: definition::notes(body)?,
        output: body.text("output")?.unwrap_or_default(),
        status: definition::status(body)?.unwrap_or(Health::Critical),
        row: row_id(node, body.text("serviceid")?.as_deref())?,
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
/// another agent took in is that one's to withdraw. What was taken in before its node ran an agent goes like the rest.
pub(super) async fn deregister(State(app): Shared, body: Document) -> Answer {
    let Some(name) = body.text("node")? else { return Err(Failure::bad("Must provide node")) };
    here(&app, &body)?;
    let (service, check) = (body.text("serviceid")?, body.text("checkid")?);
    let meant = service.as_deref().map(|service| row_id(&name, Some(service))).transpose()?;
    let is_meant = |row: &Registration| {
        let checks = row.echo.iter().flat_map(|echo| echo.checks.keys());
        let holds = |check: &String| checks.clone().any(|known| known.as_str() == check);
        row.foreign().is_some_and(|node| node.is_called(&name))
            && meant.as_ref().is_none_or(|id| row.id == *id)
            && (meant.is_some() || check.as_ref().is_none_or(holds))
    };
    let going: Vec<_> = on_node(&app, &name).into_iter().filter(|own| is_meant(own)).collect();
    let alone = without_agent(&app, &name);
    let taken_in = !going.is_empty();
    if let Some(node) = going.first().and_then(|own| own.echo.as_ref()?.node.as_ref())
        && meant.is_some()
        && alone.is_ok()
    {
        // It stays until it is withdrawn itself, whoever else takes away what stands on it.
        let next = |before: Option<&Registration>| match before {
            Some(_) => Ok(Next::Same),
            None => node_row(None, node).map(|row| Next::Put(said(&app, row))),
        };
        change(&app, &row_id(&name, None)?, next).await?;
    }
    let check = check.as_deref().filter(|_| meant.is_none()).map(CheckName::try_from).transpose()?;
    for own in going {
        let next = |before: Option<&Registration>| match (before.filter(|before| is_meant(before)), &check) {
            (None, _) => Ok::<_, Failure>(Next::Same),
            (Some(_), None) => Ok(Next::Gone),
            (Some(before), Some(check)) => {
                let mut row = before.clone();
                definition::take_check(&mut row, check);
                Ok(Next::Put(row))
            }
        };
        change(&app, &own.id, next).await?;
    }
    let rows = app.agent.view().rows();
    let others = rows.iter().flat_map(|service| service.rows()).filter(|row| {
        row.node.name != app.agent.config().node
            && *row.node.datacenter == *app.agent.config().datacenter
            && is_meant(&row.registration)
    });
    let owners: BTreeMap<_, _> = others.map(|row| (row.node.name.as_str(), row.member.is_shown())).collect();
    if !owners.is_empty() {
        return Err(Failure::new(StatusCode::CONFLICT, stands_by(&owners, taken_in)));
    }
    if !taken_in {
        alone?;
    }
    Ok(yes())
}

/// What helps against the word of other agents, by name and whether they are reached.
fn stands_by(owners: &BTreeMap<&str, bool>, withdrawn: bool) -> String {
    let done = if withdrawn { "this agent has withdrawn what it took in; " } else { "" };
    let helps = owners.iter().map(|(name, reached)| match reached {
        true => format!("it stands by the word of {name}, which took it in too: deregister it there as well"),
        false => format!(
            "it stands by the word of {name}, which took it in too and is not reached: if that will not come back, \
             `hobnob force-leave {name}` ends it"
        ),
    });
    done.to_owned() + &Vec::from_iter(helps).join("; ")
}

fn yes() -> Response {
    Json(true).into_response()
}

/// As much as either weight may be.
const MAX_WEIGHT: i64 = u16::MAX as i64;
/// A hundred years.
const FOR_EVER: std::time::Duration = std::time::Duration::from_secs(100 * 365 * 86_400);
