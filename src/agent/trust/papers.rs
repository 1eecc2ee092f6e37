//! What a node holds: whom it believes, what it shows, and the authority's key where it has one.
//!
//! All of it is replaced as one when secrets or files change; connections that stand do not notice.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::{
    CertificateError, RootCertStore,
    client::WebPkiServerVerifier,
    crypto::{CryptoProvider, aws_lc_rs as provider},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
};
use x509_parser::parse_x509_certificate;
use xxhash_rust::xxh3::xxh3_64;
use zeroize::Zeroizing;

use super::{
    Authority, Broken, authority::CLOCK_SKEW, enrol::GRANTED, guest::is_under, lineage::Lineage, notary::SCHEMES,
    only_san, proven_name, san, signer::signer,
};
use crate::{
    agent::{
        Secret,
        file::{self, Stamp, Untold, stamp},
    },
    mesh::Objection,
    model::{MeshName, NodeName, millis},
};

/// The files of certificate mode: the section `[tls]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificates of the authorities to believe, one after the other.
    pub ca: PathBuf,
    /// This node's certificate, and those between it and the authority, if any.
    pub cert: PathBuf,
    /// Its private key, readable by its owner alone.
    pub key: PathBuf,
    /// The key of one of the authorities in `ca`: on a node that lets new machines in, and on no other.
    pub ca_key: Option<PathBuf>,
    /// Whether the next certificate is asked for before this one ends: of a node that holds the authority's key.
    pub renew: bool,
}

impl Files {
    /// Whom the certificate names, if it can be read and is of `mesh`.
    #[must_use]
    pub fn names(&self, mesh: &MeshName) -> Option<NodeName> {
        let text = text(&self.cert).ok()?;
        proven_name(&CertificateDer::from_pem_slice(text.as_bytes()).ok()?, mesh)
    }

    /// What is to be seen of them without reading them.
    pub(in crate::agent) fn stamps(&self) -> Vec<Stamp> {
        let all = [Some(&self.ca), Some(&self.cert), Some(&self.key), self.ca_key.as_ref()];
        all.into_iter().map(|path| path.and_then(|path| stamp(path))).collect()
    }

    /// Whether a node can prove itself with what they hold.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn check(&self, mesh: &MeshName, node: &NodeName) -> Result<(), Broken> {
        Papers::read(mesh, node, self).map(drop)
    }
}

/// A certificate with its key, and what the certificate says.
pub(super) struct Issued {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) says: Says,
    /// The private key, for whoever is to speak in this node's name after its death.
    pub(super) private: Zeroizing<Vec<u8>>,
    /// When to issue the next, where the node signs for itself.
    pub(super) renew_at: Option<SystemTime>,
}

/// What stands behind a chain of certificates.
pub(super) struct Standing {
    /// The number of the first of them.
    pub(super) serial: Box<str>,
    /// The authority, as [`number`] knows it.
    pub(super) authority: u64,
    /// Until when it and the first are good, in unix milliseconds.
    pub(super) until: u64,
}

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Says {
    /// Whose it is: the name of the authority.
    pub issuer: String,
    /// Its number, unique under its authority, in hexadecimal.
    pub serial: String,
    /// From when on it is good.
    pub not_before: SystemTime,
    /// Until when it is.
    pub not_after: SystemTime,
}

impl Says {
    /// Whether less than a fifth of the lifetime is left at `now`.
    #[must_use]
    pub fn expires_soon(&self, now: SystemTime) -> bool {
        self.not_after.duration_since(now).unwrap_or_default() < self.lifetime() / 5
    }

    /// For how long it was issued: ours begin before that, for clocks that are behind.
    pub(super) fn lifetime(&self) -> Duration {
        let whole = self.not_after.duration_since(self.not_before).unwrap_or_default();
        Lineage::written(&self.serial).map_or(whole, |_| whole.saturating_sub(CLOCK_SKEW))
    }

    /// For how long it was asked: one that its authority's end has cut short is as long as that again under the next.
    pub(super) fn asked(&self) -> Duration {
        Lineage::written(&self.serial).map_or_else(|| self.lifetime(), |(_, asked)| asked)
    }

