//! Who signs: a mesh's certification authority, derived from its secret or kept in two files away from its nodes.
//!
//! It signs certificates for `<node>.<mesh>.hobnob`, and edicts (see [`super::edict`]). An authority of files is made
//! by `hobnob ca init`; whose key a node does not hold, that node cannot sign anything with.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use aws_lc_rs::{
    hkdf::{HKDF_SHA256, KeyType, Salt},
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ECDSA_P521_SHA512_ASN1, ED25519, Ed25519KeyPair,
        RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
    },
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SerialNumber, SigningKey, SubjectPublicKeyInfo, date_time_ymd,
};
use rustls::{
    crypto::aws_lc_rs as provider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::parse_x509_certificate;
use xxhash_rust::xxh3::xxh3_64;
use zeroize::Zeroizing;

use super::{
    Broken, Edict, Law, Said, Word,
    edict::LABEL,
    lineage::Lineage,
    papers::{Issued, says, text},
    san,
};
use crate::{
    agent::Secret,
    model::{MeshName, NodeName},
};

/// A certification authority with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(super) certificate: CertificateDer<'static>,
}

/// A certificate and its key as PEM texts, as they go into files.
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: Zeroizing<String>,
}

impl Authority {
    /// The authority that every holder of `secret` derives alike.
    pub(super) fn derive(mesh: &MeshName, secret: &Secret) -> Result<Self, Broken> {
        let mesh = mesh.as_str().to_ascii_lowercase();
        let mut seed = Zeroizing::new([0; SEED]);
        Salt::new(HKDF_SHA256, CA_SALT)
            .extract(secret.bytes())
            .expand(&[CA_LABEL, mesh.as_bytes()], SeedLength)
            .and_then(|key| key.fill(&mut *seed))
            .map_err(|_| Broken::Key)?;
        let mut params = authority_params(&format!("{mesh}{}", super::SUFFIX));
        // The same bytes on every node: fixed validity, fixed serial, a signature without randomness (RFC 8032).
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2120, 1, 1);
        params.serial_number = Some(SerialNumber::from(1_u64));
        Self::sign_itself(params, key_pair(&seed)?)
    }

    /// A fresh one with a random key: its holder, and the two files to keep.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn create(lifetime: Duration) -> Result<(Self, Pair), Broken> {
        let key = fresh_key()?;
        let mut tag = [0; 4];
        getrandom::fill(&mut tag).map_err(|_| Broken::Key)?;
        // Two authorities of one mesh are told apart by name while they overlap.
        let mut params = authority_params(&format!("hobnob authority {:08x}", u32::from_be_bytes(tag)));
        let now = SystemTime::now();
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + lifetime).into();
        let key_pem = Zeroizing::new(key.serialize_pem());
        let authority = Self::sign_itself(params, key)?;
        let certificate = pem("CERTIFICATE", &authority.certificate);
        Ok((authority, Pair { certificate, key: key_pem }))
    }

    /// Reads one from the two files' texts.
    ///
    /// # Errors
    /// When one of them is not what it should be, or they do not belong together.
    pub fn read(certificate: &str, key: &str) -> Result<Self, Broken> {
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| Broken::Pem("ca"))?;
        let is_key = PrivateKeyDer::from_pem_slice(key.as_bytes()).is_ok();
        let refused = |_| if is_key { Broken::Weak } else { Broken::Pem("ca_key") };
        let key = KeyPair::from_pem(key).map_err(refused)?;
        let (_, parsed) = parse_x509_certificate(&certificate).map_err(|_| Broken::Pem("ca"))?;
        if parsed.public_key().raw != key.subject_public_key_info().as_slice() {
            return Err(Broken::Apart("ca_key", "ca"));
        }
        let authority = Self { issuer: Issuer::from_ca_cert_der(&certificate, key)?, certificate };
        // What it decrees, no node would believe: told here, where somebody reads why.
        let probe = authority.sign(LABEL)?;
        if has_signed(&authority.certificate, LABEL, &probe) { Ok(authority) } else { Err(Broken::Weak) }
    }

    /// A certificate for `node` of `mesh`, with a fresh key.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn issue(&self, mesh: &MeshName, node: &NodeName, lifetime: Duration) -> Result<Pair, Broken> {
        self.issue_at(mesh, node, SystemTime::now(), lifetime)
    }

    /// The same at this moment.
    pub(in crate::agent) fn issue_at(
        &self,
        mesh: &MeshName,
        node: &NodeName,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Pair, Broken> {
        let key = fresh_key()?;
        let certificate = self.sign_certificate(&san(mesh, node), &key, now, lifetime, Lineage::begin()?)?;
        Ok(Pair { certificate: pem("CERTIFICATE", &certificate), key: Zeroizing::new(key.serialize_pem()) })
    }

    /// A certificate for a key that another machine made and keeps (its SubjectPublicKeyInfo, RFC 5280).
    pub(super) fn issue_for(
        &self,
        san: &str,
        public_key: &[u8],
        now: SystemTime,
        lifetime: Duration,
        lineage: Lineage,
    ) -> Result<CertificateDer<'static>, Broken> {
        self.sign_certificate(san, &SubjectPublicKeyInfo::from_der(public_key)?, now, lifetime, lineage)
    }

    /// What a node shows that signs for itself.
    pub(super) fn issue_own(&self, san: &str, now: SystemTime) -> Result<Issued, Broken> {
        let key = fresh_key()?;
        let certificate = self.sign_certificate(san, &key, now, OWN_LIFETIME, Lineage::begin()?)?;
        let private = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        Issued::new(vec![certificate], &private, Some(now + OWN_LIFETIME * 2 / 3))
    }

    /// Until when it is good, and all that it issues.
    ///
    /// # Errors
    /// When that is over.
    pub fn until(&self, now: SystemTime) -> Result<SystemTime, Broken> {
        let until = says(&self.certificate).ok_or(Broken::Pem("ca"))?.not_after;
        if until > now { Ok(until) } else { Err(Broken::Expired(humantime::format_rfc3339_seconds(until).to_string())) }
    }

    /// Signs a word for every node of `mesh`.
    ///
    /// # Errors
    /// When the key refuses.
    pub fn decree(&self, mesh: &MeshName, word: Word, void: bool, now: u64) -> Result<Edict, Broken> {
        self.say(&Said { mesh: mesh.clone(), word, void, at: now, again: None })
    }

    /// The law of `mesh`, of all that somebody says it is: what this authority has signed, or one of those beside it (`also`,
    /// certificates as PEM), and what can have been said by now. Whoever tells may have made up the rest.
    #[must_use]
    pub fn law(&self, mesh: &MeshName, edicts: impl IntoIterator<Item = Edict>, also: &str, now: u64) -> Law {
        let also = CertificateDer::pem_slice_iter(also.as_bytes()).filter_map(Result::ok);
        let roots: Vec<_> = std::iter::once(self.certificate.clone()).chain(also).collect();
        let is_genuine = |edict: &Edict, said: &Said| {
            let signed = || roots.iter().any(|root| has_signed(root, &edict.text, &edict.signature));
            said.mesh == *mesh && said.check(now).is_ok() && signed()
        };
        let mut law = Law::default();
        for edict in edicts {
            if let Some(said) = edict.said().filter(|said| is_genuine(&edict, said)) {
                law.take(edict, said);
            }
        }
        law
    }

    /// The same word by this authority, and said right after the one that it repeats: later, so that it counts, and before
    /// whatever else was said since. None where it is this authority's already.
    ///
    /// # Errors
    /// When the key refuses.
    pub fn decree_again(&self, edict: &Edict) -> Result<Option<Edict>, Broken> {
        if has_signed(&self.certificate, &edict.text, &edict.signature) {
            return Ok(None);
        }
        let Some(said) = edict.said() else { return Ok(None) };
        let (at, again) = (said.at.saturating_add(1), Some(xxh3_64(&self.certificate)));
        self.say(&Said { at, again, ..said }).map(Some)
    }

    fn say(&self, said: &Said) -> Result<Edict, Broken> {
        let text = said.render();
        Ok(Edict { signature: self.sign(&text)?, text })
    }

    /// Signs what is no certificate.
    pub(super) fn sign(&self, text: &[u8]) -> Result<Vec<u8>, Broken> {
        Ok(self.issuer.key().sign(text)?)
    }

    fn sign_itself(params: CertificateParams, key: KeyPair) -> Result<Self, Broken> {
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    fn sign_certificate(
        &self,
        san: &str,
        key: &impl PublicKeyData,
        now: SystemTime,
        lifetime: Duration,
        lineage: Lineage,
    ) -> Result<CertificateDer<'static>, Broken> {
        let mut params = CertificateParams::new([san.to_owned()])?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        // Not made of the key, as it would be: the next certificate of a key is another one (RFC 5280 section 4.1.2.2).
        params.serial_number = Some(SerialNumber::from_slice(&lineage.serial(lifetime)?));
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + lifetime).min(self.until(now)?).into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Ok(params.signed_by(key, &self.issuer)?.der().clone())
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Authority(…)")
    }
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Pair(…)")
    }
}

