//! The audit in the log: each write, and each refusal. Who is refused again and again is told of once in an interval,
//! with a count of the rest: the log is not for strangers to fill.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    extract::FromRequestParts,
    http::{Method, StatusCode, request::Parts},
};
use tokio::{select, time::sleep};
use tokio_util::sync::CancellationToken;

use super::guard::Via;
use crate::agent::{Refused as Undone, limit::Source, trust::Word};

/// Who asks, as the layer before a handler has found; without that layer everybody may do everything.
#[derive(Clone, Debug)]
pub(super) struct Caller(pub(super) String);

/// Who asks and from where, for a handler that has more to tell than its path says.
#[derive(Debug)]
pub(super) struct Witness(String, Via);

impl<S: Sync> FromRequestParts<S> for Witness {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let who = parts.extensions.get().map_or(ANONYMOUS, |Caller(who)| who);
        Ok(Self(who.into(), parts.extensions.get().copied().unwrap_or(Via::Unix)))
    }
}

impl Witness {
    /// A word for the whole mesh was asked for: what became of it.
    pub(super) fn decreed(&self, word: &Word, void: bool, done: Result<(), &Undone>) {
        let (about, subject) = match word {
            Word::DenyNode(node) => ("node", node.as_str()),
            Word::DenySerial(serial) => ("certificate", &**serial),
            Word::Token(token) => ("token", &*token.name),
        };
        let (who, from, subject) = (&self.0, place(self.1.client()), cut(subject));
        let refused = done.err().map(ToString::to_string);
        tracing::info!(event = "decreed", who, %from, about, subject, void, refused);
    }
}

/// What was refused in the interval that runs.
#[derive(Debug, Default)]
pub(super) struct Audit(Mutex<Refused>);

#[derive(Debug, Default)]
struct Refused {
    by: BTreeMap<Whose, Untold>,
    /// Of those beyond [`MAX_SOURCES`].
    others: u64,
}

/// Who is told of: no noise on its host hides whoever has shown a token that is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    /// A host's; `None` is the unix socket.
    Host(Option<Source>),
    /// A token's.
    Token(String),
}

/// One source whose first refusal was told.
#[derive(Debug)]
struct Untold {
    client: Option<IpAddr>,
    count: u64,
}

impl Audit {
    /// Somebody has changed something, or tried to and failed for another reason than its rights.
    pub(super) fn wrote(&self, via: Via, who: &str, method: &Method, path: &str, status: StatusCode) {
        let (from, path) = (place(via.client()), cut(path));
        tracing::info!(event = "audit", who, %from, %method, path, status = status.as_u16());
    }

    /// Somebody was turned away; `who`, as far as that was asked.
    pub(super) fn refused(&self, via: Via, who: Option<&str>, method: &Method, path: &str, status: StatusCode) {
        if self.begin(via.client(), who.filter(|who| ![ANONYMOUS, UNKNOWN].contains(who))) {
            let (from, path) = (place(via.client()), cut(path));
            tracing::warn!(event = "audit", who, %from, %method, path, status = status.as_u16(), "refused");
        }
    }

    /// Whether this refusal is the first of its source in the interval: else it is counted.
    fn begin(&self, client: Option<IpAddr>, token: Option<&str>) -> bool {
        let mut refused = self.now();
        let whose = token.map_or_else(|| Whose::Host(client.map(Source::host)), |name| Whose::Token(name.into()));
        if let Some(untold) = refused.by.get_mut(&whose) {
            *untold = Untold { client, count: untold.count + 1 };
            return false;
        }
        // However many hosts there are, there is room for tokens.
        let room = if token.is_some() { MAX_SOURCES * 2 } else { MAX_SOURCES };
        if refused.by.len() >= room {
            refused.others += 1;
            return false;
        }
        refused.by.insert(whose, Untold { client, count: 0 });
        true
    }

    /// Tells of those that were counted, until `stop`.
    pub(super) async fn sum_up(&self, stop: &CancellationToken) {
        loop {
            select! {
                () = sleep(INTERVAL) => self.tell(),
                () = stop.cancelled() => return self.tell(),
            }
        }
    }

    fn tell(&self) {
        for (who, from, refused) in self.turn() {
            tracing::warn!(event = "audit", who, from, refused, "refused again, within {} s", INTERVAL.as_secs());
        }
    }

    /// Begins the next interval: who was counted in this one, and how often. Who was, stays: its next is no first.
    fn turn(&self) -> Vec<(Option<String>, String, u64)> {
        let mut refused = self.now();
        refused.by.retain(|_, untold| untold.count > 0);
        let take = |(whose, untold): (&Whose, &mut Untold)| {
            let who = if let Whose::Token(name) = whose { Some(name.clone()) } else { None };
            (who, place(untold.client), std::mem::take(&mut untold.count))
        };
        let mut told: Vec<_> = refused.by.iter_mut().map(take).collect();
        let others = std::mem::take(&mut refused.others);
        told.extend((others > 0).then(|| (None, "others".to_owned(), others)));
        told
    }

    fn now(&self) -> MutexGuard<'_, Refused> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(client: Option<IpAddr>) -> String {
    client.map_or_else(|| "unix".into(), |client| client.to_string())
}

/// As much of a path as a line of the log is for.
fn cut(path: &str) -> &str {
    &path[..path.floor_char_boundary(MAX_PATH)]
}

/// One line for each source in so long a time.
const INTERVAL: Duration = Duration::from_secs(10);
/// Sources told apart within an interval: more than a mesh has clients that are wrong at once.
const MAX_SOURCES: usize = 256;
/// Who has shown no token, and who has shown one that is not known.
pub(super) const ANONYMOUS: &str = "anonymous";
pub(super) const UNKNOWN: &str = "unknown";
/// The longest path of ours is shorter, names at their limit included.
const MAX_PATH: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_again_is_told_of_once_in_an_interval() {
        let audit = Audit::default();
        let [a, b] = [1, 2].map(|last| Some(IpAddr::from([192, 0, 2, last])));
        let begin = |client| audit.begin(client, None);
        assert!(begin(a) && begin(None) && begin(b));
        assert!((0..100).all(|_| !begin(a)));
        assert_eq!(audit.turn(), [(None, "192.0.2.1".to_owned(), 100)]);
        // Who goes on is counted from its first on, who has stopped is new again.
        assert!(!begin(a) && begin(b));
        assert_eq!(audit.turn(), [(None, "192.0.2.1".to_owned(), 1)]);
        assert_eq!(audit.turn(), []);
        assert!(begin(a));
    }

    #[test]
    fn many_sources_fill_neither_memory_nor_the_log_and_hide_no_token() {
        let audit = Audit::default();
        let host = |n: u32| Some(IpAddr::from(n.to_be_bytes()));
        let told = (0..10_000).filter(|n| audit.begin(host(*n), None)).count();
        assert_eq!(told, MAX_SOURCES);
        assert!(audit.begin(host(1), Some("deploy")) && !audit.begin(host(2), Some("deploy")));
        let deploy = (Some("deploy".to_owned()), "0.0.0.2".to_owned(), 1);
        assert_eq!(audit.turn(), [deploy, (None, "others".to_owned(), 10_000 - MAX_SOURCES as u64)]);
    }
}
