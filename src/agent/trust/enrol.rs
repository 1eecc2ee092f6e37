//! A new machine's way in: an invitation that carries seeds, who made it, the authority's fingerprint and a single-use
//! secret.
//!
//! The secret never travels: it stands for a key, and who shows that key in the handshake is the one who was invited. The
//! new machine in turn believes the node that made the invitation, under the authority with the fingerprint. It is then
//! given a certificate, or the mesh's secrets, whichever the mesh lives by.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::PublicKeyData;
use rustls::pki_types::{CertificateDer, UnixTime, pem::PemObject};
use serde::{Deserialize, Serialize};
use x509_parser::parse_x509_certificate;
use zeroize::Zeroizing;

use super::{
    Broken, Says, Trust, authority, authority::pem, guest::is_under, guests::Guest, lineage::Lineage, papers,
    proven_name, san,
};
use crate::{
    agent::Secret,
    model::{MeshName, Node, NodeName},
};

/// What `hobnob token create` prints.
pub struct Invitation {
    pub(in crate::agent) mesh: MeshName,
    /// The node that made it, which alone knows of it.
    pub(in crate::agent) by: NodeName,
    pub(in crate::agent) seeds: Vec<SocketAddr>,
    pub(in crate::agent) fingerprint: [u8; 32],
    pub(in crate::agent) secret: Secret,
}

#[derive(Serialize, Deserialize)]
struct Written {
    mesh: MeshName,
    by: NodeName,
    #[serde(deserialize_with = "crate::model::list")]
    seeds: Vec<SocketAddr>,
    fingerprint: [u8; 32],
    secret: [u8; 32],
}

impl Invitation {
    /// The mesh it leads into.
    #[must_use]
    pub fn mesh(&self) -> &MeshName {
        &self.mesh
    }

    /// Where it is found.
    pub fn seeds(&self) -> impl Iterator<Item = &SocketAddr> {
        self.seeds.iter()
    }

    /// As one word to copy.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let (mesh, by, seeds) = (self.mesh.clone(), self.by.clone(), self.seeds.clone());
        let written = Written { mesh, by, seeds, fingerprint: self.fingerprint, secret: *self.secret.bytes() };
        let mut bytes = Zeroizing::new(rmp_serde::to_vec_named(&written).unwrap_or_default());
        let sum = checksum(&bytes);
        bytes.extend(sum);
        Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&*bytes)))
    }

    /// Whether a word is meant to be one.
    #[must_use]
    pub fn is_meant_by(text: &str) -> bool {
        text.trim().starts_with(PREFIX)
    }

    /// Reads that word. `None` if it is cut off, mistyped, or none at all.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let text = text.trim().strip_prefix(PREFIX).filter(|text| text.len() <= MAX_TEXT)?;
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
        let (bytes, sum) = bytes.split_last_chunk()?;
        if *sum != checksum(bytes) {
            return None;
        }
        let mut from = rmp_serde::Deserializer::from_read_ref(bytes);
        from.set_max_depth(MAX_DEPTH);
        let Written { mesh, by, seeds, fingerprint, secret } = Written::deserialize(&mut from).ok()?;
        let secret = Secret::from_bytes(secret);
        (seeds.len() <= Node::MAX_ADDRESSES).then_some(Self { mesh, by, seeds, fingerprint, secret })
    }
}

impl std::fmt::Debug for Invitation {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Invitation({} at {:?})", self.mesh, self.seeds)
    }
}

/// What a new machine asks for.
#[derive(Serialize, Deserialize)]
pub(in crate::agent) struct Request {
    pub(in crate::agent) node: NodeName,
    /// Its SubjectPublicKeyInfo.
    #[serde(deserialize_with = "crate::model::list")]
    pub(in crate::agent) key: Vec<u8>,
}