/// The certificates in a file, one after the other: one at least.
pub(crate) fn certificates(path: &Path) -> Result<String, Broken> {
    let text = text(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(text),
        _ => Err(Broken::File(path.to_owned(), "holds no certificate in PEM")),
    }
}

/// Whether `signature` over `text` is by the holder of this authority's certificate.
pub(super) fn has_signed(authority: &CertificateDer<'_>, text: &[u8], signature: &[u8]) -> bool {
    let Ok((_, parsed)) = parse_x509_certificate(authority) else { return false };
    let key = parsed.public_key();
    let algorithms: &[&dyn VerificationAlgorithm] = match key.algorithm.algorithm.to_id_string().as_str() {
        "1.3.101.112" => &[&ED25519],
        // Of these aws-lc refuses a key of another curve, before it computes anything.
        "1.2.840.10045.2.1" => &[&ECDSA_P256_SHA256_ASN1, &ECDSA_P384_SHA384_ASN1, &ECDSA_P521_SHA512_ASN1],
        "1.2.840.113549.1.1.1" => &[&RSA_PKCS1_2048_8192_SHA256],
        _ => &[],
    };
    let key = &*key.subject_public_key.data;
    algorithms.iter().any(|algorithm| UnparsedPublicKey::new(*algorithm, key).verify(text, signature).is_ok())
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// A random key, in the first form of PKCS#8 (RFC 5208): the one with the public key in it (RFC 5958), which rcgen makes,
/// OpenSSL 3.0 and what stands on it cannot read.
pub(super) fn fresh_key() -> Result<KeyPair, Broken> {
    let mut seed = Zeroizing::new([0; SEED]);
    getrandom::fill(&mut *seed).map_err(|_| Broken::Key)?;
    key_pair(&seed)
}

fn key_pair(seed: &[u8; SEED]) -> Result<KeyPair, Broken> {
    let key = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| Broken::Key)?;
    let pkcs8 = key.to_pkcs8v1().map_err(|_| Broken::Key)?;
    Ok(KeyPair::try_from(&PrivatePkcs8KeyDer::from(pkcs8.as_ref()))?)
}

