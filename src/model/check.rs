//! What a check is: what it does, how often, and how many results it takes to change its mind.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Health, InstanceId, NodeName, Statuses, Target, Url};

/// What tells the checks of one instance apart: free text, 1 to 255 bytes.
pub type CheckName = InstanceId;

/// How one check is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckSpec {
    /// What tells it from the instance's other checks.
    pub id: CheckName,
    /// What people call it; its id unless given.
    pub name: CheckName,
    /// What it does.
    pub kind: CheckKind,
    /// From one start to the next.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How many good results in a row turn it good.
    pub rise: u32,
    /// How many bad results in a row turn it bad.
    pub fall: u32,
    /// What it counts as before the first result; critical when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<Health>,
    /// Critical for so long, the instance is deregistered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deregister_after: Option<Duration>,
    /// By whose rules its results count.
    #[serde(default, skip_serializing_if = "Rules::are_ours")]
    pub rules: Rules,
}

/// How results count where Consul's rules and ours differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rules {
    /// The first result counts at once; a check that is changed begins anew, unless it looks at the same thing.
    #[default]
    Ours,
    /// The first result needs as many in a row as any other; a check that is changed stays as it stands until its next
    /// result. No threshold holds back what a program says of itself, or what an alias stands for.
    Consul,
}

impl Rules {
    fn are_ours(&self) -> bool {
        *self == Self::Ours
    }
}

impl CheckSpec {
    /// The same by Consul's rules.
    #[must_use]
    pub fn by_consuls_rules(self) -> Self {
        let is_polled = !matches!(self.kind, CheckKind::Ttl(_) | CheckKind::Alias(_));
        let (rise, fall) = if is_polled { (self.rise, self.fall) } else { (1, 1) };
        let deregister_after = self.deregister_after.map(|after| after.max(MIN_REAP));
        Self { rise, fall, deregister_after, rules: Rules::Consul, ..self }
    }
}

/// Consul deregisters nothing sooner, whatever it is asked for: programs count on the time to speak for the first time.
const MIN_REAP: Duration = Duration::from_secs(60);

/// What a check does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckKind {
    /// The program itself reports, at least this often.
    Ttl(Duration),
    /// Asks for a page.
    Http(Box<HttpCheck>),
    /// Connects, and perhaps listens for some words.
    Tcp(Box<TcpCheck>),
    /// Sends a datagram: an answer is passing, silence is not.
    Udp(UdpCheck),
    /// Asks by the protocol grpc.health.v1.
    Grpc(Box<GrpcCheck>),
    /// Runs a program: exit code 0 is passing, 1 warning, anything else critical.
    Script(Vec<String>),
    /// Watches a process: its death is seen at once.
    Process(ProcessRef),
    /// Asks a DNS server.
    Dns(DnsCheck),
    /// Is what another instance, service or node is.
    Alias(Alias),
}

impl CheckKind {
    /// The word for it, as people write it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Ttl(_) => "ttl",
            Self::Http(_) => "http",
            Self::Tcp(_) => "tcp",
            Self::Udp(_) => "udp",
            Self::Grpc(_) => "grpc",
            Self::Script(_) => "script",
            Self::Process(_) => "process",
            Self::Dns(_) => "dns",
            Self::Alias(_) => "alias",
        }
    }

    /// The TTL, if the program reports by itself.
    #[must_use]
    pub const fn ttl(&self) -> Option<Duration> {
        match self {
            Self::Ttl(ttl) => Some(*ttl),
            _ => None,
        }
    }

    /// Whether only who may write this machine's files may ask for it: it runs programs, or proves itself with the
    /// machine's keys.
    #[must_use]
    pub fn is_local_only(&self) -> bool {
        let tls = match self {
            Self::Script(_) => return true,
            Self::Http(http) => http.tls.as_ref(),
            Self::Tcp(tcp) => tcp.tls.as_ref(),
            Self::Grpc(grpc) => grpc.tls.as_ref(),
            _ => None,
        };
        tls.is_some_and(|tls| tls.key.is_some())
    }

    /// Where it looks, if its port may be the instance's.
    pub(super) const fn target(&self) -> Option<&Target> {
        match self {
            Self::Http(http) => Some(&http.url.target),
            Self::Tcp(tcp) => Some(&tcp.target),
            Self::Udp(udp) => Some(&udp.target),
            Self::Grpc(grpc) => Some(&grpc.target),
            Self::Ttl(_) | Self::Script(_) | Self::Process(_) | Self::Dns(_) | Self::Alias(_) => None,
        }
    }
}

