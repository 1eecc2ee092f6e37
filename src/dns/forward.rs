//! Names of others: asked of the resolvers that the settings name, for clients that may. The asking and the cache are
//! `hickory-resolver`'s; which alias is followed to whom is decided here, because some lead back to us.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use hickory_proto::{
    op::{DnsRequestOptions, DnsResponse, Edns, Message, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata},
    serialize::binary::BinEncodable,
};
use hickory_resolver::{
    NameServerPool, PoolContext, ResponseCache, TlsConfig, TtlConfig,
    config::{ConnectionConfig, NameServerConfig, ResolverOpts},
    net::{
        DnsError, NetError,
        runtime::TokioRuntimeProvider,
        xfer::{DnsHandle, FirstAnswer},
    },
};
use ipnet::IpNet;
use tokio::{
    select,
    sync::oneshot,
    time::{self, sleep, timeout_at},
};

use super::{
    datagrams::Envelope,
    message::{Client, Face},
    settings::Config,
    special::{PRIVATE, has_private_end, holds_any, special},
};

/// A question for others.
pub(super) struct Question {
    packet: Vec<u8>,
    client: Client,
    /// When its client no longer waits.
    until: time::Instant,
}

/// How the answer gets back.
pub(super) enum Way {
    /// By the socket that the question came in by.
    Datagram(Box<Envelope>, Arc<UdpSocket>),
    /// To the connection, which waits.
    Stream(oneshot::Sender<Vec<u8>>),
}

impl Question {
    pub(super) fn new(packet: &[u8], client: Client) -> Self {
        Self { packet: packet.into(), client, until: time::Instant::now() + PATIENCE }
    }

    /// Whether nobody waits for the answer any more.
    pub(super) fn is_late(&self) -> bool {
        self.until <= time::Instant::now()
    }
}

impl Way {
    pub(super) fn say(self, reply: Vec<u8>) {
        match self {
            Self::Datagram(envelope, socket) => {
                if let Err(why) = envelope.send_back(&socket, &reply) {
                    tracing::debug!(%why, "could not send a forwarded answer");
                }
            }
            // It may have ended meanwhile.
            Self::Stream(stream) => drop(stream.send(reply)),
        }
    }
}

/// Who asks others.
pub(super) struct Forwarder {
    /// One pool for each resolver: of several in one, the first that refuses would speak for all.
    servers: Vec<NameServerPool<TokioRuntimeProvider>>,
    /// Which of them answered last, and is asked first.
    favourite: AtomicUsize,
    /// What they said, for as long as they said it holds.
    said: ResponseCache,
    /// Addresses that no public name may have.
    private: Vec<IpNet>,
}

