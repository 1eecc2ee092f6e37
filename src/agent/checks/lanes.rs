//! Lanes: who may run now, and who waits for whom.
//!
//! Each target, a host and a port, has a lane, and so have scripts and the machine's own resolver. What is over a lane's
//! limit waits there and nowhere else. All lanes to one host share a limit too, so that a host whose every port hangs is
//! not flooded and leaves room for the others. Whoever waits for that, or for the limit of all, is parked in turn.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use tokio::sync::Semaphore;

use super::Home;
use crate::model::{CheckKind, Host, Port};

/// What shares a limit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum LaneName {
    Target(Host, Option<Port>),
    /// The machine's own.
    Resolver,
    Scripts,
}

impl LaneName {
    /// Whose limit a run counts against. `None` for what is reported or watched, rather than run at intervals.
    pub(super) fn of(kind: &CheckKind, home: &Home) -> Option<Self> {
        let target = match kind {
            CheckKind::Http(check) => &check.url.target,
            CheckKind::Tcp(check) => &check.target,
            CheckKind::Udp(check) => &check.target,
            CheckKind::Grpc(check) => &check.target,
            CheckKind::Dns(check) => match &check.server {
                Some(server) => server,
                None => return Some(Self::Resolver),
            },
            CheckKind::Script(_) => return Some(Self::Scripts),
            CheckKind::Ttl(_) | CheckKind::Process(_) | CheckKind::Alias(_) => return None,
        };
        let host = target.host.as_ref().unwrap_or(&home.host);
        Some(Self::Target(host.clone(), target.port.or(home.port)))
    }

    fn host(&self) -> Option<&Host> {
        if let Self::Target(host, _) = self { Some(host) } else { None }
    }
}

/// How many run at a time: each holds descriptors, and half of this process's are for others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Those that have a place in a lane.
    running: usize,
    /// The scripts among them.
    scripts: usize,
    /// Those that are slow: of those that merely wait for an answer, and of scripts.
    pub(super) slow: usize,
    pub(super) slow_scripts: usize,
    /// Processes that are watched.
    pub(super) processes: usize,
}

impl Limits {
    /// What that many descriptors allow.
    pub(super) fn of(descriptors: u64) -> Self {
        let half = usize::try_from(descriptors / 2).unwrap_or(usize::MAX);
        let running = (half / 4).clamp(1, MAX_RUNNING);
        let processes = (half / 4).min(MAX_PROCESSES);
        let scripts = (running / 8).clamp(1, MAX_SCRIPTS);
        let slow_scripts = (half / 8 / OF_SCRIPT).clamp(1, MAX_SLOW_SCRIPTS);
        let taken = running + scripts * (OF_SCRIPT - 1) + slow_scripts * OF_SCRIPT + processes;
        let slow = half.saturating_sub(taken).clamp(1, MAX_SLOW);
        Self { running, scripts, slow, slow_scripts, processes }
    }

    /// In one lane: a quarter of few, so that a target that is merely asked often is not late, and of many a sixteenth, so
    /// that it takes sixteen that hang to slow down the rest.
    fn of_lane(self, name: &LaneName) -> usize {
        if let LaneName::Scripts = name { self.scripts } else { (self.running / 4).clamp(1, MAX_RUNNING / 16) }
    }

    /// Against one host: half of few, a quarter of many.
    fn of_host(self) -> usize {
        (self.running / 2).clamp(1, MAX_RUNNING / 4)
    }

    /// The slow against one host: a quarter as well.
    fn slow_of_host(self) -> usize {
        (self.slow / 4).max(1)
    }
}

#[derive(Debug)]
pub(super) struct Lanes {
    limits: Limits,
    lanes: HashMap<LaneName, Lane>,
    /// Those that some check looks at.
    hosts: HashMap<Host, Share>,
    /// How many hold a place in a lane.
    running: usize,
    parked: VecDeque<LaneName>,
}

/// The runs against one target.
#[derive(Debug, Default)]
struct Lane {
    running: usize,
    waiting: VecDeque<u64>,
    is_parked: bool,
}

/// What all runs against one host share.
#[derive(Debug)]
struct Share {
    checks: usize,
    running: usize,
    parked: VecDeque<LaneName>,
    slow: Arc<Semaphore>,
}

impl Share {
    fn new(limits: Limits) -> Self {
        let slow = Arc::new(Semaphore::new(limits.slow_of_host()));
        Self { checks: 0, running: 0, parked: VecDeque::new(), slow }
    }
}