impl Request {
    /// Whether a certificate is for the name and the key in it.
    pub(super) fn is_named_by(&self, certificate: &CertificateDer<'_>, mesh: &MeshName) -> bool {
        proven_name(certificate, mesh).is_some_and(|name| name == self.node)
            && public_key(certificate).is_some_and(|key| key == self.key)
    }
}

/// What it is given.
#[derive(Serialize, Deserialize)]
pub struct Granted {
    /// The authorities' certificates in PEM.
    pub ca: String,
    /// The node's, in certificate mode.
    pub certificate: Option<String>,
    /// The mesh's secrets otherwise.
    #[serde(deserialize_with = "crate::model::list")]
    pub secrets: Vec<Zeroizing<String>>,
    /// Whether it was not given to that address before; who is given it does not hear of that.
    #[serde(skip)]
    pub(in crate::agent) is_news: bool,
}

impl Granted {
    /// What the certificate says, if it is one.
    pub(in crate::agent) fn says(&self) -> Option<Says> {
        papers::says(&CertificateDer::from_pem_slice(self.certificate.as_ref()?.as_bytes()).ok()?)
    }
}

impl std::fmt::Debug for Granted {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Granted(…)")
    }
}

impl Trust {
    /// Invites one machine, for a while; under this name alone if one is given.
    pub(in crate::agent) fn invite(
        &self,
        seeds: Vec<SocketAddr>,
        node: Option<NodeName>,
        ttl: Duration,
    ) -> Result<Invitation, Broken> {
        let papers = self.papers.load();
        self.signer(&papers)?;
        // While authorities overlap, our own certificate may be by another than the one that signs now.
        let own = self.current();
        let (leaf, rest) = own.key.cert.split_first().ok_or(Broken::Key)?;
        let now = UnixTime::now();
        let root = papers.roots.iter().find(|root| is_under(leaf, rest, root, now).is_ok()).ok_or(Broken::Key)?;
        let secret = Secret::random();
        let shown = authority::applicant(&secret)?;
        let key = shown.cert.first().and_then(public_key).ok_or(Broken::Key)?;
        self.guests.expect(Guest::new(key, ttl, node))?;
        let (mesh, by) = (self.mesh.clone(), self.node.clone());
        Ok(Invitation { mesh, by, seeds, fingerprint: fingerprint(root), secret })
    }

    /// Whether the holder of this certificate was invited. One that names anybody is a member's or a forger's: the
    /// invitation's key proves no name.
    pub(super) fn is_guest(&self, certificate: &CertificateDer<'_>) -> bool {
        names_nobody(certificate) && public_key(certificate).is_some_and(|key| self.guests.awaits(&key))
    }

    /// Keeps who is awaited in this folder.
    pub(in crate::agent) fn keep_guests(&self, folder: &Path) {
        self.guests.open(folder);
    }

