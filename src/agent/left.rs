//! What callers have left behind by hanging up before a connection stood, and who is answered while it is much.
//!
//! A first packet that says goodbye leaves a connection behind that quinn keeps until it has idled long enough. So each
//! caller may leave so many, and all strangers together; beyond that one call a second is answered: somebody's neighbours
//! suffer with him, and are not shut out.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{quic::IDLE, view::View};

/// Who is counted as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Caller {
    /// Where a member says that it is reached: by itself, for its neighbours may be anybody.
    Member(IpAddr),
    /// Of anybody else the part of the address that one caller cannot choose: a network of IPv6 is one caller's.
    Stranger(IpAddr),
}

impl Caller {
    pub(super) fn at(source: IpAddr, view: &View) -> Self {
        let is_member = view.tenants(source).is_some_and(|tenants| !tenants.nodes.is_empty());
        if is_member { Self::Member(source) } else { Self::stranger(source) }
    }

    /// Whether it is on this machine.
    pub(super) const fn is_own(self) -> bool {
        let (Self::Member(address) | Self::Stranger(address)) = self;
        address.is_loopback()
    }

    fn stranger(source: IpAddr) -> Self {
        Self::Stranger(match source {
            IpAddr::V6(v6) if !v6.is_loopback() => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
            _ => source,
        })
    }
}

/// Connections that callers with proven addresses have hung up on before they stood.
#[derive(Debug, Default)]
pub(super) struct Left(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    callers: BTreeMap<Caller, Count>,
    /// When a stranger was answered last while there was too much in all, and when a member.
    answered: [Option<Instant>; 2],
}

/// What one caller has left.
#[derive(Debug)]
struct Count {
    left: u32,
    /// Since when it is counted: until what was left first is gone.
    since: Instant,
    /// When it was answered last while that was too much.
    answered: Option<Instant>,
}

impl Left {
    /// One more is left behind.
    pub(super) fn add(&self, caller: Caller, now: Instant) {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let callers = &mut counted.callers;
        callers.retain(|_, count| now - count.since < IDLE);
        let most = if matches!(caller, Caller::Member(_)) { 2 * MAX_COUNTED } else { MAX_COUNTED };
        let has_room = callers.len() < most;
        if has_room || callers.contains_key(&caller) {
            callers.entry(caller).or_insert(Count { left: 0, since: now, answered: None }).left += 1;
        }
    }

    /// Whether to answer a call, where so many are left behind in all.
    pub(super) fn answers(&self, caller: Caller, in_all: usize, now: Instant) -> bool {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Counted { callers, answered } = &mut *counted;
        let (last, most) = match caller {
            Caller::Stranger(_) => (&mut answered[0], MAX_LEFT_IN_ALL),
            // A member says where it is as often as it likes.
            Caller::Member(_) => (&mut answered[1], 2 * MAX_LEFT_IN_ALL),
        };
        if in_all > most {
            return is_due(last, now);
        }
        let is_much = |count: &&mut Count| count.left >= MAX_LEFT_BY_ONE && now - count.since < IDLE;
        callers.get_mut(&caller).filter(is_much).is_none_or(|count| is_due(&mut count.answered, now))
    }
}

/// Whether nobody was answered for a while; from now on somebody was.
fn is_due(answered: &mut Option<Instant>, now: Instant) -> bool {
    let is_due = answered.is_none_or(|last| now - last >= ANYWAY_EVERY);
    if is_due {
        *answered = Some(now);
    }
    is_due
}

