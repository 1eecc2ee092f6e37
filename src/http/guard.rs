//! Keeps web pages in the operator's browser away from the API: Host against DNS rebinding, Origin against forged writes.
//!
//! There is no CORS and no cookie; a page can only try to be taken for the API's own (rebinding: its name resolves to
//! loopback, so the Host header gives it away) or to send a blind write (its Origin gives it away).

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, Method, Request, StatusCode, Uri, Version, header};

use super::problem::Problem;
use crate::model::Host;

/// The way a connection came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// TCP.
    Tcp {
        /// Who has called.
        client: IpAddr,
        /// The address of ours that it has called.
        ours: IpAddr,
    },
    /// The unix socket, which no browser reaches: any Host will do.
    Unix,
}

impl Via {
    /// Whose request it is; nobody's in particular on the unix socket.
    pub(crate) fn client(self) -> Option<IpAddr> {
        match self {
            Self::Tcp { client, .. } => Some(client.to_canonical()),
            Self::Unix => None,
        }
    }

    /// Whether a program of this host asks: on loopback, or from the address that it calls.
    pub(crate) fn is_of_this_host(self) -> bool {
        match self {
            Self::Tcp { ours, .. } => self.client().is_some_and(|it| it.is_loopback() || it == ours.to_canonical()),
            Self::Unix => true,
        }
    }
}

/// Lets a request pass, or says why not. `hosts` are the names allowed besides our own.
pub(crate) fn check<B>(via: Via, hosts: &[Host], request: &Request<B>) -> Result<(), Problem> {
    check_target(request.method(), request.uri())?;
    let host = host(request)?;
    if let (Via::Tcp { ours, .. }, Some(host)) = (via, host)
        && ours.to_canonical().is_loopback()
        && !is_allowed(host, ours, hosts)
    {
        let why = format!(
            "the Host header says {host:?}, which is not this node's: a web page may be behind this; \
             if it is a name of yours, add it to http.hosts"
        );
        return Err(Problem::new(StatusCode::FORBIDDEN, why));
    }
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    // Pages cannot set this header; a browser says by it where a request comes from (the Fetch Metadata draft).
    let fetched_from = one(request.headers(), &HeaderName::from_static("sec-fetch-site"))?;
    if !is_read && matches!(fetched_from, Some("cross-site" | "same-site")) {
        return Err(Problem::new(StatusCode::FORBIDDEN, "writes are not taken from web pages of another site"));
    }
    match one(request.headers(), &header::ORIGIN)? {
        Some(origin) if !is_read && !is_same(origin, host) => {
            let why = format!("writes are not taken from web pages of another origin ({origin:?})");
            Err(Problem::new(StatusCode::FORBIDDEN, why))
        }
        // Where a page says that it is ours, its name has to be: whoever makes names can let one of his lead here.
        Some(origin)
            if let Via::Tcp { ours, .. } = via
                && !is_read
                && !host.is_some_and(|it| is_allowed(it, ours, hosts)) =>
        {
            let why = format!(
                "writes are not taken from web pages of {origin:?}, which is no name of this node; \
                 if it is one of yours, add it to http.hosts"
            );
            Err(Problem::new(StatusCode::FORBIDDEN, why))
        }
        _ => Ok(()),
    }
}

/// What is asked for is a path, or the server as a whole (RFC 9112 section 3.2): the others are for proxies. A path that
/// cannot be decoded means nothing, and would be taken for a name that looks like it.
fn check_target(method: &Method, target: &Uri) -> Result<(), Problem> {
    let path = target.path();
    if !path.starts_with('/') && (method != Method::OPTIONS || path != "*") {
        let why = "the target of the request is not a path, which begins with /: this is no proxy";
        return Err(Problem::new(StatusCode::BAD_REQUEST, why));
    }
    let mut escapes = path.split('%').skip(1).map(str::as_bytes);
    if !escapes.all(|rest| matches!(rest, [high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit())) {
        let why = "the path has a % without two hexadecimal digits behind it; a % itself is %25";
        return Err(Problem::new(StatusCode::BAD_REQUEST, why));
    }
    Ok(())
}

/// Whom the request is meant for: the target's authority before the Host header (RFC 9112 section 3.2.2).
fn host<B>(request: &Request<B>) -> Result<Option<&str>, Problem> {
    let header = one(request.headers(), &header::HOST)?;
    if header.is_none() && request.version() == Version::HTTP_11 {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "there is no Host header (RFC 9112 section 3.2)"));
    }
    Ok(request.uri().authority().map(axum::http::uri::Authority::as_str).or(header))
}

/// The only value of a header that may stand once.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let wrong = || Problem::new(StatusCode::BAD_REQUEST, format!("the {name} header is not one line of text"));
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| wrong()),
        (Some(_), Some(_)) => Err(wrong()),
    }
}

