//! A member that holds the secret and behaves badly, against a real agent.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use quinn::{ConnectionError, VarInt};
use tokio::sync::mpsc;
use tracing::instrument::WithSubscriber;

use super::*;
use crate::{
    agent::{
        hello::{Met, tests::greeter},
        link::{Link, Order, write_all},
        peers::Arrival,
        quic::Code,
    },
    mesh::wire::{MAX_MESSAGE, VERSION},
};

/// What is written into the log, by all that runs in the test's own thread.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn subscriber(&self) -> impl tracing::Subscriber + Send + Sync + 'static {
        let log = self.clone();
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone()).finish()
    }

    fn lines(&self, holding: [&str; 2]) -> usize {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| holding.iter().all(|part| line.contains(part))).count()
    }
}

/// One that the agent lets in, since it holds the secret; its link is the agent's own code.
pub(super) async fn insider(host: &Agent, secret: &Secret) -> (Met, mpsc::Sender<Order>) {
    let greeter = greeter("evil", 1, secret);
    let met = timeout(PATIENCE, greeter.dial(host.address(), None)).await.unwrap().unwrap();
    let (arrivals, mut arrived) = mpsc::channel::<Arrival>(64);
    tokio::spawn(async move { while arrived.recv().await.is_some() {} }.with_current_subscriber());
    let (orders, queue) = mpsc::channel(1);
    let link = Link {
        peer: met.hello.id,
        serial: 1,
        connection: met.connection.clone(),
        room: met.connection.datagram_send_buffer_space(),
        arrivals,
        traffic: Arc::default(),
        gazette: mpsc::channel(8).0,
        lines: Arc::default(),
        trust: Arc::clone(&greeter.trust),
    };
    tokio::spawn(link.run(queue).with_current_subscriber());
    (met, orders)
}

/// How a connection was closed, and what was said.
async fn reason(met: &Met) -> String {
    match timeout(PATIENCE, met.connection.closed()).await.expect("it is closed") {
        ConnectionError::ApplicationClosed(closed) => {
            assert_eq!(closed.error_code, VarInt::from(Code::Expelled));
            String::from_utf8(closed.reason.to_vec()).unwrap()
        }
        why => panic!("{why}"),
    }
}

pub(super) async fn host(secret: &Secret) -> Agent {
    let host = Agent::builder().node("a").mesh("prod").secret(secret.clone()).listen("127.0.0.1:0".parse().unwrap());
    host.start().await.unwrap()
}

#[tokio::test]
async fn who_sends_garbage_is_closed_with_a_reason_that_both_sides_log() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.subscriber());
    let secret = Secret::random();
    let host = host(&secret).await;
    let (met, _orders) = insider(&host, &secret).await;
    let garbage = Bytes::from_static(&[VERSION, 1, 0xff, 0xff]);
    let flood = async { while met.connection.send_datagram_wait(garbage.clone()).await.is_ok() {} };
    timeout(PATIENCE, flood).await.expect("its connection is closed");
    let said = reason(&met).await;
    assert!(said.starts_with("misbehaved: ") && said.len() > 20, "{said}");
    // For a while it is not let in again, and hears the same.
    let (again, _orders) = insider(&host, &secret).await;
    assert_eq!(reason(&again).await, said);
    assert_eq!(host.stats().await.expelled, 1);
    let told = |by: &str| log.lines(["event=\"expelled\"", by]);
    let both = async {
        while told("by=\"the peer\"") < 2 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, both).await.expect("the other side logs it, each time");
    assert_eq!(told("by=\"this node\""), 1, "this side logs it once");
    let entries = host.journal().after(0).1;
    assert_eq!(entries.iter().filter(|entry| entry.news.kind() == "expelled").count(), 1);
    host.leave().await;
}

#[tokio::test]
async fn who_sends_streams_without_end_is_closed_too() {
    let secret = Secret::random();
    let host = host(&secret).await;
    let (met, _orders) = insider(&host, &secret).await;
    let flood = async {
        while met.connection.close_reason().is_none() {
            // The host stops reading at its limit.
            let _ = write_all(&met.connection, vec![0; MAX_MESSAGE + 1].into()).await;
        }
    };
    timeout(PATIENCE, flood).await.expect("its connection is closed");
    assert!(reason(&met).await.contains("longer than any message"));
    host.leave().await;
}
