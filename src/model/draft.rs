//! A check as people write it, in JSON and TOML alike: the kind is the key. [`CheckDraft::build`] makes it a
//! [`CheckSpec`]; an option that its kind does not have is an error, not ignored.

use std::{collections::BTreeMap, path::Path, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, de};

use super::{
    Alias, CheckKind, CheckName, CheckSpec, DnsCheck, DnsRecord, FieldError, GrpcCheck, Health, Host, HttpCheck,
    Invalid, ProcessRef, Rules, StatusDraft, Statuses, Target, TcpCheck, TlsOptions, UdpCheck, Url, format_duration,
    parse_duration,
};

/// Declares [`CheckDraft`] and what [`CheckDraft::options`] knows of its fields.
macro_rules! draft {
    ($(#[$about:meta])* kinds { $($(#[$kind_doc:meta])* $kind:ident: $kind_type:ty,)* }
     options { $($(#[$doc:meta])* $name:ident: $type:ty, $of:expr;)* }) => {
        $(#[$about])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        #[cfg_attr(feature = "agent", derive(schemars::JsonSchema))]
        pub struct CheckDraft {
            $($(#[$kind_doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $kind: Option<$kind_type>,)*
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $name: Option<$type>,)*
        }

        impl CheckDraft {
            /// The kinds it names: one, if all is well.
            fn kinds(&self) -> Vec<&'static str> {
                [$((stringify!($kind), self.$kind.is_some())),*].into_iter().filter(|kind| kind.1).map(|kind| kind.0).collect()
            }

            /// The options it names, each with the kinds that have it; none of them means all.
            fn options(&self) -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
                let all: [(&str, &[&str], bool); _] = [$((stringify!($name), $of, self.$name.is_some())),*];
                all.into_iter().filter(|option| option.2).map(|option| (option.0, option.1))
            }
        }
    };
}

draft! {
    /// A check as people write it: the kind is the key.
    kinds {
        /// The program reports by itself, at least this often: `30s`.
        ttl: String,
        /// A URL, or `:port/path` or `/path` of the instance.
        http: String,
        /// `host:port`, or `:port` of the instance, or its main port when empty.
        tcp: String,
        /// As `tcp`.
        udp: String,
        /// As `tcp`, with `/service` behind it to ask for one service.
        grpc: String,
        /// A program and its arguments; no shell, unless for a file that says by no `#!` who is to read it (execvp(3)).
        script: Vec<String>,
        /// A process's id.
        #[serde(alias = "process")]
        pid: i64,
        /// A file that holds a process's id. After that one's death it is read again soon, then ever more seldom.
        pid_file: String,
        /// A DNS server to ask, `host:port`; or a name to look up.
        dns: String,
        /// An instance of this node, a service or a node. What looks straight back there does not count.
        alias: String,
    }
    options {
        /// What tells it from the instance's other checks; its name, or else its kind and place.
        id: String, &[];
        /// What people call it; its id unless given.
        name: String, &[];
        /// From one start to the next; 10 s unless given.
        interval: String, &["http", "tcp", "udp", "grpc", "script", "pid", "pid_file", "dns", "alias"];
        /// How long an answer may take; 10 s, or the interval if that is shorter.
        timeout: String, &["http", "tcp", "udp", "grpc", "script", "dns"];
        /// How many good results in a row turn it good; 1 unless given.
        rise: u32, &[];
        /// How many bad results in a row turn it bad; 1 unless given.
        fall: u32, &[];
        /// What it counts as before the first result.
        #[serde(deserialize_with = "initial")]
        initial: Health, &[];
        /// Critical for so long, or its node gone for so long, the instance is deregistered. Of a node that is gone nothing
        /// is listed for more than a day, and for 15 minutes unless given.
        deregister_after: String, &[];
        /// The method; GET unless given.
        method: String, &["http"];
        /// Headers to send.
        headers: BTreeMap<String, String>, &["http"];
        /// The header Host; as in the URL unless given.
        host: String, &["http"];
        /// A body to send.
        body: String, &["http"];
        /// Status codes that are passing, such as `200`, `"2xx"`, `"200-204"` or a list of these.
        status: StatusDraft, &["http"];
        /// What the answer's body must hold.
        contains: String, &["http"];
        /// How many redirects are followed; none unless given. `headers` are for the first server alone.
        redirects: u8, &["http"];
        /// How TLS is spoken; `{}` speaks it with the system's authorities.
        tls: TlsOptions, &["http", "tcp", "grpc"];
        /// What is sent.
        send: String, &["tcp", "udp"];
        /// What the answer must hold; with `dns`, what one answer must be.
        expect: String, &["tcp", "udp", "dns"];
        /// The gRPC service asked for.
        service: String, &["grpc"];
        /// The name a DNS server is asked for.
        query: String, &["dns"];
        /// The type of record asked for.
        record: DnsRecord, &["dns"];
        /// The DNS server that is asked for a name.
        server: String, &["dns"];
        /// The node that the instance is on.
        node: String, &["alias"];
    }
}

/// A health that a check can give: maintenance is none, and not to be offered.
fn initial<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Health>, D::Error> {
    let known = |text: String| {
        let all = [Health::Passing, Health::Warning, Health::Critical];
        let why = || de::Error::custom(format!("{text:?} is not passing, warning or critical"));
        all.into_iter().find(|health| health.as_str() == text).ok_or_else(why)
    };
    Option::<String>::deserialize(from)?.map(known).transpose()
}

impl CheckDraft {
    /// Asks for a page: a URL, or `:port/path` or `/path` of the instance.
    #[must_use]
    pub fn http(url: &str) -> Self {
        Self { http: Some(url.into()), ..Self::default() }
    }

    /// Connects to `host:port`, or `:port` of the instance.
    #[must_use]
    pub fn tcp(target: &str) -> Self {
        Self { tcp: Some(target.into()), ..Self::default() }
    }

    /// Asks `host:port` or `host:port/service` by grpc.health.v1.
    #[must_use]
    pub fn grpc(target: &str) -> Self {
        Self { grpc: Some(target.into()), ..Self::default() }
    }

    /// Waits for the program to report, at least this often: see `Registered::set_status`.
    #[must_use]
    pub fn ttl(ttl: Duration) -> Self {
        Self { ttl: Some(format_duration(ttl)), ..Self::default() }
    }

    /// Watches the process of this id.
    #[must_use]
    pub fn process(pid: u32) -> Self {
        Self { pid: Some(pid.into()), ..Self::default() }
    }

    /// Is what an instance of this node, a service or a node is.
    #[must_use]
    pub fn alias(of: &str) -> Self {
        Self { alias: Some(of.into()), ..Self::default() }
    }

    /// The same under this name.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// The same, run this often.
    #[must_use]
    pub fn every(self, interval: Duration) -> Self {
        Self { interval: Some(format_duration(interval)), ..self }
    }

    /// The same, with so long to answer.
    #[must_use]
    pub fn within(self, timeout: Duration) -> Self {
        Self { timeout: Some(format_duration(timeout)), ..self }
    }

    /// The same, changing its mind only after so many good or bad results in a row.
    #[must_use]
    pub fn rise_fall(self, rise: u32, fall: u32) -> Self {
        Self { rise: Some(rise), fall: Some(fall), ..self }
    }

    /// The same, deregistering its instance when critical for so long.
    #[must_use]
    pub fn deregister_after(self, critical: Duration) -> Self {
        Self { deregister_after: Some(format_duration(critical)), ..self }
    }

    /// The check this draft asks for; `place` is its number in its list, `path` what to call it in errors.
    ///
    /// # Errors
    /// Names the field that is wrong, and why.
    pub fn build(self, place: usize, path: &str) -> Result<CheckSpec, FieldError> {
        let blame = |field: &str, why: &str| FieldError::new(&format!("{path}.{field}"), why);
        let duration = |field: &str, text: &Option<String>| {
            text.as_deref().map(parse_duration).transpose().map_err(|why| blame(field, why))
        };
        // What every kind has comes first: a kind that is misspelt hides none of its mistakes.
        let given = duration("interval", &self.interval)?;
        if given.is_some_and(|interval| interval < MIN_INTERVAL) {
            return Err(blame("interval", "must be at least 100ms"));
        }
        let timeout = duration("timeout", &self.timeout)?;
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(blame("timeout", "must be longer than nothing"));
        }
        // As Consul's tools write that nothing was given.
        let deregister_after = duration("deregister_after", &self.deregister_after)?.filter(|after| !after.is_zero());
        if self.rise == Some(0) || self.fall == Some(0) {
            return Err(blame(if self.rise == Some(0) { "rise" } else { "fall" }, "must be at least 1"));
        }
        if self.initial == Some(Health::Maintenance) {
            return Err(blame("initial", "must be passing, warning or critical"));
        }
        let word = |field: &str, text: &str| CheckName::try_from(text).map_err(|invalid| blame(field, invalid.why));
        let name = self.name.as_deref().map(|name| word("name", name)).transpose()?;
        let id = self.id.as_deref().map(|id| word("id", id)).transpose()?;
        let key = self.key(path)?;
        let kind = self.kind(key).map_err(|(field, why)| blame(field, &why))?;
        let interval = kind.ttl().or(given).unwrap_or(DEFAULT_INTERVAL);
        if interval < MIN_INTERVAL {
            return Err(blame("ttl", "must be at least 100ms"));
        }
        let timeout = timeout.unwrap_or(interval.min(DEFAULT_TIMEOUT));
        let id = match (id, &name) {
            (Some(id), _) => id,
            (None, Some(name)) => name.clone(),
            (None, None) => word("id", &format!("{}-{}", kind.as_str(), place + 1))?,
        };
        let name = name.unwrap_or_else(|| id.clone());
        let (rise, fall) = (self.rise.unwrap_or(1), self.fall.unwrap_or(1));
        let (initial, rules) = (self.initial, Rules::Ours);
        Ok(CheckSpec { id, name, kind, interval, timeout, rise, fall, initial, deregister_after, rules })
    }

    /// Its one kind, which has all options that it names.
    fn key(&self, path: &str) -> Result<&'static str, FieldError> {
        let blame = |field: &str, why: &str| FieldError::new(&format!("{path}.{field}"), why);
        let key = match self.kinds()[..] {
            [kind] => kind,
            [] => return Err(FieldError::new(path, &format!("names no kind: it is one of {}", KINDS.join(", ")))),
            [one, other, ..] => {
                return Err(blame(other, &format!("is a second kind beside {one}: make it two checks")));
            }
        };
        match self.options().find(|(_, kinds)| !kinds.is_empty() && !kinds.contains(&key)) {
            Some((option, of)) => {
                Err(blame(option, &format!("is no option of a {key} check, but of {}", of.join(", "))))
            }
            None => Ok(key),
        }
    }

    /// What it does; or which field is wrong, and why.
    fn kind(&self, key: &'static str) -> Result<CheckKind, (&'static str, String)> {
        let at = |field: &'static str| move |why: String| (field, why);
        let target = |text: &Option<String>| Target::parse(text.as_deref().unwrap_or_default()).map_err(at(key));
        match key {
            "ttl" => {
                let ttl = parse_duration(self.ttl.as_deref().unwrap_or_default());
                Ok(CheckKind::Ttl(ttl.map_err(|why| (key, why.into()))?))
            }
            "http" => self.http_kind().map(|http| CheckKind::Http(Box::new(http))),
            "tcp" => {
                let (send, expect) = (bounded("send", &self.send)?, bounded("expect", &self.expect)?);
                let tls = self.tls()?;
                Ok(CheckKind::Tcp(Box::new(TcpCheck { target: target(&self.tcp)?, send, expect, tls })))
            }
            "udp" => {
                let send = bounded("send", &self.send)?.unwrap_or_default();
                if send.len() > MAX_DATAGRAM {
                    return Err(("send", "is longer than 1200 bytes, which no datagram should be".into()));
                }
                let expect = bounded("expect", &self.expect)?;
                Ok(CheckKind::Udp(UdpCheck { target: target(&self.udp)?, send, expect }))
            }
            "grpc" => self.grpc_kind(),
            "script" => {
                let argv = self.script.clone().unwrap_or_default();
                if argv.first().is_none_or(String::is_empty) {
                    return Err((key, "names no program: it is a list such as [\"/usr/bin/true\"]".into()));
                }
                if argv.iter().map(String::len).sum::<usize>() > MAX_TEXT || argv.iter().any(|arg| arg.contains('\0')) {
                    return Err((key, "is over 64 KiB or holds a null byte".into()));
                }
                Ok(CheckKind::Script(argv))
            }
            "pid" => match self.pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0) {
                Some(pid) => Ok(CheckKind::Process(ProcessRef::Pid(pid))),
                None => Err((key, "must be the id of a process: 1 or more".into())),
            },
            "pid_file" => match self.pid_file.as_deref() {
                None | Some("") => Err((key, "names no file".into())),
                Some(path) if Path::new(path).is_relative() => {
                    Err((key, format!("{path:?} is relative, and the agent runs elsewhere: write all of it")))
                }
                Some(path) => Ok(CheckKind::Process(ProcessRef::File(path.into()))),
            },
            "dns" => self.dns_kind().map(CheckKind::Dns),
            _ => {
                let named = |why: Invalid| format!("{:?} {}", why.text, why.why);
                let of = self.alias.as_deref().unwrap_or_default();
                let of = of.try_into().map_err(|why| (key, named(why)))?;
                let node = self.node.as_deref().map(|node| node.try_into().map_err(|why| ("node", named(why))));
                Ok(CheckKind::Alias(Alias { of, node: node.transpose()? }))
            }
        }
    }

    fn http_kind(&self) -> Result<HttpCheck, (&'static str, String)> {
        let url = Url::parse(self.http.as_deref().unwrap_or_default()).map_err(|why| ("http", why))?;
        let method = self.method.as_deref().unwrap_or("GET").to_ascii_uppercase();
        if method.is_empty() || method.len() > MAX_METHOD || !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err(("method", format!("{method:?} is no method such as GET or HEAD")));
        }
        if method == "CONNECT" {
            return Err(("method", "CONNECT asks for a tunnel, not for a page: take GET or HEAD".into()));
        }
        let mut headers = self.headers.clone().unwrap_or_default();
        headers.extend(self.host.clone().map(|host| ("host".into(), host)));
        let size: usize = headers.iter().map(|(name, text)| name.len() + text.len()).sum();
        if headers.len() > MAX_HEADERS || size > MAX_HEADER_BYTES {
            return Err(("headers", "are more than 32, or over 8 KiB".into()));
        }
        for (name, text) in &headers {
            // RFC 9110 sections 5.1 and 5.5.
            let fits =
                !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
            if !fits || text.bytes().any(|byte| byte != b'\t' && (byte < b' ' || byte == 0x7f)) {
                return Err(("headers", format!("{name:?} is no header, or its value holds a control character")));
            }
            // RFC 9112 section 6.
            if ["content-length", "transfer-encoding"].iter().any(|framing| name.eq_ignore_ascii_case(framing)) {
                return Err(("headers", format!("{name:?} follows from `body`: leave it away")));
            }
        }
        let status = match &self.status {
            Some(draft) => draft.build().map_err(|why| ("status", why))?,
            None => Statuses::default(),
        };
        let (body, contains) = (bounded("body", &self.body)?, bounded("contains", &self.contains)?);
        let tls = self.tls()?;
        if tls.is_some() && !url.tls && url.target.host.is_some() {
            return Err(("tls", "has no use with an http:// URL; write https://".into()));
        }
        let url = Url { tls: url.tls || tls.is_some(), ..url };
        let redirects = self.redirects.unwrap_or(0);
        Ok(HttpCheck { url, method, headers, body, status, contains, redirects, tls })
    }

    fn grpc_kind(&self) -> Result<CheckKind, (&'static str, String)> {
        let text = self.grpc.as_deref().unwrap_or_default();
        let (target, behind) = text.split_once('/').unwrap_or((text, ""));
        if !behind.is_empty() && self.service.is_some() {
            return Err(("service", "is named twice: behind the target, and by this key".into()));
        }
        let target = Target::parse(target).map_err(|why| ("grpc", why))?;
        let service = bounded("service", &self.service)?.unwrap_or_else(|| behind.into());
        Ok(CheckKind::Grpc(Box::new(GrpcCheck { target, service, tls: self.tls()? })))
    }

    /// A name to look up, unless it is an address or has a port, or a `query` says that it is the server's.
    fn dns_kind(&self) -> Result<DnsCheck, (&'static str, String)> {
        let text = self.dns.as_deref().unwrap_or_default();
        let parsed = Target::parse(text);
        let is_server = parsed.as_ref().is_ok_and(|target| {
            target.has_port() || matches!(target.host, Some(Host::Address(_))) || self.query.is_some()
        });
        let name = |field, text: &str| match Host::try_from(text) {
            Ok(Host::Name(name)) => Ok(Some(name.to_string())),
            _ => Err((field, format!("{text:?} is no domain name"))),
        };
        let (server, query) = if is_server {
            if self.server.is_some() {
                return Err(("server", "is named twice: `dns` is one already; name what to ask for by `query`".into()));
            }
            let query = self.query.as_deref().map_or(Ok(None), |query| name("query", query))?;
            (Some(parsed.map_err(|why| ("dns", why))?), query)
        } else {
            let server = self.server.as_deref().map(Target::parse).transpose().map_err(|why| ("server", why))?;
            (server, name("dns", text)?)
        };
        if query.is_none() && (self.expect.is_some() || self.record.is_some()) {
            return Err(("query", "is missing: what shall the server be asked for?".into()));
        }
        let expect = bounded("expect", &self.expect)?;
        Ok(DnsCheck { server, query, record: self.record.unwrap_or_default(), expect })
    }

    fn tls(&self) -> Result<Option<TlsOptions>, (&'static str, String)> {
        let Some(tls) = &self.tls else { return Ok(None) };
        if tls.cert.is_some() != tls.key.is_some() {
            return Err(("tls", "needs cert and key together".into()));
        }
        if let Some(name) = &tls.server_name {
            Host::try_from(name.as_str()).map_err(|why| ("tls", format!("server_name {name:?} {}", why.why)))?;
        }
        Ok(Some(tls.clone()))
    }
}

