//! A member that lies: each row of the trust table that concerns members, tried by one that is in.

use std::time::Duration;

use bytes::Bytes;

use super::{
    Generation, Input,
    tests::{Wired, state},
    wire::{Fact, Frame, VERSION},
};
use crate::model::{MemberState, NodeId};

/// A mesh that stands, the liar (its first member), and the victim.
fn mesh() -> (Wired, Vec<NodeId>, NodeId, NodeId) {
    let (mut wired, ids) = Wired::of(9);
    wired.run(Duration::from_secs(5));
    let (liar, victim) = (ids[0], ids[4]);
    (wired, ids, liar, victim)
}

/// The liar sends everybody but the victim and itself these frames.
fn lie(wired: &mut Wired, ids: &[NodeId], liar: NodeId, victim: NodeId, frames: &[Frame<'_>]) {
    let mut packet = vec![VERSION];
    frames.iter().for_each(|frame| frame.write(&mut packet));
    let packet = Bytes::from(packet);
    for id in ids.iter().filter(|id| **id != liar && **id != victim) {
        let now = wired.now;
        wired.at(*id).handle(now, Input::Packet(liar, packet.clone()));
    }
    wired.settle();
}

fn fact(wired: &Wired, about: NodeId, state: MemberState, by: NodeId) -> Fact {
    let generation = wired.nodes[&about].hello().generation;
    Fact { id: about, generation, incarnation: 0, state, by }
}

/// How the honest see the victim.
fn honest(wired: &Wired, ids: &[NodeId], victim: NodeId) -> Vec<MemberState> {
    ids[1..].iter().filter(|id| **id != victim).map(|id| state(wired, *id, victim)).collect()
}

fn downs(wired: &Wired, ids: &[NodeId]) -> u64 {
    ids.iter().map(|id| wired.nodes[id].stats().downs).sum()
}

#[test]
fn a_liar_with_borrowed_voices_buries_nobody() {
    let (mut wired, ids, liar, victim) = mesh();
    for _ in 0..40 {
        let accusations = ids[1..].iter().filter(|by| **by != victim);
        let facts: Vec<Fact> = accusations.map(|by| fact(&wired, victim, MemberState::Suspect, *by)).collect();
        lie(&mut wired, &ids, liar, victim, &[Frame::Facts(facts)]);
        let down = fact(&wired, victim, MemberState::Down, liar);
        lie(&mut wired, &ids, liar, victim, &[Frame::Facts(vec![down])]);
        wired.run(Duration::from_millis(700));
    }
    wired.run(Duration::from_secs(6));
    assert_eq!(downs(&wired, &ids), 0);
    assert!(honest(&wired, &ids, victim).iter().all(|state| *state == MemberState::Alive));
    assert!(ids[1..].iter().any(|id| wired.nodes[id].stats().accusations_over_budget > 0), "the budget is felt");
}

#[test]
fn a_liar_makes_nobody_leave() {
    let (mut wired, ids, liar, victim) = mesh();
    for by in [victim, liar] {
        let left = fact(&wired, victim, MemberState::Left, by);
        lie(&mut wired, &ids, liar, victim, &[Frame::Facts(vec![left])]);
        wired.run(Duration::from_secs(3));
        assert!(honest(&wired, &ids, victim).iter().all(|state| *state == MemberState::Alive));
    }
}

#[test]
fn a_liar_reads_nobody_s_will() {
    let (mut wired, ids, liar, victim) = mesh();
    let generation = wired.nodes[&victim].hello().generation;
    for _ in 0..5 {
        lie(&mut wired, &ids, liar, victim, &[Frame::Will { id: victim, generation }]);
        wired.run(Duration::from_secs(1));
    }
    assert_eq!(downs(&wired, &ids), 0);
}

#[test]
fn a_liar_uses_up_no_generation() {
    let (mut wired, ids, liar, victim) = mesh();
    let known = wired.nodes[&victim].hello().generation;
    for leap in [65, 60_000, u64::MAX - known.0] {
        let alive = Fact { generation: Generation(known.0 + leap), ..fact(&wired, victim, MemberState::Alive, victim) };
        lie(&mut wired, &ids, liar, victim, &[Frame::Facts(vec![alive])]);
    }
    wired.run(Duration::from_secs(2));
    assert_eq!(wired.nodes[&victim].hello().generation, known);
    assert!(ids[1..].iter().filter(|id| **id != victim).all(|id| wired.nodes[id].stats().dropped_unauthorized >= 3));
}

#[test]
fn a_liar_vouches_for_nobody_unasked() {
    let (mut wired, ids, liar, victim) = mesh();
    lie(&mut wired, &ids, liar, victim, &[Frame::Vouch(victim)]);
    for id in ids[1..].iter().filter(|id| **id != victim) {
        let mesh = &wired.nodes[id];
        assert_eq!((mesh.stats().vouches_unasked, mesh.explain(victim).unwrap().vouched), (1, None));
    }
}

#[test]
fn a_liar_fills_no_roster_for_long() {
    let (mut wired, ids, liar, victim) = mesh();
    let generation = wired.nodes[&victim].hello().generation;
    wired.dead.extend((1..=40).map(NodeId));
    let invented = |n: u64| Fact { id: NodeId(n), generation, incarnation: 0, state: MemberState::Alive, by: liar };
    lie(&mut wired, &ids, liar, victim, &[Frame::Facts((1..=40).map(invented).collect())]);
    let known = |wired: &Wired| (1..=40).filter(|n| wired.nodes[&ids[1]].explain(NodeId(*n)).is_some()).count();
    assert_eq!(known(&wired), 40);
    wired.run(Duration::from_secs(150));
    assert_eq!(known(&wired), 0);
}
