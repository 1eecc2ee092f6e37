//! One task for each connection: what it hears goes to the loop, what waits in its queue goes out as streams.
//!
//! Datagrams are sent by the loop itself: QUIC's own bounded queue takes them without waiting.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use quinn::{Connection, ConnectionError, ReadToEndError, RecvStream, SendStream};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};

use super::{
    gazette::{Heard, NOTICE},
    lines::{Lines, excerpt},
    namesake::holder,
    peers::Arrival,
    quic::{Code, MAX_STREAMS, canonical, read_all},
    traffic::Traffic,
    trust::{NOT_ACCEPTED, Trust},
};
use crate::{
    mesh::{Gone, Input, wire::MAX_MESSAGE},
    model::NodeId,
};

/// What the loop tells a link to do, in turn.
#[derive(Debug)]
pub(super) enum Order {
    /// Send this as one stream.
    Send(Bytes),
    /// Let go what is under way, then close with [`Code::Leave`].
    Leave,
}

/// One connection and where its news go.
pub(super) struct Link {
    pub(super) peer: NodeId,
    /// Tells this connection from an earlier or later one to the same peer.
    pub(super) serial: u64,
    pub(super) connection: Connection,
    /// The space that QUIC has for datagrams while none waits.
    pub(super) room: usize,
    pub(super) arrivals: mpsc::Sender<Arrival>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) gazette: mpsc::Sender<Heard>,
    pub(super) lines: Arc<Lines>,
    pub(super) trust: Arc<Trust>,
}

impl Link {
    /// Runs until the connection ends. Told to leave, it first sends what is under way; when `orders` is closed, it closes
    /// at once.
    pub(super) async fn run(self, mut orders: mpsc::Receiver<Order>) {
        // Each stream is a small future. QUIC lets the peer open another once one is read to its end, whether it was taken
        // or not: so they are counted here.
        let (mut reads, mut pings) = (FuturesUnordered::new(), FuturesUnordered::new());
        let mut writes = FuturesUnordered::new();
        // The gazette may be behind: what else comes is not to wait for that.
        let told = self.gazette.send(Heard::Linked(self.peer, self.connection.clone()));
        tokio::pin!(told);
        let mut is_told = false;
        let mut reported = None;
        let mut flush: Option<Instant> = None;
        let end = loop {
            tokio::select! {
                heard = self.connection.read_datagram() => match heard {
                    Ok(packet) => {
                        self.take_datagram(packet);
                        self.report_rtt(&mut reported);
                    }
                    Err(why) => break why,
                },
                stream = self.connection.accept_uni(), if reads.len() < MAX_READS => match stream {
                    Ok(stream) => reads.push(self.read(stream)),
                    Err(why) => break why,
                },
                stream = self.connection.accept_bi(), if pings.len() < MAX_READS => match stream {
                    Ok((to, from)) => pings.push(answer_ping(to, from)),
                    Err(why) => break why,
                },
                order = orders.recv(), if flush.is_none() && writes.len() < MAX_WRITES => match order {
                    Some(Order::Send(message)) => writes.push(self.write(message)),
                    Some(Order::Leave) => flush = Some(Instant::now()),
                    None => break self.close(Code::Closed),
                },
                _ = &mut told, if !is_told => is_told = true,
                Some(()) = reads.next(), if !reads.is_empty() => {}
                Some(()) = pings.next(), if !pings.is_empty() => {}
                Some(()) = writes.next(), if !writes.is_empty() => {}
                () = tokio::time::sleep_until(flush.unwrap_or_else(Instant::now)), if flush.is_some() => {
                    if reads.is_empty() && writes.is_empty() && self.datagrams_are_sent() {
                        break self.close(Code::Leave);
                    }
                    flush = Some(Instant::now() + FLUSH_CHECK);
                }
            }
        };
        drop((reads, writes));
        self.tell_end(&end).await;
    }

    fn close(&self, code: Code) -> ConnectionError {
        self.connection.close(code.into(), b"");
        ConnectionError::LocallyClosed
    }

    fn datagrams_are_sent(&self) -> bool {
        self.connection.datagram_send_buffer_space() >= self.room
    }

