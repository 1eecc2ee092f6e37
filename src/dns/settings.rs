//! The settings of the DNS face: the `[dns]` section of the config file.

use std::{collections::BTreeMap, net::IpAddr, net::SocketAddr, time::Duration};

use hickory_proto::rr::Name;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};

use super::zone::{DEFAULT_ZONE, Zone, ttl};
use crate::model::ServiceName;

/// Settings of the DNS face.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The zones answered for; the first also names what reverse lookups find.
    #[serde(deserialize_with = "zones")]
    pub zones: Vec<Zone>,
    /// How long resolvers may keep an answer. Zero: a catalogue that heals in milliseconds is not cached for seconds.
    #[serde(deserialize_with = "ttl")]
    pub ttl: Duration,
    /// The same for some services, by name; `web-*` means all that begin so. The longest pattern that fits wins, over
    /// the zone's and the general one.
    #[serde(deserialize_with = "service_ttls")]
    pub service_ttl: BTreeMap<Pattern, Duration>,
    /// How long resolvers may remember that there is nothing (RFC 2308): at most five seconds.
    #[serde(deserialize_with = "negative_ttl")]
    pub negative_ttl: Duration,
    /// Leaves out instances with a warning.
    pub only_passing: bool,
    /// Which of the healthy come first.
    pub prefer: Prefer,
    /// Who may ask; empty means everybody that can reach the port. Others are refused.
    #[serde(deserialize_with = "networks")]
    pub allow: Vec<IpNet>,
    /// How many answers over UDP each network beyond this host gets in a second, 0 for any number. A network is what
    /// one customer has: 256 addresses of IPv4, a /56 of IPv6.
    pub rate_limit: u32,
    /// Resolvers that know the names outside of the zones. Without any, these names are refused.
    #[serde(deserialize_with = "resolvers")]
    pub forward: Vec<SocketAddr>,
    /// Who may have names forwarded; this host unless given, so that nobody runs an open resolver by mistake.
    #[serde(deserialize_with = "networks")]
    pub forward_for: Vec<IpNet>,
    /// Leaves private addresses out of forwarded answers about public names: a stranger's name that leads into one's own
    /// network is how DNS rebinding begins. `internal`, `local`, `test`, `home.arpa` and single labels are not public.
    pub refuse_private: bool,
}

/// Which of the healthy instances come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Prefer {
    /// All are equal.
    #[default]
    None,
    /// Those in this node's zone: SRV priority 1, others 2.
    Zone,
    /// Those with the shortest round trip from this node.
    Near,
}

/// A service's name, or the beginning of one before a `*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern {
    text: String,
    open: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            zones: Zone::try_from(DEFAULT_ZONE).into_iter().collect(),
            ttl: Duration::ZERO,
            service_ttl: BTreeMap::new(),
            negative_ttl: Duration::ZERO,
            only_passing: false,
            prefer: Prefer::default(),
            allow: Vec::new(),
            rate_limit: RATE_LIMIT,
            forward: Vec::new(),
            forward_for: LOOPBACK.iter().filter_map(|net| net.parse().ok()).collect(),
            refuse_private: false,
        }
    }
}

impl Config {
    /// Whether all of it makes sense for a server that listens there.
    ///
    /// # Errors
    /// What does not.
    pub fn check_place(&self, listen: SocketAddr) -> Result<(), String> {
        let is_this = |server: &&SocketAddr| {
            let [server_ip, own] = [server.ip(), listen.ip()].map(|ip| ip.to_canonical());
            server.port() == listen.port() && (server_ip == own || own.is_unspecified() && server_ip.is_loopback())
        };
        match self.forward.iter().find(is_this) {
            Some(server) => Err(format!("{server} is this very server, which would ask itself")),
            None if self.refuse_private && self.forward.is_empty() => {
                Err("names no resolver, so that dns.refuse_private has nothing to look at".into())
            }
            None => Ok(()),
        }
    }

    /// The most specific zone that holds `name`.
    pub(super) fn zone_of(&self, name: &Name) -> Option<&Zone> {
        self.zones.iter().filter(|zone| zone.name.zone_of(name)).max_by_key(|zone| zone.name.num_labels())
    }

    /// How long answers in `zone` may be kept; `service`, in lower case, if they are about one.
    pub(super) fn ttl_of(&self, zone: &Zone, service: Option<&str>) -> u32 {
        let fits = |pattern: &Pattern| service.is_some_and(|name| pattern.fits(name));
        let of_service = self.service_ttl.iter().filter(|(pattern, _)| fits(pattern));
        let of_service = of_service.max_by_key(|(pattern, _)| (pattern.text.len(), !pattern.open));
        seconds(of_service.map(|(_, ttl)| *ttl).or(zone.ttl).unwrap_or(self.ttl))
    }

    pub(super) fn negative_ttl_seconds(&self) -> u32 {
        seconds(self.negative_ttl)
    }

    pub(super) fn allows(&self, client: IpAddr) -> bool {
        self.allow.is_empty() || holds(&self.allow, client)
    }

    pub(super) fn forwards_for(&self, client: IpAddr) -> bool {
        !self.forward.is_empty() && holds(&self.forward_for, client)
    }
}

impl Pattern {
    fn fits(&self, name: &str) -> bool {
        if self.open { name.starts_with(&self.text) } else { name == self.text }
    }
}

impl TryFrom<&str> for Pattern {
    type Error = String;

    fn try_from(text: &str) -> Result<Self, String> {
        let (name, open) = text.strip_suffix('*').map_or((text, false), |start| (start, true));
        // The beginning of a name may end in a hyphen, and may be empty.
        let probe = if open { format!("{name}x") } else { name.into() };
        ServiceName::try_from(probe.as_str()).map_err(|why| why.to_string())?;
        Ok(Self { text: name.to_ascii_lowercase(), open })
    }
}

