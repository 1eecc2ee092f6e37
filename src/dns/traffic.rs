//! What the DNS face has been asked and has said: counters for metrics, never read by logic.

use crate::agent::counters;

counters! {
    /// Datagrams that came in.
    udp,
    /// Questions answered over TCP.
    tcp,
    /// Answers over UDP that were ready as bytes.
    kept,
    /// Times that all ready answers were forgotten, because they had grown too many.
    cleared,
    /// Datagrams that no answer is due to: replies, and what is too short or too long.
    ignored,
    /// Answers held back or cut short because a network beyond this host had too many.
    limited,
    /// Replies over UDP that the kernel did not take.
    unsent,
    /// TCP connections served.
    connections,
    /// TCP connections turned away: all seats taken, or all of one client's.
    turned_away,
    /// Questions forwarded to other resolvers.
    forwarded,
    /// Questions not forwarded, or given up, because too many were on their way.
    unforwarded,
}
