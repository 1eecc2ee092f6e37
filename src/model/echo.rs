//! What a client of another API says of an instance and Hobnob has no use for. It is kept, carried to every node and
//! read back as it was written: clients that find their words changed register again for ever.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{CheckName, FieldError, Host, Registration};

/// The words beside a registration; limits are checked where they come in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Echo {
    /// The address as it was written, where it is not how we write it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Further addresses, by what they are for: `lan`, `wan`, …
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tagged_addresses: BTreeMap<String, (String, u16)>,
    /// The share of traffic while a check warns; 1 unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning_weight: Option<u16>,
    /// Whether others may change the tags.
    #[serde(skip_serializing_if = "is_false")]
    pub enable_tag_override: bool,
    /// What was said of each check.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub checks: BTreeMap<CheckName, EchoCheck>,
    /// The node it was registered for, where that is none of the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Arc<EchoNode>>,
    /// When that was said of the node, in milliseconds since 1970: what stands on it beside may have been told older words.
    #[serde(skip_serializing_if = "is_nought")]
    pub node_said: u64,
    /// When the rest was said, in milliseconds since 1970: of what several agents say of one instance on such a node, or in
    /// Eureka's words, each says it later than what it has seen of the others, and the last word counts.
    #[serde(skip_serializing_if = "is_nought")]
    pub said: u64,
    /// What was said in Eureka's words, by field.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub eureka: BTreeMap<String, String>,
    /// What the row is for besides an instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
}

/// What was said of one check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EchoCheck {
    /// A note for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub notes: String,
    /// Consul's word for its kind: `ttl`, `http`, …; empty for one that nobody runs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// What whoever looks there is to look at, as JSON; empty where nothing was said.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub definition: String,
}

/// A node that runs no agent: somebody registered it by way of another one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EchoNode {
    /// Its name.
    pub name: String,
    /// Its id, as given; may be empty.
    pub id: String,
    /// Its address.
    pub address: String,
    /// Further addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tagged_addresses: Option<BTreeMap<String, String>>,
    /// Free pairs of text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meta: Option<BTreeMap<String, String>>,
}

impl EchoNode {
    /// Whether this is the node of that name, however it is spelled.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

#[cfg(feature = "agent")]
impl Registration {
    /// Whether both say the same, whenever that was.
    pub(crate) fn says_as(&self, other: &Self) -> bool {
        let timeless = |row: &Self| {
            let echo = row.echo.as_deref().map(|echo| Arc::new(Echo { said: 0, node_said: 0, ..echo.clone() }));
            Self { echo, ..row.clone() }
        };
        self == other || (self.echo.is_some() && other.echo.is_some() && timeless(self) == timeless(other))
    }

    /// The same on its node as that is known now; `None` if that is how it stands.
    #[must_use]
    pub fn on(&self, node: &Arc<EchoNode>) -> Option<Self> {
        let echo = self.echo.as_ref().filter(|echo| echo.node.as_ref().is_some_and(|own| own != node))?;
        let mut row = self.clone();
        // Programs are sent to the service's own address, else to its node's.
        if echo.address.as_deref() == Some("") {
            row.address = Host::try_from(&*node.address).ok().or(row.address);
        }
        row.echo = Some(Arc::new(Echo { node: Some(Arc::clone(node)), ..Echo::clone(echo) }));
        Some(row)
    }
}

/// The name under which rows with the checks of nodes themselves stand in the books.
pub(crate) const NODE_CHECKS: &str = "hobnob-node-checks";

/// A row that stands for something else than an instance of a service, and is not shown as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It holds the checks of its node itself.
    NodeChecks,
    /// It is a word to all nodes.
    Event,
}

/// What a definition in Consul's words says besides, as people write it. A registration that has this, be it empty, has
/// Consul's checks: their ids are those of the node, and their results count by [`super::Rules::Consul`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "agent", derive(schemars::JsonSchema))]
pub struct ConsulDraft {
    /// Further addresses, by what they are for: `lan`, `wan`, …
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tagged_addresses: BTreeMap<String, TaggedAddress>,
    /// Whether others may change the tags.
    #[serde(skip_serializing_if = "is_false")]
    pub enable_tag_override: bool,
    /// Notes for people, by the ids of checks.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<String, String>,
}

