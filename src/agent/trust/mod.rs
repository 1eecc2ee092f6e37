//! Who a peer is: mutual TLS 1.3 under the mesh's certification authority.
//!
//! Two ways in. With a *shared secret* each node derives the same authority and signs for itself: nothing to hand out,
//! but whoever holds the secret may name himself anything. With *certificates* the authority's key stays off the nodes,
//! and a node proves its own name and no other. Several secrets or authorities may stand side by side: the first secret
//! signs, or the authority whose key a node holds, and all verify; that is how they rotate.
//!
//! The names are checked by us, since a seed is dialled by address: the mesh and the deny list first, then the chain, and
//! in the Hello the node. Papers are replaced while connections stand.

#![doc = include_str!("rotation.md")]

mod archive;
mod authority;
mod broken;
mod decree;
mod edict;
mod enrol;
mod estate;
pub mod fuzz;
mod guest;
mod guests;
mod lineage;
mod name;
mod notary;
mod outcast;
mod papers;
mod refused;
mod renewal;
mod room;
mod signer;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::{Resumption, danger::HandshakeSignatureValid},
    crypto::aws_lc_rs as provider,
    pki_types::{CertificateDer, UnixTime},
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
    version::TLS13,
};
use tokio::sync::Notify;

pub(crate) use authority::certificates;
pub use authority::{Authority, Pair};
pub use broken::Broken;
pub(super) use edict::Taken;
pub use edict::{Edict, Law, Said, Token, Word};
pub use enrol::{Granted, Invitation};
pub(super) use estate::Estate;
pub use outcast::Outcast;
pub use papers::{Files, Says};
pub(crate) use papers::{says, secret_text, text};

use super::{
    Secret,
    file::Stamp,
    judge::{Judge, Judged},
};
use crate::{
    mesh::Objection,
    model::{MeshName, NodeName},
};
use archive::Archive;
pub(super) use enrol::{Request, request};
pub(super) use guest::{flaw, guest_tls};
use guests::Guests;
pub(super) use name::proven_name;
use name::{SUFFIX, only_san, san};
pub(super) use notary::Seal;
pub use notary::notary;
use papers::Papers;
use renewal::Renewals;
pub(super) use renewal::serial_of_member;
pub(super) use room::MAX_OF_A_KIND;

/// The protocol spoken above TLS (RFC 7301).
pub(super) const ALPN: &[u8] = b"hobnob/1";
/// The protocol of those who were invited and do not belong yet.
pub(super) const JOIN_ALPN: &[u8] = b"hobnob-join/1";

/// How begins what is told to whom a link is closed on for its certificate.
pub(super) const NOT_ACCEPTED: &str = "your certificate is not accepted any more";

/// What is told to it.
pub(super) const fn farewell(objection: Objection) -> &'static str {
    match objection {
        Objection::Revoked => "your certificate is not accepted any more: it is revoked",
        Objection::Expired => "your certificate is not accepted any more: it has expired",
        Objection::Untrusted => NOT_ACCEPTED,
    }
}

/// What one node trusts and shows, shared by all of its connections.
pub(super) struct Trust {
    mesh: MeshName,
    node: NodeName,
    papers: ArcSwap<Papers>,
    /// One reads the files at a time: what was read first is not to be taken last.
    reading: Mutex<()>,
    law: ArcSwap<Law>,
    archive: Archive,
    /// The texts of what is law and not signed by the first of the authorities, and whether another has signed it.
    stale: ArcSwap<BTreeMap<Vec<u8>, bool>>,
    /// Wakes whoever acts by the law when it changes.
    law_changed: tokio::sync::watch::Sender<()>,
    guests: Guests,
    renewals: Renewals,
    /// What was heard and not taken.
    refused: refused::Refused,
    /// What was to be seen of the files just before they were read last.
    stamps: ArcSwap<Vec<Stamp>>,
    /// Why there is no next certificate, where one is asked for.
    not_renewed: ArcSwapOption<String>,
    /// Why the files hold something else than what is in use; none once that was taken over.
    not_reloaded: ArcSwapOption<String>,
    /// The word of the last peer that hung up since it does not accept this node any more; none once one has let it in.
    shut_out: ArcSwapOption<Outcast>,
    /// Links are to be looked at again.
    renewed: Notify,
    /// What is law has other signatures than on the disk.
    signed_again: Notify,
}

/// Both sides of TLS for one node.
pub(super) struct Tls {
    pub(super) server: ServerConfig,
    pub(super) client: ClientConfig,
}

/// What a node is to prove itself with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Proof<'a> {
    Secrets(&'a [Secret]),
    Files(&'a Files),
}

impl Proof<'_> {
    fn stamps(self) -> Vec<Stamp> {
        if let Self::Files(files) = self { files.stamps() } else { Vec::new() }
    }
}

