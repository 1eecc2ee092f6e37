//! Floor 0, the words: parsed once at the border, and cannot be wrong afterwards.

mod address;
mod check;
mod draft;
mod echo;
mod health;
mod hint;
mod name;
mod node;
mod recipe;
mod service;
mod statuses;
mod target;
mod time;

pub use address::ipv4_within;
pub use check::{
    Alias, CheckKind, CheckName, CheckSpec, DnsCheck, DnsRecord, GrpcCheck, HttpCheck, ProcessRef, Rules, TcpCheck,
    TlsOptions, UdpCheck,
};
pub use draft::{CheckDraft, MIN_INTERVAL};
pub(crate) use echo::NODE_CHECKS;
pub use echo::{ConsulDraft, Echo, EchoCheck, EchoNode, MAX_NOTES, Role, TaggedAddress};
pub use health::{Before, CheckStatus, FieldError, Health, HealthReport};
pub use hint::with_hint;
#[cfg(feature = "agent")]
pub(crate) use name::check_datacenter;
pub use name::{Host, InstanceId, Invalid, MeshName, NodeName, PortName, ServiceName, Tag};
pub use node::{Epoch, MemberState, Node, NodeId};
pub(crate) use recipe::Recipe;
pub use service::{
    MAX_CHECKS, MAX_META, MAX_META_BYTES, MAX_PORTS, MAX_TAGS, Port, Registration, RegistrationDraft, Weight,
};
pub use statuses::{StatusDraft, Statuses};
pub use target::{Target, Url};
pub(crate) use time::millis;
#[cfg(feature = "agent")]
pub(crate) use time::parse_go_duration;
pub use time::{Time, format_duration, parse_duration, secs};

use serde::{Deserialize, Deserializer, de};

/// Reads a list that grows only by elements that are there, whatever length its head claims: five hostile bytes must not
/// allocate a megabyte.
pub(crate) fn list<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    struct Elements<T>(std::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Elements<T> {
        type Value = Vec<T>;
        fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            out.write_str("a list")
        }
        fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut elements = Vec::new();
            while let Some(element) = seq.next_element()? {
                elements.push(element);
            }
            Ok(elements)
        }
    }
    from.deserialize_seq(Elements(std::marker::PhantomData))
}