    /// How long before its end the next one is asked for: a third of its lifetime, or of the next one's if that is shorter,
    /// which else would end no later.
    pub(in crate::agent) fn renews_within(&self) -> Duration {
        self.lifetime().min(GRANTED) / 3
    }
}

impl Issued {
    pub(super) fn new(
        chain: Vec<CertificateDer<'static>>,
        private: &PrivateKeyDer<'_>,
        renew_at: Option<SystemTime>,
    ) -> Result<Self, Broken> {
        let says = chain.first().and_then(says).ok_or(Broken::Pem("cert"))?;
        let key = CertifiedKey::new(chain, provider::sign::any_supported_type(private)?);
        Ok(Self { key: Arc::new(key), says, private: Zeroizing::new(private.secret_der().to_vec()), renew_at })
    }
}

/// All that a node holds.
pub(super) struct Papers {
    pub(super) servers: Arc<WebPkiServerVerifier>,
    pub(super) clients: Arc<dyn ClientCertVerifier>,
    /// Whom both believe.
    pub(super) roots: Vec<CertificateDer<'static>>,
    /// The one of them that signs, where this node has its key.
    pub(super) authority: Option<Authority>,
    pub(super) own: ArcSwap<Issued>,
    /// The secrets it was derived from; empty in certificate mode.
    pub(super) secrets: Vec<Secret>,
}

impl Papers {
    /// Derives the authorities and issues this node's first certificate.
    pub(super) fn derive(mesh: &MeshName, node: &NodeName, secrets: &[Secret]) -> Result<Self, Broken> {
        let authorities = secrets.iter().map(|s| Authority::derive(mesh, s)).collect::<Result<Vec<_>, _>>()?;
        let roots: Vec<_> = authorities.iter().map(|authority| authority.certificate.clone()).collect();
        let signer = authorities.into_iter().next().ok_or(Broken::NoSecret)?;
        let own = signer.issue_own(&san(mesh, node), SystemTime::now())?;
        Self::assemble(&roots, own, Some(signer), secrets.to_vec())
    }

