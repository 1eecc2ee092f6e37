//! The zones answered for.

use std::{fmt, time::Duration};

use hickory_proto::rr::Name;
use serde::{
    Deserialize, Deserializer,
    de::{self, value::MapAccessDeserializer},
};

use crate::model::{Host, Invalid, parse_duration};

/// One zone: a name that everything below belongs to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    pub(super) name: Name,
    /// How it is answered.
    pub dialect: Dialect,
    /// How long its answers may be kept, where it has a word of its own on that.
    pub ttl: Option<Duration>,
}

/// How a zone is answered where Consul's clients expect something else than everybody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// NODATA for a service with nothing healthy; weights in the range HAProxy divides by; a target per instance.
    Mesh,
    /// NXDOMAIN for a service with nothing healthy; weights as registered; a target per address.
    Consul,
}

/// Its name, without the last dot.
impl fmt::Display for Zone {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name.to_ascii().trim_end_matches('.'))
    }
}

impl TryFrom<&str> for Zone {
    type Error = Invalid;

    /// A zone whose first label is `consul` speaks Consul's dialect.
    fn try_from(text: &str) -> Result<Self, Invalid> {
        let invalid = |why| Invalid::new("DNS zone", text, why);
        let Host::Name(host) = Host::try_from(text)? else {
            return Err(invalid("is an address; a zone is a domain name such as mesh.internal"));
        };
        if host.len() > MAX_ZONE {
            return Err(invalid("is longer than 120 bytes: names below it would not fit into 255 (RFC 1035)"));
        }
        let host = host.to_ascii_lowercase();
        if host == "arpa" || host.ends_with(".arpa") {
            return Err(invalid("is where reverse lookups live; they are answered without naming it"));
        }
        let mut name = Name::from_ascii(&host).map_err(|_| invalid("is not a domain name (RFC 1035)"))?;
        name.set_fqdn(true);
        let consul = host.split('.').next() == Some("consul");
        Ok(Self { name, dialect: if consul { Dialect::Consul } else { Dialect::Mesh }, ttl: None })
    }
}

/// A zone's name, or a table of its name and its settings.
impl<'de> Deserialize<'de> for Zone {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            name: String,
            #[serde(default, deserialize_with = "some_ttl")]
            ttl: Option<Duration>,
        }
        struct Given;
        impl<'de> de::Visitor<'de> for Given {
            type Value = Zone;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a zone's name, or { name = \"...\", ttl = \"...\" }")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Zone, E> {
                Zone::try_from(text).map_err(E::custom)
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Zone, A::Error> {
                let Table { name, ttl } = Table::deserialize(MapAccessDeserializer::new(map))?;
                let zone = Zone::try_from(name.as_str()).map_err(de::Error::custom)?;
                Ok(Zone { ttl, ..zone })
            }
        }
        from.deserialize_any(Given)
    }
}

fn some_ttl<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    ttl(from).map(Some)
}

/// A duration that a record can carry as its TTL (RFC 2181 section 8: 31 bits).
pub(super) fn ttl<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    let ttl = parse_duration(&text).map_err(|why| de::Error::custom(format_args!("{text:?} {why}")))?;
    if ttl.subsec_nanos() != 0 || ttl.as_secs() > u64::from(MAX_TTL) {
        return Err(de::Error::custom(format_args!("{text:?} is not a TTL: whole seconds, at most 24855d (RFC 2181)")));
    }
    Ok(ttl)
}

pub(super) const DEFAULT_ZONE: &str = "mesh.internal";
/// The longest name we build below a zone takes 133 bytes: a node's label, `node`, and a datacenter's label.
const MAX_ZONE: usize = 120;
const MAX_TTL: u32 = i32::MAX.unsigned_abs();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_a_domain_name_with_room_below() {
        assert_eq!(Zone::try_from("Mesh.Internal.").unwrap().name.to_string(), "mesh.internal.");
        assert_eq!(Zone::try_from("consul.example.com").unwrap().dialect, Dialect::Consul);
        assert_eq!(Zone::try_from("example.consul").unwrap().dialect, Dialect::Mesh);
        for bad in ["", ".", "10.0.0.1", "a b", "in-addr.arpa", &["x".repeat(60), "y".repeat(60)].join(".")] {
            assert!(Zone::try_from(bad).is_err(), "{bad}");
        }
    }
}
