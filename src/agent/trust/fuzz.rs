//! What the fuzzer and the tests over its corpora call: certificates, tokens and edicts that somebody made up.

use std::sync::{Arc, LazyLock};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls::pki_types::{CertificateDer, UnixTime};

use super::{
    Authority, Edict, Invitation, Proof, Said, Seal, Trust,
    authority::has_signed,
    edict::LABEL,
    enrol::{self, checksum},
    proven_name, says,
};
use crate::{
    agent::Secret,
    mesh::Notary,
    model::{MeshName, NodeName},
};

/// A node whose secret no input knows.
static NODE: LazyLock<Arc<Trust>> = LazyLock::new(|| {
    let (mesh, node) = names();
    Arc::new(Trust::new(&mesh, &node, Proof::Secrets(&[Secret::random()])).expect("randomness"))
});

fn names() -> (MeshName, NodeName) {
    ("fuzz".try_into().expect("a valid name"), "this".try_into().expect("a valid name"))
}

/// Reads a text as a join token: as it is, and with the checksum put right, behind which the rest hides. What is read is
/// written and read again as the same.
///
/// # Panics
/// When it is not.
pub fn invitation(bytes: &[u8]) {
    let mut whole = bytes.to_vec();
    whole.extend(checksum(bytes));
    let made = format!("{}{}", enrol::PREFIX, URL_SAFE_NO_PAD.encode(whole));
    for text in [std::str::from_utf8(bytes).unwrap_or_default(), &made] {
        let Some(read) = Invitation::from_text(text) else { continue };
        let word = read.to_text();
        let again = Invitation::from_text(&word).expect("S13: what was written is read");
        assert!(*again.to_text() == *word, "S13: {again:?} was read as another");
        assert!(!format!("{read:?}").contains(&word[enrol::PREFIX.len()..]), "a secret is not for the log");
    }
}

/// Reads bytes as an edict, in each form that it travels in. None of them is law, for nobody has signed it.
///
/// # Panics
/// When one is, or is read as another than was written.
pub fn edict(bytes: &[u8]) {
    let text = [LABEL, bytes].concat();
    let made = Edict { text, signature: bytes.iter().copied().cycle().take(64).collect() };
    let read = std::str::from_utf8(bytes).ok().and_then(Edict::from_text);
    for edict in read.into_iter().chain([made]) {
        let again = Edict::from_text(&edict.to_text());
        assert!(again.is_none_or(|again| again == edict), "S13: an edict is read as it was written");
        if let Some(said) = Said::read(&edict.text) {
            assert!(said.render() == edict.text, "S13: an edict says one thing");
            let _ = said.check(0);
        }
        assert!(NODE.take(&edict, u64::MAX / 2) != Ok(super::Taken::News), "nobody has signed it: {edict:?}");
    }
    assert!(NODE.law().is_empty());
}

/// Reads bytes as a certificate, as a chain, as a voucher, as what a guest asks, and as PEM. None of it proves anything.
///
/// # Panics
/// When it does.
pub fn certificate(bytes: &[u8]) {
    let certificate = CertificateDer::from(bytes);
    let (mesh, node) = names();
    let _ = (says(&certificate), proven_name(&certificate, &mesh), has_signed(&certificate, b"text", bytes));
    let (one, other) = bytes.split_at(bytes.len() / 2);
    let chains = [vec![certificate.clone()], vec![CertificateDer::from(one), CertificateDer::from(other)]];
    for chain in &chains {
        assert!(!NODE.accepts_at(chain, UnixTime::now()), "nobody has signed it");
        let asked = enrol::Request { node: node.clone(), key: bytes.to_vec() };
        assert!(NODE.grant(chain, &asked, [127, 0, 0, 1].into(), |_| false).is_err(), "nobody was invited");
    }
    let seal = Seal::new(Arc::clone(&NODE)).expect("randomness");
    assert!(seal.vouched(&node, bytes, 0).is_err(), "nobody has vouched for it");
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Authority::read(text, text);
    }
}
