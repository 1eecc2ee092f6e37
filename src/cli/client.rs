//! Talks HTTP/1.1 to an agent: a connection for each call, over TCP or a unix socket.

use std::{
    env, fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::{
    failure::{Code, Failure},
    tls::{self, Papers},
};
use crate::agent::trust;

/// Which agent to talk to; the flags of every command that does.
#[derive(Clone, Debug, Args)]
pub(super) struct Target {
    /// The agent's API: http://host:port, https://host:port or unix:/path [env: HOBNOB_API] [default: http://127.0.0.1:8500]
    #[arg(long, global = true, value_name = "URL")]
    api: Option<String>,
    /// A file with the token to show [env: HOBNOB_TOKEN holds the token itself]
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    papers: Papers,
}

/// A way to one agent.
#[derive(Clone)]
pub(super) struct Client {
    place: Place,
    /// For https.
    connector: Option<TlsConnector>,
    /// Read for each call: who is given another one goes on with that.
    token_file: Option<PathBuf>,
}

/// Without the token.
impl fmt::Debug for Client {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Client({})", self.place)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// `host:port`, and what stands before every path.
    Tcp(String),
    /// The same over TLS.
    Tls(String),
    Unix(PathBuf),
}

/// What an agent answered to something that it did not refuse, or that it does not have.
#[derive(Debug)]
pub(super) struct Answer {
    /// What was asked: method and path.
    call: String,
    pub(super) status: StatusCode,
    /// What tells this state of it from others (ETag).
    pub(super) mark: Option<String>,
    pub(super) body: Value,
}

impl Client {
    pub(super) fn new(target: &Target) -> Result<Self, Failure> {
        let api = target.api.clone().or_else(|| env::var("HOBNOB_API").ok()).unwrap_or_else(|| DEFAULT.into());
        let place: Place = api.parse().map_err(|why| {
            Failure::new(format!("{api:?} is no API to talk to"), why, format!("--api {DEFAULT}")).code(Code::Usage)
        })?;
        let connector = matches!(place, Place::Tls(_)).then(|| target.papers.connector()).transpose()?;
        token(target.token_file.as_deref())?;
        Ok(Self { place, connector, token_file: target.token_file.clone() })
    }

    /// What stands at `path`; that nothing does is a failure.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Failure> {
        let answer = self.call(Method::GET, path, None).await?;
        answer.found()
    }

    /// One call. 404 is an answer; any other refusal is a failure, whose code tells the kind.
    pub(super) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, Failure> {
        self.call_with(method, path, body, &[]).await
    }

    /// The same with more headers.
    pub(super) async fn call_with(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        headers: &[(&'static str, Option<&str>)],
    ) -> Result<Answer, Failure> {
        let request = self.request(&method, path, body, headers)?;
        let call = format!("{method} {path}");
        let answered = async {
            let (response, connection) = self.send(request).await?;
            let mark = response.headers().get(header::ETAG).and_then(|mark| mark.to_str().ok()).map(str::to_owned);
            let status = response.status();
            let body = self.collect(response).await;
            connection.abort();
            Ok::<_, Failure>(Answer { call, status, mark, body: body? })
        };
        let answered = timeout(PATIENCE, answered).await;
        let answer = answered.map_err(|_| self.unreachable(&"it did not answer within 30 seconds"))??;
        if answer.status.is_success() || answer.status == StatusCode::NOT_FOUND {
            return Ok(answer);
        }
        Err(refused(&answer.call, answer.status, &answer.body))
    }

    /// Begins a call whose answer is read as it comes. Any refusal is a failure.
    pub(super) async fn open(
        &self,
        method: &Method,
        path: &str,
        headers: &[(&'static str, Option<&str>)],
    ) -> Result<Opened, Failure> {
        let request = self.request(method, path, None, headers)?;
        let silent = |_| self.unreachable(&"it did not answer within 30 seconds");
        let (response, connection) = timeout(PATIENCE, self.send(request)).await.map_err(silent)??;
        let status = response.status();
        if status.is_success() {
            return Ok((response, connection));
        }
        let body = self.collect(response).await;
        connection.abort();
        Err(refused(&format!("{method} {path}"), status, &body?))
    }

    fn request(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        headers: &[(&'static str, Option<&str>)],
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let host = match &self.place {
            Place::Tcp(authority) | Place::Tls(authority) => authority,
            Place::Unix(_) => "localhost",
        };
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, host);
        request = request.header(header::ACCEPT, "application/json");
        if let Some(token) = token(self.token_file.as_deref()).map_err(Failure::transient)? {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.as_str()));
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        for (name, value) in headers {
            request = value.iter().fold(request, |request, value| request.header(*name, *value));
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        request
            .body(Full::from(body))
            .map_err(|why| Failure::new(format!("cannot ask for {path:?}"), why, "hobnob --help").code(Code::Usage))
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Opened, Failure> {
        match &self.place {
            Place::Tcp(authority) => {
                let stream = TcpStream::connect(authority).await.map_err(|error| self.unreachable(&error))?;
                self.exchange(stream, request).await
            }
            Place::Tls(authority) => {
                let stream = TcpStream::connect(authority).await.map_err(|error| self.unreachable(&error))?;
                let Some(connector) = &self.connector else { return Err(self.unreachable(&"there is no TLS")) };
                let stream = tls::connect(connector, authority, stream).await;
                let mistrusted = |tls::Mistrust { why, next }| {
                    let failure = self.unreachable(&why);
                    next.into_iter().fold(failure, Failure::instead)
                };
                self.exchange(stream.map_err(mistrusted)?, request).await
            }
            Place::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| self.unreachable(&error))?;
                self.exchange(stream, request).await
            }
        }
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        request: Request<Full<Bytes>>,
    ) -> Result<Opened, Failure> {
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.unreachable(&error))?;
        let connection = tokio::spawn(async move {
            // What ends it, the reader of the body is told.
            let _ = connection.await;
        });
        match sender.send_request(request).await {
            Ok(response) => Ok((response, connection)),
            Err(error) => {
                connection.abort();
                Err(tls::refusal(&error).map_or_else(|| self.unreachable(&error), |why| self.unknown_here(&why)))
            }
        }
    }

    /// A whole body, as JSON where it is some.
    async fn collect(&self, response: Response<Incoming>) -> Result<Value, Failure> {
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| self.unreachable(&error))?.to_bytes();
        Ok(serde_json::from_slice(&body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).trim().to_owned())))
    }

    /// Where the agent is; `None` for a socket of this machine, and a name that is not known.
    pub(super) async fn address(&self) -> Option<IpAddr> {
        let (Place::Tcp(place) | Place::Tls(place)) = &self.place else { return None };
        let authority = place.split('/').next().unwrap_or_default();
        tokio::net::lookup_host(authority).await.ok()?.next().map(|address| address.ip().to_canonical())
    }

    /// That the agent wants another certificate of whoever calls; it tells so after the handshake (RFC 8446 section 4.4.2.4).
    fn unknown_here(&self, why: &str) -> Failure {
        let what = format!("the agent at {} does not take this client's certificate", self.place);
        let next = "--api-cert FILE --api-key FILE, of an authority that is in the agent's http.tls.client_ca";
        Failure::new(what, why, next).code(Code::Forbidden)
    }

    pub(super) fn unreachable(&self, why: &dyn fmt::Display) -> Failure {
        let next = "hobnob agent --dev, or name another agent with --api URL or HOBNOB_API";
        Failure::new(format!("no agent answers at {}", self.place), why, next).code(Code::Unreachable).transient()
    }
}

