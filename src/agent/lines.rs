//! Lines of the log that peers can have written as often as they like: of each kind one now and then, with how many there
//! were besides, and no more of a peer's own words than anybody reads.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

use tokio::time::Instant;

use super::door::Seldom;
use crate::model::{NodeId, ServiceName};

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
    subjects: Mutex<HashMap<Option<Subject>, Seldom>>,
}

/// What a line is about that is told at once where nobody makes many.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    Member(NodeId),
    Service(ServiceName),
    Seed(SocketAddr),
}

impl Lines {
    /// How many lines about this one were not told since the last that was; `None` if this one is not to be told either.
    /// Each has lines of its own, so that nobody's flood hides what befalls another. Beyond those there is room for, as
    /// who holds a mesh's secret can name them, the rest share: events and metrics tell all.
    pub(super) fn about(&self, subject: Subject, now: Instant) -> Option<u64> {
        let mut subjects = self.subjects.lock().unwrap_or_else(PoisonError::into_inner);
        let mut subject = Some(subject);
        if subjects.len() >= MAX_SUBJECTS && !subjects.contains_key(&subject) {
            subjects.retain(|_, lines| !lines.is_rested(now));
            subject = subject.filter(|_| subjects.len() < MAX_SUBJECTS);
        }
        subjects.entry(subject).or_insert_with(|| Seldom::after(LINES)).take(now)
    }
}

/// What a peer says, as far as it is worth telling.
pub(super) fn excerpt(said: &[u8]) -> String {
    // Cut first: no character takes more than four bytes.
    String::from_utf8_lossy(&said[..said.len().min(4 * MAX_SAID)]).chars().take(MAX_SAID).collect()
}

/// Lines about one subject until they become few: a node that restarts, and each of some dozens of services there.
const LINES: u32 = 64;
/// Subjects with lines of their own: those that were told of lately while hundreds of nodes restart.
const MAX_SUBJECTS: usize = 256;
/// Characters of a reason: ours are shorter.
const MAX_SAID: usize = 128;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn who_has_much_written_about_him_hides_nothing_of_others() {
        let (lines, now) = (Lines::default(), Instant::now());
        let [loud, quiet] = [1, 2].map(|id| Subject::Member(NodeId(id)));
        let told = (0..1000).filter_map(|_| lines.about(loud.clone(), now));
        assert_eq!(told.collect::<Vec<_>>(), [0; LINES as usize]);
        assert_eq!(lines.about(quiet.clone(), now), Some(0));
        let later = now + Duration::from_secs(10);
        assert_eq!([(); 2].map(|()| lines.about(loud.clone(), later)), [Some(1000 - u64::from(LINES)), None]);
        assert_eq!(lines.about(quiet, later), Some(0));
    }

    #[tokio::test]
    async fn a_rolling_restart_is_told_whole() {
        let (lines, now) = (Lines::default(), Instant::now());
        // 300 nodes, one in 2 s, each of which goes, is back, and has 20 instances that turn healthy.
        let told = (0..300)
            .flat_map(|node| (0..22).map(move |_| node))
            .filter(|node| lines.about(Subject::Member(NodeId(*node)), now + Duration::from_secs(2 * node)) == Some(0));
        assert_eq!(told.count(), 300 * 22);
    }

    #[tokio::test]
    async fn many_names_share_what_there_is_and_are_forgotten() {
        let (lines, now) = (Lines::default(), Instant::now());
        let many = |now| (0..1000).filter(|id| lines.about(Subject::Member(NodeId(*id)), now).is_some()).count();
        assert_eq!(many(now), MAX_SUBJECTS + LINES as usize);
        assert_eq!(lines.subjects.lock().unwrap().len(), MAX_SUBJECTS + 1);
        assert_eq!(many(now + Duration::from_secs(3600)), MAX_SUBJECTS + LINES as usize);
    }

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
