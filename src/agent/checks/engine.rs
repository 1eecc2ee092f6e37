//! The engine: one task that keeps the time of all checks and lets each run as a task of its own.
//!
//! A check starts at its own moment of each interval, derived from its name, so that thousands spread out, and the next
//! start is counted from that moment, not from the last end, so that nothing drifts. A run that is not over when its next
//! is due has that one skipped. Each target host has a lane: what is over the lane's limit waits there and nowhere else.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    sync::mpsc,
    task::AbortHandle,
    time::{Instant, sleep_until, timeout},
};
use xxhash_rust::xxh3::xxh3_64;

use super::{Finding, Home, Means, Order, alias, process, run};
use crate::{
    agent::peers::Arrival,
    mesh::Input,
    model::{CheckKind, CheckName, CheckSpec, Host, InstanceId, Registration},
};

/// What a run or a watch tells the engine: of which check, and what.
pub(super) type Told = (u64, Finding);

pub(super) struct Engine {
    means: Arc<Means>,
    arrivals: mpsc::Sender<Arrival>,
    told: (mpsc::Sender<Told>, mpsc::Receiver<Told>),
    checks: HashMap<u64, Check>,
    serials: HashMap<InstanceId, HashMap<CheckName, u64>>,
    next_serial: u64,
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    lanes: HashMap<String, Lane>,
    running: usize,
    /// Lanes with room whose checks wait for others to end.
    parked: VecDeque<String>,
    /// The moment that the phases of all checks are counted from.
    origin: Instant,
    /// When the next first run may start.
    first_at: Instant,
}

/// One check that is run or watched here.
struct Check {
    instance: InstanceId,
    spec: Arc<CheckSpec>,
    home: Arc<Home>,
    lane: String,
    state: State,
    last: Option<Finding>,
    /// How often the last finding came in a row.
    same: u32,
}

enum State {
    Idle,
    Waiting,
    /// The task ends with the check.
    Running {
        _task: Task,
    },
}

/// A task that lives as long as this.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The runs against one host.
#[derive(Default)]
struct Lane {
    running: usize,
    waiting: VecDeque<u64>,
}

impl Engine {
    pub(super) fn new(means: Arc<Means>, arrivals: mpsc::Sender<Arrival>) -> Self {
        let now = Instant::now();
        Self {
            means,
            arrivals,
            told: mpsc::channel(MAX_TOLD),
            checks: HashMap::new(),
            serials: HashMap::new(),
            next_serial: 0,
            due: BinaryHeap::new(),
            lanes: HashMap::new(),
            running: 0,
            parked: VecDeque::new(),
            origin: now,
            first_at: now,
        }
    }

