//! Names of others: asked of the resolvers that the settings name, for clients that may, by `hickory-resolver`, which
//! keeps what it learns, gives up in time, and leaves out private addresses where it is told to.

use std::{net::UdpSocket, sync::Arc, time::Duration};

use hickory_proto::{
    op::{Edns, Message, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{self, svcb::SvcParamValue},
    },
    serialize::binary::BinEncodable,
};
use hickory_resolver::{
    Resolver, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
};
use ipnet::IpNet;
use tokio::{sync::oneshot, time::timeout};

use super::{
    datagrams::Envelope,
    message::{Client, Face},
    settings::{Config, holds},
};
use crate::model::ipv4_within;

/// A question for others.
pub(super) struct Question {
    packet: Vec<u8>,
    client: Client,
    way: Way,
}

/// How the answer gets back.
pub(super) enum Way {
    /// By the socket that the question came in by.
    Datagram(Box<Envelope>, Arc<UdpSocket>),
    /// To the connection, which waits.
    Stream(oneshot::Sender<Vec<u8>>),
}

impl Question {
    pub(super) fn new(packet: &[u8], client: Client, way: Way) -> Self {
        Self { packet: packet.into(), client, way }
    }
}

/// Who asks others.
pub(super) struct Forwarder {
    resolver: TokioResolver,
    /// Addresses that no public name may have.
    private: Vec<IpNet>,
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Forwarder")
    }
}

