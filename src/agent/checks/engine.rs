//! The engine: one task that keeps the time of all checks and lets each run as a task of its own.
//!
//! A check starts at its own moment of each interval, derived from its name, so that thousands spread out, and the next
//! start is counted from that moment, not from the last end, so that nothing drifts. Those moments lie on ticks, so that
//! a wake of the engine, which costs as much as a run, is shared. A run that is not over when its next is due has that
//! one skipped. A run waits in its lane for a place, and holds that for [`HOLD`](super::visit::HOLD) at most: what takes
//! longer goes on without one, as one of the slow, so that who hangs delays others by that and no more.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    sync::mpsc,
    task::AbortHandle,
    time::{Instant, sleep_until},
};
use tracing::warn;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{
    Finding, Home, Means, Order, alias,
    lanes::{LaneName, Lanes, Limits},
    process, tcp,
    visit::visit,
};
use crate::{
    agent::peers::Arrival,
    mesh::Input,
    model::{CheckKind, CheckSpec, Host, InstanceId, Recipe, Registration},
};

/// What a run or a watch tells the engine: of which check, and what.
pub(super) type Told = (u64, Word);

pub(super) enum Word {
    Found(Finding),
    /// What is to be said of a run that did not come to its end.
    Hung(Finding),
    /// Nothing could be found out, for want of this node's own means.
    Unable(String),
    /// The run takes longer than others are to wait for it.
    Slow,
}

impl From<Finding> for Word {
    fn from(finding: Finding) -> Self {
        Self::Found(finding)
    }
}

pub(super) struct Engine {
    means: Arc<Means>,
    arrivals: mpsc::Sender<Arrival>,
    told: (mpsc::Sender<Told>, mpsc::Receiver<Told>),
    checks: HashMap<u64, Check>,
    serials: HashMap<InstanceId, Vec<u64>>,
    next_serial: u64,
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    lanes: Lanes,
    /// The moment that the phases of all checks are counted from.
    origin: Instant,
    /// When the next first run may start.
    first_at: Instant,
    /// When this node lacked the means for a run last.
    unable_at: Option<Instant>,
}

/// One check that is run or watched here.
struct Check {
    recipe: Recipe,
    home: Arc<Home>,
    /// Its moment of each interval.
    phase: Duration,
    state: State,
    /// When the run that waits, or was begun last, was due.
    due: Instant,
    /// Whether its last run did not come to its end.
    hung: bool,
    /// A digest of the last finding, and how often that came in a row.
    last: Option<u64>,
    same: u32,
    /// How many runs in a row could not look, and when it is tried again before its interval is over.
    lacks: u32,
    again: Option<Instant>,
}

impl Check {
    fn lane(&self) -> Option<LaneName> {
        LaneName::of(&self.recipe.kind, &self.home)
    }

    /// Takes in what it found; what is to be told of it.
    fn take(&mut self, finding: Finding) -> Option<Input> {
        let digest = xxh3_64_with_seed(finding.output.as_bytes(), finding.status as u64);
        self.same = if self.last == Some(digest) { self.same.saturating_add(1) } else { 1 };
        self.last = Some(digest);
        self.lacks = 0;
        // The mesh counts how many come in a row, as far as it has to.
        let is_news = self.same <= self.recipe.rise.max(self.recipe.fall);
        is_news.then(|| Input::Checked {
            instance: self.home.instance.clone(),
            check: self.recipe.id.clone(),
            status: finding.status,
            output: finding.output.into(),
        })
    }

    /// Takes in that it could not look; what is to be told of that, once for each shortage. What is found next is news.
    fn lack(&mut self, why: String) -> Option<Input> {
        self.last = None;
        self.lacks = self.lacks.saturating_add(1);
        let (instance, check) = (self.home.instance.clone(), self.recipe.id.clone());
        (self.lacks == 1).then(|| Input::Unable { instance, check, why: why.into() })
    }

    /// When to look again for one that could not, if that is before its next start.
    fn look_again(&mut self, now: Instant) -> Option<Instant> {
        let wait = LOOK_AGAIN * 2u32.saturating_pow(self.lacks - 1).min(MAX_BACKOFF);
        if self.again.is_some() || wait >= self.recipe.interval {
            return None;
        }
        self.again = Some(now + wait);
        self.again
    }
}

enum State {
    Idle,
    Waiting,
    /// The task, if it takes one, ends with the check.
    Running {
        has_place: bool,
        _task: Option<Task>,
    },
}

impl State {
    /// True if it had one.
    fn takes_place_back(&mut self) -> bool {
        if let Self::Running { has_place, .. } = self { std::mem::take(has_place) } else { false }
    }
}

/// A task that lives as long as this.
struct Task(AbortHandle);

