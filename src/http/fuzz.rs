//! What the fuzzer and the test over its corpus call: what somebody sends to the HTTP face, filters and bodies and policies.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use axum::{
    body::Body,
    http::{Method, Request, StatusCode, header},
    response::Response,
};
use http_body_util::BodyExt;
use tokio::{
    runtime::{Builder, Runtime},
    select,
    task::yield_now,
};
use tokio_util::sync::CancellationToken;

use super::{Config, Policy, access, consul, door::Door, eureka, guard::Via, server, token};
use crate::{
    agent::{Agent, Secret, checks},
    model::{InstanceId, Registration},
};

pub use super::consul::fuzz::filter;

/// Reads bytes as each body that registers something: in Consul's words and in Eureka's. What is accepted is valid, and
/// runs no program.
///
/// # Panics
/// When it is not, or does.
pub fn body(bytes: &[u8]) {
    consul::fuzz::body(bytes);
    eureka::fuzz::body(bytes);
}

/// Reads a text as a policy, and as a method and a path: what is read is written as the same, and a call that changes
/// something needs a right.
///
/// # Panics
/// When it is not, or needs none.
pub fn policy(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(policy) = text.parse::<Policy>() {
        let written = policy.to_string();
        assert!(written.parse() == Ok(policy), "S13: {text:?} is not {written:?}");
    }
    for method in [Method::PUT, Method::POST, Method::DELETE, Method::PATCH] {
        let open = access::is_open(&method, text);
        assert!(!open || text.ends_with("discovery:endpoints"), "{method} {text:?} needs no right to write");
    }
    if let Some(hash) = token::parse_hash(text) {
        let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(digits.eq_ignore_ascii_case(text), "{text:?} is not {digits}");
    }
}

/// Reads bytes as a request (`PUT /path`, a header each line, an empty line, the body) and asks it of a real agent with
/// all faces on, behind the door that a connection would come through. It is answered, by no status of 5xx but those that
/// are meant, with JSON where it says so; who is refused has changed nothing.
///
/// # Panics
/// When it is not so.
pub fn request(bytes: &[u8]) {
    static WORLD: LazyLock<Mutex<World>> = LazyLock::new(|| Mutex::new(World::new()));
    let Some(request) = read(bytes) else { return };
    let world = WORLD.lock().unwrap_or_else(PoisonError::into_inner);
    world.runtime.block_on(async {
        world.ask(request).await;
        world.tidy().await;
    });
}

/// One agent with one instance, which outlives all requests.
struct World {
    runtime: Runtime,
    agent: Agent,
    door: Arc<Door>,
}

impl World {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let config = Config { eureka: true, ..Config::default() };
        let (agent, door) = runtime.block_on(async {
            // No check of what is registered here reaches anybody.
            let nowhere = checks::Config { deny: vec![any("0.0.0.0/0"), any("::/0")], ..checks::Config::default() };
            let agent = Agent::builder().node("n1").secret(Secret::random()).listen(LOOPBACK).checks(nowhere);
            let agent = agent.start().await.expect("a free port");
            agent.ready().await.expect("there is nobody to wait for");
            let web = Registration::new("web", 8080).expect("a valid name").meta("version", "1");
            agent.put(web).await.expect("room for one registration");
            let door = server::open(agent.clone(), config, LOOPBACK, None, Vec::new(), None, CancellationToken::new());
            (agent, door)
        });
        Self { runtime, agent, door }
    }

    async fn ask(&self, request: Request<Body>) {
        let asked = format!("{} {}", request.method(), request.uri());
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        let before = self.state();
        let answer = self.door.answer(VIA, request);
        // A read that has no answer yet waits for a change; a write waits for the store alone.
        let answer = if is_read { settled(answer).await } else { Some(answer.await) };
        let Some(Ok(answer)) = answer else { return };
        let status = answer.status();
        assert!(!status.is_server_error() || is_meant(&asked, status), "{asked}: {status}");
        assert!(!status.is_client_error() || self.state() == before, "{asked}: {status}, and something is different");
        read_back(&asked, answer).await;
    }

    /// All that a request can change of what is shown.
    fn state(&self) -> String {
        let (services, nodes) = (self.agent.view().services(), self.agent.view().nodes());
        let rows = services.iter().flat_map(|service| service.rows()).map(|row| (&row.registration, &row.report));
        format!("{:?} {:?}", rows.collect::<Vec<_>>(), nodes.iter().map(|member| &member.node).collect::<Vec<_>>())
    }

    /// Takes back what was registered, so that each request finds the same world.
    async fn tidy(&self) {
        let services = self.agent.view().services();
        let own = services.iter().flat_map(|service| service.rows());
        for id in own.map(|instance| instance.registration.id.clone()).collect::<Vec<InstanceId>>() {
            if id.as_str() != "web" {
                // Withdrawn together with another, perhaps.
                let _ = self.agent.remove(&id).await;
            }
        }
        let web = Registration::new("web", 8080).expect("a valid name").meta("version", "1");
        self.agent.put(web).await.expect("room for one registration");
        for instance in [None, Some(&"web".try_into().expect("a valid id"))] {
            self.agent.maintain(instance, None).await.expect("an agent that runs");
        }
    }
}