    fn take_datagram(&self, packet: Bytes) {
        self.traffic.datagrams_received.add(1);
        self.traffic.datagram_bytes_received.add(packet.len());
        // A rumour in it waits for acknowledgements, and as QUIC hands it out it would hold for so long all that came with
        // it.
        let packet = Bytes::copy_from_slice(&packet);
        if self.arrivals.try_send(Arrival::Input(Input::Packet(self.peer, packet))).is_err() {
            self.traffic.dropped_incoming.add(1);
        }
    }

    /// Measured by QUIC anyway: told now and then, and only while packets flow, so that an idle link costs nothing.
    fn report_rtt(&self, reported: &mut Option<Instant>) {
        let now = Instant::now();
        if reported.is_none_or(|at| now - at >= RTT_EVERY) {
            *reported = Some(now);
            // A full queue: the next packet will do.
            let _ = self.arrivals.try_send(Arrival::Input(Input::Rtt(self.peer, self.connection.rtt())));
        }
    }

    async fn read(&self, mut stream: RecvStream) {
        match timeout(STREAM_TIMEOUT, read_all(&mut stream, MAX_MESSAGE)).await {
            Ok(Ok(message)) => {
                self.traffic.streams_received.add(1);
                self.traffic.stream_bytes_received.add(message.len());
                if message.first() == Some(&NOTICE) {
                    let notice = Bytes::from(message).slice(1..);
                    let heard = Heard::Notice(self.peer, self.connection.clone(), notice);
                    // Nobody listens only while the agent stops.
                    let _ = self.gazette.send(heard).await;
                    return;
                }
                // Waiting here is the limit that the peer feels: its streams run out.
                let _ = self.arrivals.send(Arrival::Input(Input::Message(self.peer, message.into()))).await;
            }
            Ok(Err(why)) => {
                self.traffic.streams_failed.add(1);
                if why == ReadToEndError::TooLong {
                    let garbage = Input::Garbage(self.peer, "a stream longer than any message");
                    let _ = self.arrivals.send(Arrival::Input(garbage)).await;
                }
            }
            Err(_) => self.traffic.streams_failed.add(1),
        }
    }

    async fn write(&self, message: Bytes) {
        let length = message.len();
        match write_all(&self.connection, message).await {
            Some(()) => {
                self.traffic.streams_sent.add(1);
                self.traffic.stream_bytes_sent.add(length);
            }
            None => self.traffic.streams_failed.add(1),
        }
    }

    async fn tell_end(&self, why: &ConnectionError) {
        let gone = match why {
            ConnectionError::ApplicationClosed(close) => match Code::of(close) {
                Some(Code::Leave) => Gone::Left,
                Some(Code::NameInUse) => {
                    let holder = holder(close, canonical(self.connection.remote_address()));
                    let _ = self.arrivals.send(Arrival::NameDisputed(self.peer, holder)).await;
                    Gone::Closed
                }
                Some(Code::Protocol | Code::Expelled) => {
                    let why = excerpt(&close.reason);
                    if let Some(unsaid) = self.lines.expelled_by_peer.take(Instant::now()) {
                        tracing::warn!(event = "expelled", peer = %self.peer, by = "the peer", ?why, unsaid);
                    }
                    if why.starts_with(NOT_ACCEPTED) {
                        self.trust.shut_out(canonical(self.connection.remote_address()), &why);
                    }
                    Gone::Expelled
                }
                _ => Gone::Closed,
            },
            ConnectionError::LocallyClosed => Gone::Closed,
            ConnectionError::Reset => Gone::Reset,
            _ => Gone::Lost,
        };
        // Nobody listens only while the agent stops.
        let _ = self.arrivals.send(Arrival::Ended { peer: self.peer, serial: self.serial, gone }).await;
    }
}

/// Writes one message and waits until the peer has all of it; `None` if it never will.
pub(super) async fn write_all(connection: &Connection, message: Bytes) -> Option<()> {
    let deadline = Instant::now() + STREAM_TIMEOUT;
    let mut stream = timeout_at(deadline, connection.open_uni()).await.ok()?.ok()?;
    let written = timeout_at(deadline, async {
        stream.write_chunk(message).await.ok()?;
        stream.finish().ok()?;
        stream.stopped().await.ok()?.is_none().then_some(())
    });
    let written = written.await.ok().flatten();
    if written.is_none() {
        // A stream that is dropped ends in order: the peer would take the part for the whole.
        let _ = stream.reset(Code::Closed.into());
    }
    written
}

