//! Floor 0, the words: parsed once at the border, and cannot be wrong afterwards.

mod health;
mod name;
mod node;
mod service;
mod time;

pub use health::{
    CheckDraft, CheckKind, CheckName, CheckSpec, CheckStatus, FieldError, Health, HealthReport, parse_duration,
};
pub use name::{Host, InstanceId, Invalid, MeshName, NodeName, PortName, ServiceName, Tag};
pub use node::{Epoch, MemberState, Node, NodeId};
pub use service::{
    MAX_CHECKS, MAX_META, MAX_META_BYTES, MAX_PORTS, MAX_TAGS, Port, Registration, RegistrationDraft, Weight,
};
pub use time::Time;
