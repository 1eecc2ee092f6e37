//! `GET /api/v1/services/{name}`: the instances of a service, all or filtered, by name of node or by distance.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Duration};

use axum::{Json, extract::State, response::IntoResponse};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    agent::View,
    http::{Answer, Problem, Shared},
    mesh::{Held, Instance, Member},
    model::{
        CheckName, CheckStatus, Health, Host, InstanceId, MemberState, NodeName, Port, PortName, ServiceName, Tag,
        Weight,
    },
};

use super::{
    openapi::Api,
    params::{self, Params, Segments, word},
};

/// An instance as it is shown; [`super::watch`] sends the same.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Instance")]
pub(super) struct Row<'a> {
    id: &'a InstanceId,
    node: &'a NodeName,
    name: &'a ServiceName,
    address: Host,
    port: Option<Port>,
    ports: &'a BTreeMap<PortName, Port>,
    tags: &'a [Tag],
    meta: &'a BTreeMap<String, String>,
    weight: Weight,
    priority: u16,
    health: Health,
    member: MemberState,
    /// Why it is shown as it last was, if it is: `cut_off`, or `protected` from most of its service turning critical.
    #[serde(skip_serializing_if = "Option::is_none")]
    held: Option<&'static str>,
    /// Why it is out of service, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    maintenance: Option<&'a str>,
    /// How the checks of its whole machine are, if they do not all pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<Health>,
    checks: Vec<Check<'a>>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Check")]
struct Check<'a> {
    id: &'a CheckName,
    name: &'a CheckName,
    status: Health,
    output: &'a str,
    #[serde(serialize_with = "super::moment")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    since: u64,
}

impl<'a> From<&'a Instance> for Row<'a> {
    fn from(instance: &'a Instance) -> Self {
        let asked = &*instance.registration;
        Self {
            id: &asked.id,
            node: &instance.node.name,
            name: &asked.name,
            address: instance.address(),
            port: asked.port,
            ports: &asked.ports,
            tags: &asked.tags,
            meta: &asked.meta,
            weight: instance.weight(),
            priority: asked.priority,
            health: instance.health(),
            member: instance.member,
            held: instance.held.map(Held::why),
            maintenance: instance.node.maintenance.as_deref().or(instance.report.maintenance.as_deref()),
            host: Some(instance.host).filter(|host| *host != Health::Passing),
            checks: instance.report.checks.iter().map(Check::from).collect(),
        }
    }
}

impl<'a> From<&'a CheckStatus> for Check<'a> {
    fn from(check: &'a CheckStatus) -> Self {
        Self { id: &check.id, name: &check.name, status: check.status, output: &check.output, since: check.since }
    }
}

/// Which instances are asked for.
#[derive(Debug, Default)]
struct Filter {
    passing: bool,
    tags: Vec<Tag>,
    zone: Option<String>,
}

impl Filter {
    fn take(params: &mut Params) -> Result<Self, Problem> {
        let passing = params.switch("passing")?;
        let tags = params.all("tag").iter().map(|tag| word("tag", tag)).collect::<Result<_, _>>()?;
        Ok(Self { passing, tags, zone: params.one("zone")? })
    }

    /// Whether an instance has all that is asked for.
    fn admits(&self, instance: &Instance) -> bool {
        (!self.passing || instance.health() == Health::Passing)
            && self.tags.iter().all(|tag| instance.registration.tags.contains(tag))
            && self.zone.as_deref().is_none_or(|zone| *instance.node.zone == *zone)
    }
}

/// The nearest first, by round trip: measured from this node, from others estimated by where they say they are. Those
/// never measured come last; equals keep their order.
fn sort_by_distance(instances: &mut [&Instance], from: &Member, view: &View) {
    let is_this = view.this().is_some_and(|this| this.id == from.id);
    instances.sort_by_cached_key(|instance| {
        let to = view.node(instance.node.name.as_str());
        to.and_then(|to| if is_this { to.rtt } else { from.rtt_to(&to) }).unwrap_or(Duration::MAX)
    });
}

/// The node that distances are asked from: `_agent`, this one, or any other by name.
fn origin(near: &str, view: &View) -> Result<Arc<Member>, Problem> {
    let found = if near == "_agent" { view.this() } else { view.node(near) };
    found.ok_or_else(|| Problem::field("near", &format!("must be _agent or a node's name; nobody is called {near:?}")))
}

