//! The native API as a program sees it: one agent in memory, real sockets, every shape and status of the contract.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{collections::BTreeMap, net::SocketAddr, path::Path, time::Duration};

use hobnob::{
    agent::{self, Agent, Secret},
    http,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

struct Node {
    agent: Agent,
    server: http::Running,
    stop: CancellationToken,
}

async fn start() -> Node {
    start_with(&Secret::random()).await
}

async fn start_with(secret: &Secret) -> Node {
    let node = begin("web-1", secret, None, &[]).await;
    node.until_ready().await;
    node
}

/// A node that keeps what it knows in this folder, and looks for the others there, for as long as it takes.
async fn begin(node: &str, secret: &Secret, folder: Option<&Path>, seeds: &[&str]) -> Node {
    let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let config = agent::Config {
        node: node.try_into().unwrap(),
        mesh: "test".try_into().unwrap(),
        datacenter: "dc1".into(),
        zone: "a".into(),
        meta: BTreeMap::new(),
        listen: loopback,
        advertise: None,
        join: seeds.iter().map(|seed| (*seed).to_owned()).collect(),
        secrets: vec![secret.clone()],
        tls: None,
        data_dir: folder.map(Into::into),
        ready_after: Duration::from_secs(3_600),
        protect_for: Duration::ZERO,
        opens: agent::Opens::default(),
        checks: agent::checks::Config::default(),
    };
    let (agent, stop) = (Agent::start(config).await.unwrap(), CancellationToken::new());
    let faces = http::Config { eureka: true, ..http::Config::default() };
    let server = http::serve(agent.clone(), faces, loopback, stop.clone()).await.unwrap();
    Node { agent, server, stop }
}

impl Node {
    async fn until_ready(&self) {
        while self.call("GET", "/readyz", "").await.0 != 200 {
            tokio::task::yield_now().await;
        }
    }

    /// The status of a write, and when to try again if that is said.
    async fn write(&self, method: &str, path: &str, body: &Value) -> (u16, bool) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, head, _) = self.raw(method, path, "", &body).await;
        (status, head.contains("retry-after: 1"))
    }

    async fn open(&self, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.server.address()).await.unwrap();
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        stream
    }

    /// Status, head and body of one answer.
    async fn raw(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String, String) {
        let mut stream = self.open(method, path, &format!("{headers}Connection: close\r\n"), body).await;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_ascii_lowercase(), body.to_owned())
    }

    /// Status and JSON of one answer; null where there is no body.
    async fn call(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let (status, _, body) = self.raw(method, path, "", body).await;
        (status, if body.is_empty() { Value::Null } else { serde_json::from_str(&body).unwrap() })
    }
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test]
async fn a_registration_lives_and_dies() {
    let node = start().await;
    let path = "/api/v1/registrations/web%2F1";
    let body = r#"{"name": "web", "port": 8080, "tags": ["v2"], "checks": [{"name": "beat", "ttl": "30s"}]}"#;
    let (status, written) = node.call("PUT", path, body).await;
    assert_eq!((status, &written["id"], &written["port"]), (201, &json!("web/1"), &json!(8080)));
    assert_eq!(node.call("PUT", path, body).await, (200, written.clone()));
    assert_eq!(node.call("PUT", path, &written.to_string()).await, (200, written.clone()));
    assert_eq!(node.call("GET", path, "").await, (200, written.clone()));
    assert_eq!(node.call("GET", "/api/v1/registrations", "").await, (200, json!([written])));

    let (_, instances) = node.call("GET", "/api/v1/services/WEB", "").await;
    assert_eq!((&instances[0]["health"], &instances[0]["member"]), (&json!("critical"), &json!("alive")));
    assert_eq!(node.call("GET", "/api/v1/services/web?passing", "").await, (200, json!([])));
    let beat = format!("{path}/checks/beat");
    assert_eq!(node.call("PUT", &beat, r#"{"status": "passing", "output": "fine"}"#).await.0, 200);
    let (_, passing) = node.call("GET", "/api/v1/services/web?passing&tag=v2&zone=a&near=_agent", "").await;
    assert_eq!(passing[0]["checks"][0]["output"], "fine");
    let (_, services) = node.call("GET", "/api/v1/services", "").await;
    assert_eq!((&services[0]["instances"], &services[0]["passing"]), (&json!(1), &json!(1)));
    let (_, targets) = node.call("GET", "/api/v1/prometheus?service=web", "").await;
    assert_eq!(targets[0]["targets"], json!(["127.0.0.1:8080"]));

    assert_eq!(node.call("DELETE", path, "").await, (204, Value::Null));
    for (method, path) in [("DELETE", path), ("GET", path)] {
        assert_eq!(node.call(method, path, "").await.0, 404, "{method}");
    }
    assert_eq!(node.call("PUT", &beat, r#"{"status": "passing"}"#).await.0, 404);
    assert_eq!(node.call("GET", "/api/v1/services/web", "").await, (200, json!([])));
}

#[tokio::test]
async fn a_wrong_request_names_its_field_and_changes_nothing() {
    let node = start().await;
    for (method, path, body, status, field) in [
        ("PUT", "registrations/x", r#"{"name": "web", "port": 0}"#, 400, "port"),
        ("PUT", "registrations/x", r#"{"name": "web", "port": 65536}"#, 400, "port"),
        ("PUT", "registrations/x", r#"{"name": "web", "port": "8080"}"#, 400, "port"),
        ("PUT", "registrations/x", r#"{"name": "a b"}"#, 400, "name"),
        ("PUT", "registrations/x", r#"{"name": "web", "id": "y"}"#, 400, "id"),
        ("PUT", "registrations/x", r#"{"name": "web", "colour": "red"}"#, 400, "colour"),
        ("PUT", "registrations/x", r#"{"name": "web""#, 400, "body"),
        ("PUT", "registrations/%00", r#"{"name": "web"}"#, 400, "id"),
        ("PUT", "registrations/x/checks/y", r#"{"status": "maintenance"}"#, 400, "status"),
        ("GET", "services/a%7Fb", "", 400, "name"),
        ("GET", "services/web?pasing", "", 400, "pasing"),
        ("GET", "services/web?near=nowhere", "", 400, "near"),
        ("GET", "watch", "", 400, "service"),
        ("POST", "join", r#"{"addresses": []}"#, 400, "addresses"),
    ] {
        let (got, problem) = node.call(method, &format!("/api/v1/{path}"), body).await;
        assert_eq!((got, &problem["field"]), (status, &json!(field)), "{method} {path} {body}: {problem}");
        assert_eq!(problem["status"], status);
    }
    let huge = " ".repeat((1 << 20) + 1);
    assert_eq!(node.call("PUT", "/api/v1/registrations/x", &huge).await.0, 413);
    let (status, head, _) = node.raw("PATCH", "/api/v1/registrations/x", "", "").await;
    assert!(status == 405 && head.contains("allow: get,head,put,delete"), "{head}");
    let (status, ..) = node.raw("PUT", "/api/v1/registrations/x", "Origin: http://evil.example\r\n", "{}").await;
    assert_eq!(status, 403);
    assert_eq!(node.call("GET", "/api/v1/registrations", "").await, (200, json!([])));
}

#[tokio::test]
async fn a_watcher_gets_a_snapshot_and_changes_until_the_end() {
    let node = start().await;
    let stream = node.open("GET", "/api/v1/watch?service=web", "", "").await;
    let mut lines = BufReader::new(stream).lines();
    let mut next = async || {
        let mut event = String::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some(name) = line.strip_prefix("event: ") {
                event = name.to_owned();
            } else if let Some(data) = line.strip_prefix("data: ") {
                let data: Value = serde_json::from_str(data).unwrap();
                return Some((event, data["instances"].as_array().unwrap().len()));
            }
        }
        None
    };
    assert_eq!(next().await, Some(("snapshot".into(), 0)));
    node.call("PUT", "/api/v1/registrations/web", r#"{"name": "web", "port": 80}"#).await;
    assert_eq!(next().await, Some(("change".into(), 1)));
    node.call("DELETE", "/api/v1/registrations/web", "").await;
    assert_eq!(next().await, Some(("change".into(), 0)));
    node.stop.cancel();
    assert_eq!(next().await, None);
    node.server.stopped().await;
}

#[tokio::test]
async fn a_node_tells_how_it_is_and_leaves_after_its_answer() {
    let node = start().await;
    let (_, status) = node.call("GET", "/api/v1/status", "").await;
    let expected = [
        "addresses",
        "agreement",
        "certificate",
        "files",
        "fingerprint",
        "instances",
        "members",
        "mesh",
        "node",
        "ready",
        "services",
        "version",
        "zones",
    ];
    assert_eq!(keys(&status), expected);
    assert_eq!(status["members"], json!({"alive": 1, "suspect": 0, "down": 0, "left": 0}));
    let (_, members) = node.call("GET", "/api/v1/members", "").await;
    let expected =
        ["address", "datacenter", "epoch", "id", "meta", "node", "rtt_ms", "since", "state", "version", "zone"];
    assert_eq!(keys(&members[0]), expected);
    assert_eq!(node.call("GET", "/livez", "").await, (200, json!({"live": true})));
    assert_eq!(node.call("GET", "/readyz", "").await, (200, json!({"ready": true, "reasons": []})));
    let (_, head, metrics) = node.raw("GET", "/metrics", "", "").await;
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(metrics.contains("hobnob_members{state=\"alive\"} 1\n") && metrics.ends_with("# EOF\n"), "{metrics}");
    assert_eq!(node.call("POST", "/api/v1/leave", "").await, (200, json!({"leaving": true})));
    node.agent.stopped().await.unwrap();
}

#[tokio::test]
async fn envoy_is_told_of_a_cluster_once_and_again_when_it_has_changed() {
    let node = start().await;
    let register =
        async |body: &str| assert!(node.call("PUT", "/api/v1/registrations/web", body).await.0 < 300, "{body}");
    register(r#"{"name": "web", "address": "10.0.0.1", "port": 80}"#).await;
    let ask = async |version: &str| {
        let asked = json!({
            "version_info": version, "node": {"id": "envoy-1", "cluster": "front"}, "resource_names": ["web", "none"],
            "type_url": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        });
        node.call("POST", "/v3/discovery:endpoints", &asked.to_string()).await
    };
    let (status, first) = ask("").await;
    let endpoint = |answer: &Value| {
        answer["resources"][0]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"].clone()
    };
    assert_eq!((status, endpoint(&first)), (200, json!({"address": "10.0.0.1", "port_value": 80})));
    assert_eq!(
        (&first["resources"][1]["cluster_name"], &first["resources"][1]["endpoints"]),
        (&json!("none"), &json!([]))
    );
    let version = first["version_info"].as_str().unwrap();
    assert_eq!(ask(version).await, (304, Value::Null));
    register(r#"{"name": "web", "address": "10.0.0.1", "port": 81}"#).await;
    assert_eq!(endpoint(&ask(version).await.1)["port_value"], 81);
    let clusters = json!({"type_url": "type.googleapis.com/envoy.config.cluster.v3.Cluster"});
    assert_eq!(node.call("POST", "/v3/discovery:endpoints", &clusters.to_string()).await.0, 400);
}

/// What stands on a node without an agent, with what is said of it.
fn pg(checks: &Value) -> Value {
    json!({"Node": "db", "Address": "10.5.1.1", "Service": {"Service": "pg", "Port": 5432}, "Checks": checks})
}

#[tokio::test]
async fn who_has_not_heard_the_others_says_nothing_over_what_they_may_have_said() {
    let (secret, folder) = (Secret::random(), tempfile::tempdir().unwrap());
    let (register, deregister, app) = ("/v1/catalog/register", "/v1/catalog/deregister", "/eureka/apps/WEB");
    let client = json!({"instance": {"instanceId": "i", "hostName": "h", "app": "WEB", "ipAddr": "10.0.0.9",
        "port": {"$": 80, "@enabled": "true"}}});
    let own = json!({"Name": "own", "Check": {"TTL": "1h"}});
    let late = begin("web-2", &secret, Some(folder.path()), &[]).await;
    late.until_ready().await;
    let first = start_with(&secret).await;
    for node in [&late, &first] {
        assert_eq!(node.write("PUT", register, &pg(&json!([]))).await.0, 200);
        assert_eq!(node.write("POST", app, &client).await.0, 204);
    }
    let dead = json!([{"CheckID": "dead", "ServiceID": "pg", "Status": "critical"}]);
    assert_eq!(first.write("PUT", register, &pg(&dead)).await.0, 200);
    assert_eq!(first.write("PUT", "/eureka/apps/WEB/i/status?value=OUT_OF_SERVICE", &Value::Null).await.0, 200);
    late.agent.leave().await;
    late.stop.cancel();
    late.server.stopped().await;
    // It starts again, and nobody listens where it looks.
    let late = begin("web-2", &secret, Some(folder.path()), &["127.0.0.1:1"]).await;
    let mut skips = pg(&json!([]));
    (skips["SkipNodeUpdate"], skips["Address"]) = (json!(true), json!("10.9.9.9"));
    let check = json!({"Node": "db", "Address": "10.5.1.1", "Check": dead[0]});
    let (out, critical) = (json!({"enabled": true}), json!({"status": "critical"}));
    for (method, path, body) in [
        ("PUT", register, &pg(&json!([]))),
        ("PUT", register, &skips),
        ("PUT", register, &check),
        ("PUT", deregister, &json!({"Node": "db"})),
        ("PUT", deregister, &json!({"Node": "elsewhere"})),
        ("PUT", "/api/v1/maintenance/%40db%2Fpg", &out),
        ("PUT", "/api/v1/maintenance/web%2Fi", &out),
        ("PUT", "/v1/agent/service/maintenance/web%2Fi?enable=true", &Value::Null),
        ("PUT", "/api/v1/registrations/web%2Fi/checks/status", &critical),
        ("PUT", "/v1/agent/service/deregister/web%2Fi", &Value::Null),
        ("DELETE", "/api/v1/registrations/web%2Fi", &Value::Null),
        ("POST", app, &client),
        ("PUT", "/eureka/apps/WEB/i", &Value::Null),
        ("PUT", "/eureka/apps/WEB/other", &Value::Null),
        ("PUT", "/eureka/apps/WEB/i/status?value=UP", &Value::Null),
        ("DELETE", "/eureka/apps/WEB/i/status", &Value::Null),
        ("PUT", "/eureka/apps/WEB/i/metadata?k=v", &Value::Null),
        ("DELETE", "/eureka/apps/WEB/i", &Value::Null),
    ] {
        assert_eq!(late.write(method, path, body).await, (503, true), "{method} {path} {body}");
    }
    // What is its own alone is nobody else's to speak of.
    for (method, path, body, status) in [
        ("PUT", "/v1/agent/service/register", &own, 200),
        ("PUT", "/v1/agent/check/pass/service:own", &Value::Null, 200),
        ("PUT", "/v1/agent/service/maintenance/own?enable=true", &Value::Null, 200),
        ("PUT", "/v1/agent/service/deregister/own", &Value::Null, 200),
        ("PUT", "/api/v1/registrations/other", &json!({"name": "other", "checks": [{"id": "c", "ttl": "1h"}]}), 201),
        ("PUT", "/api/v1/registrations/other/checks/c", &critical, 200),
        ("PUT", "/api/v1/maintenance/other", &out, 200),
        ("DELETE", "/api/v1/registrations/other", &Value::Null, 204),
    ] {
        assert_eq!(late.write(method, path, body).await.0, status, "{method} {path} {body}");
    }
    assert_eq!(late.write("GET", "/v1/health/service/pg", &Value::Null).await, (503, true), "it was all too early");
    // Once it has heard of it, it speaks like everybody.
    late.agent.seek(&[first.agent.address().to_string()]).await.unwrap();
    late.until_ready().await;
    assert_eq!(late.write("PUT", "/eureka/apps/WEB/i", &Value::Null).await.0, 404, "its lease is with the other");
    assert_eq!(late.write("PUT", register, &pg(&json!([]))).await.0, 200);
    assert_eq!(late.write("POST", app, &client).await.0, 204);
    let (_, rows) = late.call("GET", "/v1/health/service/pg", "").await;
    assert_eq!(rows[0]["Checks"][0]["Status"], "critical", "{rows}");
    let (_, rows) = late.call("GET", "/v1/health/service/web?passing", "").await;
    assert_eq!(rows, json!([]), "an operator has taken it out");
}
