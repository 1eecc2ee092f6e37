//! Who signs this node's book: a key of this process alone, vouched for by the node's certificate.
//!
//! The certificate's own key signs one thing, the voucher; so certificates are renewed and authorities rotate without a
//! row being written again.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use aws_lc_rs::{
    error::Unspecified,
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use bytes::Bytes;
use rustls::{
    SignatureScheme,
    crypto::aws_lc_rs as provider,
    pki_types::{CertificateDer, UnixTime},
};
use serde::{Deserialize, Serialize};
use x509_parser::parse_x509_certificate;

use super::{
    Broken, Proof, Trust,
    papers::{Issued, Standing},
    proven_name,
};
use crate::{
    agent::Secret,
    mesh::{BookKey, Notary, Objection, SharedNotary, Signature, Vouched},
    model::{MeshName, NodeName},
};

/// The notary of one process.
pub(in crate::agent) struct Seal {
    trust: Arc<Trust>,
    key: Ed25519KeyPair,
    public: BookKey,
    /// The voucher, and the certificate that signed it.
    voucher: ArcSwapOption<(Arc<Issued>, Bytes)>,
}

/// What proves to others that a book's key is a node's own.
#[derive(Serialize, Deserialize)]
struct Voucher {
    /// Certificates in DER, the node's own first.
    chain: Vec<Bytes>,
    key: Bytes,
    /// How the certificate's key has signed it: a TLS signature scheme (RFC 8446 section 4.2.3).
    scheme: u16,
    signature: Bytes,
}

impl Seal {
    /// Draws the key of this process.
    pub(in crate::agent) fn new(trust: Arc<Trust>) -> Result<Self, Unspecified> {
        let key = Ed25519KeyPair::generate()?;
        let mut public = BookKey::default();
        public.copy_from_slice(key.public_key().as_ref());
        Ok(Self { trust, key, public, voucher: ArcSwapOption::empty() })
    }

    fn vouch(&self, issued: &Issued) -> Option<Bytes> {
        let signer = issued.key.key.choose_scheme(SCHEMES)?;
        let voucher = Voucher {
            chain: issued.key.cert.iter().map(|der| Bytes::copy_from_slice(der)).collect(),
            key: Bytes::copy_from_slice(&self.public),
            scheme: signer.scheme().into(),
            signature: signer.sign(&statement(&self.public)).ok()?.into(),
        };
        rmp_serde::to_vec(&voucher).ok().map(Bytes::from)
    }

    /// The key that a certificate of the node's has signed, whoever stands behind that, and the certificate's chain.
    fn read(&self, node: &NodeName, voucher: &[u8]) -> Option<(BookKey, Vec<CertificateDer<'static>>)> {
        let voucher: Voucher = rmp_serde::from_slice(voucher).ok().filter(|v: &Voucher| v.chain.len() <= MAX_CHAIN)?;
        let chain: Vec<_> = voucher.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        let (leaf, key) = (chain.first()?, BookKey::try_from(&*voucher.key).ok()?);
        let is_its_own = proven_name(leaf, &self.trust.mesh).is_some_and(|proven| proven == *node);
        let scheme = SignatureScheme::from(voucher.scheme);
        let is_its_own = is_its_own && is_signed_by(leaf, scheme, &statement(&key), &voucher.signature);
        is_its_own.then_some((key, chain))
    }
}

/// The notary that an agent of this name gets from these secrets: for who drives a [`Mesh`](crate::mesh::Mesh) himself.
///
/// # Errors
/// [`Broken`], when there is no secret or no randomness.
pub fn notary(mesh: &MeshName, node: &NodeName, secrets: &[Secret]) -> Result<SharedNotary, Broken> {
    let trust = Trust::new(mesh, node, Proof::Secrets(secrets))?;
    Ok(Arc::new(Seal::new(Arc::new(trust)).map_err(|_| Broken::Key)?))
}

impl Notary for Seal {
    fn voucher(&self) -> Bytes {
        let issued = self.trust.current();
        if let Some(known) = self.voucher.load().as_deref().filter(|(by, _)| Arc::ptr_eq(by, &issued)) {
            return known.1.clone();
        }
        let Some(voucher) = self.vouch(&issued) else {
            tracing::error!(event = "book_not_vouched_for", "the certificate's key does not sign: issue another one");
            return self.voucher.load().as_deref().map(|(_, last)| last.clone()).unwrap_or_default();
        };
        self.voucher.store(Some(Arc::new((issued, voucher.clone()))));
        voucher
    }

    fn own_key(&self) -> BookKey {
        self.public
    }

    fn sign(&self, message: &[u8]) -> Signature {
        let mut signature = [0; size_of::<Signature>()];
        signature.copy_from_slice(self.key.sign(message).as_ref());
        signature
    }

