//! TLS of a machine that was invited: it shows the key of its invitation, and believes the authority whose fingerprint
//! the invitation names.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, Error, RootCertStore,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{ServerCertVerified, ServerCertVerifier},
    },
    crypto::aws_lc_rs as provider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::SingleCertAndKey,
    version::TLS13,
};

use super::{Broken, Invitation, JOIN_ALPN, authority, enrol::fingerprint, only_san, proven_name};
use crate::{
    agent::judge::{Judge, Judged},
    model::MeshName,
};

/// What a guest dials with.
pub(in crate::agent) fn guest_tls(invitation: &Invitation) -> Result<ClientConfig, Broken> {
    let crypto = Arc::new(provider::default_provider());
    let shown = authority::applicant(&invitation.secret)?;
    let judge = Fingerprint { mesh: invitation.mesh.clone(), fingerprint: invitation.fingerprint };
    let verifier = Judged { judge, crypto: Arc::clone(&crypto) };
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
}

impl Judge for Fingerprint {
    fn judge(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        proven_name(leaf, &self.mesh).ok_or(CertificateError::NotValidForName)?;
        let root = rest.iter().find(|shown| fingerprint(shown) == self.fingerprint);
        is_under(leaf, rest, root.ok_or(CertificateError::UnknownIssuer)?, now).map(drop)
    }
}