/// An answer whose body is still to come, and the task that moves it.
type Opened = (Response<Incoming>, JoinHandle<()>);

impl Answer {
    /// The body, unless there was nothing there.
    pub(super) fn found(self) -> Result<Value, Failure> {
        match self.status {
            StatusCode::NOT_FOUND => Err(refused(&self.call, self.status, &self.body)),
            _ => Ok(self.body),
        }
    }
}

/// A refusal in our form: RFC 9457 names the field and the detail.
pub(super) fn refused(call: &str, status: StatusCode, body: &Value) -> Failure {
    let text = |field: &str| body[field].as_str().filter(|text| !text.is_empty());
    let said = text("detail").or_else(|| text("title")).or_else(|| body.as_str()).unwrap_or("it did not say why");
    let reasons: Vec<_> = body["reasons"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let said = if reasons.is_empty() { said.to_owned() } else { format!("{said}: {}", reasons.join("; ")) };
    let why = match text("field").filter(|field| !said.starts_with(field)) {
        Some(field) => format!("{field}: {said}"),
        None => said,
    };
    let (code, next) = match status {
        // What guards against web pages refuses by where one comes from, and no token helps.
        StatusCode::FORBIDDEN if why.contains("Host header") || why.contains("Origin") => {
            (Code::Forbidden, "hobnob --api http://127.0.0.1:8500, or the agent's unix socket: --api unix:/path")
        }
        // Nor what it takes a file on the agent's own machine for.
        StatusCode::FORBIDDEN if why.contains("services.d") => (
            Code::Forbidden,
            "the service in a file of services.d on that machine, with script_checks = true for scripts",
        ),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            (Code::Forbidden, "show a token that allows it, with --token-file FILE or HOBNOB_TOKEN")
        }
        StatusCode::NOT_FOUND
            if ["/rtt/", "/ping/", "/force-leave/"].iter().any(|of_nodes| call.contains(of_nodes)) =>
        {
            (Code::Runtime, "hobnob members, to see who there is")
        }
        StatusCode::NOT_FOUND if call.contains("/explain/") => (Code::Runtime, "hobnob members; hobnob services"),
        StatusCode::NOT_FOUND if call.contains("/tokens/") => {
            (Code::Runtime, "hobnob token list, to see which there are")
        }
        StatusCode::NOT_FOUND if call.contains("/denials") => {
            (Code::Runtime, "hobnob doctor, on whom the mesh does not let in: it says what is revoked")
        }
        StatusCode::NOT_FOUND => (Code::Runtime, "hobnob services, to see what there is"),
        StatusCode::PRECONDITION_FAILED => (Code::Runtime, "the same again: somebody else has changed it meanwhile"),
        StatusCode::CONFLICT if why.contains("defined in") => (Code::Usage, "edit the file, then hobnob reload"),
        StatusCode::CONFLICT if call.contains("/force-leave/") => {
            (Code::Runtime, "hobnob leave, on that node; or hobnob explain NODE, for why it is not taken for dead")
        }
        StatusCode::CONFLICT if call.contains("/tokens/") && why.contains("[[http.tokens]]") => {
            (Code::Runtime, "take it out of that node's hobnob.toml and restart its agent; other nodes may hold it too")
        }
        StatusCode::CONFLICT if call.ends_with("/tokens") && (why.contains("called") || why.contains("stands in")) => {
            (Code::Runtime, "hobnob token list, to see which there are; or choose another --name")
        }
        StatusCode::CONFLICT if why.contains("hold the authority's key") => (Code::Runtime, elsewhere(call)),
        StatusCode::CONFLICT => (Code::Runtime, "hobnob status; mend what stands in the way, then the same again"),
        StatusCode::TOO_MANY_REQUESTS => (Code::Runtime, "the same again, in a while; or raise http.rate_limit"),
        StatusCode::SERVICE_UNAVAILABLE => (Code::Runtime, "hobnob status, to see what it waits for"),
        StatusCode::GATEWAY_TIMEOUT if call.contains("/ping/") => (Code::Runtime, "hobnob explain NODE"),
        StatusCode::INTERNAL_SERVER_ERROR if why.contains("be stored") => {
            (Code::Runtime, "df, for the disk of data_dir; then hobnob doctor")
        }
        StatusCode::UNPROCESSABLE_ENTITY if call.contains("/reload") => (Code::Usage, "hobnob config check"),
        StatusCode::BAD_REQUEST if call.ends_with("/api/v1/join") => (Code::Usage, "hobnob join HOST:PORT"),
        StatusCode::BAD_REQUEST if why.contains("names this node itself") => {
            (Code::Usage, "the same with --api URL, of another node")
        }
        status if status.is_client_error() => (Code::Usage, "hobnob --help"),
        _ => (Code::Runtime, "the agent's log says more"),
    };
    let next = next.replace("NODE", call.rsplit('/').next().unwrap_or("NODE"));
    let failure = Failure::new(format!("the agent answered {} to {call}", status.as_u16()), why, next).code(code);
    let passes = status.is_server_error() || PASSES.contains(&status);
    if passes { failure.transient() } else { failure }
}

