//! What a user asks for: a registration, checked once where it enters (RFC 2782 for ports, priorities and weights,
//! RFC 6763 section 6 for the pairs that become TXT).

use std::{collections::BTreeMap, num::NonZeroU16, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    CheckDraft, CheckKind, CheckSpec, ConsulDraft, Echo, EchoNode, FieldError, Host, InstanceId, Invalid, PortName,
    ServiceName, Tag,
    draft::{MAX_SPAN, MIN_INTERVAL},
};

/// A TCP or UDP port that somebody can listen on: 1 to 65535.
pub type Port = NonZeroU16;

/// The share of traffic an instance asks for, relative to its siblings (RFC 2782): 0 to 65535.
pub type Weight = u16;

/// The most tags one registration may carry.
pub const MAX_TAGS: usize = 256;
/// The most pairs of meta data one registration may carry.
pub const MAX_META: usize = 64;
/// The most bytes a key of meta data may have, and the most its value may have.
pub const MAX_META_BYTES: (usize, usize) = (128, 512);
/// The most named ports one registration may carry.
pub const MAX_PORTS: usize = 16;
/// The most checks one registration may carry: each is a task, and a line in every answer about the instance.
pub const MAX_CHECKS: usize = 64;

/// One service on one node, as its owner asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Tells this node's instances apart; the service's name unless given.
    pub id: InstanceId,
    /// The service it is an instance of.
    pub name: ServiceName,
    /// Where it listens; the node's own address when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Host>,
    /// Its main port; a service without one has A and AAAA answers, and SRV answers only for its named ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    /// Further ports by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<PortName, Port>,
    /// Tags, in the order given.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "super::list")]
    pub tags: Vec<Tag>,
    /// Free pairs of text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
    /// Its share of traffic while passing.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: Weight,
    /// Its share while a check warns; [`Registration::weight`] unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning_weight: Option<Weight>,
    /// Lower is tried first (RFC 2782).
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub priority: u16,
    /// How its health is found out. Kept by the owner alone: other nodes are told results, not recipes.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "super::list")]
    pub checks: Vec<CheckSpec>,
    /// Its node Down for so long, nobody lists it any more: what [`Registration::published`] says of its checks. A day at
    /// most; 15 minutes when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lapses_after: Option<Duration>,
    /// What was said of it in Consul's words and has none of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub echo: Option<Arc<Echo>>,
}

impl Registration {
    /// A registration of one instance of `name` at `port`, called after its service.
    ///
    /// # Errors
    /// When `name` is not a DNS label or `port` is 0.
    pub fn new(name: &str, port: u16) -> Result<Self, Invalid> {
        let port = Port::new(port).ok_or_else(|| Invalid::new("port", "0", "must be 1 to 65535"))?;
        Ok(Self {
            id: name.try_into()?,
            name: name.try_into()?,
            address: None,
            port: Some(port),
            ports: BTreeMap::new(),
            tags: Vec::new(),
            meta: BTreeMap::new(),
            weight: 1,
            warning_weight: None,
            priority: 1,
            checks: Vec::new(),
            lapses_after: None,
            echo: None,
        })
    }

    /// The same under another id: needed when one node runs several instances of a service.
    #[must_use]
    pub fn id(mut self, id: InstanceId) -> Self {
        self.id = id;
        self
    }

    /// The same at another address than the node's own.
    #[must_use]
    pub fn address(mut self, address: Host) -> Self {
        self.address = Some(address);
        self
    }

    /// The same with one more tag.
    #[must_use]
    pub fn tag(mut self, tag: Tag) -> Self {
        self.tags.push(tag);
        self
    }

    /// The same with one more pair of meta data.
    #[must_use]
    pub fn meta(mut self, key: &str, value: &str) -> Self {
        self.meta.insert(key.into(), value.into());
        self
    }

    /// The same with one more check.
    #[must_use]
    pub fn check(mut self, check: CheckSpec) -> Self {
        self.checks.push(check);
        self
    }

    /// Its share of traffic while a check warns: for who speaks Consul's words 1 unless given.
    #[must_use]
    pub fn weight_while_warning(&self) -> Weight {
        let consul = || self.echo.as_ref().map(|echo| echo.warning_weight.unwrap_or(1));
        self.warning_weight.or_else(consul).unwrap_or(self.weight)
    }

    /// Whether it stands for something else than an instance: a check of a node, an event.
    #[must_use]
    pub fn has_role(&self) -> bool {
        self.echo.as_ref().is_some_and(|echo| echo.role.is_some())
    }

    /// Whether it holds the checks of its node itself.
    pub(crate) fn speaks_of_node(&self) -> bool {
        self.echo.as_ref().is_some_and(|echo| echo.role == Some(super::Role::NodeChecks))
    }

