//! What a hostile client of the HTTP face would try, against real agents: requests that say two things at once, heads
//! without end, pages of other origins, crowds that take every seat. Each time the agent goes on, and nothing changed.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test outside the core's virtual time")]

mod process;

use std::{
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use process::{Agent, Mesh, until};
use rustix::process::Signal;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream, UnixStream},
};

/// Says this and hears all until the connection ends, or is reset.
async fn say(mut stream: impl AsyncRead + AsyncWrite + Unpin, what: &[u8]) -> String {
    // Who is refused early may not take all of it.
    drop(stream.write_all(what).await);
    let mut heard = Vec::new();
    drop(stream.read_to_end(&mut heard).await);
    String::from_utf8_lossy(&heard).into_owned()
}

async fn tcp(agent: &Agent, what: &[u8]) -> String {
    say(TcpStream::connect(agent.http).await.unwrap(), what).await
}

#[tokio::test]
async fn a_request_that_says_two_things_does_neither_harm_nor_good() {
    let mesh = Mesh::new();
    let agent = mesh.start("a", &[]).await;
    agent.register("web", 8080).await;
    let smuggled = "DELETE /api/v1/registrations/web HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let put = "PUT /api/v1/registrations/x HTTP/1.1\r\nHost: localhost\r\n";
    for (attack, status) in [
        (format!("{put}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"), "400"),
        (format!("{put}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{smuggled}"), "400"),
        (format!("{put}Content-Length: 0\r\nContent-Length: 9\r\n\r\n{smuggled}"), "400"),
        (format!("{put}Content-Length: -1\r\n\r\n{smuggled}"), "400"),
        (format!("{put}Content-Length: 99999999999999999999\r\n\r\n{smuggled}"), "400"),
        (format!("{put}Transfer-Encoding: chunked, identity\r\n\r\n{smuggled}"), "400"),
        (format!("{put}Transfer-Encoding: chunked\r\n\r\nzz\r\n{smuggled}"), "400"),
        (format!("GET / HTTP/1.1\r\nHost: localhost\r\n X: folded\r\n\r\n{smuggled}"), "400"),
        (format!("GET / HTTP/1.1\r\nHost : localhost\r\n\r\n{smuggled}"), "400"),
        (format!("GET / HTTP/1.1\r\nHost: localhost\r\nHost: a\r\nConnection: close\r\n\r\n{smuggled}"), "400"),
        (format!("GET / HTTP/1.1\r\nConnection: close\r\n\r\n{smuggled}"), "400"),
        (format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(20_000)), "431"),
        (format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "A: b\r\n".repeat(200)), "431"),
        (String::from("\u{16}\u{3}\u{1} no greeting of ours"), "400"),
        (format!("GET {} HTTP/1.1\r\n", "/".repeat(20_000)), "431"),
    ] {
        let heard = tcp(&agent, attack.as_bytes()).await;
        assert!(heard.starts_with(&format!("HTTP/1.1 {status} ")), "{attack:?}: {heard:?}");
        assert_eq!(heard.matches("HTTP/1.1 ").count(), 1, "{attack:?}: {heard:?}");
    }
    for attack in ["G@T / HTTP/1.1\r\nHost: localhost\r\n\r\n", "hello\r\n\r\n"] {
        let heard = tcp(&agent, attack.as_bytes()).await;
        assert!(heard.starts_with("HTTP/1.1 400 ") && heard.contains("application/problem+json"), "{heard:?}");
        assert!(heard.contains("does not begin with a method"), "{heard:?}");
    }
    let registrations = agent.get("/api/v1/registrations").await;
    assert_eq!((registrations.as_array().unwrap().len(), &registrations[0]["id"]), (1, &json!("web")));
}

#[tokio::test]
async fn requests_in_a_row_are_answered_in_their_order() {
    let mesh = Mesh::new();
    let agent = mesh.start("a", &[]).await;
    let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n");
    let all = [get("/livez", ""), get("/nowhere", ""), get("/version", "Connection: close\r\n")].concat();
    let heard = tcp(&agent, all.as_bytes()).await;
    let places = ["\"live\":true", "404 Not Found", "\"name\":\"hobnob\""].map(|part| heard.find(part));
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{heard}");
}

