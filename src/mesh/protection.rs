//! Mass-failure protection: when most of a service turns critical within moments, the fault is more likely in what all of
//! it needs, or in the checks, than in each instance. Answers keep the last healthy set, marked, for a while.
//!
//! Each owner judges its own instances when it hears of a turn, by what all rows of the service say of themselves: since
//! when, and when they were last found well. Its verdict stands in its rows. So every node shows the same, whoever joins,
//! starts again or was cut off, and whatever its clock says; who is drained later changes nothing. Who hears of a wave
//! expects that verdict, and shows as before for [`SOON`] what it will be about. Owners whose clocks are further apart than
//! [`MOMENTS`] do not fail together, nor does an owner that hears of the others' wave later than twice that.
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
    event::{Change, Done, Event, Output, Unprotected},
    timer::Slot,
    view::Instance,
};
use crate::model::{CheckStatus, Health, HealthReport, InstanceId, NodeId, ServiceName, Time, millis};

/// The services that are protected now.
#[derive(Debug)]
pub(super) struct Protections {
    services: BTreeMap<ServiceName, Wave>,
    judged: BTreeMap<ServiceName, BTreeMap<Place, Judged>>,
    /// This node's own instances that are kept.
    own: BTreeMap<InstanceId, Verdict>,
    lasts: Duration,
}

impl Default for Protections {
    fn default() -> Self {
        Self { services: BTreeMap::new(), judged: BTreeMap::new(), own: BTreeMap::new(), lasts: PROTECT_FOR }
    }
}

/// What stands where.
type Place = (NodeId, InstanceId);

/// A turn that was heard of.
#[derive(Clone, Copy, Debug)]
struct Judged {
    turn: Turn,
    heard: Time,
    /// Until when the owner's verdict is expected.
    expected: Option<Time>,
}

/// That one of this node's own instances is kept.
#[derive(Clone, Copy, Debug)]
struct Verdict {
    until: Time,
    /// The same in unix milliseconds.
    unix_millis: u64,
    /// Of how many that were healthy before.
    of: usize,
}

/// What is kept of one service.
#[derive(Debug)]
struct Wave {
    protection: Protection,
    /// Those on which a verdict is expected.
    expected: BTreeSet<Place>,
    /// Wakes when the first of it is kept no more, where this node has to find that out.
    alarm: Option<Slot>,
}

/// How a service stands.
struct Scene {
    /// What turned, in the order in which that was found out.
    turned: Vec<(Turn, Place)>,
    /// What will have turned by a clock that is behind.
    ahead: BTreeSet<Place>,
    healthy: usize,
    /// The owners' verdicts, in unix milliseconds.
    verdicts: BTreeMap<Place, u64>,
}

impl Scene {
    fn waves(&self, fewest: usize) -> Vec<Option<(u64, usize)>> {
        let turns: Vec<Turn> = self.turned.iter().map(|(turn, _)| *turn).collect();
        waves(&turns, self.healthy + self.ahead.len(), fewest)
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

/// An instance that turned critical by what may be wrong, in unix milliseconds by its owner's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    /// When it was first found so.
    failed: u64,
    /// When it was last found well: from then on it may have been so.
    seen: u64,
    /// When it was found so often enough to be told.
    since: u64,
}

impl Turn {
    /// `None` where it is not critical, or that is not doubted.
    fn of(report: &HealthReport, host: Option<&HealthReport>) -> Option<Self> {
        if report.maintenance.is_some() {
            return None;
        }
        let checks = report.checks.iter().chain(host.into_iter().flat_map(|host| &host.checks));
        let critical = checks.filter(|check| check.status == Health::Critical);
        let turn = |check: &CheckStatus| {
            let (since, before) = (check.since, check.doubted()?);
            let failed = if before.failed == 0 { since } else { before.failed.min(since) };
            Some(Self { failed, seen: before.seen, since })
        };
        critical.map(turn).collect::<Option<Vec<_>>>()?.into_iter().min()
    }

