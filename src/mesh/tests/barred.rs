//! Who does not belong any more is gone, whoever keeps it company.

use super::{
    vouchers::{ENDING, FIRST, Papers, give},
    *,
};
use crate::mesh::page::Told;
use crate::mesh::wire::{Fact, Frame, Mark};

const REVOKES_N2: Papers = Papers { denies: &["n2"], ..FIRST };

/// A mesh in which `n2` serves `web`. It is revoked in a moment, and `n1` will not hear of that.
fn mesh() -> (Wired, Vec<NodeId>, Vec<NodeId>) {
    let (mut wired, ids) = Wired::of(6);
    wired.order(ids[2], web());
    wired.run(Duration::from_secs(10));
    let told = ids.iter().copied().filter(|id| *id != ids[1] && *id != ids[2]).collect();
    (wired, ids, told)
}

/// How each of these sees a member, and why.
fn seen(wired: &Wired, by: &[NodeId], id: NodeId) -> Vec<(MemberState, Cause)> {
    by.iter().map(|by| wired.nodes[by].explain(id).map(|seen| (seen.state, seen.cause)).unwrap()).collect()
}

fn all_see(wired: &Wired, by: &[NodeId], id: NodeId, cause: Cause) -> bool {
    seen(wired, by, id).iter().all(|told| *told == (MemberState::Down, cause))
}

fn db() -> Command {
    Command::Register(Arc::new(Registration::new("db", 666).unwrap()))
}

#[test]
fn who_is_revoked_is_gone_though_one_member_keeps_it_company() {
    let (mut wired, ids, told) = mesh();
    give(&mut wired, &told, REVOKES_N2);
    let hidden = |wired: &Wired| {
        let serves = |by: &NodeId| wired.seen(*by, "web") + wired.seen(*by, "db");
        all_see(wired, &told, ids[2], Cause::Revoked) && told.iter().all(|by| serves(by) == 0)
    };
    assert!(hidden(&wired), "at once: {:?}", seen(&wired, &told, ids[2]));
    wired.order(ids[2], db());
    assert_eq!(wired.seen(ids[1], "db"), 1, "who has not heard goes on as before");
    // However much it writes, who hands that on in good faith is no liar.
    for port in 1..7_000 {
        let (now, db) = (wired.now, Registration::new("db", port).unwrap());
        wired.at(ids[2]).command(now, Command::Register(Arc::new(db))).unwrap();
        wired.settle();
        wired.run(Duration::from_millis(1));
    }
    for _ in 0..40 {
        wired.run(Duration::from_secs(1));
        assert!(hidden(&wired), "{:?}", seen(&wired, &told, ids[2]));
    }
    // Its next process is no better; and who starts later hears of it from those who do not know.
    wired.restart(2, 2_000, vec![Arc::new(Registration::new("web", 81).unwrap())]);
    wired.under = REVOKES_N2;
    wired.restart(7, 2_000, Vec::new());
    wired.run(Duration::from_secs(40));
    let late = NodeId::of(&"test".try_into().unwrap(), &"n7".try_into().unwrap());
    assert!(hidden(&wired) && wired.seen(ids[1], "web") == 1 && wired.seen(late, "web") == 0);
    assert!(wired.nodes[&late].is_ready() && wired.nodes[&late].member(ids[2]).is_none());
    assert!(wired.nodes.values().all(|mesh| mesh.stats().expelled == 0), "nobody pays for it");

    let all: Vec<NodeId> = wired.nodes.keys().copied().collect();
    give(&mut wired, &all, FIRST);
    wired.run(Duration::from_secs(40));
    assert!(all.iter().all(|by| wired.seen(*by, "web") == 1), "taken back, it is there again");
}