impl Trust {
    pub(super) fn new(mesh: &MeshName, node: &NodeName, proof: Proof<'_>) -> Result<Self, Broken> {
        let stamps = proof.stamps();
        let trust = Self::holding(mesh, node, Self::papers(mesh, node, proof)?);
        trust.stamps.store(Arc::new(stamps));
        Ok(trust)
    }

    fn holding(mesh: &MeshName, node: &NodeName, papers: Papers) -> Self {
        Self {
            mesh: mesh.clone(),
            node: node.clone(),
            papers: ArcSwap::from_pointee(papers),
            reading: Mutex::default(),
            law: ArcSwap::default(),
            archive: Archive::default(),
            stale: ArcSwap::default(),
            law_changed: tokio::sync::watch::channel(()).0,
            guests: Guests::default(),
            renewals: Renewals::default(),
            refused: refused::Refused::default(),
            stamps: ArcSwap::default(),
            not_renewed: ArcSwapOption::empty(),
            not_reloaded: ArcSwapOption::empty(),
            shut_out: ArcSwapOption::empty(),
            renewed: Notify::new(),
            signed_again: Notify::new(),
        }
    }

    fn papers(mesh: &MeshName, node: &NodeName, proof: Proof<'_>) -> Result<Papers, Broken> {
        match proof {
            Proof::Secrets(secrets) => Papers::derive(mesh, node, secrets),
            Proof::Files(files) => Papers::read(mesh, node, files),
        }
    }

    /// Takes other papers; connections that stand do not notice. Refused as a whole, and the old ones stay.
    pub(super) fn renew(&self, proof: Proof<'_>) -> Result<(), Broken> {
        let _turn = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        self.stamps.store(Arc::new(proof.stamps()));
        let papers = Self::papers(&self.mesh, &self.node, proof);
        self.not_reloaded.store(papers.as_ref().err().map(|why| Arc::new(why.to_string())));
        let papers = papers?;
        let is_same = self.papers.load().is_same(&papers);
        if !is_same {
            self.papers.store(Arc::new(papers));
        }
        self.sign_again();
        self.weigh_all();
        self.refused.forget();
        if !is_same {
            self.renewed.notify_one();
        }
        Ok(())
    }

    /// Why the next start would fail, or not be what this one is: the files hold what could not be taken over.
    pub(super) fn not_reloaded(&self) -> Option<String> {
        self.not_reloaded.load_full().map(|why| String::clone(&why))
    }

