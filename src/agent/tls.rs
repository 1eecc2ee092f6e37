//! Who a peer is: mutual TLS 1.3 under a certification authority that every holder of the secret derives alike.
//!
//! Each secret gives one CA key (HKDF-SHA256, Ed25519) and one CA certificate, the same bytes on every node, so there is
//! nothing to hand out. A node signs itself a short-lived certificate for `<node>.<mesh>.hobnob` with the first secret
//! and believes those signed with any of them: that is how secrets rotate. The names are checked by us, since a seed is
//! dialled by address: chain first, then mesh, and in the Hello the node.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use aws_lc_rs::{
    hkdf::{HKDF_SHA256, KeyType, Salt},
    signature::Ed25519KeyPair,
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519, SerialNumber, date_time_ymd,
};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs as provider},
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    server::{
        NoServerSessionStorage, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
    version::TLS13,
};
use x509_parser::{extensions::GeneralName, parse_x509_certificate};
use zeroize::Zeroizing;

use super::Secret;
use crate::model::{MeshName, NodeName};

/// The protocol spoken above TLS (RFC 7301).
pub(super) const ALPN: &[u8] = b"hobnob/1";

/// Both sides of TLS for one node.
pub(super) struct Tls {
    pub(super) server: ServerConfig,
    pub(super) client: ClientConfig,
}

impl Tls {
    /// Derives the authorities and issues this node's first certificate. `secrets` must not be empty.
    pub(super) fn new(mesh: &MeshName, node: &NodeName, secrets: &[Secret]) -> Result<Self, Broken> {
        let authorities = secrets.iter().map(|s| Authority::derive(mesh, s)).collect::<Result<Vec<_>, _>>()?;
        let mut roots = RootCertStore::empty();
        for authority in &authorities {
            roots.add(authority.certificate.clone())?;
        }
        let provider = Arc::new(provider::default_provider());
        let verifier = Arc::new(Verifier::new(mesh.clone(), Arc::new(roots), &provider)?);
        let signer = authorities.into_iter().next().ok_or(Broken::NoSecret)?;
        let papers = Arc::new(Papers::new(san(mesh, node), signer)?);

        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::clone(&verifier) as _)
            .with_cert_resolver(Arc::clone(&papers) as _);
        server.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session would keep a peer's certificate without verifying it again, to save a third of a handshake.
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});

        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(papers);
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        Ok(Self { server, client })
    }
}

/// The name that a verified certificate proves, if it belongs to `mesh`.
pub(super) fn proven_name(certificate: &CertificateDer<'_>, mesh: &MeshName) -> Option<NodeName> {
    let san = only_san(certificate)?;
    let (node, rest) = san.split_once('.')?;
    let of = rest.strip_suffix(SUFFIX)?;
    if of.eq_ignore_ascii_case(mesh.as_str()) { NodeName::try_from(node).ok() } else { None }
}

/// Why TLS cannot be set up. Neither is the doing of a peer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// There is nothing to derive from.
    #[error("no secret was given")]
    NoSecret,
    /// The cryptographic library refused a key.
    #[error("the key cannot be derived")]
    Key,
    /// A certificate could not be made.
    #[error("the certificate cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// TLS refused the result.
    #[error("TLS refuses the certificate: {0}")]
    Tls(#[from] Error),
    /// The verifier refused the authorities.
    #[error("the verifier refuses the authority: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// One secret's certification authority.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    fn derive(mesh: &MeshName, secret: &Secret) -> Result<Self, Broken> {
        let mesh = mesh.as_str().to_ascii_lowercase();
        let mut seed = Zeroizing::new([0; SEED]);
        Salt::new(HKDF_SHA256, CA_SALT)
            .extract(secret.bytes())
            .expand(&[CA_LABEL, mesh.as_bytes()], SeedLength)
            .and_then(|key| key.fill(&mut *seed))
            .map_err(|_| Broken::Key)?;
        let key = key_pair(&seed)?;
        let params = authority_params(&mesh);
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }
}

