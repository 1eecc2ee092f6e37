//! How many connections one client may hold: who is at work on this host as many as it likes, others so many each.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::http::StatusCode;

use super::{Problem, guard::Via};
use crate::agent::limit::Source;

#[derive(Debug)]
pub(super) struct Clients {
    /// For each; 0 for any number.
    most: u32,
    /// As many entries as there are seats, at most.
    held: Mutex<BTreeMap<Source, u32>>,
}

/// One connection of a client's, for as long as it lives.
#[derive(Debug)]
pub(super) struct Held(Arc<Clients>, Source);

impl Clients {
    /// So many for each as are asked for, and no more than half of the seats: where descriptors are few, one client would
    /// have them all.
    pub(super) fn new(asked: u32, seats: usize) -> Arc<Self> {
        let half = u32::try_from(seats / 2).unwrap_or(u32::MAX).max(1);
        Arc::new(Self { most: asked.min(half), held: Mutex::default() })
    }

    /// Lets one more connection in, or says why not. Nothing is held of who may have any number.
    pub(super) fn admit(self: &Arc<Self>, via: Via) -> Result<Option<Held>, Problem> {
        let Some(client) = via.client().filter(|_| self.most > 0 && !via.is_of_this_host()) else {
            return Ok(None);
        };
        let source = Source::host(client);
        let mut held = self.held();
        let connections = held.entry(source).or_default();
        if *connections >= self.most {
            let why = format!(
                "{client} holds {} connections; close some, or raise on this node http.max_connections_per_client, or where \
                 it is half of them all http.max_connections and the limit of open files",
                self.most
            );
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, why));
        }
        *connections += 1;
        Ok(Some(Held(Arc::clone(self), source)))
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<Source, u32>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.0.held();
        let Some(connections) = held.get_mut(&self.1) else { return };
        *connections -= 1;
        if *connections == 0 {
            held.remove(&self.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_elsewhere_holds_so_many_and_one_on_this_host_any_number() {
        let clients = Clients::new(2, 80);
        let via = |client: &str| Via::Tcp { client: client.parse().unwrap(), ours: [192, 0, 2, 1].into() };
        let open = |via| (0..9).map_while(|_| clients.admit(via).ok()).collect::<Vec<_>>();
        let first = open(via("192.0.2.7"));
        assert_eq!((first.len(), open(via("::ffff:192.0.2.7")).len(), open(via("192.0.2.8")).len()), (2, 0, 2));
        for local in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(open(via(local)).len(), 9, "{local}");
        }
        assert_eq!(open(Via::Unix).len(), 9);
        drop(first);
        assert!(clients.held().is_empty());
        assert!(clients.admit(via("192.0.2.7")).is_ok());
        let any = Clients::new(0, 4);
        assert!((0..9).all(|_| any.admit(via("192.0.2.7")).is_ok()));
        for (asked, seats, most) in [(10_000, 20_000, 10_000), (10_000, 512, 256), (10_000, 1, 1), (3, 512, 3)] {
            assert_eq!(Clients::new(asked, seats).most, most, "{asked} of {seats}");
        }
    }
}
