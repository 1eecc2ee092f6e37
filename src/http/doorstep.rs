//! Where a connection waits until the head of its first request is there: in the kernel's buffer, looked at and not
//! taken. A server that reads reserves two buffers of 8 KiB for each connection; out here ten thousand slow clients
//! cost a small task each, whatever they send.

use std::{future::Future, io, mem::MaybeUninit, os::fd::AsFd};

use rustix::net::{RecvFlags, recv};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest, Ready},
    net::{TcpStream, UnixStream},
};

/// A socket that can be looked at.
pub(super) trait Socket: AsFd + Sync {
    /// Waits until there may be something to read.
    fn readable(&self) -> impl Future<Output = io::Result<Ready>> + Send;
    /// Looks; an answer of `WouldBlock` makes the next [`Socket::readable`] wait for more.
    fn attempt(&self, look: impl FnOnce() -> io::Result<Head>) -> io::Result<Head>;
}

impl Socket for TcpStream {
    fn readable(&self) -> impl Future<Output = io::Result<Ready>> + Send {
        self.ready(Interest::READABLE)
    }
    fn attempt(&self, look: impl FnOnce() -> io::Result<Head>) -> io::Result<Head> {
        self.try_io(Interest::READABLE, look)
    }
}

impl Socket for UnixStream {
    fn readable(&self) -> impl Future<Output = io::Result<Ready>> + Send {
        self.ready(Interest::READABLE)
    }
    fn attempt(&self, look: impl FnOnce() -> io::Result<Head>) -> io::Result<Head> {
        self.try_io(Interest::READABLE, look)
    }
}

/// What stands before the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// A whole head, or something that is no HTTP: the server has an answer to either.
    There,
    /// More than a head may have, and no end.
    TooLarge,
    /// Nobody: the client ended before its head did.
    Gone,
}

/// Waits for the head of a request. `begun` is set once a part of it is there.
pub(super) async fn head<S: Socket>(socket: &S, begun: &mut bool) -> io::Result<Head> {
    loop {
        let ready = socket.readable().await?;
        match socket.attempt(|| look(socket, begun)) {
            // What was closed stays readable: waiting for it to become so would spin.
            Err(why) if why.kind() == io::ErrorKind::WouldBlock && ready.is_read_closed() => return Ok(Head::Gone),
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => {}
            seen => return seen,
        }
    }
}

/// The first byte that waits.
pub(super) fn first(socket: &impl AsFd) -> Option<u8> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 1];
    let ((seen, _), _) = recv(socket, &mut buffer, RecvFlags::PEEK).ok()?;
    seen.first().copied()
}

/// Whether what waits begins with a method, of which the server then knows what to say.
pub(super) fn names_method(socket: &impl AsFd) -> bool {
    let mut buffer = [MaybeUninit::<u8>::uninit(); MAX_METHOD];
    // Who is gone meanwhile is told nothing.
    recv(socket, &mut buffer, RecvFlags::PEEK).map_or(true, |((seen, _), _)| begins_with_method(seen))
}

/// A method is a token (RFC 9110 section 9.1), and a space ends it.
fn begins_with_method(seen: &[u8]) -> bool {
    let begin = seen.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(seen.len());
    let method = seen[begin..].split(|byte| *byte == b' ').next().unwrap_or_default();
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !method.is_empty() && method.iter().all(is_token)
}

fn look(socket: &impl AsFd, begun: &mut bool) -> io::Result<Head> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); MAX_HEAD];
    let ((seen, _), _) = recv(socket, &mut buffer, RecvFlags::PEEK)?;
    *begun = !seen.is_empty();
    judge(seen).ok_or_else(|| io::ErrorKind::WouldBlock.into())
}

