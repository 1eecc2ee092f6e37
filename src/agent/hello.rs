//! The first stream of every connection: each side says who it is, and the other holds it against the certificate.
//!
//! `connect` succeeds before the server has looked at the client's certificate (TLS 1.3), so the dialler counts a
//! connection as made only when the answer to its Hello is there.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use quinn::{
    Connection, ConnectionError, Endpoint, Incoming, RecvStream, SendStream, rustls::pki_types::CertificateDer,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::{
    gazette::Heard,
    lines::Lines,
    namesake::{holder, meet_namesake},
    quic::{Code, canonical, read_all},
    traffic::Traffic,
    trust::{self, Trust, farewell},
    usher::is_invited,
    will::is_last_will,
};
use crate::{
    mesh::{Hello, Objection, wire},
    model::{MeshName, NodeId},
};

/// Says hello on new connections, for dials and calls alike.
pub(super) struct Greeter {
    pub(super) endpoint: Endpoint,
    pub(super) mesh: MeshName,
    pub(super) traffic: Arc<Traffic>,
    pub(super) trust: Arc<Trust>,
    pub(super) gazette: mpsc::Sender<Heard>,
    pub(super) lines: Arc<Lines>,
    /// What this node says now.
    pub(super) hello: ArcSwap<Hello>,
}

/// A connection on which both sides have said who they are.
pub(super) struct Met {
    pub(super) connection: Connection,
    pub(super) hello: Hello,
    /// Whether this side dialled.
    pub(super) dialled: bool,
}

impl Met {
    /// Where the other side is.
    pub(super) fn address(&self) -> SocketAddr {
        canonical(self.connection.remote_address())
    }
}

