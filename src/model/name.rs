//! Names, checked at construction. What becomes a DNS label obeys RFC 1035 section 2.3.1 as relaxed by RFC 1123
//! section 2.1 (a digit may come first); case is kept, and ignored in comparisons (RFC 4343).

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    net::IpAddr,
    str::FromStr,
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text is not the word it should be. State is unchanged wherever this is returned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} {why}")]
pub struct Invalid {
    /// Which word was expected: "service name", "tag", …
    pub what: &'static str,
    /// The offending text, cut to a length fit for a log line.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Invalid {
    /// An error about `text`, which should have been a `what`.
    #[must_use]
    pub fn new(what: &'static str, text: &str, why: &'static str) -> Self {
        Self { what, text: text.chars().take(SHOWN).collect(), why }
    }
}

/// Describes a type that is written as text, for the OpenAPI document.
macro_rules! text_schema {
    ($name:ident) => {
        #[cfg(feature = "agent")]
        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string" })
            }
        }
    };
}

macro_rules! word {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:path, fold = $fold:tt) => {
        word!($(#[$doc])* $name, $what, $check, kept = $check, fold = $fold);
    };
    // What is read back, from a file or a peer, may be more than what is written here.
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:path, kept = $kept:path, fold = $fold:tt) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text as it was given.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            fn checked(text: &str, check: fn(&str) -> Result<(), &'static str>) -> Result<Self, Invalid> {
                check(text).map_err(|why| Invalid::new($what, text, why))?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<&str> for $name {
            type Error = Invalid;
            fn try_from(text: &str) -> Result<Self, Invalid> {
                Self::checked(text, $check)
            }
        }

        impl FromStr for $name {
            type Err = Invalid;
            fn from_str(text: &str) -> Result<Self, Invalid> {
                text.try_into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, out)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                        out.write_str(concat!("a ", $what))
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::checked(text, $kept).map_err(E::custom)
                    }
                }
                from.deserialize_str(Text)
            }
        }

        text_schema!($name);
        word!(@compare $name, $fold);
    };
    (@compare $name:ident, false) => {
        impl PartialEq for $name { fn eq(&self, other: &Self) -> bool { self.0 == other.0 } }
        impl Eq for $name {}
        impl PartialOrd for $name { fn partial_cmp(&self, other: &Self) -> Option<Ordering> { Some(self.cmp(other)) } }
        impl Ord for $name { fn cmp(&self, other: &Self) -> Ordering { self.0.cmp(&other.0) } }
        impl Hash for $name { fn hash<H: Hasher>(&self, into: &mut H) { self.0.hash(into); } }
    };
    (@compare $name:ident, true) => {
        impl PartialEq for $name { fn eq(&self, other: &Self) -> bool { self.0.eq_ignore_ascii_case(&other.0) } }
        impl Eq for $name {}
        impl PartialOrd for $name { fn partial_cmp(&self, other: &Self) -> Option<Ordering> { Some(self.cmp(other)) } }
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                compare_folded(self.0.as_bytes(), other.0.as_bytes())
            }
        }
        impl Hash for $name {
            fn hash<H: Hasher>(&self, into: &mut H) {
                for byte in self.0.bytes() { into.write_u8(byte.to_ascii_lowercase()); }
                into.write_u8(0xff);
            }
        }
    };
}

/// The order of two words, case aside. What they begin with alike is skipped eight bytes at a time: names of one kind
/// differ at their ends, and maps compare a lot.
fn compare_folded(one: &[u8], other: &[u8]) -> Ordering {
    let (starts, others) = (one.as_chunks::<8>().0, other.as_chunks::<8>().0);
    let same = 8 * starts.iter().zip(others).take_while(|(one, other)| one == other).count();
    let [one, other] = [one, other].map(|bytes| bytes[same..].iter().map(u8::to_ascii_lowercase));
    one.cmp(other)
}

