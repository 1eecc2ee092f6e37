//! Request bodies: JSON of at most 1 MiB, whatever the content type says. Errors name the field, or the line and column.

use std::{error::Error, time::Duration};

use axum::{
    body::{Body, HttpBody as _},
    extract::{FromRequest, Request},
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{budget::Spent, problem::Problem};
use crate::model::with_hint;

/// A request's body, parsed.
#[derive(Debug)]
pub(crate) struct Parsed<T>(pub(crate) T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Parsed<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        of_json(request.headers())?;
        let bytes = collect(request.into_body()).await?;
        parse(&bytes).map(Self)
    }
}

/// Refuses what is plainly no JSON. What programs say without meaning it (curl sends a form unless told otherwise) is
/// read as JSON all the same.
fn of_json(headers: &HeaderMap) -> Result<(), Problem> {
    let wrong =
        |header: &str, why: String| Err(Problem::field(header, &why).status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or("?"));
    if let Some(coding) = text(header::CONTENT_ENCODING).filter(|coding| !coding.eq_ignore_ascii_case("identity")) {
        return wrong("content-encoding", format!("is {coding:?}; send the body as it is"));
    }
    let Some(given) = text(header::CONTENT_TYPE) else { return Ok(()) };
    let kind = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kind.is_empty() || kind.ends_with("/json") || kind.ends_with("+json") || VAGUE.contains(&&*kind) {
        return Ok(());
    }
    wrong("content-type", format!("is {given:?}; send application/json"))
}

/// A body, within limits of size and time. One that announces more is refused by its word: at once where that is more than
/// would be read, and else when it was, or does not come.
pub(crate) async fn collect(body: Body) -> Result<Bytes, Problem> {
    let announced = body.size_hint().lower();
    if announced > LIMIT as u64 {
        if announced <= PATIENCE as u64 {
            // It is in vain whether or not it came.
            let _ = timeout(LAST_WORD, read(body)).await;
        }
        return Err(too_large());
    }
    let slow = |_| Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time; nothing was changed");
    timeout(DEADLINE, read(body)).await.map_err(slow)?
}

/// Reads a body up to the limit. What comes beyond is read and forgotten for a while: a connection closed over unread
/// bytes is reset, and the client would never see the answer that says why (RFC 9112 section 9.6).
async fn read(mut body: Body) -> Result<Bytes, Problem> {
    let mut kept = BytesMut::new();
    let mut seen = 0_usize;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        seen = seen.saturating_add(data.len());
        if seen <= LIMIT {
            kept.extend_from_slice(&data);
        } else if seen > PATIENCE {
            break;
        }
    }
    if seen > LIMIT { Err(too_large()) } else { Ok(kept.freeze()) }
}

fn too_large() -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 1 MiB; nothing was changed")
}

