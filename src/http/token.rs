//! How a token is shown, and how one of the configuration is written.

use std::borrow::Cow;

use axum::{
    extract::{Query, Request},
    http::header,
};
use serde::Deserialize;

use super::Policy;

/// A token of the configuration: good on this node alone, and there before any mesh is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixedToken {
    /// What people call it.
    pub name: String,
    /// The SHA-256 of the token in hexadecimal, as `hobnob token create --offline` prints it.
    #[serde(deserialize_with = "hexadecimal")]
    pub sha256: [u8; 32],
    /// What it allows.
    pub policy: Policy,
}

/// The token that a request shows: in either header, or, under `/v1`, as Consul takes it, in the query. An empty one is
/// none.
pub(super) fn shown(request: &Request) -> Result<Option<Cow<'_, str>>, &'static str> {
    const WHY: &str = "the Authorization header is not `Bearer TOKEN`";
    let some = |token: &str| !token.is_empty();
    if let Some(value) = request.headers().get(header::AUTHORIZATION) {
        let text = value.to_str().map_err(|_| WHY)?;
        let (scheme, token) = text.split_once(' ').ok_or(WHY)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(WHY);
        }
        return Ok(Some(token.trim()).filter(|token| some(token)).map(Cow::Borrowed));
    }
    let consul = request.headers().get("x-consul-token").and_then(|value| value.to_str().ok()).map(str::trim);
    if let Some(token) = consul.filter(|token| some(token)) {
        return Ok(Some(token.into()));
    }
    let uri = request.uri();
    let Some(Ok(Query(pairs))) =
        uri.path().starts_with("/v1/").then(|| Query::<Vec<(String, String)>>::try_from_uri(uri))
    else {
        return Ok(None);
    };
    // A plus that was not escaped reads as a space, and no token has one.
    let asked = pairs.into_iter().find(|(key, _)| key == "token").map(|(_, token)| token.replace(' ', "+"));
    Ok(asked.filter(|token| some(token)).map(Cow::Owned))
}

fn hexadecimal<'de, D: serde::Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
    let text = String::deserialize(from)?;
    parse_hash(&text).ok_or_else(|| serde::de::Error::custom("is not a SHA-256 in hexadecimal"))
}

/// A SHA-256 from its 64 hexadecimal digits.
pub(super) fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let (digits, rest) = text.as_bytes().as_chunks::<2>();
    let mut hash = [0; 32];
    if digits.len() != hash.len() || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in hash.iter_mut().zip(digits) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_shown_in_either_header_or_in_the_query_and_an_empty_one_is_none() {
        for (path, name, value, token) in [
            ("/v1/kv/a", "authorization", "bearer abc", Ok(Some("abc"))),
            ("/v1/kv/a", "x-consul-token", "abc", Ok(Some("abc"))),
            ("/v1/kv/a", "x-consul-token", "", Ok(None)),
            ("/v1/kv/a?token=&x", "accept", "*/*", Ok(None)),
            ("/v1/kv/a?x&token=a%62c", "x-consul-token", "", Ok(Some("abc"))),
            ("/v1/kv/a?token=a+/c%2B=", "accept", "*/*", Ok(Some("a+/c+="))),
            ("/v1/kv/a?token=other", "x-consul-token", "abc", Ok(Some("abc"))),
            ("/api/v1/status?token=abc", "accept", "*/*", Ok(None)),
            ("/v1/kv/a?token=abc", "authorization", "Basic abc", Err(())),
        ] {
            let request = Request::get(path).header(name, value).body(axum::body::Body::empty()).unwrap();
            let found = shown(&request).map_err(drop);
            assert_eq!(found.as_ref().map(Option::as_deref), token.as_ref().copied(), "{path} {name}: {value}");
        }
    }

    #[test]
    fn a_hash_is_64_digits() {
        assert_eq!(parse_hash(&"0f".repeat(32)), Some([15; 32]));
        for bad in ["", "0f", &"0g".repeat(32), &"0f".repeat(33)] {
            assert_eq!(parse_hash(bad), None);
        }
    }
}
