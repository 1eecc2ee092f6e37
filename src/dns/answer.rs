//! Question and view in, records out: which status, which records, in which order they may be dropped.
//!
//! A name is one of three things: it has records of the type, it exists without them (NODATA), or it does not exist
//! (NXDOMAIN, RFC 2308). Mixing up the last two breaks resolvers that ask for A and AAAA at once, so existence is found
//! out apart from records.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata},
};

use super::{
    names::{Asked, Subject, below, host_name, instance_label, parse},
    settings::{Config, Prefer},
    zone::{Dialect, Zone},
};
use crate::{
    agent::{Basis, Service, View},
    mesh::{Instance, Member},
    model::{EchoNode, Host},
};

/// A reply before it is fitted to a size.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) code: ResponseCode,
    pub(super) authoritative: bool,
    /// Whether the name lies outside of all zones, or what it is an alias of does.
    pub(super) foreign: bool,
    /// What of the view it was made from, and the beat of that; `None` where it should not be kept.
    pub(super) basis: Option<(Basis, u64)>,
    /// Best first, and in the same order for the same view: what is cut is cut from the end.
    pub(super) answers: Vec<Record>,
    /// How many of the first answers are equally good, so that their order may be rotated.
    pub(super) equals: usize,
    pub(super) authorities: Vec<Record>,
    pub(super) additionals: Vec<Record>,
}

/// What a name holds of one type.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Whether the name exists, with records of this type or without.
    pub(super) exists: bool,
    /// See [`Answer::answers`].
    pub(super) answers: Vec<Record>,
    /// See [`Answer::equals`].
    pub(super) equals: usize,
    pub(super) additionals: Vec<Record>,
}

/// Answers `question`, whose name is in lower case, from `view`. `most` is how many records can fit at the very most: no
/// work is done for more.
///
/// What we know ourselves of a name that an alias leads to follows it (RFC 1034 section 4.3.2, step 3a): stub resolvers
/// ask but once. The status is that of the last name (RFC 6604).
pub(super) fn answer(view: &View, config: &Config, question: &Query, most: usize) -> Answer {
    let mut answer = direct(view, config, question, most);
    for _ in 0..MAX_ALIASES {
        let Some(alias) = answer.alias(question.query_type) else { break };
        if answer.answers.iter().any(|record| record.name == *alias) {
            // Round in a circle.
            break;
        }
        let further = direct(view, config, &Query::query(alias.to_lowercase(), question.query_type), most);
        if further.foreign {
            answer.foreign = true;
            break;
        }
        answer.answers.extend(further.answers);
        // Made from several parts of the view, it is made again when it is asked for again.
        answer = Answer { code: further.code, authorities: further.authorities, basis: None, equals: 0, ..answer };
    }
    answer
}

fn direct(view: &View, config: &Config, question: &Query, most: usize) -> Answer {
    let name = &question.name;
    let zone = config.zone_of(name);
    let reverse = if zone.is_none() { reverse_address(name) } else { None };
    let transfer = matches!(question.query_type, RecordType::AXFR | RecordType::IXFR);
    if question.query_class != DNSClass::IN || transfer {
        return Answer::failure(ResponseCode::Refused);
    }
    if zone.is_none() && reverse.is_none() {
        return Answer { foreign: true, ..Answer::failure(ResponseCode::Refused) };
    }
    let Some(zone) = zone.or(config.zones.first()) else { return Answer::failure(ResponseCode::Refused) };
    let asked = if reverse.is_some() { Asked::NOTHING } else { parse(name, zone) };
    let basis = asked.basis(view, config);
    // The number first: what is read after it is at least as new as it.
    let beat = view.beat(basis);
    let Some(local) = view.this().filter(|_| view.is_ready()) else {
        // Clients keep the servers they have on SERVFAIL, and drop them on NXDOMAIN.
        return Answer::failure(ResponseCode::ServFail);
    };
    let service = match &asked.subject {
        Subject::Service(selector) => Some(selector.service),
        _ => None,
    };
    let ttl = config.ttl_of(zone, service);
    let lookup = Lookup { view, config, zone, owner: name, local: &local, most, ttl };
    let answer = match reverse {
        Some(address) => lookup.reverse(address, question.query_type),
        None => lookup.forward(&asked, question.query_type),
    };
    Answer { basis: answer.authoritative.then_some((basis, beat)), ..answer }
}

