//! A member that lies: each row of the trust table that concerns members, tried by one that is in.

mod hearsay;
mod relays;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    Command, Event, Generation, Gone, Input, Output,
    catalog::{MAX_BOOK_BYTES, MAX_ROWS},
    check::MAX_OUTPUT,
    invented::MAX_INVENTED,
    outbox::packed,
    page::{Seal, Told},
    tests::{Wired, state, web},
    wire::{Digest, Fact, Frame, MAX_MESSAGE, MAX_ROW, Mark, Page, RowUpdate, Standing, VERSION, encode_named},
};
use crate::model::{CheckStatus, Epoch, Health, HealthReport, MemberState, NodeId};

/// A mesh that stands, the liar (its first member), and the victim.
fn mesh() -> (Wired, Vec<NodeId>, NodeId, NodeId) {
    let (mut wired, ids) = Wired::of(9);
    wired.run(Duration::from_secs(5));
    let (liar, victim) = (ids[0], ids[4]);
    (wired, ids, liar, victim)
}

fn packet(frames: &[Frame<'_>]) -> Bytes {
    packed(frames).into()
}

/// A frame for another to pass on.
fn passed(inner: &Frame<'_>, to: NodeId) -> Bytes {
    let mut frame = Vec::new();
    inner.write(&mut frame);
    packet(&[Frame::Pass { to, frame: &frame }])
}

/// The liar sends everybody but the victim and itself these frames.
fn lie(wired: &mut Wired, ids: &[NodeId], liar: NodeId, victim: NodeId, frames: &[Frame<'_>]) {
    let packet = packet(frames);
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
fn a_liar_brings_nobody_back_who_has_left() {
    let (mut wired, ids, liar, victim) = mesh();
    wired.order(victim, web());
    let old: Vec<Bytes> =
        wired.nodes[&victim].book().sheets(Mark::default()).iter().map(|sheet| sheet.bytes.clone()).collect();
    wired.order(victim, Command::Leave);
    wired.dead.insert(victim);
    let left = |wired: &Wired| honest(wired, &ids, victim).iter().all(|state| *state == MemberState::Left);
    assert!(left(&wired) && old.len() > 1);
    let (known, other) = (wired.nodes[&victim].hello().generation, ids[2]);
    let claims: Vec<Fact> = [MemberState::Alive, MemberState::Suspect, MemberState::Down]
        .into_iter()
        .flat_map(|state| [victim, liar, other].map(|by| fact(&wired, victim, state, by)))
        .flat_map(|fact| [1, 2, 60, 1 << 16].map(|more| Fact { generation: Generation(known.0 + more), ..fact }))
        .collect();
    for (claim, seq) in claims.into_iter().zip(1 << 20..) {
        let rumor = Frame::Fact { seq, until: liar, fact: claim };
        lie(&mut wired, &ids, liar, victim, &[Frame::Facts(vec![claim]), rumor]);
        // What it once signed proves no new life.
        for page in &old {
            let told = Told { since: 0, floor: 0 };
            lie(&mut wired, &ids, liar, victim, &[Frame::Page { told, page }]);
        }
        assert!(left(&wired), "{claim:?}");
        wired.run(Duration::from_millis(300));
        assert!(left(&wired), "{claim:?}");
    }
    assert!(
        ids[1..]
            .iter()
            .filter(|id| **id != victim)
            .all(|id| { wired.seen(*id, "web") == 0 && wired.nodes[id].stats().returns_on_hearsay > 0 })
    );
    wired.restart(4, 2_000, Vec::new());
    assert!(honest(&wired, &ids, victim).iter().all(|state| *state == MemberState::Alive), "its own word counts");
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

/// Nor by the victim's own voice, however often it has risen above what was said of it.
#[test]
fn a_liar_borrows_not_the_voice_of_whom_it_speaks_of() {
    let (mut wired, ids, liar, victim) = mesh();
    for round in 0..8 {
        let left = fact(&wired, victim, MemberState::Left, victim);
        let mut inner = Vec::new();
        Frame::Facts(vec![left]).write(&mut inner);
        let others = ids.iter().filter(|to| **to != victim && **to != liar);
        let passes = others.map(|to| Frame::Pass { to: *to, frame: &inner });
        let rumor = Frame::Fact { seq: 1 << 20 | round, until: victim, fact: left };
        for frame in passes.chain([rumor]) {
            tell(&mut wired, victim, liar, &frame);
            assert!(honest(&wired, &ids, victim).iter().all(|state| *state == MemberState::Alive), "{frame:?}");
        }
    }
}

/// What `from` sends to one.
fn tell(wired: &mut Wired, to: NodeId, from: NodeId, frame: &Frame<'_>) {
    let now = wired.now;
    wired.at(to).handle(now, Input::Message(from, packet(std::slice::from_ref(frame))));
    wired.settle();
}

/// Who is named by a generation that it does not have answers all the same whoever looks.
#[test]
fn a_liar_makes_nobody_silent_by_another_generation() {
    let (mut wired, ids) = Wired::of(40);
    wired.run(Duration::from_secs(5));
    let (liar, victim) = (ids[0], ids[4]);
    let known = wired.nodes[&victim].hello().generation;
    let epoch = |more| Epoch(known.epoch().0 + more);
    for more in 1..=5 {
        tell(&mut wired, victim, liar, &Frame::Renew(Generation::first(epoch(more * 100_000))));
    }
    for _ in 0..20 {
        let alive = fact(&wired, victim, MemberState::Alive, victim);
        let later = Fact { generation: Generation::first(epoch(3_600_000)), ..alive };
        let by = ids[1..].iter().filter(|by| **by != victim);
        let accusations = by.map(|by| Fact { state: MemberState::Suspect, by: *by, ..later }).collect();
        lie(&mut wired, &ids, liar, victim, &[Frame::Facts(vec![later]), Frame::Facts(accusations)]);
        wired.run(Duration::from_secs(2));
        assert!(!honest(&wired, &ids, victim).contains(&MemberState::Down));
    }
}

/// What it says to the victim itself, of the victim: its own generations, or its own book, in a future that nobody believes.
#[test]
fn a_liar_has_nobody_rise_to_where_nobody_believes_it() {
    let year = Duration::from_secs(365 * 86_400);
    for (years, rises) in [(99, true), (101, false), (4_500, false), (8_900, false)] {
        let (mut wired, ids, liar, victim) = mesh();
        let epoch = Epoch(wired.nodes[&victim].wall_clock(wired.now + year * years).min((1 << 48) - 1));
        let (known, generation) = (wired.nodes[&victim].hello().generation, Generation::first(epoch));
        let (alive, version) = (fact(&wired, victim, MemberState::Alive, liar), 1);
        let standings = vec![Standing { fact: alive, mark: Mark { epoch, floor: 0, version } }];
        for frame in [
            Frame::Will { id: victim, generation },
            Frame::Renew(generation),
            Frame::Facts(vec![Fact { generation, ..alive }]),
            Frame::Digest(Digest { token: 1, buckets: Vec::new(), standings }),
        ] {
            tell(&mut wired, victim, liar, &frame);
        }
        wired.run(Duration::from_secs(10));
        assert_eq!(wired.nodes[&victim].hello().generation > known, rises, "{years} years");
        wired.order(victim, web());
        wired.run(Duration::from_secs(5));
        assert!(honest(&wired, &ids, victim).iter().all(|state| *state == MemberState::Alive), "{years} years");
        let shows = |id: &NodeId| wired.nodes[id].service(&"web".try_into().unwrap()).is_some_and(|all| all.len() == 1);
        assert!(ids.iter().all(shows), "{years} years");
    }
}

/// Nor step by step, from the last that all believe.
#[test]
fn a_liar_has_nobody_rise_on_and_on() {
    let (mut wired, ids, liar, victim) = mesh();
    let furthest = Duration::from_secs((100 * 365 - 2) * 86_400 - 1);
    let epoch = Epoch(wired.nodes[&victim].wall_clock(wired.now + furthest));
    tell(&mut wired, victim, liar, &Frame::Renew(Generation::first(epoch)));
    let raised = wired.nodes[&victim].hello().generation;
    for _ in 0..50 {
        let left = fact(&wired, victim, MemberState::Left, liar);
        tell(&mut wired, victim, liar, &Frame::Facts(vec![left]));
        wired.run(Duration::from_secs(12));
    }
    let risen = wired.nodes[&victim].hello().generation.epoch().0 - raised.epoch().0;
    assert!(raised.epoch() > epoch && risen < 11 * 60_000, "no faster than the clock: {risen}");
    assert!(honest(&wired, &ids, victim).iter().all(|state| *state == MemberState::Alive));
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

#[test]
fn whom_a_liar_invents_slows_nobody() {
    let (mut wired, ids, liar, victim) = mesh();
    let generation = wired.nodes[&victim].hello().generation;
    // Around everybody on the ring.
    let invented: Vec<NodeId> = (1..=2_000_u64).map(|n| NodeId(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    wired.dead.extend(&invented);
    for some in invented.chunks(40) {
        let alive = |id: &NodeId| Fact { id: *id, generation, incarnation: 0, state: MemberState::Alive, by: liar };
        lie(&mut wired, &ids, liar, liar, &[Frame::Facts(some.iter().map(alive).collect())]);
    }
    assert!(wired.nodes[&victim].explain(invented[1_999]).is_some());
    let copies = |wired: &Wired| ids.iter().map(|id| wired.nodes[id].stats().rumors_received).sum::<u64>();
    let before = copies(&wired);
    wired.order(victim, web());
    let shows = |wired: &Wired, id: &NodeId| wired.nodes[id].service(&"web".try_into().unwrap()).is_some();
    assert!(ids.iter().all(|id| shows(&wired, id)) && copies(&wired) == before + 8, "as if nobody else were there");
    wired.dead.insert(victim);
    wired.run(Duration::from_secs(4));
    assert!(honest(&wired, &ids, victim).iter().all(|state| *state == MemberState::Down));
}

/// What a node wants done about the liar, having heard this many packets.
fn hears(wired: &mut Wired, at: NodeId, from: NodeId, packet: &Bytes, times: usize) -> Vec<Output> {
    let now = wired.now;
    let mesh = wired.at(at);
    let mut done = Vec::new();
    for _ in 0..times {
        mesh.handle(now, Input::Packet(from, packet.clone()));
        done.extend(std::iter::from_fn(|| mesh.poll()));
    }
    done.retain(|output| matches!(output, Output::Expel(..) | Output::Event(Event::Expelled { .. })));
    done
}

#[test]
fn who_sends_garbage_is_shut_out_for_a_minute_and_told_why() {
    let (mut wired, _, liar, victim) = mesh();
    let garbage = Bytes::from_static(&[VERSION, 1, 0xff, 0xff]);
    assert!(hears(&mut wired, victim, liar, &garbage, 64).is_empty(), "an accident is forgiven");
    let done = hears(&mut wired, victim, liar, &garbage, 1_000);
    let [Output::Event(Event::Expelled { peer, why }), Output::Expel(expelled, said)] = &done[..] else {
        panic!("{done:?}")
    };
    assert!(*peer == liar && *expelled == liar && why == said && !why.is_empty(), "{done:?}");
    assert_eq!((wired.nodes[&victim].stats().expelled, wired.nodes[&victim].stats().dropped_malformed), (1, 1_064));
    // A new connection is closed too, until the minute is over.
    let hello = wired.nodes[&liar].hello();
    let knock = |wired: &mut Wired| {
        let (now, hello) = (wired.now, hello.clone());
        let mesh = wired.at(victim);
        mesh.handle(now, Input::Disconnected(liar, Gone::Closed));
        mesh.handle(now, Input::Connected(hello));
        std::iter::from_fn(|| mesh.poll()).any(|output| matches!(output, Output::Expel(peer, _) if peer == liar))
    };
    assert!(knock(&mut wired));
    wired.run(Duration::from_secs(61));
    assert!(!knock(&mut wired));
    assert!(hears(&mut wired, victim, liar, &garbage, 64).is_empty());
}

#[test]
fn streams_that_are_too_long_are_charged_too() {
    let (mut wired, _, liar, victim) = mesh();
    let (now, mesh) = (wired.now, wired.at(victim));
    (0..65).for_each(|_| mesh.handle(now, Input::Garbage(liar, "a stream longer than any message")));
    assert_eq!(mesh.stats().expelled, 1);
    // Nobody can be charged who has not even said hello.
    (0..65).for_each(|_| mesh.handle(now, Input::Garbage(NodeId(1), "a stream longer than any message")));
    assert_eq!(mesh.stats().expelled, 1);
}

#[test]
fn who_hands_on_in_good_faith_is_not_charged_for_a_liar() {
    let (mut wired, ids, liar, victim) = mesh();
    let relay = ids[2];
    let owner = ids[6];
    let mark = wired.nodes[&owner].book().mark();
    let page = |epoch, signer: NodeId, wired: &Wired| {
        let (from, to) = (mark.version, mark.version + 1);
        Page { owner, epoch, floor: 0, from, to, written: to, stands: Seal::default(), rows: Vec::new() }
            .sign(&*wired.nodes[&signer].config.notary)
    };
    let later = crate::model::Epoch(mark.epoch.0 + 1);
    let (forged, unknown) = (page(mark.epoch, liar, &wired), page(later, liar, &wired));
    let far = Fact { generation: Generation(u64::MAX), ..fact(&wired, owner, MemberState::Alive, owner) };
    let told = Told { since: 0, floor: 0 };
    let frames = [
        Frame::Page { told, page: &forged },
        Frame::Page { told, page: &unknown },
        Frame::Page { told, page: &[7; 40] },
        Frame::Facts(vec![far]),
    ];
    for (inner, charged) in frames.into_iter().zip([0, 0, 1, 0]) {
        let before = wired.nodes[&relay].stats().expelled;
        let packet = passed(&inner, victim);
        assert!(packet.len() < MAX_MESSAGE);
        for _ in 0..5_000 {
            let now = wired.now;
            wired.at(relay).handle(now, Input::Packet(liar, packet.clone()));
            wired.settle();
        }
        let expelled = |id: NodeId| wired.nodes[&id].stats().expelled;
        assert_eq!(expelled(victim), 0, "{inner:?}");
        assert_eq!(expelled(relay) - before, charged, "who may have it in good faith is not charged: {inner:?}");
        wired.run(Duration::from_secs(130));
    }
}

/// What the victim does about the liar, having read pages of the liar's own book with these rows, until it hangs up.
fn reads(wired: &mut Wired, victim: NodeId, liar: NodeId, pages: impl Iterator<Item = Vec<Row>>) -> Vec<Output> {
    let (mark, notary) = (wired.nodes[&liar].book().mark(), Arc::clone(&wired.nodes[&liar].config.notary));
    let mut to = mark.version;
    for (rows, seq) in pages.zip(1 << 20..) {
        let from = to;
        let update = |((key, body), version)| RowUpdate { key, version, body: Some(body) };
        let rows: Vec<_> = rows.iter().map(|(key, body)| (key.as_str(), &**body)).zip(from + 1..).map(update).collect();
        to += rows.len() as u64;
        let page =
            Page { owner: liar, epoch: mark.epoch, floor: 0, from, to, written: to, stands: Seal::default(), rows }
                .sign(&*notary);
        let packet = packet(&[Frame::Rows { seq, until: victim, page: &page }]);
        assert!(packet.len() <= MAX_MESSAGE);
        let done = hears(wired, victim, liar, &packet, 1);
        if !done.is_empty() {
            return done;
        }
    }
    Vec::new()
}

type Row = (String, Bytes);

/// A claim on the health of an instance that is told apart by `n`, whose one check says so many bytes.
fn claim(n: usize, length: usize) -> Row {
    let check = CheckStatus {
        before: None,
        id: "c".try_into().unwrap(),
        name: "c".try_into().unwrap(),
        status: Health::Warning,
        output: "x".repeat(length.min(MAX_OUTPUT)).into(),
        since: 0,
    };
    let checks = vec![check; length.div_ceil(MAX_OUTPUT)];
    (format!("h:i{n}"), encode_named(&HealthReport { checks, ..HealthReport::default() }))
}

/// How many rows and bytes of the liar's the victim keeps.
fn kept(wired: &Wired, victim: NodeId, liar: NodeId) -> (usize, usize) {
    let book = wired.nodes[&victim].catalog.get(liar).unwrap();
    (book.len(), book.sheets(Mark::default()).iter().map(|sheet| sheet.bytes.len()).sum())
}

#[test]
fn a_liar_with_rows_without_end_fills_two_books_and_is_shut_out() {
    let (mut wired, _, liar, victim) = mesh();
    let small = (0..).map(|page| (0..1_500).map(|n| claim(page * 1_500 + n, 0)).collect());
    let done = reads(&mut wired, victim, liar, small);
    assert!(matches!(done[..], [_, Output::Expel(who, "a book larger than any may be")] if who == liar), "{done:?}");
    assert_eq!(kept(&wired, victim, liar).0, 2 * MAX_ROWS);
    let stats = wired.nodes[&victim].stats();
    assert!(stats.expelled == 1 && stats.dropped_rows > 4_096, "{stats:?}");
}

#[test]
fn a_liar_with_bytes_without_end_fills_two_books() {
    let (mut wired, _, liar, victim) = mesh();
    let large = (0..1_300).map(|n| vec![claim(n, 14 * MAX_OUTPUT)]);
    assert!(reads(&mut wired, victim, liar, large).is_empty(), "a hundred rows too many may be an accident");
    let (rows, bytes) = kept(&wired, victim, liar);
    assert!(rows < 1_300 && bytes <= 2 * MAX_BOOK_BYTES + (1 << 20), "{rows} rows, {bytes} bytes");
    assert_eq!(wired.nodes[&victim].stats().dropped_rows, 1_300 - rows as u64);
}

#[test]
fn a_row_larger_than_any_is_not_kept() {
    let (mut wired, _, liar, victim) = mesh();
    let (key, _) = claim(0, 0);
    let vast = Bytes::from(vec![b'x'; MAX_ROW + 1]);
    let before = kept(&wired, victim, liar);
    let done = reads(&mut wired, victim, liar, std::iter::repeat_n(vec![(key, vast)], 4_100));
    assert!(matches!(done[..], [_, Output::Expel(..)]), "{done:?}");
    assert_eq!(kept(&wired, victim, liar).0, before.0);
}

#[test]
fn a_liar_fills_no_roster() {
    let (mut wired, ids, liar, victim) = mesh();
    let generation = wired.nodes[&victim].hello().generation;
    let invented = |n: u64| Fact { id: NodeId(n), generation, incarnation: 0, state: MemberState::Alive, by: liar };
    for chunk in 0..21 {
        let facts = (1..=1_000).map(|n| invented(chunk * 1_000 + n)).collect();
        hears(&mut wired, victim, liar, &packet(&[Frame::Facts(facts)]), 1);
    }
    let mesh = &wired.nodes[&victim];
    assert_eq!((mesh.roster.len(), mesh.stats().dropped_full), (MAX_INVENTED + ids.len() - 1, 0));
}