    /// Runs until nobody gives orders any more.
    pub(super) async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        loop {
            let next = self.due.peek().map_or_else(|| Instant::now() + IDLE, |Reverse((at, _))| *at);
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Watch(registration, host)) => self.watch(&registration, &host),
                    Some(Order::Forget(instance)) => self.forget(&instance),
                    None => return,
                },
                Some((serial, finding)) = self.told.1.recv() => {
                    if let Some(found) = self.hear(serial, finding) && self.arrivals.send(Arrival::Input(found)).await.is_err() {
                        return;
                    }
                }
                () = sleep_until(next) => self.start_due(Instant::now()),
            }
        }
    }

    fn watch(&mut self, registration: &Arc<Registration>, host: &Host) {
        let host = registration.address.clone().unwrap_or_else(|| host.clone());
        let home = Arc::new(Home { instance: registration.id.clone(), host, port: registration.port });
        let mut old = self.serials.remove(&registration.id).unwrap_or_default();
        let mut serials = HashMap::new();
        for spec in registration.checks.iter().filter(|spec| spec.kind.ttl().is_none()) {
            let as_before = |serial: &u64| self.checks.get(serial).is_some_and(|c| *c.spec == *spec && c.home == home);
            let serial = match old.get(&spec.id).copied().filter(as_before) {
                Some(serial) => {
                    old.remove(&spec.id);
                    serial
                }
                None => self.begin(spec, &home),
            };
            serials.insert(spec.id.clone(), serial);
        }
        old.into_values().for_each(|serial| self.end(serial));
        if !serials.is_empty() {
            self.serials.insert(registration.id.clone(), serials);
        }
    }

    fn forget(&mut self, instance: &InstanceId) {
        let serials = self.serials.remove(instance).unwrap_or_default();
        serials.into_values().for_each(|serial| self.end(serial));
    }

    fn begin(&mut self, spec: &CheckSpec, home: &Arc<Home>) -> u64 {
        self.next_serial += 1;
        let serial = self.next_serial;
        let told = self.told.0.clone();
        let state = match spec.kind.clone() {
            CheckKind::Process(process) => {
                let watch = process::watch(process, spec.interval, serial, told);
                State::Running { _task: Task(tokio::spawn(watch).abort_handle()) }
            }
            CheckKind::Alias(alias) => {
                let watch = alias::watch(alias, spec.interval, Arc::clone(&self.means.view), serial, told);
                State::Running { _task: Task(tokio::spawn(watch).abort_handle()) }
            }
            _ => {
                // The first result is wanted at once, of thousands one after the other.
                self.first_at = self.first_at.max(Instant::now()) + FIRST_GAP;
                self.due.push(Reverse((self.first_at, serial)));
                State::Idle
            }
        };
        let (lane, spec, home) = (lane(&spec.kind, home), Arc::new(spec.clone()), Arc::clone(home));
        let instance = home.instance.clone();
        self.checks.insert(serial, Check { instance, spec, home, lane, state, last: None, same: 0 });
        serial
    }

    fn end(&mut self, serial: u64) {
        let Some(check) = self.checks.remove(&serial) else { return };
        match check.state {
            State::Running { .. } if is_run(&check.spec.kind) => self.leave(&check.lane),
            State::Waiting => {
                if let Some(lane) = self.lanes.get_mut(&check.lane) {
                    lane.waiting.retain(|waiting| *waiting != serial);
                }
            }
            State::Running { .. } | State::Idle => {}
        }
    }

    /// Starts all whose time has come, or has them wait for their lane.
    fn start_due(&mut self, now: Instant) {
        while let Some(Reverse((at, serial))) = self.due.peek().copied().filter(|Reverse((at, _))| *at <= now) {
            self.due.pop();
            let Some(check) = self.checks.get_mut(&serial) else { continue };
            self.due.push(Reverse((next_start(self.origin, at, now, &check.instance, &check.spec), serial)));
            if matches!(check.state, State::Idle) {
                check.state = State::Waiting;
                let name = check.lane.clone();
                self.lanes.entry(name.clone()).or_default().waiting.push_back(serial);
                self.admit(name);
            } else {
                self.means.traffic.checks_skipped.add(1);
            }
        }
    }

    /// Starts what waits in a lane, as far as there is room.
    fn admit(&mut self, name: String) {
        let Some(lane) = self.lanes.get_mut(&name) else { return };
        let most = if name == SCRIPTS { MAX_SCRIPTS } else { MAX_PER_HOST };
        while lane.running < most {
            if self.running >= MAX_RUNNING && !lane.waiting.is_empty() {
                return self.parked.push_back(name);
            }
            let Some(serial) = lane.waiting.pop_front() else { break };
            let Some(check) = self.checks.get_mut(&serial) else { continue };
            lane.running += 1;
            self.running += 1;
            self.means.traffic.checks_run.add(1);
            let (spec, home) = (Arc::clone(&check.spec), Arc::clone(&check.home));
            let task = tokio::spawn(visit(spec, home, Arc::clone(&self.means), serial, self.told.0.clone()));
            check.state = State::Running { _task: Task(task.abort_handle()) };
        }
        if lane.running == 0 && lane.waiting.is_empty() {
            self.lanes.remove(&name);
        }
    }

    /// A run is over: others may start.
    fn leave(&mut self, name: &str) {
        self.running -= 1;
        if let Some(lane) = self.lanes.get_mut(name) {
            lane.running -= 1;
        }
        if let Some(parked) = self.parked.pop_front() {
            self.admit(parked);
        }
        self.admit(name.to_owned());
    }

    /// Takes in what a check found; what is to be told of it.
    fn hear(&mut self, serial: u64, finding: Finding) -> Option<Input> {
        let check = self.checks.get_mut(&serial)?;
        let lane = is_run(&check.spec.kind).then(|| {
            check.state = State::Idle;
            check.lane.clone()
        });
        check.same = if check.last.as_ref() == Some(&finding) { check.same.saturating_add(1) } else { 1 };
        // The mesh counts how many come in a row, as far as it has to.
        let is_news = check.same <= check.spec.rise.max(check.spec.fall);
        let found = is_news.then(|| Input::Checked {
            instance: check.instance.clone(),
            check: check.spec.id.clone(),
            status: finding.status,
            output: finding.output.as_str().into(),
        });
        check.last = Some(finding);
        if let Some(lane) = lane {
            self.leave(&lane);
        }
        found
    }
}