impl Forwarder {
    /// Of the resolvers that the settings name; `None` if they name none.
    pub(super) fn new(config: &Config) -> Option<Self> {
        if config.forward.is_empty() {
            return None;
        }
        let servers = config.forward.iter().map(|server| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            NameServerConfig::new(server.ip(), true, connections.into())
        });
        let mut options = ResolverOpts::default();
        options.timeout = TIMEOUT;
        options.attempts = ATTEMPTS as usize;
        options.cache_size = CACHE;
        // This host's own file is none of the resolvers, and not for everybody to read.
        options.use_hosts_file = ResolveHosts::Never;
        let resolvers = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        let built =
            Resolver::builder_with_config(resolvers, TokioRuntimeProvider::default()).with_options(options).build();
        let resolver = built.inspect_err(|why| tracing::error!(%why, "names of others are not forwarded")).ok()?;
        let private: &[&str] = if config.refuse_private { &PRIVATE } else { &[] };
        Some(Self { resolver, private: private.iter().filter_map(|net| net.parse().ok()).collect() })
    }

    /// Asks, and sends the answer back.
    pub(super) async fn answer(&self, face: &Face, question: Question) {
        let Question { packet, client, way } = question;
        let Some(reply) = self.reply(face, &packet, client).await else { return };
        match way {
            Way::Datagram(envelope, socket) => {
                if let Err(why) = envelope.send_back(&socket, &reply) {
                    tracing::debug!(client = %client.address, %why, "could not send a forwarded answer");
                }
            }
            // It may have ended meanwhile.
            Way::Stream(stream) => drop(stream.send(reply)),
        }
    }

    /// Our own reply, with what others know instead of the refusal, or behind the alias. `None` for what does not parse,
    /// which nobody forwards.
    async fn reply(&self, face: &Face, packet: &[u8], client: Client) -> Option<Vec<u8>> {
        let own = face.respond(packet, client)?;
        let mut reply = Message::from_vec(&own.bytes).ok()?;
        // Who does not want recursion is told what we know ourselves, and so is he whose name has become ours meanwhile, or
        // whose aliases do not fit.
        if !(own.foreign && reply.metadata.recursion_desired) || reply.metadata.truncation {
            return Some(own.bytes);
        }
        let query = reply.queries.first()?.clone();
        let alias = match reply.answers.last().map(|record| &record.data) {
            Some(RData::CNAME(rdata::CNAME(alias))) => Some(alias.clone()),
            _ => None,
        };
        let asked = self.look_up(face, alias.as_ref().unwrap_or(&query.name), query.query_type);
        match timeout(PATIENCE, asked).await.unwrap_or(Err(ResponseCode::ServFail)) {
            Ok(found) => {
                reply.metadata.response_code = found.metadata.response_code;
                reply.answers.extend(found.answers);
                reply.authorities = found.authorities;
            }
            Err(code) => reply.metadata.response_code = code,
        }
        reply.metadata.authoritative = alias.is_some();
        let offered = Message::from_vec(packet).ok()?.edns.as_ref().map_or(0, Edns::max_payload);
        fit(reply, client.transport.size(offered))
    }

    /// What others know of a name: all aliases from it on, and what the last of them leads to.
    async fn look_up(&self, face: &Face, name: &Name, kind: RecordType) -> Result<Message, ResponseCode> {
        let mut chain = Vec::new();
        let mut found = self.follow(face, name, kind, &mut chain).await?;
        if !has_private_end(name) {
            // What is left of the name is that it exists.
            found.answers.retain(|record| !holds_any(&self.private, &record.data));
        }
        chain.append(&mut found.answers);
        found.answers = chain;
        Ok(found)
    }

    /// Notes the aliases from a name on, and says what the last of them leads to.
    async fn follow(
        &self,
        face: &Face,
        name: &Name,
        kind: RecordType,
        chain: &mut Vec<Record>,
    ) -> Result<Message, ResponseCode> {
        let mut at = name.clone();
        at.set_fqdn(true);
        while chain.len() < MAX_ALIASES {
            // Of our own names nobody knows more.
            if let Some(known) = face.known(&at, kind) {
                return Ok(known);
            }
            let mut found = self.ask(&at, kind).await?;
            let steps = chain.len();
            while let Some((alias, next)) = alias_of(&found, &at)
                && kind != RecordType::CNAME
                && chain.len() < MAX_ALIASES
            {
                chain.push(alias);
                at = next;
            }
            found.answers.retain(|record| record.name == at && face.config.zone_of(&at).is_none());
            // What is kept of earlier questions may begin with their aliases, and leave out those of this one.
            let is_denied = found.metadata.response_code != ResponseCode::NoError
                || found.authorities.iter().any(|record| record.record_type() == RecordType::SOA);
            // Nor is it said of what does not exist whether that is the name or where it leads (RFC 6604).
            let is_missing = found.metadata.response_code == ResponseCode::NXDomain && kind != RecordType::CNAME;
            if found.answers.is_empty() && (is_missing || !is_denied) {
                if chain.len() > steps {
                    continue;
                }
                if let Some((alias, next)) = alias_of(&self.ask(&at, RecordType::CNAME).await?, &at) {
                    chain.push(alias);
                    at = next;
                    continue;
                }
            }
            return Ok(found);
        }
        Err(ResponseCode::ServFail)
    }

    async fn ask(&self, name: &Name, kind: RecordType) -> Result<Message, ResponseCode> {
        match self.resolver.lookup(name.clone(), kind).await {
            Ok(lookup) => Ok(lookup.message().clone()),
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                let mut message = Message::query();
                message.metadata.response_code = none.response_code;
                message.authorities.extend(none.soa.map(|soa| (*soa).into_record_of_rdata()));
                Ok(message)
            }
            Err(why) => {
                tracing::debug!(%why, "a name of others could not be found out");
                Err(ResponseCode::ServFail)
            }
        }
    }
}

/// The alias that a name is, and the name that it leads to.
fn alias_of(found: &Message, name: &Name) -> Option<(Record, Name)> {
    found.answers.iter().find_map(|record| match &record.data {
        RData::CNAME(rdata::CNAME(next)) if record.name == *name => Some((record.clone(), next.clone())),
        _ => None,
    })
}

/// Whether a name ends where no stranger can have one, so that a private address is its right (RFC 6761, RFC 6762, RFC
/// 8375, and `internal`, which ICANN keeps free).
fn has_private_end(name: &Name) -> bool {
    let labels: Vec<String> = name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    matches!(labels[..], [] | [_] | [.., "internal" | "local" | "test"] | [.., "home", "arpa"])
}