/// What to type where the authority is kept, on no node.
fn elsewhere(call: &str) -> &'static str {
    match call {
        _ if call.starts_with("DELETE /api/v1/tokens/") => {
            "hobnob token revoke NODE --dir CA, where the authority is kept"
        }
        _ if call.ends_with("/tokens") || call.ends_with("/denials") => {
            "the same with --dir CA, where the authority is kept"
        }
        _ => "the same on a node where tls.ca_key is set",
    }
}

/// What a client is answered that passes by itself, beside what is the agent's own fault.
const PASSES: [StatusCode; 3] =
    [StatusCode::REQUEST_TIMEOUT, StatusCode::PRECONDITION_FAILED, StatusCode::TOO_MANY_REQUESTS];

/// `text` as one segment of a path (RFC 3986 section 2.3).
pub(super) fn segment(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    text.bytes().map(|b| if plain(&b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

impl std::str::FromStr for Place {
    type Err = &'static str;
    fn from_str(api: &str) -> Result<Self, Self::Err> {
        if let Some(path) = api.strip_prefix("unix:") {
            return if path.is_empty() { Err("unix: names no path") } else { Ok(Self::Unix(path.into())) };
        }
        let (rest, over): (_, fn(String) -> Self) = match api.strip_prefix("https://") {
            Some(rest) => (rest, Self::Tls),
            None => (api.strip_prefix("http://").unwrap_or(api), Self::Tcp),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let uri: hyper::Uri = format!("http://{authority}/")
            .parse()
            .map_err(|_| "it is no http://host:port, https://host:port or unix:/path")?;
        match (uri.authority(), uri.path()) {
            (Some(found), "/") if found.as_str() == found.host() => Ok(over(format!("{found}:8500"))),
            (Some(found), "/") if found.port_u16().is_some_and(|port| port > 0) => Ok(over(authority.into())),
            (Some(_), "/") => Err("its port is not 1 to 65535"),
            _ => Err("it is no http://host:port, https://host:port or unix:/path"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(authority) => write!(out, "http://{authority}"),
            Self::Tls(authority) => write!(out, "https://{authority}"),
            Self::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}

fn token(file: Option<&Path>) -> Result<Option<Zeroizing<String>>, Failure> {
    let failure = |why: &dyn fmt::Display, next| Failure::new("cannot show a token", why, next).code(Code::Usage);
    let text = match file {
        Some(file) => trust::secret_text(file).map_err(|why| failure(&why, format!("ls -l {}", file.display())))?,
        None => match env::var("HOBNOB_TOKEN") {
            Ok(text) => Zeroizing::new(text),
            Err(_) => return Ok(None),
        },
    };
    if text.trim().is_empty() {
        let (place, next) = match file {
            Some(file) => {
                (file.display().to_string(), "hobnob token create --policy POLICY, and what it prints into it")
            }
            None => {
                ("HOBNOB_TOKEN".into(), "unset HOBNOB_TOKEN, or hobnob token create --policy POLICY and what it prints")
            }
        };
        return Err(failure(&format_args!("{place} is empty"), next.into()));
    }
    Ok(Some(Zeroizing::new(text.trim().to_owned())))
}

/// Where an agent listens unless told otherwise.
const DEFAULT: &str = "http://127.0.0.1:8500";
/// How long an answer may take: leaving waits for every peer to hear it.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// The most we take in: a catalogue of 100,000 instances fits.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_is_a_host_and_port_or_a_socket() {
        let tcp = |authority: &str| Ok(Place::Tcp(authority.into()));
        assert_eq!("http://127.0.0.1:1/".parse(), tcp("127.0.0.1:1"));
        assert_eq!("[::1]:1".parse(), tcp("[::1]:1"));
        assert_eq!("http://localhost".parse(), tcp("localhost:8500"));
        assert_eq!("https://localhost".parse(), Ok(Place::Tls("localhost:8500".into())));
        assert_eq!("unix:/run/h.sock".parse(), Ok(Place::Unix("/run/h.sock".into())));
        for bad in
            ["unix:", "http://a:1/v1", "https://a:1/v1", "http://", "a b:1", "a:70000", "http://[::1]:0", "a:", "a:x"]
        {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_to_type_next_fits_what_was_refused() {
        let settings = "the token \"a\" stands in this node's settings, under [[http.tokens]]";
        for (call, status, why, next) in [
            ("DELETE /api/v1/tokens/a", StatusCode::NOT_FOUND, "there is no token called \"a\"", "hobnob token list"),
            ("DELETE /api/v1/tokens/a", StatusCode::CONFLICT, settings, "take it out of"),
            ("POST /api/v1/tokens", StatusCode::CONFLICT, settings, "another --name"),
            ("POST /api/v1/tokens", StatusCode::CONFLICT, "there is a token called \"a\" already", "another --name"),
            ("POST /api/v1/tokens", StatusCode::CONFLICT, "this node does not hold the authority's key", "--dir CA"),
            (
                "DELETE /api/v1/tokens/a",
                StatusCode::CONFLICT,
                "does not hold the authority's key",
                "token revoke a --dir",
            ),
            ("POST /api/v1/joins", StatusCode::CONFLICT, "does not hold the authority's key", "tls.ca_key"),
            ("GET /api/v1/services/a", StatusCode::NOT_FOUND, "", "hobnob services"),
        ] {
            let failure = refused(call, status, &serde_json::json!({"detail": why}));
            assert!(format!("{failure:?}").contains(next), "{call}: {failure:?}");
        }
    }

    #[test]
    fn no_token_is_asked_for_where_none_helps() {
        let next = |detail: &str| {
            let body = serde_json::json!({"detail": detail});
            format!("{:?}", refused("PUT /x", StatusCode::FORBIDDEN, &body))
        };
        assert!(next("no policy allows it").contains("--token-file"));
        let script = next("check a runs a program: write the service into services.d");
        assert!(script.contains("script_checks = true") && !script.contains("token"), "{script}");
    }

    #[test]
    fn an_id_survives_a_path() {
        assert_eq!(segment("vault:10.0.0.1:8200/a b%é"), "vault%3A10.0.0.1%3A8200%2Fa%20b%25%C3%A9");
    }
}
