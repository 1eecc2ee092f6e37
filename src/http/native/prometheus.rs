//! `GET /api/v1/prometheus?service=&tag=`: what Prometheus' http_sd reads. Each instance is a group of its own, since
//! labels belong to groups. All healths are listed: whether a target answers is for Prometheus to find out.

use std::collections::BTreeMap;

use axum::{Json, extract::State, response::IntoResponse};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    http::{
        Answer, Shared,
        consul::{node_name, service_id},
    },
    mesh::Instance,
    model::{Host, Tag},
};

use super::{
    openapi::Api,
    params::{self, Params, word},
};

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "TargetGroup")]
struct Group {
    targets: [String; 1],
    labels: BTreeMap<String, String>,
}

impl Group {
    /// `None` for an instance without a port: there is nothing to scrape.
    fn of(instance: &Instance) -> Option<Self> {
        let asked = &instance.registration;
        let target = match (instance.address(), asked.port?) {
            (Host::Address(ip), port) => std::net::SocketAddr::new(ip, port.get()).to_string(),
            (Host::Name(name), port) => format!("{name}:{port}"),
        };
        // Between commas on both sides, so that a pattern can ask for `,v2,`.
        let tags = asked.tags.iter().fold(String::from(","), |all, tag| format!("{all}{tag},"));
        let fixed = [
            ("service", asked.name.to_string()),
            ("id", service_id(asked).to_owned()),
            ("node", node_name(instance).to_owned()),
            ("datacenter", instance.node.datacenter.to_string()),
            ("zone", instance.node.zone.to_string()),
            ("health", instance.health().to_string()),
            ("tags", tags),
        ];
        let fixed = fixed.into_iter().map(|(key, value)| (format!("__meta_hobnob_{key}"), value));
        let meta = asked.meta.iter().map(|(key, value)| (format!("__meta_hobnob_meta_{}", label(key)), value.clone()));
        Some(Self { targets: [target], labels: meta.chain(fixed).collect() })
    }
}

/// The nearest valid label name: letters, digits and underscores.
fn label(key: &str) -> String {
    key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

pub(super) async fn targets(State(app): Shared, mut params: Params) -> Answer {
    let view = app.agent.view();
    let names = params.all("service");
    let names = names.iter().map(|name| params::service(view, "service", name)).collect::<Result<Vec<_>, _>>()?;
    let tags = params.all("tag").iter().map(|tag| word("tag", tag)).collect::<Result<Vec<Tag>, _>>()?;
    params.end()?;
    app.ready()?;
    let services = match &*names {
        [] => view.services(),
        names => names.iter().filter_map(|name| view.service(name.as_str())).collect(),
    };
    let all = services.iter().flat_map(|service| &service.instances);
    let tagged = all.filter(|instance| tags.iter().all(|tag| instance.registration.tags.contains(tag)));
    Ok(Json(tagged.filter_map(Group::of).collect::<Vec<_>>()).into_response())
}

/// For the OpenAPI document.
pub(super) fn describe(api: &mut Api) {
    api.get("/api/v1/prometheus", "Targets for Prometheus, as its http_sd reads them: every instance that has a port.")
        .each("service", "Only of this service; given again, of that one too. All unless given.")
        .each("tag", "Only those that carry this tag; given again, that one too.")
        .answers::<Vec<Group>>(200, "One group for each instance.");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        http::native::fixtures,
        model::{Echo, EchoNode},
    };

    #[test]
    fn a_group_has_the_shape_of_http_sd() {
        let group = serde_json::to_value(Group::of(&fixtures::web().instances[0])).unwrap();
        let expected = serde_json::json!({
            "targets": ["10.0.0.1:8080"],
            "labels": {
                "__meta_hobnob_service": "web", "__meta_hobnob_id": "web-1", "__meta_hobnob_node": "a",
                "__meta_hobnob_datacenter": "dc1", "__meta_hobnob_zone": "z1", "__meta_hobnob_health": "passing",
                "__meta_hobnob_tags": ",v2,", "__meta_hobnob_meta_k": "v",
            },
        });
        assert_eq!(group, expected);
    }

    #[test]
    fn what_stands_on_a_node_without_an_agent_is_called_as_it_was_registered() {
        let mut instance = fixtures::web().instances[0].clone();
        let mut asked = (*instance.registration).clone().id("@ext%2f/b/c".try_into().unwrap());
        let node = Some(Arc::new(EchoNode { name: "Ext/".into(), ..EchoNode::default() }));
        asked.echo = Some(Arc::new(Echo { node, ..Echo::default() }));
        instance.registration = asked.into();
        let labels = Group::of(&instance).unwrap().labels;
        assert_eq!([&*labels["__meta_hobnob_id"], &*labels["__meta_hobnob_node"]], ["b/c", "Ext/"]);
    }

    #[test]
    fn targets_of_ipv6_stand_in_brackets_and_portless_ones_are_left_out() {
        let mut instance = fixtures::web().instances[0].clone();
        let mut asked = (*instance.registration).clone().address("fd00::1".try_into().unwrap());
        instance.registration = asked.clone().into();
        assert_eq!(Group::of(&instance).unwrap().targets, ["[fd00::1]:8080"]);
        asked.port = None;
        instance.registration = asked.into();
        assert!(Group::of(&instance).is_none());
    }
}
