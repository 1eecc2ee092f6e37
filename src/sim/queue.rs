//! The future: one heap of events, ordered by time and, within one moment, by who was scheduled first.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

use bytes::Bytes;

use super::{machine::Dial, plan::Fault};
use crate::{
    mesh::Gone,
    model::{Epoch, Time},
};

/// The way of one parcel: a connection and its direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    pub(super) connection: u32,
    pub(super) from: u32,
    pub(super) to: u32,
}

impl Route {
    /// Names one direction of one connection.
    pub(super) const fn key(self) -> (u32, u32, u32) {
        (self.connection, self.from, self.to)
    }
}

/// What will happen.
#[derive(Debug)]
pub(super) enum Event {
    /// A machine's deadline.
    Wake(u32),
    /// A datagram comes in.
    Packet(Route, Bytes),
    /// A whole stream comes in; it was sent at the time given.
    Message(Route, Bytes, Time),
    /// The last leg of a handshake is done, if everybody is still there.
    Handshake(Dial),
    /// A dial has taken too long.
    DialFailed(Dial),
    /// The other side, or its machine, says that a connection is gone.
    Closed(Route, Gone),
    /// The parent of a dead process reaches an heir with its will.
    Will { of: u32, heir: u32, epoch: Epoch },
    /// A process of that life has waited long enough for somebody who knows the mesh.
    Waited { n: u32, life: u32 },
    /// A planned fault.
    Fault(Box<Fault>),
}

struct Entry {
    at: Time,
    order: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// All scheduled events.
#[derive(Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<Entry>>,
    pushed: u64,
}

impl Queue {
    pub(super) fn push(&mut self, at: Time, event: Event) {
        self.pushed += 1;
        self.heap.push(Reverse(Entry { at, order: self.pushed, event }));
    }

    /// The next event, unless it lies after `until`.
    pub(super) fn pop(&mut self, until: Time) -> Option<(Time, Event)> {
        if self.heap.peek()?.0.at > until {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| (entry.at, entry.event))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn events_come_by_time_then_in_the_order_they_were_pushed() {
        let mut queue = Queue::default();
        let at = |millis| Time::ZERO + Duration::from_millis(millis);
        for (millis, machine) in [(5, 0), (1, 1), (5, 2), (1, 3), (9, 4)] {
            queue.push(at(millis), Event::Wake(machine));
        }
        let popped = std::iter::from_fn(|| queue.pop(at(5))).map(|(_, event)| match event {
            Event::Wake(machine) => machine,
            other => panic!("nobody pushed {other:?}"),
        });
        assert_eq!(popped.collect::<Vec<_>>(), [1, 3, 0, 2]);
    }
}