fn broken(why: axum::Error) -> Problem {
    let mut causes = std::iter::successors(Some(&why as &(dyn Error + 'static)), |cause| (*cause).source());
    match causes.find_map(|cause| cause.downcast_ref::<Spent>()) {
        Some(spent) => (*spent).into(),
        None => Problem::field("body", &format!("broke off: {why}")),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let why = match serde_json::from_slice(bytes) {
        // serde takes an array for a struct too, field by field in order: nobody means that.
        Ok(_) if !bytes.trim_ascii_start().starts_with(b"{") => return Err(Problem::field("body", "is not an object")),
        Ok(parsed) => return Ok(parsed),
        Err(why) => why,
    };
    if !why.is_data() {
        return Err(Problem::field("body", &format!("is not JSON: {why}")));
    }
    // Only a body that is wrong is parsed again to learn where.
    let mut again = serde_json::Deserializer::from_slice(bytes);
    let path = serde_path_to_error::deserialize::<_, T>(&mut again).err().map(|wrong| wrong.path().to_string());
    Err(Problem::field(
        blamed(path.as_deref().unwrap_or("."), &why.to_string()),
        &format!("is wrong: {}", with_hint(&why.to_string())),
    ))
}

/// The field to blame. Where one is missing or stands twice, serde blames the object around it and names it in the text.
fn blamed(path: &str, why: &str) -> String {
    let named = ["missing field `", "duplicate field `"].iter().find_map(|start| why.strip_prefix(start));
    match (path, named.and_then(|rest| rest.split('`').next())) {
        (".", None) => "body".into(),
        (".", Some(name)) => name.into(),
        (path, None) => path.into(),
        (path, Some(name)) => format!("{path}.{name}"),
    }
}

/// What clients send when nobody has told them what they send.
const VAGUE: [&str; 3] = ["application/x-www-form-urlencoded", "application/octet-stream", "text/plain"];
/// The most bytes of a body: far above the largest registration that the limits of `model` allow.
const LIMIT: usize = 1 << 20;
/// How much of a body that is too large is read before the connection is given up.
const PATIENCE: usize = 8 << 20;
/// How long a body may take to arrive: a megabyte over a slow line, not a connection held open for ever.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long the rest of a body that says itself that it is too large may take to arrive.
const LAST_WORD: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RegistrationDraft;
    use axum::body::HttpBody;
    use hyper::body::{Frame, SizeHint};
    use std::{
        convert::Infallible,
        pin::Pin,
        task::{Context, Poll},
    };
    use tokio::time::Instant;

    fn wrong(body: &str) -> String {
        format!("{:?}", parse::<RegistrationDraft>(body.as_bytes()).unwrap_err())
    }

    #[test]
    fn a_wrong_body_names_its_field() {
        for (body, field) in [
            (r#"{"name": "web", "port": "http"}"#, "port"),
            (r#"{"name": "web", "ports": {"http": []}}"#, "ports.http"),
            (r#"{"name": "web", "tags": ["a", 1]}"#, "tags[1]"),
            (r#"{"name": "web", "colour": 1}"#, "colour"),
            (r#"{"name": "web", "checks": [{"tll": "1s"}]}"#, "checks[0].tll"),
            (r#"{"name": "web", "name": "web"}"#, "name"),
            (r#"{"checks": [{"ttl": "1s", "ttl": "1s"}]}"#, "checks[0].ttl"),
            ("[]", "body"),
            ("7", "body"),
            ("", "body"),
            ("{", "body"),
        ] {
            let problem = wrong(body);
            assert!(problem.contains(&format!("field: Some({field:?})")), "{body}: {problem}");
        }
    }

    #[test]
    fn what_is_plainly_no_json_is_refused() {
        let status = |name: header::HeaderName, value: &str| {
            let headers = HeaderMap::from_iter([(name, value.parse().unwrap())]);
            of_json(&headers).err().map(|problem| format!("{problem:?}").contains("415"))
        };
        for good in ["application/json", "Application/JSON; charset=utf-8", "application/ld+json", "text/plain", ""] {
            assert_eq!(status(header::CONTENT_TYPE, good), None, "{good}");
        }
        for bad in ["application/xml", "multipart/form-data; boundary=x", "text/html", "json"] {
            assert_eq!(status(header::CONTENT_TYPE, bad), Some(true), "{bad}");
        }
        assert_eq!(status(header::CONTENT_ENCODING, "gzip"), Some(true));
        assert_eq!(status(header::CONTENT_ENCODING, "identity"), None);
    }

    #[test]
    fn a_syntax_error_says_where() {
        assert!(wrong("{\n  \"name\": web}").contains("line 2 column 11"));
        assert!(wrong(r#"{"name": "web"} x"#).contains("line 1 column 17"));
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused() {
        assert_eq!(read(Body::from(vec![b' '; LIMIT])).await.unwrap().len(), LIMIT);
        let problem = read(Body::from(vec![b' '; LIMIT + 1])).await.unwrap_err();
        assert!(format!("{problem:?}").contains("413"));
    }

    /// A body that announces so much, and of which nothing comes.
    struct Announced(usize);

    impl HttpBody for Announced {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.0 as u64)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_announces_too_much_is_hardly_waited_for() {
        for (announced, waits, status) in
            [(LIMIT, DEADLINE, 408), (LIMIT + 1, LAST_WORD, 413), (PATIENCE + 1, Duration::ZERO, 413)]
        {
            let begun = Instant::now();
            let problem = collect(Body::new(Announced(announced))).await.unwrap_err();
            assert_eq!((problem.kind().as_u16(), begun.elapsed().as_secs()), (status, waits.as_secs()), "{announced}");
        }
    }
}