impl Asked<'_> {
    /// What the answer will be made from.
    fn basis(&self, view: &View, config: &Config) -> Basis {
        match &self.subject {
            Subject::Service(selector) => {
                let basis = Basis::service(selector.service);
                let needs_nodes = self.datacenter.is_some() || config.prefer == Prefer::Near;
                if needs_nodes { basis.and_nodes() } else { basis }
            }
            Subject::Address(_) if self.datacenter.is_some() => Basis::NODES,
            Subject::Zone | Subject::NameServer | Subject::Address(_) => Basis::default(),
            // Of one without an agent the rows of services tell.
            Subject::Node(node) if view.node(node).is_none() => Basis::EVERYTHING,
            Subject::Branch | Subject::Node(_) => Basis::NODES,
            Subject::ServiceTypes | Subject::Nothing => Basis::EVERYTHING,
        }
    }
}

impl Answer {
    pub(super) fn failure(code: ResponseCode) -> Self {
        Self {
            code,
            authoritative: false,
            foreign: false,
            basis: None,
            answers: Vec::new(),
            equals: 0,
            authorities: Vec::new(),
            additionals: Vec::new(),
        }
    }

    /// The other name that this answer sends the client to, instead of the address it asked for.
    pub(super) fn alias(&self, kind: RecordType) -> Option<&Name> {
        match self.answers.last().map(|record| &record.data) {
            Some(RData::CNAME(rdata::CNAME(name))) if matches!(kind, RecordType::A | RecordType::AAAA) => Some(name),
            _ => None,
        }
    }
}

impl Found {
    /// A name without records of the type asked for.
    pub(super) fn bare(exists: bool) -> Self {
        Self { exists, ..Self::default() }
    }

    fn of(answers: Vec<Record>) -> Self {
        Self { exists: true, answers, ..Self::default() }
    }
}

/// One question about one zone.
#[derive(Clone, Copy)]
pub(super) struct Lookup<'a> {
    pub(super) view: &'a View,
    pub(super) config: &'a Config,
    pub(super) zone: &'a Zone,
    /// The name that was asked, in lower case.
    pub(super) owner: &'a Name,
    pub(super) local: &'a Arc<Member>,
    pub(super) most: usize,
    /// How long the answer may be kept.
    pub(super) ttl: u32,
}

