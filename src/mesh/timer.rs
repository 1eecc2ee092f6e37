//! The only queue of the future: what is to happen, in the order it falls due, ties in the order they were set.

use std::collections::BTreeMap;

use crate::model::Time;

/// Things to do later, of any kind `T`.
#[derive(Debug)]
pub(super) struct Timers<T> {
    queue: BTreeMap<Slot, T>,
    set: u64,
}

/// Where a thing waits in the queue.
pub(super) type Slot = (Time, u64);

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self { queue: BTreeMap::new(), set: 0 }
    }
}

impl<T> Timers<T> {
    /// Has `what` happen at `at`.
    pub(super) fn set(&mut self, at: Time, what: T) {
        self.book(at, what);
    }

    /// The same of what may be cancelled.
    pub(super) fn book(&mut self, at: Time, what: T) -> Slot {
        self.set += 1;
        self.queue.insert((at, self.set), what);
        (at, self.set)
    }

    /// Has what waits there not happen, unless it has, or was postponed.
    pub(super) fn cancel(&mut self, slot: Slot) {
        self.queue.remove(&slot);
    }

    /// How many things wait.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.queue.len()
    }

    /// When the next thing falls due.
    pub(super) fn next(&self) -> Time {
        self.queue.first_key_value().map_or(Time::NEVER, |((at, _), _)| *at)
    }

    /// Takes the next thing that has fallen due.
    pub(super) fn due(&mut self, now: Time) -> Option<T> {
        let entry = self.queue.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }

    /// Moves what has fallen due and is `wanted` to `until`, keeping its order.
    pub(super) fn postpone(&mut self, now: Time, until: Time, wanted: impl Fn(&T) -> bool) {
        let late: Vec<T> = std::iter::from_fn(|| self.due(now)).collect();
        for what in late {
            self.set(if wanted(&what) { until } else { now }, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_falls_due_comes_in_order_and_ties_in_the_order_set() {
        let at = |s| Time::after_start(Duration::from_secs(s));
        let mut timers = Timers::default();
        timers.set(at(2), "c");
        timers.set(at(1), "a");
        timers.set(at(1), "b");
        assert_eq!(timers.next(), at(1));
        assert_eq!(std::iter::from_fn(|| timers.due(at(1))).collect::<Vec<_>>(), ["a", "b"]);
        timers.set(at(2), "d");
        timers.postpone(at(3), at(4), |what| *what == "c");
        assert_eq!((timers.due(at(3)), timers.due(at(3)), timers.due(at(4))), (Some("d"), None, Some("c")));
        assert_eq!(timers.next(), Time::NEVER);
        let slot = timers.book(at(5), "e");
        timers.set(at(5), "f");
        timers.cancel(slot);
        assert_eq!((timers.due(at(5)), timers.due(at(5))), (Some("f"), None));
    }
}
