//! What a liar has others hand on, or says of who is not there to deny it.

use super::{
    super::{
        claim::{Claim, Key},
        page::Census,
        tests::vouchers,
    },
    *,
};
use crate::model::{MeshName, Node};

/// A node page of the liar's own, by the key of its `boot`th process, and one more page by that key.
fn pages(wired: &Wired, liar: NodeId, boot: u64) -> [Bytes; 2] {
    let mesh = &wired.nodes[&liar];
    pages_of(&mesh.config.mesh, mesh.book().mark().epoch, mesh.config.node.clone(), boot)
}

fn pages_of(mesh: &MeshName, epoch: Epoch, node: Node, boot: u64) -> [Bytes; 2] {
    let (owner, notary) = (NodeId::of(mesh, &node.name), vouchers::under(vouchers::FIRST, &node.name, boot));
    let body = Claim::Node(Arc::new(Node { voucher: notary.voucher(), ..node })).encode();
    let page = |from, rows: Vec<RowUpdate<'_>>| {
        let (to, stands) = (from + 1, Seal::default());
        Page { owner, epoch, floor: 0, from, to, written: to, stands, rows }.sign(&*notary)
    };
    [page(100, vec![RowUpdate { key: Key::NODE, version: 101, body: Some(&body) }]), page(101, Vec::new())]
}

fn expelled(wired: &Wired, ids: &[NodeId]) -> u64 {
    ids.iter().map(|id| wired.nodes[id].stats().expelled).sum()
}

/// The liar is believed of itself as far as nobody is believed of another.
#[test]
fn nobody_is_shut_out_for_what_a_liar_says_of_itself() {
    let (mut wired, ids, liar, victim) = mesh();
    let relay = ids[2];
    let epoch = Epoch(wired.nodes[&relay].wall_clock(wired.now + Duration::from_secs(99 * 365 * 86_400)));
    let far = Fact { generation: Generation::first(epoch), ..fact(&wired, liar, MemberState::Alive, liar) };
    for round in 0..20 {
        let now = wired.now;
        let facts = passed(&Frame::Facts(vec![far; 1_500]), victim);
        wired.at(relay).handle(now, Input::Message(liar, facts));
        wired.settle();
        for seq in 0..300 {
            tell(&mut wired, relay, liar, &Frame::Fact { seq: (1 << 20) + round * 300 + seq, until: relay, fact: far });
        }
    }
    assert_eq!(expelled(&wired, &ids), 0);
    wired.run(Duration::from_secs(5));
    assert_eq!(honest(&wired, &ids, relay).iter().filter(|state| **state != MemberState::Alive).count(), 0);
}

#[test]
fn nobody_is_shut_out_for_the_second_key_of_a_liar() {
    let (mut wired, ids, liar, victim) = mesh();
    let relay = ids[2];
    let told = Told { since: 0, floor: 0 };
    let [[first, more], [second, _]] = [1_000, 7].map(|boot| pages(&wired, liar, boot));
    tell(&mut wired, relay, liar, &Frame::Page { told, page: &first });
    tell(&mut wired, victim, liar, &Frame::Page { told, page: &second });
    assert_eq!(wired.nodes[&victim].stats().dropped_forged, 1, "a process has one key");
    wired.run(Duration::from_secs(61));
    // Who has not met the liar's first process may know it by the second.
    let stranger = wired.nodes[&victim].catalog.get(liar).map(|book| book.mark().epoch);
    wired.at(victim).catalog.remove(liar);
    assert!(stranger.is_some());
    tell(&mut wired, victim, liar, &Frame::Page { told, page: &second });
    for seq in 0..6_000 {
        let now = wired.now;
        let inner = Frame::Page { told, page: &more };
        wired.at(relay).handle(now, Input::Message(liar, passed(&inner, victim)));
        wired.settle();
        tell(&mut wired, relay, liar, &Frame::Rows { seq: 1 << 20 | seq, until: relay, page: &more });
    }
    assert!(wired.nodes[&victim].stats().dropped_forged >= 64);
    assert_eq!(expelled(&wired, &ids), 0);
}

/// With a secret that all share it may sign for names that it makes up, with two keys each.
#[test]
fn nobody_is_shut_out_for_the_second_keys_of_who_was_made_up() {
    let (mut wired, ids, liar, victim) = mesh();
    let (relay, told) = (ids[2], Told { since: 0, floor: 0 });
    let (mesh, known) = (wired.nodes[&liar].config.mesh.clone(), wired.nodes[&liar].config.node.clone());
    let epoch = wired.nodes[&liar].book().mark().epoch;
    for n in 0..80 {
        let node = Node { name: format!("made-up-{n}").as_str().try_into().unwrap(), ..known.clone() };
        let [[_, relayed], [first, _]] = [1_000, 7].map(|boot| pages_of(&mesh, epoch, node.clone(), boot));
        tell(&mut wired, victim, liar, &Frame::Page { told, page: &first });
        (0..70).for_each(|_| tell(&mut wired, victim, relay, &Frame::Page { told, page: &relayed }));
        let is_tired = wired.nodes[&victim].is_tired_of(relay, NodeId(7));
        assert_eq!(is_tired, n >= 15, "of whom it never met either, and nobody lied about, after {n}");
    }
    assert!(wired.nodes[&victim].stats().dropped_forged >= 64);
    assert_eq!(expelled(&wired, &ids), 0);
}