/// How far to go for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// To what is known already.
    Kept,
    /// To the resolvers.
    Others,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lack {
    /// Others would have to be asked.
    Unknown,
    /// They were, and failed.
    Failed,
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
        let mut options = ResolverOpts::default();
        options.timeout = TIMEOUT;
        let said = ResponseCache::new(CACHE, TtlConfig::from_opts(&options));
        let pool = |server: &SocketAddr| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            let server = NameServerConfig::new(server.ip(), true, connections.into());
            let context = PoolContext::new(options.clone(), TlsConfig::new()?);
            Ok(NameServerPool::from_config([server], Arc::new(context), TokioRuntimeProvider::default()))
        };
        let servers: Result<_, NetError> = config.forward.iter().map(pool).collect();
        let private: &[&str] = if config.refuse_private { &PRIVATE } else { &[] };
        Some(Self {
            servers: servers.inspect_err(|why| tracing::error!(%why, "names of others are not forwarded")).ok()?,
            favourite: AtomicUsize::new(0),
            said,
            private: private.iter().filter_map(|net| net.parse().ok()).collect(),
        })
    }

    /// The answer that takes no asking, if there is one.
    pub(super) fn answer_at_once(&self, face: &Face, question: &Question) -> Option<Vec<u8>> {
        self.reply(face, question, Reach::Kept).now_or_never()?.ok()?
    }

    /// Asks, and sends the answer back.
    pub(super) async fn answer(&self, face: &Face, question: &Question, way: Way) {
        if let Ok(Some(reply)) = self.reply(face, question, Reach::Others).await {
            way.say(reply);
        }
    }

    /// Our own reply, with what others know instead of the refusal, or behind the alias. `None` for what does not parse,
    /// which nobody forwards.
    async fn reply(&self, face: &Face, question: &Question, reach: Reach) -> Result<Option<Vec<u8>>, Lack> {
        let Question { packet, client, until, .. } = question;
        let Some(own) = face.respond(packet, *client) else { return Ok(None) };
        let Ok(mut reply) = Message::from_vec(&own.bytes) else { return Ok(None) };
        let Some(query) = reply.queries.first().cloned() else { return Ok(None) };
        // Who does not want recursion is told what we know ourselves, and so is he whose name has become ours meanwhile, or
        // whose aliases do not fit.
        if !(own.foreign && reply.metadata.recursion_desired) || reply.metadata.truncation {
            return Ok(Some(own.bytes));
        }
        let alias = match reply.answers.last().map(|record| &record.data) {
            Some(RData::CNAME(rdata::CNAME(alias))) => Some(alias.clone()),
            _ => None,
        };
        let asked = self.look_up(face, alias.as_ref().unwrap_or(&query.name), query.query_type, reach);
        let found = match reach {
            Reach::Kept => asked.await,
            Reach::Others => timeout_at(*until, asked).await.unwrap_or(Err(Lack::Failed)),
        };
        reply.metadata.authoritative = alias.is_some() && found.is_ok();
        match found {
            Ok(found) => {
                reply.metadata.response_code = found.metadata.response_code;
                reply.answers.extend(found.answers);
                reply.authorities = found.authorities;
            }
            Err(Lack::Failed) => reply.metadata.response_code = ResponseCode::ServFail,
            Err(Lack::Unknown) => return Err(Lack::Unknown),
        }
        let offered = Message::from_vec(packet).ok().and_then(|asked| asked.edns.as_ref().map(Edns::max_payload));
        Ok(fit(reply, client.transport.size(offered.unwrap_or_default())))
    }

    /// What others know of a name: all aliases from it on, and what the last of them leads to.
    async fn look_up(&self, face: &Face, name: &Name, kind: RecordType, reach: Reach) -> Result<Message, Lack> {
        let mut chain = Vec::new();
        let mut found = self.follow(face, name, kind, reach, &mut chain).await?;
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
        reach: Reach,
        chain: &mut Vec<Record>,
    ) -> Result<Message, Lack> {
        let is_ours = |name: &Name| face.config.zone_of(name).is_some() || special(name, kind).is_some();
        let mut at = name.clone();
        at.set_fqdn(true);
        let mut found = self.find(face, &at, kind, reach).await?;
        loop {
            let alias = if is_alias_itself(kind) { None } else { alias_of(&found, &at) };
            let Some((alias, next)) = alias else {
                found.answers.retain(|record| record.name == at);
                return Ok(found);
            };
            if chain.len() == MAX_ALIASES {
                return Err(Lack::Failed);
            }
            chain.push(alias);
            let goes_on = found.answers.iter().any(|record| record.name == next) || is_denied(&found);
            // Of our names nobody else knows, and of theirs we do not.
            if !goes_on || is_ours(&next) != is_ours(&at) {
                found = self.find(face, &next, kind, reach).await?;
            }
            at = next;
        }
    }

    async fn find(&self, face: &Face, name: &Name, kind: RecordType, reach: Reach) -> Result<Message, Lack> {
        if let Some(known) = face.known(name, kind).or_else(|| special(name, kind)) {
            return Ok(known);
        }
        let query = Query::query(name.to_lowercase(), kind);
        let said = match (self.said.get(&query, Instant::now()), reach) {
            (Some(kept), _) => kept,
            (None, Reach::Kept) => return Err(Lack::Unknown),
            (None, Reach::Others) => {
                let said = self.ask_around(&query).await;
                self.said.insert(query, said.clone(), Instant::now());
                said
            }
        };
        match said {
            Ok(message) => Ok(message),
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                let soa = none.soa.map(|soa| (*soa).into_record_of_rdata());
                let mut message = Message::query();
                message.metadata.response_code = none.response_code;
                message.authorities.extend(soa);
                Ok(message)
            }
            Err(why) => {
                tracing::debug!(%why, "a name of others could not be found out");
                Err(Lack::Failed)
            }
        }
    }

    /// The first answer of a resolver. Each is given a moment before the next is asked too, and one that fails none.
    async fn ask_around(&self, query: &Query) -> Result<Message, NetError> {
        let first = self.favourite.load(Ordering::Relaxed);
        let mut others = (0..self.servers.len()).map(|n| (first + n) % self.servers.len());
        let mut asked = FuturesUnordered::new();
        let mut failed = NetError::NoConnections;
        loop {
            asked.extend(others.next().map(|at| self.ask(at, query)));
            select! {
                Some((at, said)) = asked.next() => match said {
                    Err(why) if !matches!(why, NetError::Dns(DnsError::NoRecordsFound(_))) => failed = why,
                    said => {
                        self.favourite.store(at, Ordering::Relaxed);
                        return said;
                    }
                },
                () = sleep(HEAD_START), if others.len() > 0 => {}
                else => return Err(failed),
            }
        }
    }

    /// What one resolver says of a name. Some know no EDNS (RFC 6891 section 7).
    async fn ask(&self, at: usize, query: &Query) -> (usize, Result<Message, NetError>) {
        let mut options = DnsRequestOptions::default();
        let mut said = Err(NetError::NoConnections);
        for _ in 0..TRIES {
            said = self.servers[at].lookup(query.clone(), options).first_answer().await.map(DnsResponse::into_message);
            match &said {
                Err(NetError::Dns(DnsError::ResponseCode(code))) if options.use_edns && is_about_edns(*code) => {
                    options.use_edns = false;
                }
                Ok(_) | Err(NetError::Dns(_)) => break,
                Err(_) => {}
            }
        }
        (at, said)
    }
}