/// A text that is kept within its limit.
fn bounded(field: &'static str, text: &Option<String>) -> Result<Option<String>, (&'static str, String)> {
    match text {
        Some(text) if text.len() > MAX_TEXT => Err((field, "is longer than 64 KiB".into())),
        text => Ok(text.clone()),
    }
}

/// The check as people write it: it builds the same again.
impl From<&CheckSpec> for CheckDraft {
    fn from(spec: &CheckSpec) -> Self {
        let mut draft = Self {
            id: Some(spec.id.to_string()),
            name: Some(spec.name.to_string()),
            interval: Some(format_duration(spec.interval)),
            timeout: Some(format_duration(spec.timeout)),
            rise: Some(spec.rise),
            fall: Some(spec.fall),
            initial: spec.initial,
            deregister_after: spec.deregister_after.map(format_duration),
            ..Self::default()
        };
        match &spec.kind {
            CheckKind::Ttl(ttl) => draft.ttl = Some(format_duration(*ttl)),
            CheckKind::Http(http) => draft.show_http(http),
            CheckKind::Tcp(tcp) => {
                draft.tcp = Some(tcp.target.to_string());
                (draft.send, draft.expect, draft.tls) = (tcp.send.clone(), tcp.expect.clone(), tcp.tls.clone());
            }
            CheckKind::Udp(udp) => {
                draft.udp = Some(udp.target.to_string());
                (draft.send, draft.expect) = (Some(udp.send.clone()), udp.expect.clone());
            }
            CheckKind::Grpc(grpc) => {
                draft.grpc = Some(grpc.target.to_string());
                (draft.service, draft.tls) = (Some(grpc.service.clone()), grpc.tls.clone());
            }
            CheckKind::Script(argv) => draft.script = Some(argv.clone()),
            CheckKind::Process(ProcessRef::Pid(pid) | ProcessRef::Born(pid, _)) => draft.pid = Some((*pid).into()),
            CheckKind::Process(ProcessRef::File(path)) => draft.pid_file = Some(path.to_string_lossy().into()),
            CheckKind::Dns(dns) => {
                let asked = dns.query.as_ref();
                draft.dns = asked.cloned().or_else(|| dns.server.as_ref().map(Target::to_string));
                draft.server = asked.and(dns.server.as_ref()).map(Target::to_string);
                (draft.record, draft.expect) = (asked.map(|_| dns.record), dns.expect.clone());
            }
            CheckKind::Alias(alias) => {
                draft.alias = Some(alias.of.to_string());
                draft.node = alias.node.as_ref().map(ToString::to_string);
            }
        }
        // What the kind does not have was not given.
        let key = draft.kinds().first().copied().unwrap_or_default();
        if key == "ttl" {
            draft.interval = None;
        }
        if matches!(key, "ttl" | "pid" | "pid_file" | "alias") {
            draft.timeout = None;
        }
        draft
    }
}

