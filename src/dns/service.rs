//! What the names of a service hold: addresses, servers (RFC 2782), texts and the list of its instances (RFC 6763).

use std::{collections::BTreeSet, net::IpAddr};

use hickory_proto::rr::{Name, RData, Record, RecordType, rdata};

use super::{
    answer::{Found, Lookup, text},
    names::{Form, Selector, address_label, below, hash_of, host_name, instance_label},
    settings::Prefer,
    zone::Dialect,
};
use crate::{
    mesh::Instance,
    model::{Health, Host, MemberState, Tag},
};

/// The instances to show, best first.
struct Served<'a> {
    instances: Vec<&'a Instance>,
    /// How many of the first are as good as the first.
    equals: usize,
}

impl Lookup<'_> {
    pub(super) fn service(&self, selector: &Selector<'_>, datacenter: Option<&str>, kind: RecordType) -> Found {
        let Some(service) = self.view.service(selector.service).filter(|service| service.is_listed()) else {
            return Found::default();
        };
        let is_there =
            |instance: &&Instance| datacenter.is_none_or(|dc| instance.node.datacenter.eq_ignore_ascii_case(dc));
        let there = service.instances.iter().filter(is_there);
        let chosen: Vec<&Instance> = there.clone().filter(|instance| selector.takes(instance)).collect();
        let exists = !chosen.is_empty()
            || selector.is_whole() && self.is_datacenter(datacenter)
            || selector.leads_to(there.clone());
        let serves = |instance: &&Instance| self.serves(instance);
        let mut instances: Vec<&Instance> = chosen.into_iter().filter(serves).collect();
        if instances.is_empty() {
            // Names in between exist in Consul's zone too, where what they lead to is served.
            let exists = exists && (self.zone.dialect == Dialect::Mesh || selector.leads_to(there.filter(serves)));
            return Found::bare(exists);
        }
        // A suspect is probably well, so it stays; it comes last, because it may not be.
        let rank = |instance: &&Instance| {
            (instance.member == MemberState::Suspect, self.priority(instance), self.distance(instance))
        };
        instances.sort_by_cached_key(rank);
        let best = instances.first().map(rank);
        let equals = instances.partition_point(|instance| Some(rank(instance)) == best);
        let is_stale = instances.iter().any(|instance| instance.held.is_some());
        self.while_held(is_stale).records(&Served { instances, equals }, selector, kind)
    }

    /// How far an instance is from this node, as far as the settings care.
    fn distance(&self, instance: &Instance) -> u32 {
        match self.config.prefer {
            Prefer::None => 0,
            Prefer::Zone => u32::from(!self.is_in_zone(instance)),
            // Those that differ by less than a millisecond are equally near; an unmeasured one is far.
            Prefer::Near => {
                let rtt = self.view.node(instance.node.name.as_str()).and_then(|member| member.rtt);
                rtt.map_or(u32::MAX, |rtt| u32::try_from(rtt.as_millis()).unwrap_or(u32::MAX))
            }
        }
    }

    fn is_in_zone(&self, instance: &Instance) -> bool {
        !self.local.node.zone.is_empty() && instance.node.zone == self.local.node.zone
    }

    fn records(&self, served: &Served<'_>, selector: &Selector<'_>, kind: RecordType) -> Found {
        let of_one = selector.instance.is_some();
        match (kind, &selector.form) {
            (RecordType::A | RecordType::AAAA | RecordType::CNAME, Form::Plain) => self.addresses(served, kind),
            (RecordType::SRV, Form::Plain | Form::Underscored) => self.servers(served, selector.service, None),
            (RecordType::SRV, Form::Port(port)) => self.servers(served, selector.service, Some(port)),
            (RecordType::TXT, Form::Plain) => self.texts(served),
            // RFC 6763 section 6: an instance has a TXT record, be it empty.
            (RecordType::TXT, Form::Underscored) if of_one => {
                served.collect(self.most, |instance| Some(self.record(text(&instance.registration.meta))))
            }
            (RecordType::PTR, Form::Underscored) if !of_one => served.collect(self.most, |instance| {
                // RFC 6763 section 5: who is listed has an SRV record.
                self.port(instance, None)?;
                let name = self.owner.prepend_label(instance_label(instance).as_bytes()).ok()?;
                Some(self.record(RData::PTR(rdata::PTR(name))))
            }),
            _ => Found::bare(true),
        }
    }

    /// Whether traffic may be sent to `instance`.
    pub(super) fn serves(&self, instance: &Instance) -> bool {
        let health = instance.health();
        instance.member.is_shown() && health.is_served() && !(self.config.only_passing && health != Health::Passing)
    }

    /// Addresses, each once. Where all instances are host names, the name of the first: a CNAME stands alone (RFC 1034
    /// section 3.6.2), and an address that we looked up for somebody else would be our invention.
    fn addresses(&self, served: &Served<'_>, kind: RecordType) -> Found {
        let mut seen: BTreeSet<IpAddr> = BTreeSet::new();
        let found = served.collect(self.most, |instance| {
            let Host::Address(ip) = instance.address() else { return None };
            let ip = ip.to_canonical();
            seen.insert(ip).then(|| self.address_record(self.owner, ip, kind))?
        });
        if !seen.is_empty() {
            return found;
        }
        let alias = served.instances.iter().find_map(|instance| match instance.address() {
            Host::Name(host) => host_name(&host),
            Host::Address(_) => None,
        });
        let alias = alias.map(|name| self.record(RData::CNAME(rdata::CNAME(name))));
        Found { answers: alias.into_iter().collect(), ..Found::bare(true) }
    }

    /// SRV records of the main port, or of the one called `port`, with exactly one address for each target: HAProxy
    /// loses its place among other additional records.
    fn servers(&self, served: &Served<'_>, service: &str, port: Option<&str>) -> Found {
        let mut additionals = Vec::new();
        let (mut seen, mut told) = (BTreeSet::new(), BTreeSet::new());
        let heaviest = served.instances.iter().map(|instance| instance.weight()).max().unwrap_or_default();
        let found = served.collect(self.most, |instance| {
            let port = self.port(instance, port)?;
            // In our dialect an address is told under a name of its instance's own.
            let is_unique = self.zone.dialect == Dialect::Mesh && matches!(instance.address(), Host::Address(_));
            let target = match instance.address() {
                Host::Name(host) => host_name(&host)?,
                Host::Address(ip) => {
                    let ip = ip.to_canonical();
                    let target = self.target(instance, service, ip)?;
                    if is_unique || told.insert(target.clone()) {
                        let kind = if ip.is_ipv4() { RecordType::A } else { RecordType::AAAA };
                        additionals.push(self.address_record(&target, ip, kind)?);
                    }
                    target
                }
            };
            let (priority, weight) = (self.priority(instance), self.weight(instance, heaviest));
            if !is_unique && !seen.insert((priority, weight, port, target.clone())) {
                // A record set has no duplicates (RFC 2181 section 5).
                return None;
            }
            Some(self.record(RData::SRV(rdata::SRV::new(priority, weight, port, target))))
        });
        Found { additionals, ..found }
    }

    pub(super) fn port(&self, instance: &Instance, name: Option<&str>) -> Option<u16> {
        let registration = &instance.registration;
        match (name, registration.port) {
            (Some(name), _) => {
                let mut ports = registration.ports.iter();
                ports.find(|(key, _)| key.as_str().eq_ignore_ascii_case(name)).map(|(_, port)| port.get())
            }
            (None, Some(port)) => Some(port.get()),
            // Consul lists instances without a port, as port 0.
            (None, None) => (self.zone.dialect == Dialect::Consul).then_some(0),
        }
    }

    fn target(&self, instance: &Instance, service: &str, ip: IpAddr) -> Option<Name> {
        let zone = &self.zone.name;
        match self.zone.dialect {
            Dialect::Mesh => below(zone, [&instance_label(instance), service, "service"]),
            Dialect::Consul => {
                let datacenter = instance.node.datacenter.to_ascii_lowercase();
                let label = address_label(ip);
                below(zone, [&label, "addr", &datacenter]).or_else(|| below(zone, [&label, "addr"]))
            }
        }
    }

    /// RFC 2782: the least is tried first.
    fn priority(&self, instance: &Instance) -> u16 {
        let beyond = self.config.prefer == Prefer::Zone && !self.is_in_zone(instance);
        match self.zone.dialect {
            Dialect::Mesh => instance.registration.priority.saturating_add(u16::from(beyond)),
            Dialect::Consul => 1,
        }
    }

    /// HAProxy divides weights by 256 and takes 0 for "no traffic": ours are scaled for it, or by as much as the `heaviest`
    /// beside it leaves room for.
    fn weight(&self, instance: &Instance, heaviest: u16) -> u16 {
        let scale = (u16::MAX / heaviest.max(1)).min(256);
        match self.zone.dialect {
            Dialect::Mesh => instance.weight().saturating_mul(scale).max(1),
            Dialect::Consul => instance.weight(),
        }
    }

    /// One TXT record for each different set of meta data.
    fn texts(&self, served: &Served<'_>) -> Found {
        let mut seen = BTreeSet::new();
        served.collect(self.most, |instance| {
            let meta = &instance.registration.meta;
            (!meta.is_empty() && seen.insert(meta)).then(|| self.record(text(meta)))
        })
    }
}

