//! Probe outcomes become health: thresholds, TTLs, and what is published of them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    Mesh, Timer,
    claim::{Claim, Key},
    event::{Done, Output, Rejected},
    timer::{Slot, Timers},
};
use crate::model::{
    Before, CheckKind, CheckName, CheckSpec, CheckStatus, FieldError, Health, HealthReport, InstanceId, Recipe,
    Registration, Rules, Time, millis,
};

/// Where one check of this node stands.
#[derive(Clone, Debug)]
pub(super) struct Check {
    spec: Recipe,
    status: CheckStatus,
    /// How many results in a row disagreed with the status; the first result counts at once.
    streak: u32,
    judged: bool,
    /// When it was last found to be as good as its status, or said so by registering, in unix milliseconds.
    well: Option<u64>,
    /// Until when an earlier process looked (unix milliseconds), while none has found it as it was since.
    looked_until: Option<u64>,
    /// Whether a run has found something in this process's life, and since one could not look.
    looked: bool,
    /// Whether it was critical for as long as it may be when nobody could look.
    overdue: bool,
    /// When its TTL runs out, and when it will have been critical for as long as it may be.
    runs_out: Time,
    expires: Time,
    /// The one timer that waits for the earlier of both, or for what came to nothing before that.
    alarm: Option<Slot>,
}

/// The checks of this node's instances, each one's by id. Most have one, or a few: a map would take more room than they.
pub(super) type Checks = BTreeMap<InstanceId, Vec<Check>>;

impl Check {
    fn new(spec: Recipe, unix_millis: u64) -> Self {
        let status = spec.initial.unwrap_or(Health::Critical);
        let output = if spec.initial.is_some() { "" } else { "no result yet" };
        let status = CheckStatus {
            id: spec.id.clone(),
            name: spec.name.clone(),
            status,
            output: output.into(),
            since: unix_millis,
            before: None,
        };
        // Who reports by itself has done so by registering.
        let says_so = spec.kind.ttl().is_some() && status.status.is_served();
        Self {
            well: says_so.then_some(unix_millis),
            spec,
            status,
            streak: 0,
            judged: false,
            looked_until: None,
            looked: false,
            overdue: false,
            runs_out: Time::NEVER,
            expires: Time::NEVER,
            alarm: None,
        }
    }

    /// The check as it is asked for now; it stays as it stands where it may.
    fn changed(self, spec: Recipe, unix_millis: u64) -> Self {
        if !(spec.rules == Rules::Consul || looks_at_the_same(&self.spec, &spec)) {
            return Self { alarm: self.alarm, ..Self::new(spec, unix_millis) };
        }
        let status = CheckStatus { name: spec.name.clone(), ..self.status };
        Self { spec, status, streak: 0, overdue: false, runs_out: Time::NEVER, ..self }
    }

    /// Its TTL runs anew.
    fn expect_report(&mut self, now: Time) {
        self.runs_out = self.spec.kind.ttl().map_or(Time::NEVER, |ttl| now + ttl);
    }

    /// From now on it may be critical for as long as was asked for, if it is.
    fn expect_recovery(&mut self, now: Time) {
        let after = self.spec.deregister_after.filter(|_| self.status.status == Health::Critical);
        self.expires = after.map_or(Time::NEVER, |after| now + after);
    }

    /// Sets a timer for what comes next, unless an earlier one waits: that finds out when it fires. Whoever changes his mind
    /// often needs no more room for it.
    fn arm(&mut self, instance: &InstanceId, timers: &mut Timers<Timer>) {
        let next = self.runs_out.min(self.expires);
        if next == Time::NEVER || self.alarm.is_some_and(|(at, _)| at <= next) {
            return;
        }
        let timer = Timer::Check { instance: instance.clone(), check: self.spec.id.clone() };
        let later = self.alarm.replace(timers.book(next, timer));
        later.into_iter().for_each(|later| timers.cancel(later));
    }

