//! The main job on meshes that share one clock and a network without delay or loss; all else is the simulator's.

mod barred;
mod expiry;
mod flips;
mod forgeries;
mod moves;
mod protection;
mod ready;
mod singles;
pub(super) mod vouchers;

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::model::{CheckSpec, Health, HealthReport, MemberState};

/// Meshes wired to each other: whatever one sends the other has.
pub(super) struct Wired {
    pub(super) now: Time,
    pub(super) nodes: BTreeMap<NodeId, Mesh>,
    links: BTreeSet<(NodeId, NodeId)>,
    pub(super) dead: BTreeSet<NodeId>,
    /// What the notary of whoever starts goes by.
    under: vouchers::Papers,
    /// What each has on its disk of the health of its instances.
    kept: BTreeMap<(NodeId, InstanceId), HealthReport>,
}

impl Wired {
    pub(super) fn of(count: u16) -> (Self, Vec<NodeId>) {
        let (nodes, links, dead, kept) = Default::default();
        let mut wired = Self { now: Time::ZERO, nodes, links, dead, under: vouchers::FIRST, kept };
        let ids: Vec<NodeId> = (0..count).map(|n| wired.start(n, 1_000, Vec::new())).collect();
        for id in &ids {
            let seeds = if *id == ids[0] { Vec::new() } else { vec![address(0)] };
            wired.nodes.get_mut(id).unwrap().command(Time::ZERO, Command::Join(seeds)).unwrap();
        }
        wired.settle();
        (wired, ids)
    }

    fn start(&mut self, n: u16, epoch: u64, registrations: Vec<Arc<Registration>>) -> NodeId {
        let node = Node {
            name: format!("n{n}").as_str().try_into().unwrap(),
            addresses: vec![address(n)],
            datacenter: "dc1".into(),
            zone: "".into(),
            version: "0".into(),
            meta: BTreeMap::new(),
            maintenance: None,
            voucher: bytes::Bytes::new(),
        };
        let mesh = "test".try_into().unwrap();
        let (epoch, boot, seed) = (Epoch(epoch), epoch, u64::from(n));
        let notary = vouchers::under(self.under, &node.name, boot);
        let config = Config { mesh, node, known: BTreeMap::new(), epoch, boot, seed, unix_millis: UNIX_MILLIS, notary };
        let mesh = Mesh::new(config, registrations, self.now);
        let id = mesh.id();
        self.nodes.insert(id, mesh);
        id
    }

    /// A new process of node `n`, which finds the mesh through the first.
    pub(super) fn restart(&mut self, n: u16, epoch: u64, registrations: Vec<Arc<Registration>>) {
        let id = self.start(n, epoch, registrations);
        self.dead.remove(&id);
        self.links.retain(|(a, b)| *a != id && *b != id);
        self.order(id, Command::Join(vec![address(0)]));
    }

    pub(super) fn at(&mut self, id: NodeId) -> &mut Mesh {
        self.nodes.get_mut(&id).unwrap()
    }

    pub(super) fn order(&mut self, id: NodeId, command: Command) {
        let now = self.now;
        self.at(id).command(now, command).unwrap();
        self.settle();
        self.run(Duration::from_millis(10));
    }

    fn link(&mut self, a: NodeId, b: NodeId) {
        if self.links.insert((a, b)) {
            self.links.insert((b, a));
            let [of_a, of_b] = [a, b].map(|id| self.nodes[&id].hello());
            let now = self.now;
            self.at(a).handle(now, Input::Connected(of_b));
            self.at(b).handle(now, Input::Connected(of_a));
        }
    }