    /// Reads the files, and holds them against each other and the node's name.
    pub(super) fn read(mesh: &MeshName, node: &NodeName, files: &Files) -> Result<Self, Broken> {
        let ca = text(&files.ca)?;
        let roots: Vec<_> = CertificateDer::pem_slice_iter(ca.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| Broken::File(files.ca.clone(), NO_CERTIFICATE))?;
        let cert = text(&files.cert)?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(cert.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| Broken::File(files.cert.clone(), NO_CERTIFICATE))?;
        if roots.is_empty() {
            return Err(Broken::File(files.ca.clone(), NO_CERTIFICATE));
        }
        let Some(leaf) = chain.first() else { return Err(Broken::File(files.cert.clone(), NO_CERTIFICATE)) };
        let is_shared = || {
            let is_ca = files.ca.canonicalize().ok() == files.cert.canonicalize().ok();
            is_ca || cert.matches("-----BEGIN ").count() > chain.len()
        };
        if files.renew && is_shared() {
            return Err(Broken::File(files.cert.clone(), SHARED));
        }
        match proven_name(leaf, mesh) {
            Some(name) if name == *node => {}
            _ => {
                let says = only_san(leaf).unwrap_or_else(|| "no name, or several".into());
                return Err(Broken::Name { says, wanted: san(mesh, node) });
            }
        }
        let key = secret_text(&files.key)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|_| Broken::File(files.key.clone(), "holds no private key in PEM"))?;
        let mut own = Issued::new(chain, &key, None)?;
        own.says.not_after = good_until(&roots, &own.key.cert, &own.says);
        own.key.keys_match().map_err(|_| Broken::Apart("key", "cert"))?;
        // Its book could not be vouched for: nobody would ever show what it serves.
        own.key.key.choose_scheme(SCHEMES).ok_or_else(|| Broken::File(files.key.clone(), UNFIT))?;
        let authority = files.ca_key.as_ref().map(|path| signer(&roots, &own.key.cert, path)).transpose()?;
        let papers = Self::assemble(&roots, own, authority, Vec::new())?;
        papers.believes_itself()?;
        Ok(papers)
    }

    pub(super) fn assemble(
        roots: &[CertificateDer<'static>],
        own: Issued,
        authority: Option<Authority>,
        secrets: Vec<Secret>,
    ) -> Result<Self, Broken> {
        let crypto: Arc<CryptoProvider> = Arc::new(provider::default_provider());
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root.clone())?;
        }
        let store = Arc::new(store);
        let servers = WebPkiServerVerifier::builder_with_provider(Arc::clone(&store), Arc::clone(&crypto)).build()?;
        let clients = WebPkiClientVerifier::builder_with_provider(store, crypto).clear_root_hint_subjects().build()?;
        Ok(Self { servers, clients, roots: roots.to_vec(), authority, own: ArcSwap::from_pointee(own), secrets })
    }

    /// Whether others find no difference. By secrets each reading issues another certificate, which proves the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let by_secrets = |papers: &Self| !papers.secrets.is_empty();
        let signer = |papers: &Self| papers.authority.as_ref().map(|authority| authority.certificate.clone());
        let (own, new) = (self.own.load(), other.own.load());
        self.roots == other.roots
            && signer(self) == signer(other)
            && by_secrets(self) == by_secrets(other)
            && (by_secrets(self) || (own.key.cert == new.key.cert && own.private == new.private))
    }

    /// A certificate that the others would refuse is refused here, where somebody reads why.
    fn believes_itself(&self) -> Result<(), Broken> {
        let own = self.own.load();
        let (leaf, rest) = own.key.cert.split_first().ok_or(Broken::Pem("cert"))?;
        Ok(self.verify(leaf, rest, UnixTime::now()).map(drop)?)
    }

    /// Whether `leaf` comes from an authority believed here, and is good at `now`.
    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        use rustls::client::danger::ServerCertVerifier;
        let own = only_san(leaf).and_then(|san| ServerName::try_from(san).ok());
        let own = own.ok_or(rustls::CertificateError::BadEncoding)?;
        self.servers.verify_server_cert(leaf, rest, &own, &[], now)?;
        self.in_time(leaf, rest, now)
    }

    /// Whether an authority stands behind `leaf` that has not expired: webpki does not look at the time of those that it
    /// believes.
    pub(super) fn in_time(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        let (good, over): (Vec<_>, Vec<_>) =
            self.roots.iter().partition(|root| says(root).is_some_and(|says| moment <= says.not_after));
        let is_good = over.is_empty() || good.iter().any(|root| is_under(leaf, rest, root, now).is_ok());
        if is_good { Ok(()) } else { Err(rustls::CertificateError::Expired.into()) }
    }

    /// What stands behind a chain at `now`: of several authorities the one that lasts longest.
    pub(super) fn standing(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<Standing, Objection> {
        let (leaf, rest) = chain.split_first().ok_or(Objection::Untrusted)?;
        let own = says(leaf).ok_or(Objection::Untrusted)?;
        let (mut last, mut objection) = (None, Objection::Untrusted);
        for root in &self.roots {
            match (is_under(leaf, rest, root, now), says(root)) {
                (Ok(_), Some(root_says)) => last = last.max(Some((root_says.not_after, number(root)))),
                (Err(rustls::Error::InvalidCertificate(why)), _) if is_over(&why) => objection = Objection::Expired,
                _ => {}
            }
        }
        let (until, authority) = last.ok_or(objection)?;
        let until = until.min(own.not_after).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if until.as_secs() < now.as_secs() {
            return Err(Objection::Expired);
        }
        let until = millis(until);
        Ok(Standing { serial: own.serial.into(), authority, until })
    }

    /// What this node shows now; one that it signs for itself is issued again when it has grown old. No timer, so no
    /// cost while idle.
    pub(super) fn current(&self, san: &str) -> Arc<Issued> {
        let issued = self.own.load_full();
        let now = SystemTime::now();
        let Some(authority) = self.authority.as_ref().filter(|_| issued.renew_at.is_some_and(|at| now >= at)) else {
            return issued;
        };
        match authority.issue_own(san, now) {
            Ok(fresh) => {
                let fresh = Arc::new(fresh);
                self.own.store(Arc::clone(&fresh));
                fresh
            }
            Err(why) => {
                tracing::error!(event = "certificate_not_renewed", %why);
                issued
            }
        }
    }
}

