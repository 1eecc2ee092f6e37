//! The next certificate of a member: asked for before this one ends, and granted by who holds the authority's key.
//!
//! Who asks proves a name by a certificate and a key, and whoever has stolen both asks as well as their owner. So what is
//! granted is of the [lineage](Lineage) of what was shown, and goes with it; it is granted when it is due, and both are
//! granted the same: one gets no second certificate, and the other misses none. The first of them is never unseen.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use humantime::format_rfc3339_seconds;
use rustls::pki_types::{CertificateDer, UnixTime, pem::PemObject};

use super::{
    Authority, Broken, Granted, Request, Trust,
    authority::{CLOCK_SKEW, pem},
    enrol::{GRANTED, public_key},
    guest::is_under,
    lineage::Lineage,
    papers::{Says, good_until, number, says},
    proven_name, san,
};
use crate::agent::file::Stamp;

/// What was granted lately: whoever asks once more before that is due itself is given it again.
#[derive(Debug, Default)]
pub(super) struct Renewals(Mutex<BTreeMap<Asks, Kept>>);

/// The lineage, the name and the key of who asks, and the authority that is to sign: what another signs may last longer.
type Asks = (Lineage, String, Vec<u8>, u64);

#[derive(Debug)]
struct Kept {
    certificate: CertificateDer<'static>,
    /// When it is due itself.
    due: SystemTime,
    /// Where it was asked for.
    from: BTreeSet<IpAddr>,
}

impl Renewals {
    /// What was granted to these, if it is not due, or else what is issued now; and whether it was not given to that address.
    fn grant(
        &self,
        asks: Asks,
        from: IpAddr,
        now: SystemTime,
        issue: impl FnOnce() -> Result<CertificateDer<'static>, Broken>,
    ) -> Result<(CertificateDer<'static>, bool), Broken> {
        let mut granted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        granted.retain(|_, kept| now < kept.due);
        if let Some(kept) = granted.get_mut(&asks) {
            return Ok((kept.certificate.clone(), kept.from.len() < MAX_SOURCES && kept.from.insert(from)));
        }
        let fresh = issue()?;
        let due = says(&fresh).ok_or(Broken::Pem("cert"))?.due();
        while granted.len() >= MAX_KEPT {
            granted.pop_first();
        }
        granted.insert(asks, Kept { certificate: fresh.clone(), due, from: [from].into() });
        Ok((fresh, true))
    }
}

