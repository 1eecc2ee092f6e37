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
use serde_json::Value;

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
        change::{Next, change},
        word::{self, Heard, Words},
    },
    mesh::{Instance, Rejected, fits},
    model::{
        CheckDraft, CheckName, CheckStatus, Echo, EchoCheck, EchoNode, Health, InstanceId, MemberState, Registration,
        Role,
    },
};

/// What is said of one check: nobody runs it, whoever registers it brings its result.
#[derive(Clone)]
struct Word {
    id: String,
    name: String,
    said: EchoCheck,
    output: String,
    status: Health,
    /// The row that it is a check of.
    row: InstanceId,
}

/// What a registration is about.
struct Asked {
    node: Arc<EchoNode>,
    /// Whether the node stays as it is known, if it is.
    stays: bool,
    service: Option<Registration>,
    words: Vec<Word>,
    /// The rows that it names.
    rows: BTreeSet<InstanceId>,
}

/// What becomes of a row, what is said of its checks, and whether it is taken over from another agent: why it is out of
/// service there, if it is.
type Told = (Registration, Vec<Word>, Option<Option<Arc<str>>>);

pub(super) async fn register(State(app): Shared, body: Document) -> Answer {
    let heard = Heard::of(&app)?;
    Asked::read(&app, heard, &body)?.write(&app, heard).await?;
    Ok(yes())
}

impl Asked {
    fn read(app: &App, heard: Heard<'_>, body: &Document) -> Result<Self, Failure> {
        let (node, stays) = node_of(app, heard, body)?;
        let service = body.object("service")?.map(|service| bare(&service, &node)).transpose()?;
        let mut checks: Vec<_> = body.object("check")?.into_iter().collect();
        checks.extend(body.objects("checks")?);
        let words = checks.iter().map(|check| word(check, &node.name)).collect::<Result<Vec<_>, _>>()?;
        let mut rows: BTreeSet<_> = words.iter().map(|word| word.row.clone()).collect();
        rows.insert(match &service {
            Some(service) => service.id.clone(),
            None => row_id(&node.name, None)?,
        });
        Ok(Self { node, stays, service, words, rows })
    }

    /// Of the node alone, as it is known.
    fn node(node: Arc<EchoNode>) -> Result<Self, Failure> {
        let rows = [row_id(&node.name, None)?].into();
        Ok(Self { node, stays: true, service: None, words: Vec::new(), rows })
    }

    async fn write(&self, app: &App, heard: Heard<'_>) -> Result<(), Failure> {
        // All is checked before the first row is written.
        for id in &self.rows {
            let (row, ..) = self.row(heard, id, heard.row(id).as_deref())?;
            fits(&row).map_err(Refused::from)?;
        }
        for id in &self.rows {
            let (mut words, mut taken_over) = (Vec::new(), None);
            let next = |before: Option<&Registration>| -> Result<Next, Failure> {
                let row;
                (row, words, taken_over) = self.row(heard, id, before)?;
                Ok(Next::Put(row))
            };
            change(app, id, next).await?;
            if let Some(reason) = taken_over {
                unless_gone(app.agent.maintain(Some(id), reason.as_deref()).await)?;
            }
            for word in words {
                let check = CheckName::try_from(&*word.id)?;
                unless_gone(app.agent.report(id, &check, word.status, &word.output).await)?;
            }
        }
        Ok(())
    }

    /// What becomes of one row, given what this agent said before. Only what the body names becomes another: of all else the
    /// last word stays, whichever agent said it.
    fn row(&self, heard: Heard<'_>, id: &InstanceId, before: Option<&Registration>) -> Result<Told, Failure> {
        if before.is_some_and(|own| own.foreign().is_none()) {
            return Err(Failure::bad(format!("this agent has an instance of its own with the id {id:?}")));
        }
        let (node, node_said) = match word::of_node(heard, &self.node.name, before) {
            Some(known) if self.stays => known,
            known => (Arc::clone(&self.node), word::later_than(known.map(|(_, said)| said))),
        };
        let on_node = |row: &Registration| row.on(&node).unwrap_or_else(|| row.clone());
        let named = self.service.as_ref().filter(|service| service.id == *id);
        let is_of_node = *id == row_id(&node.name, None)?;
        let elsewhere = || word::on_node(heard, &node.name).into_iter().find(|row| row.registration.id == *id);
        let own = match (named, before) {
            (Some(service), _) => on_node(service),
            (None, Some(before)) => before.clone(),
            (None, None) if is_of_node => node_row(None, &node)?,
            (None, None) => match elsewhere() {
                Some(row) => Arc::unwrap_or_clone(row.registration),
                None => return Err(unknown(self.words.iter().find(|word| word.row == *id))),
            },
        };
        let words = Words::on(heard, &own);
        let known = words.elsewhere().map_or(before.unwrap_or(&own), |row| &row.registration);
        let mut row = match named {
            Some(_) => own.clone(),
            None if is_of_node => node_row(Some(known), &node)?,
            None => on_node(known),
        };
        super::register::keep_checks(&mut row, known);
        // Who takes a check over has it as it stands, and then as it is said to be now: all see it change.
        let mut said = words.elsewhere().map(inherited).unwrap_or_default();
        said.extend(self.words.iter().filter(|word| word.row == *id).cloned());
        for word in &said {
            let first = said.iter().find(|first| first.id == word.id).unwrap_or(word);
            // What stands here goes on, so that a change is one.
            let mut standing = before.iter().flat_map(|before| &before.checks);
            let standing = standing.find(|check| check.id.as_str() == word.id).and_then(|check| check.initial);
            put_word(&mut row, word, standing.unwrap_or(first.status))?;
        }
        row.validate()?;
        // Of a node that stays nothing is said: an older word on it must not become the last one.
        let is_said = !(self.stays && is_of_node) || self.words.iter().any(|word| word.row == *id);
        let mut row = if is_said { word::said(heard, row) } else { row };
        Arc::make_mut(row.echo.get_or_insert_default()).node_said = node_said;
        Ok((row, said, words.elsewhere().map(|row| row.report.maintenance.clone())))
    }
}

