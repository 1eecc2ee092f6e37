//! Mass-failure protection: when most of a service turns critical within moments, the fault is more likely in what all of
//! it needs, or in the checks, than in each instance. Answers keep the last healthy set, marked, for a while.
//!
//! What each row says of itself, since when, and when it was last found well, is all that sets it off. So every node finds
//! the same, whoever joined, started again or was cut off meanwhile; owners whose clocks are further apart than [`MOMENTS`]
//! do not fail together. It is judged once, when a node first hears of a turn: who is drained or goes away later makes no
//! wave of what was none, and ends none.
//!
//! Only checks that look from outside are doubted: whose process has ended, who says itself that it is not well, who is
//! withdrawn or put into maintenance by its owner is gone at once, and so is who is Down. Small services are too few to
//! tell an accident from a wave.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Mesh, Timer,
    clock::millis,
    event::{Change, Done, Event, Output, Unprotected},
    timer::Slot,
    view::Instance,
};
use crate::model::{Health, HealthReport, InstanceId, NodeId, ServiceName, Time};

/// The services that are protected now.
#[derive(Debug)]
pub(super) struct Protections {
    services: BTreeMap<ServiceName, Wave>,
    judged: BTreeMap<ServiceName, Judged>,
    /// Own instances that were kept when too little of their service was left for a wave, and until when they would be.
    spared: BTreeMap<InstanceId, Time>,
    lasts: Duration,
}

impl Default for Protections {
    fn default() -> Self {
        Self { services: BTreeMap::new(), judged: BTreeMap::new(), spared: BTreeMap::new(), lasts: PROTECT_FOR }
    }
}

/// What stands where.
type Place = (NodeId, InstanceId);

/// The last turn that was heard of at each place, and until when that is to be kept if it was of a wave.
type Judged = BTreeMap<Place, (Turn, Option<Time>)>;

/// What is kept of one service, and until when.
#[derive(Debug)]
struct Wave {
    protection: Protection,
    kept: BTreeMap<Place, Time>,
    /// Wakes when the first of it is kept no more.
    alarm: Slot,
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

/// An instance that turned critical by what may be wrong, in unix milliseconds by its owner's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    /// When it was found out.
    since: u64,
    /// When it was last found well: from then on it may have been so.
    seen: u64,
}

impl Turn {
    /// `None` where it is not critical, or that is not doubted.
    fn of(report: &HealthReport, host: Option<&HealthReport>) -> Option<Self> {
        if report.maintenance.is_some() {
            return None;
        }
        let checks = report.checks.iter().chain(host.into_iter().flat_map(|host| &host.checks));
        let critical = checks.filter(|check| check.status == Health::Critical);
        let turns: Option<Vec<_>> =
            critical.map(|check| Some(Self { since: check.since, seen: check.doubted()?.seen })).collect();
        turns?.into_iter().min()
    }

    /// Who turned no earlier than this turned together with it: a check that looks seldom finds out late.
    fn begins(self) -> u64 {
        let looked_after = self.since.saturating_sub(self.seen);
        self.since.saturating_sub(looked_after.clamp(millis(MOMENTS), millis(LONGEST)))
    }
}

/// Whether a turn of so many out of so many is a wave.
const fn is_wave(turned: usize, healthy_before: usize, fewest: usize) -> bool {
    healthy_before >= fewest && turned * 2 > healthy_before
}

/// For each turn, in the order in which they were found out, when the last was that it is of one wave with; `healthy` are
/// so many besides. No wave is one of fewer than so many that were healthy before.
fn waves(turns: &[Turn], healthy: usize, fewest: usize) -> Vec<Option<u64>> {
    let mut last = vec![None; turns.len()];
    let mut later = turns.len();
    for (n, turn) in turns.iter().enumerate().rev() {
        let first = turns.partition_point(|other| other.since < turn.begins());
        // Who turned afterwards was healthy before.
        if is_wave(n + 1 - first, healthy + turns.len() - first, fewest) && first < later {
            last[first..later.min(n + 1)].fill(Some(turn.since));
            later = first;
        }
    }
    last
}

impl Protections {
    /// One of this node's own instances is withdrawn: the next of its id begins anew.
    pub(super) fn forget(&mut self, id: &InstanceId) {
        self.spared.remove(id);
    }

    /// Whether an instance is kept as it was before.
    pub(super) fn keeps(&self, name: &ServiceName, row: &Instance) -> bool {
        let wave = self.services.get(name);
        wave.is_some_and(|wave| wave.kept.contains_key(&(row.owner, row.registration.id.clone())))
    }
}