/// Until when a chain is good: not beyond the authority behind it, of which nobody else would tell in time.
pub(super) fn good_until(roots: &[CertificateDer<'_>], chain: &[CertificateDer<'_>], leaf_says: &Says) -> SystemTime {
    let is_behind = |root: &&CertificateDer<'_>| {
        chain.split_first().is_some_and(|(leaf, rest)| is_under(leaf, rest, root, UnixTime::now()).is_ok())
    };
    let until = roots.iter().filter(is_behind).filter_map(says).map(|root| root.not_after).max();
    until.map_or(leaf_says.not_after, |until| until.min(leaf_says.not_after))
}

/// A number that stands for an authority among those believed.
pub(super) fn number(root: &CertificateDer<'_>) -> u64 {
    xxh3_64(root)
}

const fn is_over(why: &CertificateError) -> bool {
    matches!(why, CertificateError::Expired | CertificateError::ExpiredContext { .. })
}

/// What a certificate says of itself.
pub(crate) fn says(certificate: &CertificateDer<'_>) -> Option<Says> {
    let (_, parsed) = parse_x509_certificate(certificate).ok()?;
    let moment = |at: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(at).unwrap_or(0));
    let validity = parsed.validity();
    Some(Says {
        issuer: parsed.issuer().to_string(),
        serial: parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        not_before: moment(validity.not_before.timestamp()),
        not_after: moment(validity.not_after.timestamp()),
    })
}

/// A file that everybody may read.
pub(crate) fn text(path: &Path) -> Result<String, Broken> {
    file::text(path, MAX_TEXT).map_err(|why| Broken::Unread(path.to_owned(), why))
}

/// A file that nobody but its owner may be able to read.
pub(crate) fn secret_text(path: &Path) -> Result<Zeroizing<String>, Broken> {
    file::secret(path, MAX_SECRET).map_err(|why| match why {
        Untold::Unread(why) => Broken::Unread(path.to_owned(), why),
        Untold::Readable(mode) => Broken::Readable(path.to_owned(), mode),
    })
}

const UNFIT: &str = "holds a key of a kind that vouches for nothing here: issue one with Ed25519, P-256 or P-384";
const SHARED: &str =
    "holds more than this node's certificate, and tls.renew writes over it: that is for a file of its own";