/// Why two sides did not meet.
#[derive(Debug, thiserror::Error)]
pub(super) enum Missed {
    #[error("this address is our own")]
    Ourselves,
    #[error("another living node has this node's name")]
    NameInUse(SocketAddr),
    #[error("a peer says that another node, at {1}, has this node's name")]
    NameSaidInUse(NodeId, SocketAddr),
    #[error("no answer within {} s", GREETING.as_secs())]
    TimedOut,
    #[error("one of the two does not accept the other's certificate: their secrets or mesh names differ ({0})")]
    Stranger(ConnectionError),
    #[error(
        "one of the two takes the other's certificate for expired or not valid yet: their clocks differ, or it is old ({0})"
    )]
    Untimely(ConnectionError),
    #[error(
        "this node's certificate is revoked there: on a node that is let in, hobnob ca revoke NODE --undo; or \
             another certificate ({0})"
    )]
    Outcast(ConnectionError),
    #[error("its certificate is revoked in this mesh ({0})")]
    Revoked(ConnectionError),
    /// It said goodbye as only who has shaken hands may (RFC 9000 section 12.5): no honest caller does.
    #[error("it hung up at once ({0})")]
    HungUp(ConnectionError),
    #[error("{0}")]
    Connection(ConnectionError),
    #[error("{0}")]
    Connect(#[from] quinn::ConnectError),
    #[error("it {0}")]
    Protocol(&'static str),
    /// Somebody who was invited, and has no name yet.
    #[error("it is invited and no member yet")]
    Guest(Connection),
}

impl Missed {
    /// Whether the other side ended it before it stood.
    pub(super) fn is_hung_up(&self) -> bool {
        matches!(
            self,
            Self::Stranger(ConnectionError::ConnectionClosed(_))
                | Self::Untimely(ConnectionError::ConnectionClosed(_))
                | Self::Outcast(_)
                | Self::HungUp(_)
                | Self::Connection(ConnectionError::ConnectionClosed(_))
        )
    }
}

impl From<ConnectionError> for Missed {
    fn from(why: ConnectionError) -> Self {
        let code = match &why {
            ConnectionError::TransportError(ours) => u64::from(ours.code),
            ConnectionError::ConnectionClosed(theirs) => u64::from(theirs.error_code),
            _ => 0,
        };
        match code {
            EXPIRED => Self::Untimely(why),
            REVOKED if matches!(why, ConnectionError::ConnectionClosed(_)) => Self::Outcast(why),
            REVOKED => Self::Revoked(why),
            code if TLS_ALERTS.contains(&code) => Self::Stranger(why),
            _ => Self::Connection(why),
        }
    }
}

impl Greeter {
    /// And what links hear of edicts, to be read by the gazette.
    pub(super) fn new(
        endpoint: Endpoint,
        trust: Arc<Trust>,
        mesh: MeshName,
        hello: Hello,
    ) -> (Arc<Self>, mpsc::Receiver<Heard>) {
        let (gazette, heard) = mpsc::channel(MAX_HEARD);
        let hello = ArcSwap::from_pointee(hello);
        let (traffic, lines) = Default::default();
        (Arc::new(Self { endpoint, mesh, traffic, trust, gazette, lines, hello }), heard)
    }

    /// Dials `address`; where `expected` is given, whoever answers must be that node.
    pub(super) async fn dial(&self, address: SocketAddr, expected: Option<NodeId>) -> Result<Met, Missed> {
        self.traffic.dials.add(1);
        let connecting = self.endpoint.connect(address, ANY_NAME)?;
        let met = timeout(GREETING, async {
            let connection = connecting.await?;
            let hello = self.greet(&connection).await;
            self.settle(connection, hello, expected, Side::Dialler)
        });
        let met = self.count(met.await);
        if let Err(Missed::Outcast(_)) = &met {
            self.trust.shut_out(address, "it is revoked");
        }
        met
    }

    /// Answers a call.
    pub(super) async fn answer(&self, incoming: Incoming) -> Result<Met, Missed> {
        let met = timeout(GREETING, async {
            let connection = incoming.await.map_err(|why| match why {
                // Later it is an honest goodbye: that of a call that another address of ours has answered sooner.
                ConnectionError::ApplicationClosed(_) => Missed::HungUp(why),
                _ => why.into(),
            })?;
            if is_invited(&connection) {
                return Err(Missed::Guest(connection));
            }
            let hello = self.be_greeted(&connection).await;
            self.settle(connection, hello, None, Side::Listener)
        });
        self.count(met.await)
    }

    /// Until when the peer's certificate stands, in unix milliseconds; or why it would not be let in now.
    pub(super) fn standing(&self, connection: &Connection) -> Result<u64, Objection> {
        self.trust.standing(&chain(connection).unwrap_or_default())
    }

    /// The same, and who would not be let in is put out: a hello, or the judgement on a name, may come long after the
    /// handshake.
    pub(super) fn admit(&self, connection: &Connection) -> Result<u64, Objection> {
        self.standing(connection).inspect_err(|why| self.expel(connection, *why))
    }

    /// Closes a connection whose peer does not belong to the mesh any more.
    pub(super) fn expel(&self, connection: &Connection, why: Objection) {
        if let Some(unsaid) = self.lines.expelled.take(Instant::now()) {
            let at = canonical(connection.remote_address());
            tracing::warn!(event = "expelled", %at, told = farewell(why), unsaid);
        }
        connection.close(Code::Expelled.into(), farewell(why).as_bytes());
    }

    fn count(&self, met: Result<Result<Met, Missed>, tokio::time::error::Elapsed>) -> Result<Met, Missed> {
        let met = met.unwrap_or(Err(Missed::TimedOut));
        let is_ok = matches!(met, Ok(_) | Err(Missed::Guest(_)));
        let counter = if is_ok { &self.traffic.handshakes } else { &self.traffic.handshakes_failed };
        counter.add(1);
        if met.is_ok() {
            self.trust.let_in();
        }
        met
    }

    async fn greet(&self, connection: &Connection) -> Result<Hello, Broken> {
        let (mut to, mut from) = connection.open_bi().await?;
        say(&mut to, &self.hello.load_full()).await?;
        hear(&mut from).await
    }

    async fn be_greeted(&self, connection: &Connection) -> Result<Hello, Broken> {
        let (mut to, mut from) = connection.accept_bi().await?;
        let hello = hear(&mut from).await?;
        self.check(connection, &hello)?;
        say(&mut to, &self.hello.load_full()).await?;
        Ok(hello)
    }

    /// Holds a Hello against our mesh and the certificate.
    fn check(&self, connection: &Connection, hello: &Hello) -> Result<(), &'static str> {
        if hello.protocol != wire::VERSION {
            return Err("speaks another version of the protocol");
        }
        if hello.mesh != self.mesh {
            return Err("belongs to another mesh");
        }
        let proven = proven_id(connection, &self.mesh).ok_or("shows no certificate of this mesh")?;
        if proven != hello.id || NodeId::of(&self.mesh, &hello.node.name) != hello.id {
            return Err("says another name than its certificate");
        }
        Ok(())
    }

    /// Turns what was heard into a meeting, or closes the connection with the reason.
    fn settle(
        &self,
        connection: Connection,
        heard: Result<Hello, Broken>,
        expected: Option<NodeId>,
        side: Side,
    ) -> Result<Met, Missed> {
        let checked = heard.and_then(|hello| {
            self.check(&connection, &hello)?;
            Ok(hello)
        });
        let hello = match checked {
            Ok(hello) => hello,
            Err(Broken::Lost(why)) => return Err(self.lost(&connection, why)),
            Err(Broken::Protocol(why)) => {
                connection.close(Code::Protocol.into(), why.as_bytes());
                return Err(Missed::Protocol(why));
            }
        };
        let ours = self.hello.load();
        // The will of an earlier process of ours is no namesake; but a will calls, and answers nobody.
        if hello.id == ours.id && !(matches!(side, Side::Listener) && is_last_will(&hello)) {
            self.admit(&connection).map_err(|why| Missed::Protocol(farewell(why)))?;
            return Err(meet_namesake(&connection, &ours, &hello));
        }
        if expected.is_some_and(|id| id != hello.id) {
            connection.close(Code::Closed.into(), b"dialled somebody else");
            return Err(Missed::Protocol("is another node than expected"));
        }
        Ok(Met { connection, hello, dialled: matches!(side, Side::Dialler) })
    }

    /// The end of a connection, as one that did not come to be.
    fn lost(&self, connection: &Connection, why: ConnectionError) -> Missed {
        let peer = canonical(connection.remote_address());
        match &why {
            ConnectionError::ApplicationClosed(close) if Code::of(close) == Some(Code::NameInUse) => {
                // Nobody shakes hands without a name, so this leaves nobody out.
                let Some(by) = proven_id(connection, &self.mesh) else { return why.into() };
                let is_namesake = by == self.hello.load().id && self.standing(connection).is_ok();
                if is_namesake { Missed::NameInUse(peer) } else { Missed::NameSaidInUse(by, holder(close, peer)) }
            }
            _ => why.into(),
        }
    }
}