impl Mesh {
    /// Whether a service's last healthy set is kept, and until when.
    #[must_use]
    pub fn protection(&self, name: &ServiceName) -> Option<Protection> {
        Some(self.protections.services.get(name)?.protection)
    }

    /// Until when one of this node's own instances is kept, if it is; also where whose checks bore that out is gone.
    pub(super) fn kept_until(&self, now: Time, id: &InstanceId) -> Option<Time> {
        let wave = self.protections.services.get(&self.registration(id)?.name);
        let kept = wave.and_then(|wave| wave.kept.get(&(self.id, id.clone())));
        kept.or_else(|| self.protections.spared.get(id)).copied().filter(|until| *until > now)
    }

    /// Sets for how long a service is protected; zero ends and forbids it.
    pub(super) fn protect_for(&mut self, lasts: Duration) -> Done {
        let was = std::mem::replace(&mut self.protections.lasts, lasts);
        self.weigh_all();
        if was == lasts { Done::Unchanged } else { Done::Changed }
    }

    /// Has every service judged of which enough is critical.
    pub(super) fn weigh_all(&mut self) {
        let names = self.index.names().filter(|name| self.may_be_wave(name)).cloned().collect::<Vec<_>>();
        self.changes.extend(names.into_iter().map(Change::Service));
    }

    fn may_be_wave(&self, name: &ServiceName) -> bool {
        self.index.failing(name) * 2 > FEWEST || !self.hosts.is_empty()
    }

    /// Finds out which of a service's instances are kept as they were. Not before this node knows the others: what it has
    /// read first would be most of all that it knows.
    pub(super) fn weigh(&mut self, name: &ServiceName) {
        let was = self.protections.services.remove(name);
        if !self.ready || (was.is_none() && !self.may_be_wave(name)) {
            return;
        }
        let (now, unix_millis, lasts) = (self.now, self.wall_clock(self.now), millis(self.protections.lasts));
        let (mut turned, mut healthy, mut away) = (Vec::new(), 0, 0);
        for row in self.rows(name).unwrap_or_default().into_iter().filter(|row| !row.registration.has_role()) {
            let is_drained = row.node.maintenance.is_some();
            match Turn::of(&row.report, self.hosts.get(&row)).filter(|_| !is_drained) {
                // Whose owner has died since has turned all the same.
                Some(turn) if turn.since <= unix_millis.saturating_add(millis(MOMENTS)) => {
                    turned.push((turn, (row.owner, row.registration.id.clone())));
                }
                // By this clock it has not turned yet.
                Some(_) => healthy += 1,
                None if row.member.is_shown() && row.health().is_served() => healthy += 1,
                None => away += usize::from(row.report.checks.iter().all(|check| check.status.is_served())),
            }
        }
        turned.sort_unstable();
        let turns: Vec<Turn> = turned.iter().map(|(turn, _)| *turn).collect();
        let of_few = waves(&turns, healthy, 1);
        let [at_once, late] = [healthy, healthy + away].map(|healthy| waves(&turns, healthy, FEWEST));
        let lately = |last: &u64| last.saturating_add(2 * millis(MOMENTS)) > unix_millis;
        // To who hears of it late, those who are away now may have been well then.
        let begun: Vec<_> =
            at_once.into_iter().zip(late).map(|(at_once, late)| at_once.filter(lately).or(late)).collect();
        let mut judged = self.protections.judged.remove(name).unwrap_or_default();
        let known = |(turn, place): &(Turn, Place)| Some(judged.get(place).filter(|(was, _)| was == turn)?.1);
        let known: Vec<_> = turned.iter().map(known).collect();
        let news: BTreeSet<_> =
            begun.iter().zip(&known).filter_map(|(last, known)| last.filter(|_| known.is_none())).collect();
        let left = |last: u64| last.saturating_add(lasts).saturating_sub(unix_millis);
        let mut kept = BTreeMap::new();
        for (n, (turn, place)) in turned.into_iter().enumerate() {
            let wave = begun[n].filter(|last| news.contains(last)).map(|last| now + Duration::from_millis(left(last)));
            let until = wave.or(known[n].flatten());
            // What was kept is until then, of however few: an owner that starts again is away for a moment.
            kept.extend(until.filter(|until| *until > now && of_few[n].is_some()).map(|until| (place.clone(), until)));
            judged.insert(place, (turn, until));
        }
        if was.is_some() && kept.is_empty() && healthy > 0 && healthy >= turns.len() {
            judged.values_mut().for_each(|(_, until)| *until = None);
        }
        self.protections.judged.insert(name.clone(), judged);
        self.keep(name, was, kept, [turns.len(), healthy]);
    }