    /// Lets one guest in, once; under a name that nobody has, or the one that it was invited by. Refused, the invitation
    /// stays good.
    pub(in crate::agent) fn grant(
        &self,
        chain: &[CertificateDer<'_>],
        asked: &Request,
        from: IpAddr,
        has: impl FnOnce(&NodeName) -> bool,
    ) -> Result<Granted, Broken> {
        let first = chain.first().ok_or(Broken::Uninvited)?;
        if !names_nobody(first) {
            return self.grant_again(chain, asked, from);
        }
        let key = public_key(first).ok_or(Broken::Uninvited)?;
        let papers = self.papers.load();
        let authority = self.signer(&papers)?;
        let fits = |node: &Option<NodeName>| match node {
            Some(name) if *name != asked.node => Err(Broken::Called(name.clone())),
            None if has(&asked.node) => Err(Broken::Taken(asked.node.clone())),
            _ if self.law().denies(&asked.node, "") => Err(Broken::Denied(asked.node.clone())),
            _ => Ok(()),
        };
        let ca = papers.roots.iter().map(|root| pem("CERTIFICATE", root)).collect();
        let mut granted = Granted { ca, certificate: None, secrets: Vec::new(), is_news: true };
        if papers.secrets.is_empty() {
            let (san, now) = (san(&self.mesh, &asked.node), SystemTime::now());
            let issued = authority.issue_for(&san, &asked.key, now, GRANTED, Lineage::begin()?)?;
            granted.certificate = Some(pem("CERTIFICATE", &issued));
        } else {
            granted.secrets = papers.secrets.iter().map(Secret::reveal).collect();
        }
        self.guests.come(&key, &asked.node, fits)?;
        Ok(granted)
    }
}

/// A fresh key for a new machine: what to ask with, and the key in PEM.
pub(in crate::agent) fn request(node: &NodeName) -> Result<(Request, Zeroizing<String>), Broken> {
    let key = authority::fresh_key()?;
    let request = Request { node: node.clone(), key: key.subject_public_key_info() };
    Ok((request, Zeroizing::new(key.serialize_pem())))
}

pub(super) fn public_key(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = parse_x509_certificate(certificate).ok()?;
    Some(parsed.public_key().raw.to_vec())
}

fn names_nobody(certificate: &CertificateDer<'_>) -> bool {
    parse_x509_certificate(certificate).is_ok_and(|(_, parsed)| matches!(parsed.subject_alternative_name(), Ok(None)))
}

/// What an authority is known by.
pub(super) fn fingerprint(authority: &CertificateDer<'_>) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, authority).as_ref());
    hash
}

/// Tells a word that was mistyped from one that was used up.
pub(super) fn checksum(bytes: &[u8]) -> [u8; 4] {
    let mut sum = [0; 4];
    sum.copy_from_slice(&digest(&SHA256, bytes).as_ref()[..4]);
    sum
}

pub(super) const PREFIX: &str = "hobnob1_";
/// An invitation with all the seeds there may be.
const MAX_TEXT: usize = 4096;
/// It nests two deep.
const MAX_DEPTH: usize = 8;
/// How long a certificate is good that was granted: as long as `hobnob ca issue` makes them.
pub(super) const GRANTED: Duration = Duration::from_secs(365 * 24 * 3600);

#[cfg(test)]
pub(super) mod tests {
    use std::{net::Ipv4Addr, path::Path, slice::from_ref, sync::Arc};

    use rustls::sign::SingleCertAndKey;

    use super::*;
    use crate::agent::{
        keep,
        trust::{Authority, Error, Files, Pair, Proof, Taken, Tls, Word, guest_tls, tests::*},
    };

    fn invited(by: &Trust, ttl: Duration) -> Invitation {
        by.invite(vec!["127.0.0.1:7946".parse().unwrap()], None, ttl).unwrap()
    }

    pub(in super::super) const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    pub(in super::super) const HOUR: Duration = Duration::from_secs(3600);

    /// The files of a node that believes these authorities, with a certificate of the first that is to be renewed.
    pub(in super::super) fn files(folder: &Path, node: &str, authorities: &[&(Authority, Pair)], signs: bool) -> Files {
        let at = |file: &str| folder.join(format!("{node}-{file}"));
        let (signer, pair) = authorities[0];
        let (mesh, node_name) = ("prod".try_into().unwrap(), node.try_into().unwrap());
        let own = signer.issue_at(&mesh, &node_name, SystemTime::now() - 2 * HOUR, 3 * HOUR).unwrap();
        let ca: String = authorities.iter().map(|(_, pair)| pair.certificate.as_str()).collect();
        for (file, text) in [("ca", &ca), ("cert", &own.certificate), ("key", &own.key), ("ca-key", &pair.key)] {
            keep::replace(&at(file), text.as_bytes(), keep::PRIVATE).unwrap();
        }
        let ca_key = signs.then(|| at("ca-key"));
        Files { ca: at("ca"), cert: at("cert"), key: at("key"), ca_key, renew: false }
    }

    pub(in super::super) fn certified(node: &str, files: &Files) -> Trust {
        Trust::new(&"prod".try_into().unwrap(), &node.try_into().unwrap(), Proof::Files(files)).unwrap()
    }