impl Trust {
    /// A newer certificate for a member that shows its own, for the same name and key, and as long as that was asked for.
    pub(super) fn grant_again(
        &self,
        chain: &[CertificateDer<'_>],
        asked: &Request,
        from: IpAddr,
    ) -> Result<Granted, Broken> {
        let papers = self.papers.load();
        let authority = self.signer(&papers)?;
        if !papers.secrets.is_empty() {
            return Err(Broken::NoAuthority);
        }
        let leaf = chain.first().filter(|_| self.still_accepts(chain)).ok_or(Broken::Uninvited)?;
        let name = proven_name(leaf, &self.mesh).ok_or(Broken::Uninvited)?;
        if !asked.is_named_by(leaf, &self.mesh) {
            return Err(Broken::NotYours(name));
        }
        let (shown, now) = (says(leaf).ok_or(Broken::Uninvited)?, SystemTime::now());
        let good = Says { not_after: good_until(&papers.roots, chain, &shown), ..shown.clone() };
        if now < good.due() {
            return Err(Broken::Early(format_rfc3339_seconds(good.not_after).to_string()));
        }
        let (san, lineage) = (san(&self.mesh, &name), Lineage::of(&shown.serial));
        let issue = || authority.issue_for(&san, &asked.key, now, shown.asked().min(GRANTED), lineage);
        let asks = (lineage, san.clone(), asked.key.clone(), number(&authority.certificate));
        let (certificate, is_news) = self.renewals.grant(asks, from, now, issue)?;
        let certificate = Some(pem("CERTIFICATE", &certificate));
        Ok(Granted { ca: String::new(), certificate, secrets: Vec::new(), is_news })
    }

    /// This node's own next certificate, where it holds the key of the authority that stands behind the one in use: the
    /// others believe that one.
    pub(in crate::agent) fn grant_itself(&self) -> Result<String, Broken> {
        let (own, papers, now) = (self.current(), self.papers.load(), UnixTime::now());
        let (leaf, rest) = own.key.cert.split_first().ok_or(Broken::Key)?;
        let is_ours = |authority: &&Authority| is_under(leaf, rest, &authority.certificate, now).is_ok();
        papers.authority.as_ref().filter(is_ours).ok_or(Broken::NoAuthority)?;
        let granted = self.grant_again(&own.key.cert, &self.request_again()?, Ipv6Addr::LOCALHOST.into())?;
        let certificate = granted.certificate.ok_or(Broken::NoAuthority)?;
        self.fits(&certificate)
    }

    /// What was to be seen of the files of what is in use.
    pub(in crate::agent) fn stamps(&self) -> Arc<Vec<Stamp>> {
        self.stamps.load_full()
    }

    /// Why there is no next certificate, where one is asked for and was not given.
    pub(in crate::agent) fn not_renewed(&self) -> Option<String> {
        self.not_renewed.load_full().map(|why| String::clone(&why))
    }

    pub(in crate::agent) fn set_not_renewed(&self, why: Option<String>) {
        self.not_renewed.store(why.map(Arc::new));
    }

    /// What to ask with for a newer certificate.
    pub(in crate::agent) fn request_again(&self) -> Result<Request, Broken> {
        let own = self.current();
        let key = own.key.cert.first().and_then(public_key).ok_or(Broken::Key)?;
        Ok(Request { node: self.node.clone(), key })
    }

    /// A certificate that was granted, and nothing that came with it, if it is of use: ours by name and key, good under who
    /// is believed here, and for longer than the one in use.
    pub(in crate::agent) fn fits(&self, granted: &str) -> Result<String, Broken> {
        let fresh = CertificateDer::from_pem_slice(granted.as_bytes()).map_err(|_| Broken::Pem("cert"))?;
        if !self.request_again()?.is_named_by(&fresh, &self.mesh) {
            return Err(Broken::Apart("key", "cert"));
        }
        self.papers.load().verify(&fresh, &[], UnixTime::now())?;
        let ends = says(&fresh).map(|says| says.not_after);
        if ends > Some(self.says().not_after) { Ok(pem("CERTIFICATE", &fresh)) } else { Err(Broken::NoLater) }
    }
}

/// The number of a member's certificate: a guest's is nobody's.
pub(in crate::agent) fn serial_of_member(chain: &[CertificateDer<'_>]) -> Option<String> {
    chain.first().filter(|leaf| super::only_san(leaf).is_some()).and_then(says).map(|says| says.serial)
}

impl Says {
    /// From when on the next one is granted: when it is asked for, by the clock of a machine that is ahead.
    fn due(&self) -> SystemTime {
        self.not_after - self.renews_within() - CLOCK_SKEW.min(self.lifetime() / 12)
    }
}

/// Certificates kept at a time: those of as many nodes as a mesh has.
const MAX_KEPT: usize = 10_000;
/// Addresses told of that one was given to.
const MAX_SOURCES: usize = 8;

#[cfg(test)]
mod tests {
    use std::{slice::from_ref, time::Duration};

    use rcgen::PublicKeyData;

    use super::{
        super::{
            Files, Pair, Taken, Word, authority::fresh_key, enrol::tests::*, notary::Seal, only_san, tests::shake,
        },
        *,
    };
    use crate::{
        agent::keep,
        mesh::{Notary, Objection},
    };

    /// Asks as whoever holds these papers.
    fn ask(host: &Arc<Trust>, thief: &Arc<Trust>) -> Result<CertificateDer<'static>, Broken> {
        let [_, shown] = shake(&thief.tls()?, &host.tls()?)?;
        let granted = host.grant(from_ref(&shown), &thief.request_again()?, HERE, |_| true)?.certificate.unwrap();
        Ok(CertificateDer::from_pem_slice(granted.as_bytes()).unwrap())
    }

    /// The same key with another certificate.
    fn with(held: &Files, certificate: &CertificateDer<'_>) -> Arc<Trust> {
        keep::replace(&held.cert, pem("CERTIFICATE", certificate).as_bytes(), keep::PRIVATE).unwrap();
        Arc::new(certified("d", held))
    }

    /// One of its lineage and for its key that is to be renewed.
    fn grown_old(authority: &(Authority, Pair), fresh: &CertificateDer<'_>) -> CertificateDer<'static> {
        let (san, lineage) = (only_san(fresh).unwrap(), Lineage::of(&says(fresh).unwrap().serial));
        let then = SystemTime::now() - 2 * HOUR;
        authority.0.issue_for(&san, &public_key(fresh).unwrap(), then, 3 * HOUR, lineage).unwrap()
    }

    #[test]
    fn what_a_thief_was_granted_goes_with_what_he_stole_and_the_owner_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(30 * 24 * HOUR).unwrap();
        let host = Arc::new(certified("a", &files(folder.path(), "a", &[&authority], true)));
        let held = files(folder.path(), "d", &[&authority], false);
        let thief = Arc::new(certified("d", &held));
        let stolen = thief.says().serial;
        let first = ask(&host, &thief).unwrap();
        let second = grown_old(&authority, &first);
        let thief = with(&held, &second);
        let voucher = Seal::new(Arc::clone(&thief)).unwrap().voucher();
        assert_eq!(ask(&host, &thief).unwrap(), first, "the owner, or the thief once more");
        let serials = [&first, &second].map(|leaf| says(leaf).unwrap().serial);
        assert!(serials[0] != serials[1] && !serials.contains(&stolen));

        let now = crate::agent::unix_millis();
        let word = host.decree(Word::DenySerial(stolen), false, now).unwrap();
        assert_eq!(host.take(&word, now), Ok(Taken::News));
        for granted in [&first, &second] {
            assert!(ask(&host, &with(&held, granted)).is_err(), "no handshake");
            assert!(!host.still_accepts(from_ref(granted)), "no link that stands");
            let asked = with(&held, granted).request_again().unwrap();
            assert!(host.grant(from_ref(granted), &asked, HERE, |_| true).is_err(), "no third one");
        }
        let judge = Seal::new(Arc::clone(&host)).unwrap();
        let d = "d".try_into().unwrap();
        assert_eq!(judge.vouched(&d, &voucher, now), Err(Objection::Revoked), "no row of its book");
        thief.take(&word, now).unwrap();
        assert_eq!(thief.outcast(false).unwrap().revoked, Some("serial"), "and it is told");
        assert!(thief.is_own(&Word::DenySerial(serials[1].clone())));

        let again = Arc::new(certified("d", &files(folder.path(), "d", &[&authority], false)));
        shake(&again.tls().unwrap(), &host.tls().unwrap()).unwrap();
    }

    #[test]
    fn a_certificate_is_renewed_when_that_is_due_and_who_asks_again_is_given_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(400 * DAY).unwrap();
        let host = Arc::new(certified("a", &files(folder.path(), "a", &[&authority], true)));
        let owner = Arc::new(certified("d", &files(folder.path(), "d", &[&authority], false)));
        let asked = owner.request_again().unwrap();
        let (chain, lineage) = (&owner.current().key.cert, Lineage::of(&owner.says().serial));
        let all = [1, 1, 2, 1, 2].map(|from| host.grant(chain, &asked, [192, 0, 2, from].into(), |_| true).unwrap());
        assert!(all.iter().all(|granted| granted.certificate == all[0].certificate));
        assert_eq!(all.each_ref().map(|granted| granted.is_news), [true, false, true, false, false], "a thief is seen");
        // One of the same number by another program is another's.
        let key = fresh_key().unwrap().subject_public_key_info();
        let then = SystemTime::now() - 2 * HOUR;
        let other = authority.0.issue_for("e.prod.hobnob", &key, then, 3 * HOUR, lineage).unwrap();
        let asked = Request { node: "e".try_into().unwrap(), key };
        let granted = host.grant(&[other], &asked, HERE, |_| true).unwrap();
        assert!(granted.is_news && granted.certificate != all[0].certificate);

        let fresh = CertificateDer::from_pem_slice(all[0].certificate.as_ref().unwrap().as_bytes()).unwrap();
        let why = host.grant(&[fresh], &owner.request_again().unwrap(), HERE, |_| true).unwrap_err().to_string();
        assert!(why.contains("last third"), "{why}");
    }