    /// The node that runs no agent and that it was registered for, if it was.
    #[must_use]
    pub fn foreign(&self) -> Option<&EchoNode> {
        self.echo.as_ref()?.node.as_deref()
    }

    /// What several agents may speak of, each in a row of its own: what stands on a node without an agent, or a client in
    /// Eureka's words by the port it has there. By another address or port that may be a namesake: many are called by the
    /// name of a container. `None` for what is this agent's alone.
    #[must_use]
    pub(crate) fn subject(&self) -> Option<(String, Option<Port>)> {
        let echo = self.echo.as_ref()?;
        match &echo.node {
            Some(node) => Some((node.name.to_ascii_lowercase(), None)),
            None if echo.eureka.is_empty() => None,
            None => Some((self.address.as_ref().map(ToString::to_string).unwrap_or_default(), self.port)),
        }
    }

    /// Whether it is the last word of who has gone: nobody is shown it, nor what others said of the same before.
    #[must_use]
    pub(crate) fn is_taken_back(&self) -> bool {
        self.echo.as_ref().is_some_and(|echo| echo.eureka.contains_key(super::Echo::TAKEN_BACK))
    }

    /// When it was said, where several agents may say it; 0 where none does.
    #[must_use]
    pub fn said(&self) -> u64 {
        self.echo.as_ref().map_or(0, |echo| echo.said)
    }

    /// What other nodes are told. Of a node that is gone all checks are critical, so the first to deregister does.
    #[must_use]
    pub fn published(&self) -> Self {
        let first = self.checks.iter().filter_map(|check| check.deregister_after).min();
        Self { checks: Vec::new(), lapses_after: first.or(self.lapses_after), ..self.clone() }
    }

    /// Checks the limits that the types cannot express.
    ///
    /// # Errors
    /// Names the field that is over its limit.
    pub fn validate(&self) -> Result<(), FieldError> {
        let over = |field: &str, limit: usize| Err(FieldError::new(field, &format!("holds more than {limit}")));
        if self.tags.len() > MAX_TAGS {
            return over("tags", MAX_TAGS);
        }
        if self.meta.len() > MAX_META {
            return over("meta", MAX_META);
        }
        if self.ports.len() > MAX_PORTS {
            return over("ports", MAX_PORTS);
        }
        if self.checks.len() > MAX_CHECKS {
            return over("checks", MAX_CHECKS);
        }
        let (key_limit, value_limit) = MAX_META_BYTES;
        for (key, value) in &self.meta {
            let field = format!("meta.{key}");
            if key.is_empty() || key.len() > key_limit || key.chars().any(char::is_control) {
                return Err(FieldError::new(&field, "needs a key of 1 to 128 bytes without control characters"));
            }
            if value.len() > value_limit {
                return Err(FieldError::new(&field, "is longer than 512 bytes"));
            }
        }
        if let Some(echo) = &self.echo {
            echo.validate()?;
        }
        for (at, check) in self.checks.iter().enumerate() {
            self.validate_check(at, check)?;
        }
        Ok(())
    }

    fn validate_check(&self, at: usize, check: &CheckSpec) -> Result<(), FieldError> {
        let blame = |field: &str, why: &str| Err(FieldError::new(&format!("checks[{at}].{field}"), why));
        if check.interval < MIN_INTERVAL || check.kind.ttl().is_some_and(|ttl| ttl < MIN_INTERVAL) {
            return blame(if check.kind.ttl().is_some() { "ttl" } else { "interval" }, "must be at least 100ms");
        }
        let spans = [
            ("timeout", Some(check.timeout)),
            ("deregister_after", check.deregister_after),
            ("interval", Some(check.interval)),
        ];
        if let Some((field, _)) = spans.into_iter().find(|(_, span)| span.is_some_and(|span| span > MAX_SPAN)) {
            return blame(
                if check.kind.ttl().is_some() && field == "interval" { "ttl" } else { field },
                "must be at most 36500d",
            );
        }
        if self.checks[..at].iter().any(|other| other.id == check.id) {
            return blame("id", "is used twice, given or derived from the name");
        }
        if check.kind.target().is_some_and(|target| !target.has_port()) && self.port.is_none() {
            return blame(check.kind.as_str(), "names no port, and neither does the registration");
        }
        match &check.kind {
            CheckKind::Alias(alias) if alias.node.is_none() && alias.of == self.id => {
                blame("alias", "is the instance itself: its health would be its own cause")
            }
            _ => Ok(()),
        }
    }