    /// Who signs for others. Not while the files hold something else: what they were changed for, the others may go by
    /// already.
    fn signer<'a>(&self, papers: &'a Papers) -> Result<&'a Authority, Broken> {
        let signer = papers.authority.as_ref().ok_or(Broken::NoAuthority)?;
        self.not_reloaded().map_or(Ok(signer), |why| Err(Broken::NotReloaded(why)))
    }

    /// What this node's certificate says.
    pub(super) fn says(&self) -> Says {
        self.current().says.clone()
    }

    /// Whether this node's own certificate has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.says().not_after < SystemTime::now()
    }

    /// Whether this node's certificate is by the first of the authorities, which stays when others are dropped.
    pub(super) fn is_by_first(&self) -> bool {
        let (papers, own) = (self.papers.load(), self.current());
        let chain = own.key.cert.split_first().zip(papers.roots.first());
        chain.is_some_and(|((leaf, rest), root)| guest::is_under(leaf, rest, root, UnixTime::now()).is_ok())
    }

    /// Which of the authorities have ended at `now`, while another has not: nobody is believed by them any more.
    pub(super) fn ended(&self, now: SystemTime) -> Vec<Says> {
        let roots = self.papers.load().roots.iter().filter_map(says).collect::<Vec<_>>();
        let (ended, good): (Vec<_>, Vec<_>) = roots.into_iter().partition(|root| root.not_after < now);
        if good.is_empty() { good } else { ended }
    }

    pub(super) fn mesh(&self) -> &MeshName {
        &self.mesh
    }

    fn current(&self) -> Arc<papers::Issued> {
        self.papers.load().current(&san(&self.mesh, &self.node))
    }

    /// Whether a chain that was accepted once would be accepted now.
    pub(super) fn still_accepts(&self, chain: &[CertificateDer<'_>]) -> bool {
        self.accepts_at(chain, UnixTime::now())
    }

    /// Until when a chain that was accepted once stands, in unix milliseconds; or why it would not be accepted now.
    pub(super) fn standing(&self, chain: &[CertificateDer<'_>]) -> Result<u64, Objection> {
        let named = chain.first().and_then(|leaf| Some((proven_name(leaf, &self.mesh)?, papers::says(leaf)?.serial)));
        let (name, serial) = named.ok_or(Objection::Untrusted)?;
        if self.denies(&name, &serial) {
            return Err(Objection::Revoked);
        }
        self.papers.load().standing(chain, UnixTime::now()).map(|standing| standing.until)
    }

    fn accepts_at(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
        chain.split_first().is_some_and(|(leaf, rest)| self.accept(leaf, rest, now).is_ok())
    }

    fn accept(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        self.papers.load().verify(leaf, rest, now)?;
        self.check_name(leaf)
    }

    /// Last of all: who is revoked here is told to those alone whom the authority once let in.
    fn check_name(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let name = proven_name(certificate, &self.mesh).ok_or(CertificateError::NotValidForName)?;
        let law = self.law.load();
        let serial = || papers::says(certificate).map(|says| says.serial).unwrap_or_default();
        if !law.is_empty() && law.denies(&name, &serial()) {
            return Err(CertificateError::Revoked.into());
        }
        Ok(())
    }

    /// Whether the authority has revoked that name, or that certificate.
    fn denies(&self, node: &NodeName, serial: &str) -> bool {
        let law = self.law.load();
        !law.is_empty() && law.denies(node, serial)
    }

    /// Whether the authority of that number is believed.
    fn believes(&self, authority: u64) -> bool {
        self.papers.load().roots.iter().any(|root| papers::number(root) == authority)
    }

    /// Wakes when links are to be looked at again.
    pub(super) async fn renewed(&self) {
        self.renewed.notified().await;
    }

    /// Both sides of TLS, as QUIC wants them.
    pub(super) fn tls(self: &Arc<Self>) -> Result<Tls, Broken> {
        let crypto = Arc::new(provider::default_provider());
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&crypto))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::clone(self) as _)
            .with_cert_resolver(Arc::clone(self) as _);
        server.alpn_protocols = vec![ALPN.to_vec(), JOIN_ALPN.to_vec()];
        // A resumed session would keep a peer's certificate without verifying it again, to save a third of a handshake.
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});

        let verifier = Judged { judge: Arc::clone(self), crypto: Arc::clone(&crypto) };
        let mut client = ClientConfig::builder_with_provider(crypto)
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::clone(self) as _);
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        Ok(Tls { server, client })
    }
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Trust({})", san(&self.mesh, &self.node))
    }
}

impl rustls::server::ResolvesServerCert for Trust {
    fn resolve(&self, hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let key = Arc::clone(&self.current().key);
        if !hello.alpn().is_some_and(|mut offered| offered.any(|protocol| protocol == JOIN_ALPN)) {
            return Some(key);
        }
        // A guest knows the authority by its fingerprint alone.
        let chain = key.cert.iter().chain(&self.papers.load().roots).cloned().collect();
        Some(Arc::new(CertifiedKey::new(chain, Arc::clone(&key.key))))
    }
}

impl rustls::client::ResolvesClientCert for Trust {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current().key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl Judge for Arc<Trust> {
    fn judge(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        self.accept(leaf, rest, now)
    }
}

impl ClientCertVerifier for Trust {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // The authorities change while we live, and who belongs here knows them.
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.is_guest(certificate) {
            return Ok(ClientCertVerified::assertion());
        }
        let papers = self.papers.load();
        papers.in_time(certificate, intermediates, now)?;
        let verified = papers.clients.verify_client_cert(certificate, intermediates, now)?;
        self.check_name(certificate).map(|()| verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.papers.load().clients.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.papers.load().clients.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.papers.load().clients.supported_verify_schemes()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(super) fn trust(mesh: &str, node: &str, secrets: &[Secret]) -> Arc<Trust> {
        let (mesh, node) = (mesh.try_into().unwrap(), node.try_into().unwrap());
        Arc::new(Trust::new(&mesh, &node, Proof::Secrets(secrets)).unwrap())
    }

    pub(super) fn tls(mesh: &str, node: &str, secrets: &[Secret]) -> Tls {
        trust(mesh, node, secrets).tls().unwrap()
    }

    /// Shakes hands in memory; the certificates that the client and the server have seen.
    pub(super) fn shake(client: &Tls, server: &Tls) -> Result<[CertificateDer<'static>; 2], Error> {
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
    fn an_old_certificate_is_renewed_when_it_is_next_shown() {
        let trust = trust("prod", "a", &[Secret::random()]);
        let first = trust.current();
        assert!(Arc::ptr_eq(&first, &trust.current()));
        let aged = papers::Issued {
            key: Arc::clone(&first.key),
            says: first.says.clone(),
            private: first.private.clone(),
            renew_at: Some(SystemTime::UNIX_EPOCH),
        };
        trust.papers.load().own.store(Arc::new(aged));
        assert!(!Arc::ptr_eq(&first, &trust.current()));
    }
}