#[test]
fn a_liar_keeps_nobody_in_who_is_revoked() {
    let (mut wired, ids, told) = mesh();
    let (liar, outcast) = (ids[1], ids[2]);
    give(&mut wired, &told, REVOKES_N2);
    wired.order(outcast, db());
    let before = wired.nodes[&outcast].hello().generation;
    let book: Vec<bytes::Bytes> =
        wired.nodes[&outcast].book().sheets(Mark::default()).iter().map(|sheet| sheet.bytes.clone()).collect();
    let alive = |more| Fact {
        id: outcast,
        generation: Generation(before.0 + more),
        incarnation: 9,
        state: MemberState::Alive,
        by: outcast,
    };
    for (round, seq) in (0..30).zip(1 << 20..) {
        let told_of = Told { since: 0, floor: 0 };
        let fact = alive(round);
        let mut frames = vec![
            Frame::Facts(vec![fact]),
            Frame::Fact { seq, until: liar, fact },
            Frame::Vouch(outcast),
            Frame::Will { id: outcast, generation: fact.generation },
        ];
        frames.extend(book.iter().map(|page| Frame::Page { told: told_of, page }));
        frames.extend(book.iter().zip(seq << 4..).map(|(page, seq)| Frame::Rows { seq, until: liar, page }));
        let packet = packed(&frames);
        for (to, from) in told.iter().flat_map(|to| [(to, liar), (to, outcast)]) {
            let (now, packet) = (wired.now, packet.clone());
            wired.at(*to).handle(now, Input::Packet(from, packet.into()));
        }
        let hello = wired.nodes[&outcast].hello();
        for to in &told {
            let (now, hello) = (wired.now, hello.clone());
            wired.at(*to).handle(now, Input::Connected(hello));
        }
        wired.settle();
        assert!(all_see(&wired, &told, outcast, Cause::Revoked), "{:?}", seen(&wired, &told, outcast));
        wired.run(Duration::from_millis(700));
        let shown = told.iter().map(|by| wired.seen(*by, "web") + wired.seen(*by, "db")).sum::<usize>();
        assert!(all_see(&wired, &told, outcast, Cause::Revoked) && shown == 0);
    }
    let ends = told.iter().map(|by| wired.nodes[by].member(outcast).unwrap().version).max();
    assert!(ends < Some(wired.nodes[&outcast].book().mark().version), "its book is closed");
    // Nor from among those who have left.
    wired.order(told[0], Command::ForceLeave(outcast));
    give(&mut wired, &told, REVOKES_N2);
    wired.run(Duration::from_secs(20));
    assert!(told.iter().all(|by| wired.nodes[by].member(outcast).unwrap().state == MemberState::Left));
    give(&mut wired, &told, FIRST);
    wired.restart(2, 3_000, Vec::new());
    wired.run(Duration::from_secs(20));
    assert!(told.iter().all(|by| wired.nodes[by].member(outcast).unwrap().state == MemberState::Alive));
}

#[test]
fn who_shows_another_certificate_than_the_one_that_ended_is_there_again() {
    let (mut wired, ids) = Wired::of(5);
    wired.under = Papers { signs: ENDING, ..FIRST };
    wired.restart(2, 2_000, vec![Arc::new(Registration::new("web", 81).unwrap())]);
    let others: Vec<NodeId> = ids.iter().copied().filter(|id| *id != ids[2]).collect();
    wired.run(Duration::from_secs(80));
    assert!(others.iter().all(|by| wired.seen(*by, "web") == 1));
    wired.run(Duration::from_secs(80));
    assert!(all_see(&wired, &others, ids[2], Cause::CertificateExpired), "{:?}", seen(&wired, &others, ids[2]));
    // Whoever starts now hears the same.
    wired.under = FIRST;
    wired.restart(7, 2_000, Vec::new());
    wired.run(Duration::from_secs(5));
    let late = NodeId::of(&"test".try_into().unwrap(), &"n7".try_into().unwrap());
    assert!(wired.nodes[&late].is_ready() && wired.nodes[&late].member(ids[2]).is_none());
    give(&mut wired, &ids[2..3], FIRST);
    wired.run(Duration::from_secs(30));
    assert!(others.iter().chain([&late]).all(|by| wired.seen(*by, "web") == 1), "its new voucher counts");
}

#[test]
fn an_authority_that_ends_or_goes_takes_those_along_who_stayed_with_it_and_never_most_of_the_mesh() {
    const NEW: Papers = Papers { signs: 1, believes: &[1, 0], denies: &[] };
    let (mut wired, ids) = Wired::of(6);
    ids.iter().for_each(|id| wired.order(*id, web()));
    wired.run(Duration::from_secs(5));
    let shown = |wired: &Wired| ids.iter().map(|by| wired.seen(*by, "web")).collect::<Vec<_>>();
    // One that believes nobody any more sees to itself.
    give(&mut wired, &ids[..1], Papers { signs: 0, believes: &[1], denies: &[] });
    assert_eq!(shown(&wired), [6; 6]);
    give(&mut wired, &ids[..1], FIRST);
    // All but one take the new authority; then they drop the old.
    let most: Vec<NodeId> = ids.iter().copied().filter(|id| *id != ids[3]).collect();
    give(&mut wired, &ids, Papers { believes: &[0, 1], ..FIRST });
    give(&mut wired, &most, NEW);
    give(&mut wired, &most, Papers { believes: &[1], ..NEW });
    assert!(all_see(&wired, &most, ids[3], Cause::CertificateUntrusted), "{:?}", seen(&wired, &most, ids[3]));
    assert_eq!(shown(&wired), [5, 5, 5, 6, 5, 5]);
    // A certificate that comes late is not too late.
    give(&mut wired, &ids[3..4], NEW);
    wired.run(Duration::from_secs(30));
    assert_eq!(shown(&wired), [6; 6]);
    // An authority that ends for all ends for nobody.
    give(&mut wired, &ids, Papers { believes: &[1, ENDING], ..NEW });
    give(&mut wired, &ids, Papers { signs: ENDING, believes: &[ENDING], denies: &[] });
    wired.run(Duration::from_secs(150));
    assert_eq!(shown(&wired), [6; 6]);
}
