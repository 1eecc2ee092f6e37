//! The check `udp`: an answer is passing, silence is not. That the port is closed comes back as an error (RFC 1122
//! section 4.1.3.3).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::UdpSocket;

use super::{
    Failed, Finding, Home,
    dial::{Dial, Place, first_of},
    holds, text,
};
use crate::model::UdpCheck;

pub(super) async fn run(check: &UdpCheck, home: &Home, dial: &Dial) -> Result<Finding, Failed> {
    let place = Place::of(&check.target, home, None)?;
    let asked = first_of(dial.addresses(&place).await?, |address| ask(address, check.send.as_bytes()));
    let silent = |(address, why)| Failed::of(&why, format!("{address} does not answer: {why}"));
    let answer = asked.await.map_err(silent)?;
    match &check.expect {
        Some(expected) if !holds(&answer, expected) => {
            Err(format!("{expected:?} is not in what it said: {}", text(&answer)).into())
        }
        _ => Ok(Finding::passing(text(&answer))),
    }
}

pub(super) async fn ask(address: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr =
        if address.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).await?;
    // Connected, so that only this target is heard, and its ICMP errors are.
    socket.connect(address).await?;
    socket.send(question).await?;
    let mut answer = vec![0; MAX_ANSWER];
    let length = socket.recv(&mut answer).await?;
    answer.truncate(length);
    Ok(answer)
}

/// What is beyond this in a datagram is cut.
const MAX_ANSWER: usize = 4096;
