//! What a client of another API says of an instance and Hobnob has no use for. It is kept, carried to every node and
//! read back as it was written: clients that find their words changed register again for ever.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{CheckName, FieldError};

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

/// A row that stands for something else than an instance of a service, and is not shown as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It holds the checks of its node itself.
    NodeChecks,
    /// It is a word to all nodes.
    Event,
}

impl Echo {
    /// Checks the limits that the types cannot express.
    pub(super) fn validate(&self) -> Result<(), FieldError> {
        if self.tagged_addresses.len() > MAX_ADDRESSES {
            return Err(FieldError::new("tagged_addresses", "holds more than 16"));
        }
        if self.checks.len() > super::MAX_CHECKS {
            return Err(FieldError::new("checks", "holds more than 64"));
        }
        Ok(())
    }
}

/// What serde skips.
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// The most further addresses of one instance.
const MAX_ADDRESSES: usize = 16;