    /// Whether it has a check that only who may write this machine's files may ask for, and which.
    #[must_use]
    pub fn local_only_check(&self) -> Option<&CheckSpec> {
        self.checks.iter().find(|check| check.kind.is_local_only())
    }
}

/// A registration as people write it, in JSON and TOML alike; [`RegistrationDraft::build`] makes it a [`Registration`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "agent", derive(schemars::JsonSchema))]
pub struct RegistrationDraft {
    /// See [`Registration::id`].
    pub id: Option<String>,
    /// See [`Registration::name`].
    pub name: String,
    /// See [`Registration::address`].
    pub address: Option<String>,
    /// See [`Registration::port`].
    pub port: Option<i64>,
    /// See [`Registration::ports`].
    pub ports: BTreeMap<String, i64>,
    /// See [`Registration::tags`].
    pub tags: Vec<String>,
    /// See [`Registration::meta`].
    pub meta: BTreeMap<String, String>,
    /// See [`Registration::weight`].
    pub weight: Option<i64>,
    /// See [`Registration::warning_weight`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning_weight: Option<i64>,
    /// See [`Registration::priority`].
    pub priority: Option<i64>,
    /// See [`Registration::checks`].
    pub checks: Vec<CheckDraft>,
    /// What was said in Consul's words; there, be it empty, for all that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consul: Option<ConsulDraft>,
}

impl RegistrationDraft {
    /// An instance of `name` at `port`, called after its service.
    #[must_use]
    pub fn new(name: &str, port: u16) -> Self {
        Self { name: name.into(), port: Some(port.into()), ..Self::default() }
    }

    /// The same under another id: needed when one node runs several instances of a service.
    #[must_use]
    pub fn id(self, id: &str) -> Self {
        Self { id: Some(id.into()), ..self }
    }

    /// The same at another address than the node's own.
    #[must_use]
    pub fn address(self, address: &str) -> Self {
        Self { address: Some(address.into()), ..self }
    }

    /// The same with one more tag.
    #[must_use]
    pub fn tag(mut self, tag: &str) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// The same with one more pair of meta data.
    #[must_use]
    pub fn meta(mut self, key: &str, value: &str) -> Self {
        self.meta.insert(key.into(), value.into());
        self
    }

    /// The same with one more named port.
    #[must_use]
    pub fn named_port(mut self, name: &str, port: u16) -> Self {
        self.ports.insert(name.into(), port.into());
        self
    }

    /// The same with one more check.
    #[must_use]
    pub fn check(mut self, check: CheckDraft) -> Self {
        self.checks.push(check);
        self
    }

    /// The registration this draft asks for.
    ///
    /// # Errors
    /// Names the first field that is wrong, and why.
    pub fn build(self) -> Result<Registration, FieldError> {
        if self.name.is_empty() {
            return Err(FieldError::new("name", "is missing: a registration names its service"));
        }
        // Consul takes any name.
        let name = if self.consul.is_some() { ServiceName::any(&self.name) } else { self.name.as_str().try_into() };
        let name = at("name", name)?;
        let id = at("id", self.id.as_deref().unwrap_or(&self.name).try_into())?;
        let written = self.address.filter(|a| !a.is_empty());
        let address = written.as_deref().map(|a| at("address", a.try_into())).transpose()?;
        let port = self.port.map(|p| port("port", p)).transpose()?;
        let mut ports = BTreeMap::new();
        for (key, number) in self.ports {
            let field = format!("ports.{key}");
            if ports.insert(at(&field, key.as_str().try_into())?, self::port(&field, number)?).is_some() {
                return Err(FieldError::new(&field, "is there twice: case does not tell names of ports apart"));
            }
        }
        let mut tags = Vec::with_capacity(self.tags.len().min(MAX_TAGS));
        for (n, tag) in self.tags.iter().enumerate() {
            tags.push(at(&format!("tags[{n}]"), tag.as_str().try_into())?);
        }
        let weight = u16_field("weight", self.weight)?;
        let warning_weight = self.warning_weight.map(|weight| u16_field("warning_weight", Some(weight))).transpose()?;
        let priority = u16_field("priority", self.priority)?;
        let mut checks: Vec<CheckSpec> = Vec::with_capacity(self.checks.len());
        for (n, check) in self.checks.into_iter().enumerate() {
            checks.push(check.build(n, &format!("checks[{n}]"))?);
        }
        let mut built = Registration {
            id,
            name,
            address,
            port,
            ports,
            tags,
            meta: self.meta,
            weight,
            warning_weight,
            priority,
            checks,
            lapses_after: None,
            echo: None,
        };
        if let Some(consul) = self.consul {
            consul.put_into(&mut built, written)?;
        }
        built.validate()?;
        Ok(built)
    }
}

