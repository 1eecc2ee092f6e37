//! Several agents speak of one thing, a client of Eureka's that moved or what stands on a node without an agent: the last
//! word counts, and nobody brings an older one back without meaning to.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may look at clocks, and fails by panic")]

mod process;

use process::{Agent, Mesh, until};
use serde_json::{Value, json};

/// Three agents with Eureka's face too.
async fn three() -> (Mesh, [Agent; 3]) {
    let mesh = Mesh::new();
    let a = start(&mesh, "a", &[]).await;
    let b = start(&mesh, "b", &[&a]).await;
    let c = start(&mesh, "c", &[&a, &b]).await;
    (mesh, [a, b, c])
}

async fn start(mesh: &Mesh, node: &str, seeds: &[&Agent]) -> Agent {
    let mut command = mesh.agent(node, node);
    command.env("HOBNOB_HTTP__EUREKA", "true");
    for seed in seeds {
        command.args(["--join", &seed.mesh.to_string()]);
    }
    mesh.launch(node, &mut command).await
}

/// The status of one write.
async fn write(agent: &Agent, method: &str, path: &str, body: &Value) -> u16 {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    agent.call_with("", method, path, &body).await.0
}

async fn ask(agent: &Agent, method: &str, path: &str) -> u16 {
    write(agent, method, path, &Value::Null).await
}

async fn register(agent: &Agent, seconds: u16) {
    let lease = json!({"renewalIntervalInSecs": 1, "durationInSecs": seconds});
    let client = json!({"instance": {"instanceId": "i", "hostName": "h", "app": "WEB", "ipAddr": "10.0.0.9",
        "port": {"$": 80, "@enabled": "true"}, "leaseInfo": lease}});
    assert_eq!(write(agent, "POST", "/eureka/apps/WEB", &client).await, 204);
}