    pub(super) fn settle(&mut self) {
        while let Some((from, output)) = self.nodes.iter_mut().find_map(|(id, mesh)| Some((*id, mesh.poll()?))) {
            let now = self.now;
            match output {
                Output::Packet(to, _) | Output::Message(to, _) if self.dead.contains(&to) => {}
                Output::Packet(to, bytes) => {
                    self.link(from, to);
                    self.at(to).handle(now, Input::Packet(from, bytes));
                }
                Output::Message(to, bytes) => {
                    self.link(from, to);
                    self.at(to).handle(now, Input::Message(from, bytes));
                }
                Output::Drop(peer) if !self.dead.contains(&peer) => {
                    self.links.retain(|(a, b)| (*a, *b) != (from, peer) && (*a, *b) != (peer, from))
                }
                Output::Dial(address) => {
                    let to = self
                        .nodes
                        .iter()
                        .find(|(_, mesh)| mesh.hello().node.addresses[0] == address)
                        .map(|(id, _)| *id);
                    if let Some(to) = to {
                        self.link(from, to);
                    }
                }
                Output::Keep(Some(id)) => {
                    self.kept.extend(self.nodes[&from].health_report(&id).map(|report| ((from, id), report)));
                }
                _ => {}
            }
        }
    }

    pub(super) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let next =
                self.nodes.iter().filter(|(id, _)| !self.dead.contains(id)).map(|(_, mesh)| mesh.deadline()).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            let due: Vec<NodeId> =
                self.nodes.iter().filter(|(_, mesh)| mesh.deadline() <= next).map(|(id, _)| *id).collect();
            for id in due.into_iter().filter(|id| !self.dead.contains(id)).collect::<Vec<_>>() {
                let now = self.now;
                self.at(id).handle(now, Input::Wake);
            }
            self.settle();
        }
        self.now = end;
    }

    pub(super) fn seen(&self, id: NodeId, name: &str) -> usize {
        self.nodes[&id].service(&name.try_into().unwrap()).map_or(0, |instances| instances.len())
    }
}

/// When it all begins.
const UNIX_MILLIS: u64 = 1_000_000;

fn address(n: u16) -> SocketAddr {
    ([127, 0, 0, 1], 7000 + n).into()
}

pub(super) fn web() -> Command {
    Command::Register(Arc::new(Registration::new("web", 80).unwrap()))
}

#[test]
fn a_registration_is_seen_everywhere_with_one_copy_each() {
    let (mut wired, ids) = Wired::of(30);
    wired.run(Duration::from_secs(10));
    let roots: BTreeSet<u64> = wired.nodes.values().map(Mesh::root).collect();
    assert_eq!(roots.len(), 1, "all know the same");
    let copies = |wired: &Wired| wired.nodes.values().map(|mesh| mesh.stats().rumors_received).sum::<u64>();
    let before = copies(&wired);
    wired.order(ids[7], web());
    assert!(ids.iter().all(|id| wired.seen(*id, "web") == 1));
    assert_eq!(copies(&wired) - before, 29);
    wired.order(ids[7], Command::Deregister("web".try_into().unwrap()));
    assert!(ids.iter().all(|id| wired.nodes[id].service(&"web".try_into().unwrap()).is_none()));
}

#[test]
fn who_differs_is_who_differs_still_after_a_sync() {
    let (mut wired, ids) = Wired::of(5);
    wired.run(Duration::from_secs(20));
    let agreements = |wired: &Wired| wired.nodes.values().map(Mesh::agreement).collect::<Vec<_>>();
    for id in &ids {
        wired.order(*id, web());
        assert_eq!(agreements(&wired), [1.0; 5], "a write is no disagreement");
    }
    let mut later = wired.now;
    for (wait, hash, expected) in [(0, 1, 1.0), (5, 2, 0.75), (5, 3, 0.75), (0, 0, 1.0)] {
        later = later + Duration::from_secs(wait);
        let mesh = wired.at(ids[0]);
        let hash = if hash == 0 { mesh.root() } else { hash };
        mesh.on_root(later, ids[1], hash);
        assert_eq!(mesh.agreement(), expected);
    }
}

