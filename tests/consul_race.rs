//! Many clients of Consul's and Eureka's APIs at a time: what each was told is done stays done, whoever wrote beside it;
//! and what all of them wait for is told to all.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may look at clocks, and fails by panic")]

mod process;

use futures_util::future::join_all;
use process::{Agent, Mesh, until};
use serde_json::{Value, json};

/// An agent with Eureka's face too.
async fn alone() -> (Mesh, Agent) {
    let mesh = Mesh::new();
    let agent = mesh.launch("n1", mesh.agent("n1", "n1").env("HOBNOB_HTTP__EUREKA", "true")).await;
    (mesh, agent)
}

/// One write in any API, which must be carried out.
async fn write(agent: &Agent, method: &str, path: &str, body: Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let (status, answer) = agent.call_with("", method, path, &body).await;
    assert!(matches!(status, 200 | 204), "{method} {path} {body}: {answer}");
}

async fn put(agent: &Agent, path: &str, body: Value) {
    write(agent, "PUT", path, body).await;
}

/// Writes that begin together.
async fn all(writes: impl IntoIterator<Item = impl Future<Output = ()>>) {
    join_all(writes).await;
}

/// The ids of this node's checks that begin so.
async fn checks(agent: &Agent, prefix: &str) -> usize {
    let all = agent.get("/v1/agent/checks").await;
    all.as_object().unwrap().keys().filter(|id| id.starts_with(prefix)).count()
}

const REGISTER: &str = "/v1/agent/service/register";
const CHECK: &str = "/v1/agent/check/register";
const CATALOG: &str = "/v1/catalog/register";
const WITHDRAW: &str = "/v1/catalog/deregister";

#[tokio::test]
async fn checks_that_are_registered_at_a_time_are_all_kept() {
    let (_mesh, agent) = alone().await;
    put(&agent, REGISTER, json!({"Name": "web", "Port": 1})).await;
    all((0..24).map(|n| {
        let (id, service) = (format!("k{n}"), if n % 2 == 0 { json!("web") } else { Value::Null });
        put(&agent, CHECK, json!({"Name": id, "ServiceID": service, "TTL": "1h"}))
    }))
    .await;
    assert_eq!(checks(&agent, "k").await, 24);
    let paths: Vec<_> = (0..24).map(|n| format!("/v1/agent/check/deregister/k{n}")).collect();
    all(paths.iter().map(|path| put(&agent, path, Value::Null))).await;
    assert_eq!(checks(&agent, "k").await, 0);
}

#[tokio::test]
async fn a_service_and_its_check_are_written_beside_each_other() {
    let (_mesh, agent) = alone().await;
    let gone = "/v1/agent/service/deregister/web";
    for round in 0..12 {
        put(&agent, REGISTER, json!({"Name": "web", "Port": 1})).await;
        let check = put(&agent, CHECK, json!({"Name": "up", "ServiceID": "web", "TTL": "1h"}));
        tokio::join!(check, put(&agent, REGISTER, json!({"Name": "web", "Port": 2})));
        assert_eq!(agent.get("/v1/agent/service/web").await["Port"], 2, "round {round}");
        assert_eq!(checks(&agent, "up").await, 1, "round {round}");
        // What Nomad and Vault do when they stop.
        tokio::join!(put(&agent, "/v1/agent/check/deregister/up", Value::Null), put(&agent, gone, Value::Null));
        assert_eq!(agent.get("/v1/agent/services").await, json!({}), "round {round}");
        put(&agent, REGISTER, json!({"Name": "web", "Port": 1})).await;
        let late = json!({"Name": "up", "ServiceID": "web", "TTL": "1h"}).to_string();
        let ((status, _), ()) = tokio::join!(agent.call_with("", "PUT", CHECK, &late), put(&agent, gone, Value::Null));
        assert!(matches!(status, 200 | 500), "its service is there or not: {status}");
        assert_eq!(agent.get("/v1/agent/services").await, json!({}), "round {round}");
    }
}

