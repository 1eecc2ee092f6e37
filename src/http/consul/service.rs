//! A service's instance as Consul shows it: by the agent, within an answer about health, and flat in the catalogue.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Serialize;

use super::node::Node;
use crate::{
    mesh::Instance,
    model::{Host, Registration, Tag},
};

/// Shares of traffic, while passing and while warning.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Weights {
    passing: u16,
    warning: u16,
}

/// A further address.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Tagged<'a> {
    address: Cow<'a, str>,
    port: u16,
}

type TaggedAddresses<'a> = BTreeMap<&'a str, Tagged<'a>>;

/// What fills the places of what there is not: proxies and the like.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Proxy {
    mesh_gateway: Empty,
    expose: Empty,
}

/// `{}`
#[derive(Debug, Default, Serialize)]
pub(super) struct Empty {}

/// An instance as the agent it is registered with shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Own<'a> {
    #[serde(rename = "ID")]
    pub(super) id: &'a str,
    service: &'a str,
    tags: &'a [Tag],
    meta: &'a BTreeMap<String, String>,
    port: u16,
    address: Cow<'a, str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tagged_addresses: TaggedAddresses<'a>,
    weights: Weights,
    enable_tag_override: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content_hash: Option<String>,
}

impl<'a> From<&'a Registration> for Own<'a> {
    fn from(asked: &'a Registration) -> Self {
        Self {
            id: id(asked),
            service: asked.name.as_str(),
            tags: &asked.tags,
            meta: &asked.meta,
            port: port(asked),
            address: address(asked),
            tagged_addresses: tagged_addresses(asked),
            weights: weights(asked),
            enable_tag_override: overrides(asked),
            content_hash: None,
        }
    }
}

/// An instance within an answer about a node or about health.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Service<'a> {
    #[serde(rename = "ID")]
    pub(super) id: &'a str,
    service: &'a str,
    tags: &'a [Tag],
    address: Cow<'a, str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tagged_addresses: TaggedAddresses<'a>,
    /// Null where there is none: as recorded.
    meta: Option<&'a BTreeMap<String, String>>,
    port: u16,
    weights: Weights,
    enable_tag_override: bool,
    proxy: Proxy,
    connect: Empty,
    create_index: u64,
    modify_index: u64,
}

impl<'a> Service<'a> {
    pub(super) fn of(asked: &'a Registration, mark: u64) -> Self {
        Self {
            id: id(asked),
            service: asked.name.as_str(),
            tags: &asked.tags,
            address: address(asked),
            tagged_addresses: tagged_addresses(asked),
            meta: (!asked.meta.is_empty()).then_some(&asked.meta),
            port: port(asked),
            weights: weights(asked),
            enable_tag_override: overrides(asked),
            proxy: Proxy::default(),
            connect: Empty {},
            create_index: mark,
            modify_index: mark,
        }
    }
}

/// An instance with its node, flat.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Flat<'a> {
    #[serde(rename = "ID")]
    id: Cow<'a, str>,
    node: &'a str,
    address: Cow<'a, str>,
    datacenter: &'a str,
    tagged_addresses: Option<BTreeMap<&'a str, Cow<'a, str>>>,
    node_meta: Option<&'a BTreeMap<String, String>>,
    service_kind: &'static str,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    service_name: &'a str,
    service_tags: &'a [Tag],
    service_address: Cow<'a, str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    service_tagged_addresses: TaggedAddresses<'a>,
    service_weights: Weights,
    service_meta: &'a BTreeMap<String, String>,
    service_port: u16,
    service_enable_tag_override: bool,
    service_proxy: Proxy,
    service_connect: Empty,
    create_index: u64,
    modify_index: u64,
}

impl<'a> Flat<'a> {
    pub(super) fn node(&self) -> &str {
        self.node
    }

    pub(super) fn of(instance: &'a Instance, mark: u64) -> Self {
        let (node, asked) = (Node::of(instance, mark), &*instance.registration);
        Self {
            id: node.id,
            node: node.name,
            address: node.address,
            datacenter: node.datacenter,
            tagged_addresses: node.tagged_addresses,
            node_meta: node.meta,
            service_kind: "",
            service_id: id(asked),
            service_name: asked.name.as_str(),
            service_tags: &asked.tags,
            service_address: address(asked),
            service_tagged_addresses: tagged_addresses(asked),
            service_weights: weights(asked),
            service_meta: &asked.meta,
            service_port: port(asked),
            service_enable_tag_override: overrides(asked),
            service_proxy: Proxy::default(),
            service_connect: Empty {},
            create_index: mark,
            modify_index: mark,
        }
    }
}

/// An instance's id; that of one on a node without an agent is kept behind the node's name.
pub(in crate::http) fn id(asked: &Registration) -> &str {
    let id = asked.id.as_str();
    if asked.foreign().is_none() {
        return id;
    }
    id.strip_prefix(FOREIGN).and_then(|id| id.split_once('/')).map_or(id, |(_, id)| id)
}

/// The id in our book of a service on a node without an agent: no two of them share one, and a node is the same however
/// its name is spelled.
pub(super) fn foreign_id(node: &str, service: &str) -> String {
    let node = node.to_ascii_lowercase().replace('%', "%25").replace('/', "%2f");
    format!("{FOREIGN}{node}/{service}")
}

/// The address as it was written; empty when the node's own is meant.
fn address(asked: &Registration) -> Cow<'_, str> {
    match (asked.echo.as_ref().and_then(|echo| echo.address.as_deref()), &asked.address) {
        (Some(written), _) => written.into(),
        (None, Some(host)) => host.to_string().into(),
        (None, None) => "".into(),
    }
}

fn port(asked: &Registration) -> u16 {
    asked.port.map_or(0, std::num::NonZero::get)
}

/// Those that were given, and those that Consul makes of the address.
fn tagged_addresses(asked: &Registration) -> TaggedAddresses<'_> {
    let given = asked.echo.iter().flat_map(|echo| &echo.tagged_addresses);
    let mut all: TaggedAddresses<'_> =
        given.map(|(kind, (address, port))| (kind.as_str(), Tagged { address: address.into(), port: *port })).collect();
    if let (Some(Host::Address(ip)), None) = (&asked.address, asked.foreign()) {
        let kinds = if ip.is_ipv4() { ["lan_ipv4", "wan_ipv4"] } else { ["lan_ipv6", "wan_ipv6"] };
        for kind in kinds {
            all.entry(kind).or_insert_with(|| Tagged { address: address(asked), port: port(asked) });
        }
    }
    all
}

fn weights(asked: &Registration) -> Weights {
    Weights { passing: asked.weight, warning: asked.weight_while_warning() }
}

fn overrides(asked: &Registration) -> bool {
    asked.echo.as_ref().is_some_and(|echo| echo.enable_tag_override)
}

/// Begins the ids of what stands on nodes without an agent.
const FOREIGN: char = '@';
