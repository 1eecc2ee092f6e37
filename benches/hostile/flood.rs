//! Datagrams at a rate, from a thread of their own.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

/// A flood that runs.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<(u64, Duration)>,
}

impl Flood {
    /// Sends to `to` what `next` makes, so many a second.
    pub(crate) fn start(to: SocketAddr, rate: u32, mut next: impl FnMut(&mut Vec<u8>) + Send + 'static) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let sender = thread::spawn(move || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let (mut sent, mut packet, began) = (0, Vec::new(), Instant::now());
            while !stopped.load(Ordering::Relaxed) {
                let due = (began.elapsed().as_secs_f64() * f64::from(rate)) as u64;
                while sent < due {
                    packet.clear();
                    next(&mut packet);
                    // What a full buffer refuses was sent all the same: it is lost where a network would lose it.
                    let _ = socket.send_to(&packet, to);
                    sent += 1;
                }
                sleep(TICK);
            }
            (sent, began.elapsed())
        });
        Self { stop, sender }
    }

    /// Ends it: how many were sent each second.
    pub(crate) fn stop(self) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        let (sent, took) = self.sender.join().unwrap();
        sent as f64 / took.as_secs_f64()
    }
}

const TICK: Duration = Duration::from_millis(1);