/// Eureka's word for it, once it is the one wanted, at all of these; `""` where it is not there.
async fn shows(agents: &[&Agent], wanted: &str) {
    for agent in agents {
        until(&format!("it is {wanted:?}"), async || {
            let (code, answer) = agent.call_with("Accept: application/json\r\n", "GET", ONE, "").await;
            let found = match code {
                404 => String::new(),
                _ => answer.split_once(r#""status":""#)?.1.split('"').next()?.to_owned(),
            };
            (found == wanted).then_some(())
        })
        .await;
    }
}

const ONE: &str = "/eureka/apps/WEB/i";
const OUT: &str = "/eureka/apps/WEB/i/status?value=OUT_OF_SERVICE";
const BACK: &str = "/eureka/apps/WEB/i/status";

/// Registers with `b` a client that `a` knows, and waits until `a` has heard of it.
async fn moved(a: &Agent, b: &Agent) {
    register(a, 90).await;
    shows(&[b], "UP").await;
    register(b, 90).await;
    until("the first has heard of it", async || (ask(a, "PUT", ONE).await == 404).then_some(())).await;
}

#[tokio::test]
async fn an_override_that_was_handed_back_stays_so_wherever_its_client_goes() {
    let (_mesh, [a, b, c]) = three().await;
    register(&a, 90).await;
    assert_eq!(ask(&a, "PUT", OUT).await, 200);
    shows(&[&b], "OUT_OF_SERVICE").await;
    register(&b, 90).await;
    shows(&[&a, &c], "OUT_OF_SERVICE").await;
    assert_eq!(ask(&b, "DELETE", BACK).await, 200);
    shows(&[&a, &c], "UP").await;
    assert_eq!(ask(&b, "DELETE", ONE).await, 200);
    shows(&[&a, &c], "").await;
    register(&a, 90).await;
    shows(&[&a, &b, &c], "UP").await;
}

#[tokio::test]
async fn an_agent_whose_lease_is_outdated_changes_nothing_of_a_client_that_lives_elsewhere() {
    let (_mesh, [a, b, c]) = three().await;
    moved(&a, &b).await;
    for (method, path) in [("DELETE", BACK), ("PUT", OUT), ("PUT", "/eureka/apps/WEB/i/metadata?k=v"), ("PUT", ONE)] {
        let (status, why) = a.call_with("", method, path, "").await;
        assert!(status == 404 && why.contains("is with b now"), "{method} {path}: {status} {why}");
    }
    shows(&[&a, &b, &c], "UP").await;
    assert_eq!(ask(&b, "PUT", ONE).await, 200, "its lease stands");
}

#[tokio::test]
async fn an_operator_s_word_outlives_the_agent_that_it_was_told() {
    let (_mesh, [a, b, c]) = three().await;
    moved(&a, &b).await;
    assert_eq!(ask(&b, "PUT", OUT).await, 200);
    shows(&[&a, &c], "OUT_OF_SERVICE").await;
    b.kill_both().await;
    a.until_seen("b", "down").await;
    assert_eq!(ask(&a, "PUT", ONE).await, 404, "it is sent to register again");
    register(&a, 90).await;
    shows(&[&a, &c], "OUT_OF_SERVICE").await;
}

#[tokio::test]
async fn whichever_face_withdraws_a_client_it_is_gone_and_none_lists_it() {
    let (_mesh, [a, b, c]) = three().await;
    let native = "/api/v1/registrations/web%2Fi";
    let by = [("DELETE", ONE, 200), ("PUT", "/v1/agent/service/deregister/web%2Fi", 200), ("DELETE", native, 204)];
    for (method, path, done) in by {
        moved(&a, &b).await;
        assert_eq!(ask(&b, method, path).await, done, "{path}");
        shows(&[&a, &b, &c], "").await;
        assert_eq!(b.get("/v1/agent/services").await, json!({}));
        assert_eq!(b.get("/v1/agent/checks").await, json!({}));
        assert_eq!(b.get("/api/v1/registrations").await, json!([]));
        for path in ["/v1/agent/service/web%2Fi", "/v1/agent/health/service/id/web%2Fi", native] {
            assert_eq!(ask(&b, "GET", path).await, 404, "{path}");
        }
        assert_eq!(ask(&b, "DELETE", native).await, 404);
        assert_eq!(ask(&b, "PUT", ONE).await, 404);
        // What another agent's word outweighs is registered here all the same.
        assert_eq!(ask(&a, "GET", "/v1/agent/health/service/id/web%2Fi").await, 200);
    }
}

const REGISTER: &str = "/v1/catalog/register";

/// What a registration of the service `pg` says besides.
fn pg(port: u16, tag: &str, status: &str) -> Value {
    json!({"Node": "db", "Address": "10.5.1.1", "Service": {"ID": "pg", "Service": "pg", "Port": port, "Tags": [tag]},
        "Checks": [{"CheckID": "alive", "ServiceID": "pg", "Status": status, "Output": tag},
            {"CheckID": "host", "Status": status}]})
}

/// What is shown of `pg`, once it is this: address, port, tag, and what its checks say.
async fn stands(agents: &[&Agent], wanted: &Value) {
    for agent in agents {
        until(&format!("{wanted} is shown"), async || {
            let found = agent.get("/v1/health/service/pg").await;
            let row = &found.as_array()?.first()?;
            let check = |id: &str| {
                let checks = row["Checks"].as_array()?;
                checks.iter().find(|check| check["CheckID"] == id).map(|check| check["Status"].clone())
            };
            let service = &row["Service"];
            let found =
                json!([row["Node"]["Address"], service["Port"], service["Tags"][0], check("alive")?, check("host")?]);
            (found == *wanted).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_write_to_the_catalogue_changes_what_it_names_and_brings_back_no_older_word() {
    let (_mesh, [a, b, c]) = three().await;
    let all = [&a, &b, &c];
    assert_eq!(write(&a, "PUT", REGISTER, &pg(5432, "old", "critical")).await, 200);
    stands(&all, &json!(["10.5.1.1", 5432, "old", "critical", "critical"])).await;
    assert_eq!(write(&b, "PUT", REGISTER, &pg(6432, "new", "passing")).await, 200);
    stands(&all, &json!(["10.5.1.1", 6432, "new", "passing", "passing"])).await;
    // Another service on its node, and the node with it: what is said there of the first stays.
    let other = |address: &str| json!({"Node": "db", "Address": address, "Service": {"Service": "other", "Port": 1}});
    let mut noted = other("10.5.1.1");
    noted["NodeMeta"] = json!({"k": "v"});
    for body in [other("10.5.1.1"), noted] {
        assert_eq!(write(&a, "PUT", REGISTER, &body).await, 200);
        c.until_resolved("other", &["1"]).await;
        stands(&all, &json!(["10.5.1.1", 6432, "new", "passing", "passing"])).await;
        assert_eq!(write(&a, "PUT", "/v1/catalog/deregister", &json!({"Node": "db", "ServiceID": "other"})).await, 200);
        c.until_resolved("other", &[]).await;
    }
    assert_eq!(write(&a, "PUT", REGISTER, &other("10.5.1.2")).await, 200);
    stands(&all, &json!(["10.5.1.2", 6432, "new", "passing", "passing"])).await;
    // One check, of the service or of the node, and nothing else.
    let alive = json!({"Node": "db", "Address": "10.5.1.2",
        "Check": {"CheckID": "alive", "ServiceID": "pg", "Status": "warning"}});
    assert_eq!(write(&b, "PUT", REGISTER, &alive).await, 200);
    stands(&all, &json!(["10.5.1.2", 6432, "new", "warning", "passing"])).await;
    let host = json!({"Node": "db", "Address": "10.5.1.2", "Check": {"CheckID": "host", "Status": "warning"}});
    assert_eq!(write(&a, "PUT", REGISTER, &host).await, 200);
    stands(&all, &json!(["10.5.1.2", 6432, "new", "warning", "warning"])).await;
    // A node that is not to be touched is that of the last word, not one's own.
    let moved = json!({"Node": "db", "Address": "10.5.1.3"});
    assert_eq!(write(&b, "PUT", REGISTER, &moved).await, 200);
    stands(&all, &json!(["10.5.1.3", 6432, "new", "warning", "warning"])).await;
    let mut again = pg(7432, "newer", "passing");
    (again["SkipNodeUpdate"], again["Checks"]) = (json!(true), Value::Null);
    assert_eq!(write(&a, "PUT", REGISTER, &again).await, 200);
    stands(&all, &json!(["10.5.1.3", 7432, "newer", "warning", "warning"])).await;
}

#[tokio::test]
async fn a_name_whose_agent_is_down_tells_how_it_is_freed() {
    let (_mesh, [a, b, _c]) = three().await;
    a.until_seen("b", "alive").await;
    b.kill_both().await;
    a.until_seen("b", "down").await;
    let (status, why) = a.call_with("", "PUT", REGISTER, r#"{"Node": "b", "Address": "10.0.0.1"}"#).await;
    assert!(status == 400 && why.contains("hobnob force-leave b"), "{status} {why}");
}

/// Where `pg` is, by all that tells of it, once it is this: address, rack, and who is asked by the rack.
async fn is_at(agents: &[&Agent], address: &str, rack: &str) {
    for agent in agents {
        until(&format!("pg is at {address} in {rack}"), async || {
            let node = agent.get("/v1/catalog/node/db").await["Node"].clone();
            let (listed, native) = (agent.get("/v1/catalog/service/pg").await, agent.get("/api/v1/services/pg").await);
            let by_rack = agent.get(&format!("/v1/health/service/pg?node-meta=rack:{rack}")).await;
            let found =
                [&node["Address"], &listed[0]["Address"], &native[0]["address"], &by_rack[0]["Node"]["Address"]];
            let racks = [&node["Meta"]["rack"], &listed[0]["NodeMeta"]["rack"]];
            (found == [address; 4] && racks == [rack; 2]).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_node_is_one_whoever_speaks_of_it_and_all_that_stands_there_stands_where_it_is() {
    let (mesh, [a, b, c]) = three().await;
    let on =
        |last: u8, rack: &str| json!({"Node": "db", "Address": format!("10.5.1.{last}"), "NodeMeta": {"rack": rack}});
    let with = |mut body: Value, key: &str, value: Value| {
        body[key] = value;
        body
    };
    let pg = json!({"Service": "pg", "Port": 5432});
    assert_eq!(write(&a, "PUT", REGISTER, &with(on(1, "old"), "Service", pg.clone())).await, 200);
    is_at(&[&a, &b, &c], "10.5.1.1", "old").await;
    let (_, seen) = c.call_with("", "GET", "/v1/health/service/pg", "").await;
    let seen = seen.lines().find_map(|line| line.strip_prefix("x-consul-index: ")).unwrap().to_owned();
    let check = json!({"CheckID": "host", "Status": "passing"});
    let parked = format!("/v1/health/service/pg?wait=5m&index={seen}");
    let moved = with(on(2, "new"), "Check", check);
    let (_, status) = tokio::join!(c.get(&parked), write(&b, "PUT", REGISTER, &moved));
    assert_eq!(status, 200);
    is_at(&[&a, &b, &c], "10.5.1.2", "new").await;
    // A service brings its node's address, and leaves it behind.
    assert_eq!(write(&a, "PUT", REGISTER, &with(on(3, "newer"), "Service", json!({"Service": "x"}))).await, 200);
    is_at(&[&a, &b, &c], "10.5.1.3", "newer").await;
    let x = json!({"Node": "db", "ServiceID": "x"});
    assert_eq!(write(&a, "PUT", "/v1/catalog/deregister", &x).await, 200);
    is_at(&[&a, &b, &c], "10.5.1.3", "newer").await;
    let host = "/v1/health/node/db?filter=CheckID==host";
    for agent in [&a, &b, &c] {
        assert_eq!(agent.get(host).await[0]["Status"], "passing", "what is said of the node stays");
    }
    // What was said first is so again when it is said again, by its own agent and after a restart.
    assert_eq!(write(&a, "PUT", REGISTER, &with(on(1, "old"), "Service", pg)).await, 200);
    is_at(&[&a, &b, &c], "10.5.1.1", "old").await;
    assert_eq!(write(&b, "PUT", REGISTER, &moved).await, 200);
    is_at(&[&a, &b, &c], "10.5.1.2", "new").await;
    a.kill_both().await;
    let a = start(&mesh, "a", &[&b]).await;
    is_at(&[&a, &b, &c], "10.5.1.2", "new").await;
}

#[tokio::test]
async fn a_check_of_what_another_agent_took_in_is_registered_alone() {
    let (_mesh, [a, b, c]) = three().await;
    assert_eq!(write(&a, "PUT", REGISTER, &pg(5432, "old", "passing")).await, 200);
    stands(&[&b], &json!(["10.5.1.1", 5432, "old", "passing", "passing"])).await;
    let check = |id: &str| {
        json!({"Node": "db", "Address": "10.5.1.1",
        "Check": {"CheckID": "alive", "ServiceID": id, "Status": "critical"}})
    };
    assert_eq!(write(&b, "PUT", REGISTER, &check("pg")).await, 200);
    stands(&[&a, &b, &c], &json!(["10.5.1.1", 5432, "old", "critical", "passing"])).await;
    // It was seen to change, and not to be another one.
    let flip = |line: &str| line.contains("health") && line.contains("was=passing now=critical");
    until("b tells of it", async || b.log().lines().any(flip).then_some(())).await;
    for (path, status) in [("db", 200), ("DB?kind=node", 200), ("db?kind=service", 404)] {
        assert_eq!(ask(&c, "GET", &format!("/api/v1/explain/{path}")).await, status, "{path}");
    }
    let (status, why) = b.call_with("", "PUT", REGISTER, &check("none").to_string()).await;
    assert!(status == 400 && why.contains("nobody has registered"), "{status} {why}");
}

#[tokio::test]
async fn a_foreign_service_stays_out_of_service_whoever_registers_it_again() {
    let (_mesh, [a, b, c]) = three().await;
    let body = json!({"Node": "db", "Address": "10.5.1.1", "Service": {"Service": "pg", "Port": 5432}});
    let maintenance = "/api/v1/maintenance/%40db%2Fpg";
    assert_eq!(write(&a, "PUT", REGISTER, &body).await, 200);
    assert_eq!(write(&a, "PUT", maintenance, &json!({"enabled": true, "reason": "new disk"})).await, 200);
    let is = async |health: &str| {
        for agent in [&a, &b, &c] {
            until(health, async || (agent.get("/api/v1/services/pg").await[0]["health"] == health).then_some(())).await;
        }
    };
    is("maintenance").await;
    assert_eq!(write(&b, "PUT", REGISTER, &body).await, 200);
    // By now all have heard of it.
    until("b has the last word", async || {
        (write(&a, "PUT", maintenance, &json!({"enabled": true})).await == 409).then_some(())
    })
    .await;
    is("maintenance").await;
    assert_eq!(write(&b, "PUT", maintenance, &json!({"enabled": false})).await, 200);
    is("passing").await;
    assert_eq!(write(&a, "PUT", REGISTER, &body).await, 200);
    until("a has the last word", async || {
        (write(&b, "PUT", maintenance, &json!({"enabled": true})).await == 409).then_some(())
    })
    .await;
    is("passing").await;
}

#[tokio::test]
async fn what_would_be_said_where_nobody_sees_it_is_refused_with_the_name_of_who_has_the_word() {
    let (_mesh, [a, b, c]) = three().await;
    moved(&a, &b).await;
    let out = json!({"enabled": true, "reason": "new disk"});
    for (path, body) in [
        ("/api/v1/maintenance/web%2Fi", out),
        ("/v1/agent/service/maintenance/web%2Fi?enable=true", Value::Null),
        ("/api/v1/registrations/web%2Fi/checks/status", json!({"status": "critical"})),
        ("/v1/agent/check/fail/service:web%2Fi:2", Value::Null),
    ] {
        let (status, why) = a.call_with("", "PUT", path, &body.to_string()).await;
        assert!(status == 409 && why.contains("is with b now"), "{path}: {status} {why}");
        assert_eq!(write(&b, "PUT", path, &body).await, 200, "{path}");
    }
    shows(&[&a, &c], "OUT_OF_SERVICE").await;
    // Until that agent is gone: then it is this one's word that is shown.
    b.kill_both().await;
    a.until_seen("b", "down").await;
    shows(&[&a], "UP").await;
    let out = "/v1/agent/service/maintenance/web%2Fi?enable=true";
    assert_eq!(ask(&a, "PUT", out).await, 200);
    shows(&[&a, &c], "OUT_OF_SERVICE").await;
}

/// Whoever watches other machines writes only what changes, through this agent or that.
#[tokio::test]
async fn a_wave_that_is_written_is_one_and_said_twice_it_is_the_same() {
    let (_mesh, [a, b, c]) = three().await;
    let all = ["m0", "m1", "m2", "m3"];
    let say = async |agents: &[&Agent], status: &str| {
        for (node, agent) in all.iter().zip(agents.iter().cycle()) {
            let check = json!({"CheckID": "h", "ServiceID": "s", "Status": status});
            let service = json!({"ID": "s", "Service": "ext", "Port": 80});
            let body = json!({"Node": node, "Address": "10.0.0.1", "Service": service, "Check": check});
            assert_eq!(write(agent, "PUT", "/v1/catalog/register", &body).await, 200);
        }
    };
    let passing = async |agent: &Agent| {
        let (_, answer) = agent.call_with("", "GET", "/v1/health/service/ext?passing", "").await;
        Some(answer.matches(r#""Node":{"#).count())
    };
    let held = async |agent: &Agent| {
        let (_, answer) = agent.call_with("", "GET", "/api/v1/services/ext", "").await;
        Some(answer.matches(r#""held":"protected""#).count())
    };
    say(&[&a], "passing").await;
    until("all pass", async || (passing(&c).await? == 4).then_some(())).await;
    for _ in 0..2 {
        say(&[&a], "critical").await;
        for agent in [&a, &b, &c] {
            until("all are kept", async || (held(agent).await? == 4 && passing(agent).await? == 4).then_some(())).await;
        }
    }
    say(&[&a], "passing").await;
    until("all are well", async || (held(&c).await? == 0 && passing(&c).await? == 4).then_some(())).await;
    say(&[&b, &c], "critical").await;
    until("all are kept", async || (held(&a).await? == 4 && passing(&a).await? == 4).then_some(())).await;
    assert_eq!(a.get("/api/v1/status").await["protected"], json!(["ext"]));
    let (_, metrics) = a.call_with("", "GET", "/metrics", "").await;
    assert!(metrics.contains("\nhobnob_instances_held{why=\"protected\"} 4\n"), "{metrics}");
}

#[tokio::test]
async fn what_is_said_again_is_the_last_word_whatever_is_not_heard_of_yet_and_wakes_nobody() {
    let (_mesh, [a, b, c]) = three().await;
    let say = async |agent: &Agent, node: u8, port: u16| {
        let service = json!({"ID": "s", "Service": "ext", "Port": port});
        let body = json!({"Node": format!("m{node}"), "Address": format!("10.0.0.{port}"), "Service": service});
        assert_eq!(write(agent, "PUT", REGISTER, &body).await, 200);
    };
    let shown = async |agent: &Agent| {
        let (_, answer) = agent.call_with("", "GET", "/v1/health/service/ext", "").await;
        let index = answer.lines().find_map(|line| line.strip_prefix("x-consul-index: "))?.to_owned();
        Some((index, [r#""Port":80,"#, r#""Address":"10.0.0.80""#].map(|said| answer.matches(said).count())))
    };
    let all_stand = async |agents: &[&Agent]| {
        for agent in agents {
            until("all stand", async || (shown(agent).await?.1 == [20, 20]).then_some(())).await;
        }
    };
    for node in 0..20 {
        say(&a, node, 80).await;
    }
    all_stand(&[&a, &b, &c]).await;
    // The first agent says again what it said before, and has hardly heard of what another one said meanwhile.
    for node in 0..20 {
        say(&b, node, 81).await;
        say(&a, node, 80).await;
    }
    // Whoever knows this knows what was said before it.
    let told = async |name: &str| {
        for (agent, name) in [&a, &b].iter().zip(["a", "b"].map(|agent| format!("{name}-{agent}"))) {
            assert_eq!(write(agent, "PUT", "/v1/agent/service/register", &json!({"Name": name})).await, 200);
            let path = format!("/v1/catalog/service/{name}");
            until(&name, async || (c.get(&path).await != json!([])).then_some(())).await;
        }
    };
    told("first").await;
    all_stand(&[&a, &b, &c]).await;
    let before = shown(&c).await;
    for node in 0..20 {
        say(&a, node, 80).await;
    }
    told("second").await;
    assert_eq!(shown(&c).await, before);
}
