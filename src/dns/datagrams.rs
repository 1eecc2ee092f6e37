//! Datagrams by the batch: one system call takes what has come, one sends what there is to say.
//!
//! Each reply leaves from the address that its question was sent to, also on a socket bound to all addresses: the kernel
//! says which it was (`IP_PKTINFO`, RFC 3542 section 6 for IPv6), and what it says is handed back with the reply. The
//! safe wrappers of these calls know one source for a whole batch only, hence the calls themselves.

#![allow(unsafe_code, reason = "recvmmsg and sendmmsg take pointers; this file alone knows them")]
#![allow(clippy::unnecessary_cast, reason = "the C libraries differ in the width of lengths")]

use std::{
    io,
    mem::{size_of, size_of_val, zeroed},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket},
    ops::Range,
    os::fd::AsRawFd,
    ptr::{from_mut, from_ref, null_mut},
};

use libc::{
    c_int, c_uint, c_void, in_pktinfo, in6_pktinfo, iovec, mmsghdr, sockaddr_in, sockaddr_in6, sockaddr_storage,
};

/// Who sent a datagram, and to which of our addresses, as the kernel put it.
#[derive(Clone, Copy)]
pub(super) struct Envelope {
    name: sockaddr_storage,
    name_length: u32,
    /// Control messages, aligned as their headers want it.
    control: [u64; CONTROL_WORDS],
    control_length: usize,
}

/// What came with one call, and what is to be sent with another.
pub(super) struct Batch {
    packets: Vec<[u8; MAX_PACKET]>,
    envelopes: Vec<Envelope>,
    /// How many bytes of each packet came; 0 for one that was longer than any question.
    lengths: Vec<usize>,
    replies: Vec<(usize, Range<usize>)>,
    room: Vec<u8>,
}

/// Lets the kernel say which of our addresses a datagram was sent to.
pub(super) fn tell_destination(socket: &UdpSocket) -> io::Result<()> {
    let on: c_int = 1;
    let (level, name) = if socket.local_addr()?.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_PKTINFO)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
    };
    // SAFETY: the option's value is a C int, which outlives the call, and its size is given.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, from_ref(&on).cast(), size_of_val(&on) as libc::socklen_t)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            packets: vec![[0; MAX_PACKET]; BATCH],
            envelopes: vec![Envelope::EMPTY; BATCH],
            lengths: vec![0; BATCH],
            replies: Vec::with_capacity(BATCH),
            room: Vec::new(),
        }
    }

    /// Waits for a datagram, and takes those that have come with it. Returns how many.
    pub(super) fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        // SAFETY: zeroes are a valid value of these C structs.
        let (mut parts, mut headers): ([iovec; BATCH], [mmsghdr; BATCH]) = unsafe { (zeroed(), zeroed()) };
        let places = self.packets.iter_mut().zip(&mut self.envelopes);
        for (((packet, envelope), part), header) in places.zip(&mut parts).zip(&mut headers) {
            *part = iovec { iov_base: packet.as_mut_ptr().cast(), iov_len: MAX_PACKET };
            envelope.name_length = size_of::<sockaddr_storage>() as u32;
            envelope.control_length = size_of_val(&envelope.control);
            envelope.address(header, part);
        }
        // SAFETY: each of the BATCH headers points to a name, a control buffer and one part in `self` or on this stack,
        // each valid for writes of the length that stands beside it, and none is touched until the call returns.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as c_uint,
                libc::MSG_WAITFORONE as _,
                null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (at, header) in headers.iter().take(count).enumerate() {
            let whole = header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
            self.lengths[at] = if whole { header.msg_len as usize } else { 0 };
            let envelope = &mut self.envelopes[at];
            envelope.name_length = header.msg_hdr.msg_namelen;
            envelope.control_length = header.msg_hdr.msg_controllen as usize;
            envelope.forget_interface();
        }
        Ok(count)
    }

    /// The datagram at place `at` of those just received.
    pub(super) fn packet(&self, at: usize) -> &[u8] {
        &self.packets[at][..self.lengths[at]]
    }

    pub(super) fn envelope(&self, at: usize) -> &Envelope {
        &self.envelopes[at]
    }

    /// Has `write` append the reply to the datagram at place `at`; what it returns without bytes is not sent.
    pub(super) fn reply<T>(&mut self, at: usize, write: impl FnOnce(&[u8], &mut Vec<u8>) -> T) -> T {
        let begin = self.room.len();
        let done = write(&self.packets[at][..self.lengths[at]], &mut self.room);
        if self.room.len() > begin {
            self.replies.push((at, begin..self.room.len()));
        }
        done
    }

    /// Sends the replies. Returns how many the kernel refused: the others have left.
    pub(super) fn send(&mut self, socket: &UdpSocket) -> usize {
        // SAFETY: zeroes are a valid value of these C structs.
        let (mut parts, mut headers): ([iovec; BATCH], [mmsghdr; BATCH]) = unsafe { (zeroed(), zeroed()) };
        let count = self.replies.len().min(BATCH);
        for (((at, range), part), header) in self.replies.iter().zip(&mut parts).zip(&mut headers) {
            let bytes = &mut self.room[range.clone()];
            *part = iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            self.envelopes[*at].address(header, part);
        }
        let (mut done, mut refused) = (0, 0);
        while done < count {
            let rest = &mut headers[done..count];
            // SAFETY: each header points to a name, a control buffer and one part in `self` or on this stack, each
            // valid for reads of the length that stands beside it, and unchanged until the call returns.
            let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as c_uint, 0) };
            match usize::try_from(sent) {
                Ok(sent) => done += sent.max(1),
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                // The first of the rest failed: a client that is gone, or a source address that is.
                Err(_) => (done, refused) = (done + 1, refused + 1),
            }
        }
        self.replies.clear();
        self.room.clear();
        refused
    }
}