    #[test]
    fn the_key_of_one_that_stands_between_signs_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let authority = |name: &str, is_ca| {
            let mut params = rcgen::CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(is_ca);
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            (params, rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap())
        };
        let (top, top_key) = authority("top", rcgen::BasicConstraints::Unconstrained);
        let root = pem("CERTIFICATE", top.self_signed(&top_key).unwrap().der());
        let issuer = rcgen::Issuer::new(top, top_key);
        let (params, key) = authority("between", rcgen::BasicConstraints::Constrained(0));
        let between = pem("CERTIFICATE", params.signed_by(&key, &issuer).unwrap().der());
        // One that goes by the name of who issued it, as where a key is rolled over.
        let (params, _) = authority("top", rcgen::BasicConstraints::Constrained(0));
        let crossed = pem("CERTIFICATE", params.signed_by(&key, &issuer).unwrap().der());
        let stranger = Authority::create(HOUR).unwrap().1.certificate;
        let key = key.serialize_pem();
        let held = |ca: &str, brought: &str| {
            let own = if ca.contains(&crossed) { &crossed } else { &between };
            let signer = Authority::read(own, &key).unwrap();
            let pair = Pair { certificate: ca.to_owned(), key: key.clone().into() };
            let held = files(folder.path(), "a", &[&(signer, pair)], true);
            let leaf = std::fs::read_to_string(&held.cert).unwrap();
            keep::replace(&held.cert, (leaf + brought).as_bytes(), keep::PRIVATE).unwrap();
            held
        };
        let read = |held: &Files| held.check(&"prod".try_into().unwrap(), &"a".try_into().unwrap());
        for (ca, brought) in [
            (&*(root.clone() + &between), ""),
            (&between, &*between),
            (&(between.clone() + &root), &between),
            (&(stranger + &between), ""),
            (&(root.clone() + &crossed), ""),
        ] {
            let held = held(ca, brought);
            assert!(read(&held).unwrap_err().to_string().contains("tls.ca of every node"));
            read(&Files { ca_key: None, ..held }).unwrap();
        }
        // Where everybody believes it, it is one as any other.
        certified("a", &held(&between, "")).grant_itself().unwrap();
    }

    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// What one says that was issued here at this moment.
    fn issued(at: SystemTime, lifetime: Duration) -> Says {
        let serial = Lineage::full(7).serial(lifetime).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        Says { issuer: "".into(), serial, not_before: at - CLOCK_SKEW, not_after: at + lifetime }
    }

    #[test]
    fn a_renewal_is_due_when_an_agent_asks_for_it_whoever_s_clock_is_ahead() {
        let begun = SystemTime::UNIX_EPOCH;
        let year = Says { issuer: "".into(), serial: "1".into(), not_before: begun, not_after: begun + 360 * DAY };
        assert_eq!(year.due(), begun + 239 * DAY);
        for hours in [1, 2, 9, 10, 12, 18, 24, 48, 72, 24 * 365] {
            let (lifetime, begun) = (hours * HOUR, begun + 9 * DAY);
            let shown = issued(begun, lifetime);
            assert_eq!((shown.lifetime(), shown.asked(), shown.renews_within()), (lifetime, lifetime, lifetime / 3));
            assert_eq!(shown.due(), begun + lifetime * 2 / 3 - CLOCK_SKEW.min(lifetime / 12));
        }
    }

    #[test]
    fn what_was_granted_is_given_again_until_it_is_due_itself() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(400 * DAY).unwrap();
        let owner = certified("d", &files(folder.path(), "d", &[&authority], false));
        let (renewals, begun) = (Renewals::default(), SystemTime::now());
        let asks = |by| (Lineage::full(7), "d".into(), owner.request_again().unwrap().key, by);
        let grant = |by, hours: u32| {
            let now = begun + hours * HOUR;
            let issue = || authority.0.issue_for("d.prod.hobnob", &asks(by).2, now, 24 * HOUR, Lineage::full(7));
            renewals.grant(asks(by), HERE, now, issue).unwrap().1
        };
        let days: Vec<_> = (0..48).filter(|hours| grant(1, *hours)).collect();
        assert_eq!(days, [0, 14, 28, 42]);
        assert!(grant(2, 47), "another authority's may last longer");
        assert!(renewals.grant(asks(3), HERE, begun, || Err(Broken::Key)).is_err());
        assert!(grant(3, 47), "what was not signed is not kept");
    }

    #[test]
    fn what_is_longer_than_what_is_granted_is_renewed_once_that_ends_later() {
        let shown = issued(SystemTime::UNIX_EPOCH + DAY, 10 * GRANTED);
        assert_eq!((shown.renews_within(), shown.lifetime()), (GRANTED / 3, 10 * GRANTED));
    }

    #[test]
    fn a_certificate_that_another_program_made_for_hours_lives_for_hours() {
        for hours in [12, 24, 24 + 2, 24 * 366] {
            let not_before = std::time::SystemTime::UNIX_EPOCH;
            let says = Says { issuer: "".into(), serial: "1".into(), not_before, not_after: not_before + hours * HOUR };
            assert_eq!(says.lifetime(), hours * HOUR);
        }
    }

    #[test]
    fn a_certificate_cut_short_by_its_authority_is_long_again_under_the_next_and_no_other_is() {
        let folder = tempfile::tempdir().unwrap();
        let [over, sooner, old, new] = [0, 5, 24, 72].map(|hours| Authority::create(hours * HOUR).unwrap());
        let host = certified("a", &files(folder.path(), "a", &[&new, &old, &sooner, &over], true));
        let ended: Vec<_> = host.ended(SystemTime::now()).into_iter().map(|root| root.issuer).collect();
        assert_eq!(ended, [says(&over.0.certificate).unwrap().issuer]);
        let (mesh, node) = ("prod".try_into().unwrap(), "b".try_into().unwrap());
        for (by, age, lifetime, hours) in [
            (&old, 48, 365 * 24, 71..73),
            (&old, 4, 6, 6..7),
            // Neither as long as it was asked for, nor for as long as what another is asked for.
            (&old, 36, 61, 61..62),
            (&sooner, 10, 15, 15..16),
            // Longer than another authority lasts that does not stand behind it.
            (&new, 12, 18, 18..19),
        ] {
            let shown = by.0.issue_at(&mesh, &node, SystemTime::now() - age * HOUR, lifetime * HOUR).unwrap();
            let leaf = CertificateDer::from_pem_slice(shown.certificate.as_bytes()).unwrap();
            let asked = Request { node: node.clone(), key: public_key(&leaf).unwrap() };
            let granted = host.grant(from_ref(&leaf), &asked, HERE, |_| true).unwrap().certificate.unwrap();
            let says = says(&CertificateDer::from_pem_slice(granted.as_bytes()).unwrap()).unwrap();
            let left = says.not_after.duration_since(SystemTime::now()).unwrap() + Duration::from_secs(60);
            assert!(hours.contains(&(left.as_secs() / 3600)), "{left:?}");
        }
    }
}