impl Lookup<'_> {
    fn forward(&self, asked: &Asked<'_>, kind: RecordType) -> Answer {
        let mut found = Found::default();
        // As in Consul, whose names are this datacenter's unless they say another.
        let own = Some(&*self.local.node.datacenter).filter(|_| self.zone.dialect == Dialect::Consul);
        let datacenter = asked.datacenter.or(own);
        // RFC 8482 section 4.1: ANY is answered with one of the sets there are.
        let kinds = if kind == RecordType::ANY { ANY } else { std::slice::from_ref(&kind) };
        for kind in kinds {
            found = self.find(&asked.subject, datacenter, *kind);
            if !found.answers.is_empty() {
                break;
            }
        }
        let code = if found.exists { ResponseCode::NoError } else { ResponseCode::NXDomain };
        let authorities = if found.answers.is_empty() { self.soa().into_iter().collect() } else { Vec::new() };
        let Found { answers, equals, additionals, .. } = found;
        let answer = Answer { authoritative: true, ..Answer::failure(code) };
        Answer { answers, equals, authorities, additionals, ..answer }
    }

    fn find(&self, subject: &Subject<'_>, datacenter: Option<&str>, kind: RecordType) -> Found {
        match subject {
            Subject::Zone => self.apex(kind),
            Subject::NameServer => Found::of(self.addresses_of(self.local, self.owner, kind)),
            Subject::Branch => Found::bare(self.is_datacenter(datacenter)),
            Subject::Service(selector) => self.service(selector, datacenter, kind),
            Subject::Node(node) => self.node(node, datacenter, kind),
            Subject::Address(_) if !self.is_datacenter(datacenter) => Found::default(),
            Subject::Address(address) => {
                Found::of(self.address_record(self.owner, *address, kind).into_iter().collect())
            }
            Subject::ServiceTypes if !self.is_datacenter(datacenter) => Found::default(),
            Subject::ServiceTypes => self.service_types(datacenter, kind),
            Subject::Nothing => Found::default(),
        }
    }

    fn apex(&self, kind: RecordType) -> Found {
        match kind {
            RecordType::SOA => Found::of(self.soa().into_iter().collect()),
            RecordType::NS => {
                let Some(server) = self.node_name(self.local) else { return Found::bare(true) };
                let glue = [RecordType::A, RecordType::AAAA];
                let additionals = glue.iter().flat_map(|kind| self.addresses_of(self.local, &server, *kind)).collect();
                Found { additionals, ..Found::of(vec![self.record(RData::NS(rdata::NS(server)))]) }
            }
            _ => Found::bare(true),
        }
    }

    fn node(&self, name: &str, datacenter: Option<&str>, kind: RecordType) -> Found {
        let Some(member) = self.view.node(name) else { return self.foreign_node(name, datacenter, kind) };
        if datacenter.is_some_and(|dc| !member.node.datacenter.eq_ignore_ascii_case(dc)) {
            return Found::default();
        }
        if !member.is_shown() {
            return Found::bare(self.zone.dialect == Dialect::Mesh);
        }
        let this = self.while_held(member.held);
        Found::of(match kind {
            RecordType::TXT if !member.node.meta.is_empty() => vec![this.record(text(&member.node.meta))],
            kind => this.addresses_of(&member, self.owner, kind),
        })
    }

    /// A node that runs no agent: what was said of it, as long as who said it is there.
    fn foreign_node(&self, name: &str, datacenter: Option<&str>, kind: RecordType) -> Found {
        let is_there = |own: &str| datacenter.is_none_or(|dc| own.eq_ignore_ascii_case(dc));
        let Some(row) = self.view.foreign_node(name, is_there) else { return Found::default() };
        let Some(node) = row.registration.foreign().filter(|_| row.member.is_shown()) else {
            return Found::bare(self.zone.dialect == Dialect::Mesh);
        };
        let this = self.while_held(row.held.is_some());
        let alias = || host_name(&node.address).map(|name| this.record(RData::CNAME(rdata::CNAME(name))));
        let record = match (kind, node.address.parse::<IpAddr>(), &node.meta) {
            (RecordType::TXT, _, Some(meta)) if !meta.is_empty() => Some(this.record(text(meta))),
            (_, Ok(address), _) => this.address_record(self.owner, address.to_canonical(), kind),
            (RecordType::A | RecordType::AAAA | RecordType::CNAME, Err(_), _) => alias(),
            _ => None,
        };
        Found::of(record.into_iter().collect())
    }

    /// RFC 6763 section 9: `_services._dns-sd._udp` lists the kinds of service there are.
    fn service_types(&self, datacenter: Option<&str>, kind: RecordType) -> Found {
        if kind != RecordType::PTR {
            return Found::bare(true);
        }
        let services = self.view.services();
        let is_there = |instance: &Instance| {
            let is_local = datacenter.is_none_or(|dc| instance.node.datacenter.eq_ignore_ascii_case(dc));
            is_local && self.serves(instance) && self.port(instance, None).is_some()
        };
        let served = || services.iter().filter(|service| service.instances.iter().any(is_there));
        let is_held = served().flat_map(|service| &service.instances).any(|row| row.held.is_some());
        let this = self.while_held(is_held);
        // Below the domain that was asked about: the whole zone, or one of its datacenters.
        let domain = self.owner.trim_to(self.owner.iter().len() - ENUMERATION);
        let named = |label: String| below(&domain, [label.as_str(), "_tcp"]);
        let names = served().filter_map(|service| named(format!("_{}", service.name.folded())));
        Found::of(names.take(self.most).map(|name| this.record(RData::PTR(rdata::PTR(name)))).collect())
    }

    /// The nodes at `address`, and the instances whose own it is. We have no authority over one that is none of ours.
    fn reverse(&self, address: IpAddr, kind: RecordType) -> Answer {
        let Some(tenants) = self.view.tenants(address) else {
            return Answer { foreign: true, ..Answer::failure(ResponseCode::Refused) };
        };
        let nodes = tenants.nodes.iter().filter_map(|name| self.view.node(name)).filter(|node| node.is_shown());
        let nodes: Vec<Arc<Member>> = nodes.collect();
        let services: Vec<Arc<Service>> = tenants.services.iter().filter_map(|name| self.view.service(name)).collect();
        let foreign = || services.iter().flat_map(|service| foreign_at(service, address));
        let mut rows = services.iter().flat_map(|service| self.served_at(service, address)).chain(foreign());
        let this = self.while_held(nodes.iter().any(|node| node.held) || rows.any(|row| row.held.is_some()));
        let mut names: Vec<Name> = nodes.iter().filter_map(|node| self.node_name(node)).collect();
        let foreign = foreign().filter_map(|row| Some((&*row.registration.foreign()?.name, &*row.node.datacenter)));
        let foreign: BTreeSet<(&str, &str)> = foreign.collect();
        names.extend(foreign.iter().filter_map(|(name, datacenter)| self.name_of_node(name, datacenter)));
        names.extend(services.iter().flat_map(|service| self.names_at(service, address)));
        let mut answer = Answer { authoritative: true, ..Answer::failure(ResponseCode::NoError) };
        if matches!(kind, RecordType::PTR | RecordType::ANY) {
            names.truncate(MAX_POINTERS);
            answer.answers = names.into_iter().map(|name| this.record(RData::PTR(rdata::PTR(name)))).collect();
        }
        if answer.answers.is_empty() {
            // A zone of its own: what we know of the addresses around it others know better.
            answer.authorities.extend(self.soa_of(self.owner));
        }
        answer
    }

    /// What the instances of `service` at `address` are called: each by its own name, or together by their service's.
    fn names_at(&self, service: &Service, address: IpAddr) -> Vec<Name> {
        let there = self.served_at(service, address);
        let (name, zone) = (service.name.folded(), &self.zone.name);
        match self.zone.dialect {
            Dialect::Mesh => {
                there.filter_map(|instance| below(zone, [&instance_label(instance), &name, "service"])).collect()
            }
            Dialect::Consul => there.take(1).filter_map(|_| below(zone, [&name, "service"])).collect(),
        }
    }

    fn served_at<'s>(&self, service: &'s Service, address: IpAddr) -> impl Iterator<Item = &'s Instance> {
        let is_there = move |instance: &&Instance| matches!(instance.registration.address, Some(Host::Address(own)) if own.to_canonical() == address);
        service.instances.iter().filter(is_there).filter(|instance| self.serves(instance))
    }

    /// The same question about what is shown as it last was: whoever keeps that longer keeps what may be wrong already.
    pub(super) fn while_held(self, held: bool) -> Self {
        Self { ttl: if held { self.ttl.min(STALE_TTL) } else { self.ttl }, ..self }
    }

    /// Whether a branch of this datacenter exists: every zone has one for each datacenter that holds a node.
    pub(super) fn is_datacenter(&self, datacenter: Option<&str>) -> bool {
        datacenter
            .is_none_or(|name| self.local.node.datacenter.eq_ignore_ascii_case(name) || self.view.has_datacenter(name))
    }

    fn node_name(&self, member: &Member) -> Option<Name> {
        self.name_of_node(member.node.name.as_str(), &member.node.datacenter)
    }

    /// `n1.node.dc1.D`, or without the datacenter where its name is no label.
    fn name_of_node(&self, node: &str, datacenter: &str) -> Option<Name> {
        let (node, datacenter) = (node.to_ascii_lowercase(), datacenter.to_ascii_lowercase());
        let zone = &self.zone.name;
        below(zone, [&node, "node", &datacenter]).or_else(|| below(zone, [&node, "node"]))
    }

    fn addresses_of(&self, member: &Member, owner: &Name, kind: RecordType) -> Vec<Record> {
        let mut ips: Vec<IpAddr> = Vec::with_capacity(member.node.addresses.len());
        for ip in member.node.addresses.iter().map(|address| address.ip().to_canonical()) {
            // One host may have several ports; a record set has no duplicates (RFC 2181 section 5).
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        }
        ips.into_iter().filter_map(|ip| self.address_record(owner, ip, kind)).collect()
    }

    /// The record of `address`, if it is of that `kind` and reaches somebody.
    pub(super) fn address_record(&self, owner: &Name, address: IpAddr, kind: RecordType) -> Option<Record> {
        let data = address_data(address, kind)?;
        Some(Record::from_rdata(owner.clone(), self.ttl, data))
    }

    /// A record of the name that was asked.
    pub(super) fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.owner.clone(), self.ttl, data)
    }

    /// The start of authority: its minimum says how long resolvers may remember what is not there (RFC 2308).
    fn soa(&self) -> Option<Record> {
        self.soa_of(&self.zone.name)
    }

    fn soa_of(&self, owner: &Name) -> Option<Record> {
        let zone = &self.zone.name;
        let (server, contact) = (below(zone, ["ns"])?, below(zone, ["hostmaster"])?);
        let minimum = self.config.negative_ttl_seconds();
        let soa = rdata::SOA::new(server, contact, self.view.serial(), 3600, 600, 86_400, minimum);
        Some(Record::from_rdata(owner.clone(), minimum, RData::SOA(soa)))
    }
}

