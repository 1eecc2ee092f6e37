//! The least that an answer can cost in this house: hyper's server, and a body that is there already.

use std::{
    convert::Infallible,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Starts this program as the floor; the length of its bodies follows.
pub(crate) const FLAG: &str = "--floor";

/// The floor at work, ended when dropped.
pub(crate) struct Floor {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Floor {
    /// On one processor, as the agent is.
    pub(crate) fn start(length: usize) -> Self {
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", "0"]).arg(std::env::current_exe().unwrap()).args([FLAG, &length.to_string()]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, address: line.trim().parse().unwrap() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // One that has ended by itself is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Answers until it is killed; says where on stdout.
pub(crate) fn serve() {
    let length = std::env::args().nth(2).unwrap().parse().unwrap();
    let body = Bytes::from(vec![b'x'; length]);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let body = body.clone();
            tokio::spawn(async move {
                let answer = service_fn(|_: hyper::Request<Incoming>| {
                    let mut response = Response::new(Full::new(body.clone()));
                    let kind = header::HeaderValue::from_static("application/json");
                    response.headers_mut().insert(header::CONTENT_TYPE, kind);
                    std::future::ready(Ok::<_, Infallible>(response))
                });
                // The bench ends connections as it likes.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    });
}
