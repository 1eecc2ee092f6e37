//! What the driver has moved and dropped: counters for metrics, never read by logic.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Declares a `Traffic` with a sentence for each counter; the faces have theirs.
macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident),* $(,)?) => {
        /// What has been moved and dropped since the start.
        #[derive(Debug, Default)]
        pub struct Traffic { $($(#[doc = $doc])+ pub $name: $crate::agent::Counter),* }

        impl Traffic {
            /// Every counter with its name and its meaning.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($name), concat!($($doc),+), self.$name.read())),*].into_iter()
            }
        }
    };
}

pub(crate) use counters;

counters! {
    /// Datagrams handed to QUIC.
    datagrams_sent,
    /// Bytes in them.
    datagram_bytes_sent,
    /// Datagrams taken from QUIC.
    datagrams_received,
    /// Bytes in them.
    datagram_bytes_received,
    /// Streams written to the end.
    streams_sent,
    /// Bytes in them.
    stream_bytes_sent,
    /// Streams read to the end.
    streams_received,
    /// Bytes in them.
    stream_bytes_received,
    /// Connections on which both sides have said who they are.
    handshakes,
    /// Connections that failed before that.
    handshakes_failed,
    /// Callers told to prove their address first, since many called at once.
    retries,
    /// Callers turned away, since too many called at once.
    refused,
    /// Dials begun.
    dials,
    /// Packets and messages dropped because a queue to a peer was full or it could not be reached.
    dropped_outgoing,
    /// Datagrams dropped because the loop was behind.
    dropped_incoming,
    /// Streams that were too long, too slow or broken off.
    streams_failed,
    /// Notices of edicts sent.
    notices_sent,
    /// Edicts taken over from their authority.
    edicts_taken,
    /// Edicts that no authority of this mesh has signed, or that make no sense.
    edicts_refused,
    /// Groups of writes stored together: one fsync each where there is a data directory.
    commits,
    /// Runs of checks begun.
    checks_run,
    /// Those of them that began more than 20 ms after they were due.
    checks_late,
    /// Runs of checks left out because the one before was not over.
    checks_skipped,
    /// Runs of checks that found nothing out, since this node lacked descriptors, memory or processes.
    checks_unable,
}

/// The counters of a face, for another to show: their room, and how to read them.
#[derive(Clone)]
pub struct Tally {
    /// What their names begin with.
    pub room: &'static str,
    read: Arc<dyn Fn() -> Vec<(&'static str, &'static str, u64)> + Send + Sync>,
}

impl Tally {
    /// Counters that `read` reads: their names, their meanings, their values.
    pub fn new(
        room: &'static str,
        read: impl Fn() -> Vec<(&'static str, &'static str, u64)> + Send + Sync + 'static,
    ) -> Self {
        Self { room, read: Arc::new(read) }
    }

    /// Every counter with its name and its meaning.
    #[must_use]
    pub fn each(&self) -> Vec<(&'static str, &'static str, u64)> {
        (self.read)()
    }
}

impl fmt::Debug for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Tally").field(&self.room).finish()
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Its value now.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Lets it grow.
    pub fn add(&self, by: usize) {
        self.0.fetch_add(by as u64, Ordering::Relaxed);
    }
}