#[test]
fn a_death_hides_instances_and_a_return_shows_them() {
    let (mut wired, ids) = Wired::of(5);
    wired.order(ids[2], web());
    wired.run(Duration::from_secs(5));
    wired.dead.insert(ids[2]);
    wired.run(Duration::from_secs(6));
    for id in ids.iter().filter(|id| **id != ids[2]) {
        assert_eq!(wired.seen(*id, "web"), 0);
        assert_eq!(wired.nodes[id].member(ids[2]).unwrap().state, MemberState::Down);
    }
    wired.restart(2, 2_000, vec![Arc::new(Registration::new("web", 81).unwrap())]);
    wired.run(Duration::from_secs(1));
    assert!(ids.iter().all(|id| wired.seen(*id, "web") == 1));
}

#[test]
fn who_leaves_is_gone_at_once() {
    let (mut wired, ids) = Wired::of(5);
    wired.order(ids[1], web());
    wired.run(Duration::from_secs(5));
    wired.order(ids[1], Command::Leave);
    for id in ids.iter().filter(|id| **id != ids[1]) {
        assert_eq!(wired.seen(*id, "web"), 0);
        assert_eq!(wired.nodes[id].member(ids[1]).unwrap().state, MemberState::Left);
    }
}

#[test]
fn who_left_and_starts_again_is_seen_everywhere_at_once() {
    let (mut wired, ids) = Wired::of(30);
    wired.run(Duration::from_secs(10));
    wired.order(ids[7], Command::Leave);
    wired.dead.insert(ids[7]);
    wired.run(Duration::from_secs(10));
    wired.restart(7, 2_000, vec![Arc::new(Registration::new("web", 81).unwrap())]);
    for id in ids.iter().filter(|id| **id != ids[7]) {
        assert_eq!((state(&wired, *id, ids[7]), wired.seen(*id, "web")), (MemberState::Alive, 1));
    }
}

#[test]
fn who_is_made_to_leave_and_lives_comes_back_to_all() {
    let (mut wired, ids) = Wired::of(12);
    wired.order(ids[4], web());
    wired.run(Duration::from_secs(5));
    wired.dead.insert(ids[4]);
    wired.run(Duration::from_secs(8));
    wired.order(ids[0], Command::ForceLeave(ids[4]));
    wired.dead.remove(&ids[4]);
    wired.run(Duration::from_secs(20));
    for id in ids.iter().filter(|id| **id != ids[4]) {
        assert_eq!((state(&wired, *id, ids[4]), wired.seen(*id, "web")), (MemberState::Alive, 1));
    }
    assert!(wired.nodes[&ids[4]].epoch() > Epoch(1_000), "under a larger epoch");
}

fn will(wired: &mut Wired, heirs: &[NodeId], node: NodeId, epoch: u64) {
    for heir in heirs {
        let now = wired.now;
        wired.at(*heir).handle(now, Input::Will { node, epoch: Epoch(epoch) });
    }
    wired.settle();
}

pub(super) fn state(wired: &Wired, at: NodeId, of: NodeId) -> MemberState {
    wired.nodes[&at].member(of).unwrap().state
}

#[test]
fn a_last_will_told_to_three_is_known_to_all_at_once() {
    let (mut wired, ids) = Wired::of(9);
    wired.order(ids[4], web());
    wired.run(Duration::from_secs(5));
    wired.dead.insert(ids[4]);
    wired.run(Duration::from_millis(100));
    will(&mut wired, &[ids[0], ids[1], ids[2]], ids[4], 1_000);
    for id in ids.iter().filter(|id| **id != ids[4]) {
        assert_eq!((state(&wired, *id, ids[4]), wired.seen(*id, "web")), (MemberState::Down, 0));
        assert_eq!(wired.nodes[id].explain(ids[4]).unwrap().cause, Cause::Will);
    }
}

#[test]
fn a_last_will_told_to_one_is_looked_into() {
    let (mut wired, ids) = Wired::of(9);
    wired.run(Duration::from_secs(5));
    wired.dead.insert(ids[4]);
    will(&mut wired, &ids[..1], ids[4], 1_000);
    assert_eq!(state(&wired, ids[0], ids[4]), MemberState::Down);
    assert!(state(&wired, ids[1], ids[4]).is_shown());
    wired.run(Duration::from_secs(3));
    assert!(ids.iter().filter(|id| **id != ids[4]).all(|id| state(&wired, *id, ids[4]) == MemberState::Down));
}

