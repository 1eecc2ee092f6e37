//! Consul's HTTP API as its clients meet it: recorded exchanges with a real Consul, asked again of an agent of ours; reads
//! that wait; and what the documents of `/v1` promise beyond the record.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may look at clocks, and fails by panic")]

mod process;

use std::{fs, path::Path};

use process::{Agent, Mesh, until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Where we differ from the record on purpose: the exchange, the place in its answer (a part of the path will do), why.
const DIFFERENT: &[(&str, &str, &str)] = &[
    ("", "header x-consul-effective-consistency", "all reads are this node's view; nobody leads"),
    ("", ".consul-network-segment", "nodes have no segments, and only the meta data they were given"),
    ("", ".Output", "what a check says is its runner's own wording"),
    ("", ".ContentHash", "a hash of our own"),
    ("", ".Coord.", "each server's place in the network is its own"),
    ("GET /v1/agent/members", ".Tags.", "tags name Serf's and Raft's versions; ours name what there is"),
    ("GET /v1/agent/self", "", "names the server's own program; its shape is checked beside"),
    ("GET /v1/catalog/services", ".consul", "there are no servers that form a service"),
    ("GET /v1/catalog/node/n1", ".Services.consul", "there are no servers that form a service"),
    ("GET /v1/status/leader", "", "an address of this node"),
    ("GET /v1/status/peers", "", "addresses of this node"),
    ("PUT /v1/agent/check/pass/nope", "status", "404, so that Spring and Eureka clients register again"),
    ("filter=bad%20bad", "", "a bad filter is the client's mistake: 400, in our own words and with the place"),
];

#[tokio::test]
async fn what_was_recorded_is_answered_again() {
    let (_mesh, agent) = alone().await;
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/consul.jsonl");
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in fs::read_to_string(recorded).unwrap().lines() {
        let recorded: Value = serde_json::from_str(line).unwrap();
        let ask = recorded["ask"].as_str().unwrap();
        let (method, path) = ask.split_once(' ').unwrap();
        let (status, headers, body) = raw(&agent, method, path, recorded["send"].as_str().unwrap_or_default()).await;
        let mut differences = Vec::new();
        if recorded["status"] != status {
            differences.push(format!("status {} is ours {status}", recorded["status"]));
        }
        for (name, value) in recorded["headers"].as_object().into_iter().flatten() {
            let ours = header(&headers, name);
            if ours.is_none() || value != "<any>" && ours != value.as_str() {
                differences.push(format!("header {} {value} is ours {ours:?}", name.to_ascii_lowercase()));
            }
        }
        let is_json = header(&headers, "content-type") == Some("application/json");
        let ours = if is_json { serde_json::from_str(&body).unwrap() } else { Value::from(body) };
        compare(&recorded["body"], &ours, "$", &mut differences);
        differences.retain(|found| !is_known(ask, found));
        wrong.extend(differences.into_iter().map(|found| format!("{ask}: {found}")));
        count += 1;
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert_eq!(count, 78);
}

fn is_known(ask: &str, difference: &str) -> bool {
    DIFFERENT.iter().any(|(about, place, _)| {
        let is_meant = about.is_empty() || ask == *about || !about.contains(' ') && ask.contains(about);
        is_meant && difference.contains(place)
    })
}

/// Lists where two documents differ; what names the server's own state is compared by type.
fn compare(theirs: &Value, ours: &Value, path: &str, differences: &mut Vec<String>) {
    match (theirs, ours) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                match b.get(key) {
                    Some(other) => compare(value, other, &format!("{path}.{key}"), differences),
                    None => differences.push(format!("{path}.{key} is missing")),
                }
            }
            for key in b.keys().filter(|key| !a.contains_key(*key)) {
                differences.push(format!("{path}.{key} is more than recorded"));
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().for_each(|(at, (a, b))| compare(a, b, &format!("{path}[{at}]"), differences));
        }
        (Value::Number(_), Value::Number(_)) if path.ends_with("Index") => {}
        (Value::Number(_), Value::Number(_)) if path.ends_with("].Port") => {}
        (Value::String(uuid), Value::String(id)) if uuid == "<uuid>" && id.len() == 36 => {}
        (a, b) if a == b => {}
        (a, b) => differences.push(format!("{path} {a} is ours {b}")),
    }
}