/// The same bytes on every node: fixed validity, fixed serial, a signature without randomness (RFC 8032).
fn authority_params(mesh: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2120, 1, 1);
    params.serial_number = Some(SerialNumber::from(1_u64));
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("{mesh}{SUFFIX}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn key_pair(seed: &[u8; SEED]) -> Result<KeyPair, Broken> {
    let key = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| Broken::Key)?;
    let pkcs8 = key.to_pkcs8v1().map_err(|_| Broken::Key)?;
    Ok(KeyPair::try_from(&PrivatePkcs8KeyDer::from(pkcs8.as_ref()))?)
}

/// This node's own certificate, issued again when a handshake finds it old. No timer, so no cost while idle.
struct Papers {
    san: String,
    signer: Authority,
    current: ArcSwap<Issued>,
}

struct Issued {
    key: Arc<CertifiedKey>,
    renew_at: SystemTime,
}

impl Papers {
    fn new(san: String, signer: Authority) -> Result<Self, Broken> {
        let first = issue(&san, &signer, SystemTime::now())?;
        Ok(Self { san, signer, current: ArcSwap::from_pointee(first) })
    }

    fn current(&self) -> Arc<CertifiedKey> {
        let issued = self.current.load();
        let now = SystemTime::now();
        if now < issued.renew_at {
            return Arc::clone(&issued.key);
        }
        match issue(&self.san, &self.signer, now) {
            Ok(fresh) => {
                let key = Arc::clone(&fresh.key);
                self.current.store(Arc::new(fresh));
                key
            }
            Err(why) => {
                tracing::error!(event = "certificate_not_renewed", %why);
                Arc::clone(&issued.key)
            }
        }
    }
}

fn issue(san: &str, signer: &Authority, now: SystemTime) -> Result<Issued, Broken> {
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let mut params = CertificateParams::new([san.to_owned()])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + LIFETIME).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &signer.issuer)?.der().clone();
    let signing = provider::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(key.serialize_der()))?;
    let key = Arc::new(CertifiedKey::new(vec![certificate], signing));
    Ok(Issued { key, renew_at: now + LIFETIME * 2 / 3 })
}

impl std::fmt::Debug for Papers {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Papers({})", self.san)
    }
}

impl rustls::server::ResolvesServerCert for Papers {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl rustls::client::ResolvesClientCert for Papers {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Chains by webpki; then the one name in the certificate, which must be of our mesh.
#[derive(Debug)]
struct Verifier {
    mesh: MeshName,
    servers: Arc<WebPkiServerVerifier>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Verifier {
    fn new(mesh: MeshName, roots: Arc<RootCertStore>, crypto: &Arc<CryptoProvider>) -> Result<Self, Broken> {
        let servers = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(crypto)).build()?;
        let clients = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(crypto))
            .clear_root_hint_subjects()
            .build()?;
        Ok(Self { mesh, servers, clients })
    }