impl CheckDraft {
    fn show_http(&mut self, http: &HttpCheck) {
        self.http = Some(http.url.to_string());
        self.method = Some(http.method.clone());
        self.headers = (!http.headers.is_empty()).then(|| http.headers.clone());
        (self.body, self.contains) = (http.body.clone(), http.contains.clone());
        self.status = (!http.status.0.is_empty()).then(|| StatusDraft::from(&http.status));
        (self.redirects, self.tls) = (Some(http.redirects), http.tls.clone());
    }
}

/// The kinds, as people write them.
const KINDS: [&str; 10] = ["http", "tcp", "udp", "grpc", "ttl", "script", "pid", "pid_file", "dns", "alias"];
/// The shortest time between two runs of a check.
pub const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// The longest time of any kind: beyond it lies a mistake, and the end of the clock.
pub(super) const MAX_SPAN: Duration = Duration::from_secs(36_500 * 86_400);
const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// Every text of a check is kept in memory and on disk.
const MAX_TEXT: usize = 64 << 10;
/// Fits into one packet on any path.
const MAX_DATAGRAM: usize = 1200;
const MAX_METHOD: usize = 16;
const MAX_HEADERS: usize = 32;
const MAX_HEADER_BYTES: usize = 8 << 10;

#[cfg(test)]
mod tests;