    /// Who failed no earlier than this may have failed together with it: a check that looks seldom finds out late.
    fn begins(self) -> u64 {
        let unseen = self.failed.saturating_sub(self.seen);
        self.failed.saturating_sub(unseen.clamp(millis(MOMENTS), millis(LONGEST)))
    }
}

/// Whether a turn of so many out of so many is a wave.
const fn is_wave(turned: usize, healthy_before: usize, fewest: usize) -> bool {
    healthy_before >= fewest && turned * 2 > healthy_before
}

/// For each turn, in the order in which they failed, when the last was told that it is of one wave with, and of how many
/// that were healthy before; `healthy` are so many besides. No wave is one of fewer than so many.
fn waves(turns: &[Turn], healthy: usize, fewest: usize) -> Vec<Option<(u64, usize)>> {
    let mut last = vec![None; turns.len()];
    let mut later = turns.len();
    for (n, turn) in turns.iter().enumerate().rev() {
        let first = turns.partition_point(|other| other.failed < turn.begins());
        // Who turned afterwards was healthy before.
        let before = healthy + turns.len() - first;
        if is_wave(n + 1 - first, before, fewest) && first < later {
            let told = turns[first..=n].iter().map(|turn| turn.since).max().unwrap_or(turn.since);
            last[first..later.min(n + 1)].fill(Some((told, before)));
            later = first;
        }
    }
    last
}

impl Protections {
    /// One of this node's own instances is withdrawn: the next of its id begins anew. True if it was kept.
    pub(super) fn forget(&mut self, id: &InstanceId) -> bool {
        self.own.remove(id).is_some()
    }

    /// Whether an instance is kept as it was before; `host` is what is said of its machine.
    pub(super) fn keeps(&self, name: &ServiceName, row: &Instance, host: Option<&HealthReport>) -> bool {
        let place = || (row.owner, row.registration.id.clone());
        let is_expected = || self.services.get(name).is_some_and(|wave| wave.expected.contains(&place()));
        !self.lasts.is_zero() && (row.report.kept.is_some() || is_expected()) && Turn::of(&row.report, host).is_some()
    }

    /// Until when one of this node's own instances is kept, in unix milliseconds.
    pub(super) fn verdict(&self, id: &InstanceId) -> Option<u64> {
        Some(self.own.get(id)?.unix_millis)
    }
}

impl Mesh {
    /// Whether a service's last healthy set is kept, and until when.
    #[must_use]
    pub fn protection(&self, name: &ServiceName) -> Option<Protection> {
        Some(self.protections.services.get(name)?.protection)
    }

    /// Until when one of this node's own instances is kept, if it is.
    pub(super) fn kept_until(&self, now: Time, id: &InstanceId) -> Option<Time> {
        Some(self.protections.own.get(id)?.until).filter(|until| *until > now)
    }

    /// Takes up the verdict of an earlier process of this node.
    pub(super) fn restore_verdict(&mut self, now: Time, id: &InstanceId, unix_millis: u64) {
        let left = unix_millis.saturating_sub(self.wall_clock(now)).min(millis(self.protections.lasts));
        if left > 0 {
            let verdict = Verdict { until: now + Duration::from_millis(left), unix_millis, of: 0 };
            self.protections.own.insert(id.clone(), verdict);
        }
    }

    /// Sets for how long a service is protected; zero ends and forbids it.
    pub(super) fn protect_for(&mut self, lasts: Duration) -> Done {
        let was = std::mem::replace(&mut self.protections.lasts, lasts);
        self.weigh_all();
        if was == lasts { Done::Unchanged } else { Done::Changed }
    }

    /// Has every service judged of which enough is critical.
    pub(super) fn weigh_all(&mut self) {
        let own = self.protections.own.keys().filter_map(|id| Some(&self.registration(id)?.name));
        let names = self.index.names().filter(|name| self.may_be_wave(name)).chain(own).cloned().collect::<Vec<_>>();
        self.changes.extend(names.into_iter().map(Change::Service));
    }

    fn may_be_wave(&self, name: &ServiceName) -> bool {
        self.index.failing(name) * 2 > FEWEST || !self.hosts.is_empty()
    }

    /// Finds out which of a service's instances are kept as they were. Not before this node knows the others: what it has
    /// read first would be most of all that it knows.
    pub(super) fn weigh(&mut self, name: &ServiceName) {
        let was = self.protections.services.remove(name);
        let concerns = || was.is_some() || self.may_be_wave(name) || self.verdicts_of(name).next().is_some();
        if !self.ready || !concerns() {
            return;
        }
        let mut scene = self.survey(name);
        let (fresh, expected) = self.assess(name, &scene);
        self.pronounce(name, &mut scene, &fresh);
        self.keep(name, was, &scene, expected);
    }

