//! What a row is about and what it says: where a book's keys and bodies become words, and words bytes.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    check::MAX_OUTPUT,
    event::Rejected,
    maintenance::is_reason,
    wire::{self, MAX_ROW},
};
use crate::model::{Health, HealthReport, InstanceId, MAX_CHECKS, Node, Registration};

/// What a row is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Node,
    Service(InstanceId),
    Health(InstanceId),
}

impl Key {
    /// The node's own row.
    pub(super) const NODE: &str = "n";

    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None if text == Self::NODE => Some(Self::Node),
            Some(("s", id)) => id.try_into().ok().map(Self::Service),
            Some(("h", id)) => id.try_into().ok().map(Self::Health),
            _ => None,
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Node => Self::NODE.into(),
            Self::Service(id) => format!("s:{id}"),
            Self::Health(id) => format!("h:{id}"),
        }
    }
}

/// What a live row says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Claim {
    Node(Arc<Node>),
    Service(Arc<Registration>),
    Health(Arc<HealthReport>),
}

impl Claim {
    pub(super) fn parse(key: &Key, body: &[u8]) -> Option<Self> {
        match key {
            Key::Node => wire::decode::<Node>(body)
                .ok()
                .filter(|node| is_reachable(node) && node.maintenance.as_deref().is_none_or(is_reason))
                .map(|node| Self::Node(Arc::new(node))),
            Key::Service(id) => wire::decode::<Registration>(body)
                .ok()
                .filter(|registration| registration.id == *id && registration.validate().is_ok())
                .map(|registration| Self::Service(Arc::new(registration))),
            Key::Health(_) => {
                wire::decode::<HealthReport>(body).ok().filter(is_modest).map(|report| Self::Health(Arc::new(report)))
            }
        }
    }

    pub(super) fn encode(&self) -> Bytes {
        match self {
            Self::Node(node) => wire::encode_named(&**node),
            Self::Service(registration) => wire::encode_named(&**registration),
            Self::Health(report) => wire::encode_named(&**report),
        }
    }
}

/// A row or a book is over its limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TooLarge {
    Row(Key),
    Book,
}

impl From<TooLarge> for Rejected {
    fn from(too_large: TooLarge) -> Self {
        match too_large {
            TooLarge::Row(Key::Node) => Self::Large("what this node says of itself".into()),
            TooLarge::Row(Key::Service(id) | Key::Health(id)) => Self::Large(format!("{id:?}")),
            TooLarge::Book => Self::Full("50,000 rows or 32 MiB of registrations"),
        }
    }
}

/// What a row takes of a page.
pub(super) fn size(key: &Key, body: Option<&Bytes>) -> Result<usize, TooLarge> {
    let size = key.text().len() + body.map_or(0, Bytes::len) + ROW_HEAD;
    if size > MAX_ROW { Err(TooLarge::Row(key.clone())) } else { Ok(size) }
}

/// Refuses a registration that fits into no row.
///
/// # Errors
/// [`Rejected::Large`].
pub fn fits(registration: &Registration) -> Result<(), Rejected> {
    let claim = Claim::Service(Arc::new(registration.published()));
    size(&Key::Service(registration.id.clone()), Some(&claim.encode()))?;
    Ok(())
}

/// Whether an honest node can have said this of its checks.
fn is_modest(report: &HealthReport) -> bool {
    report.checks.len() <= MAX_CHECKS
        && report.checks.iter().all(|check| check.status != Health::Maintenance && check.output.len() <= MAX_OUTPUT)
        && report.maintenance.as_deref().is_none_or(is_reason)
}

/// Whether others could dial a node that says this of itself.
pub(super) fn is_reachable(node: &Node) -> bool {
    let count = node.addresses.len();
    (1..=Node::MAX_ADDRESSES).contains(&count)
        && node.addresses.iter().all(|address| !address.ip().is_unspecified() && address.port() != 0)
}

/// What a row costs on the wire beside its key and its body.
pub(super) const ROW_HEAD: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CheckStatus;

    #[test]
    fn a_report_beyond_what_an_owner_may_write_is_no_claim() {
        let check = |status, length| {
            let (id, output) = ("c".try_into().unwrap(), "x".repeat(length).into());
            CheckStatus { id, name: "c".try_into().unwrap(), status, output, since: 0, before: None }
        };
        let fine = check(Health::Warning, MAX_OUTPUT);
        for (checks, maintenance, taken) in [
            (vec![fine.clone()], None, true),
            (vec![check(Health::Passing, 0); MAX_CHECKS], Some("new disk".to_owned()), true),
            (vec![check(Health::Passing, 0); MAX_CHECKS + 1], None, false),
            (vec![check(Health::Passing, MAX_OUTPUT + 1)], None, false),
            (vec![fine, check(Health::Maintenance, 0)], None, false),
            (Vec::new(), Some("x".repeat(513)), false),
            (Vec::new(), Some("a\nb".to_owned()), false),
        ] {
            let report = HealthReport { checks, maintenance: maintenance.map(Into::into), kept: None };
            let body = wire::encode_named(&report);
            assert_eq!(Claim::parse(&Key::Health("web".try_into().unwrap()), &body).is_some(), taken, "{report:?}");
        }
    }
}
