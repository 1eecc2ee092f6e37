//! Many connections, and a request on each of them at once.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets this program, and those it starts, open as many files as the system allows.
pub(crate) fn allow_many_files() {
    let most = getrlimit(Resource::Nofile).maximum;
    // Where that is refused, a crowd that is too large says so itself.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
}

/// One connection that stays open.
pub(crate) struct Line {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Line {
    pub(crate) fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// Asks; the answer is to be read.
    pub(crate) fn ask(&mut self, path: &str) {
        self.stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).unwrap();
    }

    /// Sends what is ready to be sent.
    pub(crate) fn send(&mut self, request: &[u8]) {
        self.stream.write_all(request).unwrap();
    }

    /// Reads one answer: its head, and the length of its body.
    pub(crate) fn hear(&mut self) -> (String, usize) {
        self.buffer.clear();
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            self.more();
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
        let length: usize = value(&head, "content-length").unwrap().parse().unwrap();
        while self.buffer.len() < end + length {
            self.more();
        }
        assert!(head.starts_with("http/1.1 2"), "{head}");
        (head, length)
    }

    /// Reads as many bytes.
    pub(crate) fn take(&mut self, length: usize) {
        self.buffer.resize(length, 0);
        self.stream.read_exact(&mut self.buffer).unwrap();
    }

    fn more(&mut self) {
        let mut piece = [0; 16 << 10];
        let read = self.stream.read(&mut piece).unwrap();
        assert!(read > 0, "the connection ended");
        self.buffer.extend_from_slice(&piece[..read]);
    }
}

/// A header's value; the head is in lower case.
pub(crate) fn value<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// As many lines to one place.
pub(crate) fn lines(address: SocketAddr, count: usize) -> Vec<Line> {
    (0..count).map(|_| Line::open(address)).collect()
}
