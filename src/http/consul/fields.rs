//! The fields that a filter may name, by what it filters: those of Consul's documents that have a meaning here.

/// What a field holds, which decides how it is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    Flag,
    /// A list of texts.
    Texts,
    /// Texts by key.
    Map,
    /// One of them, which may not be there: that is no empty text.
    Entry,
    /// Addresses with ports, by key.
    Addresses,
    /// A list of things with fields of their own.
    List,
}

/// Names, each group behind a prefix of its own.
pub(super) type Fields = &'static [(&'static str, &'static [(&'static str, Kind)])];

use Kind::{Addresses, Entry, Flag, List, Map, Number, Text, Texts};

/// `/v1/catalog/nodes`
pub(super) const NODE: Fields = &[("", OF_NODE)];
/// `/v1/coordinate/nodes`: of where a node is, its name alone.
pub(super) const COORDINATE: Fields = &[("", &[("Node", Text), ("Segment", Text)])];
/// Lists of checks.
pub(super) const CHECK: Fields = &[("", OF_CHECK)];
/// `/v1/agent/services`, `/v1/catalog/node/…`
pub(super) const SERVICE: Fields = &[("", OF_SERVICE)];
/// `/v1/catalog/service/…`
pub(super) const INSTANCE: Fields = &[("", OF_INSTANCE)];
/// `/v1/health/service/…`
pub(super) const HEALTH: Fields =
    &[("", &[("Checks", List)]), ("Node", OF_NODE), ("Service", OF_SERVICE), ("Checks", OF_CHECK)];

const OF_NODE: &[(&str, Kind)] =
    &[("ID", Text), ("Node", Text), ("Address", Text), ("Datacenter", Text), ("TaggedAddresses", Map), ("Meta", Map)];

const OF_CHECK: &[(&str, Kind)] = &[
    ("Node", Text),
    ("CheckID", Text),
    ("Name", Text),
    ("Status", Text),
    ("Notes", Text),
    ("Output", Text),
    ("ServiceID", Text),
    ("ServiceName", Text),
    ("ServiceTags", Texts),
    ("Type", Text),
];

const OF_SERVICE: &[(&str, Kind)] = &[
    ("ID", Text),
    ("Service", Text),
    ("Tags", Texts),
    ("Address", Text),
    ("TaggedAddresses", Addresses),
    ("Meta", Map),
    ("Port", Number),
    ("Weights.Passing", Number),
    ("Weights.Warning", Number),
    ("EnableTagOverride", Flag),
    ("Kind", Text),
    ("Connect.Native", Flag),
    ("Proxy.DestinationServiceName", Text),
    ("Proxy.DestinationServiceID", Text),
    ("Proxy.LocalServiceAddress", Text),
    ("Proxy.LocalServicePort", Number),
];

const OF_INSTANCE: &[(&str, Kind)] = &[
    ("ID", Text),
    ("Node", Text),
    ("Address", Text),
    ("Datacenter", Text),
    ("TaggedAddresses", Map),
    ("NodeMeta", Map),
    ("ServiceID", Text),
    ("ServiceName", Text),
    ("ServiceTags", Texts),
    ("ServiceAddress", Text),
    ("ServiceTaggedAddresses", Addresses),
    ("ServiceMeta", Map),
    ("ServicePort", Number),
    ("ServiceWeights.Passing", Number),
    ("ServiceWeights.Warning", Number),
    ("ServiceEnableTagOverride", Flag),
    ("ServiceKind", Text),
    ("ServiceConnect.Native", Flag),
    ("ServiceProxy.DestinationServiceName", Text),
    ("ServiceProxy.DestinationServiceID", Text),
];

/// What the field at this path holds; `None` if there is no such field.
pub(super) fn kind(fields: Fields, path: &[String]) -> Option<Kind> {
    fields.iter().find_map(|(prefix, names)| {
        let path = match *prefix {
            "" => path,
            prefix => path.split_first().filter(|(first, _)| *first == prefix)?.1,
        };
        names.iter().find_map(|(name, kind)| {
            let rest = name.split('.').try_fold(path, |path, part| {
                path.split_first().filter(|(first, _)| *first == part).map(|(_, rest)| rest)
            })?;
            match (kind, rest) {
                (kind, []) => Some(*kind),
                (Map, [_]) => Some(Entry),
                (Addresses, [_, part]) if part == "Address" => Some(Text),
                (Addresses, [_, part]) if part == "Port" => Some(Number),
                _ => None,
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_a_kind_or_is_none() {
        for (path, expected) in [
            ("Node.Meta.rack", Some(Entry)),
            ("Service.Tags", Some(Texts)),
            ("Service.TaggedAddresses.lan.Port", Some(Number)),
            ("Service.Weights.Passing", Some(Number)),
            ("Checks", Some(List)),
            ("Checks.Status", Some(Text)),
            ("Checks.Status.more", None),
            ("Service", None),
            ("Colour", None),
        ] {
            let path: Vec<_> = path.split('.').map(String::from).collect();
            assert_eq!(kind(HEALTH, &path), expected, "{path:?}");
        }
    }
}