/// Whether an address, however it is dressed, lies in one of these networks.
pub(super) fn holds(networks: &[IpNet], client: IpAddr) -> bool {
    let client = client.to_canonical();
    networks.iter().any(|net| net.contains(&client))
}

/// The TTL as records carry it; [`ttl`] has seen to it that it fits.
fn seconds(ttl: Duration) -> u32 {
    u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX)
}

fn negative_ttl<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let found = ttl(from)?;
    if found > MAX_NEGATIVE_TTL {
        return Err(de::Error::custom("is more than 5s, for which a service that has come would still be missing"));
    }
    Ok(found)
}

fn service_ttls<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<Pattern, Duration>, D::Error> {
    #[derive(Deserialize)]
    struct Ttl(#[serde(deserialize_with = "ttl")] Duration);
    let given = BTreeMap::<String, Ttl>::deserialize(from)?;
    let mut all = BTreeMap::new();
    for (name, ttl) in given {
        let pattern = Pattern::try_from(&*name).map_err(de::Error::custom)?;
        if all.insert(pattern, ttl.0).is_some() {
            return Err(de::Error::custom(format_args!("{name:?} stands there twice: names know no upper case")));
        }
    }
    Ok(all)
}

fn zones<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Zone>, D::Error> {
    let zones = Vec::<Zone>::deserialize(from)?;
    if zones.is_empty() {
        return Err(de::Error::custom(
            "holds no zone, so that nothing would be answered; leave it out for mesh.internal",
        ));
    }
    match zones.iter().enumerate().find(|(at, zone)| zones[..*at].iter().any(|other| other.name == zone.name)) {
        Some((_, zone)) => Err(de::Error::custom(format_args!("{} stands there twice", zone.name))),
        None => Ok(zones),
    }
}

fn resolvers<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<SocketAddr>, D::Error> {
    let resolvers = Vec::<SocketAddr>::deserialize(from)?;
    match resolvers.iter().find(|at| at.ip().is_unspecified() || at.port() == 0) {
        Some(at) => Err(de::Error::custom(format_args!("{at} is no address that can be asked; write 192.0.2.53:53"))),
        None => Ok(resolvers),
    }
}

/// Networks, `10.0.0.0/8`, or single addresses.
fn networks<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
    let read = |text: String| {
        let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
        let net: Option<IpNet> = text.parse().ok().or_else(address);
        net.map(|net| net.trunc()).ok_or_else(|| {
            de::Error::custom(format_args!("{text:?} is no network; write 10.0.0.0/8, fd00::/8 or an address"))
        })
    };
    Vec::<String>::deserialize(from)?.into_iter().map(read).collect()
}

/// Far beyond what a resolver or a balancer asks that heeds TTLs, and a fraction of what a flood needs.
const RATE_LIMIT: u32 = 5_000;
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(5);
const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_say_what_is_wrong() {
        let config: Config = toml::from_str("zones = [\"mesh.internal\", \"consul\"]\nttl = \"5s\"").unwrap();
        assert_eq!((config.zones.len(), config.ttl_of(&config.zones[0], None)), (2, 5));
        assert_eq!(toml::from_str::<Config>("").unwrap().zones, [Zone::try_from("mesh.internal").unwrap()]);
        for bad in [
            "zone = []",
            "ttl = \"1ms\"",
            "ttl = 5",
            "zones = [\"a b\"]",
            "zones = [{ name = \"consul\", tll = \"1s\" }]",
            "negative_ttl = \"6s\"",
            "service_ttl = { \"a b\" = \"1s\" }",
            "service_ttl = { web = \"1ms\" }",
            "prefer = \"best\"",
            "allow = [\"10.0.0.0/33\"]",
            "allow = [\"web\"]",
            "forward = [\"10.0.0.1\"]",
            "forward = [\"0.0.0.0:53\"]",
            "forward = [\"10.0.0.1:0\"]",
            "zones = []",
            "zones = [\"mesh.internal\", \"Mesh.Internal.\"]",
            "service_ttl = { web = \"1s\", WEB = \"2s\" }",
        ] {
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

    #[test]
    fn the_nearest_word_on_a_ttl_counts() {
        let text = "ttl = \"1s\"\nzones = [\"mesh.internal\", { name = \"consul\", ttl = \"2s\" }]\n\
                    [service_ttl]\n\"*\" = \"3s\"\n\"web-*\" = \"4s\"\nWeb-1 = \"5s\"";
        let config: Config = toml::from_str(text).unwrap();
        let [mesh, consul] = &config.zones[..] else { panic!("two zones") };
        let ttl = |zone, service| config.ttl_of(zone, service);
        assert_eq!((ttl(mesh, None), ttl(consul, None)), (1, 2));
        assert_eq!([Some("db"), Some("web-2"), Some("web-1")].map(|name| ttl(consul, name)), [3, 4, 5]);
    }

    #[test]
    fn networks_know_their_addresses() {
        let config: Config = toml::from_str("allow = [\"10.1.2.3/8\", \"fd00::/8\", \"192.0.2.1\"]").unwrap();
        for (client, allowed) in [
            ("10.200.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("fdff::1", true),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("::1", false),
        ] {
            assert_eq!(config.allows(client.parse().unwrap()), allowed, "{client}");
        }
        assert!(Config::default().allows([192, 0, 2, 1].into()));
        let forwarding: Config = toml::from_str("forward = [\"192.0.2.53:53\"]").unwrap();
        assert!(forwarding.forwards_for([127, 0, 0, 1].into()) && !forwarding.forwards_for([10, 0, 0, 1].into()));
        assert!(!Config::default().forwards_for([127, 0, 0, 1].into()));
    }
}
