//! How often one client may ask: who is at work on this host as often as it likes, others so many times a second.

use std::time::Instant;

use axum::http::StatusCode;

use super::{Problem, guard::Via};
use crate::agent::limit::{Limiter, Source};

#[derive(Debug)]
pub(super) struct Rate {
    limiter: Limiter,
    limit: u32,
    since: Instant,
}

impl Rate {
    pub(super) fn new(limit: u32) -> Self {
        // Without the system's chance, which ones share a bucket can be found out: they would harm each other alone.
        let seed = getrandom::u64().unwrap_or_default();
        Self { limiter: Limiter::new(limit, seed), limit, since: Instant::now() }
    }

    /// Lets one request pass, or says why not.
    pub(super) fn check(&self, via: Via) -> Result<(), Problem> {
        let Some(client) = via.client().filter(|_| !via.is_of_this_host()) else { return Ok(()) };
        let now = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if self.limiter.admits(Source::host(client), now) {
            return Ok(());
        }
        let why = format!(
            "{client} asks more than {} times a second; ask less often, or raise http.rate_limit on this node",
            self.limit
        );
        Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_elsewhere_has_a_rate_and_one_on_this_host_has_none() {
        let rate = Rate::new(2);
        let passed = |client: &str| {
            let via = Via::Tcp { client: client.parse().unwrap(), ours: [192, 0, 2, 1].into() };
            (0..9).filter(|_| rate.check(via).is_ok()).count()
        };
        assert_eq!(["192.0.2.7", "::ffff:192.0.2.7", "192.0.2.8"].map(passed), [2, 0, 2]);
        assert_eq!(["127.0.0.1", "::1", "::ffff:127.0.0.1", "192.0.2.1"].map(passed), [9; 4]);
        assert!((0..9).all(|_| rate.check(Via::Unix).is_ok()));
    }
}