#[tokio::test]
async fn a_page_in_the_operators_browser_gets_nowhere() {
    let mesh = Mesh::new();
    let agent = mesh.start("a", &[]).await;
    let body = r#"{"name": "evil"}"#;
    for (line, headers) in [
        ("GET /api/v1/services", "Host: evil.example\r\n"),
        ("GET http://evil.example/api/v1/services", "Host: localhost\r\n"),
        ("PUT /api/v1/registrations/x", "Host: evil.example\r\n"),
        ("PUT /api/v1/registrations/x", "Host: localhost\r\nOrigin: http://evil.example\r\n"),
        ("PUT /api/v1/registrations/x", "Host: localhost\r\nOrigin: null\r\n"),
        ("POST /api/v1/leave", "Host: localhost\r\nOrigin: https://evil.example\r\nContent-Type: text/plain\r\n"),
        ("POST /api/v1/leave", "Host: localhost\r\nSec-Fetch-Site: cross-site\r\n"),
    ] {
        let length = body.len();
        let request =
            format!("{line} HTTP/1.1\r\n{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}");
        let heard = tcp(&agent, request.as_bytes()).await;
        assert!(heard.starts_with("HTTP/1.1 403 "), "{line} {headers}: {heard}");
        assert!(heard.contains("application/problem+json"), "{heard}");
        assert!(!heard.to_ascii_lowercase().contains("access-control-"), "{heard}");
    }
    let preflight = "OPTIONS /api/v1/leave HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\
                     Access-Control-Request-Method: POST\r\nConnection: close\r\n\r\n";
    let heard = tcp(&agent, preflight.as_bytes()).await.to_ascii_lowercase();
    assert!(heard.starts_with("http/1.1 204 ") && !heard.contains("access-control-"), "{heard}");
    assert_eq!(agent.get("/api/v1/registrations").await, json!([]));
}

#[tokio::test]
async fn a_body_that_is_too_deep_or_too_long_is_refused() {
    let mesh = Mesh::new();
    let agent = mesh.start("a", &[]).await;
    let deep = format!(r#"{{"name": "web", "meta": {}}}"#, "[".repeat(100_000));
    assert_eq!(agent.call("PUT", "/api/v1/registrations/x", &deep).await.0, 400);
    assert_eq!(agent.call("PUT", "/api/v1/registrations/x", &" ".repeat(2 << 20)).await.0, 413);
    // Who announces too much, and sends hardly any of it, is not waited for.
    for (announced, path) in [(99_999_999, "/api/v1/registrations/x"), (2 << 20, "/v1/agent/service/register")] {
        let heard = tcp(
            &agent,
            format!("PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {announced}\r\n\r\n{{").as_bytes(),
        )
        .await;
        assert!(heard.starts_with("HTTP/1.1 413 "), "{heard}");
    }
    assert_eq!(agent.get("/api/v1/registrations").await, json!([]));
}

/// An agent with few file descriptors and a unix socket.
async fn start_poor(mesh: &Mesh, socket: &Path) -> Agent {
    let plain = mesh.agent("a", "a");
    let mut poor = tokio::process::Command::new("sh");
    poor.args(["-c", r#"ulimit -n 120 && exec "$0" "$@""#]).arg(plain.as_std().get_program());
    poor.args(plain.as_std().get_args()).env_clear().env("PATH", "/bin:/usr/bin").kill_on_drop(true);
    poor.env("HOBNOB_HTTP__SOCKET", socket);
    mesh.launch("a", &mut poor).await
}

/// An address of this machine besides loopback, if it has one.
fn outward() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent: the system says which address it would send from (an address for documentation, RFC 5737).
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback())
}

/// Calls as one beyond the agent's host does: not on loopback, and not from the address that is called.
async fn call_from(outward: IpAddr, agent: &Agent) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(outward, 0)).unwrap();
    socket.connect(SocketAddr::from(([127, 0, 0, 1], agent.http.port()))).await.unwrap()
}

#[tokio::test]
async fn who_asks_too_often_from_elsewhere_is_told_when_to_come_back() {
    let Some(outward) = outward() else { return eprintln!("skipped: this machine has no network") };
    let mesh = Mesh::new();
    let mut command = mesh.agent("a", "a");
    command.args(["--http", "0.0.0.0:0"]).env("HOBNOB_HTTP__INSECURE", "true").env("HOBNOB_HTTP__RATE_LIMIT", "5");
    let agent = mesh.launch("a", &mut command).await;
    let get = b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut heard = Vec::new();
    for _ in 0..60 {
        heard.push(say(call_from(outward, &agent).await, get).await);
    }
    let refused: Vec<_> =
        heard.iter().filter(|heard| heard.starts_with("HTTP/1.1 429 Too Many Requests\r\n")).collect();
    assert!(heard[0].starts_with("HTTP/1.1 200 ") && refused.len() > 1, "{heard:?}");
    let said = refused[0].to_ascii_lowercase();
    assert!(said.contains("retry-after: 1\r\n") && said.contains("application/problem+json"), "{said}");
    assert!(said.contains("\"status\":429") && said.contains("http.rate_limit"), "{said}");
    // Loopback has no limit: the operator is never shut out, and sees what was refused.
    let local = SocketAddr::from(([127, 0, 0, 1], agent.http.port()));
    let metrics = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let said = say(TcpStream::connect(local).await.unwrap(), metrics).await;
    assert!(said.contains(&format!("hobnob_http_cut_off_total{{reason=\"rate\"}} {}\n", refused.len())), "{said}");
    agent.until_logged("429").await;
    let told = agent.log().lines().filter(|line| line.contains("audit") && line.contains("429")).count();
    assert_eq!(told, 1, "the first is told, the rest is counted: {}", agent.log());
}