word!(
    /// The name of a service: one DNS label, which may hold underscores. Other APIs have others, see [`ServiceName::any`].
    ServiceName, "service name", check_service, kept = check_id, fold = true
);
word!(
    /// The name of a node, unique in its mesh: one DNS label.
    NodeName, "node name", check_label, fold = true
);
word!(
    /// The name of a mesh: one DNS label, since it stands in every certificate. Two meshes never mix.
    MeshName, "mesh name", check_label, fold = true
);
word!(
    /// The name of one of an instance's ports, such as `http`: a service name in the sense of RFC 6335.
    PortName, "port name", check_port_name, fold = true
);
word!(
    /// What tells the instances of one node apart; free text without control characters, at most 255 bytes.
    InstanceId, "instance id", check_id, fold = false
);
word!(
    /// A tag. Any text is kept; only one that is a DNS label can be asked for by DNS.
    Tag, "tag", check_tag, fold = true
);

impl NodeName {
    /// The nearest valid node name to a host's name: its first label, with other characters turned to hyphens.
    #[must_use]
    pub fn from_hostname(host: &str) -> Option<Self> {
        let first = host.split('.').next().unwrap_or_default();
        let label: String = first.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
        label.trim_matches('-').try_into().ok()
    }
}

impl ServiceName {
    /// A name as other APIs have it: any text of at most 255 bytes without control characters. One that is no label is found
    /// by all faces but DNS, which can ask only for what fits into a label, and for dots and spaces in it by escapes
    /// (RFC 1035 section 5.1).
    ///
    /// # Errors
    /// When it is empty, longer, or holds a control character.
    pub fn any(text: &str) -> Result<Self, Invalid> {
        Self::checked(text, check_id)
    }

    /// Whether it is a DNS label: all that are registered in our own words are.
    #[must_use]
    pub fn is_label(&self) -> bool {
        check_service(&self.0).is_ok()
    }

    /// The name folded to lower case: the key of indexes and the form that DNS answers in.
    #[must_use]
    pub fn folded(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

/// Where an instance listens: an address, or a host name that somebody else's DNS resolves (RFC 1123).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// An IPv4 or IPv6 address.
    Address(IpAddr),
    /// A host name, at most 253 bytes, without the final dot.
    Name(Arc<str>),
}

text_schema!(Host);

impl TryFrom<&str> for Host {
    type Error = Invalid;
    fn try_from(text: &str) -> Result<Self, Invalid> {
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return if address.is_unspecified() {
                Err(Invalid::new("address", text, "is the unspecified address; give one that others can reach"))
            } else {
                Ok(Self::Address(address))
            };
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        check_host_name(name).map_err(|why| Invalid::new("address", text, why))?;
        Ok(Self::Name(name.into()))
    }
}

impl FromStr for Host {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        text.try_into()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(out),
            Self::Name(name) => out.pad(name),
        }
    }
}

impl Serialize for Host {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Host {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        Self::try_from(&*text).map_err(de::Error::custom)
    }
}

fn check_label(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("is empty");
    }
    if text.len() > MAX_LABEL {
        return Err("is longer than 63 bytes (RFC 1035)");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err("may hold only letters, digits and hyphens (RFC 1035)");
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err("may not begin or end with a hyphen (RFC 1035)");
    }
    Ok(())
}

/// Whether the names of DNS can hold a datacenter: it stands behind words of their own, as `dc1` in `web.service.dc1`.
#[cfg(feature = "agent")]
pub(crate) fn check_datacenter(text: &str) -> Result<(), &'static str> {
    match text {
        "service" | "node" | "addr" | "ns" => Err("is a word that names have in its place: choose another"),
        // A node need not say where it stands.
        "" => Ok(()),
        _ => check_service(text),
    }
}

/// Underscores occur in names that services really have, and DNS itself does not mind (RFC 2181 section 11). A label that
/// begins with one is a protocol's or an attribute's (RFC 8552).
fn check_service(text: &str) -> Result<(), &'static str> {
    if text.starts_with('_') {
        return Err("may not begin with an underscore, which DNS keeps for protocols (RFC 8552)");
    }
    if text.contains('_') { check_label(&text.replace('_', "a")) } else { check_label(text) }
}

