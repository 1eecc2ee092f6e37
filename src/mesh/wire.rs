//! Messages to and from MessagePack: versions, limits.

/// The version of the protocol.
pub const VERSION: u8 = 1;
/// The most bytes of a datagram: what a fresh QUIC connection carries before it has discovered its MTU.
pub const MAX_PACKET: usize = 1150;
/// The most bytes of a stream.
pub const MAX_MESSAGE: usize = 64 * 1024;
