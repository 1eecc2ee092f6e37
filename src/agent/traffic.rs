//! What the driver has moved and dropped: counters for metrics, never read by logic.

use std::sync::atomic::{AtomicU64, Ordering};

/// Declares [`Traffic`] with a sentence for each counter.
macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident),* $(,)?) => {
        /// What the driver has moved and dropped since it started.
        #[derive(Debug, Default)]
        pub struct Traffic { $($(#[doc = $doc])+ pub $name: Counter),* }

        impl Traffic {
            /// Every counter with its name and its meaning.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($name), concat!($($doc),+), self.$name.read())),*].into_iter()
            }
        }
    };
}

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
    /// Groups of writes that were stored together; on a disk each takes one fsync.
    commits,
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

    pub(super) fn add(&self, by: usize) {
        self.0.fetch_add(by as u64, Ordering::Relaxed);
    }
}
