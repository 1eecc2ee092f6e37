//! DNS as cheap as it gets: one question rendered once, sent and awaited without blocking.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
};

/// A question for the address of a service, and the answer that counts as right.
pub(crate) struct Question {
    packet: Vec<u8>,
    address: Ipv4Addr,
}

impl Question {
    /// For `NAME.service.mesh.internal`, which should be at `address` and nowhere else.
    pub(crate) fn new(name: &str, address: Ipv4Addr) -> Self {
        // RFC 1035 section 4.1.1: no flags, one question; section 4.1.2: its name, type A, class IN.
        let mut packet = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in [name, "service", "mesh", "internal"] {
            packet.push(u8::try_from(label.len()).unwrap());
            packet.extend_from_slice(label.as_bytes());
        }
        packet.extend_from_slice(&[0, 0, 1, 0, 1]);
        Self { packet, address }
    }

    /// No error, one answer, and that address at its end.
    fn is_answered_by(&self, id: u16, reply: &[u8]) -> Answer {
        if reply.len() < 12 || reply[..2] != id.to_be_bytes() {
            return Answer::None;
        }
        let no_error = reply[3] & 0x0f == 0;
        let right = no_error && reply[6..8] == [0, 1] && reply.ends_with(&self.address.octets());
        if right { Answer::Right } else { Answer::Wrong }
    }
}

/// What has come of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nothing yet.
    None,
    /// Something else than is hoped for.
    Wrong,
    /// What is hoped for.
    Right,
}

/// A socket to one node's DNS port, with at most one question on its way.
pub(crate) struct Asker {
    socket: UdpSocket,
    id: u16,
    asking: bool,
    /// Questions sent so far.
    pub(crate) asked: usize,
}

impl Asker {
    /// To the node that answers there.
    pub(crate) fn new(dns: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(dns).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, id: 0, asking: false, asked: 0 }
    }

    /// Asks, unless a question is on its way.
    pub(crate) fn ask(&mut self, question: &mut Question) {
        if self.asking {
            return;
        }
        self.id = self.id.wrapping_add(1);
        question.packet[..2].copy_from_slice(&self.id.to_be_bytes());
        // Refused while nobody listens there: the next try tells.
        self.asking = self.socket.send(&question.packet).is_ok();
        self.asked += 1;
    }

    /// Looks for the answer.
    pub(crate) fn look(&mut self, question: &Question) -> Answer {
        let mut reply = [0; 512];
        match self.socket.recv(&mut reply) {
            Ok(length) => {
                let answer = question.is_answered_by(self.id, &reply[..length]);
                self.asking &= answer == Answer::None;
                answer
            }
            Err(why) => {
                self.asking &= why.kind() == ErrorKind::WouldBlock;
                Answer::None
            }
        }
    }
}
