//! Which HTTP status codes are passing, and how people write them.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize, de};

/// Status codes, as ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Statuses(pub Vec<RangeInclusive<u16>>);

impl Statuses {
    /// Whether `code` is one of them; without any, whether it is 2xx.
    #[must_use]
    pub fn admit(&self, code: u16) -> bool {
        if self.0.is_empty() { (200..=299).contains(&code) } else { self.0.iter().any(|range| range.contains(&code)) }
    }
}

/// Status codes as people write them: a number, `2xx`, `200-204`, or a list of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
#[cfg_attr(feature = "agent", derive(schemars::JsonSchema))]
pub struct StatusDraft(pub Vec<String>);

impl StatusDraft {
    pub(super) fn build(&self) -> Result<Statuses, String> {
        if self.0.is_empty() || self.0.len() > MAX_STATUSES {
            return Err(format!("names none, or more than {MAX_STATUSES}"));
        }
        let parse = |text: &String| {
            let text = text.trim();
            let class =
                text.strip_suffix("xx").and_then(|class| class.parse::<u16>().ok()).map(|c| (c * 100, c * 100 + 99));
            let (from, to) = text.split_once('-').unwrap_or((text, text));
            let range = class.or_else(|| Some((from.trim().parse().ok()?, to.trim().parse().ok()?)));
            let range = range.filter(|(from, to)| from <= to && *from >= 100 && *to <= 599);
            range
                .map(|(from, to)| from..=to)
                .ok_or_else(|| format!("{text:?} is no status such as 200, 2xx or 200-204"))
        };
        self.0.iter().map(parse).collect::<Result<_, _>>().map(Statuses)
    }
}

impl<'de> Deserialize<'de> for StatusDraft {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Codes;
        impl<'de> de::Visitor<'de> for Codes {
            type Value = StatusDraft;
            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("a status such as 200, \"2xx\" or \"200-204\", or a list of these")
            }
            fn visit_i64<E>(self, code: i64) -> Result<StatusDraft, E> {
                Ok(StatusDraft(vec![code.to_string()]))
            }
            fn visit_u64<E>(self, code: u64) -> Result<StatusDraft, E> {
                Ok(StatusDraft(vec![code.to_string()]))
            }
            fn visit_str<E>(self, codes: &str) -> Result<StatusDraft, E> {
                Ok(StatusDraft(codes.split(',').map(String::from).collect()))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<StatusDraft, A::Error> {
                let mut codes = Vec::new();
                while let Some(StatusDraft(more)) = seq.next_element()? {
                    codes.extend(more);
                }
                Ok(StatusDraft(codes))
            }
        }
        from.deserialize_any(Codes)
    }
}

impl From<&Statuses> for StatusDraft {
    fn from(statuses: &Statuses) -> Self {
        Self(statuses.0.iter().map(|range| format!("{}-{}", range.start(), range.end())).collect())
    }
}

const MAX_STATUSES: usize = 32;