/// A name that nobody registers has no instances: programs ask before the first one comes.
pub(super) async fn instances(State(app): Shared, Segments(name): Segments<String>, mut params: Params) -> Answer {
    let name = params::service(app.agent.view(), "name", &name)?;
    let filter = Filter::take(&mut params)?;
    let near = params.one("near")?;
    params.end()?;
    app.ready()?;
    let view = app.agent.view();
    let near = near.map(|near| origin(&near, view)).transpose()?;
    let service = view.service(name.as_str());
    let all = service.iter().flat_map(|service| &service.instances);
    let mut shown: Vec<_> = all.filter(|instance| filter.admits(instance)).collect();
    if let Some(near) = near {
        sort_by_distance(&mut shown, &near, view);
    }
    let shown: Vec<_> = shown.into_iter().map(|instance| now(view, instance)).collect();
    Ok(Json(shown.iter().map(|instance| Row::from(&**instance)).collect::<Vec<_>>()).into_response())
}

/// An instance as it is: of this node's own it is known what their checks say before others are told.
pub(super) fn now<'a>(view: &View, instance: &'a Instance) -> Cow<'a, Instance> {
    let is_own = view.this().is_some_and(|this| this.id == instance.owner);
    if is_own { Cow::Owned(view.spoken(instance)) } else { Cow::Borrowed(instance) }
}

/// For the OpenAPI document.
pub(super) fn describe(api: &mut Api) {
    api.get("/api/v1/services/{name}", "The instances of a service; none if nobody registers it.")
        .switch("passing", "Only those whose checks all pass.")
        .each("tag", "Only those that carry this tag; given again, that one too.")
        .query("zone", "Only those whose node stands in this zone.")
        .query("near", "The nearest first: `_agent` for this node, or the name of another.")
        .answers::<Vec<Row<'_>>>(200, "By name of node, then id, unless `near` says otherwise.");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::native::fixtures;

    fn ids(filter: &Filter) -> Vec<String> {
        let web = fixtures::web();
        let kept = web.instances.iter().filter(|instance| filter.admits(instance));
        kept.map(|instance| instance.registration.id.to_string()).collect()
    }

    #[test]
    fn an_instance_has_the_shape_of_the_contract() {
        let row = serde_json::to_value(Row::from(&fixtures::web().instances[0])).unwrap();
        let expected = serde_json::json!({
            "id": "web-1", "node": "a", "name": "web", "address": "10.0.0.1", "port": 8080, "ports": {}, "tags": ["v2"],
            "meta": {"k": "v"}, "weight": 1, "priority": 1, "health": "passing", "member": "alive", "checks": [],
        });
        assert_eq!(row, expected);
    }

    #[test]
    fn a_check_says_since_when_and_any_claim_can_be_shown() {
        let row = serde_json::to_value(Row::from(&fixtures::web().instances[1])).unwrap();
        let expected = serde_json::json!([
            {"id": "ttl-1", "name": "ttl-1", "status": "critical", "output": "late", "since": "9999-12-31T23:59:59.999Z"}
        ]);
        assert_eq!(row["checks"], expected);
    }

    #[test]
    fn filters_must_all_hold() {
        let tag = |tag: &str| vec![tag.try_into().unwrap()];
        assert_eq!(ids(&Filter::default()), ["web-1", "web-2", "web-3"]);
        assert_eq!(ids(&Filter { passing: true, ..Filter::default() }), ["web-1", "web-3"]);
        assert_eq!(ids(&Filter { tags: tag("V2"), ..Filter::default() }), ["web-1", "web-2"]);
        assert_eq!(ids(&Filter { tags: tag("v2"), passing: true, zone: Some("z1".into()) }), ["web-1"]);
        assert!(ids(&Filter { zone: Some("elsewhere".into()), ..Filter::default() }).is_empty());
    }

    #[test]
    fn the_nearest_comes_first() {
        let (view, web) = (fixtures::view(), fixtures::web());
        for (near, order) in [("_agent", ["a", "b", "c"]), ("A", ["a", "b", "c"]), ("c", ["c", "b", "a"])] {
            let mut shown: Vec<_> = web.instances.iter().collect();
            sort_by_distance(&mut shown, &origin(near, &view).unwrap(), &view);
            assert_eq!(shown.iter().map(|i| i.node.name.as_str()).collect::<Vec<_>>(), order, "{near}");
        }
        assert!(origin("nowhere", &view).is_err());
    }
}
