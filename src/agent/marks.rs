//! When each topic changed last, and who waits for it to change again.
//!
//! One number line for the process: `(max(previous + 1, unix milliseconds) << 11) | tag`, where the tag is 11 random bits
//! of this start. It grows across restarts, a reader's number tells whether this start issued it, and it stays below
//! 2^53 until the year 2109. A name that is gone leaves its mark in one for all names that are gone.
//!
//! Marks move when a publication is whole, never while it is under way: who reads halfway through it has read under the
//! number before, and is told again.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use dashmap::DashMap;
use tokio::sync::watch;

/// What a reader can wait for. Names are folded to lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// The names of all services, and their tags.
    Services,
    /// All that is registered, and where: everything but health.
    Rows,
    /// All nodes.
    Nodes,
    /// All checks, those that the mesh makes of its members too.
    Checks,
    /// One service.
    Service(String),
    /// One node, and what stands on it.
    Node(String),
    /// This node's own registrations.
    Own,
    /// What never changes.
    Nothing,
}

/// All marks and all who wait.
#[derive(Debug)]
pub(super) struct Marks {
    tag: u64,
    first: u64,
    /// The number of the publication under way.
    coming: AtomicU64,
    each: DashMap<Topic, u64>,
    extinct: AtomicU64,
    waiting: DashMap<Topic, watch::Sender<()>>,
    /// What the publication under way changes. Only the loop that writes locks it.
    news: Mutex<HashMap<Topic, Fate>>,
}

/// What becomes of a topic's mark.
#[derive(Debug)]
enum Fate {
    Moves,
    /// The name is gone, and its mark with it.
    Goes,
}

impl Default for Marks {
    fn default() -> Self {
        // Without randomness two starts may share a tag: then a reader of the old one waits instead of asking again.
        let tag = getrandom::u64().unwrap_or_default() & TAG;
        let first = number(0, tag);
        Self {
            tag,
            first,
            coming: AtomicU64::new(number(first, tag)),
            each: DashMap::new(),
            extinct: AtomicU64::new(first),
            waiting: DashMap::new(),
            news: Mutex::default(),
        }
    }
}

impl Marks {
    /// The first number of this start.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// The number of the publication under way.
    pub(super) fn coming(&self) -> u64 {
        self.coming.load(Ordering::Acquire)
    }

    /// Whether this start issued a number.
    pub(super) fn is_ours(&self, number: u64) -> bool {
        number & TAG == self.tag && (self.first..=self.coming()).contains(&number)
    }

    /// The number of a topic's last change; that of all who are gone for a name that is not there.
    pub(super) fn of(&self, topic: &Topic) -> u64 {
        let absent = || match topic {
            Topic::Service(_) | Topic::Node(_) => self.extinct.load(Ordering::Acquire),
            _ => self.first,
        };
        self.each.get(topic).map_or_else(absent, |mark| *mark)
    }

    /// Notes that a topic changes with the publication under way.
    pub(super) fn touch(&self, topic: Topic) {
        self.news().insert(topic, Fate::Moves);
    }

    /// Notes that a name goes with it.
    pub(super) fn bury(&self, topic: Topic) {
        self.news().insert(topic, Fate::Goes);
    }

    /// Whether anything has changed since the last publication.
    pub(super) fn has_news(&self) -> bool {
        !self.news().is_empty()
    }

    fn news(&self) -> MutexGuard<'_, HashMap<Topic, Fate>> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a publication, after all that it changes: moves the marks, and wakes who waits for them. Returns its number.
    pub(super) fn publish(&self) -> u64 {
        let done = self.coming();
        for (topic, fate) in self.news().drain() {
            match fate {
                Fate::Moves => drop(self.each.insert(topic.clone(), done)),
                Fate::Goes => {
                    self.extinct.store(done, Ordering::Release);
                    self.each.remove(&topic);
                }
            }
            if let Some(waiting) = self.waiting.get(&topic) {
                waiting.send_replace(());
            }
        }
        self.coming.store(number(done, self.tag), Ordering::Release);
        done
    }

    /// Wakes at each publication that changes the topic; [`Marks::leave`] goes with it.
    pub(super) fn wait(&self, topic: &Topic) -> watch::Receiver<()> {
        self.waiting.entry(topic.clone()).or_insert_with(|| watch::channel(()).0).subscribe()
    }

    /// One who waited has left; the last one takes the place away.
    pub(super) fn leave(&self, topic: &Topic) {
        self.waiting.remove_if(topic, |_, waiting| waiting.receiver_count() == 0);
    }
}

/// The number after `previous`.
fn number(previous: u64, tag: u64) -> u64 {
    let unix_millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let now = u64::try_from(unix_millis).unwrap_or_default();
    (((previous >> TAG_BITS) + 1).max(now) << TAG_BITS) | tag
}

/// Enough that a reader of another start is told apart from ours 2,047 times in 2,048.
pub(super) const TAG_BITS: u32 = 11;
const TAG: u64 = (1 << TAG_BITS) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> Topic {
        Topic::Service("web".into())
    }

    #[test]
    fn numbers_grow_and_tell_their_start() {
        let marks = Marks::default();
        let (first, coming) = (marks.first(), marks.coming());
        assert!(first < coming && coming < 1 << 53);
        assert_eq!(marks.publish(), coming);
        assert!(marks.coming() > coming);
        assert!(marks.is_ours(first) && marks.is_ours(coming));
        assert!(!marks.is_ours(first ^ 1) && !marks.is_ours(coming + (1 << 50)) && !marks.is_ours(0));
    }

    #[test]
    fn a_name_that_is_gone_leaves_its_mark_to_all_who_are_gone() {
        let marks = Marks::default();
        assert_eq!(marks.of(&web()), marks.first());
        marks.touch(web());
        assert_eq!(marks.of(&web()), marks.first(), "not before it is published");
        let there = marks.publish();
        assert_eq!(marks.of(&web()), there);
        marks.bury(web());
        assert_eq!(marks.of(&web()), there);
        let gone = marks.publish();
        assert_eq!(marks.of(&web()), gone);
        assert_eq!(marks.of(&Topic::Service("other".into())), gone);
        assert_eq!(marks.of(&Topic::Nodes), marks.first());
    }

    #[test]
    fn a_waiter_hears_of_its_topic_alone_and_leaves_nothing_behind() {
        let marks = Marks::default();
        let waiter = marks.wait(&web());
        marks.touch(Topic::Nodes);
        marks.publish();
        assert!(!waiter.has_changed().unwrap());
        marks.touch(web());
        assert!(!waiter.has_changed().unwrap(), "not before it is published");
        marks.publish();
        assert!(waiter.has_changed().unwrap() && !marks.has_news());
        drop(waiter);
        marks.leave(&web());
        assert!(marks.waiting.is_empty());
    }
}