/// Asks the process at the other end whether it lives: an open connection does not say so.
pub(super) async fn ping(connection: &Connection) -> bool {
    let asked = async {
        let (mut to, mut from) = connection.open_bi().await.ok()?;
        to.write_all(PING).await.ok()?;
        to.finish().ok()?;
        read_all(&mut from, PING.len()).await.ok()
    };
    timeout(PING_TIMEOUT, asked).await.ok().flatten().is_some_and(|answer| answer == PING)
}

async fn answer_ping(mut to: SendStream, mut from: RecvStream) {
    let answered = async {
        let asked = read_all(&mut from, PING.len()).await.ok()?;
        to.write_all(&asked).await.ok()?;
        to.finish().ok()
    };
    // A peer that does not wait for its answer does not need it.
    let _ = timeout(PING_TIMEOUT, answered).await;
}

const PING: &[u8] = b"ping";
/// Long enough for a lost packet, short enough for somebody who waits to be let in.
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// Streams of a kind that are read at a time; those that the peer has sent besides wait with QUIC.
const MAX_READS: usize = MAX_STREAMS as usize;
/// Messages that are written at a time: as many as a peer lets be, and those that come next.
const MAX_WRITES: usize = 2 * MAX_STREAMS as usize;
/// The largest message over the slowest line worth having.
const STREAM_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a link's round trip is told.
const RTT_EVERY: Duration = Duration::from_secs(30);
/// How often a leaving link looks whether QUIC has sent its datagrams: nothing announces it.
const FLUSH_CHECK: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::agent::{
        Secret,
        hello::{
            Met,
            tests::{greeter, meet},
        },
    };

    fn link(met: &Met, arrivals: &mpsc::Sender<Arrival>) -> mpsc::Sender<Order> {
        link_beside(met, arrivals, mpsc::channel(8).0)
    }

    fn link_beside(met: &Met, arrivals: &mpsc::Sender<Arrival>, gazette: mpsc::Sender<Heard>) -> mpsc::Sender<Order> {
        let (orders, queue) = mpsc::channel(8);
        let link = Link {
            peer: met.hello.id,
            serial: 1,
            connection: met.connection.clone(),
            room: met.connection.datagram_send_buffer_space(),
            arrivals: arrivals.clone(),
            traffic: Arc::default(),
            gazette,
            lines: Arc::default(),
            trust: Arc::clone(&greeter("c", 3, &Secret::random()).trust),
        };
        tokio::spawn(link.run(queue));
        orders
    }

    #[tokio::test]
    async fn what_was_ordered_before_a_goodbye_arrives_before_it() {
        let secret = Secret::random();
        let (a, b) = (greeter("a", 1, &secret), greeter("b", 2, &secret));
        let (a_met, b_met) = meet(&a, &b).await;
        let (a_met, b_met) = (a_met.unwrap(), b_met.unwrap());
        let (arrivals, mut arrived) = mpsc::channel(64);
        let _orders = link(&b_met, &arrivals);
        let orders = link(&a_met, &mpsc::channel(64).0);
        assert!(ping(&a_met.connection).await);
        a_met.connection.send_datagram(Bytes::from_static(b"packet")).unwrap();
        for _ in 0..7 {
            orders.send(Order::Send(vec![7; MAX_MESSAGE].into())).await.unwrap();
        }
        orders.send(Order::Leave).await.unwrap();
        let (mut packets, mut messages) = (0, 0);
        loop {
            match arrived.recv().await.unwrap() {
                Arrival::Input(Input::Packet(from, packet)) if *packet == *b"packet" => {
                    assert_eq!(from, a.hello.load().id);
                    packets += 1;
                }
                Arrival::Input(Input::Message(_, message)) if message.len() == MAX_MESSAGE => messages += 1,
                Arrival::Input(Input::Rtt(..)) => {}
                Arrival::Ended { gone, .. } => {
                    assert_eq!(gone, Gone::Left);
                    break;
                }
                _ => panic!("nothing else was sent"),
            }
        }
        assert_eq!((packets, messages), (1, 7));
    }

    #[tokio::test]
    async fn who_sends_more_than_is_taken_is_let_send_no_more() {
        let secret = Secret::random();
        let (a, b) = (greeter("a", 1, &secret), greeter("b", 2, &secret));
        let (a_met, b_met) = meet(&a, &b).await;
        let (a_met, b_met) = (a_met.unwrap(), b_met.unwrap());
        let (arrivals, mut arrived) = mpsc::channel(1);
        let _orders = link(&b_met, &arrivals);
        let mut sent = 0;
        // Each round trip brings what the other side lets be sent.
        while ping(&a_met.connection).await
            && let Some(Ok(mut stream)) = a_met.connection.open_uni().now_or_never()
        {
            stream.write_all(b"message").await.unwrap();
            stream.finish().unwrap();
            sent += 1;
        }
        assert!(sent <= 1 + MAX_READS + MAX_STREAMS as usize, "in the queue, on their way there, with QUIC: {sent}");
        for _ in 0..sent {
            assert!(matches!(arrived.recv().await, Some(Arrival::Input(Input::Message(..)))));
        }
    }

    #[tokio::test]
    async fn a_message_in_many_pieces_arrives_whole() {
        let secret = Secret::random();
        let (a, b) = (greeter("a", 1, &secret), greeter("b", 2, &secret));
        let (a_met, b_met) = meet(&a, &b).await;
        let (a_met, b_met) = (a_met.unwrap(), b_met.unwrap());
        let (arrivals, mut arrived) = mpsc::channel(64);
        let _orders = link(&b_met, &arrivals);
        let message: Vec<u8> = (1..=200).collect();
        let mut stream = a_met.connection.open_uni().await.unwrap();
        for byte in &message {
            stream.write_all(&[*byte]).await.unwrap();
            // Each leaves in a packet of its own, or with few others.
            tokio::task::yield_now().await;
        }
        stream.finish().unwrap();
        let Some(Arrival::Input(Input::Message(_, whole))) = arrived.recv().await else { panic!("one message") };
        assert_eq!(whole, message);
    }

    #[tokio::test]
    async fn a_link_runs_while_the_gazette_is_behind_and_is_told_of_all_the_same() {
        let secret = Secret::random();
        let (a, b) = (greeter("a", 1, &secret), greeter("b", 2, &secret));
        let (a_met, b_met) = meet(&a, &b).await;
        let (a_met, b_met) = (a_met.unwrap(), b_met.unwrap());
        let (gazette, mut heard) = mpsc::channel(1);
        gazette.send(Heard::Linked(NodeId(7), b_met.connection.clone())).await.unwrap();
        let _orders = link_beside(&b_met, &mpsc::channel(64).0, gazette);
        assert!(ping(&a_met.connection).await);
        for peer in [NodeId(7), a.hello.load().id] {
            assert!(matches!(heard.recv().await, Some(Heard::Linked(linked, _)) if linked == peer));
        }
    }

    #[tokio::test]
    async fn a_message_over_the_limit_is_counted_and_survived() {
        let secret = Secret::random();
        let (a, b) = (greeter("a", 1, &secret), greeter("b", 2, &secret));
        let (a_met, b_met) = meet(&a, &b).await;
        let (a_met, b_met) = (a_met.unwrap(), b_met.unwrap());
        let (arrivals, mut arrived) = mpsc::channel(64);
        let _orders = link(&b_met, &arrivals);
        assert!(write_all(&a_met.connection, vec![0; 4 * MAX_MESSAGE].into()).await.is_none());
        assert!(matches!(arrived.recv().await, Some(Arrival::Input(Input::Garbage(..)))), "the core is told");
        assert!(write_all(&a_met.connection, vec![0; MAX_MESSAGE].into()).await.is_some());
        let Some(Arrival::Input(Input::Message(_, message))) = arrived.recv().await else { panic!("one message fits") };
        assert_eq!(message.len(), MAX_MESSAGE);
    }
}