#[test]
fn a_will_of_who_lives_or_of_an_earlier_life_changes_nothing_for_long() {
    let (mut wired, ids) = Wired::of(9);
    wired.run(Duration::from_secs(5));
    will(&mut wired, &ids[..3], ids[4], 999);
    assert!(ids.iter().filter(|id| **id != ids[4]).all(|id| state(&wired, *id, ids[4]) == MemberState::Alive));
    will(&mut wired, &ids[..3], ids[4], 1_000);
    wired.run(Duration::from_secs(3));
    assert!(ids.iter().filter(|id| **id != ids[4]).all(|id| state(&wired, *id, ids[4]) == MemberState::Alive));
}

#[test]
fn an_heir_tells_those_it_is_linked_with_although_others_told_it_first() {
    let (mut wired, ids) = Wired::of(9);
    wired.run(Duration::from_secs(5));
    wired.dead.insert(ids[4]);
    will(&mut wired, &ids[..3], ids[4], 1_000);
    assert_eq!(state(&wired, ids[6], ids[4]), MemberState::Down);
    let (now, linked) = (wired.now, wired.links.iter().filter(|(a, _)| *a == ids[6]).count() - 1);
    wired.at(ids[6]).handle(now, Input::Will { node: ids[4], epoch: Epoch(1_000) });
    let told = std::iter::from_fn(|| wired.at(ids[6]).poll()).filter(|output| matches!(output, Output::Packet(..)));
    assert_eq!(told.count(), linked);
}

#[test]
fn who_is_down_can_be_made_to_leave_and_who_is_alive_cannot() {
    let (mut wired, ids) = Wired::of(5);
    wired.run(Duration::from_secs(5));
    let now = wired.now;
    let name = wired.nodes[&ids[2]].hello().node.name.to_string();
    let refused = wired.at(ids[0]).command(now, Command::ForceLeave(ids[2])).unwrap_err();
    assert_eq!(refused, Rejected::Alive(name, MemberState::Alive));
    wired.dead.insert(ids[2]);
    wired.run(Duration::from_secs(8));
    wired.order(ids[0], Command::ForceLeave(ids[2]));
    for id in ids.iter().filter(|id| **id != ids[2]) {
        assert_eq!(state(&wired, *id, ids[2]), MemberState::Left);
        assert_eq!(wired.nodes[id].explain(ids[2]).unwrap().cause, Cause::Forced);
    }
}

#[test]
fn others_say_how_they_see_a_member() {
    let (mut wired, ids) = Wired::of(4);
    wired.run(Duration::from_secs(5));
    wired.order(ids[0], Command::Inquire(ids[3]));
    let told = wired.nodes[&ids[0]].explain(ids[3]).unwrap();
    let mut by: Vec<NodeId> = told.testimonies.iter().map(|testimony| testimony.by).collect();
    by.sort_unstable();
    let mut others = vec![ids[1], ids[2]];
    others.sort_unstable();
    assert_eq!(by, others);
    assert!(told.testimonies.iter().all(|t| t.state == MemberState::Alive && t.heard_ago.is_some()));
}

#[test]
fn a_ttl_that_runs_out_is_critical_everywhere() {
    let (mut wired, ids) = Wired::of(3);
    let checked = Registration { checks: vec![ttl()], ..Registration::new("web", 80).unwrap() };
    wired.order(ids[0], Command::Register(Arc::new(checked)));
    let health = |wired: &Wired| wired.nodes[&ids[2]].service(&"web".try_into().unwrap()).unwrap()[0].health();
    assert_eq!(health(&wired), Health::Critical);
    let (instance, check) = ("web".try_into().unwrap(), "alive".try_into().unwrap());
    wired.order(ids[0], Command::Report { instance, check, status: Health::Passing, output: "up".into() });
    assert_eq!(health(&wired), Health::Passing);
    wired.run(Duration::from_secs(11));
    assert_eq!(health(&wired), Health::Critical);
}