/// The key that a token's secret stands for: its holder proves it in the handshake, and the secret never travels.
pub(super) fn applicant(secret: &Secret) -> Result<CertifiedKey, Broken> {
    applicant_named(secret, &[])
}

/// The same with names, of which an honest one has none.
pub(super) fn applicant_named(secret: &Secret, names: &[&str]) -> Result<CertifiedKey, Broken> {
    let mut seed = Zeroizing::new([0; SEED]);
    Salt::new(HKDF_SHA256, CA_SALT)
        .extract(secret.bytes())
        .expand(&[APPLICANT_LABEL], SeedLength)
        .and_then(|key| key.fill(&mut *seed))
        .map_err(|_| Broken::Key)?;
    let key = key_pair(&seed)?;
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from(1_u64));
    let certificate = params.self_signed(&key)?.der().clone();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(CertifiedKey::new(vec![certificate], provider::sign::any_supported_type(&key)?))
}

/// DER in PEM's armour (RFC 7468).
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let lines: Vec<_> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
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
const APPLICANT_LABEL: &[u8] = b"applicant, ed25519, version 1";
/// How long a certificate lives that a node signs for itself. Renewed at two thirds; open connections do not notice.
const OWN_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// How far two nodes' clocks may differ.
pub(super) const CLOCK_SKEW: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_believed_authority_has_signed_is_no_law() {
        let [own, old, thief] = [(); 3].map(|()| Authority::create(Duration::from_secs(86_400)).unwrap());
        let (mesh, other): (MeshName, MeshName) = ("prod".try_into().unwrap(), "test".try_into().unwrap());
        let deny = |by: &Authority, mesh: &MeshName, node: &str, at| {
            by.decree(mesh, Word::DenyNode(node.try_into().unwrap()), false, at).unwrap()
        };
        let told = [
            deny(&own.0, &mesh, "a", 5),
            deny(&old.0, &mesh, "b", 5),
            deny(&thief.0, &mesh, "c", 5),
            deny(&old.0, &other, "d", 5),
            deny(&old.0, &mesh, "e", u64::MAX),
        ];
        let law = |also: &str| own.0.law(&mesh, told.clone(), also, 9).edicts().cloned().collect::<Vec<_>>();
        assert_eq!((law(""), law(&old.1.certificate)), (told[..1].to_vec(), told[..2].to_vec()));
    }

    #[test]
    fn the_authority_is_the_same_everywhere() {
        let (mesh, secret) = ("prod".try_into().unwrap(), Secret::random());
        let [one, two] = [(); 2].map(|()| Authority::derive(&mesh, &secret).unwrap());
        assert_eq!(one.certificate, two.certificate);
    }

    #[test]
    fn an_authority_of_files_is_read_again_and_not_with_a_foreign_key() {
        let (one, files) = Authority::create(Duration::from_secs(3600)).unwrap();
        let again = Authority::read(&files.certificate, &files.key).unwrap();
        assert_eq!(one.certificate, again.certificate);
        let (_, other) = Authority::create(Duration::from_secs(3600)).unwrap();
        assert!(matches!(Authority::read(&files.certificate, &other.key), Err(Broken::Apart(..))));
        assert!(Authority::read("nonsense", &other.key).is_err());
        assert!(!format!("{files:?}{one:?}").contains("BEGIN"));
    }

    #[test]
    fn whatever_key_an_authority_has_its_word_is_believed_or_it_is_refused() {
        use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_RSA_SHA256};
        let mesh = "prod".try_into().unwrap();
        for kind in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ECDSA_P521_SHA512, &PKCS_RSA_SHA256] {
            let key = KeyPair::generate_for(kind).unwrap();
            let text = key.serialize_pem();
            let made = Authority::sign_itself(authority_params("a firm's own"), key).unwrap();
            let kept = Authority::read(&pem("CERTIFICATE", &made.certificate), &text).unwrap();
            let word = kept.decree(&mesh, Word::DenySerial("0a".into()), false, 1).unwrap();
            assert!(has_signed(&kept.certificate, &word.text, &word.signature), "{kind:?}");
            assert!(!has_signed(&kept.certificate, b"another", &word.signature), "{kind:?}");
        }
        let (_, files) = Authority::create(Duration::from_secs(3600)).unwrap();
        assert!(matches!(Authority::read(&files.certificate, SECP256K1), Err(Broken::Weak)));
    }

    /// A key of a curve that TLS does not know.
    const SECP256K1: &str = "-----BEGIN PRIVATE KEY-----\n\
                 MIGEAgEAMBAGByqGSM49AgEGBSuBBAAKBG0wawIBAQQg+Qa7/f4P2TRKNIHwp2YK\n\
                 K8p2HMLKLIYUpSkNnCeYhHuhRANCAASOmQfxs4yL/Ge4WJqDKfAWoiWuwNDZL2zT\n\
                 C5+/Qf7u+5nMD3VMn4WfaEqJP88ywcTXX3TMeIDnevQYOMKj2RIh\n\
                 -----END PRIVATE KEY-----\n\
                 ";

    #[test]
    fn everybody_reads_the_keys_that_are_written() {
        let (authority, files) = Authority::create(Duration::from_secs(3600)).unwrap();
        let (mesh, node) = ("prod".try_into().unwrap(), "web-1".try_into().unwrap());
        let issued = authority.issue(&mesh, &node, Duration::from_secs(3600)).unwrap();
        let (_, asked) = super::super::request(&node).unwrap();
        for key in [files.key, issued.key, asked] {
            let key = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes()).unwrap();
            // Version 0, and 32 bytes of key (RFC 8410 section 10.3).
            assert_eq!((&key.secret_pkcs8_der()[..5], key.secret_pkcs8_der().len()), (&[0x30, 46, 2, 1, 0][..], 48));
        }
    }

    #[test]
    fn nothing_is_issued_for_longer_than_the_authority_lasts() {
        let (mesh, node) = ("prod".try_into().unwrap(), "web-1".try_into().unwrap());
        let year = Duration::from_secs(365 * 24 * 3600);
        let (brief, files) = Authority::create(Duration::from_secs(3600)).unwrap();
        let issued = brief.issue(&mesh, &node, year).unwrap();
        let ends = |pem: &str| says(&CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap().not_after;
        assert_eq!(ends(&issued.certificate), ends(&files.certificate));
        let (over, _) = Authority::create(Duration::ZERO).unwrap();
        assert!(matches!(over.issue(&mesh, &node, year), Err(Broken::Expired(_))));
    }

    #[test]
    fn a_signature_is_by_its_authority_alone() {
        let [(one, _), (other, _)] = [(); 2].map(|()| Authority::create(Duration::from_secs(3600)).unwrap());
        let signature = one.sign(b"text").unwrap();
        assert!(has_signed(&one.certificate, b"text", &signature));
        assert!(!has_signed(&one.certificate, b"texts", &signature));
        assert!(!has_signed(&other.certificate, b"text", &signature));
        assert!(!has_signed(&other.certificate, b"text", b""));
    }
}