#[tokio::test]
async fn who_holds_too_many_connections_from_elsewhere_is_told_so() {
    let Some(outward) = outward() else { return eprintln!("skipped: this machine has no network") };
    let mesh = Mesh::new();
    let mut command = mesh.agent("a", "a");
    command.args(["--http", "0.0.0.0:0"]).env("HOBNOB_HTTP__INSECURE", "true");
    command.env("HOBNOB_HTTP__MAX_CONNECTIONS_PER_CLIENT", "3");
    let agent = mesh.launch("a", &mut command).await;
    let connect = async || call_from(outward, &agent).await;
    let held = [connect().await, connect().await, connect().await];
    let get = b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let said = say(connect().await, get).await;
    assert!(said.starts_with("HTTP/1.1 429 ") && said.contains("http.max_connections_per_client"), "{said}");
    // Who is on this host has no limit.
    let mut local = Vec::new();
    for _ in 0..9 {
        local.push(TcpStream::connect(agent.http).await.unwrap());
    }
    let metrics = agent.text("/metrics").await;
    assert!(metrics.contains("hobnob_http_cut_off_total{reason=\"client\"} 1\n"), "{metrics}");
    drop(held);
    until("there is room again", async || say(connect().await, get).await.starts_with("HTTP/1.1 200 ").then_some(()))
        .await;
}

#[tokio::test]
async fn a_crowd_takes_the_seats_of_tcp_and_no_more() {
    let mesh = Mesh::new();
    let socket = mesh.path("http.sock");
    let agent = start_poor(&mesh, &socket).await;
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    let mut crowd = Vec::new();
    for _ in 0..300 {
        crowd.push(TcpStream::connect(agent.http).await.unwrap());
    }
    let get = b"GET /metrics HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n";
    until("the seats are taken", async || {
        let heard = say(UnixStream::connect(&socket).await.unwrap(), get).await;
        assert!(heard.starts_with("HTTP/1.1 200 "), "{heard}");
        heard.contains("\nhobnob_http_connections_held 61\n").then_some(())
    })
    .await;
    drop(crowd);
    agent.register("web", 8080).await;
}

#[tokio::test]
async fn a_goodbye_ends_every_stream_as_it_should() {
    let mesh = Mesh::new();
    let mut agent = mesh.start("a", &[]).await;
    let mut stream = TcpStream::connect(agent.http).await.unwrap();
    stream.write_all(b"GET /api/v1/watch?service=web HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut heard = vec![0; 17];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, b"HTTP/1.1 200 OK\r\n");
    agent.signal(Signal::TERM);
    stream.read_to_end(&mut heard).await.unwrap();
    let heard = String::from_utf8(heard).unwrap();
    assert!(heard.contains("event: snapshot\n") && heard.ends_with("\r\n0\r\n\r\n"), "{heard:?}");
    assert!(agent.ended().await.success());
}

#[tokio::test]
async fn a_long_answer_is_compressed_for_who_asks() {
    let mesh = Mesh::new();
    let agent = mesh.start("a", &[]).await;
    let get = |more: &str| format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n");
    let plain = tcp(&agent, get("").as_bytes()).await;
    let small = tcp(&agent, get("Accept-Encoding: gzip\r\n").as_bytes()).await;
    assert!(small.contains("content-encoding: gzip") && small.len() < plain.len(), "{small}");
    assert!(plain.ends_with("# EOF\n") && plain.contains("vary: accept-encoding"), "{plain}");
    // What is sent again is kept in both forms.
    let body = json!({"name": "web", "meta": {"a": "x".repeat(500), "b": "y".repeat(500)}}).to_string();
    assert_eq!(agent.call("PUT", "/api/v1/registrations/web", &body).await.0, 201);
    let get =
        |more| format!("GET /v1/health/service/web HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n");
    let mut bodies = [Vec::new(), Vec::new()];
    for _ in 0..3 {
        for (bodies, more) in bodies.iter_mut().zip(["", "Accept-Encoding: gzip\r\n"]) {
            let answer = tcp(&agent, get(more).as_bytes()).await;
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert_eq!(head.contains("content-encoding: gzip"), !more.is_empty(), "{head}");
            assert_eq!(head.matches("vary: accept-encoding").count(), 1, "{head}");
            bodies.push(body.to_owned());
        }
    }
    assert!(bodies.iter().all(|same| same.iter().all(|body| *body == same[0])), "{bodies:?}");
}