async fn alone() -> (Mesh, Agent) {
    let mesh = Mesh::new();
    let agent = mesh.start("n1", &[]).await;
    (mesh, agent)
}

/// Status, head and body of one answer.
async fn raw(agent: &Agent, method: &str, path: &str, body: &str) -> (u16, String, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(agent.http).await.unwrap();
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all((head + body).as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_owned(), body.to_owned())
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
}

/// A read with its number.
async fn read(agent: &Agent, path: &str) -> (u64, Value) {
    let (status, head, body) = raw(agent, "GET", path, "").await;
    assert_eq!(status, 200, "{path}: {body}");
    (header(&head, "x-consul-index").unwrap().parse().unwrap(), serde_json::from_str(&body).unwrap())
}

async fn put(agent: &Agent, path: &str, body: &str) {
    let (status, _, answer) = raw(agent, "PUT", path, body).await;
    assert_eq!(status, 200, "{path} {body}: {answer}");
}

const WEB: &str = r#"{"Name": "web", "Port": 80, "Check": {"CheckID": "beat", "TTL": "1h"}}"#;

#[tokio::test]
async fn a_read_waits_for_its_own_topic_alone() {
    let (_mesh, agent) = alone().await;
    put(&agent, "/v1/agent/service/register", WEB).await;
    let (index, before) = read(&agent, "/v1/health/service/web").await;
    assert_eq!(before[0]["Checks"][1]["Status"], "critical");
    // Another service moves nothing here: the wait runs out with the same number and the same body.
    let (parked, ()) =
        tokio::join!(read_owned(&agent, format!("/v1/health/service/web?index={index}&wait=500ms")), async {
            put(&agent, "/v1/agent/service/register", r#"{"Name": "other"}"#).await;
        });
    assert_eq!(parked, (index, before));
    let path = format!("/v1/health/service/web?index={index}&wait=5m");
    let (parked, ()) = tokio::join!(read_owned(&agent, path), async {
        put(&agent, "/v1/agent/check/pass/beat?note=fine", "").await;
    });
    assert!(parked.0 > index, "{} {index}", parked.0);
    assert_eq!(
        (&parked.1[0]["Checks"][1]["Status"], &parked.1[0]["Checks"][1]["Output"]),
        (&json!("passing"), &json!("fine"))
    );
    // A name nobody has: its first registration is news.
    let (index, nothing) = read(&agent, "/v1/catalog/service/late").await;
    assert_eq!(nothing, json!([]));
    let path = format!("/v1/catalog/service/late?index={index}&wait=5m");
    let (parked, ()) = tokio::join!(read_owned(&agent, path), async {
        put(&agent, "/v1/agent/service/register", r#"{"Name": "late"}"#).await;
    });
    assert_eq!((parked.0 > index, parked.1[0]["ServiceName"].as_str()), (true, Some("late")));
}

async fn read_owned(agent: &Agent, path: String) -> (u64, Value) {
    read(agent, &path).await
}

#[tokio::test]
async fn what_is_sent_again_is_never_older_than_what_is_known() {
    let (_mesh, agent) = alone().await;
    let path = "/v1/health/service/web?passing";
    let mut last = 0;
    for port in 1..=20 {
        put(&agent, "/v1/agent/service/register", &json!({"Name": "web", "Port": port}).to_string()).await;
        for _ in 0..3 {
            let (index, found) = read(&agent, path).await;
            assert_eq!(found[0]["Service"]["Port"], port);
            assert!(index >= last);
            last = index;
        }
    }
    let (_, _, metrics) = raw(&agent, "GET", "/metrics", "").await;
    assert!(metrics.contains("route=\"again\",code=\"2xx\"} 40\n"), "{metrics}");
    put(&agent, "/v1/agent/service/deregister/web", "").await;
    assert_eq!(read(&agent, path).await.1, json!([]));
    // Only what is read is sent again.
    assert_eq!(raw(&agent, "PUT", path, "").await.0, 405);
}

#[tokio::test]
async fn a_number_that_this_start_did_not_issue_is_answered_at_once() {
    let (mesh, agent) = alone().await;
    put(&agent, "/v1/agent/service/register", WEB).await;
    let (index, _) = read(&agent, "/v1/health/service/web").await;
    for foreign in [1, index ^ 1, index + (1 << 40), u64::MAX] {
        assert_eq!(read(&agent, &format!("/v1/health/service/web?index={foreign}&wait=10m")).await.0, index);
    }
    // A client parked on one node moves to another, and hears of it at once too; the first is then stopped under it.
    let other = mesh.start("n2", &[&agent]).await;
    until("n2 knows web", async || {
        (read(&other, "/v1/health/service/web").await.1[0]["Node"]["Node"] == "n1").then_some(())
    })
    .await;
    let moved = read(&other, &format!("/v1/health/service/web?index={index}&wait=10m")).await;
    assert_eq!(moved.1[0]["Service"]["ID"], "web");
    let parked = read_owned(&agent, format!("/v1/health/service/web?index={index}&wait=10m"));
    let (parked, ()) = tokio::join!(parked, async {
        until("the client is parked", async || {
            raw(&agent, "GET", "/metrics", "").await.2.contains("hobnob_http_parked 1\n").then_some(())
        })
        .await;
        agent.signal(Signal::TERM);
    });
    assert_eq!(parked.0, index, "who is parked when the node stops is answered");
}

#[tokio::test]
async fn a_node_that_is_down_stays_in_the_catalogue_and_passes_no_more() {
    let mesh = Mesh::new();
    let one = mesh.start("n1", &[]).await;
    let two = mesh.start("n2", &[&one]).await;
    put(
        &two,
        "/v1/agent/service/register",
        r#"{"Name": "web", "Port": 80, "TaggedAddresses": {"lan": {"Address": "10.1.1.1", "Port": 5}}}"#,
    )
    .await;
    let shown = until("n1 passes web", async || {
        let shown = read(&one, "/v1/health/service/web?passing").await.1;
        (shown[0]["Node"]["Node"] == "n2").then_some(shown)
    });
    assert_eq!(shown.await[0]["Service"]["TaggedAddresses"]["lan"]["Port"], 5);
    two.kill().await;
    until("n1 passes web no more", async || {
        (read(&one, "/v1/health/service/web?passing").await.1 == json!([])).then_some(())
    })
    .await;
    let (_, all) = read(&one, "/v1/health/service/web").await;
    assert_eq!(
        (&all[0]["Checks"][0]["CheckID"], &all[0]["Checks"][0]["Status"]),
        (&json!("serfHealth"), &json!("critical"))
    );
    let (_, checks) = read(&one, "/v1/health/state/critical").await;
    assert_eq!((&checks[0]["Node"], &checks[0]["CheckID"]), (&json!("n2"), &json!("serfHealth")));
    // An operator who knows that it will not come back takes it out; nobody who lives, and nobody unknown.
    assert_eq!(raw(&one, "PUT", "/v1/agent/force-leave/n1", "").await.0, 409);
    assert_eq!(raw(&one, "PUT", "/v1/agent/force-leave/nobody", "").await.0, 500);
    put(&one, "/v1/agent/force-leave/n2", "").await;
    until("n2 is in the catalogue no more", async || {
        (read(&one, "/v1/catalog/nodes").await.1.as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    assert_eq!(read(&one, "/v1/health/service/web").await.1, json!([]));
}

#[tokio::test]
async fn words_without_a_meaning_here_are_read_back_as_they_were_written() {
    let (_mesh, agent) = alone().await;
    let body = json!({
        "ID": "app#127.0.0.1#3000", "Name": "app", "Port": 3000, "Address": "FD00::1", "EnableTagOverride": true,
        "Tags": ["a=b`c`", "A"], "Meta": {"k": "v"}, "Weights": {"Passing": 5, "Warning": 0},
        "TaggedAddresses": {"wan": {"Address": "198.51.100.7", "Port": 80}},
    });
    put(&agent, "/v1/agent/service/register", &body.to_string()).await;
    let (status, _, shown) = raw(&agent, "GET", "/v1/agent/service/app%23127.0.0.1%233000", "").await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(status, 200);
    for key in ["ID", "Port", "Address", "EnableTagOverride", "Tags", "Meta", "Weights"] {
        assert_eq!(shown[key], body[key], "{key}");
    }
    assert_eq!(shown["TaggedAddresses"]["wan"], body["TaggedAddresses"]["wan"]);
    // Waits by the hash of what is shown, and hears of a change.
    let hash = shown["ContentHash"].as_str().unwrap().to_owned();
    let path = format!("/v1/agent/service/app%23127.0.0.1%233000?hash={hash}&wait=5m");
    let (parked, ()) = tokio::join!(raw(&agent, "GET", &path, ""), async {
        let mut body = body.clone();
        body["Port"] = 3001.into();
        put(&agent, "/v1/agent/service/register", &body.to_string()).await;
    });
    assert_eq!(serde_json::from_str::<Value>(&parked.2).unwrap()["Port"], 3001);
}

#[tokio::test]
async fn what_needs_consensus_is_refused_in_one_sentence() {
    let (_mesh, agent) = alone().await;
    for (method, path, expected) in [
        ("PUT", "/v1/kv/a/b", 501),
        ("DELETE", "/v1/kv/a", 501),
        ("PUT", "/v1/session/create", 501),
        ("PUT", "/v1/txn", 501),
        ("POST", "/v1/query", 501),
        ("GET", "/v1/connect/intentions", 501),
        ("GET", "/v1/acl/tokens", 401),
        ("PUT", "/v1/acl/bootstrap", 401),
        ("PUT", "/v1/agent/token/default", 401),
        ("GET", "/v1/discovery-chain/web", 501),
    ] {
        let (status, _, why) = raw(&agent, method, path, "{}").await;
        assert_eq!((status, why.lines().count()), (expected, 1), "{method} {path}: {why}");
    }
    let script = r#"{"Name": "x", "Check": {"Args": ["/bin/true"], "Interval": "1s"}}"#;
    assert_eq!(raw(&agent, "PUT", "/v1/agent/service/register", script).await.0, 403);
}

#[tokio::test]
async fn events_reach_every_node_and_nodes_without_agents_are_owned_by_who_took_them_in() {
    let mesh = Mesh::new();
    let one = mesh.start("n1", &[]).await;
    let two = mesh.start("n2", &[&one]).await;
    let (index, none) = read(&two, "/v1/event/list?name=deploy").await;
    assert_eq!(none, json!([]));
    let path = format!("/v1/event/list?name=deploy&index={index}&wait=5m");
    let (heard, ()) = tokio::join!(read_owned(&two, path), put(&one, "/v1/event/fire/deploy?node=n", "v2"));
    assert_eq!((&heard.1[0]["Name"], &heard.1[0]["Payload"]), (&json!("deploy"), &json!("djI=")));
    put(&one, "/v1/event/fire/elsewhere?node=^x", "").await;
    assert_eq!(read(&one, "/v1/event/list?name=elsewhere").await.1, json!([]));

    let ext = r#"{"Node": "ext", "Address": "10.9.9.9", "NodeMeta": {"k": "v"}, "Service": {"Service": "search", "Port": 80},
        "Check": {"Name": "up", "Status": "passing", "ServiceID": "search"}}"#;
    put(&one, "/v1/catalog/register", ext).await;
    let found = until("n2 finds search", async || {
        let found = read(&two, "/v1/health/service/search?passing").await.1;
        (found[0]["Node"]["Node"] == "ext" && found[0]["Checks"][0]["Name"] == "up").then_some(found)
    });
    let found = found.await;
    assert_eq!(found[0]["Service"]["ID"], "search");
    let (_, nodes) = read(&two, "/v1/catalog/nodes?node-meta=k:v").await;
    assert_eq!((nodes[0]["Node"].as_str(), nodes.as_array().unwrap().len()), (Some("ext"), 1));
    put(&one, "/v1/catalog/deregister", r#"{"Node": "ext"}"#).await;
    until("ext is gone", async || (read(&two, "/v1/catalog/node-services/ext").await.1 == Value::Null).then_some(()))
        .await;
    let (status, _, why) = raw(&one, "PUT", "/v1/catalog/register", r#"{"Node": "n2", "Address": "10.0.0.1"}"#).await;
    assert_eq!(status, 400, "{why}");
}

#[tokio::test]
async fn a_check_of_the_node_itself_weighs_on_all_that_stands_on_it() {
    let (_mesh, agent) = alone().await;
    put(&agent, "/v1/agent/service/register", r#"{"Name": "web"}"#).await;
    let (index, _) = read(&agent, "/v1/health/service/web?passing").await;
    let path = format!("/v1/health/service/web?passing&index={index}&wait=5m");
    let (parked, ()) = tokio::join!(read_owned(&agent, path), async {
        put(&agent, "/v1/agent/check/register", r#"{"Name": "disk", "TTL": "1h", "Notes": "full?"}"#).await;
    });
    assert_eq!(parked.1, json!([]), "a check that is critical until it is heard of");
    let (_, _, explained) = raw(&agent, "GET", "/api/v1/explain/web", "").await;
    assert!(explained.contains("a check of its whole node is critical"), "{explained}");
    let (_, _, shown) = raw(&agent, "GET", "/api/v1/services/web", "").await;
    assert!(shown.contains(r#""host":"critical""#), "{shown}");
    put(&agent, "/v1/agent/check/pass/disk", "").await;
    assert_eq!(read(&agent, "/v1/health/service/web?passing").await.1[0]["Checks"][0]["CheckID"], "disk");
    assert_eq!(read(&agent, "/v1/catalog/services").await.1, json!({"web": []}));
    put(&agent, "/v1/agent/check/deregister/disk", "").await;
    until("the check is gone", async || {
        let (_, checks) = read(&agent, "/v1/health/node/n1").await;
        (checks.as_array().unwrap().len() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_check_is_told_apart_by_its_id_on_the_whole_node() {
    let (_mesh, agent) = alone().await;
    for name in ["a", "b"] {
        let body = json!({"Name": name, "Port": 1, "Check": {"CheckID": "hc", "TTL": "1h"}});
        put(&agent, "/v1/agent/service/register", &body.to_string()).await;
    }
    put(&agent, "/v1/agent/check/pass/hc?note=fine", "").await;
    let checks = read_own(&agent, "/v1/agent/checks").await;
    assert_eq!((&checks["hc"]["ServiceID"], &checks["hc"]["Status"]), (&json!("b"), &json!("passing")));
    put(&agent, "/v1/agent/check/pass/hc?note=finer", "").await;
    assert_eq!(read_own(&agent, "/v1/agent/checks").await["hc"]["Output"], "finer", "told here at once");
    assert_eq!(checks.as_object().unwrap().len(), 1, "who names an id last has it: {checks}");
    put(&agent, "/v1/agent/check/register", r#"{"CheckID": "hc", "Name": "x", "TTL": "1h"}"#).await;
    assert_eq!(read_own(&agent, "/v1/agent/checks").await["hc"]["ServiceID"], "");
    assert_eq!(read(&agent, "/v1/health/checks/b").await.1, json!([]));
    // Registered again with another definition it stays as it stands, whatever it is to begin with.
    put(&agent, "/v1/agent/check/pass/hc?note=fine", "").await;
    put(&agent, "/v1/agent/check/register", r#"{"CheckID": "hc", "Name": "y", "TTL": "2h", "Status": "warning"}"#)
        .await;
    let check = &read_own(&agent, "/v1/agent/checks").await["hc"];
    assert_eq!([&check["Name"], &check["Status"], &check["Output"]], ["y", "passing", "fine"]);
}

#[tokio::test]
async fn a_check_called_by_one_s_own_id_is_taken_from_whoever_had_such_an_id() {
    let (_mesh, agent) = alone().await;
    put(&agent, "/v1/agent/service/register", r#"{"ID": "a", "Name": "a", "Checks": [{"TTL": "1h"}, {"TTL": "1h"}]}"#)
        .await;
    put(&agent, "/v1/agent/service/register", r#"{"ID": "a:1", "Name": "b", "Check": {"TTL": "1h"}}"#).await;
    let checks = read_own(&agent, "/v1/agent/checks").await;
    let owners: Vec<_> = checks.as_object().unwrap().iter().map(|(id, check)| (&**id, &check["ServiceID"])).collect();
    assert_eq!(owners, [("service:a:1", &json!("a:1")), ("service:a:2", &json!("a"))]);
}

#[tokio::test]
async fn rows_of_our_own_are_neither_shown_nor_taken() {
    let (_mesh, agent) = alone().await;
    put(&agent, "/v1/agent/check/register", r#"{"Name": "disk", "TTL": "1h"}"#).await;
    put(&agent, "/v1/event/fire/deploy", "").await;
    for (method, path, body, expected) in [
        ("GET", "/v1/agent/service/@node", "", 404),
        ("GET", "/v1/agent/health/service/id/@node", "", 404),
        ("PUT", "/v1/agent/service/register", r#"{"Name": "x", "ID": "@node"}"#, 400),
        ("PUT", "/v1/agent/service/register", r#"{"Name": "x", "ID": "@event/1"}"#, 400),
        ("PUT", "/v1/agent/service/deregister/@node", "", 200),
        ("PUT", "/v1/agent/service/maintenance/@node?enable=true", "", 404),
        ("PUT", "/v1/agent/check/register", r#"{"Name": "x", "TTL": "1h", "ServiceID": "@node"}"#, 500),
        ("GET", "/api/v1/registrations/@node", "", 404),
        ("DELETE", "/api/v1/registrations/@node", "", 404),
    ] {
        let (status, _, why) = raw(&agent, method, path, body).await;
        assert_eq!(status, expected, "{method} {path}: {why}");
    }
    assert!(read_own(&agent, "/v1/agent/checks").await["disk"].is_object());
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_in_consul_s_words() {
    let (_mesh, agent) = alone().await;
    for (check, why) in [
        (json!({"TTL": "1s", "Interval": "1s"}), "Interval and TTL cannot both be specified"),
        (json!({"HTTP": "http://127.0.0.1/", "TTL": "1s"}), "Interval must be > 0"),
        (json!({"AliasService": "a", "TTL": "1s"}), "Alias checks"),
        (json!({"AliasService": "a", "Interval": "1s"}), "Alias checks"),
    ] {
        let body = json!({"Name": "web", "Check": check}).to_string();
        let (status, _, said) = raw(&agent, "PUT", "/v1/agent/service/register", &body).await;
        assert!(status == 400 && said.contains(why), "{check}: {status} {said}");
    }
    let weightless = r#"{"Name": "web", "Weights": {"Passing": 0, "Warning": 1}}"#;
    assert_eq!(raw(&agent, "PUT", "/v1/agent/service/register", weightless).await.0, 400);
    for (method, path, expected) in [
        ("GET", "/v1/coordinate/node/n1?dc=nope", 500),
        ("GET", "/v1/health/service/", 400),
        ("PUT", "/v1/agent/join/127.0.0.1:1", 500),
        ("OPTIONS", "/v1/catalog/services", 200),
    ] {
        assert_eq!(raw(&agent, method, path, "").await.0, expected, "{method} {path}");
    }
    let itself = read_own(&agent, "/v1/agent/self").await;
    assert_eq!((&itself["Config"]["Version"], &itself["Member"]["Status"]), (&json!("1.8.7"), &json!(1)));
}

#[tokio::test]
async fn the_root_of_an_empty_store_is_empty_too() {
    let (_mesh, agent) = alone().await;
    let (status, headers, _) = raw(&agent, "GET", "/v1/kv/?recurse", "").await;
    let index = header(&headers, "x-consul-index").unwrap();
    let waits = raw(&agent, "GET", &format!("/v1/kv/?keys&index={index}&wait=100ms"), "").await;
    assert_eq!((status, waits.0, header(&waits.1, "x-consul-index")), (404, 404, Some(index)));
    assert_eq!(raw(&agent, "GET", "/v1/kv/", "").await.0, 400);
    assert_eq!(raw(&agent, "PUT", "/v1/kv/", "x").await.0, 501);
}

#[tokio::test]
async fn names_with_underscores_and_the_tags_of_proxies_are_taken() {
    let (_mesh, agent) = alone().await;
    let rule = format!("traefik.http.routers.x.rule=Host(`{}`)", "a".repeat(300));
    let tags: Vec<_> = (0..100).map(|n| n.to_string()).chain([rule.clone()]).collect();
    let body =
        json!({"Name": "my_svc", "Port": 1, "Tags": tags, "Check": {"HTTP": "http://127.0.0.1:1/", "Interval": 6e10}});
    put(&agent, "/v1/agent/service/register", &body.to_string()).await;
    let found = read(&agent, "/v1/catalog/service/my_svc").await.1;
    assert_eq!(found[0]["ServiceTags"], json!(tags));
    assert_eq!(read(&agent, &format!("/v1/health/service/my_svc?tag={}", "x".repeat(3000))).await.1, json!([]));
}

#[tokio::test]
async fn a_node_without_an_agent_moves_with_all_that_stands_on_it() {
    let mesh = Mesh::new();
    let one = mesh.start("n1", &[]).await;
    let two = mesh.start("n2", &[&one]).await;
    let service = r#"{"Node": "ext", "Address": "10.9.9.9", "Service": {"Service": "search", "Port": 80},
        "Check": {"CheckID": "up", "Name": "up", "ServiceID": "search"}}"#;
    put(&one, "/v1/catalog/register", service).await;
    put(&one, "/v1/catalog/register", r#"{"Node": "ext", "Address": "10.9.9.10", "NodeMeta": {"k": "v"}}"#).await;
    put(&one, "/v1/catalog/register", r#"{"Node": "ext", "SkipNodeUpdate": true, "Service": {"Service": "more"}}"#)
        .await;
    for name in ["search", "more"] {
        let path = format!("/v1/catalog/service/{name}");
        let found = until("n2 finds it where it moved", async || {
            let found = read(&two, &path).await.1;
            (found[0]["Address"] == "10.9.9.10").then_some(found)
        });
        assert_eq!(found.await[0]["NodeMeta"], json!({"k": "v"}), "{name}");
    }
    let gone = r#"{"Node": "ext", "ServiceID": "search", "CheckID": "up"}"#;
    let (status, _, why) = raw(&two, "PUT", "/v1/catalog/deregister", gone).await;
    assert!(status == 409 && why.contains("n1"), "{status} {why}");
    put(&one, "/v1/catalog/deregister", gone).await;
    assert_eq!(read(&one, "/v1/catalog/service/search").await.1, json!([]), "the service goes, not its check alone");
}

/// A read of this agent alone, which has no number.
async fn read_own(agent: &Agent, path: &str) -> Value {
    let (status, _, body) = raw(agent, "GET", path, "").await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}
