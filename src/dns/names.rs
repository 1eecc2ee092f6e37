//! What a name within a zone asks for, and how the names in answers are built.
//!
//! | name | asks for |
//! |---|---|
//! | `[tag…].web.service[.dc]`, `_web._tcp[.service][.dc]`, `_web._tag…` | a service (RFC 2782) |
//! | `_http._tcp.web.service[.dc]` | its port of that name |
//! | `i-HASH.web.service[.dc]`, `i-HASH._web._tcp[.dc]` | one of its instances |
//! | `n1.node[.dc]`, `0a000005.addr[.dc]` | a node; the address in the name |
//! | `_services._dns-sd._udp` | which services there are (RFC 6763 section 9) |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::Name;
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use super::zone::Zone;
use crate::mesh::Instance;

/// A name within a zone, read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked<'a> {
    /// The datacenter it is limited to.
    pub(super) datacenter: Option<&'a str>,
    pub(super) subject: Subject<'a>,
}

impl Asked<'_> {
    /// For names that are not read by their labels.
    pub(super) const NOTHING: Self = Self { datacenter: None, subject: Subject::Nothing };
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Subject<'a> {
    /// The zone itself.
    Zone,
    /// `ns`, the server that the SOA names.
    NameServer,
    /// A name that holds nothing but names: RFC 8020 makes these exist.
    Branch,
    Service(Selector<'a>),
    Node(&'a str),
    Address(IpAddr),
    ServiceTypes,
    /// No such name.
    Nothing,
}

/// Which instances of a service, and what of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selector<'a> {
    pub(super) service: &'a str,
    /// All of these, or the one that they spell together.
    pub(super) tags: SmallVec<[&'a str; 2]>,
    /// Only the one with this hash.
    pub(super) instance: Option<u64>,
    pub(super) form: Form<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Form<'a> {
    /// `web.service`.
    Plain,
    /// `_web._tcp`: RFC 2782, and RFC 6763 where no tag is given.
    Underscored,
    /// `_http._tcp.web.service`.
    Port(&'a str),
    /// `_tcp.web.service`, which exists if its service does.
    Branch,
}

/// Reads `name`, which is in lower case and within `zone`.
pub(super) fn parse<'a>(name: &'a Name, zone: &Zone) -> Asked<'a> {
    // Counted by hand: `num_labels` leaves out a `*` in front, which is a label like any other to us (RFC 4592 is about
    // zones that hold one).
    let depth = name.iter().len().saturating_sub(zone.name.iter().len());
    let labels: Result<SmallVec<[&str; 8]>, _> = name.iter().take(depth).map(std::str::from_utf8).collect();
    let Ok(labels) = labels else { return Asked { datacenter: None, subject: Subject::Nothing } };
    if let Some(subject) = subject(&labels) {
        return Asked { datacenter: None, subject };
    }
    match &labels[..] {
        [] => Asked { datacenter: None, subject: Subject::Zone },
        ["ns"] => Asked { datacenter: None, subject: Subject::NameServer },
        [datacenter] => Asked { datacenter: Some(datacenter), subject: Subject::Branch },
        [rest @ .., datacenter] => {
            Asked { datacenter: Some(datacenter), subject: subject(rest).unwrap_or(Subject::Nothing) }
        }
    }
}

/// What stands left of the datacenter; `None` when the last label is none of ours, so that it may be a datacenter.
fn subject<'a>(labels: &[&'a str]) -> Option<Subject<'a>> {
    Some(match labels {
        ["service" | "node" | "addr"] | ["_dns-sd", "_udp"] => Subject::Branch,
        ["_services", "_dns-sd", "_udp"] => Subject::ServiceTypes,
        [rest @ .., "service"] => service(rest),
        [.., last] if last.starts_with('_') => underscored(labels),
        [node, "node"] => Subject::Node(node),
        [hex, "addr"] => address(hex).map_or(Subject::Nothing, Subject::Address),
        [.., "node" | "addr"] => Subject::Nothing,
        _ => return None,
    })
}

