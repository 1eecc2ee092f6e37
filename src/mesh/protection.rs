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
    /// What turned critical.
    turned: BTreeMap<Place, Turn>,
    protected: Option<Protection>,
}

/// An instance turned critical.
#[derive(Clone, Copy, Debug)]
struct Turn {
    /// How it was before.
    was: Health,
    /// When, as its owner says: who reads of it later finds the same. Clocks differ between owners.
    said: Time,
    /// When that was heard, if it was as it was said and not caught up with: much of a book that is read from its
    /// beginning, or after a cut, is outdated.
    heard: Option<Time>,
}

impl Watched {
    /// Forgets what did not turn together with the last. When that was.
    fn gather(&mut self) -> Option<Time> {
        let said = self.turned.values().map(|turn| turn.said).max()?;
        let heard = self.turned.values().filter_map(|turn| turn.heard).max();
        let is_near = |at: Time, last: Time| last.since(at) < MOMENTS;
        let hears_near = |turn: &Turn| turn.heard.zip(heard).is_some_and(|(at, last)| is_near(at, last));
        self.turned.retain(|_, turn| is_near(turn.said, said) || hears_near(turn));
        Some(heard.map_or(said, |heard| heard.max(said)))
    }
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
        watched.turned.get(place).map(|turn| turn.was)
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

    /// What the checks of an owner's instances of a service say may have changed.
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
            let turn = match (was, since) {
                // The first word on an instance is no turn.
                (Some(was), Some(since)) if is == Some(Health::Critical) && was.is_served() => {
                    let ago = Duration::from_millis(unix_millis.saturating_sub(since));
                    let said = now.before(ago);
                    let heard = if owner == self.id { Some(said) } else { is_live.then_some(now) };
                    (is_live || ago < self.protections.lasts).then_some(Turn { was, said, heard })
                }
                _ => None,
            };
            match turn {
                Some(turn) => drop(watched.turned.insert((owner, id), turn)),
                None => drop(watched.turned.remove(&(owner, id))),
            }
        }
        self.protect(now, name, watched);
    }

    /// How many instances of a service may be served, and how many of those that turned are instances: where several
    /// agents speak of one, the word that is shown counts.
    fn weighed(&self, name: &ServiceName, turned: &BTreeMap<Place, Turn>) -> (usize, usize) {
        if let Some(healthy) = self.index.healthy(name) {
            return (healthy, turned.len());
        }
        let rows = self.rows(name).unwrap_or_default();
        let has_turned = |row: &&Instance| turned.contains_key(&(row.owner, row.registration.id.clone()));
        (rows.iter().filter(|row| row.report.health().is_served()).count(), rows.iter().filter(has_turned).count())
    }

    fn protect(&mut self, now: Time, name: &ServiceName, mut watched: Watched) {
        let last = if watched.protected.is_none() { watched.gather() } else { None };
        let (healthy, turned) = self.weighed(name, &watched.turned);
        let of = healthy + turned;
        let recovered = watched.protected.is_some_and(|protection| !is_wave(turned, protection.of));
        let until = last.map(|last| last + self.protections.lasts).filter(|until| *until > now && is_wave(turned, of));
        if let Some(until) = until {
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
            watched.protected.is_some()
                || watched.turned.values().any(|turn| now.since(turn.heard.unwrap_or(turn.said)) < MOMENTS)
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
