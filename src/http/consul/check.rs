//! A check as Consul shows it, and the checks that the mesh makes of its members.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::{
    node,
    service::{self, Empty},
};
use crate::{
    agent::View,
    mesh::{Held, Instance},
    model::{CheckStatus, Health, NODE_CHECKS, Node, ServiceName, Tag},
};

/// A check in any list.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Check<'a, D = Definition<'a>> {
    pub(super) node: &'a str,
    #[serde(rename = "CheckID")]
    pub(super) id: Cow<'a, str>,
    pub(super) name: Cow<'a, str>,
    pub(super) status: Health,
    pub(super) notes: &'a str,
    pub(super) output: Cow<'a, str>,
    #[serde(rename = "ServiceID")]
    pub(super) service_id: &'a str,
    pub(super) service_name: &'a str,
    pub(super) service_tags: &'a [Tag],
    pub(super) r#type: &'a str,
    pub(super) definition: D,
    pub(super) create_index: u64,
    pub(super) modify_index: u64,
}

/// What a check of a node without an agent looks at, as it was written: who looks there finds it here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Definition<'a>(&'a str);

impl Serialize for Definition<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match serde_json::from_str::<&RawValue>(self.0) {
            Ok(said) => said.serialize(to),
            Err(_) => Empty {}.serialize(to),
        }
    }
}

impl<'a> Check<'a> {
    /// A check of a node itself.
    fn of_node(
        node: &'a str,
        id: &'static str,
        name: &'static str,
        status: Health,
        output: &'a str,
        mark: u64,
    ) -> Self {
        Self {
            node,
            id: id.into(),
            name: name.into(),
            status,
            notes: "",
            output: output.into(),
            service_id: "",
            service_name: "",
            service_tags: &[],
            r#type: "",
            definition: Definition(""),
            create_index: mark,
            modify_index: mark,
        }
    }

    /// What the mesh knows of a node: whether it is reached and, if it is out of service, why.
    pub(super) fn of_member(node: &'a Node, reached: bool, mark: u64) -> impl Iterator<Item = Self> {
        let (status, output) =
            if reached { (Health::Passing, "Agent alive and reachable") } else { (Health::Critical, UNREACHED) };
        let name = node.name.as_str();
        let serf = Self::of_node(name, SERF, "Serf Health Status", status, output, mark);
        let maintenance = node.maintenance.as_deref().map(|notes| Self {
            notes,
            r#type: MAINTENANCE,
            ..Self::of_node(name, NODE_MAINTENANCE, "Node Maintenance Mode", Health::Critical, "", mark)
        });
        std::iter::once(serf).chain(maintenance)
    }

    /// The same with another definition.
    pub(super) fn defined<D>(self, definition: D) -> Check<'a, D> {
        Check {
            node: self.node,
            id: self.id,
            name: self.name,
            status: self.status,
            notes: self.notes,
            output: self.output,
            service_id: self.service_id,
            service_name: self.service_name,
            service_tags: self.service_tags,
            r#type: self.r#type,
            definition,
            create_index: self.create_index,
            modify_index: self.modify_index,
        }
    }
}

/// The checks of a row, by id: its own, maintenance if it is in that, and for a service on a node without an agent that the
/// agent which took it in is gone, if it is. What is kept by a protection is as it was before.
pub(super) fn of_row(row: &Instance, mark: u64) -> Vec<Check<'_>> {
    of_row_for(row, row, mark)
}

/// Whether a row is kept as it was before most of its service turned critical.
fn is_protected(row: &Instance) -> bool {
    row.held.and_then(Held::before).is_some()
}

/// The checks of a row as they count for another, on the same node.
fn of_row_for<'a>(row: &'a Instance, other: &Instance, mark: u64) -> Vec<Check<'a>> {
    let asked = &*row.registration;
    let (service_id, service_name, service_tags) = match asked.echo.as_ref().and_then(|echo| echo.role) {
        Some(_) => ("", "", &[][..]),
        None => (service::id(asked), asked.name.as_str(), &asked.tags[..]),
    };
    let checks = row.report.checks.iter().map(|check| {
        let said = asked.echo.as_ref().and_then(|echo| echo.checks.get(&check.id));
        let (status, output) = match check.doubted().filter(|_| is_protected(other)) {
            Some(before) => (before.status, format!("{PROTECTED}{}", check.output).into()),
            None => (check.status, Cow::Borrowed(&*check.output)),
        };
        Check {
            node: node::name(row),
            id: id(row, check),
            name: check.name.as_str().into(),
            status,
            notes: said.map_or("", |said| &said.notes),
            output,
            service_id,
            service_name,
            service_tags,
            r#type: said.map_or("", |said| &said.kind),
            definition: Definition(said.map_or("", |said| &said.definition)),
            create_index: mark,
            modify_index: mark,
        }
    });
    let critical = |kind, name, (notes, output), r#type| Check {
        service_id,
        service_name,
        service_tags,
        notes,
        r#type,
        id: format!("{kind}:{service_id}").into(),
        ..Check::of_node(node::name(row), "", name, Health::Critical, output, mark)
    };
    let maintenance = row
        .report
        .maintenance
        .as_deref()
        .map(|reason| critical(SERVICE_MAINTENANCE, "Service Maintenance Mode", (reason, ""), MAINTENANCE));
    let is_orphan = asked.foreign().is_some() && !asked.has_role() && !row.member.is_shown();
    let orphan = is_orphan.then(|| critical("_agent", "Agent Of The Node", ("", UNREACHED), ""));
    let mut all: Vec<_> = checks.chain(maintenance).chain(orphan).collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all
}

