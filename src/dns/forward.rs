//! Names of others: asked of the resolvers that the settings name, for clients that may, by `hickory-resolver`, which
//! keeps what it learns, gives up in time, and leaves out private addresses where it is told to.

use std::{net::UdpSocket, sync::Arc, time::Duration};

use hickory_proto::{
    op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode},
    rr::{Name, RecordType},
    serialize::binary::BinEncodable,
};
use hickory_resolver::{
    Resolver, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
};
use tokio::sync::oneshot;

use super::{datagrams::Envelope, message::Client, settings::Config};

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
        options.attempts = ATTEMPTS;
        options.cache_size = CACHE;
        if config.refuse_private {
            options.deny_answers = PRIVATE.iter().filter_map(|net| net.parse().ok()).collect();
        }
        let resolvers = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        let built =
            Resolver::builder_with_config(resolvers, TokioRuntimeProvider::default()).with_options(options).build();
        let resolver = built.inspect_err(|why| tracing::error!(%why, "names of others are not forwarded")).ok()?;
        Some(Self { resolver })
    }

    /// Asks, and sends the answer back.
    pub(super) async fn answer(&self, question: Question) {
        let Question { packet, client, way } = question;
        let Some(reply) = self.reply(&packet, client).await else { return };
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

    /// `None` for what does not parse, which nobody forwards.
    async fn reply(&self, packet: &[u8], client: Client) -> Option<Vec<u8>> {
        let asked = Message::from_vec(packet).ok()?;
        let query = asked.queries.first()?;
        let mut metadata = Metadata::response_from_request(&asked.metadata);
        metadata.recursion_available = true;
        let mut reply = Message::new(metadata.id, MessageType::Response, OpCode::Query);
        reply.add_query(query.clone());
        if asked.edns.is_some() {
            reply.set_edns(Edns::new());
        }
        // Who does not want recursion is told what we know ourselves: nothing.
        let found = if asked.metadata.recursion_desired {
            self.look_up(&query.name, query.query_type).await
        } else {
            Err(ResponseCode::Refused)
        };
        match found {
            Ok(message) => {
                reply.answers = message.answers;
                reply.authorities = message.authorities;
                metadata.response_code = message.metadata.response_code;
            }
            Err(code) => metadata.response_code = code,
        }
        reply.metadata = metadata;
        let size = asked.edns.as_ref().map_or(0, Edns::max_payload);
        fit(reply, client.transport.size(size))
    }

    async fn look_up(&self, name: &Name, kind: RecordType) -> Result<Message, ResponseCode> {
        let mut name = name.clone();
        name.set_fqdn(true);
        match self.resolver.lookup(name, kind).await {
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

/// Two tries of each resolver before clients give up on us: most wait five seconds.
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;
/// Answers kept, of some hundred bytes each.
const CACHE: u64 = 4_096;
/// RFC 1918, RFC 6598, RFC 3927, RFC 1122, RFC 4193, RFC 4291: addresses that no public name has a business with.
const PRIVATE: [&str; 11] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "::/127",
    "::ffff:0:0/96",
    "fc00::/7",
    "fe80::/10",
];
