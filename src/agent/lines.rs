//! Lines of the log that peers can have written as often as they like: of each kind one now and then, with how many there
//! were besides, and no more of a peer's own words than anybody reads.

use super::door::Seldom;

/// When each kind was told of last. One for the whole node: who has many names, or connects again and again, gains nothing.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// This node has hung up on whom it lets in no more.
    pub(super) expelled: Seldom,
    /// A peer has hung up on this node, and says why.
    pub(super) expelled_by_peer: Seldom,
    pub(super) name_in_use: Seldom,
    pub(super) name_disputed: Seldom,
    pub(super) last_will: Seldom,
}

/// What a peer says, as far as it is worth telling.
pub(super) fn excerpt(said: &[u8]) -> String {
    // Cut first: no character takes more than four bytes.
    String::from_utf8_lossy(&said[..said.len().min(4 * MAX_SAID)]).chars().take(MAX_SAID).collect()
}

/// Characters of a reason: ours are shorter.
const MAX_SAID: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_a_peer_says_a_line_is_told() {
        for (said, told) in [
            ("misbehaved: a stream longer than any message".into(), 44),
            ("x".repeat(1200), 128),
            ("\u{1f980}".repeat(300), 128),
            (String::new(), 0),
        ] {
            let excerpt = excerpt(said.as_bytes());
            assert!(excerpt.chars().count() == told && said.starts_with(&excerpt), "{excerpt}");
        }
        assert_eq!(excerpt(&[0xff; 1200]).chars().count(), 128);
    }
}
