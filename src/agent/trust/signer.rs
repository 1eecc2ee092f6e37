//! The authority whose key a node holds: one that stands by itself, for what it signs is to be believed by everybody.

use std::path::Path;

use rustls::{
    crypto::aws_lc_rs as provider,
    pki_types::{CertificateDer, SignatureVerificationAlgorithm},
};
use x509_parser::parse_x509_certificate;

use super::{
    Authority, Broken,
    authority::pem,
    enrol::public_key,
    papers::{says, secret_text},
};

/// Reads the key of one of those believed; `chain` is what the node shows.
pub(super) fn signer(
    roots: &[CertificateDer<'_>],
    chain: &[CertificateDer<'_>],
    key: &Path,
) -> Result<Authority, Broken> {
    let authority = of_key(roots, &secret_text(key)?)?;
    let is_brought = || chain.iter().skip(1).any(|brought| is_of_one_key(brought, &authority.certificate));
    // One that another has issued is believed by itself where it stands alone.
    if is_root(&authority.certificate) || (roots.iter().all(|root| *root == authority.certificate) && !is_brought()) {
        return Ok(authority);
    }
    Err(Broken::File(key.to_owned(), BETWEEN))
}

/// The authority of those believed whose key this is: while two overlap, not always the first, and of several with one key
/// the one that lasts longest.
fn of_key(roots: &[CertificateDer<'_>], key: &str) -> Result<Authority, Broken> {
    let mut lasting: Vec<_> = roots.iter().collect();
    // One that another has signed across is the same by its own signature.
    lasting.sort_by_key(|root| std::cmp::Reverse((is_root(root), says(root).map(|says| says.not_after))));
    let read = |root: &&CertificateDer<'_>| Authority::read(&pem("CERTIFICATE", root), key);
    let mut tried = lasting.iter().map(read).skip_while(|tried| matches!(tried, Err(Broken::Apart(..))));
    tried.next().unwrap_or(Err(Broken::Apart("ca_key", "ca")))
}

/// Whether one is signed by its own key: names are anybody's to choose.
fn is_root(one: &CertificateDer<'_>) -> bool {
    let Ok((_, one)) = parse_x509_certificate(one) else { return false };
    let key = &one.public_key().subject_public_key.data;
    let all = provider::default_provider().signature_verification_algorithms.all;
    let is_by = |by: &&dyn SignatureVerificationAlgorithm| {
        by.verify_signature(key, one.tbs_certificate.as_ref(), &one.signature_value.data).is_ok()
    };
    all.iter().any(is_by)
}

fn is_of_one_key(one: &CertificateDer<'_>, other: &CertificateDer<'_>) -> bool {
    public_key(one).is_some_and(|key| public_key(other) == Some(key))
}

const BETWEEN: &str = "is of an authority that another has issued, and nothing that it signs is believed by who knows that \
                       other alone: have it in tls.ca of every node first, then in this one's without any other, and in no \
                       tls.cert";

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::{super::enrol::tests::HOUR, *};

    #[test]
    fn of_two_authorities_of_one_key_the_one_that_lasts_longest_signs() {
        let (brief, pair) = Authority::create(HOUR).unwrap();
        let key = rcgen::KeyPair::from_pem(&pair.key).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        params.not_after = (SystemTime::now() + 100 * HOUR).into();
        let lasting = params.self_signed(&key).unwrap().der().clone();
        for roots in [[&brief.certificate, &lasting], [&lasting, &brief.certificate]] {
            assert_eq!(of_key(&roots.map(Clone::clone), &pair.key).unwrap().certificate, lasting);
        }
    }
}
