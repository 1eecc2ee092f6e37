//! Bodies as Consul's clients write them: any content type, keys in any case and with underscores or without, durations as
//! Go's texts or as nanoseconds.

use std::{collections::BTreeMap, time::Duration};

use axum::extract::{FromRequest, Request};
use serde_json::{Map, Value};

use super::failure::Failure;
use crate::{http::body, model::parse_go_duration};

/// The fields of one object, by folded key. Null is as good as absent.
#[derive(Clone, Debug, Default)]
pub(super) struct Document(BTreeMap<String, Value>);

impl<S: Sync> FromRequest<S> for Document {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let bytes = body::collect(request.into_body()).await?;
        Self::parse(&bytes)
    }
}

impl Document {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(map)) => Ok(map.into()),
            Ok(_) => Err(wrong("the body is not an object")),
            // In Consul's own words: clients' tests look for them.
            Err(why) if why.is_eof() && bytes.is_empty() => Err(wrong("EOF")),
            Err(why) if why.is_eof() => Err(wrong("unexpected EOF")),
            Err(why) => Err(wrong(&why.to_string())),
        }
    }

    /// Whether it says nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<String>, Failure> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok((!text.is_empty()).then(|| text.clone())),
            Some(_) => Err(wrong(&format!("{key:?} is not a text"))),
        }
    }

    /// A whole number; written as a text it will do, for some clients do.
    pub(super) fn number(&self, key: &str) -> Result<Option<i64>, Failure> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => text.parse().map(Some).map_err(|_| wrong(&format!("{key:?} is not a number"))),
            Some(value) => value.as_i64().map(Some).ok_or_else(|| wrong(&format!("{key:?} is not a whole number"))),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<bool, Failure> {
        match self.0.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(Value::String(text)) => Ok(text == "true"),
            Some(_) => Err(wrong(&format!("{key:?} is neither true nor false"))),
        }
    }

    /// A duration; zero is none, and so is less.
    pub(super) fn duration(&self, key: &str) -> Result<Option<Duration>, Failure> {
        let duration = match self.0.get(key) {
            None => return Ok(None),
            Some(Value::String(text)) if text.is_empty() => return Ok(None),
            Some(Value::String(text)) => {
                parse_go_duration(text).map_err(|_| wrong(&format!("time: invalid duration {text:?}")))?
            }
            // Some clients write a whole number as 1e10.
            Some(value) => value
                .as_u64()
                .map(Duration::from_nanos)
                .or_else(|| Duration::try_from_secs_f64(value.as_f64()?.max(0.0) / 1e9).ok())
                .ok_or_else(|| wrong(&format!("{key:?} is not a duration such as \"10s\"")))?,
        };
        Ok((!duration.is_zero()).then_some(duration))
    }

    /// A list of texts; null is the empty one, as with Go's decoder.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<String>, Failure> {
        let not = || wrong(&format!("{key:?} is not a list of texts"));
        let Some(value) = self.0.get(key) else { return Ok(Vec::new()) };
        let list = value.as_array().ok_or_else(not)?;
        let text = |value: &Value| match value {
            Value::Null => Ok(String::new()),
            value => value.as_str().map(String::from).ok_or_else(not),
        };
        list.iter().map(text).collect()
    }

    pub(super) fn object(&self, key: &str) -> Result<Option<Self>, Failure> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map.clone().into())),
            Some(_) => Err(wrong(&format!("{key:?} is not an object"))),
        }
    }

    pub(super) fn objects(&self, key: &str) -> Result<Vec<Self>, Failure> {
        let not = || wrong(&format!("{key:?} is not a list of objects"));
        let Some(value) = self.0.get(key) else { return Ok(Vec::new()) };
        let list = value.as_array().ok_or_else(not)?;
        list.iter().map(|one| one.as_object().map(|map| map.clone().into()).ok_or_else(not)).collect()
    }

    /// Values by key as it was written: the keys of these maps are the client's own.
    pub(super) fn map(&self, key: &str) -> Result<Map<String, Value>, Failure> {
        match self.0.get(key) {
            None => Ok(Map::new()),
            Some(Value::Object(map)) => Ok(map.clone()),
            Some(_) => Err(wrong(&format!("{key:?} is not an object"))),
        }
    }

    /// Texts by key; null is the empty text, as with Go's decoder.
    pub(super) fn pairs(&self, key: &str) -> Result<BTreeMap<String, String>, Failure> {
        let pair = |(name, value): (String, Value)| match value {
            Value::String(text) => Ok((name, text)),
            Value::Number(number) => Ok((name, number.to_string())),
            Value::Bool(flag) => Ok((name, flag.to_string())),
            Value::Null => Ok((name, String::new())),
            _ => Err(wrong(&format!("{key:?} holds what is not a text under {name:?}"))),
        };
        self.map(key)?.into_iter().map(pair).collect()
    }
}

/// The one spelling of a key.
pub(in crate::http) fn folded(key: &str) -> String {
    key.replace('_', "").to_ascii_lowercase()
}

impl From<Map<String, Value>> for Document {
    fn from(map: Map<String, Value>) -> Self {
        let said = map.into_iter().filter(|(_, value)| !value.is_null());
        Self(said.map(|(key, value)| (folded(&key), value)).collect())
    }
}

fn wrong(why: &str) -> Failure {
    Failure::bad(format!("Request decode failed: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_in_any_case_and_durations_in_two_forms() {
        let text = br#"{"EnableTagOverride": true, "tagged_addresses": {"LAN": {"address": "a"}}, "TTL": "1m30s",
            "Timeout": 2e9, "Interval": "", "Port": "80", "Tags": null, "Args": ["a", null], "Meta": {"a": null, "b": 1}}"#;
        let document = Document::parse(text).unwrap();
        assert_eq!(document.flag("enabletagoverride"), Ok(true));
        assert_eq!(document.map("taggedaddresses").unwrap().keys().collect::<Vec<_>>(), ["LAN"]);
        assert_eq!(document.duration("ttl"), Ok(Some(Duration::from_secs(90))));
        assert_eq!(document.duration("timeout"), Ok(Some(Duration::from_secs(2))));
        assert_eq!(document.duration("interval"), Ok(None));
        let below = Document::parse(br#"{"TTL": "-5s", "Timeout": -5}"#).unwrap();
        assert_eq!((below.duration("ttl"), below.duration("timeout")), (Ok(None), Ok(None)));
        assert_eq!(document.number("port"), Ok(Some(80)));
        assert_eq!(document.texts("tags"), Ok(Vec::new()));
        assert_eq!(document.texts("args").unwrap(), ["a", ""]);
        assert_eq!(document.pairs("meta").unwrap(), [("a", ""), ("b", "1")].map(|(k, v)| (k.into(), v.into())).into());
    }

    #[test]
    fn what_cannot_be_read_is_said_in_consul_s_words() {
        let why = |text: &str| format!("{:?}", Document::parse(text.as_bytes()).unwrap_err());
        assert!(why("{\"Port\":").contains("Request decode failed: unexpected EOF"));
        assert!(why("").contains("Request decode failed: EOF"));
        assert!(why("[]").contains("not an object"));
        let zzz = Document::parse(br#"{"TTL": "zzz"}"#).unwrap().duration("ttl").unwrap_err();
        assert_eq!(zzz, Failure::bad("Request decode failed: time: invalid duration \"zzz\""));
    }
}