    fn check_mesh(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        match proven_name(certificate, &self.mesh) {
            Some(_) => Ok(()),
            None => Err(CertificateError::NotValidForName.into()),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check_mesh(certificate)?;
        let own = only_san(certificate).and_then(|san| ServerName::try_from(san).ok());
        let own = own.ok_or(CertificateError::BadEncoding)?;
        self.servers.verify_server_cert(certificate, intermediates, &own, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.servers.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.servers.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.servers.supported_verify_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check_mesh(certificate)?;
        self.clients.verify_client_cert(certificate, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.clients.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.clients.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.clients.supported_verify_schemes()
    }
}

/// The certificate's DNS name, if it has exactly one name and that is a DNS name.
fn only_san(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = parse_x509_certificate(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    match names.value.general_names.as_slice() {
        [GeneralName::DNSName(name)] => Some((*name).to_owned()),
        _ => None,
    }
}

fn san(mesh: &MeshName, node: &NodeName) -> String {
    format!("{node}.{mesh}{SUFFIX}").to_ascii_lowercase()
}

/// How long HKDF's answer is: an Ed25519 seed.
struct SeedLength;

impl KeyType for SeedLength {
    fn len(&self) -> usize {
        SEED
    }
}

/// The bytes of an Ed25519 seed (RFC 8032 section 5.1.5).
const SEED: usize = 32;
/// Separates what is derived here from any other use of the secret.
const CA_SALT: &[u8] = b"hobnob";
const CA_LABEL: &[u8] = b"certification authority, ed25519, version 1: ";
const SUFFIX: &str = ".hobnob";
/// How long a certificate lives. Renewed at two thirds; open connections do not notice.
const LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// How far two nodes' clocks may differ.
const CLOCK_SKEW: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(mesh: &str, node: &str, secrets: &[Secret]) -> Tls {
        Tls::new(&mesh.try_into().unwrap(), &node.try_into().unwrap(), secrets).unwrap()
    }

    /// Shakes hands in memory; the certificates that the client and the server have seen.
    fn shake(client: &Tls, server: &Tls) -> Result<[CertificateDer<'static>; 2], Error> {
        let name = "peer.hobnob".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(client.client.clone()), name).unwrap();
        let mut server = rustls::ServerConnection::new(Arc::new(server.server.clone())).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets()?;
            let mut wire = Vec::new();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        let seen = |chain: Option<&[CertificateDer<'static>]>| chain.unwrap()[0].clone();
        Ok([seen(client.peer_certificates()), seen(server.peer_certificates())])
    }

    #[test]
    fn two_holders_of_a_secret_prove_their_names() {
        let secret = [Secret::random()];
        let seen = shake(&tls("prod", "Web-1", &secret), &tls("PROD", "db-1", &secret)).unwrap();
        let names = seen.map(|c| proven_name(&c, &"prod".try_into().unwrap()).unwrap());
        assert_eq!(names, ["db-1", "web-1"].map(|n| n.try_into().unwrap()));
    }

    #[test]
    fn a_foreign_secret_is_refused_by_both_sides() {
        let [ours, theirs] = [[Secret::random()], [Secret::random()]];
        assert!(shake(&tls("prod", "a", &theirs), &tls("prod", "b", &ours)).is_err());
        let both = [ours[0].clone(), theirs[0].clone()];
        assert!(shake(&tls("prod", "a", &theirs), &tls("prod", "b", &both)).is_err(), "the client refuses the server");
    }

    #[test]
    fn a_foreign_mesh_is_refused_even_under_the_same_secret() {
        let secret = [Secret::random()];
        assert!(shake(&tls("prod", "a", &secret), &tls("test", "b", &secret)).is_err());
    }

    #[test]
    fn secrets_rotate_one_node_at_a_time() {
        let [old, new] = [Secret::random(), Secret::random()];
        let before = tls("prod", "a", &[old.clone(), new.clone()]);
        let after = tls("prod", "b", &[new, old]);
        assert!(shake(&before, &after).is_ok());
        assert!(shake(&after, &before).is_ok());
    }

    #[test]
    fn the_authority_is_the_same_everywhere() {
        let (mesh, secret) = ("prod".try_into().unwrap(), Secret::random());
        let [one, two] = [(); 2].map(|()| Authority::derive(&mesh, &secret).unwrap());
        assert_eq!(one.certificate, two.certificate);
    }

    #[test]
    fn an_old_certificate_is_renewed_when_it_is_next_shown() {
        let (mesh, secret) = ("prod".try_into().unwrap(), Secret::random());
        let papers = Papers::new("a.prod.hobnob".into(), Authority::derive(&mesh, &secret).unwrap()).unwrap();
        let first = papers.current();
        assert!(Arc::ptr_eq(&first, &papers.current()));
        let aged = Issued { key: Arc::clone(&first), renew_at: SystemTime::UNIX_EPOCH };
        papers.current.store(Arc::new(aged));
        assert!(!Arc::ptr_eq(&first, &papers.current()));
    }
}
