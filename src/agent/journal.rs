//! What happened on this node and why: the last events in a ring of bounded length, numbered, so that a reader who was
//! away resumes where it was or is told how much it missed.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

use crate::{
    mesh::Event,
    model::{Health, InstanceId, NodeName, ServiceName},
};

/// One event.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its number: one more than that of the event before.
    pub number: u64,
    /// When it happened, in unix milliseconds.
    pub unix_millis: u64,
    /// What happened.
    pub news: News,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum News {
    /// The core's own word, with the name of the node it is about.
    Mesh(Event, Option<NodeName>),
    /// An instance is in another health than before.
    Health(Box<Flip>),
    /// A node is to be found elsewhere.
    Moved(Box<Move>),
    /// What became of this node's own certificate; or that it has granted one to another.
    Certificate(NodeName, Paper),
    /// What became of the one that its HTTP port shows.
    HttpCertificate(NodeName, Paper),
}

/// A change of a node's addresses, which it has told itself.
#[derive(Clone, Debug)]
pub struct Move {
    /// Which node.
    pub node: NodeName,
    /// Where it was, best first.
    pub was: Vec<SocketAddr>,
    /// Where it is.
    pub now: Vec<SocketAddr>,
    /// Whether it is this one.
    pub is_this: bool,
}

/// What became of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Paper {
    /// Less than a fifth of its lifetime is left.
    Expires {
        /// Its number.
        serial: String,
        /// For how long it is good.
        left: Duration,
    },
    /// It is good no more.
    Expired {
        /// Its number.
        serial: String,
    },
    /// Another one is in use.
    Reloaded {
        /// Its number.
        serial: String,
    },
    /// There are other files, and they are of no use.
    NotReloaded {
        /// Why.
        why: String,
    },
    /// This node has granted it, to that node.
    Granted {
        /// Its number.
        serial: String,
        /// That of the certificate on the strength of which it was; none where a token was shown.
        of: Option<String>,
        /// Who asked.
        from: SocketAddr,
        /// Until when it is good.
        until: SystemTime,
    },
    /// The next one was asked for, and nobody has granted it.
    NotRenewed {
        /// Why.
        why: String,
    },
}

/// A change of one instance's health.
#[derive(Clone, Debug)]
pub struct Flip {
    /// Its service.
    pub service: ServiceName,
    /// The instance.
    pub instance: InstanceId,
    /// Its node.
    pub node: NodeName,
    /// Before.
    pub was: Health,
    /// Now.
    pub now: Health,
    /// The check that made it so; `None` for maintenance, and where no single check did.
    pub check: Option<Arc<str>>,
    /// What the check, or whoever put it into maintenance, said.
    pub why: Arc<str>,
}

impl News {
    /// The stable name of its kind: as in the log, in the metrics and on the stream.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Health(_) => "health",
            Self::Moved(_) => "moved",
            Self::Certificate(_, paper) => match paper {
                Paper::Expires { .. } => "certificate_expires",
                Paper::Expired { .. } => "certificate_expired",
                Paper::Reloaded { .. } => "certificate_reloaded",
                Paper::NotReloaded { .. } => "certificate_not_reloaded",
                Paper::NotRenewed { .. } => "certificate_not_renewed",
                Paper::Granted { .. } => "certificate_granted",
            },
            Self::HttpCertificate(_, paper) => match paper {
                Paper::Expires { .. } => "http_certificate_expires",
                Paper::Expired { .. } => "http_certificate_expired",
                Paper::Reloaded { .. } => "http_certificate_reloaded",
                Paper::NotReloaded { .. } | Paper::NotRenewed { .. } | Paper::Granted { .. } => {
                    "http_certificate_not_reloaded"
                }
            },
            Self::Mesh(event, _) => match event {
                Event::Member { .. } => "member",
                Event::Renewed => "renewed",
                Event::Garbage { .. } => "garbage",
                Event::Expelled { .. } => "expelled",
                Event::PartitionBegan { .. } => "partition_began",
                Event::PartitionEnded { .. } => "partition_ended",
                Event::ProtectionBegan { .. } => "protection_began",
                Event::ProtectionEnded { .. } => "protection_ended",
                Event::Flapping { .. } => "flapping",
                Event::Paused { .. } => "paused",
            },
        }
    }

    /// What it led to and why, where that is a word of few: the labels it is counted under.
    const fn labels(&self) -> (&'static str, &'static str) {
        match self {
            Self::Health(flip) => (flip.now.as_str(), if flip.check.is_some() { "check" } else { "" }),
            Self::Mesh(Event::Member { now, cause, .. }, _) => (now.as_str(), cause.as_str()),
            Self::Mesh(..) | Self::Moved(_) | Self::Certificate(..) | Self::HttpCertificate(..) => ("", ""),
        }
    }
}