    /// Which of this node's own instances of a service are kept.
    fn verdicts_of(&self, name: &ServiceName) -> impl Iterator<Item = &InstanceId> {
        self.protections.own.keys().filter(move |id| self.registration(id).is_some_and(|own| own.name == *name))
    }

    fn survey(&self, name: &ServiceName) -> Scene {
        let latest = self.wall_clock(self.now).saturating_add(millis(MOMENTS));
        let (turned, ahead, verdicts) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
        let mut scene = Scene { turned, ahead, healthy: 0, verdicts };
        for row in self.rows(name).unwrap_or_default().into_iter().filter(|row| !row.registration.has_role()) {
            let is_drained = row.node.maintenance.is_some();
            let Some(turn) = Turn::of(&row.report, self.hosts.get(&row)).filter(|_| !is_drained) else {
                scene.healthy += usize::from(row.member.is_shown() && row.health().is_served());
                continue;
            };
            // Whose owner has died since has turned all the same.
            let place = (row.owner, row.registration.id.clone());
            scene.verdicts.extend(row.report.kept.map(|until| (place.clone(), until)));
            if turn.since <= latest {
                scene.turned.push((turn, place));
            } else {
                scene.ahead.insert(place);
            }
        }
        scene.turned.sort_unstable();
        scene
    }

    /// Which turns are of a wave that is news here, and of how many that were healthy before; and on which of them a verdict
    /// is expected.
    fn assess(&mut self, name: &ServiceName, scene: &Scene) -> (BTreeMap<Place, (u64, usize)>, BTreeMap<Place, Time>) {
        let (now, unix_millis) = (self.now, self.wall_clock(self.now));
        let lately = |(last, _): &(u64, usize)| last.saturating_add(2 * millis(MOMENTS)) > unix_millis;
        // Who hears of it later than that finds the verdict there.
        let (soon, lasts) = (SOON.min(self.protections.lasts), millis(self.protections.lasts));
        let left =
            |last: u64| Duration::from_millis(last.saturating_add(millis(soon)).saturating_sub(unix_millis)).min(soon);
        let waves: Vec<_> = scene.waves(FEWEST).into_iter().map(|wave| wave.filter(lately)).collect();
        let judged = self.protections.judged.entry(name.clone()).or_default();
        let known = |(turn, place): &(Turn, Place)| judged.get(place).filter(|known| known.turn == *turn).copied();
        let known: Vec<_> = scene.turned.iter().map(known).collect();
        let news: BTreeSet<_> =
            waves.iter().zip(&known).filter_map(|(wave, known)| wave.filter(|_| known.is_none())).collect();
        let (mut fresh, mut expected) = (BTreeMap::new(), BTreeMap::new());
        for (n, (turn, place)) in scene.turned.iter().enumerate() {
            let is_over = turn.since.saturating_add(lasts) <= unix_millis;
            let wave = waves[n].filter(|wave| news.contains(wave) && !is_over);
            let until = wave.map(|(last, _)| now + left(last)).or(known[n].and_then(|known| known.expected));
            let is_due = place.0 != self.id && !scene.verdicts.contains_key(place);
            let until = until.filter(|until| is_due && *until > now);
            fresh.extend(wave.map(|(_, of)| (place.clone(), (turn.since, of))));
            expected.extend(until.map(|until| (place.clone(), until)));
            let heard = known[n].map_or(now, |known| known.heard);
            judged.insert(place.clone(), Judged { turn: *turn, heard, expected: until });
        }
        (fresh, expected)
    }

