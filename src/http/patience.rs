//! The two clocks of a connection that waits for a request: how long it may idle, and how long a head may take from its
//! first byte. hyper has one clock for both and sets it when the wait begins: this one is set again by the first byte.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::rt::{Sleep, Timer};
use tokio::time::{self, Instant};

use super::door::{HEAD_DEADLINE, Seats};

/// Times the heads of one connection.
pub(super) struct Patience {
    seats: Seats,
    /// Whether bytes have come since the clock was set.
    heard: Arc<AtomicBool>,
    /// Whether a head was waited for before: only between requests a connection may idle.
    met: AtomicBool,
}

struct Alarm {
    sleep: Pin<Box<time::Sleep>>,
    heard: Arc<AtomicBool>,
    begun: bool,
}

impl Patience {
    /// `heard` is set by whoever reads from the connection.
    pub(super) fn new(seats: Seats, heard: Arc<AtomicBool>) -> Self {
        Self { seats, heard, met: AtomicBool::new(false) }
    }
}

impl Timer for Patience {
    /// hyper asks for one duration, ours depends on what is waited for.
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        self.heard.store(false, Ordering::Relaxed);
        let patience = if self.met.swap(true, Ordering::Relaxed) { self.seats.idle() } else { HEAD_DEADLINE };
        Box::pin(Alarm { sleep: Box::pin(time::sleep(patience)), heard: Arc::clone(&self.heard), begun: false })
    }

    fn sleep_until(&self, _: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(Duration::ZERO)
    }
}

impl Sleep for Alarm {}

impl Future for Alarm {
    type Output = ();

    /// Polled after each read, so that the first byte sets it when it comes.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if !self.begun && self.heard.load(Ordering::Relaxed) {
            self.begun = true;
            self.sleep.as_mut().reset(Instant::now() + HEAD_DEADLINE);
        }
        self.sleep.as_mut().poll(context)
    }
}