/// A body that says that it is JSON is; a stream is read as far as it goes at once.
async fn read_back(asked: &str, answer: Response) {
    let (head, body) = answer.into_parts();
    let kind = head.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let is_json = kind.starts_with("application/json") || kind.ends_with("+json");
    let Some(Ok(body)) = settled(body.collect()).await else { return };
    let body = body.to_bytes();
    if is_json && !body.is_empty() && !head.headers.contains_key(header::CONTENT_ENCODING) {
        let parsed = serde_json::from_slice::<serde::de::IgnoredAny>(&body);
        assert!(parsed.is_ok(), "{asked}: {parsed:?} in {:?}", String::from_utf8_lossy(&body));
    }
}

/// What comes of a future within some turns of the runtime.
async fn settled<T>(future: impl Future<Output = T>) -> Option<T> {
    let turns = async {
        for _ in 0..TURNS {
            yield_now().await;
        }
    };
    select! {
        biased;
        outcome = future => Some(outcome),
        () = turns => None,
    }
}

/// Consul's words: most of its refusals are 500, what is not served is 501, an instance's health may be 503. Ours: nobody
/// reads files here, a node that is pinged may be silent.
fn is_meant(asked: &str, status: StatusCode) -> bool {
    let ours = [StatusCode::NOT_IMPLEMENTED, StatusCode::GATEWAY_TIMEOUT];
    let consul = [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::NOT_IMPLEMENTED, StatusCode::SERVICE_UNAVAILABLE];
    if asked.contains("/v1/") && !asked.contains("/api/v1/") {
        consul.contains(&status)
    } else {
        ours.contains(&status)
    }
}

fn read(bytes: &[u8]) -> Option<Request<Body>> {
    let end = bytes.windows(2).position(|two| two == b"\n\n");
    let (head, body) = end.map_or((bytes, &[][..]), |end| (&bytes[..end], &bytes[end + 2..]));
    let mut lines = str::from_utf8(head).ok()?.lines();
    let (method, target) = lines.next()?.split_once(' ')?;
    if BEYOND.iter().any(|word| target.contains(word)) {
        return None;
    }
    let mut request = Request::builder().method(method).uri(target);
    for line in lines {
        let (name, value) = line.split_once(':')?;
        request = request.header(name.trim(), value.trim());
    }
    if !request.headers_ref()?.contains_key(header::HOST) {
        request = request.header(header::HOST, "localhost");
    }
    request.body(Body::from(body.to_vec())).ok()
}

fn any(network: &str) -> ipnet::IpNet {
    network.parse().expect("a network")
}

/// What reaches other machines, or ends the agent.
const BEYOND: [&str; 2] = ["/join", "/leave"];
const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const VIA: Via = Via::Tcp { client: LOOPBACK.ip(), ours: LOOPBACK.ip() };
/// More than any answer takes that is there.
const TURNS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reaches_the_agent_and_leaves_nothing_behind() {
        let world = World::new();
        let fresh = world.state();
        for (request, leaves) in [
            ("PUT /api/v1/registrations/a\n\n{\"name\": \"a\", \"port\": 1}", true),
            ("PUT /v1/agent/service/register\ncontent-type: application/json\n\n{\"Name\": \"b\"}", true),
            ("PUT /api/v1/maintenance\n\n{\"enabled\": true, \"reason\": \"disk\"}", true),
            ("DELETE /api/v1/registrations/web\n\n", true),
            ("PUT /api/v1/registrations/a\nhost: evil.example\n\n{\"name\": \"a\"}", false),
            ("GET /v1/catalog/services?index=1000&wait=10m\n\n", false),
            ("GET /api/v1/watch?service=web\n\n", false),
        ] {
            world.runtime.block_on(async {
                world.ask(read(request.as_bytes()).unwrap()).await;
                assert_eq!(world.state() != fresh, leaves, "{request}");
                world.tidy().await;
            });
            assert_eq!(world.state(), fresh, "{request}");
        }
        assert!(
            ["POST /api/v1/leave", "PUT /v1/agent/join/a", "nonsense"]
                .map(str::as_bytes)
                .iter()
                .all(|b| read(b).is_none())
        );
    }
}
