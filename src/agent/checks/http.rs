//! The check `http`: one request over HTTP/1.1 on a connection of its own (RFC 9112), so that a server that takes no new
//! ones is found out. Redirects are followed only as often as the check says, each past the policy like the first.

use std::{collections::BTreeMap, fmt::Write};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{ACCEPT, HOST, HeaderName, HeaderValue, LOCATION, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};

use super::{
    Failed, Finding, Home, MAX_ANSWER, causes,
    dial::{Dial, Place, Stream},
    text,
};
use crate::model::{Host, HttpCheck, Target, Url};

pub(super) async fn run(check: &HttpCheck, home: &Home, dial: &Dial, until: Instant) -> Result<Finding, Failed> {
    follow(check, home, dial, until).await.map(|answer| judge(check, &answer))
}

/// Asks, and asks again where it is sent to.
async fn follow(check: &HttpCheck, home: &Home, dial: &Dial, until: Instant) -> Result<Answer, Failed> {
    let first = Place::of(&check.url.target, home, None)?;
    let (mut url, mut place, mut repeats, none) = (check.url.clone(), first.clone(), true, BTreeMap::new());
    let mut hops = 0..check.redirects;
    loop {
        let mut options = check.tls.clone().unwrap_or_default();
        if place.host != first.host {
            // A certificate to show, and the name that the first server must prove, are no affair of another.
            (options.cert, options.key, options.server_name) = (None, None, None);
        }
        let stream = dial.stream(&place, url.tls.then_some(&options), &[b"http/1.1"]).await?;
        // Nobody can tell which headers hold credentials: they are for the first server alone, and so is its name.
        let headers = if url.tls == check.url.tls && place == first { &check.headers } else { &none };
        let (method, body) = if repeats { (&*check.method, check.body.clone()) } else { ("GET", None) };
        let answer = exchange(stream, request(&url, &place, method, body, headers)?, until).await?;
        match &answer.location {
            Some(location) if hops.next().is_some() => {
                repeats &= is_repeated(&check.method, answer.status);
                url = next(&url, &place, location)?;
                place = Place::of(&url.target, home, None)?;
            }
            _ => return Ok(answer),
        }
    }
}

fn request(
    url: &Url,
    place: &Place,
    method: &str,
    body: Option<String>,
    headers: &BTreeMap<String, String>,
) -> Result<Request<Full<Bytes>>, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("the request cannot be made: {why}");
    let body = Full::from(body.unwrap_or_default());
    let mut request = Request::builder().method(method).uri(&url.path).body(body).map_err(|why| wrong(&why))?;
    let found = request.headers_mut();
    let default_port = if url.tls { 443 } else { 80 };
    let host = match &place.host {
        Host::Name(name) if place.port == default_port => name.to_string(),
        _ => place.to_string(),
    };
    found.insert(HOST, HeaderValue::try_from(host).map_err(|why| wrong(&why))?);
    found.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    found.insert(ACCEPT, HeaderValue::from_static("*/*"));
    for (name, value) in headers {
        let name = HeaderName::try_from(name).map_err(|why| wrong(&why))?;
        found.insert(name, HeaderValue::try_from(value).map_err(|why| wrong(&why))?);
    }
    Ok(request)
}

/// Whether a redirect means the same question, body and all, rather than a mere GET (RFC 9110 section 15.4).
fn is_repeated(method: &str, status: StatusCode) -> bool {
    match status.as_u16() {
        307 | 308 => true,
        303 => method == "HEAD",
        _ => method != "POST",
    }
}

struct Answer {
    status: StatusCode,
    location: Option<String>,
    body: Bytes,
    /// Whether there was no end of it.
    hangs: bool,
}

async fn exchange(stream: Box<dyn Stream>, request: Request<Full<Bytes>>, until: Instant) -> Result<Answer, String> {
    let broken = |why: hyper::Error| format!("no HTTP answer: {}", causes(&why));
    let mut builder = http1::Builder::new();
    let handshake = builder.max_buf_size(MAX_ANSWER).handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(broken)?;
    let asked = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let (status, location) = (response.status(), redirect(&response));
        let (body, hangs) = read(response.into_body(), until).await;
        Ok(Answer { status, location, body, hangs })
    };
    tokio::pin!(asked);
    tokio::select! {
        answer = &mut asked => answer,
        // What the connection brought to its end is still to be read.
        _ = connection => asked.await,
    }
}

fn redirect(response: &Response<Incoming>) -> Option<String> {
    let moved = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response.headers().get(LOCATION).filter(|_| moved)?;
    location.to_str().ok().map(String::from)
}