/// One run, which ends in time and with a finding whatever happens.
async fn visit(spec: Arc<CheckSpec>, home: Arc<Home>, means: Arc<Means>, serial: u64, told: mpsc::Sender<Told>) {
    let ran = timeout(spec.timeout, AssertUnwindSafe(run(&spec.kind, &home, &means)).catch_unwind()).await;
    let finding = match ran {
        Ok(Ok(finding)) => finding,
        Ok(Err(_)) => Finding::critical("the check panicked, which is a defect; the log tells more"),
        Err(_) => Finding::critical(format!("no answer within {}", crate::model::format_duration(spec.timeout))),
    };
    // Nobody listens only while the agent stops.
    let _ = told.send((serial, finding)).await;
}

/// Whether it is run at intervals, rather than watched.
const fn is_run(kind: &CheckKind) -> bool {
    !matches!(kind, CheckKind::Ttl(_) | CheckKind::Process(_) | CheckKind::Alias(_))
}

/// The start after the one at `at`: a whole number of intervals after the check's own moment, and not right after a first
/// run that came when it was asked for.
fn next_start(origin: Instant, at: Instant, now: Instant, instance: &InstanceId, spec: &CheckSpec) -> Instant {
    let interval = spec.interval.as_nanos().max(1);
    let phase = u128::from(xxh3_64(format!("{instance}\0{}", spec.id).as_bytes())) % interval;
    // Half an interval later lies between this start and the next. Of one that comes late, what was missed is left out.
    let after = (at + spec.interval / 2).max(now).saturating_duration_since(origin).as_nanos();
    let beats = after.saturating_sub(phase).div_ceil(interval);
    let next = u64::try_from(phase + beats * interval).unwrap_or(u64::MAX);
    origin + Duration::from_nanos(next).min(FAR)
}

/// What shares a limit: all that goes to one host, and all scripts.
fn lane(kind: &CheckKind, home: &Home) -> String {
    let host = match kind {
        CheckKind::Http(check) => &check.url.target.host,
        CheckKind::Tcp(check) => &check.target.host,
        CheckKind::Udp(check) => &check.target.host,
        CheckKind::Grpc(check) => &check.target.host,
        CheckKind::Dns(check) => match &check.server {
            Some(server) => &server.host,
            None => return "the resolver".into(),
        },
        CheckKind::Script(_) => return SCRIPTS.into(),
        CheckKind::Ttl(_) | CheckKind::Process(_) | CheckKind::Alias(_) => return String::new(),
    };
    host.as_ref().unwrap_or(&home.host).to_string()
}

/// Runs at a time: each is a socket.
const MAX_RUNNING: usize = 1024;
/// Runs at a time against one host: a sixteenth, so that it takes sixteen hung hosts to slow down the rest.
const MAX_PER_HOST: usize = 64;
/// Scripts at a time: each is a process.
const MAX_SCRIPTS: usize = 16;
/// The lane of scripts; no host is called so.
const SCRIPTS: &str = "a script";
/// Findings that wait for the engine; beyond it runs do.
const MAX_TOLD: usize = 1024;
/// From one first run to the next: ten thousand start within two seconds.
const FIRST_GAP: Duration = Duration::from_micros(200);
/// How long to sleep when there is nothing to do; an order wakes the engine sooner.
const IDLE: Duration = Duration::from_secs(3600);
/// Further than any interval that is meant.
const FAR: Duration = Duration::from_secs(10 * 365 * 86_400);
