//! Strangers who call: first packets of handshakes as fast as the table says, and beside them some handshakes that are
//! gone through to the end, by callers who prove their address and hold another secret.
//!
//! The first packets are made beforehand by QUIC itself and sent again in turn, each another caller's: to make them costs
//! more than to receive them.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use quinn::{ClientConfig, Endpoint, crypto::rustls::QuicClientConfig};
use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs as provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    version::TLS13,
};
use tokio::{runtime::Runtime, task::JoinSet, time::timeout};

use crate::{
    Effort, Row,
    fleet::{Fleet, metric},
    flood::Flood,
    garbage::rows,
    machine::usage,
    row,
    work::work,
};

/// The rows for a mesh of three that strangers call.
pub(crate) fn strangers(effort: Effort) -> Vec<Row> {
    let time = Duration::from_secs(effort.pick(60, 2));
    let fleet = Fleet::start(3);
    let runtime = Runtime::new().unwrap();
    let calls = runtime.block_on(first_packets(effort.pick(20_000, 1_000)));
    sleep(SETTLE);
    drop(work(&fleet, "warm", SETTLE));
    let calm = work(&fleet, "calm", time);
    let (http, mesh) = (fleet.ready[0].http, fleet.ready[0].mesh);
    let before = usage(fleet.ready[0].pid).rss_mb;
    let counted = || COUNTERS.map(|name| metric(http, name));
    let (counts, doubted) = (counted(), doubts(&fleet));
    let whole = runtime.spawn(call_on(mesh, time));
    let mut calls = calls.into_iter().cycle();
    let flood = Flood::start(mesh, RATE, move |packet| packet.extend(calls.next().unwrap_or_default()));
    let wild = work(&fleet, "wild", time);
    let rate = flood.stop();
    let whole = runtime.block_on(whole).unwrap() as f64 / time.as_secs_f64();
    let after = counted();
    let [retries, refused, failed] = [0, 1, 2].map(|n| (after[n] - counts[n]) / time.as_secs_f64());
    let doubted = doubts(&fleet) - doubted;
    let what = format!(
        "{rate:.0} first packets of strangers a second at one of three nodes, and {whole:.0} whole handshakes, {} s",
        time.as_secs()
    );
    let mut rows = rows(&what, &calm, &wild, before);
    rows.push(row(
        "the same, members doubted by anybody meanwhile; what became of the calls, a second",
        "0",
        format!("{doubted:.0}; {retries:.0} told to prove their address, {refused:.0} refused, {failed:.0} failed"),
        "",
    ));
    rows
}

/// How often any node saw a member suspect or down.
fn doubts(fleet: &Fleet) -> f64 {
    fleet.sum_of(|name| {
        name.contains("event=\"member\"") && ["now=\"suspect\"", "now=\"down\""].iter().any(|now| name.contains(now))
    })
}

/// So many first packets, each of another caller.
async fn first_packets(count: usize) -> Vec<Vec<u8>> {
    let sink = UdpSocket::bind("127.0.0.1:0").unwrap();
    sink.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let to = sink.local_addr().unwrap();
    let mut packets = Vec::new();
    while packets.len() < count {
        let endpoint = stranger();
        let calls: Vec<_> = (0..BATCH).map(|_| endpoint.connect(to, "node.hobnob").unwrap()).collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop((calls, endpoint));
        let mut buffer = [0; 2048];
        while let Ok(length) = sink.recv(&mut buffer) {
            // An Initial packet is padded (RFC 9000 section 14.1); what ends a call is not.
            if buffer[0] & 0xf0 == 0xc0 && length >= 1200 {
                packets.push(buffer[..length].to_vec());
            }
        }
    }
    packets
}

/// Calls again and again for so long; how many calls were gone through until the node hung up.
async fn call_on(to: SocketAddr, time: Duration) -> usize {
    let mut callers = JoinSet::new();
    let until = Instant::now() + time;
    for _ in 0..CALLERS {
        callers.spawn(async move {
            let (endpoint, mut made) = (stranger(), 0);
            while Instant::now() < until {
                let call = async {
                    // TLS 1.3 lets a client believe that it is connected before the server has seen its certificate.
                    if let Ok(connection) = endpoint.connect(to, "node.hobnob").unwrap().await {
                        connection.closed().await;
                    }
                };
                made += usize::from(timeout(GIVE_UP, call).await.is_ok());
                tokio::time::sleep(BETWEEN).await;
            }
            made
        });
    }
    callers.join_all().await.into_iter().sum()
}

/// Who speaks the protocol, and is not of the mesh.
fn stranger() -> Endpoint {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let named = rcgen::CertificateParams::new(vec!["evil.bench.hobnob".to_owned()]).unwrap();
    let certificate = named.self_signed(&key).unwrap().der().clone();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_client_auth_cert(vec![certificate], key)
        .unwrap();
    tls.alpn_protocols = vec![b"hobnob/1".to_vec()];
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap())));
    endpoint
}

/// Believes anybody.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

const COUNTERS: [&str; 3] =
    ["hobnob_driver_retries_total", "hobnob_driver_refused_total", "hobnob_driver_handshakes_failed_total"];
const RATE: u32 = 10_000;
/// Calls that one endpoint makes at a time.
const BATCH: usize = 500;
/// Who goes through with it.
const CALLERS: usize = 8;
const BETWEEN: Duration = Duration::from_millis(20);
const GIVE_UP: Duration = Duration::from_secs(6);
const SETTLE: Duration = Duration::from_secs(3);
