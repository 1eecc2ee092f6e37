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

use super::{door::HEAD_DEADLINE, seats::Seats};

/// What the reads of one connection tell of its client.
#[derive(Debug, Default)]
pub(super) struct Ear {
    /// Whether bytes have come since a head is waited for.
    heard: AtomicBool,
    /// Whether the last read found nothing. hyper reads on behind a request only when it holds nothing of a next one:
    /// when it waits for a head and has not looked in vain, it has a piece of that head.
    in_vain: AtomicBool,
}

impl Ear {
    /// Hears what a read brought.
    pub(super) fn hear(&self, is_something: bool) {
        self.in_vain.store(!is_something, Ordering::Relaxed);
        self.heard.fetch_or(is_something, Ordering::Relaxed);
    }
}

/// Times the heads of one connection.
pub(super) struct Patience {
    seats: Seats,
    ear: Arc<Ear>,
    /// Whether a head was waited for before: only between requests a connection may idle.
    met: AtomicBool,
}

struct Alarm {
    sleep: Pin<Box<time::Sleep>>,
    ear: Arc<Ear>,
    begun: bool,
}

impl Patience {
    /// `ear` belongs to whoever reads from the connection.
    pub(super) fn new(seats: Seats, ear: Arc<Ear>) -> Self {
        Self { seats, ear, met: AtomicBool::new(false) }
    }
}

impl Timer for Patience {
    /// hyper asks for one duration, ours depends on what is waited for.
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        let begun = !self.met.swap(true, Ordering::Relaxed) || !self.ear.in_vain.load(Ordering::Relaxed);
        self.ear.heard.store(false, Ordering::Relaxed);
        let patience = if begun { HEAD_DEADLINE } else { self.seats.idle() };
        Box::pin(Alarm { sleep: Box::pin(time::sleep(patience)), ear: Arc::clone(&self.ear), begun })
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
        if !self.begun && self.ear.heard.load(Ordering::Relaxed) {
            self.begun = true;
            self.sleep.as_mut().reset(Instant::now() + HEAD_DEADLINE);
        }
        self.sleep.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};
    use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::sleep,
    };

    use super::*;
    use crate::http::pace::Paced;

    /// What is answered to these pieces, and how long the connection is kept after the last.
    async fn kept(pieces: [&str; 2]) -> (String, Duration) {
        let (mut client, server) = duplex(4096);
        let (seats, ear) = (Seats::new(4), Arc::<Ear>::default());
        let paced = Paced::new(server, Arc::default(), Arc::clone(&ear));
        let echo = service_fn(async |request: Request<Incoming>| {
            Ok::<_, hyper::Error>(Response::new(Full::new(request.into_body().collect().await?.to_bytes())))
        });
        let connection = http1::Builder::new()
            .timer(Patience::new(seats, ear))
            .header_read_timeout(HEAD_DEADLINE)
            .serve_connection(TokioIo::new(paced), echo);
        let talk = async {
            for piece in pieces {
                client.write_all(piece.as_bytes()).await.unwrap();
                sleep(Duration::from_millis(1)).await;
            }
            let (start, mut answer) = (Instant::now(), String::new());
            client.read_to_string(&mut answer).await.unwrap();
            (answer, start.elapsed())
        };
        tokio::join!(talk, async { drop(connection.await) }).0
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_begun_behind_a_request_has_the_time_of_a_head_and_who_began_none_may_idle() {
        let idle = Seats::new(4).idle();
        let get = ["GET / HTTP/1.1\r\nHost: a\r\n\r\n"; 2].concat();
        let post = "POST / HTTP/1.1\r\nHost: a\r\n";
        let sized = format!("{post}Content-Length: 5\r\n\r\nhello");
        let chunked = format!("{post}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
        for request in [get, sized, chunked] {
            for (behind, patience) in [("", idle), ("GET / HTTP/1.1\r\nHo", HEAD_DEADLINE)] {
                let sent = format!("{request}{behind}");
                // All in one read; or the last begins within the head, within the body, or where the request ends.
                for cut in [0, 20, request.len() - 3, request.len()] {
                    let (answer, took) = kept([&sent[..cut], &sent[cut..]]).await;
                    assert!(answer.contains("200 OK"), "{answer}");
                    let early = patience.saturating_sub(took);
                    assert!(took <= patience && early < Duration::from_secs(1), "{took:?}: {cut} of {sent:?}");
                }
            }
        }
    }
}