    /// Its TTL has run out: no threshold holds that back, for nothing more will be heard. True if the status changed.
    fn run_out(&mut self, ttl: Duration, unix_millis: u64) -> bool {
        self.runs_out = Time::NEVER;
        self.streak = self.spec.fall.saturating_sub(1);
        let mut output = format!("no report within its TTL of {ttl:?}");
        // What whoever reports said last may be why; silence after silence says no more.
        if self.judged && !self.status.output.is_empty() && !self.status.output.starts_with(&output) {
            output = cut(&format!("{output}; the last said: {}", self.status.output), MAX_OUTPUT).to_owned();
        }
        self.take(Health::Critical, output.into(), Some(Duration::MAX), unix_millis)
    }

    /// Takes in one result, and how long before the first such that may have been so and was `missed`; `None` where whoever
    /// found it cannot be wrong. True if the status changed, or is doubted no more.
    fn take(&mut self, result: Health, output: Arc<str>, missed: Option<Duration>, unix_millis: u64) -> bool {
        self.status.output = output;
        self.looked = true;
        if self.status.status.is_served() {
            let before = self.status.before.or_else(|| self.before(missed, unix_millis));
            self.status.before = before.filter(|_| result == Health::Critical);
        }
        if result == self.status.status {
            self.streak = 0;
            self.judged = true;
            self.well = result.is_served().then_some(unix_millis);
            self.looked_until = None;
            return missed.is_none() && self.status.before.take().is_some();
        }
        self.streak += 1;
        let needed = if result > self.status.status { self.spec.fall } else { self.spec.rise };
        let counts_alone = !self.judged && self.spec.rules == Rules::Ours;
        self.judged = true;
        if !counts_alone && self.streak < needed {
            return false;
        }
        self.streak = 0;
        self.overdue = false;
        self.well = result.is_served().then_some(unix_millis);
        self.looked_until = None;
        let before = self.status.before.filter(|_| result == Health::Critical);
        self.status = CheckStatus { status: result, since: unix_millis, before, ..self.status.clone() };
        true
    }

    /// How it stands, should it be found critical now: well until its last look, `missed` ago at most where looks went on.
    fn before(&self, missed: Option<Duration>, failed: u64) -> Option<Before> {
        let (well, missed) = self.well.zip(missed)?;
        let looked = failed.saturating_sub(millis(missed));
        let seen = well.max(self.looked_until.map_or(looked, |until| until.min(looked)));
        Some(Before { status: self.status.status, seen, failed })
    }

    /// Whether it is critical by what was found last, and not for want of anybody who could look.
    fn is_proved(&self) -> bool {
        self.status.status == Health::Critical && (self.spec.kind.ttl().is_some() || (self.looked && self.streak == 0))
    }
}

/// How long before it is first found a change may have gone unseen; `None` where who finds it cannot be wrong: a program about
/// itself, the kernel about a process. What an alias follows is doubted where it stands.
fn missed(spec: &CheckSpec, is_foreign: bool) -> Option<Duration> {
    match spec.kind {
        // What stands on a node without an agent has no word of its own, and who looks there speaks when something changes.
        _ if is_foreign => Some(Duration::ZERO),
        CheckKind::Ttl(_) | CheckKind::Process(_) | CheckKind::Alias(_) => None,
        // Whoever looks tells of it again only when something changes: the look before.
        _ => Some(spec.interval.saturating_add(spec.timeout)),
    }
}

impl Mesh {
    /// Begins to watch an instance's checks; those that stay as they were keep their state, those that look at the same
    /// thing their status, and so do Consul's.
    pub(super) fn watch_checks(&mut self, now: Time, registration: &Arc<Registration>) {
        let instance = &registration.id;
        let unix_millis = self.wall_clock(now);
        let mut old = self.checks.remove(instance).unwrap_or_default();
        let mut checks = Vec::with_capacity(registration.checks.len());
        for spec in Recipe::all(registration) {
            let known = old.iter().position(|check| check.spec.id == spec.id).map(|at| old.swap_remove(at));
            let mut check = match known {
                // Where nothing of it has changed it goes on to be as critical as it was.
                Some(same) if *same.spec == *spec => Check { spec, ..same },
                other => {
                    let new = || Check::new(spec.clone(), unix_millis);
                    let mut check = other.map_or_else(new, |other| other.changed(spec.clone(), unix_millis));
                    check.expect_recovery(now);
                    check
                }
            };
            check.expect_report(now);
            check.arm(instance, &mut self.timers);
            checks.push(check);
        }
        old.into_iter().filter_map(|check| check.alarm).for_each(|alarm| self.timers.cancel(alarm));
        checks.sort_unstable_by(|a, b| a.spec.id.cmp(&b.spec.id));
        if !checks.is_empty() {
            self.checks.insert(instance.clone(), checks);
        }
    }

