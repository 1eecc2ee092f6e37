//! Plain counters: read by faces and benches, never by logic.

/// Declares [`Stats`] with a name and a sentence for each counter.
macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident),* $(,)?) => {
        /// What the core has done and dropped since it started.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Stats { $($(#[doc = $doc])+ pub $name: u64),* }

        impl Stats {
            /// Every counter with its name and its meaning.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($name), concat!($($doc),+), self.$name)),*].into_iter()
            }
        }
    };
}

counters! {
    /// Datagrams handed to the driver.
    packets_sent,
    /// Bytes in them.
    packet_bytes_sent,
    /// Streams handed to the driver.
    messages_sent,
    /// Bytes in them.
    message_bytes_sent,
    /// Datagrams taken in.
    packets_received,
    /// Streams taken in.
    messages_received,
    /// Copies of rumours sent, repeats included.
    rumors_sent,
    /// Copies of rumours sent again because nobody acknowledged them.
    rumors_resent,
    /// Copies of rumours received.
    rumors_received,
    /// Copies of rumours received that told nothing new.
    rumors_stale,
    /// Rows taken over from their owners.
    rows_merged,
    /// Rumours that left a gap behind them.
    gaps,
    /// Books read anew, since they were not what their owners signed: somebody has left something out.
    books_misread,
    /// Syncs begun.
    syncs_started,
    /// Syncs that found both sides equal.
    syncs_equal,
    /// Pages sent by sync.
    sync_pages_sent,
    /// Probes that nobody answered.
    probes_failed,
    /// Suspicions not begun because the accuser, or the suspect, had too many within a minute.
    accusations_over_budget,
    /// Vouches that nobody asked for, or that came too late.
    vouches_unasked,
    /// Times this node renewed its generation.
    renewals,
    /// Members declared Down.
    downs,
    /// Inputs dropped because they were malformed.
    dropped_malformed,
    /// Frames skipped because their kind is unknown.
    skipped_unknown,
    /// Rows skipped because they were malformed or over a limit.
    dropped_rows,
    /// Pages refused because their owner did not sign them.
    dropped_forged,
    /// Times a peer was shut out, because it sent more of what no honest peer sends than its budget allows.
    expelled,
    /// Claims refused because their sender may not make them.
    dropped_unauthorized,
    /// Claims that a member is back which has left, not counted until it says so itself.
    returns_on_hearsay,
    /// Flips of instances that were told later or not at all, since they came too often.
    flips_damped,
    /// Rumours dropped because a queue was full.
    dropped_full,
}
