//! What is checked: as cheap as a server can be, and with a note of every call.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Instant,
};

/// A server for many hosts: whatever of 127.0.0.0/8 it is called at. It closes what it has accepted.
pub(crate) struct Crowd {
    pub(crate) port: u16,
    calls: Arc<Mutex<Vec<(Ipv4Addr, Instant)>>>,
}

impl Crowd {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let calls: Arc<Mutex<Vec<_>>> = Arc::default();
        let noted = Arc::clone(&calls);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let at = Instant::now();
                let Ok(SocketAddr::V4(called)) = stream.local_addr() else { continue };
                noted.lock().unwrap().push((*called.ip(), at));
            }
        });
        Self { port, calls }
    }

    /// Who was called when since the last time this was asked.
    pub(crate) fn calls(&self) -> Vec<(Ipv4Addr, Instant)> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }
}

/// A server of HTTP/1.1 whose page `/N` is well until it is told otherwise.
pub(crate) struct Pages {
    pub(crate) at: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    sick: Option<usize>,
    /// When the page that is sick was first asked for since it is, and answered.
    told: Option<Instant>,
}

impl Pages {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                // A client may go whenever it likes.
                let _ = answer(stream, &shared);
            }
        });
        Self { at, state }
    }

    /// From now on page `n` alone is sick.
    pub(crate) fn infect(&self, n: usize) {
        *self.state.lock().unwrap() = State { sick: Some(n), told: None };
    }

    /// When the page that is sick was first asked for, if it was.
    pub(crate) fn told(&self) -> Option<Instant> {
        self.state.lock().unwrap().told
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let (mut request, mut buffer) = (Vec::new(), [0; 1024]);
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => request.extend_from_slice(&buffer[..count]),
        }
    }
    let request = String::from_utf8_lossy(&request);
    let page = request.split(' ').nth(1).and_then(|path| path.trim_start_matches('/').parse().ok());
    let is_sick = {
        let mut state = state.lock().unwrap();
        let is_sick = page.is_some() && page == state.sick;
        if is_sick {
            state.told.get_or_insert_with(Instant::now);
        }
        is_sick
    };
    let status = if is_sick { "500 Sick" } else { "200 Well" };
    stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").as_bytes())
}
