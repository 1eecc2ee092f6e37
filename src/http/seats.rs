//! The places of one listener: a crowd at one door does not shut another, and one from elsewhere leaves some to programs of
//! this host, which ask whether the agent lives.

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Problem,
    door::{HEAD_DEADLINE, IDLE},
    guard::Via,
};

#[derive(Clone, Debug)]
pub(super) struct Seats {
    free: Arc<Semaphore>,
    all: usize,
}

pub(super) type Seat = OwnedSemaphorePermit;

impl Seats {
    pub(super) fn new(all: usize) -> Self {
        let all = all.min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(all)), all }
    }

    /// The next one that is free.
    pub(super) async fn take(&self) -> Option<Seat> {
        Arc::clone(&self.free).acquire_owned().await.ok()
    }

    /// Whether who has taken a seat may keep it: some are this host's own.
    pub(super) fn admit(&self, via: Via) -> Result<(), Problem> {
        if via.is_of_this_host() || self.free.available_permits() >= self.kept() {
            return Ok(());
        }
        let why = "all connections for other machines are taken; ask again later, or raise http.max_connections and the \
                   limit of open files on this node";
        Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, why))
    }

    /// Whether there is room to say why to who may not stay: that takes a while.
    pub(super) fn has_room_for_words(&self) -> bool {
        self.free.available_permits() >= self.kept() / 2
    }

    /// How long a silent client is waited for: less while others wait for a seat.
    pub(super) fn patience(&self) -> Duration {
        if self.is_crowded() { CROWDED_DEADLINE } else { HEAD_DEADLINE }
    }

    /// How long who was answered may take to ask again.
    pub(super) fn idle(&self) -> Duration {
        if self.is_crowded() { HEAD_DEADLINE } else { IDLE }
    }

    fn is_crowded(&self) -> bool {
        self.free.available_permits() <= self.all / 4
    }

    fn kept(&self) -> usize {
        KEPT.min(self.all / 8)
    }
}

/// For what runs on one host: probes, proxies, an operator.
const KEPT: usize = 256;
/// As long as a head may take while three in four seats are taken.
const CROWDED_DEADLINE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_comes_from_elsewhere_leaves_seats_to_this_host() {
        let seats = Seats::new(80);
        let via = |client: &str| Via::Tcp { client: client.parse().unwrap(), ours: [192, 0, 2, 1].into() };
        let mut taken = Vec::new();
        while let Some(seat) = (seats.free.available_permits() > 0).then(|| seats.take()) {
            let seat = seat.await.unwrap();
            if seats.admit(via("192.0.2.7")).is_err() {
                break;
            }
            taken.push(seat);
        }
        assert_eq!((taken.len(), seats.has_room_for_words()), (70, true));
        for _ in 70..80 {
            taken.push(seats.take().await.unwrap());
            assert!(seats.admit(via("127.0.0.1")).is_ok() && seats.admit(via("192.0.2.1")).is_ok());
            assert!(seats.admit(via("192.0.2.7")).is_err());
        }
        assert!(!seats.has_room_for_words());
        // Where there are few, nobody is shut out.
        let few = Seats::new(4);
        let _last = (few.take().await, few.take().await, few.take().await, few.take().await);
        assert!(few.admit(via("192.0.2.7")).is_ok());
    }

    #[test]
    fn a_crowd_is_less_patient() {
        let seats = Seats::new(4);
        assert_eq!((seats.patience(), seats.idle()), (HEAD_DEADLINE, IDLE));
        let _taken = Arc::clone(&seats.free).try_acquire_many_owned(3).unwrap();
        assert_eq!((seats.patience(), seats.idle()), (CROWDED_DEADLINE, HEAD_DEADLINE));
    }
}
