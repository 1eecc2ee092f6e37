//! The check `grpc`: one question of grpc.health.v1 over HTTP/2. Two messages of two fields are read and written by
//! hand: the protocol's own document gives their layout.

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Request,
    client::conn::http2,
    header::{CONTENT_TYPE, HeaderValue, TE},
    rt::Executor,
};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Failed, Finding, Home, MAX_ANSWER, causes,
    dial::{Dial, Place},
};
use crate::model::GrpcCheck;

pub(super) async fn run(check: &GrpcCheck, home: &Home, dial: &Dial) -> Result<Finding, Failed> {
    Ok(match ask(check, home, dial).await? {
        1 => Finding::passing("SERVING"),
        2 => Finding::critical("NOT_SERVING"),
        3 => Finding::critical(format!("SERVICE_UNKNOWN: it knows no service {:?}", check.service)),
        other => Finding::critical(format!("serving status {other}")),
    })
}

/// The serving status.
async fn ask(check: &GrpcCheck, home: &Home, dial: &Dial) -> Result<u64, Failed> {
    let broken = |why: hyper::Error| format!("no gRPC answer: {}", causes(&why));
    let place = Place::of(&check.target, home, None)?;
    let stream = dial.stream(&place, check.tls.as_ref(), &[b"h2"]).await?;
    let (tasks, _ended_with_this) = Tasks::new();
    let (mut sender, connection) = http2::handshake(tasks, TokioIo::new(stream)).await.map_err(broken)?;
    let asked = async {
        let response = sender.send_request(request(check, &place)?).await.map_err(broken)?;
        if response.status() != 200 {
            return Err(format!("HTTP {} is no gRPC answer", response.status()));
        }
        refusal(response.headers())?;
        let mut body = response.into_body();
        let mut message = Vec::new();
        while let Some(frame) = body.frame().await {
            match frame.map_err(broken)?.into_data() {
                Ok(data) if message.len() + data.len() > MAX_ANSWER => return Err("the answer is over 64 KiB".into()),
                Ok(data) => message.extend_from_slice(&data),
                Err(trailers) => refusal(trailers.trailers_ref().unwrap_or(&HeaderMap::new()))?,
            }
        }
        status(&message).ok_or_else(|| "the answer is no grpc.health.v1.HealthCheckResponse".into())
    };
    tokio::pin!(asked);
    let answer: Result<_, String> = tokio::select! {
        answer = &mut asked => answer,
        // What the connection brought to its end is still to be read; and only it knows why it ended.
        ended = connection => asked.await.map_err(|why| ended.err().map_or(why, broken)),
    };
    Ok(answer?)
}

/// The tasks of one connection, which end with its run: a server that neither reads nor closes would hold them, and its
/// socket, for ever.
#[derive(Clone)]
struct Tasks(mpsc::UnboundedSender<AbortOnDropHandle<()>>);

impl Tasks {
    /// With what they live as long as.
    fn new() -> (Self, mpsc::UnboundedReceiver<AbortOnDropHandle<()>>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        // Where the run is over it ends at once.
        let _ = self.0.send(AbortOnDropHandle::new(tokio::spawn(task)));
    }
}

/// `HealthCheckRequest { string service = 1; }` behind the five bytes of a gRPC message: not compressed, and its length.
fn request(check: &GrpcCheck, place: &Place) -> Result<Request<Full<Bytes>>, String> {
    let name = check.service.as_bytes();
    let mut field = BytesMut::new();
    if !name.is_empty() {
        field.put_u8(0x0a);
        put_varint(&mut field, name.len() as u64);
        field.put_slice(name);
    }
    let mut message = BytesMut::new();
    message.put_u8(0);
    // A service's name has at most 64 KiB.
    message.put_u32(u32::try_from(field.len()).unwrap_or_default());
    message.extend_from_slice(&field);
    let scheme = if check.tls.is_some() { "https" } else { "http" };
    Request::post(format!("{scheme}://{place}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
        .header(TE, HeaderValue::from_static("trailers"))
        .body(Full::new(message.freeze()))
        .map_err(|why| format!("the request cannot be made: {why}"))
}

/// What gRPC has against the request: `grpc-status` is 0 where it has nothing.
fn refusal(headers: &HeaderMap) -> Result<(), String> {
    let code = headers.get("grpc-status").and_then(|code| code.to_str().ok());
    let Some(code) = code.filter(|code| *code != "0") else { return Ok(()) };
    let message = headers.get("grpc-message").and_then(|message| message.to_str().ok()).unwrap_or_default();
    Err(match code {
        "5" => format!("SERVICE_UNKNOWN: {message}"),
        "12" => format!("the server does not speak grpc.health.v1: {message}"),
        code => format!("gRPC status {code}: {message}"),
    })
}

/// `HealthCheckResponse { ServingStatus status = 1; }`; a field that is not there is 0.
fn status(message: &[u8]) -> Option<u64> {
    let (head, mut rest) = message.split_at_checked(5)?;
    if head[0] != 0 || u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize != rest.len() {
        return None;
    }
    let mut status = 0;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        match tag & 7 {
            0 if tag >> 3 == 1 => status = varint(&mut rest)?,
            0 => drop(varint(&mut rest)?),
            1 => rest = rest.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            5 => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn put_varint(to: &mut BytesMut, mut number: u64) {
    while number > 0x7f {
        to.put_u8((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    to.put_u8(number as u8);
}

fn varint(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_as_protobuf_says() {
        for (bytes, expected) in [
            (&[0, 0, 0, 0, 2, 8, 1][..], Some(1)),
            (&[0, 0, 0, 0, 0], Some(0)),
            (&[0, 0, 0, 0, 6, 0x12, 2, 9, 9, 8, 2], Some(2)),
            (&[0, 0, 0, 0, 2, 8], None),
            (&[1, 0, 0, 0, 2, 8, 1], None),
            (&[0, 0, 0, 0, 3, 0x12, 0xff, 1], None),
            (&[0, 0], None),
        ] {
            assert_eq!(status(bytes), expected, "{bytes:?}");
        }
        assert_eq!(status(&[&[0, 0, 0, 0, 11][..], &[0xff; 11]].concat()), None);
    }
}
