//! Who holds no secret of this mesh, or forges whose packets they are, against a real agent: packets as QUIC makes them,
//! sent by hand.

use tokio::{net::UdpSocket, time::interval};

use super::{
    insider::{host, insider},
    *,
};
use crate::agent::{hello::tests::greeter, quic::Code};

/// The first packets of so many strangers who call, as they leave their machine: two each, of which the second is the
/// rest of the first or its repetition.
async fn first_packets(callers: usize) -> Vec<Vec<u8>> {
    let nowhere = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let stranger = greeter("stranger", 9, &Secret::random());
    let to = nowhere.local_addr().unwrap();
    let _calls: Vec<_> = (0..callers).map(|_| stranger.endpoint.connect(to, "node.hobnob").unwrap()).collect();
    let (mut packets, mut buffer) = (Vec::new(), [0; 2048]);
    while packets.len() < 2 * callers {
        let length = timeout(PATIENCE, nowhere.recv(&mut buffer)).await.unwrap().unwrap();
        packets.push(buffer[..length].to_vec());
    }
    packets
}

/// A socket that has sent these to the host, and how many bytes they were.
async fn send(host: &Agent, packets: &[Vec<u8>]) -> (UdpSocket, usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(host.address()).await.unwrap();
    for packet in packets {
        socket.send(packet).await.unwrap();
    }
    (socket, packets.iter().map(Vec::len).sum())
}

#[tokio::test]
async fn an_address_that_nobody_proved_is_sent_at_most_thrice_what_came_from_it() {
    let secret = Secret::random();
    let host = host(&secret).await;
    let (socket, asked) = send(&host, &first_packets(1).await).await;
    let (mut answered, mut buffer, mut again) = (0, [0; 2048], interval(Duration::from_millis(10)));
    // Until the host gives up, having repeated itself as often as it would.
    while host.traffic().handshakes_failed.read() == 0 {
        tokio::select! {
            answer = socket.recv(&mut buffer) => answered += answer.unwrap(),
            _ = again.tick() => {}
        }
    }
    assert!(answered > asked, "it does answer: {answered} bytes to {asked}");
    // QUIC as we have it begins a datagram while a byte of the allowance is left, and fills it.
    assert!(answered < 3 * asked + 1200, "RFC 9000 section 8.1: {answered} bytes to {asked}");
    host.leave().await;
}

#[tokio::test]
async fn in_a_crowd_strangers_prove_their_address_first_and_members_come_in_all_the_same() {
    let secret = Secret::random();
    let host = host(&secret).await;
    let calls = first_packets(80).await;
    let (socket, asked) = send(&host, &calls).await;
    let (mut answered, mut buffer) = (0, [0; 2048]);
    let retry = loop {
        let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("a Retry").unwrap();
        answered += length;
        if buffer[0] & RETRY == RETRY {
            break length;
        }
    };
    assert!(retry < calls[0].len() / 3, "{retry} bytes");
    assert!(answered <= 3 * asked && host.traffic().retries.read() > 0);
    let (met, _orders) = insider(&host, &secret).await;
    assert!(met.connection.close_reason().is_none());
    met.connection.close(Code::Closed.into(), b"");
    host.leave().await;
}

/// The first byte of a Retry packet (RFC 9000 section 17.2.5): a long header of type 3.
const RETRY: u8 = 0xf0;
