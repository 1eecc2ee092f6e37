//! Mass-failure protection: when most of a service turns critical within moments, the fault is more likely in what all of
//! it needs, or in the checks, than in each instance. Answers keep the last healthy set, marked, for a while.
//!
//! Only checks that look from outside are doubted: whose process has ended, who says itself that it is not well, who is
//! withdrawn or put into maintenance by its owner is gone at once, and so is who is Down. Small services are too few to
//! tell an accident from a wave.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Mesh, Timer,
    event::{Change, Done, Event, Output, Unprotected},
    view::Instance,
};
use crate::model::{Health, InstanceId, NodeId, ServiceName, Time};

/// An instance of a service.
type Place = (NodeId, InstanceId);

/// All services where something has turned critical lately.
#[derive(Debug)]
pub(super) struct Protections {
    services: BTreeMap<ServiceName, Watched>,
    lasts: Duration,
}

impl Default for Protections {
    fn default() -> Self {
        Self { services: BTreeMap::new(), lasts: PROTECT_FOR }
    }
}

/// One such service.
#[derive(Debug, Default)]
struct Watched {
    /// What turned critical, when, and how it was before.
    turned: BTreeMap<Place, (Time, Health)>,
    protected: Option<Protection>,
}

/// A service of which the last healthy set is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protection {
    /// Since when.
    pub since: Time,
    /// Until when at the latest.
    pub until: Time,
    /// How many instances were healthy before.
    pub of: usize,
}

/// Whether a turn of so many out of so many is a wave.
const fn is_wave(turned: usize, healthy_before: usize) -> bool {
    healthy_before >= FEWEST && turned * 2 > healthy_before
}

impl Protections {
    /// How an instance is shown while its service is protected.
    pub(super) fn kept(&self, name: &ServiceName, place: &Place) -> Option<Health> {
        let watched = self.services.get(name).filter(|watched| watched.protected.is_some())?;
        watched.turned.get(place).map(|(_, before)| *before)
    }

    /// An instance is gone.
    pub(super) fn forget(&mut self, name: &ServiceName, place: &Place) {
        if let Some(watched) = self.services.get_mut(name) {
            watched.turned.remove(place);
        }
    }
}

impl Mesh {
    /// Whether a service's last healthy set is kept, and until when.
    #[must_use]
    pub fn protection(&self, name: &ServiceName) -> Option<Protection> {
        self.protections.services.get(name)?.protected
    }

    /// Sets for how long a service is protected; zero ends and forbids it.
    pub(super) fn protect_for(&mut self, now: Time, lasts: Duration) -> Done {
        let was = std::mem::replace(&mut self.protections.lasts, lasts);
        if lasts.is_zero() {
            let all: Vec<ServiceName> = self.protections.services.keys().cloned().collect();
            all.iter().for_each(|name| self.unprotect(now, name, Unprotected::Expired));
        }
        if was == lasts { Done::Unchanged } else { Done::Changed }
    }

    /// What the checks of an owner's instances of a service say may have changed. What was not heard as it was said turned
    /// when its owner says so: much of a book that is read from its beginning is long outdated.
    pub(super) fn weigh_health(&mut self, now: Time, name: &ServiceName, owner: NodeId, is_live: bool) {
        let Some(book) = self.catalog.get(owner) else { return };
        let turns = self.index.weigh(name, owner, |id| book.report(id).map(|report| report.health()));
        let Some(mut watched) = self.protections.services.remove(name).or((!turns.is_empty()).then(Watched::default))
        else {
            return;
        };
        let unix_millis = self.unix_millis(now);
        for (id, was, is) in turns {
            let since = book.report(&id).and_then(|report| report.doubtful_since());
            let ago = since.map(|since| if is_live { 0 } else { unix_millis.saturating_sub(since) });
            match (was, ago.map(Duration::from_millis)) {
                // The first word on an instance is no turn.
                (Some(was), Some(ago)) if is == Some(Health::Critical) && was.is_served() && ago < MOMENTS => {
                    watched.turned.insert((owner, id), (now.before(ago), was));
                }
                _ => drop(watched.turned.remove(&(owner, id))),
            }
        }
        self.protect(now, name, watched);
    }

    /// How many instances of a service may be served, and how many of those that turned are instances: where several
    /// agents speak of one, the word that is shown counts.
    fn weighed(&self, name: &ServiceName, turned: &BTreeMap<Place, (Time, Health)>) -> (usize, usize) {
        if let Some(healthy) = self.index.healthy(name) {
            return (healthy, turned.len());
        }
        let rows = self.rows(name).unwrap_or_default();
        let has_turned = |row: &&Instance| turned.contains_key(&(row.owner, row.registration.id.clone()));
        (rows.iter().filter(|row| row.report.health().is_served()).count(), rows.iter().filter(has_turned).count())
    }

    fn protect(&mut self, now: Time, name: &ServiceName, mut watched: Watched) {
        if watched.protected.is_none() {
            watched.turned.retain(|_, (at, _)| now.since(*at) < MOMENTS);
        }
        let (healthy, turned) = self.weighed(name, &watched.turned);
        let (lasts, of) = (self.protections.lasts, healthy + turned);
        let recovered = watched.protected.is_some_and(|protection| !is_wave(turned, protection.of));
        if watched.protected.is_none() && is_wave(turned, of) && !lasts.is_zero() {
            let until = now + lasts;
            watched.protected = Some(Protection { since: now, until, of });
            self.timers.set(until, Timer::Unprotect(name.clone()));
            self.outbox.push(Output::Event(Event::ProtectionBegan { service: name.clone(), kept: turned, of }));
            self.changes.insert(Change::Service(name.clone()));
        }
        if watched.protected.is_some() || !watched.turned.is_empty() {
            self.protections.services.insert(name.clone(), watched);
        }
        if recovered {
            self.unprotect(now, name, Unprotected::Recovered);
        }
    }

    /// A service's protection may be over.
    pub(super) fn on_unprotect(&mut self, now: Time, name: &ServiceName) {
        if self.protection(name).is_some_and(|protection| protection.until <= now) {
            self.unprotect(now, name, Unprotected::Expired);
        }
    }

    fn unprotect(&mut self, now: Time, name: &ServiceName, why: Unprotected) {
        let watched = self.protections.services.remove(name);
        if watched.and_then(|watched| watched.protected).is_some_and(|protection| protection.since <= now) {
            self.outbox.push(Output::Event(Event::ProtectionEnded { service: name.clone(), why }));
            self.changes.insert(Change::Service(name.clone()));
        }
    }

    /// Forgets single failures that are no part of a wave.
    pub(super) fn forget_turns(&mut self, now: Time) {
        self.protections.services.retain(|_, watched| {
            watched.protected.is_some() || watched.turned.values().any(|(at, _)| now.since(*at) < MOMENTS)
        });
    }
}

/// How long a protection lasts unless asked otherwise.
pub const PROTECT_FOR: Duration = Duration::from_secs(300);
/// What turns within so long of each other turns together.
const MOMENTS: Duration = Duration::from_secs(10);
/// Services with fewer healthy instances are not protected: of two, one failure is half.
const FEWEST: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wave_is_more_than_half_of_at_least_three() {
        for (turned, before, wave) in
            [(1, 1, false), (2, 2, false), (1, 3, false), (2, 3, true), (2, 4, false), (3, 4, true), (50, 100, false)]
        {
            assert_eq!(is_wave(turned, before), wave, "{turned} of {before}");
        }
    }
}