#[tokio::test]
async fn what_many_say_of_one_foreign_node_is_all_kept_and_what_they_withdraw_is_gone() {
    let (_mesh, agent) = alone().await;
    let service = |n: u16| json!({"Service": "search", "ID": format!("s{n}"), "Port": n + 1});
    all((0..16).map(|n| {
        let check = json!({"Name": format!("c{n}"), "Status": "passing"});
        put(&agent, CATALOG, json!({"Node": "ext", "Address": "10.9.9.9", "Service": service(n), "Check": check}))
    }))
    .await;
    assert_eq!(agent.get("/v1/catalog/service/search").await.as_array().unwrap().len(), 16);
    let found = agent.get("/v1/health/node/ext").await;
    assert_eq!(found.as_array().unwrap().len(), 16);
    assert!(found.as_array().unwrap().iter().all(|check| check["Status"] == "passing"), "{found}");
    // The node moves while what stands on it goes; in the end it is there alone.
    let moves = (10..18).map(|last| json!({"Node": "ext", "Address": format!("10.9.9.{last}")}));
    let withdrawals = (0..16).map(|n| json!({"Node": "ext", "ServiceID": format!("s{n}")}));
    let moves = moves.map(|body| put(&agent, CATALOG, body));
    tokio::join!(all(moves), all(withdrawals.map(|body| put(&agent, WITHDRAW, body))));
    assert_eq!(agent.get("/v1/catalog/service/search").await, json!([]));
    assert_eq!(agent.get("/v1/catalog/node/ext").await["Services"], json!({}));
    put(&agent, WITHDRAW, json!({"Node": "ext"})).await;
    assert_eq!(agent.get("/v1/catalog/node/ext").await, Value::Null);
}

