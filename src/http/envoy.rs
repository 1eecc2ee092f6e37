//! `POST /v3/discovery:endpoints`: Envoy's endpoint discovery over REST (xDS v3, api_type REST). A cluster is a service;
//! an answer that is as the client has it already is 304.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::post};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{Answer, App, Problem, Shared, body::Parsed, native, requests::Requests};
use crate::{
    mesh::Instance,
    model::{Health, Host},
};

/// What Envoy asks, in proto3's JSON, which allows both spellings of a name, and null for what is not said. What else it
/// says of itself is not needed.
#[derive(Debug, Deserialize)]
struct DiscoveryRequest {
    #[serde(alias = "versionInfo")]
    version_info: Option<String>,
    #[serde(alias = "resourceNames")]
    resource_names: Option<Vec<String>>,
    #[serde(alias = "typeUrl")]
    type_url: Option<String>,
}

#[derive(Debug, Serialize)]
struct DiscoveryResponse<'a> {
    version_info: String,
    resources: &'a [ClusterLoadAssignment<'a>],
    type_url: &'static str,
}

#[derive(Debug, Serialize)]
struct ClusterLoadAssignment<'a> {
    #[serde(rename = "@type")]
    kind: &'static str,
    cluster_name: &'a str,
    endpoints: Vec<LocalityLbEndpoints>,
}

