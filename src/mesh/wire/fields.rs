//! How single fields are written where serde's own way is longer: states as numbers, bodies as bytes.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::model::MemberState;

pub(super) mod state_number {
    use super::{Deserialize, Deserializer, MemberState, Serialize, de};

    pub(in crate::mesh::wire) fn serialize<S: serde::Serializer>(
        state: &MemberState,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        (*state as u8).serialize(to)
    }

    pub(in crate::mesh::wire) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<MemberState, D::Error> {
        Ok(match u8::deserialize(from)? {
            0 => MemberState::Alive,
            1 => MemberState::Suspect,
            2 => MemberState::Down,
            3 => MemberState::Left,
            _ => return Err(de::Error::custom("no such state")),
        })
    }
}

pub(super) mod optional_bytes {
    use super::{Deserializer, de, fmt};

    pub(in crate::mesh::wire) fn serialize<S: serde::Serializer>(
        body: &Option<&[u8]>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match body {
            Some(bytes) => to.serialize_bytes(bytes),
            None => to.serialize_unit(),
        }
    }

    pub(in crate::mesh::wire) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<&'de [u8]>, D::Error> {
        struct Body;
        impl<'de> de::Visitor<'de> for Body {
            type Value = Option<&'de [u8]>;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("bytes or nil")
            }
            fn visit_borrowed_bytes<E: de::Error>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
                Ok(Some(bytes))
            }
            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(None)
            }
        }
        from.deserialize_any(Body)
    }
}
