//! What checks are aimed at: small servers on loopback that answer well, badly, without end or not at all. Each ends with
//! its test's runtime.

#![allow(dead_code, reason = "each test file takes what it needs")]

use std::{
    convert::Infallible,
    io::Result,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{RData, Record, rdata::A},
};
use http_body_util::{BodyExt, StreamBody};
use hyper::{HeaderMap, Request, Response, body::Frame, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, UdpSocket},
};
use tokio_rustls::TlsAcceptor;

/// A server, and what it was asked.
pub(crate) struct Target {
    pub(crate) at: SocketAddr,
    /// What `/health` says.
    pub(crate) healthy: Arc<AtomicBool>,
    /// How many connections it has taken.
    pub(crate) served: Arc<AtomicUsize>,
    /// How many of them their clients have closed.
    pub(crate) closed: Arc<AtomicUsize>,
}

impl Target {
    /// Has `serve` speak on every connection until that ends.
    pub(crate) async fn new<F: Future<Output = Result<()>> + Send + 'static>(
        serve: impl Fn(TcpStream, Arc<AtomicBool>) -> F + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (healthy, served, closed) = (Arc::new(AtomicBool::new(true)), Arc::default(), Arc::default());
        let target = Self { at, healthy, served, closed };
        let Self { healthy, served, closed, .. } = &target;
        let (healthy, served, closed) = (Arc::clone(healthy), Arc::clone(served), Arc::clone(closed));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                served.fetch_add(1, Ordering::SeqCst);
                let (speech, closed) = (serve(stream, Arc::clone(&healthy)), Arc::clone(&closed));
                tokio::spawn(async move {
                    // A client may go whenever it likes.
                    let _ = speech.await;
                    closed.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        target
    }

    /// Takes connections, reads what comes, and says nothing until the client goes.
    pub(crate) async fn silent() -> Self {
        Self::new(async |mut stream: TcpStream, _| tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map(drop))
            .await
    }

    /// Says these words over and over until the client goes.
    pub(crate) async fn endless(first: &'static [u8], again: &'static [u8]) -> Self {
        Self::new(async move |mut stream: TcpStream, _| {
            stream.write_all(first).await?;
            loop {
                stream.write_all(again).await?;
            }
        })
        .await
    }
}

/// A server of HTTP/1.1 with some pages.
pub(crate) async fn http() -> Target {
    Target::new(async |stream: TcpStream, healthy| pages(stream, &healthy, "fine").await).await
}

/// One over TLS, with a certificate of its own for `name`, and that certificate.
pub(crate) async fn tls(name: &str) -> (Target, String) {
    tls_as(name, |_| {}).await
}

/// The same with another certificate.
pub(crate) async fn tls_as(name: &str, change: impl FnOnce(&mut CertificateParams)) -> (Target, String) {
    let mut wanted = CertificateParams::new([name.to_owned()]).unwrap();
    change(&mut wanted);
    let signer = KeyPair::generate().unwrap();
    let cert = wanted.self_signed(&signer).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signer.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let serve = move |stream, healthy: Arc<AtomicBool>| {
        let acceptor = acceptor.clone();
        async move { pages(acceptor.accept(stream).await?, &healthy, "safe").await }
    };
    (Target::new(serve).await, cert.pem())
}

/// Answers one request.
async fn pages(stream: impl AsyncRead + AsyncWrite + Unpin, healthy: &AtomicBool, fine: &str) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let (mut first, mut host, mut key, mut length) = (String::new(), String::new(), String::new(), 0);
    stream.read_line(&mut first).await?;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? <= 2 {
            break;
        }
        let (name, value) = line.trim().split_once(": ").unwrap_or_default();
        match name {
            "host" => host = value.into(),
            "x-key" => key = value.into(),
            "content-length" => length = value.parse().unwrap(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (page, query) = path.split_once('?').unwrap_or((path, ""));
    let body = String::from_utf8_lossy(&body);
    let (status, head, text) = match page {
        "/echo" => ("200 OK", String::new(), format!("{method} {path} host={host} x-key={key} body={body}")),
        "/status" => (query, String::new(), String::new()),
        "/moved" => ("302 Found", format!("location: {query}\r\n"), String::new()),
        "/kept" => ("307 Temporary Redirect", format!("location: {query}\r\n"), String::new()),
        "/head" if method == "HEAD" => ("204 No Content", String::new(), String::new()),
        "/head" => ("405 Method Not Allowed", String::new(), String::new()),
        "/loop" => ("302 Found", "location: /loop\r\n".into(), String::new()),
        "/health" if !healthy.load(Ordering::SeqCst) => ("500 Broken", String::new(), "sick".into()),
        _ => ("200 OK", String::new(), fine.into()),
    };
    let length = text.len();
    let answer = format!("HTTP/1.1 {status}\r\n{head}content-length: {length}\r\n\r\n{text}");
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// A server of grpc.health.v1: `sick` is not serving, `other` is unknown, all else serves.
pub(crate) async fn grpc() -> Target {
    Target::new(async |stream: TcpStream, _| {
        let served =
            http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service_fn(health));
        served.await.map_err(std::io::Error::other)
    })
    .await
}

async fn health(request: Request<Incoming>) -> std::result::Result<Response<BoxedAnswer>, Infallible> {
    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
    let asked = request.into_body().collect().await.unwrap().to_bytes();
    let name = asked.get(7..).unwrap_or_default();
    let status = match name {
        b"sick" => Some(2),
        b"other" => None,
        _ => Some(1),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", if status.is_some() { "0" } else { "5" }.parse().unwrap());
    trailers.insert("grpc-message", "no service of that name".parse().unwrap());
    let message = status.map(|status| Frame::data(Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status])));
    let frames = message.into_iter().chain([Frame::trailers(trailers)]).map(Ok);
    let body = StreamBody::new(futures_util::stream::iter(frames.collect::<Vec<_>>()));
    Ok(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
}

type BoxedAnswer =
    StreamBody<futures_util::stream::Iter<std::vec::IntoIter<std::result::Result<Frame<Bytes>, Infallible>>>>;

/// A socket that sends back what it gets.
pub(crate) async fn udp() -> SocketAddr {
    answering(|question| Some(question.to_vec())).await
}

/// A DNS server that knows `web.example`.
pub(crate) async fn resolver() -> SocketAddr {
    answering(|question| {
        let mut reply = Message::from_vec(question).ok()?;
        reply.metadata.message_type = MessageType::Response;
        let name = reply.queries.first()?.name().clone();
        if !reply.metadata.recursion_desired {
            reply.metadata.response_code = ResponseCode::Refused;
        } else if name.to_string() == "web.example." {
            reply.add_answer(Record::from_rdata(name, 1, RData::A(A::new(10, 0, 0, 1))));
        } else {
            reply.metadata.response_code = ResponseCode::NXDomain;
        }
        reply.to_vec().ok()
    })
    .await
}

/// A socket that answers each datagram.
async fn answering(answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            if let Some(reply) = answer(&buffer[..length]) {
                let _ = socket.send_to(&reply, from).await;
            }
        }
    });
    at
}

/// Where nobody listens.
pub(crate) fn nowhere() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