/// The endpoints of one zone that are tried at one time.
#[derive(Debug, Serialize)]
struct LocalityLbEndpoints {
    locality: Locality,
    priority: usize,
    lb_endpoints: Vec<LbEndpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Locality {
    region: String,
    zone: String,
}

#[derive(Debug, Serialize)]
struct LbEndpoint {
    endpoint: Endpoint,
    health_status: &'static str,
    /// Envoy takes no weight of 0; who asks for that gets the least there is.
    load_balancing_weight: u16,
}

#[derive(Debug, Serialize)]
struct Endpoint {
    address: Address,
}

#[derive(Debug, Serialize)]
struct Address {
    socket_address: SocketAddress,
}

#[derive(Debug, Serialize)]
struct SocketAddress {
    address: String,
    port_value: u16,
}

impl LbEndpoint {
    /// `None` for an instance that Envoy cannot be sent to: without a port, or under a name, which endpoints may not have.
    fn of(instance: &Instance) -> Option<Self> {
        let Host::Address(ip) = instance.address() else { return None };
        let port_value = instance.registration.port?.get();
        let health_status = match instance.health() {
            Health::Passing => "HEALTHY",
            Health::Warning => "DEGRADED",
            Health::Critical => "UNHEALTHY",
            Health::Maintenance => "DRAINING",
        };
        Some(Self {
            endpoint: Endpoint {
                address: Address { socket_address: SocketAddress { address: ip.to_string(), port_value } },
            },
            health_status,
            load_balancing_weight: instance.registration.weight.max(1),
        })
    }
}

impl<'a> ClusterLoadAssignment<'a> {
    fn of(cluster_name: &'a str, instances: &[Instance]) -> Self {
        let mut groups = BTreeMap::<_, Vec<_>>::new();
        for instance in instances {
            let node = &instance.node;
            let locality = Locality { region: node.datacenter.to_string(), zone: node.zone.to_string() };
            if let Some(endpoint) = LbEndpoint::of(instance) {
                groups.entry((instance.registration.priority, locality)).or_default().push(endpoint);
            }
        }
        // Ours are any numbers (RFC 2782); Envoy's begin at 0 and leave none out.
        let mut known: Vec<_> = groups.keys().map(|(priority, _)| *priority).collect();
        known.dedup();
        let rank = |priority| known.binary_search(&priority).unwrap_or_default();
        let endpoints = groups.into_iter().map(|((priority, locality), lb_endpoints)| LocalityLbEndpoints {
            locality,
            priority: rank(priority),
            lb_endpoints,
        });
        Self { kind: TYPE, cluster_name, endpoints: endpoints.collect() }
    }
}

async fn endpoints(State(app): Shared, Parsed(asked): Parsed<DiscoveryRequest>) -> Answer {
    if let Some(other) = asked.type_url.filter(|asked| !matches!(&**asked, "" | TYPE)) {
        return Err(Problem::field("type_url", &format!("is {other:?}; only {TYPE} is served")));
    }
    let names = asked.resource_names.unwrap_or_default();
    if names.len() > MAX_CLUSTERS {
        return Err(Problem::field("resource_names", "holds more than 1000 clusters"));
    }
    app.ready()?;
    let found: Vec<_> = names.iter().map(|name| (name, app.agent.view().service(name))).collect();
    let resources: Vec<_> = found
        .iter()
        .map(|(name, service)| ClusterLoadAssignment::of(name, service.as_ref().map_or(&[], |found| &found.instances)))
        .collect();
    // The content is its own version: equal on every node that knows the same, across restarts.
    let version_info = format!("{:016x}", xxh3_64(&serde_json::to_vec(&resources).unwrap_or_default()));
    if asked.version_info.is_some_and(|known| known == version_info) {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    Ok(Json(DiscoveryResponse { version_info, resources: &resources, type_url: TYPE }).into_response())
}

/// What Envoy's REST client asks.
pub(super) fn routes(requests: &mut Requests) -> Router<Arc<App>> {
    const PATH: &str = "/v3/discovery:endpoints";
    Router::new().route(PATH, requests.counted(PATH, post(endpoints).fallback(native::no_such_method)))
}

/// The type of all resources here.
const TYPE: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// The most clusters of one request.
const MAX_CLUSTERS: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::native::fixtures;

    #[test]
    fn a_cluster_has_the_shape_of_envoy() {
        let web = fixtures::web();
        let shown = serde_json::to_value(ClusterLoadAssignment::of("web", &web.instances[..2])).unwrap();
        let group = |zone: &str, address: &str, health: &str| {
            serde_json::json!({
                "locality": {"region": "dc1", "zone": zone}, "priority": 0, "lb_endpoints": [{
                    "endpoint": {"address": {"socket_address": {"address": address, "port_value": 8080}}},
                    "health_status": health, "load_balancing_weight": 1,
                }],
            })
        };
        let expected = serde_json::json!({
            "@type": TYPE, "cluster_name": "web",
            "endpoints": [group("z1", "10.0.0.1", "HEALTHY"), group("z2", "10.0.0.2", "UNHEALTHY")],
        });
        assert_eq!(shown, expected);
    }

    #[test]
    fn priorities_leave_none_out_and_names_are_left_out() {
        let mut instances = fixtures::web().instances;
        for (instance, priority) in instances.iter_mut().zip([7, 100, 7]) {
            let mut asked = (*instance.registration).clone();
            (asked.priority, asked.weight) = (priority, 0);
            instance.registration = asked.into();
        }
        let named = (*instances[2].registration).clone().address("web.example".try_into().unwrap());
        instances[2].registration = named.into();
        let shown = ClusterLoadAssignment::of("web", &instances);
        let groups: Vec<_> = shown.endpoints.iter().map(|group| (group.priority, group.lb_endpoints.len())).collect();
        assert_eq!(groups, [(0, 1), (1, 1)]);
        assert_eq!(shown.endpoints[0].lb_endpoints[0].load_balancing_weight, 1);
    }

    #[test]
    fn both_spellings_of_proto3_are_read() {
        for text in [
            r#"{"version_info": "v", "resource_names": ["web"], "type_url": "t", "node": {"id": "x"}}"#,
            r#"{"versionInfo": "v", "resourceNames": ["web"], "typeUrl": "t", "responseNonce": "n"}"#,
        ] {
            let asked: DiscoveryRequest = serde_json::from_str(text).unwrap();
            let texts = (asked.version_info.as_deref(), asked.type_url.as_deref());
            assert_eq!((texts, asked.resource_names), ((Some("v"), Some("t")), Some(vec!["web".into()])));
        }
        let unsaid = serde_json::from_str::<DiscoveryRequest>(r#"{"resource_names": null, "type_url": null}"#).unwrap();
        assert!(unsaid.resource_names.is_none() && unsaid.version_info.is_none());
    }
}