impl Lanes {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, lanes: HashMap::new(), hosts: HashMap::new(), running: 0, parked: VecDeque::new() }
    }

    /// There is one more check that runs in this lane.
    pub(super) fn join(&mut self, name: &LaneName) {
        let Some(host) = name.host() else { return };
        self.hosts.entry(host.clone()).or_insert_with(|| Share::new(self.limits)).checks += 1;
    }

    /// There is one less. It does not run any more.
    pub(super) fn quit(&mut self, name: &LaneName, serial: u64) {
        if let Some(lane) = self.lanes.get_mut(name) {
            lane.waiting.retain(|waiting| *waiting != serial);
        }
        if let Some((host, share)) = name.host().and_then(|host| Some((host, self.hosts.get_mut(host)?))) {
            share.checks -= 1;
            if share.checks == 0 {
                let parked = self.hosts.remove(host).map(|share| share.parked).unwrap_or_default();
                for name in parked {
                    self.lanes.get_mut(&name).into_iter().for_each(|lane| lane.is_parked = false);
                }
            }
        }
    }

    /// A run is due: [`Lanes::next`] says when it may start.
    pub(super) fn wait(&mut self, name: &LaneName, serial: u64) {
        self.lanes.entry(name.clone()).or_default().waiting.push_back(serial);
    }

    /// The next of a lane that may start now. It takes a place.
    pub(super) fn next(&mut self, name: &LaneName) -> Option<u64> {
        let (lane, limits) = (self.lanes.get_mut(name)?, self.limits);
        let share = name.host().and_then(|host| self.hosts.get_mut(host));
        match (lane.waiting.front().copied(), share) {
            (None, _) if lane.running == 0 => {
                self.lanes.remove(name);
                None
            }
            (None, _) => None,
            (Some(_), _) if lane.running >= limits.of_lane(name) => None,
            (Some(_), Some(share)) if share.running >= limits.of_host() => lane.park(name, &mut share.parked),
            (Some(_), _) if self.running >= limits.running => lane.park(name, &mut self.parked),
            (Some(first), share) => {
                share.into_iter().for_each(|share| share.running += 1);
                lane.running += 1;
                self.running += 1;
                lane.waiting.pop_front();
                Some(first)
            }
        }
    }

    /// Gives the place of a run back: whom its host kept out waits in turn with all others now. [`Lanes::unpark`] says who
    /// has waited longest.
    pub(super) fn leave(&mut self, name: &LaneName) {
        self.running -= 1;
        self.lanes.get_mut(name).into_iter().for_each(|lane| lane.running -= 1);
        let Some(share) = name.host().and_then(|host| self.hosts.get_mut(host)) else { return };
        share.running -= 1;
        while let Some(first) = share.parked.pop_front() {
            let lane = self.lanes.get_mut(&first);
            if lane.is_some_and(|lane| lane.stays_parked()) {
                self.parked.push_back(first);
                return;
            }
        }
    }

    /// The next parked lane, while there is room.
    pub(super) fn unpark(&mut self) -> Option<LaneName> {
        if self.running >= self.limits.running {
            return None;
        }
        let name = self.parked.pop_front()?;
        self.lanes.get_mut(&name).into_iter().for_each(|lane| lane.is_parked = false);
        Some(name)
    }

    /// The room that a host has for runs that are slow.
    pub(super) fn slow(&self, name: &LaneName) -> Option<Arc<Semaphore>> {
        name.host().and_then(|host| self.hosts.get(host)).map(|share| Arc::clone(&share.slow))
    }
}

impl Lane {
    /// Whether anybody still waits there; a lane where nobody does is parked no more.
    fn stays_parked(&mut self) -> bool {
        self.is_parked = !self.waiting.is_empty();
        self.is_parked
    }

    fn park(&mut self, name: &LaneName, queue: &mut VecDeque<LaneName>) -> Option<u64> {
        if !std::mem::replace(&mut self.is_parked, true) {
            queue.push_back(name.clone());
        }
        None
    }
}