    /// This node's verdicts on its own instances: new ones, and those that are over.
    fn pronounce(&mut self, name: &ServiceName, scene: &mut Scene, fresh: &BTreeMap<Place, (u64, usize)>) {
        let (now, this, lasts) = (self.now, self.id, self.protections.lasts);
        let wall = self.wall_clock(now);
        let of_few = scene.waves(1);
        let is_over = |place: &Place, verdict: &Verdict| {
            let stands = scene.turned.iter().position(|(_, other)| other == place);
            let is_gone = stands.is_none() && !scene.ahead.contains(place);
            // Where half is well again of what was before; who is away may be back in a moment, and who was withdrawn is not well.
            let is_well = stands.is_some_and(|n| of_few[n].is_none()) && scene.healthy * 2 >= verdict.of;
            is_gone || is_well || verdict.until <= now || lasts.is_zero()
        };
        let found = fresh.keys().filter(|(owner, _)| *owner == this).map(|(_, id)| id);
        for id in self.verdicts_of(name).chain(found).cloned().collect::<BTreeSet<_>>() {
            let place = (this, id);
            // From its own turn on: who turns later prolongs nothing, nor begins it again.
            let fresh = fresh.get(&place).map(|(since, of)| {
                let unix_millis = since.saturating_add(millis(lasts));
                let until = now + Duration::from_millis(unix_millis.saturating_sub(wall));
                Verdict { until, unix_millis, of: *of }
            });
            let stood = self.protections.own.remove(&place.1);
            let verdict = fresh.or(stood).filter(|verdict| !is_over(&place, verdict));
            self.protections.own.extend(verdict.map(|verdict| (place.1.clone(), verdict)));
            let says = verdict.map(|verdict| verdict.unix_millis);
            if self.book().report(&place.1).and_then(|report| report.kept) != says {
                // What does not fit into a full book is as it was.
                let _ = self.publish_report(now, &place.1);
            }
            scene.verdicts.remove(&place);
            scene.verdicts.extend(says.map(|says| (place, says)));
        }
    }

    /// Notes what is kept, and tells where that begins or ends.
    fn keep(&mut self, name: &ServiceName, was: Option<Wave>, scene: &Scene, expected: BTreeMap<Place, Time>) {
        let (now, wall) = (self.now, self.wall_clock(self.now));
        was.iter().filter_map(|was| was.alarm).for_each(|alarm| self.timers.cancel(alarm));
        let began = was.map(|was| was.protection);
        let is_off = self.protections.lasts.is_zero();
        let verdicts = || scene.verdicts.iter().filter(|_| !is_off);
        let until = |unix_millis: &u64| now + Duration::from_millis(unix_millis.saturating_sub(wall));
        let last = verdicts().map(|(_, at)| until(at)).chain(expected.values().copied()).max();
        let (healthy, turned) = (scene.healthy, scene.turned.len() + scene.ahead.len());
        let Some(until) = last else {
            let why = match began {
                None => return,
                Some(began) if began.until <= now || is_off => Unprotected::Expired,
                Some(_) if healthy > 0 && healthy >= turned => Unprotected::Recovered,
                Some(_) => Unprotected::Gone,
            };
            return self.outbox.push(Output::Event(Event::ProtectionEnded { service: name.clone(), why }));
        };
        let kept = verdicts().map(|(place, _)| place).chain(expected.keys()).collect::<BTreeSet<_>>().len();
        let of = kept + healthy;
        if began.is_none() {
            self.outbox.push(Output::Event(Event::ProtectionBegan { service: name.clone(), kept, of }));
        }
        let own =
            scene.verdicts.keys().filter_map(|(owner, id)| self.kept_until(now, id).filter(|_| *owner == self.id));
        let next = own.chain(expected.values().copied()).min();
        let alarm = next.map(|next| self.timers.book(next, Timer::Unprotect(name.clone())));
        let protection = Protection { since: began.map_or(now, |began| began.since), until, of };
        let wave = Wave { protection, expected: expected.into_keys().collect(), alarm };
        self.protections.services.insert(name.clone(), wave);
    }

    /// Forgets turns that are of no wave any more.
    pub(super) fn forget_turns(&mut self) {
        let (now, lasts) = (self.now, self.protections.lasts.max(LONGEST));
        self.protections.judged.retain(|_, judged| {
            judged.retain(|_, known| now.since(known.heard) < lasts);
            !judged.is_empty()
        });
    }
}

/// How long a protection lasts unless asked otherwise.
pub const PROTECT_FOR: Duration = Duration::from_secs(300);
/// What turns within so long of each other turns together; where checks look more seldom, what one look may have missed,
/// up to the longest.
const MOMENTS: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(180);
/// How long an owner's verdict may be on its way.
const SOON: Duration = Duration::from_secs(2);
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

    /// Seconds at which each failed and had last been found well; how many are healthy; and the last of each one's wave.
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
            let turn = |(at, seen): &(u64, u64)| Turn { failed: at * 1_000, seen: seen * 1_000, since: at * 1_000 };
            let turns: Vec<_> = turns.iter().map(turn).collect();
            let expected: Vec<_> = expected.iter().map(|last| last.map(|last| last * 1_000)).collect();
            let found = waves(&turns, *healthy, FEWEST).into_iter().map(|wave| Some(wave?.0));
            assert_eq!(found.collect::<Vec<_>>(), expected, "{what}");
        }
    }
}
