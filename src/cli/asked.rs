//! What a domain name asks for, as people read it: which service, which of its instances, in which datacenter.

use serde_json::Value;

/// A domain name that is about a service, read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// The service; `None` where it is about something else.
    pub(super) service: Option<String>,
    /// The port's name.
    port: Option<String>,
    /// All of these, or the one that they spell together.
    tags: Vec<String>,
    datacenter: Option<String>,
}

impl Asked {
    /// Reads `name`, which lies within the first of `zones` that it ends in.
    pub(super) fn of<'a>(name: &str, zones: impl IntoIterator<Item = &'a str>) -> Self {
        let mut labels = labels(name.trim_end_matches('.'));
        let zones = zones.into_iter().map(|zone| self::labels(zone.trim_end_matches('.')));
        let depth = zones.map(|zone| if is_end(&labels, &zone) { zone.len() } else { 0 }).find(|depth| *depth > 0);
        let is_known = depth.is_some();
        labels.truncate(labels.len() - depth.unwrap_or_default());
        let at = labels.iter().skip(1).position(|label| label.eq_ignore_ascii_case("service")).map(|before| before + 1);
        let (before, after) = labels.split_at(at.unwrap_or(labels.len()));
        let datacenter = after.get(1).filter(|_| is_known).cloned();
        match before {
            // RFC 2782: the service, and what it is spoken over or a tag; or a port of it, and then the service.
            [.., port, over, service] if at.is_some() && over.starts_with('_') && !service.starts_with('_') => {
                let port = Some(bare(port));
                Self { service: Some(service.clone()), port, tags: Vec::new(), datacenter }
            }
            [tags @ .., service] if at.is_some() && !service.starts_with('_') => {
                let tags = tags.iter().filter(|tag| !tag.starts_with("i-") && !tag.starts_with('_')).cloned().collect();
                Self { service: Some(service.clone()), port: None, tags, datacenter }
            }
            names => {
                let mut names = names.iter().filter(|label| label.starts_with('_'));
                let service = names.next().map(|label| bare(label));
                let tags = names.map(|label| bare(label)).filter(|tag| tag != "tcp" && tag != "udp").collect();
                Self { service, port: None, tags, datacenter }
            }
        }
    }

    /// Why the name leaves an instance out that stands in `datacenter`.
    pub(super) fn leaves_out(&self, instance: &Value, datacenter: Option<&str>) -> Option<String> {
        let own: Vec<&str> = instance["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let has = |tag: &str| own.iter().any(|own| own.eq_ignore_ascii_case(tag));
        if let Some(tag) = self.tags.iter().find(|tag| !has(tag))
            && !has(&self.tags.join("."))
        {
            return Some(format!("the name asks for the tag {tag:?}, and it has [{}]", own.join(", ")));
        }
        match (&self.datacenter, datacenter) {
            (Some(asked), Some(own)) if !asked.eq_ignore_ascii_case(own) => {
                return Some(format!("the name asks for the datacenter {asked:?}, and its node is in {own:?}"));
            }
            _ => {}
        }
        let is_missing = self.port.is_some() && self.port_of(instance).is_null();
        is_missing.then(|| format!("it has no port called {:?}", self.port.as_deref().unwrap_or_default()))
    }

    /// The port of an instance that the name is about.
    pub(super) fn port_of<'a>(&self, instance: &'a Value) -> &'a Value {
        let Some(asked) = &self.port else { return &instance["port"] };
        let ports = instance["ports"].as_object();
        let found = ports.and_then(|ports| ports.iter().find(|(name, _)| name.eq_ignore_ascii_case(asked)));
        found.map_or(&Value::Null, |(_, port)| port)
    }

    /// Whether it asks for one datacenter.
    pub(super) fn has_datacenter(&self) -> bool {
        self.datacenter.is_some()
    }
}

fn bare(label: &str) -> String {
    label.strip_prefix('_').unwrap_or(label).to_owned()
}

fn is_end(labels: &[String], zone: &[String]) -> bool {
    labels.len() >= zone.len()
        && labels[labels.len() - zone.len()..].iter().zip(zone).all(|(label, end)| label.eq_ignore_ascii_case(end))
}

/// The labels of a domain name, without their escapes (RFC 1035 section 5.1).
fn labels(name: &str) -> Vec<String> {
    let (mut labels, mut chars) = (vec![String::new()], name.chars());
    while let Some(c) = chars.next() {
        let digits = chars.as_str().get(..3).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()));
        let byte = digits.and_then(|digits| digits.parse::<u8>().ok());
        match (c, byte, labels.last_mut()) {
            ('.', ..) => labels.push(String::new()),
            ('\\', Some(byte), Some(label)) => {
                label.push(char::from(byte));
                chars = chars.as_str()[3..].chars();
            }
            ('\\', None, Some(label)) => label.extend(chars.next()),
            (_, _, Some(label)) => label.push(c),
            (_, _, None) => {}
        }
    }
    labels
}

/// The domain name of a service, whatever it is called.
pub(super) fn domain_of(service: &str, zone: &str) -> String {
    let escaped = service.chars().map(|c| match c {
        '.' | '\\' | '"' | '(' | ')' | ';' | '@' | '$' => format!("\\{c}"),
        ' ' => "\\032".into(),
        c => c.into(),
    });
    format!("{}.service.{zone}", escaped.collect::<String>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ZONES: [&str; 2] = ["mesh.internal", "consul"];

    #[test]
    fn a_name_tells_its_service() {
        let service = |name: &str| Asked::of(name, ZONES).service;
        for name in [
            "web.service.mesh.internal",
            "v2.web.service.dc1.consul",
            "_web._tcp.mesh.internal",
            "_web._tcp.service.consul",
            "_http._tcp.web.service.mesh.internal",
            "i-0123456789ab.web.service.other.zone.",
        ] {
            assert_eq!(service(name).as_deref(), Some("web"), "{name}");
        }
        for service in ["web", "a.b", "a b", "a\\b", "\\032"] {
            let name = domain_of(service, "mesh.internal");
            assert_eq!(Asked::of(&name, ZONES).service.as_deref(), Some(service), "{name}");
        }
        for name in ["a.b", "web.node.mesh.internal", "0a000001.addr.mesh.internal", "www.example.com", "."] {
            assert_eq!(service(name), None, "{name}");
        }
    }

    #[test]
    fn a_name_says_whom_it_leaves_out() {
        let instance = json!({ "port": 80, "ports": { "http": 8080 }, "tags": ["v2", "1.2"] });
        for (name, why) in [
            ("web.service.mesh.internal", None),
            ("V2.web.service.dc1.mesh.internal", None),
            ("1.2.web.service.consul", None),
            ("i-0123456789ab.web.service.consul", None),
            ("_web._v2.service.consul", None),
            ("v9.web.service.consul", Some("the tag \"v9\"")),
            ("_web._v9.service.consul", Some("the tag \"v9\"")),
            ("web.service.dc9.consul", Some("the datacenter \"dc9\"")),
            ("_http._tcp.web.service.consul", None),
            ("_grpc._tcp.web.service.consul", Some("no port called \"grpc\"")),
        ] {
            let found = Asked::of(name, ZONES).leaves_out(&instance, Some("dc1"));
            assert_eq!(found.is_some(), why.is_some(), "{name}: {found:?}");
            assert!(why.is_none_or(|why| found.unwrap_or_default().contains(why)), "{name}");
        }
        assert_eq!(Asked::of("_http._tcp.web.service.consul", ZONES).port_of(&instance), 8080);
    }
}