    /// Forgets turns that are of no wave any more, whoever is still critical.
    pub(super) fn forget_turns(&mut self) {
        let (unix_millis, lasts) = (self.wall_clock(self.now), millis(self.protections.lasts));
        self.protections.judged.retain(|_, judged| {
            judged
                .retain(|_, (turn, _)| turn.since.saturating_add(lasts).saturating_add(millis(LONGEST)) > unix_millis);
            !judged.is_empty()
        });
    }

    fn keep(
        &mut self,
        name: &ServiceName,
        was: Option<Wave>,
        kept: BTreeMap<Place, Time>,
        [turned, healthy]: [usize; 2],
    ) {
        let now = self.now;
        let began = was.as_ref().map(|was| was.protection);
        was.iter().for_each(|was| self.timers.cancel(was.alarm));
        let ends = kept.values().min().zip(kept.values().max()).map(|(first, last)| (*first, *last));
        self.protections.spared.retain(|_, until| *until > now);
        match (began, ends) {
            (None, None) => {}
            (Some(began), None) => {
                let why = match () {
                    () if began.until <= now || self.protections.lasts.is_zero() => Unprotected::Expired,
                    () if healthy > 0 && healthy >= turned => Unprotected::Recovered,
                    () => Unprotected::Gone,
                };
                if why == Unprotected::Gone {
                    let own = was.into_iter().flat_map(|was| was.kept).filter(|((owner, _), _)| *owner == self.id);
                    let own = own.filter(|((_, id), _)| self.book().registration(id).is_some());
                    let own: Vec<_> = own.map(|((_, id), until)| (id, until)).collect();
                    self.protections.spared.extend(own);
                }
                self.outbox.push(Output::Event(Event::ProtectionEnded { service: name.clone(), why }));
            }
            (began, Some((first, until))) => {
                let of = kept.len() + healthy;
                if began.is_none() {
                    let (service, kept) = (name.clone(), kept.len());
                    self.outbox.push(Output::Event(Event::ProtectionBegan { service, kept, of }));
                }
                let since = began.map_or(now, |began| began.since);
                let alarm = self.timers.book(first, Timer::Unprotect(name.clone()));
                let protection = Protection { since, until, of };
                self.protections.services.insert(name.clone(), Wave { protection, kept, alarm });
            }
        }
    }
}

/// How long a protection lasts unless asked otherwise.
pub const PROTECT_FOR: Duration = Duration::from_secs(300);
/// What turns within so long of each other turns together; where checks look more seldom, what one look may have missed,
/// up to the longest.
const MOMENTS: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(180);
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
            assert_eq!(is_wave(turned, before, FEWEST), wave, "{turned} of {before}");
        }
    }

    type Case<'a> = (&'a str, &'a [(u64, u64)], usize, &'a [Option<u64>]);

    /// Seconds at which each was found out and had last been found well; how many are healthy; and the last of each one's
    /// wave.
    #[test]
    fn who_turns_together_is_of_one_wave() {
        let table: &[Case<'_>] = &[
            ("none", &[], 9, &[]),
            ("at once", &[(100, 99), (100, 99), (101, 100)], 2, &[Some(101); 3]),
            ("half", &[(100, 99), (100, 99), (101, 100)], 3, &[None; 3]),
            ("one by one", &[(100, 99), (112, 111), (124, 123), (136, 135)], 1, &[None; 4]),
            ("looked at each minute", &[(110, 50), (120, 60), (130, 70), (160, 100)], 0, &[Some(160); 4]),
            ("a minute, and well since", &[(110, 50), (175, 115), (180, 120)], 1, &[None, Some(180), Some(180)]),
            ("by a seldom look", &[(100, 1), (1000, 100), (2000, 1001)], 0, &[None; 3]),
            (
                "a second wave",
                &[(100, 99), (100, 99), (100, 99), (130, 129), (131, 130)],
                0,
                &[Some(100), Some(100), Some(100), None, None],
            ),
            (
                "and a third of who is left",
                &[(100, 99), (101, 99), (200, 199), (200, 199), (201, 200)],
                0,
                &[None, None, Some(201), Some(201), Some(201)],
            ),
        ];
        for (what, turns, healthy, expected) in table {
            let turns: Vec<_> = turns.iter().map(|(at, seen)| Turn { since: at * 1_000, seen: seen * 1_000 }).collect();
            let expected: Vec<_> = expected.iter().map(|last| last.map(|last| last * 1_000)).collect();
            assert_eq!(waves(&turns, *healthy, FEWEST), expected, "{what}");
        }
    }
}
