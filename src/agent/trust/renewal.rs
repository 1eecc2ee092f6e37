//! The next certificate of a member: asked for before this one ends, and granted by who holds the authority's key.
//!
//! Who asks proves a name by a certificate and a key, and whoever has stolen both asks as well as their owner. So what is
//! granted is of the [lineage](Lineage) of what was shown, and goes with it; it is granted when it is due and a few times,
//! and never unseen.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rustls::pki_types::{CertificateDer, UnixTime, pem::PemObject};

use super::{
    Broken, Granted, Request, Trust,
    authority::{CLOCK_SKEW, pem},
    enrol::{GRANTED, public_key},
    lineage::Lineage,
    papers::{Says, good_until, number, says},
    proven_name, san,
};

/// How often certificates were renewed lately, by their lineage and who signed, and until when that counts.
#[derive(Debug, Default)]
pub(super) struct Renewals(Mutex<BTreeMap<Asks, (u32, SystemTime)>>);

/// A lineage, and the authority that is to sign.
type Asks = ([u8; 8], u64);

impl Renewals {
    /// Counts one more by this authority, unless there were too many: what another signs may last longer.
    fn count(&self, shown: &Says, by: u64, now: SystemTime) -> Result<(), Broken> {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counted.retain(|_, (_, until)| now < *until);
        let asks = (Lineage::of(&shown.serial).bytes(), by);
        if counted.len() >= MAX_COUNTED && !counted.contains_key(&asks) {
            return Err(Broken::Crowd);
        }
        // Of a certificate of hours each hour matters, and of one that is about to end each minute.
        let left = shown.not_after.duration_since(now).unwrap_or_default();
        let until = now + (lifetime(shown) / 3).min(LATELY).min(left / 2).max(SOONEST);
        let (count, _) = counted.entry(asks).or_insert((0, until));
        if *count >= MAX_LATELY {
            return Err(Broken::Often(*count));
        }
        *count += 1;
        Ok(())
    }
}

impl Trust {
    /// A newer certificate for a member that shows its own, for the same name and key. For the same time too, unless that
    /// was cut short by an authority's end: it would stay short under the next one.
    pub(super) fn grant_again(&self, chain: &[CertificateDer<'_>], asked: &Request) -> Result<Granted, Broken> {
        let papers = self.papers.load();
        let authority = self.signer(&papers)?;
        if !papers.secrets.is_empty() {
            return Err(Broken::NoAuthority);
        }
        let leaf = chain.first().filter(|_| self.still_accepts(chain)).ok_or(Broken::Uninvited)?;
        let name = proven_name(leaf, &self.mesh).ok_or(Broken::Uninvited)?;
        if name != asked.node || public_key(leaf).is_none_or(|key| key != asked.key) {
            return Err(Broken::NotYours(name));
        }
        let (shown, now) = (says(leaf).ok_or(Broken::Uninvited)?, SystemTime::now());
        is_due(&Says { not_after: good_until(&papers.roots, chain, &shown), ..shown.clone() }, now)?;
        self.renewals.count(&shown, number(&authority.certificate), now)?;
        let ends = papers.roots.iter().filter_map(says).map(|root| root.not_after);
        let lifetime =
            if ends.min().is_some_and(|end| end <= shown.not_after) { GRANTED } else { lifetime(&shown).min(GRANTED) };
        let (san, lineage) = (san(&self.mesh, &name), Lineage::of(&shown.serial));
        let certificate = pem("CERTIFICATE", &authority.issue_for(&san, &asked.key, lifetime, lineage)?);
        Ok(Granted { ca: String::new(), certificate: Some(certificate), secrets: Vec::new() })
    }

    /// What to ask with for a newer certificate.
    pub(in crate::agent) fn request_again(&self) -> Result<Request, Broken> {
        let own = self.current();
        let key = own.key.cert.first().and_then(public_key).ok_or(Broken::Key)?;
        Ok(Request { node: self.node.clone(), key })
    }

    /// Whether a certificate that was granted is of use: ours by name and key, good under who is believed here, and for
    /// longer than the one in use.
    pub(in crate::agent) fn fits(&self, pem: &str) -> Result<(), Broken> {
        let fresh = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| Broken::Pem("cert"))?;
        let own = self.request_again()?;
        if proven_name(&fresh, &self.mesh) != Some(own.node) || public_key(&fresh) != Some(own.key) {
            return Err(Broken::Apart("key", "cert"));
        }
        self.papers.load().verify(&fresh, &[], UnixTime::now())?;
        let ends = says(&fresh).map(|says| says.not_after);
        if ends > Some(self.says().not_after) { Ok(()) } else { Err(Broken::NoLater) }
    }
}