#[tokio::test]
async fn eureka_s_writes_to_one_instance_do_not_undo_each_other() {
    let (_mesh, agent) = alone().await;
    let web = json!({"instance": {"instanceId": "i", "hostName": "h", "app": "WEB", "ipAddr": "10.0.0.9",
        "port": {"$": 80, "@enabled": "true"}}});
    let (path, status) = ("/eureka/apps/WEB/i", "/eureka/apps/WEB/i/status?value=OUT_OF_SERVICE");
    let keys: Vec<_> = (0..8).map(|n| format!("{path}/metadata?k{n}=v")).collect();
    for round in 0..6 {
        write(&agent, "POST", "/eureka/apps/WEB", web.clone()).await;
        let notes = all(keys.iter().map(|path| put(&agent, path, Value::Null)));
        tokio::join!(notes, put(&agent, status, Value::Null));
        let (_, answer) = agent.call_with("Accept: application/json\r\n", "GET", path, "").await;
        assert!(answer.contains(r#""status":"OUT_OF_SERVICE""#), "round {round}: {answer}");
        assert!((0..8).all(|n| answer.contains(&format!(r#""k{n}":"v""#))), "round {round}: {answer}");
        let late = agent.call_with("", "PUT", &keys[0], "");
        let ((code, _), ()) = tokio::join!(late, write(&agent, "DELETE", path, Value::Null));
        assert!(matches!(code, 200 | 404), "it is there or not: {code}");
        assert_eq!(agent.call_with("", "GET", path, "").await.0, 404, "round {round}: back after it was cancelled");
    }
}

/// A read with its number.
async fn read(agent: &Agent, path: &str) -> (u64, Value) {
    let (status, answer) = agent.call_with("", "GET", path, "").await;
    assert_eq!(status, 200, "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let index = head.lines().find_map(|line| line.strip_prefix("x-consul-index: ")).unwrap();
    (index.parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[tokio::test]
async fn a_narrowed_list_of_services_wakes_when_what_narrows_it_changes() {
    let (_mesh, agent) = alone().await;
    put(&agent, REGISTER, json!({"Name": "web", "Meta": {"v": "1"}})).await;
    put(&agent, CATALOG, json!({"Node": "ext", "Address": "10.9.9.9", "Service": {"Service": "db"}})).await;
    let two = "/v1/catalog/services?filter=ServiceMeta.v==%222%22";
    let rack = "/v1/catalog/services?node-meta=rack:a";
    for (path, name, change) in [
        (two, "web", (REGISTER, json!({"Name": "web", "Meta": {"v": "2"}}))),
        (rack, "db", (CATALOG, json!({"Node": "ext", "Address": "10.9.9.9", "NodeMeta": {"rack": "a"}}))),
    ] {
        let (index, before) = read(&agent, path).await;
        assert_eq!(before, json!({}), "{path}");
        let parked = format!("{path}&index={index}&wait=5m");
        let (parked, ()) = tokio::join!(read(&agent, &parked), put(&agent, change.0, change.1));
        assert!(parked.0 > index, "{path}");
        // A node is told of before what stands on it.
        assert_eq!(agent.get(path).await, json!({name: []}), "{path}");
    }
    // A check of the node stands under a name that may be a service's too.
    put(&agent, CHECK, json!({"Name": "disk", "TTL": "1h"})).await;
    assert_eq!(agent.get("/v1/catalog/services").await, json!({"db": [], "web": []}));
    put(&agent, REGISTER, json!({"Name": "hobnob-node-checks"})).await;
    assert_eq!(agent.get("/v1/catalog/services").await, json!({"db": [], "hobnob-node-checks": [], "web": []}));
    put(&agent, "/v1/agent/service/deregister/hobnob-node-checks", Value::Null).await;
    assert_eq!(agent.get("/v1/catalog/services").await, json!({"db": [], "web": []}));
}

#[tokio::test]
async fn a_node_without_an_agent_may_take_the_name_of_one_that_left() {
    let (mesh, one) = alone().await;
    let two = mesh.start("n2", &[&one]).await;
    one.until_seen("n2", "alive").await;
    assert_eq!(two.call("POST", "/api/v1/leave", "").await.0, 200);
    one.until_seen("n2", "left").await;
    let paths = ["/v1/catalog/node/n2", "/v1/health/node/n2"];
    let mut seen = Vec::new();
    for path in paths {
        seen.push(read(&one, path).await.0);
    }
    let body = json!({"Node": "n2", "Address": "10.9.9.9", "Service": {"Service": "db"}, "Check": {"Name": "up"}});
    let parked: Vec<_> = paths.iter().zip(seen).map(|(path, seen)| format!("{path}?index={seen}&wait=5m")).collect();
    tokio::join!(join_all(parked.iter().map(|path| read(&one, path))), put(&one, CATALOG, body));
    let node = until("the node is listed with its service", async || {
        let node = read(&one, paths[0]).await.1;
        node["Services"]["db"].is_object().then_some(node)
    });
    assert_eq!(node.await["Node"]["Address"], "10.9.9.9");
    let (index, checks) = read(&one, paths[1]).await;
    assert_eq!((&checks[0]["CheckID"], &checks[0]["Status"]), (&json!("up"), &json!("critical")));
    let body = json!({"Node": "n2", "Address": "10.9.9.9", "Check": {"Name": "up", "Status": "passing"}});
    let parked = format!("{}?index={index}&wait=5m", paths[1]);
    let (parked, ()) = tokio::join!(read(&one, &parked), put(&one, CATALOG, body));
    assert!(parked.0 > index);
    let word = until("its check passes", async || {
        let checks = read(&one, paths[1]).await.1;
        (checks[0]["Status"] == "passing").then_some(checks)
    });
    assert_eq!(word.await.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_name_is_as_valid_without_instances_as_with() {
    let (_mesh, agent) = alone().await;
    for name in ["billing.api", "My%20Service", "a%2Fb"] {
        for path in [format!("/api/v1/services/{name}"), format!("/api/v1/prometheus?service={name}")] {
            assert_eq!(agent.get(&path).await, json!([]), "{path}");
        }
    }
    assert_eq!(agent.call("GET", "/api/v1/prometheus?service=", "").await.0, 400);
}

#[tokio::test]
async fn what_go_s_decoder_takes_is_taken_and_empty_ids_are_named() {
    let (_mesh, agent) = alone().await;
    let notes = "x".repeat(1500);
    let check = json!({"Name": "up", "TCP": "127.0.0.1:1", "Interval": "1ms", "Notes": notes});
    let body = json!({"Name": "web", "Tags": ["a", null], "Meta": {"k": null}, "TaggedAddresses": {"lan": null},
        "Check": check});
    put(&agent, REGISTER, body).await;
    let shown = agent.get("/v1/agent/service/web").await;
    assert_eq!((&shown["Tags"], &shown["Meta"]), (&json!(["a", ""]), &json!({"k": ""})));
    let checks = agent.get("/v1/agent/checks").await;
    assert_eq!(checks["service:web"]["Notes"].as_str().map(str::len), Some(1024), "{checks}");
    for (method, path, status) in [
        ("PUT", "/v1/agent/service/deregister/", 400),
        ("PUT", "/v1/agent/service/maintenance/?enable=true", 400),
        ("PUT", "/v1/agent/check/deregister/", 400),
        ("PUT", "/v1/agent/check/pass/", 400),
        ("PUT", "/v1/agent/force-leave/", 400),
        ("PUT", "/v1/agent/join/", 400),
        ("PUT", "/v1/event/fire/", 400),
        ("GET", "/v1/health/service/web?passing=x", 400),
        ("GET", "/v1/session", 501),
        ("GET", "/v1/operator", 501),
        ("GET", "/v1/acl", 401),
    ] {
        let (found, answer) = agent.call_with("", method, path, "").await;
        let (_, why) = answer.split_once("\r\n\r\n").unwrap();
        assert!(found == status && why.contains(' '), "{method} {path}: {found} {why:?}");
    }
}