impl Task {
    fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work).abort_handle())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Engine {
    pub(super) fn new(means: Arc<Means>, limits: Limits, arrivals: mpsc::Sender<Arrival>) -> Self {
        let now = Instant::now();
        Self {
            means,
            arrivals,
            told: mpsc::channel(MAX_TOLD),
            checks: HashMap::new(),
            serials: HashMap::new(),
            next_serial: 0,
            due: BinaryHeap::new(),
            lanes: Lanes::new(limits),
            origin: now,
            first_at: now,
            unable_at: None,
        }
    }

    /// Runs until nobody gives orders any more.
    pub(super) async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut heard = Vec::new();
        let mut alarm = pin!(sleep_until(self.origin));
        loop {
            let next = self.due.peek().map_or_else(|| self.origin + FAR, |Reverse((at, _))| *at);
            if alarm.deadline() != next {
                alarm.as_mut().reset(next);
            }
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Watch(registration, host)) => self.watch(&registration, &host),
                    Some(Order::Forget(instance)) => self.forget(&instance),
                    None => return,
                },
                _ = self.told.1.recv_many(&mut heard, MAX_TOLD) => {
                    for (serial, word) in heard.drain(..) {
                        if let Some(found) = self.hear(serial, word) && self.arrivals.send(Arrival::Input(found)).await.is_err() {
                            return;
                        }
                    }
                }
                () = &mut alarm => self.start_due(Instant::now()),
            }
        }
    }

    fn watch(&mut self, registration: &Arc<Registration>, host: &Host) {
        let host = registration.address.clone().unwrap_or_else(|| host.clone());
        let home = Arc::new(Home { instance: registration.id.clone(), host, port: registration.port });
        let mut old = self.serials.remove(&registration.id).unwrap_or_default();
        let mut serials = Vec::new();
        for recipe in Recipe::all(registration).filter(|spec| spec.kind.ttl().is_none()) {
            let as_before =
                |serial: &u64| self.checks.get(serial).is_some_and(|c| *c.recipe == *recipe && c.home == home);
            let serial = match old.iter().position(as_before).map(|at| old.swap_remove(at)) {
                Some(serial) => {
                    self.checks.get_mut(&serial).into_iter().for_each(|check| check.recipe = recipe.clone());
                    serial
                }
                None => self.begin(recipe, &home),
            };
            serials.push(serial);
        }
        old.into_iter().for_each(|serial| self.end(serial));
        if !serials.is_empty() {
            self.serials.insert(registration.id.clone(), serials);
        }
    }

    fn forget(&mut self, instance: &InstanceId) {
        let serials = self.serials.remove(instance).unwrap_or_default();
        serials.into_iter().for_each(|serial| self.end(serial));
    }

    fn begin(&mut self, recipe: Recipe, home: &Arc<Home>) -> u64 {
        self.next_serial += 1;
        let (serial, spec) = (self.next_serial, &recipe);
        let told = self.told.0.clone();
        let state = match spec.kind.clone() {
            CheckKind::Process(process) => {
                let watch = process::watch(process, spec.interval, spec.fall, Arc::clone(&self.means), serial, told);
                State::Running { has_place: false, _task: Some(Task::spawn(watch)) }
            }
            CheckKind::Alias(alias) => {
                let watch = alias::watch(alias, Arc::clone(home), spec.interval, Arc::clone(&self.means), serial, told);
                State::Running { has_place: false, _task: Some(Task::spawn(watch)) }
            }
            _ => {
                // The first result is wanted at once, of thousands one after the other.
                self.first_at = self.first_at.max(Instant::now()) + FIRST_GAP;
                self.due.push(Reverse((self.first_at, serial)));
                State::Idle
            }
        };
        LaneName::of(&spec.kind, home).iter().for_each(|name| self.lanes.join(name));
        let (phase, home, due) = (phase(&home.instance, spec), Arc::clone(home), self.first_at);
        let check = Check { recipe, home, phase, state, due, hung: false, last: None, same: 0, lacks: 0, again: None };
        self.checks.insert(serial, check);
        serial
    }

    fn end(&mut self, serial: u64) {
        let Some(check) = self.checks.remove(&serial) else { return };
        let Some(name) = check.lane() else { return };
        if let State::Running { has_place: true, .. } = check.state {
            self.leave(&name);
        }
        self.lanes.quit(&name, serial);
    }

    /// Starts all whose time has come, or has them wait for their lane.
    fn start_due(&mut self, now: Instant) {
        while let Some(Reverse((at, serial))) = self.due.peek().copied().filter(|Reverse((at, _))| *at <= now) {
            self.due.pop();
            let Some(check) = self.checks.get_mut(&serial) else { continue };
            let is_idle = matches!(check.state, State::Idle);
            if check.again.take_if(|again| *again == at).is_some() {
                // Its own moment came first, and was better.
                if check.lacks == 0 || !is_idle {
                    continue;
                }
            } else {
                let next = next_start(self.origin, at, now, check.recipe.interval, check.phase);
                self.due.push(Reverse((next, serial)));
            }
            let Some(name) = check.lane().filter(|_| is_idle) else {
                self.means.traffic.checks_skipped.add(1);
                continue;
            };
            (check.state, check.due) = (State::Waiting, at);
            self.lanes.wait(&name, serial);
            self.admit(&name);
        }
    }

    /// Starts what waits in a lane, as far as there is room.
    fn admit(&mut self, name: &LaneName) {
        while let Some(serial) = self.lanes.next(name) {
            let Some(check) = self.checks.get_mut(&serial) else { unreachable!("who ends waits no more") };
            self.means.traffic.checks_run.add(1);
            self.means.traffic.checks_late.add(usize::from(check.due.elapsed() > LATE));
            let (recipe, home, means) = (check.recipe.clone(), Arc::clone(&check.home), Arc::clone(&self.means));
            let room = self.lanes.slow(name);
            let task = start(visit(recipe, home, means, room, serial, check.hung, self.told.0.clone()), check);
            check.state = State::Running { has_place: true, _task: task };
        }
    }

    /// A run is over, or others have waited for it long enough: they may start.
    fn leave(&mut self, name: &LaneName) {
        self.lanes.leave(name);
        while let Some(parked) = self.lanes.unpark() {
            self.admit(&parked);
        }
        self.admit(name);
    }

    /// Takes in what a run or a watch says; what is to be told of it.
    fn hear(&mut self, serial: u64, word: Word) -> Option<Input> {
        let check = self.checks.get_mut(&serial)?;
        let lane = check.lane();
        let left = lane.clone().filter(|_| check.state.takes_place_back());
        let mut again = None;
        check.hung = matches!(word, Word::Hung(_));
        if !matches!(word, Word::Slow) {
            // A watch has no lane, and goes on.
            lane.iter().for_each(|_| check.state = State::Idle);
        }
        let found = match word {
            Word::Found(finding) | Word::Hung(finding) => check.take(finding),
            Word::Unable(why) => {
                warn_of(&why, &mut self.unable_at);
                self.means.traffic.checks_unable.add(1);
                let told = check.lack(why);
                // A watch looks again by itself.
                again = lane.is_some().then(|| check.look_again(Instant::now())).flatten();
                told
            }
            Word::Slow => None,
        };
        self.due.extend(again.map(|at| Reverse((at, serial))));
        left.iter().for_each(|lane| self.leave(lane));
        found
    }
}

