//! What a liar says of others, a thousand at once.

use super::*;
use crate::mesh::event::Cause;
use crate::model::{Registration, Time};

/// Who has just joined has no links yet: that it hears nothing proves little.
#[test]
fn a_liar_makes_nobody_leave_whom_this_node_has_to_dial_first() {
    let (mut wired, ids) = Wired::of(100);
    wired.run(Duration::from_secs(5));
    let (liar, new) = (ids[0], ids[2]);
    let others: Vec<NodeId> = ids.iter().copied().filter(|id| *id != liar && *id != new).collect();
    let (far, near) = others.split_at(90);
    for id in far {
        let seen = wired.at(new).roster.get_mut(*id).unwrap();
        (seen.linked, seen.answered, seen.vouched) = (false, Time::ZERO, Time::ZERO);
    }
    let left = far.iter().map(|id| fact(&wired, *id, MemberState::Left, *id)).collect();
    // Nothing gets through in the meantime but what helpers say: most hear from them, and of two of them only one says so.
    let (mut now, begun) = (wired.now, wired.now);
    wired.at(new).handle(now, Input::Message(liar, packet(&[Frame::Facts(left)])));
    let vouched = &far[..2];
    while now < begun + Duration::from_millis(1_500) {
        for (about, by) in vouched.iter().zip([&near[..1], &near[..2]]) {
            for by in by {
                wired.at(new).looks.get_mut(about).into_iter().for_each(|look| look.ask(*by, now));
                wired.at(new).handle(now, Input::Packet(*by, packet(&[Frame::Vouch(*about)])));
            }
        }
        now = now + Duration::from_millis(10);
        wired.at(new).handle(now, Input::Wake);
        while wired.at(new).poll().is_some() {}
    }
    let gone: Vec<_> = far.iter().filter(|id| state(&wired, new, **id) == MemberState::Left).collect();
    assert!(gone.len() < 32 && gone.contains(&&far[0]) && !gone.contains(&&far[1]), "{}", gone.len());
}

/// Nobody comes up more often for whom it has made up beside it.
#[test]
fn chance_favours_nobody() {
    let (mut wired, ids, liar, victim) = mesh();
    let invented = (1..=MAX_INVENTED as u64)
        .map(|n| Fact { id: NodeId(liar.0 - n), ..fact(&wired, liar, MemberState::Alive, liar) });
    let frame = Frame::Facts(invented.collect());
    lie(&mut wired, &ids, liar, victim, &[frame]);
    let honest = wired.at(ids[2]);
    let drawn = (0..8_000).filter(|_| honest.random_member(|seen| seen.linked) == Some(liar)).count();
    assert!((800..1_200).contains(&drawn), "{drawn} of 8,000 are the liar");
}

/// However far a liar has driven what others know of it: who is suspected can deny it.
#[test]
fn nobody_is_driven_to_where_it_cannot_deny() {
    let (mut wired, ids, liar, victim) = mesh();
    let known = fact(&wired, victim, MemberState::Alive, victim);
    for round in 0..20 {
        let lifts = (1..=1_000).map(|n| Fact { incarnation: n * 64, ..known });
        let renewals = (1..=100).map(|n| Fact { generation: Generation(known.generation.0 + n * 64), ..known });
        let facts: Vec<Fact> = if round % 2 == 0 { lifts.collect() } else { renewals.collect() };
        lie(&mut wired, &ids, liar, victim, &[Frame::Facts(facts)]);
        let suspects: Vec<Fact> =
            (1..=20).map(|n| Fact { incarnation: n * 64, state: MemberState::Suspect, by: ids[3], ..known }).collect();
        lie(&mut wired, &ids, liar, victim, &[Frame::Facts(suspects)]);
        wired.run(Duration::from_secs(3));
        assert!(honest(&wired, &ids, victim).iter().all(|state| *state == MemberState::Alive), "round {round}");
    }
    assert_eq!(downs(&wired, &ids), 0);
}

/// An owner of whom this node can take nothing, such as one that has left here alone, costs those who tell of it so much and no
/// more: from then on this node asks in its rounds alone, and after a minute as before.
#[test]
fn who_was_told_again_what_it_cannot_take_asks_slowly() {
    let (mut wired, ids, liar, victim) = mesh();
    for n in 0..400 {
        wired.order(liar, Command::Register(long_service(n)));
    }
    let (honest, left) = (ids[2], fact(&wired, liar, MemberState::Left, liar));
    let mut now = wired.now;
    wired.at(victim).judge(now, &left, Cause::Told);
    let ask_on = |wired: &mut Wired, now, root| -> usize {
        while wired.at(victim).poll().is_some() {}
        // Whatever the liar does to have them differ each time: what ends a part of an answer asks for the next.
        let root = packet(&[Frame::Root(root)]);
        wired.at(victim).handle(now, Input::Message(honest, root));
        deliver(wired, now, victim, honest);
        deliver(wired, now, honest, victim)
    };
    let told: Vec<usize> = (0..40).map(|root| ask_on(&mut wired, now, root)).collect();
    let most = told.iter().take_while(|bytes| **bytes > 1 << 20).count();
    assert!((15..=17).contains(&most) && told[most..].iter().all(|bytes| *bytes == 0), "{told:?}");
    now = now + Duration::from_secs(5);
    assert!(ask_on(&mut wired, now, 50) > 1 << 20 && ask_on(&mut wired, now, 51) == 0);
    wired.at(victim).budgets.forget(now);
    assert!(ask_on(&mut wired, now, 52) > 1 << 20, "a minute is over");
}

/// A long book is read as fast as its reader reads, however fast that is.
#[test]
fn a_long_book_is_asked_for_as_soon_as_a_part_of_it_was_read() {
    let (mut wired, ids, _, victim) = mesh();
    wired.dead.insert(ids[2]);
    for n in 0..1_500 {
        wired.order(victim, Command::Register(long_service(n)));
    }
    wired.restart(2, 2_000, Vec::new());
    let begun = wired.now;
    while wired.nodes[&ids[2]].services().count() < 1_500 {
        wired.run(Duration::from_millis(1));
    }
    assert!(wired.now.since(begun) < Duration::from_millis(100), "{:?}", wired.now.since(begun));
}

/// Brings what one has to say to another, and drops the rest; how many bytes of streams that were.
fn deliver(wired: &mut Wired, now: Time, from: NodeId, to: NodeId) -> usize {
    let mut bytes = 0;
    while let Some(output) = wired.at(from).poll() {
        match output {
            Output::Message(at, message) if at == to => {
                bytes += message.len();
                wired.at(to).handle(now, Input::Message(from, message));
            }
            Output::Packet(at, packet) if at == to => wired.at(to).handle(now, Input::Packet(from, packet)),
            _ => {}
        }
    }
    bytes
}

fn long_service(n: u32) -> Arc<Registration> {
    let mut service = Registration::new(&format!("s{n}"), 80).unwrap();
    service.meta = (0..10).map(|m| (format!("m{m}"), "x".repeat(512))).collect();
    Arc::new(service)
}
