//! Consul's API beyond the record: names that DNS cannot hold, nodes without agents that several agents speak of, every form
//! of a check, and every parameter of a read.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may look at clocks, and fails by panic")]

mod process;

use process::{Agent, Mesh, until};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Status and body of one write, which may be plain text.
async fn write(agent: &Agent, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(agent.http).await.unwrap();
    let length = body.len();
    let head =
        format!("PUT {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all((head + body).as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

async fn put(agent: &Agent, path: &str, body: &Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let (status, answer) = write(agent, path, &body).await;
    assert_eq!(status, 200, "{path} {body}: {answer}");
}

const REGISTER: &str = "/v1/agent/service/register";

#[tokio::test]
async fn a_name_that_dns_cannot_hold_is_known_everywhere_else() {
    let mesh = Mesh::new();
    let one = mesh.start("n1", &[]).await;
    let long = "x".repeat(100);
    let names = ["billing.api", "My Service", "_tcp", "a/b", &long];
    for (port, name) in names.iter().enumerate() {
        let body = json!({"Name": name, "Port": port + 1, "Check": {"TTL": "1h", "Status": "passing"}});
        put(&one, REGISTER, &body).await;
    }
    one.until_logged("service=billing.api").await;
    // Its own book is read back from the disk, and another node's from the wire.
    one.kill_both().await;
    let one = mesh.start("n1", &[]).await;
    let two = mesh.start("n2", &[&one]).await;
    for (port, name) in names.iter().enumerate() {
        let path = name.replace(' ', "%20").replace('/', "%2F");
        for agent in [&one, &two] {
            let found = until("it passes", async || {
                let found = agent.get(&format!("/v1/health/service/{path}?passing")).await;
                (found[0]["Service"]["Port"] == port + 1).then_some(found)
            });
            assert_eq!(found.await[0]["Service"]["Service"], *name);
            assert_eq!(agent.get(&format!("/api/v1/services/{path}")).await[0]["name"], *name);
        }
        let id = format!("/v1/agent/health/service/name/{path}");
        assert_eq!(one.get(&id).await[0]["Checks"][0]["Name"], format!("Service '{name}' check"));
        let ours = json!({"name": name, "port": 1}).to_string();
        assert_eq!(one.call("PUT", "/api/v1/registrations/x", &ours).await.0, 400, "our own words: {name}");
    }
    assert_eq!(two.get("/v1/catalog/services").await.as_object().unwrap().len(), names.len());
    let services = two.get("/api/v1/prometheus?service=billing.api").await;
    assert_eq!(services[0]["labels"]["__meta_hobnob_service"], "billing.api");
    put(&one, "/v1/agent/service/deregister/a%2Fb", &Value::Null).await;
    assert_eq!(one.get("/v1/catalog/service/a%2Fb").await, json!([]));
    let (status, why) = write(&one, REGISTER, &json!({"Name": "x".repeat(256)}).to_string()).await;
    assert!(status == 400 && why.contains("255"), "{why}");
}

#[tokio::test]
async fn a_name_in_another_case_is_another_spelling_and_renames_nobody() {
    let mesh = Mesh::new();
    let one = mesh.start("n1", &[]).await;
    put(&one, REGISTER, &json!({"ID": "c1", "Name": "casey", "Port": 1, "Tags": ["b"]})).await;
    put(&one, REGISTER, &json!({"ID": "c2", "Name": "CASEY", "Port": 2, "Tags": ["b", "a"]})).await;
    assert_eq!(one.get("/v1/catalog/services").await, json!({"CASEY": ["b", "a"], "casey": ["b"]}));
    put(&one, REGISTER, &json!({"ID": "c1", "Name": "casey", "Port": 3, "Tags": ["b"]})).await;
    let name = one.get("/api/v1/services").await[0]["name"].clone();
    assert_eq!(name, "CASEY", "the same whoever wrote last");
    put(&one, "/v1/agent/service/deregister/c2", &Value::Null).await;
    assert_eq!(one.get("/v1/catalog/services").await, json!({"casey": ["b"]}));
    assert_eq!(one.get("/api/v1/services").await[0]["name"], "casey");
}

#[tokio::test]
async fn what_stands_on_a_node_without_an_agent_goes_when_that_has_one_too() {
    let mesh = Mesh::new();
    let one = mesh.start("n1", &[]).await;
    for node in ["n2", "N2"] {
        let body = json!({"Node": node, "Address": "10.9.9.9", "Service": {"ID": node, "Service": "db", "Port": 1}});
        put(&one, "/v1/catalog/register", &body).await;
    }
    assert_eq!(one.get("/v1/catalog/nodes").await.as_array().unwrap().len(), 2, "a name in two cases is one");
    let two = mesh.start("n2", &[&one]).await;
    one.until_seen("n2", "alive").await;
    let nodes = one.get("/v1/catalog/nodes").await;
    assert_eq!((nodes.as_array().unwrap().len(), &nodes[1]["Address"]), (2, &json!("127.0.0.1")), "{nodes}");
    let again = json!({"Node": "n2", "Address": "10.9.9.9", "Service": {"Service": "web", "Port": 1}}).to_string();
    assert_eq!(write(&one, "/v1/catalog/register", &again).await.0, 400, "it speaks for itself");
    put(&one, "/v1/catalog/deregister", &json!({"Node": "n2", "ServiceID": "n2"})).await;
    put(&one, "/v1/catalog/deregister", &json!({"Node": "N2"})).await;
    for agent in [&one, &two] {
        until("nothing but its agent is left", async || {
            (agent.get("/v1/catalog/node/n2").await["Services"] == json!({})).then_some(())
        })
        .await;
    }
    assert_eq!(write(&one, "/v1/catalog/deregister", r#"{"Node": "n2"}"#).await.0, 400, "nothing is left to withdraw");
}

#[tokio::test]
async fn of_what_two_agents_say_of_a_foreign_service_the_last_word_counts() {
    let mesh = Mesh::new();
    let one = mesh.start("n1", &[]).await;
    let two = mesh.start("n2", &[&one]).await;
    let ext = |port: u16| {
        json!({"Node": "ext", "Address": "10.9.9.9", "Service": {"ID": "s1", "Service": "search",
        "Port": port, "Weights": {"Passing": 0, "Warning": 0}}})
    };
    let shows = async |ports: &[u16]| {
        for agent in [&one, &two] {
            until(&format!("{ports:?} is shown"), async || {
                let found = agent.get("/v1/catalog/service/search").await;
                let found: Vec<_> = found.as_array()?.iter().map(|row| row["ServicePort"].clone()).collect();
                (json!(found) == json!(ports)).then_some(())
            })
            .await;
        }
    };
    put(&one, "/v1/catalog/register", &ext(1)).await;
    shows(&[1]).await;
    put(&two, "/v1/catalog/register", &ext(2)).await;
    shows(&[2]).await;
    // Said again it is nothing new: nobody who waits is woken.
    let before = two.get("/v1/catalog/service/search").await;
    assert_eq!(before[0]["ServiceWeights"], json!({"Passing": 1, "Warning": 1}), "noughts of Go's clients are none");
    put(&two, "/v1/catalog/register", &ext(2)).await;
    assert_eq!(two.get("/v1/catalog/service/search").await, before);
    put(&one, "/v1/catalog/register", &ext(3)).await;
    shows(&[3]).await;
    two.until_resolved("search", &["3"]).await;
    assert_eq!(two.get("/v1/catalog/nodes").await.as_array().unwrap().len(), 3);
    // Who withdraws it is told whose word stands, until nobody's does.
    let gone = json!({"Node": "ext", "ServiceID": "s1"}).to_string();
    let (status, why) = write(&two, "/v1/catalog/deregister", &gone).await;
    assert!(status == 409 && why.contains("has withdrawn") && why.contains("n1"), "{status} {why}");
    until("nobody else holds it", async || {
        (write(&one, "/v1/catalog/deregister", &gone).await == (200, "true".into())).then_some(())
    })
    .await;
    shows(&[]).await;
}

#[tokio::test]
async fn a_foreign_service_keeps_its_checks_and_hears_of_its_node_from_anybody() {
    let mesh = Mesh::new();
    let one = mesh.start("n1", &[]).await;
    let two = mesh.start("n2", &[&one]).await;
    let ext = json!({"Node": "ext", "Address": "10.9.9.9", "Service": {"Service": "search", "Port": 1},
        "Check": {"Name": "up", "Status": "passing", "ServiceID": "search"}});
    put(&one, "/v1/catalog/register", &ext).await;
    let again = json!({"Node": "ext", "Address": "10.9.9.9", "Service": {"Service": "search", "Port": 2}});
    put(&one, "/v1/catalog/register", &again).await;
    let found = one.get("/v1/health/service/search?passing").await;
    assert_eq!((&found[0]["Service"]["Port"], &found[0]["Checks"][0]["Name"]), (&json!(2), &json!("up")));
    // Another agent that takes it over takes its checks over too.
    until("n2 knows its check", async || {
        (two.get("/v1/health/service/search?passing").await[0]["Checks"][0]["Name"] == "up").then_some(())
    })
    .await;
    put(&two, "/v1/catalog/register", &json!({"Node": "ext", "Address": "10.9.9.9", "Service": {"Service": "search"}}))
        .await;
    let found = two.get("/v1/health/service/search?passing").await;
    assert_eq!((&found[0]["Service"]["Port"], &found[0]["Checks"][0]["Name"]), (&json!(0), &json!("up")));
    let disk = json!({"Node": "ext", "Address": "10.9.9.9", "Check": {"Name": "disk", "Status": "critical"}});
    put(&two, "/v1/catalog/register", &disk).await;
    for agent in [&one, &two] {
        until("the node's check weighs on it", async || {
            (agent.get("/v1/health/service/search?passing").await == json!([])).then_some(())
        })
        .await;
    }
    let gone = json!({"Node": "ext", "ServiceID": "search"});
    assert_eq!(write(&two, "/v1/catalog/deregister", &gone.to_string()).await.0, 409);
    until("nobody else holds it", async || {
        (write(&one, "/v1/catalog/deregister", &gone.to_string()).await.0 == 200).then_some(())
    })
    .await;
    assert_eq!(one.get("/v1/catalog/node/ext").await["Services"], json!({}), "a node outlives what stood on it");
    let elsewhere = json!({"Node": "ext", "Datacenter": "dc9"}).to_string();
    assert_eq!(write(&one, "/v1/catalog/deregister", &elsewhere).await.0, 500);
}

#[tokio::test]
async fn every_form_of_a_check_is_taken() {
    let mesh = Mesh::new();
    let agent = mesh.start("n1", &[]).await;
    put(&agent, REGISTER, &json!({"Name": "db", "Port": 1})).await;
    let forms = [
        (
            "http",
            json!({"HTTP": "http://127.0.0.1:1/", "Method": "PUT", "Header": {"A": ["b", "c"]}, "Body": "x", "Interval": "1h"}),
        ),
        ("http", json!({"http": "https://127.0.0.1:1/", "tls_skip_verify": true, "interval": 3_600_000_000_000_u64})),
        ("tcp", json!({"TCP": "localhost:1", "Interval": "1h", "Timeout": "1s"})),
        ("udp", json!({"UDP": "127.0.0.1:1", "Interval": "1h"})),
        ("grpc", json!({"GRPC": "127.0.0.1:1/db", "GRPCUseTLS": true, "Interval": "1h", "SuccessBeforePassing": 2})),
        (
            "ttl",
            json!({"TTL": "1h", "FailuresBeforeCritical": 3, "DeregisterCriticalServiceAfter": "90m", "Notes": "n"}),
        ),
        ("alias", json!({"AliasService": "db"})),
        ("alias", json!({"AliasNode": "n1", "AliasService": "db"})),
    ];
    let checks: Vec<_> = forms.iter().map(|(_, form)| form).collect();
    put(&agent, REGISTER, &json!({"Name": "web", "Port": 80, "Checks": checks})).await;
    let shown = agent.get("/v1/agent/checks").await;
    for (at, (kind, form)) in forms.iter().enumerate() {
        assert_eq!(shown[format!("service:web:{}", at + 1)]["Type"], *kind, "{form}: {shown}");
    }
    // What is not named again stays, unless all is to be replaced.
    let one = json!({"Name": "web", "Port": 80, "Check": {"CheckID": "own", "TTL": "1h"}});
    put(&agent, REGISTER, &one).await;
    assert_eq!(agent.get("/v1/agent/checks").await.as_object().unwrap().len(), forms.len() + 1);
    put(&agent, &format!("{REGISTER}?replace-existing-checks"), &one).await;
    let left = agent.get("/v1/agent/checks").await;
    assert_eq!(left.as_object().unwrap().keys().collect::<Vec<_>>(), ["own"]);
}

#[tokio::test]
async fn reads_take_every_parameter() {
    let mesh = Mesh::new();
    let one = mesh.start("n1", &[]).await;
    let two = mesh.start("n2", &[&one]).await;
    put(&one, REGISTER, &json!({"Name": "web", "Port": 1, "Tags": ["a", "b"]})).await;
    put(&two, REGISTER, &json!({"Name": "web", "Port": 2, "Tags": ["b"]})).await;
    for (query, ports) in [
        ("near=n2", json!([2, 1])),
        ("near=_agent&tag=b", json!([1, 2])),
        ("near=nobody", json!([1, 2])),
        ("tag=b&tag=A", json!([1])),
        ("passing&tag=b&stale&cached&ns=default&partition=x&unknown=1", json!([1, 2])),
        ("consistent&dc=DC1&merge-central-config", json!([1, 2])),
        ("node-meta=k:v", json!([])),
        ("filter=Node.Node%20==%20n2%20and%20a%20not%20in%20Service.Tags", json!([2])),
    ] {
        until(query, async || {
            let found = one.get(&format!("/v1/health/service/web?{query}")).await;
            let found: Vec<_> = found.as_array()?.iter().map(|entry| entry["Service"]["Port"].clone()).collect();
            (json!(found) == ports).then_some(())
        })
        .await;
    }
    let pretty = one.text("/v1/catalog/datacenters?pretty").await;
    assert!(pretty.ends_with("\r\n[\n    \"dc1\"\n]"), "{pretty}");
    assert_eq!(one.get("/v1/health/connect/web").await, json!([]));
    assert_eq!(one.get("/v1/catalog/connect/web").await, json!([]));
    assert_eq!(one.get("/v1/coordinate/datacenters").await[0]["Datacenter"], "dc1");
    for (filter, found) in
        [("Node==n1", 200), ("Segment==%22%22", 200), ("Node==n1%20or%20Address==x", 400), ("Meta.k==x", 400)]
    {
        let (status, why) = one.call_with("", "GET", &format!("/v1/coordinate/nodes?filter={filter}"), "").await;
        assert!(status == found && (status == 200 || why.contains("evaluator: 1:")), "{filter}: {status} {why}");
    }
    let (status, absent) = one.call_with("", "GET", "/v1/coordinate/node/nobody", "").await;
    assert!(status == 404 && absent.to_ascii_lowercase().contains("x-consul-index: "), "{absent}");
    assert!(one.get("/v1/agent/host").await["Memory"]["total"].is_u64());
    assert!(one.get("/v1/agent/metrics").await["Gauges"].is_array());
    assert!(one.text("/v1/agent/metrics?format=prometheus").await.contains("hobnob_"));
    put(&one, "/v1/agent/reload", &Value::Null).await;
}

#[tokio::test]
async fn an_event_carries_what_serf_lets_it() {
    let mesh = Mesh::new();
    let agent = mesh.start("n1", &[]).await;
    assert_eq!(write(&agent, "/v1/event/fire/deploy", &"x".repeat(512)).await.0, 200);
    let heard = agent.get("/v1/event/list?name=deploy").await;
    assert_eq!(heard[0]["Payload"], format!("{}eHg=", "eHh4".repeat(170)));
    assert_eq!(write(&agent, "/v1/event/fire/deploy", &"x".repeat(513)).await.0, 413);
}

#[tokio::test]
async fn no_two_foreign_instances_are_taken_for_one() {
    let mesh = Mesh::new();
    let agent = mesh.start("n1", &[]).await;
    let on = |node: &str, id: &str, service: &str| json!({"Node": node, "Address": "10.0.0.1", "Service": {"Service": service, "ID": id, "Port": 2}});
    let ids = async |service: &str| {
        let found = agent.get(&format!("/v1/catalog/service/{service}")).await;
        let ids = |row: &Value| (row["Node"].clone(), row["ServiceID"].clone());
        found.as_array().unwrap().iter().map(ids).collect::<Vec<_>>()
    };
    for (node, id, service) in [("a", "b/c", "one"), ("a/b", "c", "two"), ("a%2fb", "c", "three")] {
        put(&agent, "/v1/catalog/register", &on(node, id, service)).await;
    }
    for (node, id, service) in [("a", "b/c", "one"), ("a/b", "c", "two"), ("a%2fb", "c", "three")] {
        assert_eq!(ids(service).await, [(json!(node), json!(id))]);
    }
    // A node is the same however it is spelled, and shown as it was written last.
    for node in ["Foo", "foo"] {
        put(&agent, "/v1/catalog/register", &on(node, "x", "cs")).await;
    }
    assert_eq!(ids("cs").await, [(json!("foo"), json!("x"))]);
    put(&agent, "/v1/catalog/deregister", &json!({"Node": "FOO"})).await;
    assert_eq!(ids("cs").await, []);
    // One that looks like an event is none.
    let like =
        json!({"Node": "event", "Address": "10.0.0.9", "Service": {"Service": "ev", "ID": "z", "Meta": {"time": "0"}}});
    put(&agent, "/v1/catalog/register", &like).await;
    for _ in 0..20 {
        assert_eq!(write(&agent, "/v1/event/fire/x", "").await.0, 200);
    }
    assert_eq!(ids("ev").await, [(json!("event"), json!("z"))]);
}

#[tokio::test]
async fn a_foreign_instance_of_an_agent_that_is_gone_does_not_pass() {
    let mesh = Mesh::new();
    let one = mesh.start("n1", &[]).await;
    let two = mesh.start("n2", &[&one]).await;
    two.until_seen("n1", "alive").await;
    let check = json!({"Node": "fx", "CheckID": "c", "Name": "c", "ServiceID": "fx1", "Status": "passing"});
    let service = json!({"Service": "fxs", "ID": "fx1", "Port": 4});
    put(
        &one,
        "/v1/catalog/register",
        &json!({"Node": "fx", "Address": "10.0.0.1", "Service": service, "Check": check}),
    )
    .await;
    let passing = async || two.get("/v1/health/service/fxs?passing").await.as_array().unwrap().len();
    until("it passes", async || (passing().await == 1).then_some(())).await;
    // The node stays when what stands on it is withdrawn.
    let other = json!({"Node": "fx", "Address": "10.0.0.1", "Service": {"Service": "fxs", "ID": "fx2"}});
    let known = async || two.get("/v1/catalog/service/fxs").await.as_array().unwrap().len();
    put(&one, "/v1/catalog/register", &other).await;
    until("both are known", async || (known().await == 2).then_some(())).await;
    put(&one, "/v1/catalog/deregister", &json!({"Node": "fx", "ServiceID": "fx2"})).await;
    until("one is withdrawn", async || (known().await == 1).then_some(())).await;
    one.kill().await;
    until("it does not", async || (passing().await == 0).then_some(())).await;
    let all = two.get("/v1/health/service/fxs").await;
    let why = all[0]["Checks"].as_array().unwrap().iter().find(|check| check["Status"] == "critical").unwrap();
    assert_eq!((&why["CheckID"], &why["ServiceID"]), (&json!("_agent:fx1"), &json!("fx1")), "{all}");
    let critical = two.get("/v1/health/state/critical").await;
    assert!(critical.as_array().unwrap().contains(why), "{critical}");
    let of_node = async || {
        let checks = two.get("/v1/health/node/fx").await;
        checks.as_array().unwrap().iter().filter(|check| check["CheckID"] == "_agent:").count()
    };
    assert_eq!(of_node().await, 1, "no agent holds the node");
    // Another agent takes the node over: what the dead one says of it is no word on what stands on it now.
    let taken = json!({"Node": "fx", "Address": "10.0.0.1", "Service": {"Service": "fxs", "ID": "fx3", "Port": 5}});
    put(&two, "/v1/catalog/register", &taken).await;
    let found = two.get("/v1/health/service/fxs?passing").await;
    assert_eq!((found.as_array().unwrap().len(), of_node().await), (1, 0), "{found}");
    assert_eq!(found[0]["Service"]["ID"], "fx3");
    let (status, why) = write(&two, "/v1/catalog/deregister", r#"{"Node": "fx", "ServiceID": "fx1"}"#).await;
    assert!(status == 409 && why.contains("hobnob force-leave n1"), "{status} {why}");
}

#[tokio::test]
async fn what_would_be_lost_is_refused() {
    let mesh = Mesh::new();
    let agent = mesh.start("n1", &[]).await;
    let (socket, locality) = (json!("/run/x.sock"), json!({"Region": "r"}));
    for (key, value, word) in [("SocketPath", socket, "port"), ("Locality", locality, "zone")] {
        let service = json!({"Name": "x", "Service": "x", key: value});
        let (status, why) = write(&agent, REGISTER, &service.to_string()).await;
        assert!(status == 501 && why.contains(word), "{key}: {status} {why}");
        let on_node = json!({"Node": "ext", "Address": "10.0.0.1", "Service": service});
        assert_eq!(write(&agent, "/v1/catalog/register", &on_node.to_string()).await.0, 501, "{key}");
    }
    assert_eq!(agent.get("/v1/catalog/nodes").await.as_array().map(Vec::len), Some(1), "nothing was done");
    put(&agent, REGISTER, &json!({"Name": "x", "SocketPath": "", "Locality": null})).await;
    for (size, status, word) in
        [(-1, 400, "positive"), (100, 501, "4096"), (0, 200, ""), (4096, 200, ""), (9000, 200, "")]
    {
        let check = json!({"Name": "c", "TTL": "1h", "OutputMaxSize": size});
        let (found, why) = write(&agent, "/v1/agent/check/register", &check.to_string()).await;
        assert!(found == status && why.contains(word), "{size}: {found} {why}");
    }
}

#[tokio::test]
async fn a_check_of_a_node_keeps_its_definition_and_is_of_that_node() {
    let mesh = Mesh::new();
    let a = mesh.start("n1", &[]).await;
    let b = mesh.start("n2", &[&a]).await;
    let definition =
        json!({"HTTP": "http://10.0.0.1/", "Interval": "10s", "Header": {"X": ["y"]}, "TLSSkipVerify": true});
    let of = |node: &str, status: &str, definition: &Value| {
        let check = json!({"Node": node, "CheckID": "up", "Status": status, "Definition": definition});
        json!({"Node": "ext", "Address": "10.0.0.1", "Check": check})
    };
    let register = "/v1/catalog/register";
    let (status, why) = write(&a, register, &of("other", "passing", &definition).to_string()).await;
    assert!(status == 400 && why.contains("does not match node"), "{status} {why}");
    let long = json!({"HTTP": "x".repeat(4096)});
    assert_eq!(write(&a, register, &of("ext", "passing", &long).to_string()).await.0, 400);
    put(&a, register, &of("EXT", "passing", &definition)).await;
    for agent in [&a, &b] {
        until("it is there", async || {
            (agent.get("/v1/health/node/ext").await[0]["Definition"] == definition).then_some(())
        })
        .await;
    }
    let found = b.get("/v1/health/state/any?filter=CheckID==up").await;
    assert_eq!(found[0]["Definition"], definition);
}

#[tokio::test]
async fn of_what_is_too_large_nothing_is_written_and_its_id_is_named() {
    let mesh = Mesh::new();
    let agent = mesh.start("n1", &[]).await;
    let body = |long: usize| {
        let definition = json!({"HTTP": "x".repeat(long)});
        let of_service = |n: u16| json!({"CheckID": format!("c{n}"), "ServiceID": "pg", "Definition": definition});
        let mut checks: Vec<_> = (0..40).map(of_service).collect();
        checks.push(json!({"CheckID": "host", "Status": "critical"}));
        json!({"Node": "ext", "Address": "10.0.0.1", "Service": {"Service": "pg"}, "Checks": checks})
    };
    let (status, why) = write(&agent, "/v1/catalog/register", &body(1_800).to_string()).await;
    assert!(status == 413 && why.contains("@ext/pg") && why.contains("60 KiB"), "{status} {why}");
    assert_eq!(agent.get("/v1/catalog/nodes").await.as_array().map(Vec::len), Some(1), "nothing was done");
    put(&agent, "/v1/catalog/register", &body(900)).await;
    assert_eq!(agent.get("/v1/health/node/ext").await.as_array().map(Vec::len), Some(41));
    let large = json!({"Name": "large", "Tags": (0..60).map(|n| format!("{n}").repeat(900)).collect::<Vec<_>>()});
    let (status, why) = write(&agent, REGISTER, &large.to_string()).await;
    assert!(status == 413 && why.contains("large"), "{status} {why}");
    assert_eq!(agent.get("/v1/agent/services").await, json!({}));
}

#[tokio::test]
async fn the_checks_that_the_mesh_makes_of_a_node_are_nobody_s_to_register_there() {
    let mesh = Mesh::new();
    let agent = mesh.start("n1", &[]).await;
    for id in ["serfHealth", "_node_maintenance", "_service_maintenance:x"] {
        let check = json!({"CheckID": id, "Name": "c", "TTL": "1h"});
        for (path, body) in
            [("/v1/agent/check/register", check.clone()), (REGISTER, json!({"Name": "x", "Checks": [check]}))]
        {
            let (status, why) = write(&agent, path, &body.to_string()).await;
            assert!(status == 400 && why.contains(id), "{path} {id}: {status} {why}");
        }
        let of = |node: &str| {
            let check = json!({"CheckID": id, "Status": "critical"});
            json!({"Node": node, "Address": "10.0.0.1", "Check": check}).to_string()
        };
        assert_eq!(write(&agent, "/v1/catalog/register", &of("n1")).await.0, 400, "{id}");
        // A node without an agent has what whoever watches it says.
        assert_eq!(write(&agent, "/v1/catalog/register", &of("ext")).await.0, 200, "{id}");
    }
    assert_eq!(agent.get("/v1/agent/checks").await, json!({}));
    put(&agent, "/v1/agent/check/register", &json!({"CheckID": "_service_maintenance", "Name": "c", "TTL": "1h"}))
        .await;
}