    fn vouched(&self, node: &NodeName, voucher: &[u8], unix_millis: u64) -> Result<Vouched, Objection> {
        let Some((key, chain)) = self.read(node, voucher) else { return Err(Objection::Untrusted) };
        let now = UnixTime::since_unix_epoch(Duration::from_millis(unix_millis));
        let Standing { serial, authority, until } = self.trust.papers.load().standing(&chain, now)?;
        let vouched = Vouched { key, serial, authority, until };
        self.objection(node, Some(&vouched), unix_millis).map_or(Ok(vouched), Err)
    }

    fn objection(&self, node: &NodeName, vouched: Option<&Vouched>, unix_millis: u64) -> Option<Objection> {
        let serial = vouched.map_or("", |vouched| &vouched.serial);
        if self.trust.denies(node, serial) {
            return Some(Objection::Revoked);
        }
        match vouched {
            Some(vouched) if vouched.until < unix_millis => Some(Objection::Expired),
            Some(vouched) if !self.trust.believes(vouched.authority) => Some(Objection::Untrusted),
            _ => None,
        }
    }

    fn is_signed(&self, key: &BookKey, message: &[u8], signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok()
    }
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Seal")
    }
}

fn is_signed_by(leaf: &CertificateDer<'_>, scheme: SignatureScheme, message: &[u8], signature: &[u8]) -> bool {
    let Ok((_, parsed)) = parse_x509_certificate(leaf) else { return false };
    let key = &parsed.public_key().subject_public_key.data;
    let known = provider::default_provider().signature_verification_algorithms.mapping;
    let algorithms = known.iter().filter(|(of, _)| *of == scheme && SCHEMES.contains(of)).flat_map(|(_, all)| *all);
    algorithms.into_iter().any(|algorithm| algorithm.verify_signature(key, message, signature).is_ok())
}

/// What a certificate's key signs, set apart from anything it signs in TLS (RFC 8446 section 4.4.3 begins with spaces).
fn statement(key: &BookKey) -> Vec<u8> {
    [b"hobnob book key 1: ", &key[..]].concat()
}

/// The signatures of keys that certificates have; RSA's are larger than all else in a page.
pub(super) const SCHEMES: &[SignatureScheme] =
    &[SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ECDSA_NISTP384_SHA384];
/// A node's own certificate and what stands between it and the authority.
const MAX_CHAIN: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(mesh: &str, node: &str, secret: &Secret) -> Seal {
        let secrets = [secret.clone()];
        let trust = Trust::new(&mesh.try_into().unwrap(), &node.try_into().unwrap(), Proof::Secrets(&secrets));
        Seal::new(Arc::new(trust.unwrap())).unwrap()
    }

    fn now() -> u64 {
        u64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap()
    }

    #[test]
    fn a_key_is_vouched_for_by_its_own_node_alone() {
        let secret = Secret::random();
        let [a, b] = ["a", "b"].map(|node| seal("prod", node, &secret));
        let [name_of_a, name_of_b] = ["a", "b"].map(|node| NodeName::try_from(node).unwrap());
        assert_eq!(b.vouched(&name_of_a, &a.voucher(), now()).map(|proved| proved.key), Ok(a.own_key()));
        assert_eq!(
            b.vouched(&name_of_b, &a.voucher(), now()),
            Err(Objection::Untrusted),
            "a's voucher says nothing of b"
        );
        let month = 32 * 24 * 3600 * 1000;
        assert_eq!(
            b.vouched(&name_of_a, &a.voucher(), now() + month),
            Err(Objection::Expired),
            "the certificate has run out"
        );
        let stranger = seal("prod", "a", &Secret::random());
        assert_eq!(b.vouched(&name_of_a, &stranger.voucher(), now()), Err(Objection::Untrusted));
        let neighbour = seal("test", "a", &secret);
        assert_eq!(
            b.vouched(&name_of_a, &neighbour.voucher(), now()),
            Err(Objection::Untrusted),
            "another mesh under the same secret"
        );
    }

    #[test]
    fn what_was_changed_is_not_signed() {
        let seal = seal("prod", "a", &Secret::random());
        let signature = seal.sign(b"web is at 8080");
        assert!(seal.is_signed(&seal.own_key(), b"web is at 8080", &signature));
        assert!(!seal.is_signed(&seal.own_key(), b"web is at 8081", &signature));
        let mut voucher = seal.voucher().to_vec();
        let last = voucher.len() - 1;
        voucher[last] ^= 1;
        assert_eq!(seal.vouched(&"a".try_into().unwrap(), &voucher, now()), Err(Objection::Untrusted));
    }
}