const NO_CERTIFICATE: &str = "holds no certificate in PEM";
/// Longer than all the authorities of a system together.
const MAX_TEXT: u64 = 1 << 20;
/// A key is a few hundred bytes; a megabyte of them is a mistake.
const MAX_SECRET: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::{
        super::{Proof, Trust, authority::pem, enrol::tests::*},
        *,
    };
    use crate::agent::keep;

    #[test]
    fn a_key_that_can_vouch_for_nothing_is_refused_where_somebody_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let (mesh, node) = ("prod".try_into().unwrap(), "a".try_into().unwrap());
        let (authority, pair) = Authority::create(Duration::from_secs(3600)).unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            keep::replace(&path, text.as_bytes(), keep::PRIVATE).unwrap();
            path
        };
        let ca = write("ca.pem", &pair.certificate);
        for (algorithm, is_fit) in [
            (&rcgen::PKCS_ED25519, true),
            (&rcgen::PKCS_ECDSA_P256_SHA256, true),
            (&rcgen::PKCS_ECDSA_P384_SHA384, true),
            (&rcgen::PKCS_ECDSA_P521_SHA512, false),
        ] {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let public = rcgen::PublicKeyData::subject_public_key_info(&key);
            let lineage = Lineage::begin().unwrap();
            let (now, minute) = (SystemTime::now(), Duration::from_secs(60));
            let issued = authority.issue_for(&san(&mesh, &node), &public, now, minute, lineage).unwrap();
            let (cert, key) = (write("a.pem", &pem("CERTIFICATE", &issued)), write("a-key.pem", &key.serialize_pem()));
            let files = Files { ca: ca.clone(), cert, key, ca_key: None, renew: false };
            let why = files.check(&mesh, &node).err().map(|why| why.to_string());
            assert_eq!(why.as_ref().is_none_or(|why| !why.contains("P-384")), is_fit, "{why:?}");
        }
    }

    #[test]
    fn what_a_renewal_would_write_over_stands_in_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let (mesh, node) = ("prod".try_into().unwrap(), "a".try_into().unwrap());
        let held = files(folder.path(), "a", &[&Authority::create(HOUR).unwrap()], false);
        let all = [&held.cert, &held.key, &held.ca].map(|file| std::fs::read_to_string(file).unwrap());
        let both = folder.path().join("both");
        for (holds, is_ca, is_taken) in [(&all[..1], false, true), (&all[..2], false, false), (&all[..], true, false)] {
            keep::replace(&both, holds.concat().as_bytes(), keep::PRIVATE).unwrap();
            let ca = if is_ca { &both } else { &held.ca }.clone();
            let shared = |renew| Files { ca: ca.clone(), cert: both.clone(), renew, ..held.clone() };
            let why = shared(true).check(&mesh, &node).err().map(|why| why.to_string());
            assert_eq!(why.as_ref().is_none_or(|why| !why.contains("file of its own")), is_taken, "{why:?}");
            shared(false).check(&mesh, &node).unwrap();
        }
    }

    #[test]
    fn papers_that_are_read_again_and_say_the_same_are_no_others() {
        let [one, two] = [(); 2].map(|()| Secret::random());
        let (mesh, node) = ("prod".try_into().unwrap(), "a".try_into().unwrap());
        let trust = Trust::new(&mesh, &node, Proof::Secrets(std::slice::from_ref(&one))).unwrap();
        let changes = |trust: &Trust, proof: Proof<'_>| {
            let before = trust.current();
            trust.renew(proof).unwrap();
            !Arc::ptr_eq(&before, &trust.current())
        };
        for (secrets, differ) in [(vec![one.clone()], false), (vec![one.clone(), two], true), (vec![one], true)] {
            assert_eq!(changes(&trust, Proof::Secrets(&secrets)), differ);
        }
        let folder = tempfile::tempdir().unwrap();
        let [old, new] = [1, 2].map(|hours| Authority::create(hours * HOUR).unwrap());
        let held = files(folder.path(), "a", &[&old], false);
        let trust = certified("a", &held);
        assert!(!changes(&trust, Proof::Files(&held)));
        for authorities in [&[&old][..], &[&old, &new]] {
            let issued = files(folder.path(), "a", authorities, false);
            assert!(changes(&trust, Proof::Files(&issued)), "another certificate");
        }
        let signs = Files { ca_key: Some(folder.path().join("a-ca-key")), ..held };
        assert!(changes(&trust, Proof::Files(&signs)), "it is the one that signs now");
    }

    #[test]
    fn an_authority_is_believed_until_it_ends() {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let [brief, lasting] = [1, 100].map(|long| Authority::create(hours(long)).unwrap().0);
        let san = san(&"prod".try_into().unwrap(), &"a".try_into().unwrap());
        let [old, new] = [&brief, &lasting].map(|authority| authority.issue_own(&san, SystemTime::now()).unwrap());
        let [of_old, of_new] = [&old, &new].map(|issued| issued.key.cert[0].clone());
        let roots = [brief.certificate.clone(), lasting.certificate.clone()];
        let papers = Papers::assemble(&roots, new, None, Vec::new()).unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let [now, then] = [now, now + hours(2)].map(UnixTime::since_unix_epoch);
        for (leaf, then_good) in [(of_old, false), (of_new, true)] {
            assert_eq!(papers.in_time(&leaf, &[], now), Ok(()));
            assert_eq!(
                papers.in_time(&leaf, &[], then),
                if then_good { Ok(()) } else { Err(CertificateError::Expired.into()) }
            );
            let objection = papers.standing(&[leaf], then).err();
            assert_eq!(objection, (!then_good).then_some(Objection::Expired));
        }
    }
}