/// Runs at a time, without the slow.
const MAX_RUNNING: usize = 1024;
/// Scripts at a time, without the slow: each is a process.
const MAX_SCRIPTS: usize = 16;
/// Runs that are slow, at a time.
pub(super) const MAX_SLOW: usize = 4096;
const MAX_SLOW_SCRIPTS: usize = 64;
/// Processes that are watched: far more than a machine starts.
const MAX_PROCESSES: usize = 1 << 16;
/// The descriptors of a script: two pipes, and what tells of its end.
const OF_SCRIPT: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes() -> Lanes {
        Lanes::new(Limits::of(u64::MAX))
    }

    fn lane(host: u8, port: u16) -> LaneName {
        LaneName::Target(Host::Address([10, 0, 0, host].into()), Port::try_from(port).ok())
    }

    /// Lanes with `count` runs that are due in each of these, and how many of them start.
    fn due(lanes: &mut Lanes, names: &[LaneName], count: u64) -> usize {
        names.iter().flat_map(|name| std::iter::repeat_n(name, count as usize)).for_each(|name| {
            lanes.join(name);
            lanes.wait(name, 0);
        });
        names.iter().map(|name| std::iter::from_fn(|| lanes.next(name)).count()).sum()
    }

    #[test]
    fn runs_take_no_more_than_half_of_the_descriptors() {
        for descriptors in [64, 256, 1024, 4096, 20_000, 1 << 20] {
            let Limits { running, scripts, slow, slow_scripts, processes } = Limits::of(descriptors);
            let all = running - scripts + slow + processes + OF_SCRIPT * (scripts + slow_scripts);
            assert!(all as u64 <= descriptors / 2, "{all} of {descriptors}");
        }
        let Limits { running, slow, processes, .. } = Limits::of(1024);
        assert_eq!((running, slow, processes), (128, 161, 128));
        assert_eq!((Limits::of(20_000).running, Limits::of(20_000).slow), (MAX_RUNNING, MAX_SLOW));
        let mut lanes = Lanes::new(Limits::of(1024));
        let hosts: Vec<_> = (1..=20).map(|host| lane(host, 1)).collect();
        assert_eq!(due(&mut lanes, &hosts, 100), 128);
    }

    #[test]
    fn one_target_of_few_places_has_a_good_part_of_them() {
        let mut lanes = Lanes::new(Limits::of(1024));
        assert_eq!(due(&mut lanes, &[lane(1, 1)], 100), 32);
        assert_eq!(due(&mut lanes, &[lane(1, 2), lane(1, 3)], 100), 32, "half for one host");
        assert_eq!(due(&mut lanes, &[lane(2, 1), lane(3, 1)], 100), 64);
    }

    #[test]
    fn all_ports_of_a_host_share_its_room_and_take_none_from_others() {
        let mut lanes = lanes();
        let ports: Vec<_> = (1..=8).map(|port| lane(1, port)).collect();
        assert_eq!(due(&mut lanes, &ports, 100), MAX_RUNNING / 4);
        assert_eq!(due(&mut lanes, &[lane(2, 1)], 1), 1);
        assert_eq!(due(&mut lanes, &[LaneName::Scripts, LaneName::Resolver], 100), MAX_SCRIPTS + MAX_RUNNING / 16);
        // Each place that is given back goes to who was parked, in turn, until all have run.
        let mut started = [0; 9];
        let mut running: Vec<_> = ports[..4].iter().flat_map(|name| std::iter::repeat_n(name.clone(), 64)).collect();
        while let Some(name) = running.pop() {
            lanes.leave(&name);
            let mut may = Vec::new();
            while let Some(parked) = lanes.unpark() {
                may.extend(lanes.next(&parked).map(|_| parked));
            }
            may.extend(lanes.next(&name).map(|_| name));
            for name in may {
                let LaneName::Target(_, Some(port)) = &name else { panic!("{name:?}") };
                started[usize::from(u16::from(*port))] += 1;
                running.push(name);
            }
        }
        assert_eq!(started, [0, 36, 36, 36, 36, 100, 100, 100, 100]);
        assert!(lanes.lanes.keys().all(|name| name.host() != ports[0].host()), "{lanes:?}");
        ports.iter().for_each(|name| (0..100).for_each(|_| lanes.quit(name, 0)));
        assert_eq!(lanes.hosts.len(), 1, "a host that no check looks at is forgotten");
    }

    #[test]
    fn who_waits_for_the_limit_of_all_is_let_in_by_whoever_leaves() {
        let mut lanes = lanes();
        let hosts: Vec<_> = (1..=20).map(|host| lane(host, 1)).collect();
        assert_eq!(due(&mut lanes, &hosts, 60), MAX_RUNNING);
        // The last four of them did not get all, the 18th not all either.
        for host in [17, 18, 19, 17] {
            lanes.leave(&hosts[0]);
            let parked = lanes.unpark().unwrap();
            assert_eq!((&parked, lanes.next(&parked)), (&hosts[host], Some(0)));
            // As whoever runs, he asks for more, and waits in turn.
            assert_eq!((lanes.unpark(), lanes.next(&parked)), (None, None), "one for one");
        }
    }

    #[test]
    fn a_host_that_hangs_hands_no_place_on_to_itself_while_others_wait() {
        let mut lanes = lanes();
        let hung: Vec<_> = (1..=4).flat_map(|host| (1..=8).map(move |port| lane(host, port))).collect();
        assert_eq!(due(&mut lanes, &hung, 100), MAX_RUNNING);
        let other = lane(9, 1);
        assert_eq!(due(&mut lanes, std::slice::from_ref(&other), 1), 0);
        lanes.leave(&hung[0]);
        let first = lanes.unpark().unwrap();
        assert_eq!((&first, lanes.next(&first)), (&other, Some(0)));
        lanes.leave(&other);
        let own = std::iter::from_fn(|| lanes.unpark()).next().unwrap();
        assert_eq!(own.host(), hung[0].host(), "then its own turn comes");
    }
}
