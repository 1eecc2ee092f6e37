//! TLS of a machine that was invited: it shows the key of its invitation, and believes the authority whose fingerprint
//! the invitation names.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs as provider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::SingleCertAndKey,
    version::TLS13,
};

use super::{Broken, Invitation, JOIN_ALPN, authority, enrol::fingerprint, only_san, proven_name};
use crate::model::MeshName;

/// What a guest dials with.
pub(in crate::agent) fn guest_tls(invitation: &Invitation) -> Result<ClientConfig, Broken> {
    let crypto = Arc::new(provider::default_provider());
    let shown = authority::applicant(&invitation.secret)?;
    let verifier =
        Fingerprint { mesh: invitation.mesh.clone(), fingerprint: invitation.fingerprint, crypto: Arc::clone(&crypto) };
    let mut client = ClientConfig::builder_with_provider(crypto)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
    client.alpn_protocols = vec![JOIN_ALPN.to_vec()];
    client.resumption = Resumption::disabled();
    client.enable_sni = false;
    Ok(client)
}

/// Whether a chain is good at `now` under this one authority.
pub(super) fn is_under(
    leaf: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
    root: &CertificateDer<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone().into_owned())?;
    let crypto = Arc::new(provider::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), crypto).build();
    let verifier = verifier.map_err(|_| CertificateError::UnknownIssuer)?;
    let own = only_san(leaf).and_then(|san| ServerName::try_from(san).ok());
    verifier.verify_server_cert(leaf, rest, &own.ok_or(CertificateError::BadEncoding)?, &[], now)
}

/// Believes a node of the mesh whose authority has this fingerprint.
#[derive(Debug)]
struct Fingerprint {
    mesh: MeshName,
    fingerprint: [u8; 32],
    crypto: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Fingerprint {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        proven_name(certificate, &self.mesh).ok_or(CertificateError::NotValidForName)?;
        let root = intermediates.iter().find(|shown| fingerprint(shown) == self.fingerprint);
        is_under(certificate, intermediates, root.ok_or(CertificateError::UnknownIssuer)?, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.crypto.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.crypto.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.crypto.signature_verification_algorithms.supported_schemes()
    }
}
