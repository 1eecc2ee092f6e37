//! Every setting there is, with its default: the one list that files, environment and flags are checked against.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Hook;
use crate::{
    agent::{self, trust::Files},
    dns, http,
    model::{Host, MeshName, NodeName, RegistrationDraft, parse_duration},
};

/// The settings, as written in `hobnob.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Settings {
    pub(super) node: Option<NodeName>,
    pub(super) mesh: MeshName,
    pub(super) datacenter: String,
    pub(super) zone: String,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) secret_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Tls::is_empty")]
    pub(super) tls: Tls,
    pub(super) advertise: Option<SocketAddr>,
    pub(super) join: Vec<Seed>,
    #[serde(with = "duration")]
    pub(super) ready_after: Duration,
    #[serde(with = "duration")]
    pub(super) protect_for: Duration,
    pub(super) will: bool,
    pub(super) meta: BTreeMap<String, String>,
    /// Whether checks may run programs.
    pub(super) script_checks: bool,
    pub(super) checks: Networks,
    pub(super) listen: Listen,
    /// The faces' own; [`super::show`] shows them as they were given.
    #[serde(skip_serializing)]
    pub(super) dns: dns::Config,
    #[serde(skip_serializing)]
    pub(super) http: http::Config,
    /// What runs when a service changes.
    #[serde(skip_serializing)]
    pub(super) hooks: Vec<Hook>,
    /// Known here so that the key is; [`super::services`] reads them, with their lines.
    #[serde(skip_serializing)]
    pub(super) services: Vec<RegistrationDraft>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            node: None,
            mesh: "default".try_into().expect("`default` is a DNS label"),
            datacenter: "dc1".into(),
            zone: String::new(),
            data_dir: None,
            secret_file: None,
            tls: Tls::default(),
            advertise: None,
            join: Vec::new(),
            ready_after: Duration::from_secs(10),
            protect_for: agent::PROTECT_FOR,
            will: true,
            meta: BTreeMap::new(),
            script_checks: false,
            checks: Networks::default(),
            listen: Listen::default(),
            dns: dns::Config::default(),
            http: http::Config::default(),
            hooks: Vec::new(),
            services: Vec::new(),
        }
    }
}

/// Certificate mode: the files to prove oneself with, instead of a secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tls {
    pub(super) ca: Option<PathBuf>,
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) ca_key: Option<PathBuf>,
    pub(super) renew: bool,
}

impl Tls {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The files, or the keys that are missing.
    pub(super) fn files(self) -> Result<Files, Vec<&'static str>> {
        match self {
            Self { ca: Some(ca), cert: Some(cert), key: Some(key), ca_key, renew } => {
                Ok(Files { ca, cert, key, ca_key, renew })
            }
            Self { ca, cert, key, .. } => {
                let all = [("ca", ca), ("cert", cert), ("key", key)];
                Err(all.into_iter().filter(|(_, path)| path.is_none()).map(|(key, _)| key).collect())
            }
        }
    }
}

/// Which networks checks may reach: `allow`, if it names any, and not `deny`; the smallest network decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Networks {
    #[serde(deserialize_with = "networks")]
    pub(super) allow: Vec<IpNet>,
    #[serde(deserialize_with = "networks")]
    pub(super) deny: Vec<IpNet>,
}

/// Networks, where an address is one of its own.
fn networks<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
    let parse = |text: &String| text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    let texts = Vec::<String>::deserialize(from)?;
    let wrong: Vec<_> = texts.iter().filter(|text| parse(text).is_none()).map(|text| format!("{text:?}")).collect();
    if wrong.is_empty() {
        return Ok(texts.iter().filter_map(parse).collect());
    }
    let are = if let [_] = wrong[..] { "is no network" } else { "are no networks" };
    let why = "such as 10.0.0.0/8: checks.allow and checks.deny hold networks and addresses";
    Err(de::Error::custom(format!("{} {are} {why}", wrong.join(", "))))
}

/// Where a node listens. Port 0 takes any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// The mesh, UDP.
    pub mesh: SocketAddr,
    /// HTTP.
    pub http: SocketAddr,
    /// DNS, UDP and TCP.
    pub dns: SocketAddr,
}

impl Default for Listen {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self { mesh: SocketAddr::from(([0; 8], MESH_PORT)), http: loopback(8500), dns: loopback(8600) }
    }
}

/// Where to look for the mesh: `host:port`. A bare host gets the mesh's usual port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Seed(String);

impl std::str::FromStr for Seed {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &dyn fmt::Display| format!("{text:?} is not host:port: {why}");
        // Either may be meant.
        if let Some((host, port)) = text.rsplit_once(':')
            && text.contains("::")
            && !port.is_empty()
            && port.bytes().all(|digit| digit.is_ascii_digit())
            && host.parse::<std::net::Ipv6Addr>().is_ok()
        {
            return Err(wrong(&format_args!(
                "an IPv6 address stands in brackets: [{host}]:{port}, or [{text}]:{MESH_PORT} if {port} is of the address"
            )));
        }
        if let Ok(address) = text.parse::<std::net::IpAddr>() {
            return Ok(Self(SocketAddr::new(address, MESH_PORT).to_string()));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => {
                (host, port.parse::<u16>().map_err(|_| wrong(&"a port is a number from 1 to 65535"))?)
            }
            None => (text, MESH_PORT),
        };
        if port == 0 {
            return Err(wrong(&"nobody can be reached at port 0"));
        }
        Host::try_from(host).map_err(|error| wrong(&error.why))?;
        Ok(Self(format!("{host}:{port}")))
    }
}

impl From<Seed> for String {
    fn from(seed: Seed) -> Self {
        seed.0
    }
}

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

/// Durations as people write them: `10s`, `1m30s`.
pub(super) mod duration {
    use super::{Deserialize, Deserializer, Duration, Serializer, de, parse_duration};

    pub(in crate::config) fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{}ms", duration.as_millis()))
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        parse_duration(&text).map_err(|why| de::Error::custom(format!("{text:?} {why}")))
    }
}

/// The mesh's usual port: the one memberlist made known.
const MESH_PORT: u16 = 7946;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_host_and_port() {
        for (text, seed) in [
            ("10.0.0.1", "10.0.0.1:7946"),
            ("::1", "[::1]:7946"),
            ("2001:db8::5", "[2001:db8::5]:7946"),
            ("fe80::a:b", "[fe80::a:b]:7946"),
            ("fd00:0:0:0:0:0:0:7946", "[fd00::7946]:7946"),
            ("[::1]:1", "[::1]:1"),
            ("a.b:2", "a.b:2"),
        ] {
            assert_eq!(String::from(text.parse::<Seed>().unwrap()), seed);
        }
        for bad in ["", ":1", "a:0", "a:65536", "a b:1", "a:b", "::1:7946", "::1:7001", "2001:db8::5:15"] {
            assert!(bad.parse::<Seed>().is_err(), "{bad}");
        }
        let why = "fd00::1:7001".parse::<Seed>().unwrap_err();
        assert!(why.contains("[fd00::1]:7001, or [fd00::1:7001]:7946"), "{why}");
    }
}