/// Reads as much as is looked at; whether it has to leave off before. What breaks off was an answer all the same: its
/// status counts.
async fn read(mut body: Incoming, until: Instant) -> (Bytes, bool) {
    let mut read = Vec::new();
    while read.len() < MAX_ANSWER {
        match timeout_at(until, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                let data = frame.into_data().unwrap_or_default();
                read.extend_from_slice(&data[..data.len().min(MAX_ANSWER - read.len())]);
            }
            Ok(_) => break,
            Err(_) => return (read.into(), true),
        }
    }
    (read.into(), false)
}

/// Where a redirect leads (RFC 3986 section 5.2.2).
fn next(from: &Url, place: &Place, location: &str) -> Result<Url, String> {
    let location = location.split('#').next().unwrap_or_default();
    let parsed = if let Some(rest) = location.strip_prefix("//") {
        Url::parse(&format!("{}://{rest}", if from.tls { "https" } else { "http" }))
    } else if Url::scheme(location).is_some() {
        Url::parse(location)
    } else {
        let page = from.path.split('?').next().unwrap_or_default();
        let folder = page.rsplit_once('/').map_or("", |(folder, _)| folder);
        let path = match location.bytes().next() {
            None => from.path.clone(),
            Some(b'?') => format!("{page}{location}"),
            Some(b'/') => location.to_owned(),
            Some(_) => format!("{folder}/{location}"),
        };
        let here = || Target { host: Some(place.host.clone()), port: std::num::NonZeroU16::new(place.port) };
        Url::parse(&without_dots(&path)).map(|url| Url { tls: from.tls, target: here(), ..url })
    };
    parsed.map_err(|why| format!("was redirected to where nobody can go: {why}"))
}

/// A path without `.` and `..` (RFC 3986 section 5.2.4).
fn without_dots(path: &str) -> String {
    let (page, query) = path.find('?').map_or((path, ""), |at| path.split_at(at));
    let mut kept = Vec::new();
    let mut parts = page.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        match part {
            "." => {}
            ".." => drop(kept.pop()),
            part => kept.push(part),
        }
        if parts.peek().is_none() && [".", ".."].contains(&part) {
            kept.push("");
        }
    }
    format!("/{}{query}", kept.join("/"))
}

fn judge(check: &HttpCheck, Answer { status, location, body, hangs }: &Answer) -> Finding {
    let mut output = format!("HTTP {status}{}", if *hangs { ", and no end of its body in time" } else { "" });
    let said = text(body);
    if !said.is_empty() {
        // Writing to a text cannot fail.
        let _ = write!(output, ": {said}");
    }
    let code = status.as_u16();
    if *hangs {
        return Finding::critical(output);
    }
    if !check.status.admit(code) {
        return match code {
            429 => Finding::warning(output),
            300..=399 if check.redirects == 0 => {
                Finding::critical(format!("{output} (a redirect, and the check follows none: set `redirects`)"))
            }
            _ if location.is_some() => {
                Finding::critical(format!("was redirected more than {} times; {output}", check.redirects))
            }
            _ => Finding::critical(output),
        };
    }
    match &check.contains {
        Some(expected) if !String::from_utf8_lossy(body).contains(&**expected) => {
            Finding::critical(format!("{expected:?} is not in the first 64 KiB of the answer; {output}"))
        }
        _ => Finding::passing(output),
    }
}

const AGENT: &str = concat!("hobnob/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_leads_where_its_location_says() {
        let place = Place { host: "a.example".try_into().unwrap(), port: 80 };
        let from = Url::parse("http://a.example/b/c?d=/e").unwrap();
        for (location, to) in [
            ("", "http://a.example:80/b/c?d=/e"),
            ("#top", "http://a.example:80/b/c?d=/e"),
            ("?x=1", "http://a.example:80/b/c?x=1"),
            ("f?x=1", "http://a.example:80/b/f?x=1"),
            ("../../g/./h/..?u=../v", "http://a.example:80/g/?u=../v"),
            ("/../f", "http://a.example:80/f"),
            ("/f?u=http://y/", "http://a.example:80/f?u=http://y/"),
            ("f?u=http://y/", "http://a.example:80/b/f?u=http://y/"),
            ("//g:81/f", "http://g:81/f"),
            ("HTTPS://g", "https://g:443/"),
        ] {
            assert_eq!(next(&from, &place, location).map(|url| url.to_string()).as_deref(), Ok(to), "{location}");
        }
        for nowhere in ["ftp://g/", "mailto:g", "http:f"] {
            assert!(next(&from, &place, nowhere).is_err(), "{nowhere}");
        }
    }
}