/// What a resolver says that takes EDNS for an error.
const fn is_about_edns(code: ResponseCode) -> bool {
    matches!(code, ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS)
}

/// Whether it was asked for aliases, which are not followed then (RFC 1034 section 4.3.2, step 3a).
const fn is_alias_itself(kind: RecordType) -> bool {
    matches!(kind, RecordType::CNAME | RecordType::ANY)
}

/// Whether an answer says that the last name in it has no such records (RFC 2308), or does not exist (RFC 6604).
fn is_denied(found: &Message) -> bool {
    found.metadata.response_code != ResponseCode::NoError
        || found.authorities.iter().any(|record| record.record_type() == RecordType::SOA)
}

/// The alias that a name is, and the name that it leads to.
fn alias_of(found: &Message, name: &Name) -> Option<(Record, Name)> {
    found.answers.iter().find_map(|record| match &record.data {
        RData::CNAME(rdata::CNAME(next)) if record.name == *name => Some((record.clone(), next.clone())),
        _ => None,
    })
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
const TRIES: u32 = 2;
/// For all that it takes to answer one question.
pub(super) const PATIENCE: Duration = TIMEOUT.saturating_mul(TRIES);
/// How long a resolver is waited for alone: most answers come sooner, also from the other side of the world.
const HEAD_START: Duration = Duration::from_millis(300);
/// More than anybody chains on purpose; unbound follows eleven.
const MAX_ALIASES: usize = 16;
/// Answers kept, of some hundred bytes each.
const CACHE: u64 = 4_096;