/// A request, and what its answer must be. HTTP/1.1, without compression.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpCheck {
    /// What is asked for.
    pub url: Url,
    /// GET unless given.
    pub method: String,
    /// Headers to send; Host is one of them.
    pub headers: BTreeMap<String, String>,
    /// A body to send.
    pub body: Option<String>,
    /// Status codes that are passing; 2xx when empty. 429 is a warning unless it is among them.
    pub status: Statuses,
    /// What the answer's body must hold.
    pub contains: Option<String>,
    /// How many redirects are followed.
    pub redirects: u8,
    /// How TLS is spoken with an https URL.
    pub tls: Option<TlsOptions>,
}

/// A connection, and what is said on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpCheck {
    /// Where.
    pub target: Target,
    /// What is sent once it stands.
    pub send: Option<String>,
    /// What the first 4 KiB that come must hold.
    pub expect: Option<String>,
    /// TLS is spoken when this is there.
    pub tls: Option<TlsOptions>,
}

/// A datagram, and what the answer must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UdpCheck {
    /// Where.
    pub target: Target,
    /// What is sent; may be empty.
    pub send: String,
    /// What the answer must hold.
    pub expect: Option<String>,
}

/// One question of grpc.health.v1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrpcCheck {
    /// Where.
    pub target: Target,
    /// The service asked for; the whole server when empty.
    pub service: String,
    /// TLS is spoken when this is there.
    pub tls: Option<TlsOptions>,
}

/// How TLS is spoken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "agent", derive(schemars::JsonSchema))]
pub struct TlsOptions {
    /// Whose certificates are believed, as PEM; the system's authorities when `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// A certificate to show, as PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// Its key. Only from local files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// The name that the server must prove; the target's host when `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Whether the server's certificate is verified at all.
    pub verify: bool,
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self { ca: None, cert: None, key: None, server_name: None, verify: true }
    }
}

/// Which process is watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessRef {
    /// The one that has this id when the check begins.
    Pid(i32),
    /// The one that has this id and began then: nobody else who is given the id later.
    Born(i32, Box<str>),
    /// The one whose id stands in this file.
    File(PathBuf),
}

/// A question to a DNS server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsCheck {
    /// Whom to ask, on port 53 unless it says otherwise; the machine's own resolver when `None`.
    pub server: Option<Target>,
    /// The name asked for. Without one any answer but SERVFAIL is passing.
    pub query: Option<String>,
    /// The type of record asked for.
    pub record: DnsRecord,
    /// What one of the answers must be.
    pub expect: Option<String>,
}

/// The types of record a DNS check can ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "agent", derive(schemars::JsonSchema))]
pub enum DnsRecord {
    /// IPv4 addresses.
    #[default]
    #[serde(alias = "A")]
    A,
    /// IPv6 addresses.
    #[serde(alias = "AAAA")]
    Aaaa,
    /// Another name for it.
    #[serde(alias = "CNAME")]
    Cname,
    /// Mail servers.
    #[serde(alias = "MX")]
    Mx,
    /// Name servers.
    #[serde(alias = "NS")]
    Ns,
    /// Names of addresses.
    #[serde(alias = "PTR")]
    Ptr,
    /// The start of authority.
    #[serde(alias = "SOA")]
    Soa,
    /// Targets and ports (RFC 2782).
    #[serde(alias = "SRV")]
    Srv,
    /// Text.
    #[serde(alias = "TXT")]
    Txt,
}

/// Whose health this is. Looked for in this order: an instance of this node, a service (the best of its instances counts),
/// a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alias {
    /// The id of an instance, or the name of a service or of a node.
    pub of: InstanceId,
    /// The node that the instance is on, where it is not this one.
    pub node: Option<NodeName>,
}