/// `None` while more must come.
fn judge(seen: &[u8]) -> Option<Head> {
    let Some(first) = seen.first() else { return Some(Head::Gone) };
    // A head begins with its method; empty lines may stand before it (RFC 9112 section 2.2).
    if !first.is_ascii_alphabetic() && !matches!(first, b'\r' | b'\n') {
        return Some(Head::There);
    }
    let method = seen.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(seen.len());
    let ends = |window: &[u8]| matches!(window, [b'\n', b'\n', ..] | [b'\n', b'\r', b'\n']);
    if seen[method..].windows(3).any(ends) || seen[method..].ends_with(b"\n\n") {
        return Some(Head::There);
    }
    (seen.len() >= MAX_HEAD).then_some(Head::TooLarge)
}

/// Says a last word and hears the client out for a while: a connection closed over unread bytes is reset, and the word
/// is lost with it (RFC 9112 section 9.6).
pub(super) async fn turn_away<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(mut socket: S, word: &[u8]) {
    if socket.write_all(word).await.is_err() || socket.shutdown().await.is_err() {
        return;
    }
    let mut sink = [0; 1024];
    for _ in 0..MAX_HEARD / sink.len() {
        if !socket.read(&mut sink).await.is_ok_and(|read| read > 0) {
            return;
        }
    }
}

/// The most bytes of a request's head: twice what other servers take by default.
pub(super) const MAX_HEAD: usize = 16 * 1024;
/// How much of it is looked at for a method: no known one is half as long.
const MAX_METHOD: usize = 64;
/// How much more is read of who is turned away.
const MAX_HEARD: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_a_token() {
        for (seen, is_one) in [
            (&b"GET / HTTP/1.1\r\n"[..], true),
            (b"\r\nM-SEARCH * HTTP/1.1", true),
            (b"G@T / HTTP/1.1", false),
            (b"GET\t/ HTTP/1.1", false),
            (b"(GET) / HTTP/1.1", false),
            (b" / HTTP/1.1", false),
            (b"hello\r\n\r\n", false),
            (b"\r\n", false),
        ] {
            assert_eq!(begins_with_method(seen), is_one, "{seen:?}");
        }
        assert!(begins_with_method(&[b'A'; MAX_METHOD]));
    }

    #[test]
    fn a_head_ends_with_an_empty_line() {
        let full = vec![b'a'; MAX_HEAD];
        for (seen, verdict) in [
            (&b""[..], Some(Head::Gone)),
            (b"G", None),
            (b"GET / HTTP/1.1\r\nHost: a\r\n", None),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Some(Head::There)),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody", Some(Head::There)),
            (b"GET / HTTP/1.1\nHost: a\n\n", Some(Head::There)),
            (b"\r\n\r\n\r\n", None),
            (b"\r\nGET / HTTP/1.0\r\n\r\n", Some(Head::There)),
            (b"\x16\x03\x01", Some(Head::There)),
            (&full, Some(Head::TooLarge)),
        ] {
            assert_eq!(judge(seen), verdict, "{:?}", String::from_utf8_lossy(seen));
        }
    }

    #[tokio::test]
    async fn a_head_that_comes_in_pieces_is_waited_for_and_not_taken() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let mut begun = false;
        let (seen, ()) = tokio::join!(head(&server, &mut begun), async {
            for piece in ["GET / HT", "TP/1.1\r\nHost: ", "a\r\n\r\n"] {
                client.write_all(piece.as_bytes()).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        assert!(seen.unwrap() == Head::There && begun);
        let mut server = server;
        let mut whole = [0; 27];
        server.read_exact(&mut whole).await.unwrap();
        assert_eq!(&whole, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }

    #[tokio::test]
    async fn who_closes_before_the_end_of_a_head_is_gone() {
        for sent in ["", "GET / HTTP/1.1\r\n"] {
            let (mut client, server) = UnixStream::pair().unwrap();
            client.write_all(sent.as_bytes()).await.unwrap();
            client.shutdown().await.unwrap();
            assert_eq!(head(&server, &mut false).await.unwrap(), Head::Gone, "{sent}");
        }
    }
}