    #[test]
    fn what_is_law_stands_by_the_authority_that_comes_also_where_nobody_can_sign() {
        let folder = tempfile::tempdir().unwrap();
        let files = |node, authorities: &[_], signs| files(folder.path(), node, authorities, signs);
        let [old, new] = [2, 1].map(|hours| Authority::create(hours * HOUR).unwrap());
        let (signs, hears) = (certified("a", &files("a", &[&old], true)), certified("b", &files("b", &[&old], false)));
        let now = crate::agent::unix_millis();
        let word = signs.decree(Word::DenyNode("stolen".try_into().unwrap()), false, now).unwrap();
        assert_eq!([signs.take(&word, now), hears.take(&word, now)], [Ok(Taken::News); 2]);
        hears.renew(Proof::Files(&files("b", &[&old, &new], false))).unwrap();
        signs.renew(Proof::Files(&files("a", &[&new, &old], true))).unwrap();
        let again = signs.law().edicts().next().cloned().unwrap();
        assert_eq!(hears.take(&again, now), Ok(Taken::News));
        for known in [&again, &word] {
            assert_eq!(hears.take(known, now), Ok(Taken::Known), "nothing goes back and forth");
        }
        // Who still holds the key of the one that goes leaves it to the one that comes first in its list.
        let both = files("a", &[&old, &new], true);
        for (list, is_left) in [([&new, &old], true), ([&old, &new], false)] {
            let ca: String = list.iter().map(|(_, pair)| pair.certificate.as_str()).collect();
            keep::replace(&both.ca, ca.as_bytes(), keep::PRIVATE).unwrap();
            signs.renew(Proof::Files(&both)).unwrap();
            assert_eq!(signs.law().edicts().next() == Some(&again), is_left);
        }
        let late = certified("c", &files("c", &[&new], false));
        assert!(late.take(&word, now).is_err());
        assert_eq!(late.take(&again, now), Ok(Taken::News));
    }

    #[test]
    fn who_holds_the_key_of_any_authority_that_it_believes_signs_by_that_one_and_nobody_while_its_files_are_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let files = |authorities: &[_]| files(folder.path(), "a", authorities, true);
        let [old, new] = [1, 2].map(|hours| Authority::create(hours * HOUR).unwrap());
        let both = files(&[&old, &new]);
        let host = Arc::new(certified("a", &both));
        let word = invited(&host, HOUR);
        keep::replace(both.ca_key.as_ref().unwrap(), new.1.key.as_bytes(), keep::PRIVATE).unwrap();
        host.renew(Proof::Files(&both)).unwrap();
        let [_, seen] = shake(&guest(&word, &host), &host.tls().unwrap()).unwrap();
        let (asked, _) = request(&"b".try_into().unwrap()).unwrap();
        keep::replace(&both.ca, old.1.certificate.as_bytes(), keep::PRIVATE).unwrap();
        assert!(matches!(host.renew(Proof::Files(&both)), Err(Broken::Apart("ca_key", "ca"))));
        assert!(host.not_reloaded().is_some());
        assert!(matches!(host.invite(Vec::new(), None, HOUR), Err(Broken::NotReloaded(_))));
        assert!(matches!(host.grant(from_ref(&seen), &asked, HERE, |_| false), Err(Broken::NotReloaded(_))));
        let both = files(&[&new, &old]);
        host.renew(Proof::Files(&both)).unwrap();
        assert_eq!(host.not_reloaded(), None);
        let granted = host.grant(from_ref(&seen), &asked, HERE, |_| false).unwrap().certificate.unwrap();
        let granted = CertificateDer::from_pem_slice(granted.as_bytes()).unwrap();
        assert!(is_under(&granted, &[], &new.0.certificate, UnixTime::now()).is_ok());
    }

    /// The side of somebody who was invited.
    fn guest(invitation: &Invitation, host: &Arc<Trust>) -> Tls {
        Tls { client: guest_tls(invitation).unwrap(), server: host.tls().unwrap().server }
    }