/// A further address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "agent", derive(schemars::JsonSchema))]
pub struct TaggedAddress {
    /// The address.
    pub address: String,
    /// The port; 0 for none.
    pub port: i64,
}

impl ConsulDraft {
    /// The draft that says the same; `None` where there is nothing of Consul's, or not of one's own instance.
    #[must_use]
    pub fn of(echo: &Echo) -> Option<Self> {
        if echo.role.is_some() || echo.node.is_some() || !echo.eureka.is_empty() {
            return None;
        }
        let tagged = |(kind, (address, port)): (&String, &(String, u16))| {
            (kind.clone(), TaggedAddress { address: address.clone(), port: (*port).into() })
        };
        let notes = echo.checks.iter().filter(|(_, said)| !said.notes.is_empty());
        Some(Self {
            tagged_addresses: echo.tagged_addresses.iter().map(tagged).collect(),
            enable_tag_override: echo.enable_tag_override,
            notes: notes.map(|(id, said)| (id.to_string(), said.notes.clone())).collect(),
        })
    }

    /// Gives a registration these words; `address` is its own as it was written.
    pub(super) fn put_into(self, registration: &mut Registration, address: Option<String>) -> Result<(), FieldError> {
        let mut tagged_addresses = BTreeMap::new();
        for (kind, TaggedAddress { address, port }) in self.tagged_addresses {
            let wrong = |why: &str| FieldError::new(&format!("consul.tagged_addresses.{kind}"), why);
            Host::try_from(&*address).map_err(|invalid| wrong(&invalid.to_string()))?;
            let port = u16::try_from(port).map_err(|_| wrong("has no port that is one"))?;
            if kind.is_empty() || kind.len() > MAX_WORD {
                return Err(wrong("needs a name of 1 to 64 bytes"));
            }
            tagged_addresses.insert(kind, (address, port));
        }
        let mut checks = BTreeMap::new();
        for check in &mut registration.checks {
            let notes = self.notes.get(check.id.as_str()).cloned().unwrap_or_default();
            checks.insert(
                check.id.clone(),
                EchoCheck { notes, kind: check.kind.as_str().into(), ..EchoCheck::default() },
            );
            *check = check.clone().by_consuls_rules();
        }
        let is_other = |text: &String| registration.address.as_ref().is_some_and(|host| host.to_string() != *text);
        registration.echo = Some(Arc::new(Echo {
            address: address.filter(is_other),
            tagged_addresses,
            enable_tag_override: self.enable_tag_override,
            checks,
            ..Echo::default()
        }));
        Ok(())
    }
}

impl Echo {
    /// Among the words of Eureka's clients: this one has gone, and says so until all that it said elsewhere is over.
    pub(crate) const TAKEN_BACK: &str = "takenBack";

    /// Checks the limits that the types cannot express.
    pub(super) fn validate(&self) -> Result<(), FieldError> {
        if self.tagged_addresses.len() > MAX_ADDRESSES {
            return Err(FieldError::new("tagged_addresses", "holds more than 16"));
        }
        if self.checks.len() > super::MAX_CHECKS {
            return Err(FieldError::new("checks", "holds more than 64"));
        }
        if let Some((id, _)) = self.checks.iter().find(|(_, said)| said.notes.len() > MAX_NOTES) {
            return Err(FieldError::new(&format!("consul.notes.{id}"), "is longer than 1024 bytes"));
        }
        Ok(())
    }
}

/// What serde skips.
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// What serde skips.
const fn is_nought(number: &u64) -> bool {
    *number == 0
}

/// The most further addresses of one instance.
const MAX_ADDRESSES: usize = 16;
/// What an address may be for.
const MAX_WORD: usize = 64;
/// A note of a check is a few lines.
pub const MAX_NOTES: usize = 1024;