    /// An instance is watched no more. True if it had checks.
    pub(super) fn forget_checks(&mut self, instance: &InstanceId) -> bool {
        let gone = self.checks.remove(instance);
        let was_kept = self.protections.forget(instance);
        let alarms = gone.iter().flatten().filter_map(|check| check.alarm);
        alarms.for_each(|alarm| self.timers.cancel(alarm));
        gone.is_some() || was_kept
    }

    /// As with Consul, whose clients register the same again to say that they live, its TTLs begin anew; where they ran out
    /// already, that stays.
    pub(super) fn hear_again(&mut self, now: Time, registration: &Registration) {
        for spec in registration.checks.iter().filter(|spec| spec.rules == Rules::Consul) {
            let Some(check) = find(&mut self.checks, &registration.id, &spec.id) else { continue };
            check.expect_report(now);
            check.arm(&registration.id, &mut self.timers);
        }
    }

    /// Whether an instance's checks are just these already. Then they stand in this registration from now on.
    pub(super) fn has_checks(&mut self, registration: &Arc<Registration>) -> bool {
        let checks = self.checks.get_mut(&registration.id).map_or(&mut [][..], Vec::as_mut_slice);
        if checks.len() != registration.checks.len()
            || !registration.checks.iter().all(|spec| checks.iter().any(|check| *check.spec == *spec))
        {
            return false;
        }
        for spec in Recipe::all(registration) {
            checks.iter_mut().filter(|check| check.spec.id == spec.id).for_each(|check| check.spec = spec.clone());
        }
        true
    }

    /// Whether an instance of this node's stands on one without an agent.
    fn is_foreign(&self, instance: &InstanceId) -> bool {
        self.registration(instance).is_some_and(|own| own.foreign().is_some())
    }

    fn check(&self, instance: &InstanceId, id: &CheckName) -> Option<&Check> {
        self.checks.get(instance)?.iter().find(|check| check.spec.id == *id)
    }

    /// What other nodes are told of an instance's checks; `None` if it has none.
    pub(super) fn report_of(&self, instance: &InstanceId) -> Option<HealthReport> {
        let (checks, maintenance) = (self.checks.get(instance), self.maintenance.get(instance).cloned());
        let kept = self.protections.verdict(instance);
        if checks.is_none() && maintenance.is_none() && kept.is_none() {
            return None;
        }
        let checks: Vec<_> = checks.into_iter().flatten().collect();
        // However many checks there are, their words fit into one row together; only where they do not are they cut.
        let all: usize = checks.iter().map(|check| check.status.output.len()).sum();
        let share = if all <= OUTPUTS { MAX_OUTPUT } else { OUTPUTS / checks.len() };
        let status = |check: &Check| {
            let output = cut(&check.status.output, share);
            let output = if output.len() == check.status.output.len() {
                Arc::clone(&check.status.output)
            } else {
                output.into()
            };
            CheckStatus { output, ..check.status.clone() }
        };
        Some(HealthReport { checks: checks.into_iter().map(status).collect(), maintenance, kept })
    }

    /// A program's word on its own check.
    pub(super) fn report(
        &mut self,
        now: Time,
        instance: &InstanceId,
        id: &CheckName,
        status: Health,
        output: &str,
    ) -> Result<Done, Rejected> {
        let check = self.check(instance, id);
        if check.is_some_and(|check| check.spec.kind.ttl().is_none()) {
            return Err(FieldError::new("check", "is not of the kind ttl: this node runs it by itself").into());
        }
        self.take_result(now, instance, id, status, output)
    }

