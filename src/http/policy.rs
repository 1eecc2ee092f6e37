//! What a token, or nobody in particular, may do: `read`, `write` (by the prefix of a service's name), `operate`, `all`.

use std::{fmt, str::FromStr};

use serde::Deserialize;

/// A set of rights, written as words with commas: `read,write:web-*`. To write or to operate includes to read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Policy {
    read: bool,
    write: Vec<Pattern>,
    operate: bool,
    all: bool,
}

/// Names of services: one, or all with a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Name(String),
    Prefix(String),
}

impl Policy {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        Self { read: true, write: vec![Pattern::Prefix(String::new())], operate: true, all: true }
    }

    /// Whether it may do everything, also hand out tokens.
    pub(crate) fn is_all(&self) -> bool {
        self.all
    }

    pub(crate) fn may_read(&self) -> bool {
        self.read
    }

    pub(crate) fn may_operate(&self) -> bool {
        self.operate
    }

    /// Whether it may write any service at all.
    pub(crate) fn may_write_some(&self) -> bool {
        !self.write.is_empty()
    }

    /// Whether it may write this service.
    pub(crate) fn may_write(&self, service: &str) -> bool {
        let service = service.to_ascii_lowercase();
        self.write.iter().any(|pattern| match pattern {
            Pattern::Name(name) => *name == service,
            Pattern::Prefix(prefix) => service.starts_with(prefix),
        })
    }
}

impl FromStr for Policy {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut policy = Self::default();
        for word in text.split(',').map(str::trim) {
            match word.split_once(':') {
                None if word == "none" => {}
                None if word == "read" => policy.read = true,
                None if word == "write" => policy.write.push(Pattern::Prefix(String::new())),
                None if word == "operate" => policy.operate = true,
                None if word == "all" => policy.all = true,
                Some(("write", name)) if is_pattern(name) => {
                    let name = name.to_ascii_lowercase();
                    policy.write.push(match name.strip_suffix('*') {
                        Some(prefix) => Pattern::Prefix(prefix.into()),
                        None => Pattern::Name(name),
                    });
                }
                _ => {
                    return Err(format!(
                        "{word:?} is no right: a policy is none, read, write, write:NAME, write:PREFIX*, operate or all, \
                         several with commas"
                    ));
                }
            }
        }
        policy.read |= policy.operate || !policy.write.is_empty();
        Ok(if policy.all { Self::all() } else { policy })
    }
}

/// A service's name, with a star at its end or without.
fn is_pattern(text: &str) -> bool {
    let name = text.strip_suffix('*').unwrap_or(text);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && name.bytes().all(plain)
}

impl TryFrom<String> for Policy {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.all {
            return out.write_str("all");
        }
        let mut words = Vec::new();
        for pattern in &self.write {
            words.push(match pattern {
                Pattern::Prefix(prefix) if prefix.is_empty() => "write".to_owned(),
                Pattern::Prefix(prefix) => format!("write:{prefix}*"),
                Pattern::Name(name) => format!("write:{name}"),
            });
        }
        if self.operate {
            words.push("operate".into());
        }
        match (words.is_empty(), self.read) {
            (true, true) => out.write_str("read"),
            (true, false) => out.write_str("none"),
            (false, _) => out.write_str(&words.join(",")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_allows_what_it_says() {
        let policy: Policy = "write:web-*,write:Api".parse().unwrap();
        assert!(policy.may_read() && !policy.may_operate() && !policy.is_all());
        for (service, may) in [("web-1", true), ("WEB-", true), ("web", false), ("api", true), ("api-2", false)] {
            assert_eq!(policy.may_write(service), may, "{service}");
        }
        assert!("write".parse::<Policy>().unwrap().may_write("anything"));
        assert!(!"operate".parse::<Policy>().unwrap().may_write_some());
        assert!(!"none".parse::<Policy>().unwrap().may_read());
        assert!("all".parse::<Policy>().unwrap().is_all());
    }

    #[test]
    fn what_is_no_policy_is_refused_and_what_is_one_is_written_as_it_was_read() {
        for bad in ["", "rite", "write:", "write:a b", "read:web", "write:a*b", "all:x"] {
            assert!(bad.parse::<Policy>().is_err(), "{bad:?}");
        }
        for good in ["none", "read", "write", "write:web-*,operate", "all"] {
            assert_eq!(good.parse::<Policy>().unwrap().to_string(), good);
        }
        for all in ["all,write:web", "write:web,all,operate", "none,all"] {
            assert_eq!(all.parse::<Policy>(), Ok(Policy::all()), "{all}");
        }
    }
}