fn service<'a>(labels: &[&'a str]) -> Subject<'a> {
    let (last, before) = match labels {
        [before @ .., last] => (*last, before),
        [] => return Subject::Branch,
    };
    if last.starts_with('_') {
        return underscored(labels);
    }
    let mut selector = Selector { service: last, tags: SmallVec::new(), instance: None, form: Form::Plain };
    match before {
        ["_tcp" | "_udp"] => selector.form = Form::Branch,
        [port, "_tcp" | "_udp"] => match port.strip_prefix('_') {
            Some(port) => selector.form = Form::Port(port),
            None => return Subject::Nothing,
        },
        [label] if instance_hash(label).is_some() => selector.instance = instance_hash(label),
        tags if tags.len() > MAX_ASKED_TAGS || tags.iter().any(|tag| tag.starts_with('_')) => return Subject::Nothing,
        tags => selector.tags.extend_from_slice(tags),
    }
    Subject::Service(selector)
}

/// `_web._tcp`, `_web._tag` and, for one instance, `i-HASH._web._tcp`.
fn underscored<'a>(labels: &[&'a str]) -> Subject<'a> {
    let (instance, name, tag) = match labels {
        // Which tags there are is not worth finding out: whoever asks this minimises names (RFC 9156) and goes on.
        [_] => return Subject::Branch,
        [name, tag] => (None, name, tag),
        [label, name, tag] => match instance_hash(label) {
            Some(hash) => (Some(hash), name, tag),
            None => return Subject::Nothing,
        },
        _ => return Subject::Nothing,
    };
    let (Some(service), Some(tag)) = (name.strip_prefix('_'), tag.strip_prefix('_')) else { return Subject::Nothing };
    let tags = if matches!(tag, "tcp" | "udp") { SmallVec::new() } else { SmallVec::from_slice(&[tag]) };
    Subject::Service(Selector { service, tags, instance, form: Form::Underscored })
}

fn address(hex: &str) -> Option<IpAddr> {
    if !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    match hex.len() {
        8 => u32::from_str_radix(hex, 16).ok().map(|bits| Ipv4Addr::from(bits).into()),
        32 => u128::from_str_radix(hex, 16).ok().map(|bits| Ipv6Addr::from(bits).into()),
        _ => None,
    }
}

fn instance_hash(label: &str) -> Option<u64> {
    let hex = label.strip_prefix("i-").filter(|hex| hex.len() == HASH_DIGITS)?;
    hex.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u64::from_str_radix(hex, 16).ok())?
}

/// What tells an instance from its siblings in a name: stable as long as its node and its id are.
pub(super) fn hash_of(instance: &Instance) -> u64 {
    hash(instance.node.name.as_str(), instance.registration.id.as_str())
}

fn hash(node: &str, id: &str) -> u64 {
    let text = [node.to_ascii_lowercase().as_bytes(), b"\0", id.as_bytes()].concat();
    xxh3_64(&text) >> (64 - 4 * HASH_DIGITS)
}

/// The label of an instance.
pub(super) fn instance_label(instance: &Instance) -> String {
    label_of(instance.node.name.as_str(), instance.registration.id.as_str())
}

/// The label of the instance of that id on that node.
pub(crate) fn label_of(node: &str, id: &str) -> String {
    format!("i-{:0width$x}", hash(node, id), width = HASH_DIGITS)
}

/// Whether a label, in any case, is that of an instance.
pub(crate) fn is_instance_label(label: &str) -> bool {
    instance_hash(&label.to_ascii_lowercase()).is_some()
}

/// The label of an address in the `addr` branch.
pub(crate) fn address_label(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("{:08x}", u32::from(v4)),
        IpAddr::V6(v6) => format!("{:032x}", u128::from(v6)),
    }
}