/// The codes that carry a TLS alert (RFC 9001 section 4.8).
pub(super) const TLS_ALERTS: std::ops::Range<u64> = 0x100..0x200;
/// The one of a certificate that is revoked (RFC 8446 section 6).
const REVOKED: u64 = TLS_ALERTS.start + 44;
/// The alert for a certificate that has expired or is not valid yet (RFC 8446 section 6.2).
const EXPIRED: u64 = TLS_ALERTS.start + 45;

/// The certificates that the peer has shown.
pub(super) fn chain(connection: &Connection) -> Option<Vec<CertificateDer<'static>>> {
    Some(*connection.peer_identity()?.downcast().ok()?)
}

/// The id that the peer's certificate proves.
fn proven_id(connection: &Connection, mesh: &MeshName) -> Option<NodeId> {
    let chain = chain(connection)?;
    Some(NodeId::of(mesh, &trust::proven_name(chain.first()?, mesh)?))
}

async fn say(to: &mut SendStream, hello: &Hello) -> Result<(), Broken> {
    let bytes = rmp_serde::to_vec_named(hello).map_err(|_| "cannot be told our hello")?;
    to.write_all(&bytes).await.map_err(|why| match why {
        quinn::WriteError::ConnectionLost(why) => Broken::Lost(why),
        _ => Broken::Protocol("does not listen to our hello"),
    })?;
    to.finish().map_err(|_| Broken::Protocol("does not listen to our hello"))
}