/// The rows on nodes that run no agent and are reached at `address`.
fn foreign_at(service: &Service, address: IpAddr) -> impl Iterator<Item = &Instance> {
    let is_there = move |node: &EchoNode| node.address.parse().is_ok_and(|own: IpAddr| own.to_canonical() == address);
    let rows = service.rows().filter(|row| row.member.is_shown());
    rows.filter(move |row| row.registration.foreign().is_some_and(is_there))
}

fn address_data(address: IpAddr, kind: RecordType) -> Option<RData> {
    match (address, kind) {
        (address, _) if address.is_unspecified() => None,
        (IpAddr::V4(v4), RecordType::A) => Some(RData::A(v4.into())),
        (IpAddr::V6(v6), RecordType::AAAA) => Some(RData::AAAA(v6.into())),
        _ => None,
    }
}

/// Pairs as RFC 6763 section 6 writes them. One that does not fit into a character-string (RFC 1035: 255 bytes) is
/// left out, since half a pair would mean something else, and so is one whose key is not of printable ASCII without `=`;
/// HTTP shows them. Nothing at all is one empty string.
pub(super) fn text(meta: &std::collections::BTreeMap<String, String>) -> RData {
    let is_key = |key: &str| key.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'=');
    let fit = meta.iter().filter(|(key, _)| is_key(key));
    let pairs = fit.map(|(key, value)| format!("{key}={value}")).filter(|pair| pair.len() <= 255);
    let mut pairs: Vec<String> = pairs.collect();
    if pairs.is_empty() {
        pairs.push(String::new());
    }
    RData::TXT(rdata::TXT::new(pairs))
}

/// The address that a reverse name spells out in full (RFC 1035 section 3.5, RFC 3596 section 2.5).
fn reverse_address(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

/// For what is shown as it last was.
const STALE_TTL: u32 = 1;
/// More aliases in a row than resolvers follow.
const MAX_ALIASES: usize = 8;
/// The labels of `_services._dns-sd._udp`.
const ENUMERATION: usize = 3;
/// More names than anybody reads for one address; each answer to a reverse question stays within a datagram.
const MAX_POINTERS: usize = 16;
/// In the order of what is most asked for.
const ANY: &[RecordType] =
    &[RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::TXT, RecordType::PTR, RecordType::SOA];