/// Whether a record has an address in one of these networks, be it as a hint (RFC 9460) or within another address.
fn holds_any(networks: &[IpNet], data: &RData) -> bool {
    let is_held = |address| holds(networks, address) || ipv4_within(address).any(|within| holds(networks, within));
    let hinted = |hint: &SvcParamValue| match hint {
        SvcParamValue::Ipv4Hint(hint) => hint.0.iter().any(|a| is_held(a.0.into())),
        SvcParamValue::Ipv6Hint(hint) => hint.0.iter().any(|aaaa| is_held(aaaa.0.into())),
        _ => false,
    };
    match data {
        RData::A(a) => is_held(a.0.into()),
        RData::AAAA(aaaa) => is_held(aaaa.0.into()),
        RData::SVCB(service) => service.svc_params.iter().any(|(_, value)| hinted(value)),
        RData::HTTPS(service) => service.0.svc_params.iter().any(|(_, value)| hinted(value)),
        _ => false,
    }
}

/// The reply in as many bytes as the client takes; without its records where they are too many.
fn fit(mut reply: Message, size: u16) -> Option<Vec<u8>> {
    let bytes = reply.to_bytes().ok()?;
    if bytes.len() <= usize::from(size) {
        return Some(bytes);
    }
    reply.answers.clear();
    reply.authorities.clear();
    reply.metadata.truncation = true;
    reply.to_bytes().ok()
}

/// Two tries of each resolver, one of which is a repetition, before clients give up on us: most wait five seconds.
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: u32 = 1;
/// For all that it takes to answer one question.
pub(super) const PATIENCE: Duration = TIMEOUT.saturating_mul(1 + ATTEMPTS);
/// More than anybody follows.
const MAX_ALIASES: usize = 8;
/// Answers kept, of some hundred bytes each.
const CACHE: u64 = 4_096;
/// Addresses that no public name has a business with: those that are not globally reachable (RFC 6890 and IANA's registries
/// of special-purpose addresses), multicast, and what only a translator of one's own reaches (RFC 8215). Those for
/// documentation lead nowhere.
const PRIVATE: [&str; 17] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/3",
    "::/127",
    "64:ff9b:1::/48",
    "100::/64",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use hickory_proto::rr::rdata::{
        HTTPS, SVCB,
        svcb::{IpHint, SvcParamKey},
    };

    use super::*;

    #[test]
    fn private_addresses_are_known_in_every_dress() {
        let private = PRIVATE.map(|net| net.parse().unwrap());
        for (address, held) in [
            ("10.0.0.1", true),
            ("192.0.2.1", false),
            ("::ffff:10.0.0.1", true),
            ("64:ff9b::a00:1", true),
            ("64:ff9b:1::c000:201", true),
            ("2002:a00:1::", true),
            ("2002:c000:201::", false),
            ("::10.0.0.1", true),
            ("fec0::1", true),
            ("ff02::1", true),
            ("198.19.255.255", true),
            ("255.255.255.255", true),
            ("64:ff9b::c000:201", false),
            ("fd00::1", true),
            ("2001:db8::1", false),
        ] {
            let data = match address.parse().unwrap() {
                IpAddr::V4(v4) => RData::A(v4.into()),
                IpAddr::V6(v6) => RData::AAAA(v6.into()),
            };
            assert_eq!(holds_any(&private, &data), held, "{address}");
        }
        let hint = SvcParamValue::Ipv4Hint(IpHint(vec![Ipv4Addr::new(10, 0, 0, 1).into()]));
        let service = SVCB::new(1, Name::root(), vec![(SvcParamKey::Ipv4Hint, hint)]);
        assert!(holds_any(&private, &RData::HTTPS(HTTPS(service))));
    }

    #[test]
    fn some_names_are_private_by_right() {
        for (name, private) in [
            ("nas.corp.internal.", true),
            ("nas.", true),
            ("tv.home.arpa.", true),
            ("Printer.LOCAL.", true),
            ("evil.example.com.", false),
            ("internal.example.", false),
        ] {
            assert_eq!(has_private_end(&Name::from_ascii(name).unwrap()), private, "{name}");
        }
    }
}