/// Whatever it has the others rise to: who joins reads their own pages.
#[test]
fn a_liar_keeps_nobody_from_joining() {
    let (mut wired, ids, liar, _) = mesh();
    for id in &ids[1..] {
        let epoch = Epoch(wired.nodes[id].wall_clock(wired.now + Duration::from_secs(99 * 365 * 86_400)));
        tell(&mut wired, *id, liar, &Frame::Renew(Generation::first(epoch)));
    }
    wired.run(Duration::from_secs(5));
    wired.order(ids[5], web());
    wired.restart(20, 2_000, Vec::new());
    let newcomer = *wired.nodes.keys().find(|id| !ids.contains(id)).unwrap();
    wired.run(Duration::from_millis(500));
    assert!(ids.iter().all(|id| state(&wired, newcomer, *id) == MemberState::Alive));
    assert_eq!((wired.seen(newcomer, "web"), expelled(&wired, &[newcomer])), (1, 0));
}

#[test]
fn who_is_said_to_be_back_and_is_not_pays_for_none_of_it() {
    let (mut wired, ids, liar, victim) = mesh();
    wired.order(victim, web());
    wired.dead.insert(victim);
    wired.run(Duration::from_secs(10));
    for renewal in 1..=6 {
        let generation = Generation(wired.nodes[&victim].hello().generation.0 + renewal);
        let back = Fact { generation, ..fact(&wired, victim, MemberState::Alive, victim) };
        lie(&mut wired, &ids, liar, victim, &[Frame::Facts(vec![back])]);
        wired.run(Duration::from_secs(12));
    }
    assert!(honest(&wired, &ids, victim).iter().all(|state| *state == MemberState::Down));
    let registration = Arc::new(crate::model::Registration::new("web", 80).unwrap());
    wired.restart(4, 2_000, vec![registration]);
    wired.run(Duration::from_secs(1));
    assert!(ids[1..].iter().all(|id| wired.seen(*id, "web") == 1));
}

/// An owner hands on what others say of its own book no more than of itself; and of no book that nothing stands in it.
#[test]
fn nobody_says_in_another_s_name_that_nothing_stands() {
    let (mut wired, ids, liar, victim) = mesh();
    let owner = ids[6];
    wired.order(owner, web());
    let page = wired.nodes[&owner].book().sheets(Mark::default()).last().unwrap().bytes.clone();
    let inner = Frame::Page { told: Told { since: 0, floor: 0 }, page: &page };
    for (relay, handed_on) in [(owner, 0), (ids[2], 1)] {
        let now = wired.now;
        let mesh = wired.at(relay);
        mesh.handle(now, Input::Message(liar, passed(&inner, victim)));
        let sent: Vec<Bytes> = std::iter::from_fn(|| mesh.poll())
            .filter_map(|output| match output {
                Output::Packet(to, bytes) | Output::Message(to, bytes) if to == victim => Some(bytes),
                _ => None,
            })
            .collect();
        let frames = sent.iter().flat_map(|bytes| super::super::wire::frames(bytes)).flatten().flatten();
        let told: Vec<Told> =
            frames.filter_map(|frame| if let Frame::Page { told, .. } = frame { Some(told) } else { None }).collect();
        assert_eq!(told, vec![Told::NOTHING; handed_on]);
    }
}

#[test]
fn who_counts_its_own_rows_wrong_is_read_a_few_times_and_let_be() {
    let (mut wired, ids, liar, victim) = mesh();
    let (mark, notary) = (wired.nodes[&liar].book().mark(), Arc::clone(&wired.nodes[&liar].config.notary));
    let (from, to) = (mark.version, mark.version + 1);
    let (row, stands) = (claim(1, 0), Census::of(&[7]).seal());
    let rows = vec![RowUpdate { key: &row.0, version: to, body: Some(&row.1) }];
    let page = Page { owner: liar, epoch: mark.epoch, floor: 0, from, to, written: to, stands, rows }.sign(&*notary);
    wired.dead.insert(liar);
    let alive = |wired: &mut Wired| {
        for id in &ids[1..] {
            let now = wired.now;
            let here = [Frame::Here, Frame::Page { told: Told { since: 0, floor: 0 }, page: &page }];
            wired.at(*id).handle(now, Input::Packet(liar, packet(&here)));
        }
        wired.settle();
    };
    for _ in 0..1_000 {
        alive(&mut wired);
        wired.run(Duration::from_millis(200));
    }
    let misread: Vec<u64> = ids[1..].iter().map(|id| wired.nodes[id].stats().books_misread).collect();
    assert!(misread.iter().all(|times| (1..=4).contains(times)), "{misread:?}");
    assert_eq!(wired.nodes[&victim].catalog.get(liar).unwrap().mark().version, to);
}

/// Who joined after somebody has left has not seen that, and hears of it.
#[test]
fn a_liar_brings_nobody_back_to_who_came_later() {
    let (mut wired, ids, liar, victim) = mesh();
    wired.order(victim, web());
    let alive = fact(&wired, victim, MemberState::Alive, victim);
    let old: Vec<Bytes> =
        wired.nodes[&victim].book().sheets(Mark::default()).iter().map(|sheet| sheet.bytes.clone()).collect();
    wired.order(victim, Command::Leave);
    wired.dead.insert(victim);
    wired.restart(20, 2_000, Vec::new());
    let newcomer = *wired.nodes.keys().find(|id| !ids.contains(id)).unwrap();
    wired.run(Duration::from_secs(5));
    let mut shown = 0;
    for _ in 0..300 {
        tell(&mut wired, newcomer, liar, &Frame::Facts(vec![alive]));
        for page in &old {
            tell(&mut wired, newcomer, liar, &Frame::Page { told: Told { since: 0, floor: 0 }, page });
        }
        tell(&mut wired, newcomer, liar, &Frame::Vouch(victim));
        wired.run(Duration::from_millis(100));
        shown += wired.seen(newcomer, "web");
    }
    assert!(shown < 100 && wired.seen(newcomer, "web") == 0, "{shown} of 300 looks");
}
