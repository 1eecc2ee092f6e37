//! A node as Consul shows it: in lists, and within an instance.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Serialize;
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    mesh::Instance,
    model::{self, EchoNode, NodeId},
};

/// A node in a list of nodes, or beside a service.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Node<'a> {
    #[serde(rename = "ID")]
    pub(super) id: Cow<'a, str>,
    #[serde(rename = "Node")]
    pub(super) name: &'a str,
    pub(super) address: Cow<'a, str>,
    pub(super) datacenter: &'a str,
    pub(super) tagged_addresses: Option<BTreeMap<&'a str, Cow<'a, str>>>,
    pub(super) meta: Option<&'a BTreeMap<String, String>>,
    pub(super) create_index: u64,
    pub(super) modify_index: u64,
}

impl<'a> Node<'a> {
    /// A member of the mesh.
    pub(super) fn member(id: NodeId, node: &'a model::Node, mark: u64) -> Self {
        let address = address(node);
        let (lan, wan) = if address.contains(':') { ("lan_ipv6", "wan_ipv6") } else { ("lan_ipv4", "wan_ipv4") };
        let tagged = ["lan", lan, "wan", wan].map(|kind| (kind, Cow::Owned(address.clone())));
        Self {
            id: uuid(id).into(),
            name: node.name.as_str(),
            address: address.into(),
            datacenter: &node.datacenter,
            tagged_addresses: Some(tagged.into()),
            meta: Some(&node.meta),
            create_index: mark,
            modify_index: mark,
        }
    }

    /// A node that runs no agent; it stands where the one that accepted it stands.
    pub(super) fn foreign(node: &'a EchoNode, datacenter: &'a str, mark: u64) -> Self {
        let tagged = node
            .tagged_addresses
            .as_ref()
            .map(|all| all.iter().map(|(kind, address)| (kind.as_str(), Cow::Borrowed(address.as_str()))).collect());
        Self {
            id: Cow::Borrowed(&node.id),
            name: &node.name,
            address: Cow::Borrowed(&node.address),
            datacenter,
            tagged_addresses: tagged,
            meta: node.meta.as_ref(),
            create_index: mark,
            modify_index: mark,
        }
    }

    /// The node that an instance stands on.
    pub(super) fn of(instance: &'a Instance, mark: u64) -> Self {
        match instance.registration.foreign() {
            Some(node) => Self::foreign(node, &instance.node.datacenter, mark),
            None => Self::member(instance.owner, &instance.node, mark),
        }
    }

    /// Whether it has all these pairs of meta data.
    pub(super) fn has(&self, pairs: &[(&str, &str)]) -> bool {
        pairs.iter().all(|(key, value)| self.meta.is_some_and(|meta| meta.get(*key).is_some_and(|own| own == value)))
    }
}

/// The name of the node that an instance stands on.
pub(in crate::http) fn name(instance: &Instance) -> &str {
    instance.registration.foreign().map_or(instance.node.name.as_str(), |node| &node.name)
}

/// Where a node is reached.
pub(super) fn address(node: &model::Node) -> String {
    node.addresses.first().map(|address| address.ip().to_canonical().to_string()).unwrap_or_default()
}

/// A node's id in the form that Consul's are in: the same for ever, since ours is (RFC 9562 section 5.8, version 8).
pub(super) fn uuid(id: NodeId) -> String {
    let bits = xxh3_128(&id.0.to_be_bytes());
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | (0x8 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_uuid_and_stays() {
        let id = uuid(NodeId(7));
        assert_eq!(id.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert_eq!((&id[14..15], uuid(NodeId(7)) == id, uuid(NodeId(8)) == id), ("8", true, false));
    }
}
