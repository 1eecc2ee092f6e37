//! What the fuzzer and the test over its corpus call: what somebody sends to the HTTP face, filters and bodies and policies.

use axum::http::Method;

use super::{Policy, access, consul, eureka};

pub use super::consul::fuzz::filter;

/// Reads bytes as each body that registers something: in Consul's words and in Eureka's. What is accepted is valid, and
/// runs no program.
///
/// # Panics
/// When it is not, or does.
pub fn body(bytes: &[u8]) {
    consul::fuzz::body(bytes);
    eureka::fuzz::body(bytes);
}

/// Reads a text as a policy, and as a method and a path: what is read is written as the same, and a call that changes
/// something needs a right.
///
/// # Panics
/// When it is not, or needs none.
pub fn policy(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(policy) = text.parse::<Policy>() {
        let written = policy.to_string();
        assert!(written.parse() == Ok(policy), "S13: {text:?} is not {written:?}");
    }
    for method in [Method::PUT, Method::POST, Method::DELETE, Method::PATCH] {
        let open = access::is_open(&method, text);
        assert!(!open || text.ends_with("discovery:endpoints"), "{method} {text:?} needs no right to write");
    }
    if let Some(hash) = access::parse_hash(text) {
        let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(digits.eq_ignore_ascii_case(text), "{text:?} is not {digits}");
    }
}
