//! A machine that was invited: in TLS it shows the key of its invitation, and believes the node that the invitation is by,
//! under the authority whose fingerprint stands there. What it is given is held against both before it is kept.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, Error, RootCertStore,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{ServerCertVerified, ServerCertVerifier},
    },
    crypto::aws_lc_rs as provider,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    sign::SingleCertAndKey,
    version::TLS13,
};

use super::{
    Authority, Broken, Granted, Invitation, JOIN_ALPN, Request, authority, enrol::fingerprint, only_san, proven_name,
};
use crate::{
    agent::{
        Secret,
        judge::{Judge, Judged},
    },
    model::{MeshName, NodeName},
};

/// What a guest dials with.
pub(in crate::agent) fn guest_tls(invitation: &Invitation) -> Result<ClientConfig, Broken> {
    let crypto = Arc::new(provider::default_provider());
    let shown = authority::applicant(&invitation.secret)?;
    let (mesh, by) = (invitation.mesh.clone(), invitation.by.clone());
    let judge = Host { mesh, by, fingerprint: invitation.fingerprint };
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

/// What is wrong with what an invitation has brought, for a machine that has asked for it; nothing if the mesh that the
/// invitation is of lets it in with that.
pub(in crate::agent) fn flaw(invitation: &Invitation, asked: &Request, granted: &Granted) -> Option<&'static str> {
    let Some(certificate) = &granted.certificate else {
        let secrets: Result<Vec<Secret>, _> = granted.secrets.iter().map(|secret| secret.parse()).collect();
        let Ok(secrets) = secrets else { return Some("a secret that is none") };
        let derived = secrets.iter().filter_map(|secret| Authority::derive(&invitation.mesh, secret).ok());
        let is_ours =
            derived.map(|authority| fingerprint(&authority.certificate)).any(|of| of == invitation.fingerprint);
        return (!is_ours).then_some("no secret that the authority of the token comes of");
    };
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(granted.ca.as_bytes()).collect();
    let (Ok(roots), Ok(leaf)) = (roots, CertificateDer::from_pem_slice(certificate.as_bytes())) else {
        return Some("what is no certificate in PEM");
    };
    let now = UnixTime::now();
    if !roots.iter().any(|root| fingerprint(root) == invitation.fingerprint) {
        return Some("authorities without that of the token");
    }
    if !asked.is_named_by(&leaf, &invitation.mesh) {
        return Some("a certificate with another name or key than was asked for");
    }
    let is_good = roots.iter().any(|root| is_under(&leaf, &[], root, now).is_ok());
    (!is_good).then_some("a certificate that is not good now under the authorities beside it")
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

/// Believes the node that made the invitation, under the authority with this fingerprint: any other has not the word of
/// whoever brought the token here, also where it was let into the mesh once.
#[derive(Debug)]
struct Host {
    mesh: MeshName,
    by: NodeName,
    fingerprint: [u8; 32],
}

impl Judge for Host {
    fn judge(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let name = proven_name(leaf, &self.mesh).filter(|name| *name == self.by);
        name.ok_or(CertificateError::NotValidForName)?;
        let root = rest.iter().find(|shown| fingerprint(shown) == self.fingerprint);
        is_under(leaf, rest, root.ok_or(CertificateError::UnknownIssuer)?, now).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::{
        super::{
            Trust,
            authority::fresh_key,
            enrol::{request, tests::*},
            tests::{shake, trust},
        },
        *,
    };
    use crate::agent::trust::Tls;

    fn invited(by: &Trust) -> Invitation {
        by.invite(Vec::new(), None, HOUR).unwrap()
    }

    /// Shows the word to whoever answers; what they are shown.
    fn call(word: &Invitation, host: &Arc<Trust>) -> Result<CertificateDer<'static>, Error> {
        let server = host.tls().unwrap();
        let guest = Tls { client: guest_tls(word).unwrap(), server: host.tls().unwrap().server };
        shake(&guest, &server).map(|[_, seen]| seen)
    }

    fn granted(by: &Arc<Trust>, asked: &Request) -> (Invitation, Granted) {
        let word = invited(by);
        let seen = call(&word, by).unwrap();
        (word, by.grant(from_ref(&seen), asked, HERE, |_| false).unwrap())
    }

    #[test]
    fn a_member_that_did_not_make_the_word_is_not_believed() {
        let secret = [Secret::random()];
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(30 * 24 * HOUR).unwrap();
        let held = |node, signs| certified(node, &files(folder.path(), node, &[&authority], signs));
        for [host, other] in
            [["a", "b"].map(|node| trust("prod", node, &secret)), [held("a", true), held("b", true)].map(Arc::new)]
        {
            let word = invited(&host);
            let why = call(&word, &other).unwrap_err();
            assert_eq!(why, CertificateError::NotValidForName.into());
            call(&word, &host).unwrap();
        }
    }

    #[test]
    fn a_certificate_that_was_granted_is_for_who_asked_and_by_who_is_believed() {
        let folder = tempfile::tempdir().unwrap();
        let [ours, theirs] = [(); 2].map(|()| Authority::create(30 * 24 * HOUR).unwrap());
        let [host, other] =
            [&ours, &theirs].map(|by| Arc::new(certified("a", &files(folder.path(), "a", &[by], true))));
        let (asked, _) = request(&"b".try_into().unwrap()).unwrap();
        let ((word, given), (_, foreign)) = (granted(&host, &asked), granted(&other, &asked));
        assert_eq!(flaw(&word, &asked, &given), None);
        let with = |ca: &str, certificate: &Option<String>| {
            let granted =
                Granted { ca: ca.into(), certificate: certificate.clone(), secrets: Vec::new(), is_news: true };
            flaw(&word, &asked, &granted).unwrap_or_default()
        };
        let both = [&*given.ca, &foreign.ca].concat();
        assert_eq!(with(&both, &foreign.certificate), "", "in a rotation");
        assert!(with(&foreign.ca, &foreign.certificate).contains("without that of the token"));
        assert!(with("", &given.certificate).contains("without that of the token"));
        assert!(with(&given.ca, &foreign.certificate).contains("not good now"));
        assert!(with(&given.ca, &Some("letters".into())).contains("no certificate"));
        assert!(with(&given.ca, &None).contains("no secret"));
        let key = rcgen::PublicKeyData::subject_public_key_info(&fresh_key().unwrap());
        for asked in
            [Request { node: asked.node.clone(), key }, Request { node: "c".try_into().unwrap(), key: asked.key }]
        {
            assert!(flaw(&word, &asked, &given).unwrap().contains("another name or key"));
        }
    }

    #[test]
    fn secrets_that_were_granted_are_those_that_the_authority_of_the_word_comes_of() {
        let [old, new] = [(); 2].map(|()| Secret::random());
        let (asked, _) = request(&"b".try_into().unwrap()).unwrap();
        let (word, given) = granted(&trust("prod", "a", &[old.clone(), new.clone()]), &asked);
        assert_eq!(flaw(&word, &asked, &given), None);
        let with = |secrets: &[&str]| {
            let secrets = secrets.iter().map(|secret| String::from(*secret).into()).collect();
            flaw(&word, &asked, &Granted { ca: String::new(), certificate: None, secrets, is_news: true })
        };
        let [old, new] = [old, new].map(|secret| secret.reveal());
        assert_eq!(with(&[&new, &old]), None);
        assert!(with(&[&new]).is_some() && with(&[]).is_some());
        assert_eq!(with(&[&old, "letters"]), Some("a secret that is none"));
    }
}