/// The number of a member's certificate: a guest's is nobody's.
pub(in crate::agent) fn serial_of_member(chain: &[CertificateDer<'_>]) -> Option<String> {
    chain.first().filter(|leaf| super::only_san(leaf).is_some()).and_then(says).map(|says| says.serial)
}

/// Whether the next one is due, by the clock of some machine that asks.
fn is_due(shown: &Says, now: SystemTime) -> Result<(), Broken> {
    let left = shown.not_after.duration_since(now).unwrap_or_default();
    if left <= shown.renews_within() + CLOCK_SKEW {
        return Ok(());
    }
    Err(Broken::Early(humantime::format_rfc3339_seconds(shown.not_after).to_string()))
}

/// For how long a certificate was issued. One that another program made may begin when it was made, and be over within the
/// skew that ours begin before.
fn lifetime(says: &Says) -> Duration {
    let whole = says.not_after.duration_since(says.not_before).unwrap_or_default();
    Some(whole.saturating_sub(CLOCK_SKEW)).filter(|left| !left.is_zero()).unwrap_or(whole)
}

/// An agent asks once, and again where what it was granted could not be written.
const MAX_LATELY: u32 = 3;
const LATELY: Duration = Duration::from_secs(24 * 3600);
const SOONEST: Duration = Duration::from_secs(60);
/// Certificates counted at a time: those of as many nodes as a mesh has.
const MAX_COUNTED: usize = 10_000;

#[cfg(test)]
mod tests {
    use std::{slice::from_ref, sync::Arc};

    use super::{
        super::{Authority, Files, Taken, Word, enrol::tests::*, notary::Seal, tests::shake},
        *,
    };
    use crate::{
        agent::keep,
        mesh::{Notary, Objection},
    };

    /// Asks as whoever holds these papers.
    fn ask(host: &Arc<Trust>, thief: &Arc<Trust>) -> Result<CertificateDer<'static>, Broken> {
        let [_, shown] = shake(&thief.tls()?, &host.tls()?)?;
        let granted = host.grant(from_ref(&shown), &thief.request_again()?, |_| true)?.certificate.unwrap();
        Ok(CertificateDer::from_pem_slice(granted.as_bytes()).unwrap())
    }

    /// The same key with another certificate.
    fn with(held: &Files, certificate: &CertificateDer<'_>) -> Arc<Trust> {
        keep::replace(&held.cert, pem("CERTIFICATE", certificate).as_bytes(), keep::PRIVATE).unwrap();
        Arc::new(certified("d", held))
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
        let thief = with(&held, &first);
        let voucher = Seal::new(Arc::clone(&thief)).unwrap().voucher();
        let second = ask(&host, &thief).unwrap();
        let serials = [&first, &second].map(|leaf| says(leaf).unwrap().serial);
        assert!(serials[0] != serials[1] && !serials.contains(&stolen));

        let now = crate::agent::unix_millis();
        let word = host.decree(Word::DenySerial(stolen), false, now).unwrap();
        assert_eq!(host.take(&word, now), Ok(Taken::News));
        for granted in [&first, &second] {
            assert!(ask(&host, &with(&held, granted)).is_err(), "no handshake");
            assert!(!host.still_accepts(from_ref(granted)), "no link that stands");
            let asked = with(&held, granted).request_again().unwrap();
            assert!(host.grant(from_ref(granted), &asked, |_| true).is_err(), "no third one");
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
    fn a_certificate_is_renewed_when_that_is_due_and_a_few_times() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(400 * 24 * HOUR).unwrap();
        let host = Arc::new(certified("a", &files(folder.path(), "a", &[&authority], true)));
        let held = files(folder.path(), "d", &[&authority], false);
        let owner = Arc::new(certified("d", &held));
        for _ in 0..MAX_LATELY {
            ask(&host, &owner).unwrap();
        }
        let why = ask(&host, &owner).unwrap_err().to_string();
        assert!(why.starts_with("3 were granted"), "{why}");
        let asked = owner.request_again().unwrap();
        let (san, begun) = (san(&host.mesh, &owner.node), Lineage::begin().unwrap());
        let fresh = authority.0.issue_for(&san, &asked.key, GRANTED, begun).unwrap();
        let why = ask(&host, &with(&held, &fresh)).unwrap_err().to_string();
        assert!(why.contains("last third"), "{why}");
    }

    #[test]
    fn a_renewal_is_due_when_an_agent_asks_for_it_whoever_s_clock_is_ahead() {
        let begun = SystemTime::UNIX_EPOCH;
        let year = Says { issuer: "".into(), serial: "1".into(), not_before: begun, not_after: begun + 360 * DAY };
        for (days, expected) in [(0, false), (238, false), (239, true), (240, true), (361, true)] {
            assert_eq!(is_due(&year, begun + days * DAY).is_ok(), expected, "day {days}");
        }
        let renewals = Renewals::default();
        let ask = |days: u32| (0..9).filter(|_| renewals.count(&year, 1, begun + days * DAY).is_ok()).count();
        assert_eq!([ask(240), ask(240), ask(241)], [3, 0, 3]);
        assert!(renewals.count(&year, 2, begun + 241 * DAY).is_ok(), "another authority's may last longer");
    }

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn a_certificate_that_another_program_made_for_hours_is_issued_again_for_hours() {
        for (hours, expected) in [(12, 12), (24, 24), (24 + 2, 2), (24 * 366, 24 * 365)] {
            let not_before = std::time::SystemTime::UNIX_EPOCH;
            let says = Says { issuer: "".into(), serial: "1".into(), not_before, not_after: not_before + hours * HOUR };
            assert_eq!(lifetime(&says), expected * HOUR, "{hours} h");
        }
    }

    #[test]
    fn a_certificate_cut_short_by_its_authority_is_long_again_under_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let [old, new] = [1, 3].map(|days| Authority::create(days * 24 * HOUR).unwrap());
        let host = certified("a", &files(folder.path(), "a", &[&new, &old], true));
        let (mesh, node) = ("prod".try_into().unwrap(), "b".try_into().unwrap());
        for (lifetime, hours) in [(365 * 24 * HOUR, 71..73), (2 * HOUR, 2..3)] {
            let shown = old.0.issue(&mesh, &node, lifetime).unwrap();
            let leaf = CertificateDer::from_pem_slice(shown.certificate.as_bytes()).unwrap();
            let asked = Request { node: node.clone(), key: public_key(&leaf).unwrap() };
            let granted = host.grant(from_ref(&leaf), &asked, |_| true).unwrap().certificate.unwrap();
            let says = says(&CertificateDer::from_pem_slice(granted.as_bytes()).unwrap()).unwrap();
            let left = says.not_after.duration_since(std::time::SystemTime::now()).unwrap() + Duration::from_secs(60);
            assert!(hours.contains(&(left.as_secs() / 3600)), "{left:?}");
        }
    }
}