/// That a node without an agent is left: of the agents that took in something on it none is reached. What another has taken
/// over says nothing of the node by the row of one that is gone.
pub(super) fn of_left<'a>(view: &View, row: &'a Instance, mark: u64) -> Option<Check<'a>> {
    let node = row.registration.foreign().filter(|_| row.registration.has_role() && !row.member.is_shown())?;
    let last = view.foreign_node(&node.name, |datacenter| *datacenter == *row.node.datacenter);
    let is_left = last.is_none_or(|last| !last.member.is_shown());
    is_left.then(|| Check::of_node(&node.name, "_agent:", "Agent Of The Node", Health::Critical, UNREACHED, mark))
}

/// A check's id, unique on its node. What was not registered in Consul's words gets one in Consul's manner.
fn id<'a>(row: &'a Instance, check: &'a CheckStatus) -> Cow<'a, str> {
    let asked = &*row.registration;
    let has_own = |id| asked.echo.as_ref().is_some_and(|echo| echo.checks.contains_key(id));
    if has_own(&check.id) {
        return check.id.as_str().into();
    }
    let mut others = row.report.checks.iter().map(|check| &check.id).filter(|id| !has_own(id));
    match (others.clone().count(), others.position(|id| *id == check.id)) {
        (2.., Some(at)) => format!("service:{}:{}", asked.id, at + 1).into(),
        _ => format!("service:{}", asked.id).into(),
    }
}

/// The checks of the node that a row stands on: what the mesh says, and what was registered for the node itself.
pub(super) fn of_node<'a>(row: &'a Instance, registered: &'a NodeRows, mark: u64) -> Vec<Check<'a>> {
    let is_member = row.registration.foreign().is_none();
    let mesh = is_member.then(|| Check::of_member(&row.node, row.member.is_shown(), mark));
    let registered = registered.of(row).flat_map(|of_node| of_row_for(of_node, row, mark));
    let mut all: Vec<_> = registered.chain(mesh.into_iter().flatten()).collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all
}

/// The rows that hold checks of nodes themselves.
#[derive(Debug)]
pub(super) struct NodeRows(Option<std::sync::Arc<crate::agent::Service>>);

impl NodeRows {
    pub(super) fn of_view(view: &View) -> Self {
        Self(view.service(NODE_CHECKS))
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Instance> {
        self.0.iter().flat_map(|service| service.rows()).filter(|row| row.registration.speaks_of_node())
    }

    /// Those for the node that a row stands on.
    fn of<'a>(&'a self, row: &'a Instance) -> impl Iterator<Item = &'a Instance> {
        // Of a foreign node another agent may have said it.
        self.all().filter(move |other| other.stands_with(row))
    }
}

/// Whether a check of that id is made by the mesh, on any node that runs an agent.
pub(super) fn is_reserved(id: &str) -> bool {
    id == SERF || id == NODE_MAINTENANCE || id.split_once(':').is_some_and(|(kind, _)| kind == SERVICE_MAINTENANCE)
}

/// The worst of some checks.
pub(super) fn worst<'a>(checks: impl IntoIterator<Item = &'a Check<'a>>) -> Health {
    checks.into_iter().map(|check| check.status).max().unwrap_or_default()
}

/// What marks a check that is shown as it was.
const PROTECTED: &str = "Shown as before, since most of its service turned critical within moments. Found now: ";
/// What is said of an agent that is gone.
const UNREACHED: &str = "Agent not live or unreachable";
/// The name under which rows for nodes themselves stand in the books.
pub(in crate::http) fn node_checks() -> ServiceName {
    NODE_CHECKS.try_into().expect("it is a label")
}

/// The id of the check that says whether the mesh reaches a node.
pub(super) const SERF: &str = "serfHealth";
/// Those of the checks that stand for being out of service: of a node, and before the id of a service.
const NODE_MAINTENANCE: &str = "_node_maintenance";
const SERVICE_MAINTENANCE: &str = "_service_maintenance";
/// The type of the checks that stand for being out of service.
pub(super) const MAINTENANCE: &str = "maintenance";