async fn hear(from: &mut RecvStream) -> Result<Hello, Broken> {
    let bytes = read_all(from, MAX_HELLO).await.map_err(|why| match why {
        quinn::ReadToEndError::Read(quinn::ReadError::ConnectionLost(why)) => Broken::Lost(why),
        _ => Broken::Protocol("does not say hello"),
    })?;
    let mut bytes = rmp_serde::Deserializer::from_read_ref(&bytes);
    bytes.set_max_depth(MAX_DEPTH);
    serde::Deserialize::deserialize(&mut bytes).map_err(|_| Broken::Protocol("says a hello that makes no sense"))
}

enum Side {
    Dialler,
    Listener,
}

/// What can go wrong while the two speak.
enum Broken {
    Lost(ConnectionError),
    Protocol(&'static str),
}

impl From<ConnectionError> for Broken {
    fn from(why: ConnectionError) -> Self {
        Self::Lost(why)
    }
}

impl From<&'static str> for Broken {
    fn from(why: &'static str) -> Self {
        Self::Protocol(why)
    }
}

/// QUIC wants a name to dial; ours are proved by certificate and Hello instead.
const ANY_NAME: &str = "node.hobnob";
/// News of edicts that wait; beyond it links do.
const MAX_HEARD: usize = 64;
/// Dial, handshake and both Hellos together.
pub(super) const GREETING: Duration = Duration::from_secs(5);
/// A Hello with every field at its limit, certificates of a chain included.
const MAX_HELLO: usize = 16 << 10;
/// A Hello nests three deep; a deeper one would only exhaust the stack.
const MAX_DEPTH: usize = 16;

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        agent::{Secret, quic, store::Keys, trust::Proof},
        mesh::Generation,
        model::{Epoch, Node},
    };

    /// A greeter on loopback that calls itself `node` and started as the `boot`th.
    pub(in crate::agent) fn greeter(node: &str, boot: u64, secret: &Secret) -> Arc<Greeter> {
        let (mesh, name): (MeshName, _) = ("prod".try_into().unwrap(), node.try_into().unwrap());
        let trust = Trust::new(&mesh, &name, Proof::Secrets(std::slice::from_ref(secret))).unwrap();
        let trust = Arc::new(trust);
        let keys = Keys { reset: [u8::try_from(boot).unwrap(); 32], connection_ids: boot };
        let endpoint = quic::bind("127.0.0.1:0".parse().unwrap(), &keys, trust.tls().unwrap()).unwrap();
        let hello = Hello {
            protocol: wire::VERSION,
            mesh: mesh.clone(),
            id: NodeId::of(&mesh, &name),
            generation: Generation::first(Epoch(boot)),
            boot,
            node: Node {
                name,
                addresses: vec![endpoint.local_addr().unwrap()],
                datacenter: "dc1".into(),
                zone: "".into(),
                version: "0".into(),
                meta: std::collections::BTreeMap::new(),
                maintenance: None,
                voucher: bytes::Bytes::new(),
            },
            features: Vec::new(),
        };
        Greeter::new(endpoint, trust, mesh, hello).0
    }

    /// `a` dials `b`: what each makes of the other.
    pub(in crate::agent) async fn meet(a: &Greeter, b: &Greeter) -> (Result<Met, Missed>, Result<Met, Missed>) {
        let answered = async { b.answer(b.endpoint.accept().await.unwrap()).await };
        tokio::join!(a.dial(b.endpoint.local_addr().unwrap(), None), answered)
    }

    #[tokio::test]
    async fn nobody_yields_his_name_to_one_whom_he_would_not_let_in() {
        let secret = Secret::random();
        let (elder, host) = (greeter("a", 1, &secret), greeter("a", 2, &secret));
        let call = elder.endpoint.connect(host.endpoint.local_addr().unwrap(), ANY_NAME).unwrap();
        let (_there, here) = tokio::join!(call, async { host.endpoint.accept().await.unwrap().await.unwrap() });
        let judge = || host.settle(here.clone(), Ok(Hello::clone(&elder.hello.load())), None, Side::Listener).err();
        host.trust.renew(Proof::Secrets(&[Secret::random()])).unwrap();
        assert!(matches!(judge(), Some(Missed::Protocol(_))));
        host.trust.renew(Proof::Secrets(&[secret])).unwrap();
        assert!(matches!(judge(), Some(Missed::NameInUse(_))));
    }

    #[tokio::test]
    async fn each_side_learns_who_the_other_is() {
        let secret = Secret::random();
        let (a, b) = (greeter("a", 1, &secret), greeter("b", 2, &secret));
        let (a_met, b_met) = meet(&a, &b).await;
        let (a_met, b_met) = (a_met.unwrap(), b_met.unwrap());
        assert_eq!(a_met.hello, **b.hello.load());
        assert_eq!(b_met.hello, **a.hello.load());
        assert!(a_met.dialled && !b_met.dialled);
    }

    #[test]
    fn a_wrong_clock_and_a_revocation_are_told_from_a_wrong_secret() {
        let alert = |number| {
            let error_code = quinn::TransportErrorCode::crypto(number);
            let close = quinn::ConnectionClose { error_code, frame_type: None, reason: bytes::Bytes::new() };
            Missed::from(ConnectionError::ConnectionClosed(close))
        };
        assert!(matches!(alert(45), Missed::Untimely(_)) && alert(45).is_hung_up());
        assert!(matches!(alert(48), Missed::Stranger(_)));
        assert!(matches!(alert(44), Missed::Outcast(_)) && alert(44).is_hung_up());
    }

    #[tokio::test]
    async fn a_stranger_is_not_met() {
        let (a, b) = (greeter("a", 1, &Secret::random()), greeter("b", 2, &Secret::random()));
        let (a_met, b_met) = meet(&a, &b).await;
        assert!(a_met.is_err() && b_met.is_err());
    }

    #[tokio::test]
    async fn a_name_that_the_certificate_does_not_prove_is_refused() {
        let secret = Secret::random();
        let (a, b) = (greeter("a", 1, &secret), greeter("b", 2, &secret));
        a.hello.store(greeter("c", 1, &secret).hello.load_full());
        let (a_met, b_met) = meet(&a, &b).await;
        assert!(a_met.is_err());
        assert!(matches!(b_met, Err(Missed::Protocol("says another name than its certificate"))));
    }

    #[tokio::test]
    async fn of_two_holders_of_a_name_the_later_yields_whoever_dials() {
        let secret = Secret::random();
        let (older, newer) = (greeter("a", 1, &secret), greeter("a", 2, &secret));
        let (_, newer_heard) = meet(&older, &newer).await;
        assert!(matches!(newer_heard, Err(Missed::NameInUse(_))));
        let (newer_heard, older_heard) = meet(&newer, &older).await;
        assert!(matches!(newer_heard, Err(Missed::NameInUse(_))));
        assert!(!matches!(older_heard, Err(Missed::NameInUse(_))));
    }

    #[tokio::test]
    async fn whoever_was_expected_must_answer() {
        let secret = Secret::random();
        let (a, b) = (greeter("a", 1, &secret), greeter("b", 2, &secret));
        let answered = async { b.answer(b.endpoint.accept().await.unwrap()).await };
        let dialled = a.dial(b.endpoint.local_addr().unwrap(), Some(NodeId(7)));
        assert!(tokio::join!(dialled, answered).0.is_err());
    }
}