/// Who has no descriptor left to look with knows nothing new: what was found last stands. A shortage is told once.
fn warn_of(why: &str, unable_at: &mut Option<Instant>) {
    let now = Instant::now();
    if unable_at.replace(now).is_none_or(|last| now - last > SHORTAGE_OVER) {
        warn!(why, "checks cannot run, for want of this node's own means: what they found last stands");
    }
}

/// Starts a run, as a task of its own unless it is over before it would have to wait. Only a mere connection is worth the
/// try: on this machine it stands, or is refused, within the call.
fn start(visit: impl Future<Output = ()> + Send + 'static, check: &Check) -> Option<Task> {
    let spec = &check.recipe;
    if !matches!(&spec.kind, CheckKind::Tcp(tcp) if tcp::is_bare(tcp)) {
        return Some(Task::spawn(visit));
    }
    let mut visit = Box::pin(visit);
    match visit.as_mut().now_or_never() {
        Some(()) => None,
        None => Some(Task::spawn(visit)),
    }
}

/// A check's own moment of each interval, on a tick.
fn phase(instance: &InstanceId, spec: &CheckSpec) -> Duration {
    let interval = spec.interval.as_nanos().max(1);
    let phase = u128::from(xxh3_64(format!("{instance}\0{}", spec.id).as_bytes())) % interval;
    Duration::from_nanos(u64::try_from(phase - phase % TICK.as_nanos()).unwrap_or_default())
}

/// The start after the one at `at`: a whole number of intervals after the check's own moment, and not right after a first
/// run that came when it was asked for.
fn next_start(origin: Instant, at: Instant, now: Instant, interval: Duration, phase: Duration) -> Instant {
    // Half an interval later lies between this start and the next. Of one that comes late, what was missed is left out.
    let after = (at + interval / 2).max(now).saturating_duration_since(origin).as_nanos();
    let (interval, phase) = (interval.as_nanos().max(1), phase.as_nanos());
    let beats = after.saturating_sub(phase).div_ceil(interval);
    let next = u64::try_from(phase + beats * interval).unwrap_or(u64::MAX);
    origin + Duration::from_nanos(next).min(FAR)
}

/// Findings that wait for the engine; beyond it runs do.
const MAX_TOLD: usize = 1024;
/// From one first run to the next: ten thousand start within two seconds.
const FIRST_GAP: Duration = Duration::from_micros(200);
/// How soon a check looks again that could not: twice as late each time, up to its interval or a minute.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(1);
pub(super) const MAX_BACKOFF: u32 = 60;
/// Without such a run for so long a shortage is over.
const SHORTAGE_OVER: Duration = Duration::from_secs(60);
/// Later than this is counted as late.
const LATE: Duration = Duration::from_millis(20);
/// What the moments of checks lie on: as many checks as share a tick, a fiftieth of those run in a second, share a wake.
const TICK: Duration = Duration::from_millis(20);
/// Further than any interval that is meant.
const FAR: Duration = Duration::from_secs(10 * 365 * 86_400);
