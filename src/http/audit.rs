//! The audit in the log: each write, and each refusal. Who is refused again and again is told of once in an interval,
//! with a count of the rest: the log is not for strangers to fill.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::http::{Method, StatusCode};
use tokio::{select, time::sleep};
use tokio_util::sync::CancellationToken;

use super::guard::Via;
use crate::agent::limit::Source;

/// What was refused in the interval that runs.
#[derive(Debug, Default)]
pub(super) struct Audit(Mutex<Refused>);

#[derive(Debug, Default)]
struct Refused {
    /// By host; `None` is the unix socket.
    by: BTreeMap<Option<Source>, Untold>,
    /// Of hosts beyond [`MAX_SOURCES`].
    others: u64,
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
        if self.begin(via.client()) {
            let (from, path) = (place(via.client()), cut(path));
            tracing::warn!(event = "audit", who, %from, %method, path, status = status.as_u16(), "refused");
        }
    }

    /// Whether this refusal is the first of its source in the interval: else it is counted.
    fn begin(&self, client: Option<IpAddr>) -> bool {
        let mut refused = self.now();
        let source = client.map(Source::host);
        if let Some(untold) = refused.by.get_mut(&source) {
            untold.count += 1;
            return false;
        }
        if refused.by.len() >= MAX_SOURCES {
            refused.others += 1;
            return false;
        }
        refused.by.insert(source, Untold { client, count: 0 });
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
        for (from, refused) in self.turn() {
            tracing::warn!(event = "audit", from, refused, "refused again, within {} s", INTERVAL.as_secs());
        }
    }

    /// Begins the next interval: who was counted in this one, and how often. Who was, stays: its next is no first.
    fn turn(&self) -> Vec<(String, u64)> {
        let mut refused = self.now();
        refused.by.retain(|_, untold| untold.count > 0);
        let take = |untold: &mut Untold| (place(untold.client), std::mem::take(&mut untold.count));
        let mut told: Vec<_> = refused.by.values_mut().map(take).collect();
        let others = std::mem::take(&mut refused.others);
        told.extend((others > 0).then(|| ("others".to_owned(), others)));
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
/// The longest path of ours is shorter, names at their limit included.
const MAX_PATH: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_again_is_told_of_once_in_an_interval() {
        let audit = Audit::default();
        let [a, b] = [1, 2].map(|last| Some(IpAddr::from([192, 0, 2, last])));
        assert!(audit.begin(a) && audit.begin(None) && audit.begin(b));
        assert!((0..100).all(|_| !audit.begin(a)));
        assert_eq!(audit.turn(), [("192.0.2.1".to_owned(), 100)]);
        // Who goes on is counted from its first on, who has stopped is new again.
        assert!(!audit.begin(a) && audit.begin(b));
        assert_eq!(audit.turn(), [("192.0.2.1".to_owned(), 1)]);
        assert_eq!(audit.turn(), []);
        assert!(audit.begin(a));
    }

    #[test]
    fn many_sources_fill_neither_memory_nor_the_log() {
        let audit = Audit::default();
        let told = (0..10_000_u32).filter(|n| audit.begin(Some(IpAddr::from(n.to_be_bytes())))).count();
        assert_eq!(told, MAX_SOURCES);
        assert_eq!(audit.turn(), [("others".to_owned(), 10_000 - MAX_SOURCES as u64)]);
    }
}