impl TryFrom<RegistrationDraft> for Registration {
    type Error = FieldError;
    fn try_from(draft: RegistrationDraft) -> Result<Self, FieldError> {
        draft.build()
    }
}

fn at<T>(field: &str, parsed: Result<T, Invalid>) -> Result<T, FieldError> {
    parsed.map_err(|invalid| FieldError::new(field, &format!("{:?} {}", invalid.text, invalid.why)))
}

fn port(field: &str, number: i64) -> Result<Port, FieldError> {
    parse_port(number).map_err(|why| FieldError::new(field, &why))
}

pub(super) fn parse_port(number: i64) -> Result<Port, String> {
    u16::try_from(number).ok().and_then(Port::new).ok_or_else(|| format!("is {number}; a port is 1 to 65535"))
}

fn u16_field(field: &str, number: Option<i64>) -> Result<u16, FieldError> {
    let number = number.unwrap_or(1);
    u16::try_from(number).map_err(|_| FieldError::new(field, &format!("is {number}; it must be 0 to 65535 (RFC 2782)")))
}

const fn one() -> u16 {
    1
}

const fn is_one(number: &u16) -> bool {
    *number == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft() -> RegistrationDraft {
        RegistrationDraft { name: "web".into(), port: Some(8080), ..RegistrationDraft::default() }
    }

    #[test]
    fn a_draft_names_the_field_that_is_wrong() {
        let wrong = |change: fn(&mut RegistrationDraft)| {
            let mut draft = draft();
            change(&mut draft);
            draft.build().unwrap_err().field
        };
        assert_eq!(wrong(|d| d.name = String::new()), "name");
        assert_eq!(wrong(|d| d.name = "a b".into()), "name");
        let consul =
            |name: &str| RegistrationDraft { name: name.into(), consul: Some(ConsulDraft::default()), ..draft() };
        assert_eq!(consul("a\n").build().unwrap_err().field, "name");
        assert_eq!(consul("a b").build().unwrap().name.as_str(), "a b");
        assert_eq!(wrong(|d| d.port = Some(0)), "port");
        assert_eq!(wrong(|d| d.port = Some(65_536)), "port");
        assert_eq!(wrong(|d| d.weight = Some(-1)), "weight");
        assert_eq!(wrong(|d| d.address = Some("0.0.0.0".into())), "address");
        assert_eq!(wrong(|d| d.tags = vec!["ok".into(), "\n".into()]), "tags[1]");
        assert_eq!(wrong(|d| d.tags = vec![String::from("t"); 257]), "tags");
        assert_eq!(
            wrong(|d| d.checks = vec![CheckDraft { ttl: Some("1s".into()), ..CheckDraft::default() }; 65]),
            "checks"
        );
        assert_eq!(wrong(|d| d.ports.extend([("http".into(), 0)])), "ports.http");
        assert_eq!(wrong(|d| d.ports.extend([("HTTP".into(), 80), ("http".into(), 81)])), "ports.http");
        assert_eq!(wrong(|d| d.meta.extend([("k".into(), "v".repeat(513))])), "meta.k");
    }

    #[test]
    fn a_time_beyond_all_clocks_is_refused() {
        for (field, check) in [
            ("interval", CheckDraft { interval: Some("99999999999d".into()), ..CheckDraft::tcp("") }),
            ("timeout", CheckDraft { timeout: Some("36501d".into()), ..CheckDraft::tcp("") }),
            ("deregister_after", CheckDraft { deregister_after: Some("36501d".into()), ..CheckDraft::tcp("") }),
            ("ttl", CheckDraft { ttl: Some("1000000h".into()), ..CheckDraft::default() }),
        ] {
            let wrong = RegistrationDraft { checks: vec![check], ..draft() }.build().unwrap_err();
            assert_eq!(wrong, FieldError::new(&format!("checks[0].{field}"), "must be at most 36500d"));
        }
    }

    #[test]
    fn the_weight_while_warning_is_what_was_asked_for() {
        let built = RegistrationDraft { weight: Some(10), ..draft() }.build().unwrap();
        assert_eq!(built.weight_while_warning(), 10);
        assert_eq!(Registration { warning_weight: Some(0), ..built.clone() }.weight_while_warning(), 0);
        let consul = |warning_weight| Some(Arc::new(Echo { warning_weight, ..Echo::default() }));
        assert_eq!(Registration { echo: consul(None), ..built.clone() }.weight_while_warning(), 1);
        assert_eq!(Registration { echo: consul(Some(3)), ..built }.weight_while_warning(), 3);
    }

    #[test]
    fn an_id_is_the_name_unless_given() {
        assert_eq!(draft().build().unwrap().id.as_str(), "web");
    }
}