#[test]
fn who_registers_the_same_again_by_consul_s_rules_is_not_silent() {
    let passing = CheckSpec { initial: Some(Health::Passing), ..ttl() };
    for (spec, kept) in [(passing.clone().by_consuls_rules(), Health::Passing), (passing, Health::Critical)] {
        let (mut wired, id) = checked(spec.clone());
        for _ in 0..3 {
            wired.run(Duration::from_secs(7));
            watch(&mut wired, id, spec.clone());
        }
        assert_eq!(health(&wired, id), kept);
        wired.run(Duration::from_secs(11));
        watch(&mut wired, id, spec);
        assert_eq!(health(&wired, id), Health::Critical, "to register is not to report");
    }
}

/// One mesh with one instance and this check.
fn checked(spec: CheckSpec) -> (Wired, NodeId) {
    let (mut wired, ids) = Wired::of(1);
    watch(&mut wired, ids[0], spec);
    (wired, ids[0])
}

fn watch(wired: &mut Wired, id: NodeId, spec: CheckSpec) {
    let registration = Registration { checks: vec![spec], ..Registration::new("web", 80).unwrap() };
    wired.order(id, Command::Register(Arc::new(registration)));
}

/// What the check stands at after a result.
fn hear(wired: &mut Wired, id: NodeId, status: Health) -> Health {
    let (now, instance, check) = (wired.now, "web".try_into().unwrap(), "alive".try_into().unwrap());
    wired.at(id).handle(now, Input::Checked { instance, check, status, output: "heard".into() });
    health(wired, id)
}

fn health(wired: &Wired, id: NodeId) -> Health {
    wired.nodes[&id].service(&"web".try_into().unwrap()).unwrap()[0].health()
}

#[test]
fn no_threshold_holds_back_a_ttl_that_runs_out() {
    let (mut wired, id) = checked(CheckSpec { fall: 3, ..ttl() });
    assert_eq!(hear(&mut wired, id, Health::Passing), Health::Passing);
    wired.run(Duration::from_secs(11));
    assert_eq!(health(&wired, id), Health::Critical, "nothing more will be heard");
    let (mut wired, id) = checked(CheckSpec { fall: 3, ..ttl() }.by_consuls_rules());
    assert_eq!(hear(&mut wired, id, Health::Passing), Health::Passing);
    assert_eq!(hear(&mut wired, id, Health::Critical), Health::Critical, "a program's own word counts at once");
}

#[test]
fn by_consul_s_rules_the_first_result_counts_as_any_other() {
    let polled = |initial| {
        let draft =
            crate::model::CheckDraft { name: Some("alive".into()), initial, ..crate::model::CheckDraft::tcp("") };
        CheckSpec { rise: 2, fall: 2, ..draft.build(0, "check").unwrap() }
    };
    let (mut wired, id) = checked(polled(None));
    assert_eq!(hear(&mut wired, id, Health::Passing), Health::Passing, "ours counts at once");
    let (mut wired, id) = checked(polled(None).by_consuls_rules());
    assert_eq!(hear(&mut wired, id, Health::Passing), Health::Critical);
    assert_eq!(hear(&mut wired, id, Health::Passing), Health::Passing);
    let (mut wired, id) = checked(polled(Some(Health::Passing)).by_consuls_rules());
    assert_eq!(hear(&mut wired, id, Health::Critical), Health::Passing);
    assert_eq!(hear(&mut wired, id, Health::Critical), Health::Critical);
}

