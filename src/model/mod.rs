//! Floor 0, the words: parsed once at the border, and cannot be wrong afterwards.

mod echo;
mod health;
mod name;
mod node;
mod service;
mod time;

pub use echo::{Echo, EchoCheck, EchoNode, Role};
pub use health::{
    CheckDraft, CheckKind, CheckName, CheckSpec, CheckStatus, FieldError, Health, HealthReport, parse_duration,
};
pub use name::{Host, InstanceId, Invalid, MeshName, NodeName, PortName, ServiceName, Tag};
pub use node::{Epoch, MemberState, Node, NodeId};
pub use service::{
    MAX_CHECKS, MAX_META, MAX_META_BYTES, MAX_PORTS, MAX_TAGS, Port, Registration, RegistrationDraft, Weight,
};
pub use time::Time;

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