/// What was withdrawn meanwhile by somebody else was so later.
fn unless_gone(done: Result<(), Refused>) -> Result<(), Refused> {
    match done {
        Err(Refused::Rejected(Rejected::NotFound(_))) => Ok(()),
        done => done,
    }
}

/// The id of what stands on a node: a service, or else the row of the node itself.
fn row_id(node: &str, service: Option<&str>) -> Result<InstanceId, Failure> {
    Ok(foreign_id(node, service.unwrap_or_default()).as_str().try_into()?)
}

/// What another agent, whose word on a row counts until now, says of its checks.
fn inherited(row: &Instance) -> Vec<Word> {
    let said = row.registration.echo.as_ref().map(|echo| &echo.checks);
    let word = |check: &CheckStatus| Word {
        id: check.id.to_string(),
        name: check.name.to_string(),
        said: said.and_then(|said| said.get(&check.id)).cloned().unwrap_or_default(),
        output: check.output.to_string(),
        status: check.status,
        row: row.registration.id.clone(),
    };
    row.report.checks.iter().map(word).collect()
}

/// The node that a body registers, and whether it stays as it is known; one that runs an agent speaks for itself.
fn node_of(app: &App, heard: Heard<'_>, body: &Document) -> Result<(Arc<EchoNode>, bool), Failure> {
    let missing = || Failure::bad("Must provide node and address");
    let name = body.text("node")?.ok_or_else(missing)?;
    here(app, body)?;
    without_agent(app, &name)?;
    definition::refuse_places(body)?;
    if body.flag("skipnodeupdate")?
        && let Some((known, _)) = word::of_node(heard, &name, None)
    {
        return Ok((known, true));
    }
    let address = body.text("address")?.ok_or_else(missing)?;
    let some = |pairs: BTreeMap<String, String>| (!pairs.is_empty()).then_some(pairs);
    let node = EchoNode {
        name,
        address,
        id: body.text("id")?.unwrap_or_default(),
        tagged_addresses: some(body.pairs("taggedaddresses")?),
        meta: some(body.pairs("nodemeta")?),
    };
    Ok((Arc::new(node), false))
}

/// What this agent took in for a node.
fn on_node(app: &App, name: &str) -> Vec<Arc<Registration>> {
    let mut own = app.agent.view().registrations();
    own.retain(|own| own.foreign().is_some_and(|node| node.is_called(name)));
    own
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
    let member = app.agent.view().node(name).filter(|member| member.state != MemberState::Left);
    let Some(member) = member else { return Ok(()) };
    let helps = match member.is_shown() {
        true => "speaks for itself: ask that one, under /v1/agent".to_owned(),
        false => format!("is not reached: if that will not come back, `hobnob force-leave {name}` frees the name"),
    };
    Err(Failure::bad(format!("node {name:?} runs an agent and {helps}")))
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
    Failure::bad(format!("check {id:?} is of a service that nobody has registered: register both"))
}

fn word(body: &Document, node: &str) -> Result<Word, Failure> {
    let name = body.text("name")?;
    let id = body.text("checkid")?.or(name.clone()).ok_or_else(|| Failure::bad("a check needs CheckID or Name"))?;
    if let Some(other) = body.text("node")?.filter(|other| !other.eq_ignore_ascii_case(node)) {
        return Err(Failure::bad(format!(
            "check node {other:?} does not match node {node:?}: register each by itself"
        )));
    }
    let definition = body.map("definition")?;
    let definition = if definition.is_empty() { String::new() } else { Value::Object(definition).to_string() };
    if definition.len() > MAX_DEFINITION {
        return Err(Failure::bad(format!("the Definition of check {id:?} is longer than {MAX_DEFINITION} bytes")));
    }
    Ok(Word {
        name: name.unwrap_or_else(|| id.clone()),
        id,
        said: EchoCheck { notes: definition::notes(body)?, definition, ..EchoCheck::default() },
        output: body.text("output")?.unwrap_or_default(),
        status: definition::status(body)?.unwrap_or(Health::Critical),
        row: row_id(node, body.text("serviceid")?.as_deref())?,
    })
}

/// A result that stands until another one comes: a TTL longer than anything runs.
fn put_word(row: &mut Registration, word: &Word, initial: Health) -> Result<(), Failure> {
    let draft = CheckDraft {
        id: Some(word.id.clone()),
        name: Some(word.name.clone()),
        initial: Some(initial),
        ..CheckDraft::ttl(FOR_EVER)
    };
    definition::put_check(row, draft.build(0, "check")?, word.said.clone());
    Ok(())
}

/// Withdraws a service, or else a check, or a node with all that stands on it. What is not there is withdrawn already; what
/// another agent took in is that one's to withdraw. What was taken in before its node ran an agent goes like the rest.
pub(super) async fn deregister(State(app): Shared, body: Document) -> Answer {
    let heard = Heard::of(&app)?;
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
        Asked::node(Arc::clone(node))?.write(&app, heard).await?;
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
/// A definition of a check is a target and a few numbers.
const MAX_DEFINITION: usize = 2048;
/// A hundred years.
const FOR_EVER: std::time::Duration = std::time::Duration::from_secs(100 * 365 * 86_400);
