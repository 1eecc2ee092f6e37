//! QUIC's socket, on which each datagram comes alone.
//!
//! The kernel hands over what came from one sender as one batch of up to 64 KB (GRO). quinn splits it without a copy, so that
//! the one byte of a stream that has to wait for those before it keeps all of the batch, and counts as one packet's. Here
//! each datagram is copied out of the batch, and one that is longer than any that we let others send is none.

use std::{
    array, fmt,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use quinn::{
    AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller,
    udp::{RecvMeta, Transmit},
};

/// A socket of quinn's with what came in its last batches.
pub(super) struct Apart {
    socket: Arc<dyn AsyncUdpSocket>,
    batches: Mutex<Batches>,
}

struct Batches {
    room: Box<[u8]>,
    metas: [RecvMeta; BATCHES],
    /// How many of these came with the last call.
    count: usize,
    /// The first that is not handed out whole, and from which byte on.
    at: (usize, usize),
}

impl Apart {
    pub(super) fn wrap(socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let socket = TokioRuntime.wrap_udp_socket(socket)?;
        Ok(Arc::new(Self { socket, batches: Mutex::new(Batches::new()) }))
    }
}

impl Batches {
    fn new() -> Self {
        let room = vec![0; BATCHES * MAX_BATCH].into_boxed_slice();
        Self { room, metas: [RecvMeta::default(); BATCHES], count: 0, at: (0, 0) }
    }

    fn is_spent(&self) -> bool {
        self.at.0 >= self.count
    }

    /// Hands out so many of the datagrams as there are places for.
    fn hand_out(&mut self, bufs: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> usize {
        let mut given = 0;
        while given < bufs.len().min(metas.len()) && !self.is_spent() {
            let (batch, from) = self.at;
            let meta = self.metas[batch];
            let datagram = &self.room[batch * MAX_BATCH..][..meta.len][from..];
            let datagram = &datagram[..datagram.len().min(meta.stride)];
            let length = datagram.len();
            if (1..=bufs[given].len()).contains(&length) {
                bufs[given][..length].copy_from_slice(datagram);
                metas[given] = RecvMeta { len: length, stride: length, ..meta };
                given += 1;
            }
            self.at = if length > 0 && from + length < meta.len { (batch, from + length) } else { (batch + 1, 0) };
        }
        given
    }
}

impl AsyncUdpSocket for Apart {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        if batches.is_spent() {
            let Batches { room, metas, count, at } = &mut *batches;
            (*count, *at) = (0, (0, 0));
            let mut rooms = room.chunks_exact_mut(MAX_BATCH);
            let mut places: [_; BATCHES] = array::from_fn(|_| IoSliceMut::new(rooms.next().unwrap_or_default()));
            *count = ready!(self.socket.poll_recv(context, &mut places, metas))?;
        }
        let given = batches.hand_out(bufs, metas);
        if given == 0 {
            // Nothing but what is none: quinn counts its work by what it is given, and this must not take it all.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(given))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

impl fmt::Debug for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket.fmt(f)
    }
}

/// How many batches one call takes; those of one sender come as one.
const BATCHES: usize = 8;
/// The most bytes of a batch, which the kernel holds as one UDP datagram.
const MAX_BATCH: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// What came: batches of these bytes in datagrams of that length.
    fn batches(came: &[(&[u8], usize)]) -> Batches {
        let mut batches = Batches::new();
        for (at, (bytes, stride)) in came.iter().enumerate() {
            batches.room[at * MAX_BATCH..][..bytes.len()].copy_from_slice(bytes);
            batches.metas[at] = RecvMeta { len: bytes.len(), stride: *stride, ..RecvMeta::default() };
        }
        batches.count = came.len();
        batches
    }

    /// What is handed out, call by call, to so many places of four bytes.
    fn handed_out(batches: &mut Batches, places: usize) -> Vec<Vec<Vec<u8>>> {
        let mut calls = Vec::new();
        loop {
            let (mut room, mut metas) = (vec![[0; 4]; places], vec![RecvMeta::default(); places]);
            let mut bufs: Vec<_> = room.iter_mut().map(|place| IoSliceMut::new(place)).collect();
            let given = batches.hand_out(&mut bufs, &mut metas);
            if given == 0 {
                return calls;
            }
            assert!(metas[..given].iter().all(|meta| meta.len == meta.stride));
            calls.push(bufs.iter().zip(&metas).take(given).map(|(buf, meta)| buf[..meta.len].to_vec()).collect());
        }
    }

    #[test]
    fn each_datagram_of_a_batch_comes_alone_and_in_order() {
        let came: [(&[u8], usize); 3] = [(b"aaabbbcc", 3), (b"", 0), (b"dddd", 4)];
        let whole = [b"aaa".to_vec(), b"bbb".to_vec(), b"cc".to_vec(), b"dddd".to_vec()];
        assert_eq!(handed_out(&mut batches(&came), 8), [whole.to_vec()]);
        assert_eq!(handed_out(&mut batches(&came), 3), [whole[..3].to_vec(), whole[3..].to_vec()]);
        assert_eq!(handed_out(&mut batches(&came), 1), whole.map(|datagram| vec![datagram]));
    }

    #[test]
    fn a_datagram_longer_than_any_of_ours_is_none() {
        let came: [(&[u8], usize); 3] = [(b"aaaaabb", 5), (&[9; MAX_BATCH], MAX_BATCH), (b"c", 7)];
        assert_eq!(handed_out(&mut batches(&came), 8), [[b"bb".to_vec(), b"c".to_vec()]]);
    }
}