    /// A result of one check.
    pub(super) fn take_result(
        &mut self,
        now: Time,
        instance: &InstanceId,
        name: &CheckName,
        status: Health,
        output: &str,
    ) -> Result<Done, Rejected> {
        if status == Health::Maintenance {
            return Err(FieldError::new("status", "must be passing, warning or critical").into());
        }
        let unix_millis = self.wall_clock(now);
        let is_foreign = self.is_foreign(instance);
        let check = find(&mut self.checks, instance, name);
        let Some(check) = check else { return Err(Rejected::NotFound(format!("check {name} of instance {instance}"))) };
        let output = cut(output, MAX_OUTPUT);
        let changed_words = *check.status.output != *output;
        let was_failing = check.status.before.is_some();
        let is_first = !check.judged;
        let missed = missed(&check.spec, is_foreign);
        let flipped = check.take(status, output.into(), missed, unix_millis);
        let turns = check.status.before.is_some() != was_failing;
        // Who was found well once was not critical all the time that nobody could look.
        let counts_anew = flipped || check.overdue && status.is_served();
        check.overdue &= !counts_anew;
        if check.overdue && check.is_proved() {
            self.expire(now, instance);
            return Ok(Done::Changed);
        }
        check.expect_report(now);
        if counts_anew {
            check.expect_recovery(now);
        }
        check.arm(instance, &mut self.timers);
        // The first result is news even where it says what was assumed: now there is a reason.
        if flipped || (is_first && changed_words) {
            self.publish_flip(now, instance)?;
            return Ok(if flipped { Done::Changed } else { Done::Unchanged });
        }
        if changed_words {
            self.tell_words(now, instance);
        }
        if turns {
            // Others are told once it has; the next process has to know since when.
            self.outbox.push(Output::Keep(Some(instance.clone())));
        }
        Ok(Done::Unchanged)
    }

    /// A run of a check found nothing, for want of this node's own means.
    pub(super) fn take_inability(&mut self, now: Time, instance: &InstanceId, name: &CheckName, why: &str) {
        let Some(check) = find(&mut self.checks, instance, name) else { return };
        check.looked = false;
        if !check.judged {
            check.status.output = cut(&format!("no result yet: {why}"), MAX_OUTPUT).into();
            self.tell_words(now, instance);
        }
    }

    /// A check says something else: this node knows at once, others do in a while.
    fn tell_words(&mut self, now: Time, instance: &InstanceId) {
        self.outbox.push(Output::Spoken(instance.clone()));
        if self.wordy.insert(instance.clone()) && self.wordy.len() == 1 {
            self.timers.set(now + WORDS_EVERY, Timer::Words);
        }
    }

    pub(super) fn publish_report(&mut self, now: Time, instance: &InstanceId) -> Result<(), Rejected> {
        let claim = self.report_of(instance).map(|report| Claim::Health(Arc::new(report)));
        self.outbox.push(Output::Keep(Some(instance.clone())));
        self.write(now, Key::Health(instance.clone()), claim)
    }

    /// Where a check stood when an earlier process of this node kept it. A TTL runs out as if that process, which lived
    /// until then (unix milliseconds), had gone on: its silence is no health.
    pub(super) fn restore_check(&mut self, now: Time, instance: &InstanceId, status: CheckStatus, lived_until: u64) {
        let unix_millis = self.wall_clock(now);
        let is_foreign = self.is_foreign(instance);
        let check = find(&mut self.checks, instance, &status.id);
        let Some(check) = check else { return };
        check.judged = true;
        // Where others look, they went on meanwhile, and speak when something changes. A clock may have been set back.
        let well = if is_foreign { unix_millis } else { status.since.min(unix_millis) };
        check.looked_until = (!is_foreign).then_some(lived_until);
        check.well = (status.status.is_served() && (is_foreign || check.spec.kind.ttl().is_none())).then_some(well);
        let past = |at: u64| at.min(unix_millis);
        let before = status.before.map(|at| Before { seen: past(at.seen), failed: past(at.failed), ..at });
        check.status = CheckStatus { name: check.spec.name.clone(), before, ..status };
        if let Some(ttl) = check.spec.kind.ttl() {
            // While it lived, it saw to it that what was passing had been reported within its TTL.
            let runs_out = lived_until.saturating_add(millis(ttl));
            match runs_out.saturating_sub(unix_millis) {
                0 => drop(check.run_out(ttl, runs_out)),
                // A clock that was set back makes no TTL longer.
                left => check.runs_out = now + Duration::from_millis(left).min(ttl),
            }
        }
        // Counted from now: nobody looked while this node was down.
        check.expect_recovery(now);
        check.arm(instance, &mut self.timers);
    }