fn is_allowed(host: &str, ours: IpAddr, hosts: &[Host]) -> bool {
    let name = without_port(host);
    let Ok(address) = name.parse::<IpAddr>().map(|address| address.to_canonical()) else {
        let is_known = |known: &Host| matches!(known, Host::Name(known) if name.eq_ignore_ascii_case(known));
        return name.eq_ignore_ascii_case("localhost") || hosts.iter().any(is_known);
    };
    address.is_loopback() || address == ours.to_canonical() || hosts.contains(&Host::Address(address))
}

/// `host`, `host:port` or `[v6]:port` without the port and the brackets; anything else as it is.
fn without_port(host: &str) -> &str {
    let (name, port) = match host.strip_prefix('[') {
        Some(v6) => v6.split_once(']').unwrap_or_default(),
        None => host.split_at(host.rfind(':').unwrap_or(host.len())),
    };
    let is_port =
        port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    if is_port { name.strip_suffix('.').unwrap_or(name) } else { host }
}

/// Whether the page came from here; the scheme may differ behind a proxy that speaks TLS.
fn is_same(origin: &str, host: Option<&str>) -> bool {
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    matches!((authority, host), (Some(origin), Some(host)) if origin.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: Via = at(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

    const fn at(ours: IpAddr) -> Via {
        Via::Tcp { client: ours, ours }
    }

    fn status(via: Via, method: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::builder().method(method).uri("/api/v1/status");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let allowed = ["ui.example", "192.0.2.1"].map(|host| host.try_into().unwrap());
        match check(via, &allowed, &request.body(()).unwrap()) {
            Ok(()) => 200,
            Err(problem) => axum::response::IntoResponse::into_response(problem).status().as_u16(),
        }
    }

    #[test]
    fn a_rebound_name_is_refused_on_loopback() {
        for good in [
            "localhost",
            "LOCALHOST:8500",
            "127.0.0.1:8500",
            "[::1]:8500",
            "127.9.9.9",
            "192.0.2.1:80",
            "ui.example",
            "ui.example.:80",
        ] {
            assert_eq!(status(LOOPBACK, "GET", &[("host", good)]), 200, "{good}");
        }
        for bad in [
            "evil.example",
            "evil.example:8500",
            "localhost.evil.example",
            "localhost:1@evil.example",
            "[::1]evil.example",
            "10.0.0.1",
            "",
            ":8500",
            "[",
            "[]:80",
        ] {
            assert_eq!(status(LOOPBACK, "GET", &[("host", bad)]), 403, "{bad}");
        }
        assert_eq!(status(LOOPBACK, "GET", &[]), 400);
        assert_eq!(status(LOOPBACK, "GET", &[("host", "localhost"), ("host", "evil.example")]), 400);
    }

    #[test]
    fn a_target_is_a_path_that_can_be_decoded() {
        for (method, target, is_one) in [
            ("GET", "/v1/kv/a%2fb%25?%", true),
            ("GET", "http://localhost", true),
            ("OPTIONS", "*", true),
            ("GET", "*", false),
            ("PRI", "*", false),
            ("CONNECT", "localhost:80", false),
            ("GET", "localhost", false),
            ("GET", "/v1/kv/%", false),
            ("GET", "/v1/kv/a%2", false),
            ("GET", "/v1/kv/%zz", false),
        ] {
            let checked = check_target(&method.parse().unwrap(), &target.parse().unwrap());
            assert_eq!(checked.is_ok(), is_one, "{method} {target}");
        }
    }

    #[test]
    fn elsewhere_any_host_will_do() {
        assert_eq!(status(Via::Unix, "GET", &[("host", "evil.example")]), 200);
        let elsewhere = at([10, 0, 0, 1].into());
        assert_eq!(status(elsewhere, "GET", &[("host", "web-1.example")]), 200);
        assert_eq!(status(elsewhere, "PUT", &[("host", "web-1.example")]), 200, "a program's");
        for (host, answer) in [("evil.example:8500", 403), ("10.0.0.1:8500", 200), ("ui.example", 200)] {
            let origin = format!("http://{host}");
            assert_eq!(status(elsewhere, "POST", &[("host", host), ("origin", &origin)]), answer, "{host}");
        }
    }

    #[test]
    fn a_page_of_another_origin_may_not_write() {
        let host = ("host", "localhost:8500");
        for origin in ["http://evil.example", "null", "", "http://localhost:80", "localhost:8500"] {
            assert_eq!(status(LOOPBACK, "PUT", &[host, ("origin", origin)]), 403, "{origin}");
            assert_eq!(status(Via::Unix, "DELETE", &[host, ("origin", origin)]), 403, "{origin}");
        }
        assert_eq!(status(LOOPBACK, "PUT", &[host, ("origin", "http://localhost:8500")]), 200);
        assert_eq!(status(LOOPBACK, "GET", &[host, ("origin", "http://evil.example")]), 200);
        assert_eq!(status(LOOPBACK, "PUT", &[host]), 200);
        for (site, answer) in [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)] {
            assert_eq!(status(LOOPBACK, "PUT", &[host, ("sec-fetch-site", site)]), answer, "{site}");
        }
    }
}
