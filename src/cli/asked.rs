//! What a domain name asks for, as people read it: which service, which of its instances, in which datacenter.

use serde_json::Value;

use crate::dns::{self, Dialect, Zone};

/// A domain name that is about a service, read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// The service; `None` where it is about something else.
    pub(super) service: Option<String>,
    /// The port's name.
    port: Option<String>,
    /// All of these, or the one that they spell together.
    tags: Vec<String>,
    /// The label of one instance.
    instance: Option<String>,
    datacenter: Option<String>,
    /// Whether it means the datacenter of who answers, where it names none.
    is_local: bool,
    /// Whether it lies in a zone: of all others the agent knows nothing itself.
    pub(super) is_within: bool,
}

/// Where an instance stands, and who answers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Places<'a> {
    pub(super) instance: Option<&'a str>,
    pub(super) agent: Option<&'a str>,
}

impl Asked {
    /// Reads `name`, which lies within the longest of `zones` that it ends in.
    pub(super) fn of<'a>(name: &str, zones: impl IntoIterator<Item = &'a str>) -> Self {
        let mut labels = labels(name);
        let zones = zones.into_iter().map(|zone| (self::labels(zone).len(), zone));
        let zone = zones.filter(|(_, zone)| is_end(&labels, &self::labels(zone))).max();
        let Some((depth, zone)) = zone else { return Self::default() };
        let is_local = Zone::try_from(zone).is_ok_and(|zone| zone.dialect == Dialect::Consul);
        labels.truncate(labels.len() - depth);
        let instance = labels.first().filter(|label| dns::is_instance_label(label)).cloned();
        let at = labels.iter().skip(1).position(|label| label.eq_ignore_ascii_case("service")).map(|before| before + 1);
        let (before, after) = labels.split_at(at.unwrap_or(labels.len()));
        let datacenter = after.get(1).cloned();
        let asked = Self { instance, datacenter, is_local, is_within: true, ..Self::default() };
        match before {
            // RFC 2782: the service, and what it is spoken over or a tag; or a port of it, and then the service.
            [.., port, over, service] if at.is_some() && over.starts_with('_') && !service.starts_with('_') => {
                let port = Some(bare(port));
                Self { service: Some(service.clone()), port, ..asked }
            }
            [tags @ .., service] if at.is_some() && !service.starts_with('_') => {
                let tags =
                    tags.iter().filter(|tag| !dns::is_instance_label(tag) && !tag.starts_with('_')).cloned().collect();
                Self { service: Some(service.clone()), tags, ..asked }
            }
            names => {
                let mut names = names.iter().filter(|label| label.starts_with('_'));
                let service = names.next().map(|label| bare(label));
                let tags = names.map(|label| bare(label)).filter(|tag| tag != "tcp" && tag != "udp").collect();
                Self { service, tags, ..asked }
            }
        }
    }

    /// Why the name leaves an instance out.
    pub(super) fn leaves_out(&self, instance: &Value, places: Places<'_>) -> Option<String> {
        let own: Vec<&str> = instance["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let has = |tag: &str| own.iter().any(|own| own.eq_ignore_ascii_case(tag));
        if let Some(tag) = self.tags.iter().find(|tag| !has(tag))
            && !has(&self.tags.join("."))
        {
            return Some(format!("the name asks for the tag {tag:?}, and it has [{}]", own.join(", ")));
        }
        let text = |field: &str| instance[field].as_str().unwrap_or_default();
        let label = dns::label_of(text("node"), text("id"));
        if self.instance.as_ref().is_some_and(|asked| !asked.eq_ignore_ascii_case(&label)) {
            return Some(format!("the name asks for one instance, and this one is {label}"));
        }
        let (asked, verb) = match &self.datacenter {
            Some(asked) => (Some(&**asked), "asks for"),
            None => (places.agent.filter(|_| self.is_local), "names no datacenter and so means"),
        };
        if let (Some(asked), Some(own)) = (asked, places.instance)
            && !asked.eq_ignore_ascii_case(own)
        {
            return Some(format!("the name {verb} the datacenter {asked:?}, and its node is in {own:?}"));
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
        self.datacenter.is_some() || self.is_local
    }
}

fn bare(label: &str) -> String {
    label.strip_prefix('_').unwrap_or(label).to_owned()
}

fn is_end(labels: &[String], zone: &[String]) -> bool {
    labels.len() >= zone.len()
        && labels[labels.len() - zone.len()..].iter().zip(zone).all(|(label, end)| label.eq_ignore_ascii_case(end))
}

/// The labels of a domain name, as people read them.
fn labels(name: &str) -> Vec<String> {
    dns::labels(name).iter().map(|label| String::from_utf8_lossy(label).into_owned()).collect()
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
            "i-0123456789ab.web.service.mesh.internal.",
        ] {
            assert_eq!(service(name).as_deref(), Some("web"), "{name}");
        }
        for service in ["web", "a.b", "a b", "a\\b", "\\032"] {
            let name = domain_of(service, "mesh.internal");
            assert_eq!(Asked::of(&name, ZONES).service.as_deref(), Some(service), "{name}");
        }
        for name in ["a.b", "web.node.mesh.internal", "0a000001.addr.mesh.internal", "web.service.other.zone", "."] {
            assert_eq!(service(name), None, "{name}");
        }
    }

    #[test]
    fn a_name_says_whom_it_leaves_out() {
        let instance =
            json!({ "node": "n1", "id": "web", "port": 80, "ports": { "http": 8080 }, "tags": ["v2", "1.2"] });
        let own = format!("{}.web.service.consul", dns::label_of("n1", "web"));
        for (name, why) in [
            ("web.service.mesh.internal", None),
            ("V2.web.service.dc1.mesh.internal", None),
            ("1.2.web.service.consul", None),
            (&*own, None),
            ("i-0123456789ab.web.service.consul", Some("asks for one instance")),
            ("i-0.web.service.consul", Some("the tag \"i-0\"")),
            ("_web._v2.service.consul", None),
            ("v9.web.service.consul", Some("the tag \"v9\"")),
            ("_web._v9.service.consul", Some("the tag \"v9\"")),
            ("web.service.dc9.consul", Some("the datacenter \"dc9\"")),
            ("_http._tcp.web.service.consul", None),
            ("_grpc._tcp.web.service.consul", Some("no port called \"grpc\"")),
        ] {
            let places = Places { instance: Some("dc1"), agent: Some("dc1") };
            let found = Asked::of(name, ZONES).leaves_out(&instance, places);
            assert_eq!(found.is_some(), why.is_some(), "{name}: {found:?}");
            assert!(why.is_none_or(|why| found.unwrap_or_default().contains(why)), "{name}");
        }
        assert_eq!(Asked::of("_http._tcp.web.service.consul", ZONES).port_of(&instance), 8080);
        let far = |name: &str| {
            let places = Places { instance: Some("dc2"), agent: Some("dc1") };
            Asked::of(name, ZONES).leaves_out(&instance, places).unwrap_or_default()
        };
        assert!(far("web.service.consul").contains("means the datacenter \"dc1\""));
        assert_eq!([far("web.service.mesh.internal"), far("web.service.dc2.consul")], ["", ""]);
    }
}
