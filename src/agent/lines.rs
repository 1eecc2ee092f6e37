//! Lines of the log that peers can have written as often as they like: of each kind one now and then, with how many there
//! were besides, and no more of a peer's own words than anybody reads.

use std::{
    collections::HashMap,
    mem::{self, Discriminant, discriminant},
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

use tokio::time::Instant;

use super::door::Seldom;
use crate::{
    mesh::MAX_MEMBERS,
    model::{NodeId, ServiceName},
};

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
    kinds: Mutex<HashMap<Discriminant<Subject>, Kind>>,
}

/// What a line is about that is told at once where nobody makes many.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// How a member is seen.
    Member(NodeId),
    /// What a member says: of its instances, of where it stands, or garbage.
    Word(NodeId),
    Service(ServiceName),
    Seed(SocketAddr),
}

/// Lines about subjects of one kind.
#[derive(Debug, Default)]
struct Kind {
    /// Those told of lately; `None` for all there was no room for.
    subjects: HashMap<Option<Subject>, Seldom>,
    /// Lines, about whomever, that were not told since the last that was.
    unsaid: u64,
}

impl Lines {
    /// How many lines of this kind were not told since the last that was; `None` if this one is not to be told either.
    /// Each subject has lines of its own, and each kind room of its own, so that nobody's flood hides what befalls another.
    /// Beyond those there is room for, as who holds a mesh's secret can name them, the rest share: events and metrics tell
    /// all.
    pub(super) fn about(&self, subject: Subject, now: Instant) -> Option<u64> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let Kind { subjects, unsaid } = kinds.entry(discriminant(&subject)).or_default();
        let (most, lines) = subject.limits();
        let mut subject = Some(subject);
        // Before it grows, too: a mesh in which little happens keeps little.
        if subjects.len() >= most.min(subjects.capacity()) && !subjects.contains_key(&subject) {
            subjects.retain(|_, lines| !lines.is_rested(now));
            subject = subject.filter(|_| subjects.len() < most);
        }
        if subjects.entry(subject).or_insert_with(|| Seldom::after(lines)).take(now).is_none() {
            *unsaid += 1;
            return None;
        }
        Some(mem::take(unsaid))
    }
}

impl Subject {
    /// How many of its kind have lines of their own, and how many lines each has until they become few.
    fn limits(&self) -> (usize, u32) {
        match self {
            // All may go at once: 3 MB for each kind where all are told of within moments.
            Self::Member(_) => (MAX_MEMBERS, LINES),
            Self::Word(_) => (MAX_MEMBERS, WORDS),
            Self::Service(_) | Self::Seed(_) => (MAX_NAMES, LINES),
        }
    }
}

/// What a peer says, as far as it is worth telling.
pub(super) fn excerpt(said: &[u8]) -> String {
    // Cut first: no character takes more than four bytes.
    String::from_utf8_lossy(&said[..said.len().min(4 * MAX_SAID)]).chars().take(MAX_SAID).collect()
}

/// Lines about one subject: it comes and goes dozens of times.
const LINES: u32 = 64;
/// Lines of what one member says: each of a hundred instances there fails and recovers.
const WORDS: u32 = 256;
/// Services or seeds: those that were told of lately while many of them fail.
const MAX_NAMES: usize = 1024;
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
        assert_eq!(lines.about(quiet.clone(), now), Some(1000 - u64::from(LINES)));
        let later = now + Duration::from_secs(10);
        assert_eq!([(); 2].map(|()| lines.about(loud.clone(), later)), [Some(0), None]);
        assert_eq!(lines.about(quiet, later), Some(1));
    }

    #[tokio::test]
    async fn a_rolling_restart_is_told_whole() {
        let (lines, now) = (Lines::default(), Instant::now());
        // 300 nodes, one in 2 s, each of which goes, is back, and has 100 instances that fail and turn healthy.
        let told = (0..300).map(|node| {
            let (id, now) = (NodeId(node), now + Duration::from_secs(2 * node));
            let of_it = (0..2).map(|_| Subject::Member(id)).chain((0..200).map(|_| Subject::Word(id)));
            of_it.filter(|about| lines.about(about.clone(), now) == Some(0)).count()
        });
        assert_eq!(told.sum::<usize>(), 300 * 202);
    }

    #[tokio::test]
    async fn all_whom_a_cut_takes_away_are_told_of_whatever_else_is() {
        let (lines, now) = (Lines::default(), Instant::now());
        let flips = (0..10_000).map(|name| Subject::Service(format!("web{name}").as_str().try_into().unwrap()));
        let words = (0..1000).map(|_| Subject::Word(NodeId(7)));
        for about in flips.chain(words) {
            lines.about(about, now);
        }
        assert_eq!((0..1000).filter(|id| lines.about(Subject::Member(NodeId(*id)), now) == Some(0)).count(), 1000);
    }

    #[tokio::test]
    async fn many_names_share_what_there_is_and_are_forgotten_but_not_what_was_unsaid() {
        let (lines, now) = (Lines::default(), Instant::now());
        let seeds = || (1..=2000).map(|port| Subject::Seed(([10, 0, 0, 1], port).into()));
        let about = |now| seeds().filter_map(|seed| lines.about(seed, now)).collect::<Vec<_>>();
        let kept = || lines.kinds.lock().unwrap().values().map(|kind| kind.subjects.len()).collect::<Vec<_>>();
        assert_eq!(about(now), [0; MAX_NAMES + LINES as usize]);
        assert_eq!(kept(), [MAX_NAMES + 1]);
        let later = about(now + Duration::from_secs(3600));
        assert_eq!((later.len(), later[0]), (MAX_NAMES + LINES as usize, 2000 - later.len() as u64));
    }

    #[tokio::test]
    async fn who_was_told_of_long_ago_takes_no_room() {
        let (lines, now) = (Lines::default(), Instant::now());
        for id in 0..10_000 {
            lines.about(Subject::Member(NodeId(id)), now + Duration::from_secs(60 * id));
        }
        assert!(lines.kinds.lock().unwrap().values().all(|kind| kind.subjects.capacity() < 10));
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