#[test]
fn a_restart_makes_no_health_of_a_missed_ttl() {
    let (mut wired, id) = checked(ttl());
    wired.run(Duration::from_secs(60));
    let reported = |wired: &mut Wired, lived_until: u64| {
        hear(wired, id, Health::Passing);
        let report = wired.nodes[&id].health_report(&"web".try_into().unwrap()).unwrap();
        let (now, kept) = (wired.now, [("web".try_into().unwrap(), report)]);
        wired.at(id).restore(now, None, kept, lived_until);
        health(wired, id)
    };
    let unix_millis = |wired: &Wired| wired.nodes[&id].wall_clock(wired.now);
    let gone = unix_millis(&wired) - 10_000;
    assert_eq!(reported(&mut wired, gone), Health::Critical, "it ran out meanwhile");
    let told = wired.nodes[&id].health_report(&"web".try_into().unwrap()).unwrap().checks[0].clone();
    assert_eq!((&*told.output, told.since), ("no report within its TTL of 10s; the last said: heard", gone + 10_000));
    let lately = unix_millis(&wired) - 6_000;
    assert_eq!(reported(&mut wired, lately), Health::Passing);
    wired.run(Duration::from_secs(3));
    assert_eq!(health(&wired, id), Health::Passing, "a restart within the TTL is not seen");
    wired.run(Duration::from_secs(2));
    assert_eq!(health(&wired, id), Health::Critical, "it runs out when it would have");
    let tomorrow = unix_millis(&wired) + 86_400_000;
    assert_eq!(reported(&mut wired, tomorrow), Health::Passing);
    wired.run(Duration::from_secs(11));
    assert_eq!(health(&wired, id), Health::Critical, "a clock that was set back makes no TTL longer");
}

#[test]
fn a_check_whose_times_alone_are_changed_stays_as_it_stands() {
    let seconds = |ttl| CheckSpec { kind: crate::model::CheckKind::Ttl(Duration::from_secs(ttl)), ..self::ttl() };
    let (mut wired, id) = checked(seconds(10));
    assert_eq!(hear(&mut wired, id, Health::Passing), Health::Passing);
    watch(&mut wired, id, CheckSpec { fall: 2, ..seconds(20) });
    assert_eq!(health(&wired, id), Health::Passing);
    wired.run(Duration::from_secs(15));
    assert_eq!(health(&wired, id), Health::Passing, "the new TTL runs from then on");
    wired.run(Duration::from_secs(6));
    assert_eq!(health(&wired, id), Health::Critical);
}

#[test]
fn by_consul_s_rules_a_check_that_is_changed_stays_as_it_stands() {
    let polled = |target| {
        let draft = crate::model::CheckDraft { name: Some("alive".into()), ..crate::model::CheckDraft::tcp(target) };
        draft.build(0, "check").unwrap()
    };
    let (mut wired, id) = checked(polled(":1"));
    hear(&mut wired, id, Health::Passing);
    watch(&mut wired, id, polled(":2"));
    assert_eq!(health(&wired, id), Health::Critical, "ours begins anew");
    let (mut wired, id) = checked(polled(":1").by_consuls_rules());
    hear(&mut wired, id, Health::Passing);
    watch(&mut wired, id, polled(":2").by_consuls_rules());
    assert_eq!(health(&wired, id), Health::Passing);
}

#[test]
fn what_begins_critical_is_nowhere_seen_as_passing_before() {
    let (mut wired, ids) = Wired::of(3);
    wired.run(Duration::from_secs(1));
    let (now, checked) = (wired.now, Registration { checks: vec![ttl()], ..Registration::new("web", 80).unwrap() });
    wired.at(ids[0]).command(now, Command::Register(Arc::new(checked))).unwrap();
    // What is sent without any time passing: the first page.
    wired.settle();
    for mesh in wired.nodes.values() {
        let seen = mesh.service(&"web".try_into().unwrap()).expect("the first page tells of the instance");
        assert_eq!(seen[0].health(), Health::Critical);
    }
}

fn ttl() -> CheckSpec {
    let draft = crate::model::CheckDraft { name: Some("alive".into()), ttl: Some("10s".into()), ..Default::default() };
    draft.build(0, "check").unwrap()
}
