//! The UDP socket and QUIC upon it: limits and keys.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::hmac;
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, IdleTimeout, ReadToEndError, RecvStream, ServerConfig, TokioRuntime,
    TransportConfig, VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use quinn_proto::HashedConnectionIdGenerator;
use socket2::{Domain, Protocol, Socket, Type};

use super::{StartError, socket::Apart, store::Keys, trust::Tls};
use crate::mesh::wire::{MAX_MESSAGE, MAX_PACKET};

/// Why we closed a connection. On the wire: never change a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Code {
    /// Not needed any more.
    Closed = 0,
    /// The speaker leaves the mesh.
    Leave = 1,
    /// Another living node has the listener's name.
    NameInUse = 2,
    /// The listener broke the protocol.
    Protocol = 3,
    /// A second connection stands between the two.
    Duplicate = 4,
    /// The listener's certificate is not accepted any more, or it behaved badly for too long.
    Expelled = 5,
}

impl Code {
    pub(super) fn of(close: &quinn::ApplicationClose) -> Option<Self> {
        [Self::Closed, Self::Leave, Self::NameInUse, Self::Protocol, Self::Duplicate, Self::Expelled]
            .into_iter()
            .find(|code| VarInt::from(*code) == close.error_code)
    }
}

impl From<Code> for VarInt {
    fn from(code: Code) -> Self {
        Self::from_u32(code as u32)
    }
}

/// Opens the port. Must be called within a tokio runtime.
pub(super) fn bind(listen: SocketAddr, keys: &Keys, tls: Tls) -> Result<Endpoint, StartError> {
    let refuse = |why| StartError::Listen { address: listen, why };
    let socket = open_socket(listen).map_err(refuse)?;

    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &keys.reset)));
    let connection_ids = keys.connection_ids;
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(connection_ids)));

    let no_suite = |_| refuse(io::Error::other("no initial cipher suite"));
    let transport = Arc::new(transport());
    let mut server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls.server).map_err(no_suite)?));
    server.transport_config(Arc::clone(&transport)).max_incoming(MAX_INCOMING);
    let mut client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls.client).map_err(no_suite)?));
    client.transport_config(transport);

    let mut endpoint = open(config, Some(server), socket).map_err(refuse)?;
    endpoint.set_default_client_config(client);
    Ok(endpoint)
}

/// A port to dial from alone, for words that cannot wait.
pub(super) fn caller(tls: rustls::ClientConfig) -> io::Result<Endpoint> {
    let mut transport = transport();
    transport.initial_rtt(HASTY_RTT);
    let tls = QuicClientConfig::try_from(tls).map_err(|_| io::Error::other("no initial cipher suite"))?;
    let mut client = ClientConfig::new(Arc::new(tls));
    client.transport_config(Arc::new(transport));
    let socket = open_socket((Ipv6Addr::UNSPECIFIED, 0).into())?;
    let mut endpoint = open(EndpointConfig::default(), None, socket)?;
    endpoint.set_default_client_config(client);
    Ok(endpoint)
}

/// A port to dial from that has no key of its own.
pub(super) fn guest(towards: SocketAddr) -> io::Result<Endpoint> {
    let any: SocketAddr = if towards.is_ipv6() { ([0_u16; 8], 0).into() } else { ([0_u8; 4], 0).into() };
    open(EndpointConfig::default(), None, open_socket(any)?)
}

fn open(config: EndpointConfig, server: Option<ServerConfig>, socket: Socket) -> io::Result<Endpoint> {
    Endpoint::new_with_abstract_socket(config, server, Apart::wrap(socket.into())?, Arc::new(TokioRuntime))
}

/// A bound socket; where the machine has no IPv6, `[::]` falls back to `0.0.0.0`.
fn open_socket(listen: SocketAddr) -> io::Result<Socket> {
    let bound = |address: SocketAddr| {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        // The system caps these at its own limit; less only means more loss under bursts.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
        socket.bind(&address.into())?;
        Ok(socket)
    };
    bound(listen).or_else(|why: io::Error| {
        let no_ipv6 = matches!(why.kind(), io::ErrorKind::Unsupported | io::ErrorKind::AddrNotAvailable);
        if listen.is_ipv6() && listen.ip().is_unspecified() && (no_ipv6 || why.raw_os_error() == Some(NO_FAMILY)) {
            bound((Ipv4Addr::UNSPECIFIED, listen.port()).into())
        } else {
            Err(why)
        }
    })
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MILLIS))))
        .keep_alive_interval(None)
        .initial_rtt(INITIAL_RTT)
        // A handshake with path-MTU discovery costs 15 KB instead of 4, and nothing we send is larger.
        .mtu_discovery_config(None)
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(MAX_STREAMS))
        .stream_receive_window(VarInt::from_u32(MAX_MESSAGE as u32))
        .receive_window(VarInt::from_u32(MAX_STREAMS * MAX_MESSAGE as u32))
        .send_window(u64::from(MAX_STREAMS) * MAX_MESSAGE as u64)
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
        .datagram_send_buffer_size(DATAGRAM_BUFFER);
    transport
}

/// An address as people write it: IPv4 heard on an IPv6 socket is IPv4.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Reads a stream to its end, which comes within `most` bytes.
pub(super) async fn read_all(stream: &mut RecvStream, most: usize) -> Result<Vec<u8>, ReadToEndError> {
    let mut all = Vec::new();
    read_into(stream, most, &mut all).await?;
    Ok(all)
}

/// The same into what the caller has made for it, so that nothing secret is left behind where it grows.
///
/// Each piece that QUIC hands out holds the datagram that it came in, so it is copied and let go of at once.
/// `RecvStream::read_to_end` keeps all pieces until the end: a message in pieces of a byte is gigabytes there.
pub(super) async fn read_into(stream: &mut RecvStream, most: usize, all: &mut Vec<u8>) -> Result<(), ReadToEndError> {
    // In order: of what waits for an earlier piece QUIC itself makes few.
    while let Some(piece) = stream.read_chunk(most, true).await? {
        if piece.bytes.len() > most - all.len() {
            return Err(ReadToEndError::TooLong);
        }
        all.extend_from_slice(&piece.bytes);
    }
    Ok(())
}

/// EAFNOSUPPORT, which the standard library has no kind for.
const NO_FAMILY: i32 = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
/// The bursts to many peers that the default of 208 KiB drops.
const SOCKET_BUFFER: usize = 4 << 20;
/// An open connection costs memory alone, and a dead one is noticed by the probes.
const IDLE_MILLIS: u32 = 30 * 60 * 1000;
/// The same.
pub(super) const IDLE: Duration = Duration::from_millis(IDLE_MILLIS as u64);
/// Lost first packets are repeated after three of these; meshes live in datacenters.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// Where a repeated packet costs nothing, and a late one does.
const HASTY_RTT: Duration = Duration::from_millis(20);
/// The most streams a peer may have open of each kind.
pub(super) const MAX_STREAMS: u32 = 4;
/// The most bytes of datagrams that wait on one connection, each way: more than a burst of one round.
const DATAGRAM_BUFFER: usize = 128 * MAX_PACKET;
/// The most connections that wait to be looked at; each costs little until then.
const MAX_INCOMING: usize = 1024;
