//! Why a run came to no good: what it looked at is at fault, or this node is, which says nothing of what it looked at.

use std::io;

use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failed {
    Target(String),
    /// This node has no descriptor, process or memory left to look with.
    Node(String),
}

impl Failed {
    /// What an error of the system's means that is told in these words.
    pub(super) fn of(error: &io::Error, words: String) -> Self {
        if is_own(error) { Self::Node(words) } else { Self::Target(words) }
    }

    /// The same where whoever met a shortage may say something else of it: it is asked whether there is one now.
    pub(super) fn guess(error: &io::Error, words: String) -> Self {
        match Socket::new(Domain::UNIX, Type::DGRAM, None) {
            Err(why) if is_own(&why) => Self::Node(format!("{words} ({why})")),
            _ => Self::of(error, words),
        }
    }

    /// A target's fault in other words.
    pub(super) fn reworded(self, words: impl FnOnce(String) -> String) -> Self {
        if let Self::Target(why) = self { Self::Target(words(why)) } else { self }
    }
}

impl From<String> for Failed {
    fn from(why: String) -> Self {
        Self::Target(why)
    }
}

/// Whether an error is a lack of this node's own: of descriptors, of memory, of processes, of ports to come from.
pub(super) fn is_own(error: &io::Error) -> bool {
    if error.kind() == io::ErrorKind::AddrInUse {
        return true;
    }
    let lacks = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::AGAIN];
    Errno::from_io_error(error).is_some_and(|why| lacks.contains(&why))
}