    #[test]
    fn a_word_is_read_as_it_was_written_and_not_with_a_letter_changed() {
        let word = invited(&trust("prod", "a", &[Secret::random()]), HOUR).to_text();
        let read = Invitation::from_text(&format!(" {}\n", &*word)).unwrap();
        assert_eq!(*read.to_text(), *word);
        assert!(!format!("{read:?}").contains(&word[20..40]));
        for at in 0..word.len() {
            let letter = if word.as_bytes()[at] == b'A' { "B" } else { "A" };
            let changed = [&word[..at], letter, &word[at + 1..]].concat();
            assert!(Invitation::from_text(&changed).is_none(), "{at}");
            assert!(Invitation::from_text(&word[..at]).is_none(), "cut at {at}");
        }
        assert!(Invitation::from_text(&format!("{PREFIX}{}", "A".repeat(MAX_TEXT + 1))).is_none());
    }

    #[test]
    fn a_guest_is_let_in_once_and_each_believes_the_other_by_the_word_alone() {
        let host = trust("prod", "a", &[Secret::random()]);
        let word = invited(&host, HOUR);
        let [_, seen] = shake(&guest(&word, &host), &host.tls().unwrap()).unwrap();
        let (asked, _) = request(&"b".try_into().unwrap()).unwrap();
        assert!(matches!(host.grant(from_ref(&seen), &asked, HERE, |_| true), Err(Broken::Taken(_))));
        assert_eq!(host.grant(from_ref(&seen), &asked, HERE, |_| false).unwrap().secrets.len(), 1);
        assert!(matches!(host.grant(from_ref(&seen), &asked, HERE, |_| false), Err(Broken::Uninvited)));
        shake(&guest(&word, &host), &host.tls().unwrap()).unwrap_err();
    }

    #[test]
    fn a_word_is_good_for_its_time_its_name_and_its_authority() {
        let host = trust("prod", "a", &[Secret::random()]);
        let late = invited(&host, Duration::ZERO);
        shake(&guest(&late, &host), &host.tls().unwrap()).unwrap_err();
        // Whoever answers at the seed's address must show the authority, and belong to the mesh.
        let word = invited(&host, HOUR);
        for other in [trust("prod", "a", &[Secret::random()]), trust("test", "a", &[Secret::random()])] {
            let why = shake(&guest(&word, &other), &other.tls().unwrap()).unwrap_err();
            assert!(matches!(why, Error::InvalidCertificate(_)), "{why}");
        }
        let named = host.invite(Vec::new(), Some("web-1".try_into().unwrap()), HOUR).unwrap();
        let [_, seen] = shake(&guest(&named, &host), &host.tls().unwrap()).unwrap();
        for (name, good) in [("web-2", false), ("web-1", true)] {
            let (asked, _) = request(&name.try_into().unwrap()).unwrap();
            // It was made for a machine that takes another's place.
            assert_eq!(host.grant(from_ref(&seen), &asked, HERE, |_| true).is_ok(), good, "{name}");
        }
    }

    #[test]
    fn the_word_s_key_proves_no_name() {
        let host = trust("prod", "a", &[Secret::random()]);
        let word = invited(&host, HOUR);
        let shows = |names: &[&str]| {
            let shown = authority::applicant_named(&word.secret, names).unwrap();
            let mut tls = host.tls().unwrap();
            tls.client.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(shown));
            shake(&tls, &host.tls().unwrap())
        };
        for forged in ["b.prod.hobnob", "a.prod.hobnob", "b.test.hobnob"] {
            assert!(matches!(shows(&[forged]), Err(Error::InvalidCertificate(_))), "{forged}");
        }
        // Unnamed it passes the handshake, and is nobody to the mesh.
        let [_, seen] = shows(&[]).unwrap();
        assert!(proven_name(&seen, &host.mesh).is_none() && !host.still_accepts(&[seen]));
    }
}