/// The name of a host, in full.
pub(super) fn host_name(host: &str) -> Option<Name> {
    let mut name = Name::from_ascii(host).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// The name of `labels` below `zone`; `None` when it would not fit, or when a label is none: a datacenter's name is
/// free text, and a service's may be one byte too long for its underscore.
pub(super) fn below<const N: usize>(zone: &Name, labels: [&str; N]) -> Option<Name> {
    labels.iter().rev().try_fold(zone.clone(), |name, label| name.prepend_label(label.as_bytes()).ok())
}

/// 48 bits: ten thousand instances of one service share none with a probability of 1 - 2e-7.
const HASH_DIGITS: usize = 12;
/// Nobody asks for more tags at once, and each is compared with each tag of each instance.
const MAX_ASKED_TAGS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T>(text: &str, then: impl FnOnce(Asked<'_>) -> T) -> T {
        let zone = Zone::try_from("mesh.internal").unwrap();
        let labels = text.split_terminator('.').chain(["mesh", "internal"]).map(str::as_bytes);
        let name = Name::from_labels(labels).unwrap();
        then(parse(&name, &zone))
    }

    fn selector(text: &str) -> String {
        read(text, |asked| match asked.subject {
            Subject::Service(s) => {
                let form = match s.form {
                    Form::Plain => "plain".into(),
                    Form::Underscored => "underscored".into(),
                    Form::Branch => "branch".into(),
                    Form::Port(port) => format!("port {port}"),
                };
                format!("{} {:?} {:?} {form} {:?}", s.service, &s.tags[..], s.instance, asked.datacenter)
            }
            other => format!("{other:?}"),
        })
    }

    #[test]
    fn every_form_of_a_service_is_read() {
        for (name, want) in [
            ("web.service.", "web [] None plain None"),
            ("web.service.dc1.", "web [] None plain Some(\"dc1\")"),
            ("v2.primary.web.service.", "web [\"v2\", \"primary\"] None plain None"),
            ("_web._tcp.", "web [] None underscored None"),
            ("_web._udp.dc1.", "web [] None underscored Some(\"dc1\")"),
            ("_web._tcp.service.", "web [] None underscored None"),
            ("_web._v2.service.dc1.", "web [\"v2\"] None underscored Some(\"dc1\")"),
            ("_http._tcp.web.service.", "web [] None port http None"),
            ("_tcp.web.service.", "web [] None branch None"),
            ("i-00000000000f.web.service.", "web [] Some(15) plain None"),
            ("i-00000000000f._web._tcp.", "web [] Some(15) underscored None"),
            ("i-0f.web.service.", "web [\"i-0f\"] None plain None"),
            ("i-+0000000000f.web.service.", "web [\"i-+0000000000f\"] None plain None"),
        ] {
            assert_eq!(selector(name), want, "{name}");
        }
    }

    #[test]
    fn other_names_are_branches_or_nothing() {
        for name in
            ["service.", "node.", "addr.", "_tcp.", "_udp.", "_dns-sd._udp.", "_tcp.service.", "dc1.", "node.dc1."]
        {
            assert_eq!(read(name, |asked| format!("{:?}", asked.subject)), "Branch", "{name}");
        }
        for name in [
            "x.y.",
            "a.b.node.",
            "0g000000.addr.",
            "+a000005.addr.",
            "0a00.addr.",
            "web._tcp.",
            "_a._b._c._tcp.",
            "_x.web.service.",
            "http._tcp.web.service.",
            "1.2.3.4.5.6.7.8.9.web.service.",
        ] {
            assert_eq!(read(name, |asked| format!("{:?}", asked.subject)), "Nothing", "{name}");
        }
        assert_eq!(read("", |asked| format!("{:?}", asked.subject)), "Zone");
        assert_eq!(read("ns.", |asked| format!("{:?}", asked.subject)), "NameServer");
        assert_eq!(read("_services._dns-sd._udp.", |asked| format!("{:?}", asked.subject)), "ServiceTypes");
    }

    #[test]
    fn an_address_survives_its_label() {
        for text in ["10.0.0.5", "::1", "2001:db8::ff"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(address(&address_label(ip)), Some(ip));
        }
    }
}