impl Envelope {
    const EMPTY: Self = Self {
        // SAFETY: zeroes are a valid value of this C struct: the address of nobody.
        name: unsafe { zeroed() },
        name_length: 0,
        control: [0; CONTROL_WORDS],
        control_length: 0,
    };

    /// Who sent it; `None` for a family that is not IP.
    pub(super) fn sender(&self) -> Option<SocketAddr> {
        let name = from_ref(&self.name);
        match c_int::from(self.name.ss_family) {
            libc::AF_INET if self.name_length as usize >= size_of::<sockaddr_in>() => {
                // SAFETY: the family says which struct the storage holds, and the storage is aligned for all of them.
                let v4 = unsafe { &*name.cast::<sockaddr_in>() };
                let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 if self.name_length as usize >= size_of::<sockaddr_in6>() => {
                // SAFETY: as above.
                let v6 = unsafe { &*name.cast::<sockaddr_in6>() };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }

    /// Sends one datagram back to where this one came from, from where it was sent to.
    pub(super) fn send_back(&self, socket: &UdpSocket, bytes: &[u8]) -> io::Result<()> {
        let mut envelope = *self;
        // The kernel does not write through this pointer: it is `mut` because receiving shares the struct.
        let mut part = iovec { iov_base: bytes.as_ptr().cast_mut().cast::<c_void>(), iov_len: bytes.len() };
        // SAFETY: zeroes are a valid value of this C struct.
        let mut header: mmsghdr = unsafe { zeroed() };
        envelope.address(&mut header, &mut part);
        // SAFETY: the header points to a name, a control buffer and one part that live on this stack or in `bytes`,
        // each valid for reads of the length that stands beside it.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header.msg_hdr, 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Points `header` to this envelope and to the bytes of `part`.
    fn address(&mut self, header: &mut mmsghdr, part: &mut iovec) {
        let header = &mut header.msg_hdr;
        header.msg_name = from_mut(&mut self.name).cast();
        header.msg_namelen = self.name_length;
        header.msg_iov = part;
        header.msg_iovlen = 1;
        header.msg_control = if self.control_length == 0 { null_mut() } else { self.control.as_mut_ptr().cast() };
        header.msg_controllen = self.control_length as _;
    }

    /// Leaves the way back to the routes: the interface that a question came by need not be it. Link-local addresses
    /// mean something on their interface alone.
    fn forget_interface(&mut self) {
        // SAFETY: zeroes are a valid value of this C struct.
        let mut header: libc::msghdr = unsafe { zeroed() };
        header.msg_control = self.control.as_mut_ptr().cast();
        header.msg_controllen = self.control_length.min(size_of_val(&self.control)) as _;
        // SAFETY: the header describes the control buffer, whose first `control_length` bytes the kernel has filled with
        // whole messages; the macros return null or a pointer within it, and the type and the length say what it holds.
        unsafe {
            let message = libc::CMSG_FIRSTHDR(&raw const header);
            if message.is_null() {
                return;
            }
            let data = libc::CMSG_DATA(message);
            let holds = |size: usize| (*message).cmsg_len as u64 >= u64::from(libc::CMSG_LEN(size as c_uint));
            match ((*message).cmsg_level, (*message).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) if holds(size_of::<in_pktinfo>()) => {
                    let mut info: in_pktinfo = data.cast::<in_pktinfo>().read_unaligned();
                    info.ipi_ifindex = 0;
                    data.cast::<in_pktinfo>().write_unaligned(info);
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if holds(size_of::<in6_pktinfo>()) => {
                    let mut info: in6_pktinfo = data.cast::<in6_pktinfo>().read_unaligned();
                    if !Ipv6Addr::from(info.ipi6_addr.s6_addr).is_unicast_link_local() {
                        info.ipi6_ifindex = 0;
                        data.cast::<in6_pktinfo>().write_unaligned(info);
                    }
                }
                _ => {}
            }
        }
    }
}

/// As many as a burst between two wake-ups brings, and few enough to stay in the cache of a core.
const BATCH: usize = 32;
/// A question of one name with every EDNS option in use takes less than 1 KiB.
const MAX_PACKET: usize = 1536;
/// One header and one `in6_pktinfo` take 40 bytes.
const CONTROL_WORDS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    /// A socket on `bind` that has received `hello` by `asked`, and the one that sent it.
    fn heard(bind: &str, asked: &str) -> (UdpSocket, Batch, UdpSocket) {
        let socket = UdpSocket::bind(bind).unwrap();
        tell_destination(&socket).unwrap();
        let target: std::net::IpAddr = asked.parse().unwrap();
        let client = UdpSocket::bind(if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
        // A connected socket takes replies from the address it asks, and from no other.
        client.connect((target, socket.local_addr().unwrap().port())).unwrap();
        client.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        client.send(b"hello").unwrap();
        let mut batch = Batch::new();
        assert_eq!(batch.receive(&socket).unwrap(), 1);
        assert_eq!(
            (batch.packet(0), batch.envelope(0).sender().map(|at| at.port())),
            (&b"hello"[..], Some(client.local_addr().unwrap().port()))
        );
        (socket, batch, client)
    }

    #[test]
    fn a_reply_leaves_from_the_address_that_was_asked() {
        let v6 = UdpSocket::bind("[::1]:0").is_ok();
        let with_v6: &[_] = if v6 { &[("[::]:0", "::1"), ("[::]:0", "127.0.0.2")] } else { &[] };
        for (bind, asked) in [("0.0.0.0:0", "127.0.0.1"), ("0.0.0.0:0", "127.0.0.2")].iter().chain(with_v6) {
            let (socket, mut batch, client) = heard(bind, asked);
            batch.reply(0, |packet, room| room.extend_from_slice(packet));
            batch.reply(0, |_, room| room.extend_from_slice(b"again"));
            batch.reply(0, |_, _| ());
            assert_eq!(batch.send(&socket), 0);
            let envelope = *batch.envelope(0);
            envelope.send_back(&socket, b"later").unwrap();
            for want in ["hello", "again", "later"] {
                let mut reply = [0; 16];
                let length = client.recv(&mut reply).unwrap_or_else(|why| panic!("{asked} by {bind}: {why}"));
                assert_eq!(&reply[..length], want.as_bytes());
            }
        }
    }

    #[test]
    fn what_is_longer_than_any_question_is_empty() {
        let (socket, mut batch, client) = heard("127.0.0.1:0", "127.0.0.1");
        client.send(&[0; MAX_PACKET + 1]).unwrap();
        assert_eq!(batch.receive(&socket).unwrap(), 1);
        assert!(batch.packet(0).is_empty());
    }
}