/// The events of this start of the process, the last of them in full.
#[derive(Debug)]
pub struct Journal {
    ring: Mutex<Ring>,
    last: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<Arc<Entry>>,
    counts: BTreeMap<Labels, u64>,
}

/// Kind, outcome and cause of an event.
pub(crate) type Labels = (&'static str, &'static str, &'static str);

impl Default for Journal {
    fn default() -> Self {
        Self { ring: Mutex::default(), last: watch::channel(0).0 }
    }
}

impl Journal {
    pub(crate) fn write(&self, unix_millis: u64, news: News) {
        let (outcome, cause) = news.labels();
        let mut ring = self.ring();
        let number = *self.last.borrow() + 1;
        *ring.counts.entry((news.kind(), outcome, cause)).or_default() += 1;
        if ring.entries.len() >= MAX_ENTRIES {
            ring.entries.pop_front();
        }
        ring.entries.push_back(Arc::new(Entry { number, unix_millis, news }));
        drop(ring);
        self.last.send_replace(number);
    }

    /// The events after the one numbered `seen`, the oldest first, and how many before them are in the ring no more.
    #[must_use]
    pub fn after(&self, seen: u64) -> (u64, Vec<Arc<Entry>>) {
        let ring = self.ring();
        let first = ring.entries.front().map_or(seen + 1, |entry| entry.number);
        let skipped = usize::try_from((seen + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        (first.saturating_sub(seen + 1), ring.entries.iter().skip(skipped).cloned().collect())
    }

    /// The number of the last event; wakes when there is another.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    /// How many events there were of each kind, outcome and cause.
    #[must_use]
    pub(crate) fn counts(&self) -> BTreeMap<Labels, u64> {
        self.ring().counts.clone()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Enough for a reader who was away while a mesh of hundreds restarted.
pub(crate) const MAX_ENTRIES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers((missed, entries): (u64, Vec<Arc<Entry>>)) -> (u64, Option<u64>, usize) {
        (missed, entries.first().map(|entry| entry.number), entries.len())
    }

    #[test]
    fn a_reader_resumes_or_is_told_what_it_missed() {
        let journal = Journal::default();
        assert_eq!(numbers(journal.after(0)), (0, None, 0));
        for at in 0..MAX_ENTRIES as u64 + 10 {
            journal.write(at, News::Mesh(Event::Renewed, None));
        }
        let last = MAX_ENTRIES as u64 + 10;
        assert_eq!(*journal.subscribe().borrow(), last);
        assert_eq!(numbers(journal.after(0)), (10, Some(11), MAX_ENTRIES));
        assert_eq!(numbers(journal.after(10)), (0, Some(11), MAX_ENTRIES));
        assert_eq!(numbers(journal.after(last - 1)), (0, Some(last), 1));
        assert_eq!(numbers(journal.after(last)), (0, None, 0));
        assert_eq!(numbers(journal.after(last + 5)), (0, None, 0), "a number of the future");
        assert_eq!(journal.counts()[&("renewed", "", "")], last);
    }
}