impl<'a> Served<'a> {
    /// The records that `make` finds, at most `most`, and how many of the first come from equals.
    fn collect(&self, most: usize, mut make: impl FnMut(&'a Instance) -> Option<Record>) -> Found {
        let mut found = Found::bare(true);
        for (at, instance) in self.instances.iter().enumerate() {
            if found.answers.len() >= most.min(MOST_HELD) {
                break;
            }
            found.answers.extend(make(instance));
            if at < self.equals {
                found.equals = found.answers.len();
            }
        }
        found
    }
}

impl Selector<'_> {
    /// Whether it limits nothing, so that a service without instances is a name all the same.
    fn is_whole(&self) -> bool {
        self.tags.is_empty() && self.instance.is_none() && !matches!(self.form, Form::Port(_))
    }

    /// Whether a longer name takes one of these, by a tag with dots: the names in between exist too (RFC 8020).
    fn leads_to<'i>(&self, mut instances: impl Iterator<Item = &'i Instance>) -> bool {
        if self.tags.is_empty() {
            return false;
        }
        let end = format!(".{}", self.tags.join("."));
        let ends = |tag: &Tag| tag.as_str().to_ascii_lowercase().ends_with(&end);
        instances.any(|instance| instance.registration.tags.iter().any(ends))
    }

    fn takes(&self, instance: &Instance) -> bool {
        let registration = &instance.registration;
        let has_port = |port: &str| registration.ports.keys().any(|key| key.as_str().eq_ignore_ascii_case(port));
        let has_tag = |tag: &&str| registration.tags.iter().any(|own| own.as_str().eq_ignore_ascii_case(tag));
        // Labels are tags, or together one tag that holds dots, as versions do.
        (self.tags.iter().all(has_tag) || self.tags.len() > 1 && has_tag(&&*self.tags.join(".")))
            && self.instance.is_none_or(|hash| hash_of(instance) == hash)
            && match self.form {
                Form::Port(port) => has_port(port),
                Form::Plain | Form::Underscored | Form::Branch => true,
            }
    }
}

/// More records than 65,535 bytes hold, at 16 bytes for the smallest: the rest would be cut off again.
const MOST_HELD: usize = 4_096;
