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
    papers::{Says, behind, good_until, number, says},
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
        // Of a certificate of hours each hour matters, and of one that is about to end each minute. Who asks when it is due
        // comes again far later than this.
        let left = shown.not_after.duration_since(now).unwrap_or_default();
        let until = now + LATELY.min(left / 2).max(SOONEST);
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
        let cut_short = behind(&papers.roots, chain).any(|root| are_about_equal(root.not_after, shown.not_after));
        let lifetime = if cut_short { GRANTED } else { shown.lifetime().min(GRANTED) };
        let (san, lineage) = (san(&self.mesh, &name), Lineage::of(&shown.serial));
        let certificate = pem("CERTIFICATE", &authority.issue_for(&san, &asked.key, now, lifetime, lineage)?);
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
    if left <= shown.renews_within() + CLOCK_SKEW.min(shown.lifetime() / 12) {
        return Ok(());
    }
    Err(Broken::Early(humantime::format_rfc3339_seconds(shown.not_after).to_string()))
}

/// Programs cut what they issue to an authority's end, or to a moment before.
fn are_about_equal(one: SystemTime, other: SystemTime) -> bool {
    one.duration_since(other).unwrap_or_else(|before| before.duration()) <= Duration::from_secs(60)
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
        super::{Authority, Files, Pair, Taken, Word, enrol::tests::*, notary::Seal, only_san, tests::shake},
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
        let thief = with(&held, &grown_old(&authority, &first));
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
        let fresh = authority.0.issue_for(&san, &asked.key, SystemTime::now(), GRANTED, begun).unwrap();
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

    /// What one says that was issued here at this moment.
    fn issued(at: SystemTime, lifetime: Duration) -> Says {
        let serial = Lineage::full(7).serial().unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        Says { issuer: "".into(), serial, not_before: at - CLOCK_SKEW, not_after: at + lifetime }
    }

    #[test]
    fn however_short_it_is_it_is_renewed_in_its_last_third_and_who_asks_then_is_never_told_to_wait() {
        for hours in [1, 2, 9, 10, 12, 18, 24, 48, 72, 24 * 365] {
            let (lifetime, renewals) = (hours * HOUR, Renewals::default());
            let early = CLOCK_SKEW.min(lifetime / 12);
            let mut begun = SystemTime::UNIX_EPOCH + 9 * DAY;
            for ahead in [Duration::ZERO, early, early / 2].into_iter().cycle().take(60) {
                let shown = issued(begun, lifetime);
                assert_eq!((shown.lifetime(), shown.renews_within()), (lifetime, lifetime / 3));
                assert!(is_due(&shown, begun).is_err(), "a fresh one of {hours} h");
                let asks = shown.not_after - lifetime / 3 - ahead;
                assert!(is_due(&shown, asks - Duration::from_secs(1)).is_err() || ahead < early, "too early");
                is_due(&shown, asks).and_then(|()| renewals.count(&shown, 1, asks)).unwrap();
                begun = asks;
            }
        }
    }

    #[test]
    fn it_is_renewed_three_times_a_day_at_most_and_more_often_only_in_its_last_two_days() {
        for days in [30, 360] {
            let (shown, renewals) = (issued(SystemTime::UNIX_EPOCH + DAY, days * DAY), Renewals::default());
            let granted = |day: u32| {
                let hours = (0..24).map(|hour| shown.not_before + day * DAY + hour * HOUR);
                hours.filter(|now| is_due(&shown, *now).and_then(|()| renewals.count(&shown, 1, *now)).is_ok()).count()
            };
            let all: Vec<_> = (0..days - 1).map(granted).collect();
            assert!(all.iter().all(|granted| *granted <= 3), "{all:?}");
            assert!(all.contains(&3));
        }
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
            // Longer than another authority lasts that does not stand behind it.
            (&new, 12, 18, 18..19),
        ] {
            let shown = by.0.issue_at(&mesh, &node, SystemTime::now() - age * HOUR, lifetime * HOUR).unwrap();
            let leaf = CertificateDer::from_pem_slice(shown.certificate.as_bytes()).unwrap();
            let asked = Request { node: node.clone(), key: public_key(&leaf).unwrap() };
            let granted = host.grant(from_ref(&leaf), &asked, |_| true).unwrap().certificate.unwrap();
            let says = says(&CertificateDer::from_pem_slice(granted.as_bytes()).unwrap()).unwrap();
            let left = says.not_after.duration_since(SystemTime::now()).unwrap() + Duration::from_secs(60);
            assert!(hours.contains(&(left.as_secs() / 3600)), "{left:?}");
        }
    }
}
