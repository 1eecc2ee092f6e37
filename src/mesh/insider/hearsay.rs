//! What a liar says of others, a thousand at once.

use super::*;
use crate::model::Time;

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

/// What one tells and the other cannot take, for what a third has told either, is not told on and on.
#[test]
fn who_has_learned_nothing_since_is_answered_once_in_a_while() {
    let (mut wired, ids, _, victim) = mesh();
    let root = packet(&[Frame::Root(7)]);
    let is_answered = |wired: &mut Wired, after| {
        wired.now = wired.now + Duration::from_millis(after);
        let now = wired.now;
        let asked = wired.at(victim);
        asked.handle(now, Input::Message(ids[2], root.clone()));
        let said: Vec<_> = std::iter::from_fn(|| asked.poll()).collect();
        said.iter().any(|output| matches!(output, Output::Packet(to, _) | Output::Message(to, _) if *to == ids[2]))
    };
    assert!(is_answered(&mut wired, 0));
    assert_eq!([60, 500, 1_000].map(|after| is_answered(&mut wired, after)), [false; 3]);
    assert!(is_answered(&mut wired, 500), "it may have been lost");
    assert!(!is_answered(&mut wired, 100));
    wired.order(victim, web());
    assert!(is_answered(&mut wired, 100), "there is more to tell");
}
