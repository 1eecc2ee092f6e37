//! Compresses answers for who asks for it (RFC 9110 section 12.5.3): whole, since they are in memory whole, so that the
//! larger form is gone before the first byte is sent. Streams of events are left alone.

use std::io::{self, Write};

use axum::{
    body::{Body, HttpBody},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use flate2::{Compression, write::GzEncoder};
use http_body_util::BodyExt;

/// How an answer may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Identity,
    Gzip,
}

impl Coding {
    /// What a request takes.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let lines = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|line| line.to_str().ok());
        // What is said of gzip itself counts more than what is said of all.
        let (mut named, mut any) = (None, false);
        for coding in lines.flat_map(|line| line.split(',')) {
            let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
            let weight = weight.trim().trim_start_matches(['q', 'Q']).trim_start_matches('=');
            let takes = weight.is_empty() || weight.parse().is_ok_and(|q: f32| q > 0.0);
            match name.trim() {
                "*" => any = takes,
                name if name.eq_ignore_ascii_case("gzip") => named = Some(takes),
                _ => {}
            }
        }
        if named.unwrap_or(any) { Self::Gzip } else { Self::Identity }
    }

    /// Whether a body that is sent again and again is worth keeping in this coding.
    pub(super) fn keeps(self, body: &[u8]) -> bool {
        self == Self::Gzip && body.len() as u64 >= WORTH_IT
    }

    /// The answer in this coding, if that is worth it. A short one says as well that it depends on what was asked for: a
    /// cache that keeps it is asked again when it has grown.
    pub(super) async fn encode(self, mut response: Response) -> Response {
        let length = response.body().size_hint().exact();
        if response.status() != StatusCode::OK || response.headers().contains_key(header::CONTENT_ENCODING) {
            return response;
        }
        let Some(length) = length else { return response };
        response.headers_mut().append(header::VARY, HeaderValue::from_static("accept-encoding"));
        if self == Self::Identity || length < WORTH_IT {
            return response;
        }
        let (mut parts, body) = response.into_parts();
        // A body of known length is in memory already, and does not fail.
        let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let body = match gzip(&bytes) {
            Ok(small) => {
                parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                parts.headers.remove(header::CONTENT_LENGTH);
                Body::from(small)
            }
            Err(_) => Body::from(bytes),
        };
        Response::from_parts(parts, body)
    }
}

/// Compresses what is in memory whole.
pub(super) fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// About what fits one packet: below that nothing is gained.
const WORTH_IT: u64 = 1400;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn gzip_is_for_who_asks() {
        for (line, coding) in [
            ("gzip", Coding::Gzip),
            ("deflate, gzip;q=0.5, br", Coding::Gzip),
            ("*", Coding::Gzip),
            ("GZIP", Coding::Gzip),
            ("gzip;q=0, *;q=1", Coding::Identity),
            ("identity, *;q=0", Coding::Identity),
            ("", Coding::Identity),
            ("identity", Coding::Identity),
            ("gzip;q=0", Coding::Identity),
            ("gzip; q=0.000, deflate", Coding::Identity),
            ("gzip;q=x", Coding::Identity),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, line.parse().unwrap())]);
            assert_eq!(Coding::of(&headers), coding, "{line}");
        }
    }

    #[tokio::test]
    async fn a_long_answer_shrinks_and_reads_back() {
        let text = "all work and no play ".repeat(500);
        let response = Coding::Gzip.encode(Response::new(Body::from(text.clone()))).await;
        assert_eq!(
            (&response.headers()["content-encoding"], &response.headers()["vary"]),
            (&"gzip".parse().unwrap(), &"accept-encoding".parse().unwrap())
        );
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let mut back = String::new();
        flate2::read::GzDecoder::new(&*bytes).read_to_string(&mut back).unwrap();
        assert!(bytes.len() * 10 < text.len() && back == text);
    }

    #[tokio::test]
    async fn a_short_answer_a_stream_and_an_encoded_one_stay_as_they_are() {
        let short = Coding::Gzip.encode(Response::new(Body::from("short"))).await;
        assert!(short.headers().contains_key("vary") && !short.headers().contains_key("content-encoding"));
        let stream =
            Response::new(Body::from_stream(futures_util::stream::pending::<Result<bytes::Bytes, io::Error>>()));
        let mut encoded = Response::new(Body::from(vec![0; 5000]));
        encoded.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("br"));
        for response in [stream, encoded] {
            let before = response.headers().clone();
            assert_eq!(*Coding::Gzip.encode(response).await.headers(), before);
        }
    }
}
