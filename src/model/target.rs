//! Where a check looks: an address of its own, or a place relative to the instance that it belongs to.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Host, Port, service::parse_port};

/// A host and a port; what is not given is the instance's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The host; the instance's own address when `None`.
    pub host: Option<Host>,
    /// The port; the instance's main port when `None`.
    pub port: Option<Port>,
}

impl Target {
    /// Parses `host:port`, `[::1]:53`, `:port`, or nothing at all, which is the instance itself.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (text, None),
        };
        if host.contains(':') && !host.starts_with('[') {
            return Err(format!("{text:?}: an IPv6 address stands in brackets, as in [::1]:80"));
        }
        let host = (!host.is_empty()).then(|| Host::try_from(host)).transpose();
        let host = host.map_err(|invalid| format!("{:?} {}", invalid.text, invalid.why))?;
        let port = port.map(|port| {
            let number = port.parse().ok().and_then(|number| parse_port(number).ok());
            number.ok_or_else(|| format!("{text:?}: a port is 1 to 65535"))
        });
        Ok(Self { host, port: port.transpose()? })
    }

    /// Whether it names a port itself.
    #[must_use]
    pub const fn has_port(&self) -> bool {
        self.port.is_some()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(Host::Address(address)) if address.is_ipv6() => write!(out, "[{address}]")?,
            Some(host) => write!(out, "{host}")?,
            None => {}
        }
        self.port.map_or(Ok(()), |port| write!(out, ":{port}"))
    }
}

/// What an HTTP check asks for: `http://host:port/path`, `https://...`, `:port/path` or `/path`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Url {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// Where.
    pub target: Target,
    /// Path and query.
    pub path: String,
}

impl Url {
    /// Parses a URL, or a part of one that is relative to the instance.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("is missing: give a URL such as http://127.0.0.1:8080/health, or a path such as /health".into());
        }
        if text.len() > MAX_URL {
            return Err(format!("is longer than {MAX_URL} bytes"));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!("{text:?} holds what a URL may not: escape it (RFC 3986 section 2.1)"));
        }
        let whole = Self::scheme(text).and_then(|(scheme, rest)| Some((scheme, rest.strip_prefix("//")?)));
        let (scheme, rest) = match whole {
            Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
            None => (None, text),
        };
        let tls = match scheme.as_deref() {
            None | Some("http") => false,
            Some("https") => true,
            Some(_) => return Err(format!("{text:?} is neither http:// nor https://")),
        };
        let path_at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(path_at);
        if authority.contains('@') {
            return Err("holds a user or a password: send them as a header".into());
        }
        if scheme.is_none() && !authority.is_empty() && !authority.starts_with(':') {
            return Err(format!("{text:?} is no URL such as http://127.0.0.1:8080/health, :8080/health or /health"));
        }
        let mut target = Target::parse(authority)?;
        if scheme.is_some() {
            if target.host.is_none() {
                return Err(format!("{text:?} names no host"));
            }
            target.port = target.port.or_else(|| Port::new(if tls { 443 } else { 80 }));
        }
        let path = path.split('#').next().unwrap_or_default();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { tls, target, path })
    }

    /// The scheme that a URL begins with, and what follows its colon (RFC 3986 section 3.1): a path or a query may hold a
    /// whole URL too.
    pub(crate) fn scheme(text: &str) -> Option<(&str, &str)> {
        let (scheme, rest) = text.split_once(':')?;
        let fits = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        fits.then_some((scheme, rest))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.target.host, self.tls) {
            (Some(_), false) => out.write_str("http://")?,
            (Some(_), true) => out.write_str("https://")?,
            (None, _) => {}
        }
        write!(out, "{}{}", self.target, self.path)
    }
}

/// Longer than any URL that is meant seriously.
const MAX_URL: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_whole_or_relative() {
        for (text, shown) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            (":80", ":80"),
            ("", ""),
            ("[::1]:53", "[::1]:53"),
            ("[::1]", "[::1]"),
            ("db.example:5432", "db.example:5432"),
        ] {
            assert_eq!(Target::parse(text).map(|target| target.to_string()).as_deref(), Ok(shown), "{text}");
        }
        for bad in ["127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:", "::1:80", "a b:1", "0.0.0.0:80", ":http"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_url_is_whole_or_relative() {
        for (text, shown) in [
            ("http://127.0.0.1:8080/health?deep=1", "http://127.0.0.1:8080/health?deep=1"),
            ("HTTPS://example.com", "https://example.com:443/"),
            ("http://[::1]/#top", "http://[::1]:80/"),
            ("http://a?b", "http://a:80/?b"),
            ("/health", "/health"),
            (":8080/health", ":8080/health"),
            (":8080", ":8080/"),
            ("/h?u=http://y/", "/h?u=http://y/"),
            (":80/http://y", ":80/http://y"),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!(url.to_string(), shown, "{text}");
            assert_eq!(Url::parse(shown).unwrap(), url);
        }
        for bad in [
            "ftp://a/",
            "a+b-c.1://a/",
            "1a://a/",
            "://a",
            "web:80/http://y",
            "http:///x",
            "a/b",
            "http://u:p@a/",
            "http://a/ b",
            "http://a:0/",
            "health",
            "",
        ] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
        assert!(Url::parse(&format!("http://a/{}", "x".repeat(2048))).is_err());
    }
}
