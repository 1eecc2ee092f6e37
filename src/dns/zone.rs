//! The zones answered for, and the settings of the DNS face: the `[dns]` section of the config file.

use std::time::Duration;

use hickory_proto::rr::Name;
use serde::{Deserialize, Deserializer, de};

use crate::model::{Host, Invalid, parse_duration};

/// Settings of the DNS face.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The zones answered for; the first also names what reverse lookups find.
    pub zones: Vec<Zone>,
    /// How long resolvers may keep an answer. Zero: a catalogue that heals in milliseconds is not cached for seconds.
    #[serde(deserialize_with = "ttl")]
    pub ttl: Duration,
    /// Leaves out instances with a warning.
    pub only_passing: bool,
}

impl Default for Config {
    fn default() -> Self {
        let zones = Zone::try_from(DEFAULT_ZONE).into_iter().collect();
        Self { zones, ttl: Duration::ZERO, only_passing: false }
    }
}

impl Config {
    /// The most specific zone that holds `name`.
    pub(super) fn zone_of(&self, name: &Name) -> Option<&Zone> {
        self.zones.iter().filter(|zone| zone.name.zone_of(name)).max_by_key(|zone| zone.name.num_labels())
    }

    /// The TTL as records carry it (RFC 2181 section 8: 31 bits).
    pub(super) fn ttl_seconds(&self) -> u32 {
        u32::try_from(self.ttl.as_secs()).unwrap_or(MAX_TTL).min(MAX_TTL)
    }
}

/// One zone: a name that everything below belongs to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    pub(super) name: Name,
    /// How it is answered.
    pub dialect: Dialect,
}

/// How a zone is answered where Consul's clients expect something else than everybody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// NODATA for a service with nothing healthy; weights in the range HAProxy divides by; a target per instance.
    Mesh,
    /// NXDOMAIN for a service with nothing healthy; weights as registered; a target per address.
    Consul,
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
        Ok(Self { name, dialect: if consul { Dialect::Consul } else { Dialect::Mesh } })
    }
}

impl<'de> Deserialize<'de> for Zone {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::try_from(text.as_str()).map_err(de::Error::custom)
    }
}

fn ttl<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    let ttl = parse_duration(&text).map_err(|why| de::Error::custom(format_args!("{text:?} {why}")))?;
    if ttl.subsec_nanos() != 0 || ttl.as_secs() > u64::from(MAX_TTL) {
        return Err(de::Error::custom(format_args!("{text:?} is not a TTL: whole seconds, at most 24855d (RFC 2181)")));
    }
    Ok(ttl)
}

const DEFAULT_ZONE: &str = "mesh.internal";
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

    #[test]
    fn settings_say_what_is_wrong() {
        let config: Config = toml::from_str("zones = [\"mesh.internal\", \"consul\"]\nttl = \"5s\"").unwrap();
        assert_eq!((config.zones.len(), config.ttl_seconds()), (2, 5));
        assert_eq!(toml::from_str::<Config>("").unwrap().zones, [Zone::try_from("mesh.internal").unwrap()]);
        for bad in ["zone = []", "ttl = \"1ms\"", "ttl = 5", "zones = [\"a b\"]"] {
            assert!(toml::from_str::<Config>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_most_specific_zone_answers() {
        let zones = ["internal", "mesh.internal"].map(|z| Zone::try_from(z).unwrap());
        let config = Config { zones: zones.to_vec(), ..Config::default() };
        let name = Name::from_ascii("web.service.MESH.internal.").unwrap();
        assert_eq!(config.zone_of(&name), Some(&zones[1]));
    }
}