    /// Publishes outputs that changed without a change of status, all at once.
    pub(super) fn publish_words(&mut self, now: Time) {
        for instance in std::mem::take(&mut self.wordy) {
            if self.registration(&instance).is_none() {
                continue;
            }
            // A report that does not fit is as good as one that did not change.
            let _ = self.publish_report(now, &instance);
        }
    }

    /// Outputs that others were not told of are for the next start, at least.
    pub(super) fn keep_words(&mut self) {
        let wordy = std::mem::take(&mut self.wordy);
        wordy.into_iter().for_each(|instance| self.outbox.push(Output::Keep(Some(instance))));
    }

    /// Nobody could be heard or looked at for so long: no check's time ran meanwhile.
    pub(super) fn stand_still(&mut self, pause: Duration) {
        for check in self.checks.values_mut().flatten() {
            check.runs_out = check.runs_out + pause;
            check.expires = check.expires + pause;
        }
    }

    /// What a check waits for may have come. After its TTL the next report has that run again; where it was critical for as
    /// long as it may be while nobody could look, what is found next decides.
    pub(super) fn on_check(&mut self, now: Time, instance: &InstanceId, name: &CheckName) {
        let unix_millis = self.wall_clock(now);
        let Some(check) = find(&mut self.checks, instance, name) else { return };
        // Where one was postponed another may wait.
        check.alarm.take().into_iter().for_each(|alarm| self.timers.cancel(alarm));
        let ran_out = check.spec.kind.ttl().filter(|_| check.runs_out <= now);
        let flipped = ran_out.is_some_and(|ttl| check.run_out(ttl, unix_millis));
        if flipped {
            check.expect_recovery(now);
        }
        if check.expires <= now {
            (check.overdue, check.expires) = (true, Time::NEVER);
        }
        check.arm(instance, &mut self.timers);
        if check.overdue && check.is_proved() {
            self.expire(now, instance);
        } else if flipped {
            // What does not fit into a full book follows with the next report.
            let _ = self.publish_flip(now, instance);
        }
    }

    /// Withdraws who was critical for too long. While it is kept by a protection that waits.
    fn expire(&mut self, now: Time, instance: &InstanceId) {
        if let Some(until) = self.kept_until(now, instance) {
            for check in self.checks.get_mut(instance).into_iter().flatten() {
                if std::mem::take(&mut check.overdue) {
                    check.expires = until;
                    check.arm(instance, &mut self.timers);
                }
            }
        } else if self.deregister(now, instance).is_ok() {
            self.outbox.push(Output::Expired(instance.clone()));
        }
    }
}

/// Whether two checks differ in nothing but when they look, how long they wait and how results count: a status holds for
/// both. What is assumed before the first result is part of what they are.
fn looks_at_the_same(one: &CheckSpec, other: &CheckSpec) -> bool {
    let alike = one.kind == other.kind || (one.kind.ttl().is_some() && other.kind.ttl().is_some());
    alike && one.initial == other.initial
}

/// One check of an instance.
fn find<'a>(checks: &'a mut Checks, instance: &InstanceId, id: &CheckName) -> Option<&'a mut Check> {
    checks.get_mut(instance)?.iter_mut().find(|check| check.spec.id == *id)
}

/// The first `most` bytes of an output, cut between characters.
fn cut(output: &str, most: usize) -> &str {
    &output[..output.floor_char_boundary(most)]
}

/// A check's output is kept to this.
pub(super) const MAX_OUTPUT: usize = 4096;
/// The outputs of one instance's checks together: with the names of as many checks as it may have, that fits a row.
const OUTPUTS: usize = 36 * 1024;
/// Outputs that changed without a change of status are published this often.
const WORDS_EVERY: Duration = Duration::from_secs(30);