fn check_host_name(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("is empty");
    }
    if text.len() > MAX_HOST_NAME {
        return Err("is longer than 253 bytes (RFC 1035)");
    }
    // Underscores occur in host names that people really have, and DNS itself does not mind (RFC 2181 section 11).
    let fits = |label: &str| check_label(&label.replace('_', "a")).is_ok();
    if !text.split('.').all(fits) {
        return Err("is neither an IP address nor a host name");
    }
    if text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
        return Err("looks like an IP address but is none");
    }
    Ok(())
}

fn check_port_name(text: &str) -> Result<(), &'static str> {
    check_label(text)?;
    if text.len() > MAX_PORT_NAME { Err("is longer than 15 bytes (RFC 6335)") } else { Ok(()) }
}

fn check_id(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("is empty");
    }
    if text.len() > MAX_TEXT {
        return Err("is longer than 255 bytes");
    }
    check_tag(text)
}

fn check_tag(text: &str) -> Result<(), &'static str> {
    if text.len() > MAX_TAG {
        return Err("is longer than 2048 bytes");
    }
    if text.chars().any(char::is_control) {
        return Err("holds a control character");
    }
    Ok(())
}

const MAX_LABEL: usize = 63;
const MAX_HOST_NAME: usize = 253;
const MAX_PORT_NAME: usize = 15;
const MAX_TEXT: usize = 255;
/// Proxies read their whole rules from tags; all of one instance share its row.
const MAX_TAG: usize = 2048;
/// How much of a wrong text an error repeats.
const SHOWN: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_what_rfc_1035_says() {
        for good in ["web", "WEB", "a", "1password", "a-b", "my_svc", "a_", &"x".repeat(63)] {
            assert!(ServiceName::try_from(good).is_ok(), "{good}");
        }
        for bad in ["", "-web", "web-", "a.b", "_web", "a b", "wéb", "web\0", &"x".repeat(64)] {
            assert!(ServiceName::try_from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn another_api_s_name_is_any_text_and_is_read_back() {
        for name in ["a.b", "_web", "a b", "wéb", &"x".repeat(255)] {
            let any = ServiceName::any(name).unwrap();
            let back: ServiceName = rmp_serde::from_slice(&rmp_serde::to_vec(&any).unwrap()).unwrap();
            assert!(back == any && !any.is_label(), "{name}");
        }
        assert!(ServiceName::any("my_svc").unwrap().is_label());
        for bad in ["", "web\0", &"x".repeat(256)] {
            assert!(
                ServiceName::any(bad).is_err()
                    && rmp_serde::from_slice::<ServiceName>(&rmp_serde::to_vec(bad).unwrap()).is_err()
            );
        }
        assert!(rmp_serde::from_slice::<NodeName>(&rmp_serde::to_vec("a.b").unwrap()).is_err());
    }

    #[cfg(feature = "agent")]
    #[test]
    fn a_datacenter_is_a_label_and_no_branch() {
        for (text, good) in [("dc1", true), ("eu_west-1", true), ("eu.west", false), ("my dc", false), ("node", false)]
        {
            assert_eq!(check_datacenter(text).is_ok(), good, "{text}");
        }
    }

    #[test]
    fn names_differ_by_more_than_case() {
        let [upper, lower]: [ServiceName; 2] = ["Web", "web"].map(|n| n.try_into().unwrap());
        assert_eq!(upper, lower);
        assert_eq!(upper.cmp(&lower), Ordering::Equal);
        assert_eq!(upper.as_str(), "Web");
    }

    #[test]
    fn a_host_is_an_address_or_a_name() {
        assert_eq!(Host::try_from("10.0.0.1").unwrap(), Host::Address([10, 0, 0, 1].into()));
        assert_eq!(Host::try_from("[::1]").unwrap(), Host::Address(std::net::Ipv6Addr::LOCALHOST.into()));
        assert_eq!(Host::try_from("db.example.com.").unwrap().to_string(), "db.example.com");
        for bad in ["", "0.0.0.0", "::", "10.0.0.256", "a..b", "http://x", "10.0.0.1:80", &"a.".repeat(128)] {
            assert!(Host::try_from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_hostname_becomes_a_node_name() {
        assert_eq!(NodeName::from_hostname("web_1.example.com").unwrap().as_str(), "web-1");
        assert!(NodeName::from_hostname("...").is_none());
    }
}