/// What one caller may leave behind at 20 KB each, 5 MB, until the first of it is gone.
pub(super) const MAX_LEFT_BY_ONE: u32 = 256;
/// How often somebody is answered anyway, so that whoever shares an address or a network with such a caller comes in: what
/// may be left by that is 36 MB more in half an hour, which is when quinn lets go of the first.
const ANYWAY_EVERY: Duration = Duration::from_secs(1);
/// What all may leave behind, 80 MB, until strangers are one caller: somebody has 65,536 networks of IPv6 as easily as one.
/// Callers from where members say they are have as much again.
const MAX_LEFT_IN_ALL: usize = 4096;
/// Strangers counted at a time, and as many members' addresses: beyond it the limit for all holds.
const MAX_COUNTED: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn stranger(address: &str) -> Caller {
        Caller::stranger(address.parse().unwrap())
    }

    fn member(address: &str) -> Caller {
        Caller::Member(address.parse().unwrap())
    }

    fn fill(left: &Left, caller: Caller, now: Instant) {
        (0..MAX_LEFT_BY_ONE).for_each(|_| left.add(caller, now));
    }

    #[test]
    fn who_hangs_up_too_often_is_answered_once_a_second_until_that_is_over() {
        let (left, now) = (Left::default(), Instant::now());
        let [one, same, other] = ["2001:db8::1", "2001:db8::2", "192.0.2.1"].map(stranger);
        for _ in 0..MAX_LEFT_BY_ONE {
            assert!(left.answers(same, 0, now));
            left.add(one, now);
        }
        let answered = |caller, tenths: u64| {
            let now = now + Duration::from_millis(100 * tenths);
            (0..30).filter(|tenth| left.answers(caller, 0, now + Duration::from_millis(100 * tenth))).count()
        };
        assert_eq!((answered(same, 0), answered(other, 0)), (3, 30));
        assert!(left.answers(same, 0, now + IDLE) && left.answers(same, 0, now + IDLE));
        left.add(same, now + IDLE);
        assert!(left.answers(same, 0, now + IDLE) && left.answers(same, 0, now + IDLE), "counted anew");
    }

    #[test]
    fn whoever_lives_beside_a_member_does_not_shut_it_out_and_each_is_counted_for_himself() {
        let (left, now) = (Left::default(), Instant::now());
        let (neighbour, node) = (stranger("2001:db8::666"), member("2001:db8::1"));
        fill(&left, neighbour, now);
        assert!(left.answers(neighbour, 0, now), "the first of its second");
        for _ in 0..MAX_LEFT_BY_ONE {
            assert!(!left.answers(neighbour, 0, now) && left.answers(node, 0, now));
            left.add(node, now);
        }
        let other = member("2001:db8::2");
        assert_eq!([node, node, other, other].map(|caller| left.answers(caller, 0, now)), [true, false, true, true]);
    }

    #[test]
    fn when_too_much_is_left_in_all_strangers_are_one_and_members_none_of_them() {
        let (left, now) = (Left::default(), Instant::now());
        let networks: Vec<_> = (0..100).map(|net| stranger(&format!("2001:db8:0:{net:x}::1"))).collect();
        let answered = |in_all, now| networks.iter().filter(|caller| left.answers(**caller, in_all, now)).count();
        assert_eq!(answered(MAX_LEFT_IN_ALL, now), 100);
        assert_eq!([0, 999, 1000].map(|ms| answered(MAX_LEFT_IN_ALL + 1, now + Duration::from_millis(ms))), [1, 0, 1]);
        let node = member("2001:db8::1");
        assert!(left.answers(node, MAX_LEFT_IN_ALL + 1, now));
        fill(&left, node, now);
        assert_eq!([(); 2].map(|()| left.answers(node, MAX_LEFT_IN_ALL + 1, now)), [true, false]);
        // Who is a member may say that he is anywhere.
        let places: Vec<_> = (0..100).map(|net| member(&format!("2001:db8:1:{net:x}::1"))).collect();
        let answered = |in_all| places.iter().filter(|caller| left.answers(**caller, in_all, now)).count();
        assert_eq!([2 * MAX_LEFT_IN_ALL, 2 * MAX_LEFT_IN_ALL + 1].map(answered), [100, 1]);
    }

    #[test]
    fn members_are_counted_whatever_strangers_there_are() {
        let (left, now) = (Left::default(), Instant::now());
        for net in 0..=MAX_COUNTED {
            left.add(stranger(&format!("2001:db8:0:{net:x}::1")), now);
        }
        assert_eq!(left.0.lock().unwrap().callers.len(), MAX_COUNTED);
        fill(&left, member("192.0.2.1"), now);
        assert_eq!([(); 2].map(|()| left.answers(member("192.0.2.1"), 0, now)), [true, false]);
    }
}
