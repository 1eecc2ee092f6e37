//! Eureka's REST API as its clients meet it, in JSON and in XML, by curl against a live agent.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may look at clocks, and fails by panic")]

mod process;

use process::{Agent, Mesh, finish, installed, until};
use serde_json::{Value, json};
use tokio::process::Command;

async fn start(mesh: &Mesh, node: &str, seeds: &[&Agent]) -> Agent {
    let mut command = mesh.agent(node, node);
    command.env("HOBNOB_HTTP__EUREKA", "true");
    for seed in seeds {
        command.args(["--join", &seed.mesh.to_string()]);
    }
    mesh.launch(node, &mut command).await
}

/// What curl gets: status and body.
async fn curl(agent: &Agent, method: &str, path: &str, args: &[&str]) -> (u16, String) {
    let url = format!("http://{}{path}", agent.http);
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--globoff", "--write-out", "\n%{http_code}", "--request", method, &url]).args(args);
    let ended = finish(&mut curl).await;
    let (body, status) = ended.out.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

async fn json(agent: &Agent, path: &str) -> Value {
    let (status, body) = curl(agent, "GET", path, &["--header", "Accept: application/json"]).await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

async fn register(agent: &Agent, app: &str, instance: &Value) {
    let body = json!({"instance": instance}).to_string();
    let args = ["--header", "Content-Type: application/json", "--data", &body];
    let (status, why) = curl(agent, "POST", &format!("/eureka/apps/{app}"), &args).await;
    assert_eq!((status, &*why), (204, ""), "{body}");
}

fn web(port: u16) -> Value {
    json!({
        "instanceId": format!("host:web:{port}"), "hostName": "host", "app": "WEB", "ipAddr": "10.0.0.9", "status": "UP",
        "port": {"$": port, "@enabled": "true"}, "securePort": {"$": 443, "@enabled": "false"},
        "dataCenterInfo": {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"},
        "metadata": {"zone": "a"}, "vipAddress": "web,front", "homePageUrl": "http://host/", "lastDirtyTimestamp": "100",
    })
}

#[tokio::test]
async fn an_instance_lives_in_json_and_is_seen_by_every_face() {
    if !installed("curl") {
        return;
    }
    let mesh = Mesh::new();
    let one = start(&mesh, "n1", &[]).await;
    let two = start(&mesh, "n2", &[&one]).await;
    register(&one, "WEB", &web(8080)).await;
    let shown = json(&one, "/eureka/apps/web/host:web:8080").await;
    for key in ["instanceId", "hostName", "app", "ipAddr", "status", "port", "metadata", "vipAddress", "homePageUrl"] {
        assert_eq!(shown["instance"][key], web(8080)[key], "{key}");
    }
    // Another node's DNS and Consul's API know it too; a service of other words is an application.
    two.until_resolved("web", &["8080"]).await;
    assert_eq!(two.get("/v1/health/service/web?passing").await[0]["Service"]["Port"], 8080);
    two.register("db", 5432).await;
    let all = until("n1 has both applications", async || {
        let all = json(&one, "/eureka/v2/apps/").await["applications"].take();
        (all["application"].as_array().unwrap().len() == 2).then_some(all)
    });
    let all = all.await;
    assert_eq!((&all["apps__hashcode"], &all["versions__delta"]), (&json!("UP_2_"), &json!("1")));
    assert_eq!(all["application"][0]["instance"][0]["instanceId"], "n2:db");
    for (path, count) in [("vips/front", 1), ("vips/nobody", 0), ("svips/web", 0)] {
        let found = json(&one, &format!("/eureka/{path}")).await;
        assert_eq!(found["applications"]["application"].as_array().unwrap().len(), count, "{path}");
    }
    assert_eq!(json(&two, "/eureka/instances/host:web:8080").await["instance"]["app"], "WEB");
    assert_eq!(json(&one, "/eureka/apps/delta").await["applications"], all);
    // It is renewed where it is registered and nowhere else; whoever has changed registers again.
    let renew = "/eureka/apps/WEB/host:web:8080?status=UP&lastDirtyTimestamp=";
    assert_eq!(curl(&one, "PUT", &format!("{renew}100"), &[]).await.0, 200);
    assert_eq!(curl(&one, "PUT", &format!("{renew}101"), &[]).await.0, 404);
    assert_eq!(curl(&two, "PUT", &format!("{renew}100"), &[]).await.0, 404);
    // A client that is moved registers again, and is shown once; it goes where it is registered.
    let mut moved = web(8080);
    moved["leaseInfo"] = json!({"renewalIntervalInSecs": 7, "durationInSecs": "21"});
    register(&two, "WEB", &moved).await;
    until("n1 has heard of the newer lease", async || {
        let shown = json(&one, "/eureka/apps/WEB").await["application"]["instance"].take();
        let lease = &shown[0]["leaseInfo"];
        assert_eq!(shown.as_array().unwrap().len(), 1, "{shown}");
        (lease["renewalIntervalInSecs"] == 7 && lease["durationInSecs"] == 21).then_some(())
    })
    .await;
    // The first keeps its lease, and shows it no more; who comes back registers again, and shows once.
    assert_eq!(one.get("/api/v1/registrations").await.as_array().unwrap().len(), 1);
    assert_eq!(curl(&one, "PUT", &format!("{renew}100"), &[]).await.0, 404);
    two.until_resolved("web", &["8080"]).await;
    // What is cancelled where it moved to is gone, although the older lease lasts; it may come back there too.
    for status in [200, 404] {
        assert_eq!(curl(&two, "DELETE", "/eureka/apps/WEB/host:web:8080", &[]).await.0, status);
    }
    for agent in [&one, &two] {
        agent.until_resolved("web", &[]).await;
        let gone = async || (curl(agent, "GET", "/eureka/apps/WEB", &[]).await.0 == 404).then_some(());
        until("Eureka shows it no more", gone).await;
        assert_eq!(agent.get("/v1/health/service/web").await, json!([]));
        assert_eq!(agent.get("/v1/health/state/critical").await, json!([]));
    }
    register(&one, "WEB", &web(8080)).await;
    two.until_resolved("web", &["8080"]).await;
    // An operator's word moves with it, there and back.
    let out = "/eureka/apps/WEB/host:web:8080/status?value=OUT_OF_SERVICE";
    assert_eq!(curl(&one, "PUT", out, &[]).await.0, 200);
    let status = async || json(&two, "/eureka/apps/WEB/host:web:8080").await["instance"]["status"].take();
    until("n2 has heard it", async || (status().await == "OUT_OF_SERVICE").then_some(())).await;
    register(&two, "WEB", &web(8080)).await;
    assert_eq!(status().await, "OUT_OF_SERVICE");
    assert_eq!(curl(&two, "DELETE", out, &[]).await.0, 200);
    until("n1 has heard it", async || (one.resolve("web").await == ["8080"]).then_some(())).await;
    register(&one, "WEB", &web(8080)).await;
    until("n2 has heard it", async || (status().await == "UP").then_some(())).await;
    until("n2 shows n1's", async || (curl(&two, "PUT", &format!("{renew}100"), &[]).await.0 == 404).then_some(()))
        .await;
    assert_eq!(curl(&two, "DELETE", "/eureka/apps/WEB/host:web:8080", &[]).await.0, 200);
    let (path, metadata) = ("/eureka/apps/WEB/host:web:8080", "/eureka/apps/WEB/host:web:8080/metadata?colour=red");
    assert_eq!(curl(&one, "PUT", metadata, &[]).await.0, 200);
    assert_eq!(json(&one, path).await["instance"]["metadata"], json!({"zone": "a", "colour": "red"}));
    assert_eq!(curl(&one, "DELETE", path, &[]).await.0, 200);
    assert_eq!(curl(&one, "DELETE", path, &[]).await.0, 404);
    until("it is gone", async || (curl(&one, "GET", "/eureka/apps/WEB", &[]).await.0 == 404).then_some(())).await;
}

#[tokio::test]
async fn an_operator_s_word_takes_an_instance_out_in_xml() {
    if !installed("curl") {
        return;
    }
    let mesh = Mesh::new();
    let agent = start(&mesh, "n1", &[]).await;
    let body = "<?xml version=\"1.0\"?>\n<instance><hostName>h&amp;h</hostName></instance>";
    let xml = ["--header", "Content-Type: application/xml", "--data", body];
    assert_eq!(curl(&agent, "POST", "/eureka/apps/PAY", &xml).await.0, 400);
    let body = "<instance><instanceId>p1</instanceId><hostName>h</hostName><app>PAY</app><ipAddr>10.0.0.1</ipAddr>\
                <port enabled=\"true\">81</port><metadata><note>a &lt; b</note></metadata></instance>";
    let xml = ["--header", "Content-Type: application/xml", "--data", body];
    assert_eq!(curl(&agent, "POST", "/eureka/v2/apps/PAY", &xml).await, (204, String::new()));
    let seen = async || curl(&agent, "GET", "/eureka/apps/PAY/p1", &[]).await.1;
    let shown = seen().await;
    for part in ["<instanceId>p1</instanceId>", "<port enabled=\"true\">81</port>", "<note>a &lt; b</note>", ">UP<"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let status = "/eureka/apps/PAY/p1/status";
    assert_eq!(curl(&agent, "PUT", &format!("{status}?value=OUT_OF_SERVICE"), &[]).await.0, 200);
    assert!(seen().await.contains("<status>OUT_OF_SERVICE</status>"));
    // Neither a renewal nor another registration brings it back.
    assert_eq!(curl(&agent, "PUT", "/eureka/apps/PAY/p1", &[]).await.0, 200);
    assert_eq!(curl(&agent, "POST", "/eureka/apps/PAY", &xml).await.0, 204);
    assert!(agent.resolve("pay").await.is_empty());
    assert_eq!(curl(&agent, "PUT", &format!("{status}?value=GREAT"), &[]).await.0, 400);
    assert_eq!(curl(&agent, "PUT", status, &[]).await.0, 400);
    let (refused, why) = curl(&agent, "POST", status, &[]).await;
    assert!(refused == 405 && why.contains("the header Allow"), "{refused} {why}");
    assert_eq!(curl(&agent, "DELETE", &format!("{status}?value=UP"), &[]).await.0, 200);
    agent.until_resolved("pay", &["81"]).await;
    let all = curl(&agent, "GET", "/eureka/apps", &[]).await.1;
    assert!(all.contains("<applications>") && all.contains("<apps__hashcode>UP_1_</apps__hashcode>"), "{all}");
}

#[tokio::test]
async fn a_lease_runs_out_and_its_client_is_told_to_register_again() {
    if !installed("curl") {
        return;
    }
    let mesh = Mesh::new();
    let agent = start(&mesh, "n1", &[]).await;
    let mut short = web(8080);
    short["leaseInfo"] = json!({"renewalIntervalInSecs": 1, "durationInSecs": 1});
    register(&agent, "WEB", &short).await;
    until("its lease has run out", async || {
        (curl(&agent, "GET", "/eureka/apps/WEB", &[]).await.0 == 404).then_some(())
    })
    .await;
    until("it is forgotten", async || agent.get("/api/v1/registrations").await.as_array()?.is_empty().then_some(()))
        .await;
    assert_eq!(curl(&agent, "PUT", "/eureka/apps/WEB/host:web:8080", &[]).await.0, 404);
    register(&agent, "WEB", &web(8080)).await;
    assert_eq!(curl(&agent, "PUT", "/eureka/apps/WEB/host:web:8080", &[]).await.0, 200);
}

#[tokio::test]
async fn leases_that_run_out_all_at_once_are_shown_as_on_every_other_face() {
    if !installed("curl") {
        return;
    }
    let mesh = Mesh::new();
    let agent = start(&mesh, "n1", &[]).await;
    for port in 8080..8083 {
        let mut short = web(port);
        short["leaseInfo"] = json!({"renewalIntervalInSecs": 1, "durationInSecs": 4});
        register(&agent, "WEB", &short).await;
    }
    until("they are kept as they were", async || {
        let (_, answer) = curl(&agent, "GET", "/api/v1/services/web", &[]).await;
        (answer.matches(r#""held":"protected""#).count() == 3).then_some(())
    })
    .await;
    let all = json(&agent, "/eureka/apps/WEB").await["application"]["instance"].clone();
    let up = all.as_array().unwrap().iter().filter(|instance| instance["status"] == "UP").count();
    assert_eq!(up, 3, "{all}");
}

#[tokio::test]
async fn hostile_bodies_change_nothing_and_who_did_not_ask_for_it_has_no_such_face() {
    if !installed("curl") {
        return;
    }
    let mesh = Mesh::new();
    let agent = start(&mesh, "n1", &[]).await;
    let (deep, many) = ("<a>".repeat(100_000), format!("<instance>{}</instance>", "<a/>".repeat(50_000)));
    let deep_json = "[".repeat(100_000);
    let bodies = [
        "",
        "{",
        "null",
        "{\"instance\": {}}",
        "<instance/>",
        "<!DOCTYPE x [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><instance><app>&b;</app></instance>",
        "<instance><app>WEB</app><hostName>h</hostName><port>99999</port></instance>",
        &deep,
        &many,
        &deep_json,
    ];
    for body in bodies {
        let file = mesh.file("body", body);
        let data = format!("@{}", file.display());
        let (status, why) = curl(&agent, "POST", "/eureka/apps/WEB", &["--data-binary", &data]).await;
        assert_eq!(status, 400, "{}: {why}", body.chars().take(40).collect::<String>());
    }
    assert_eq!(agent.get("/api/v1/registrations").await, json!([]));
    let plain = mesh.start("n2", &[]).await;
    assert_eq!(curl(&plain, "GET", "/eureka/apps", &[]).await.0, 404);
}

#[tokio::test]
async fn an_application_may_be_called_what_spring_calls_it() {
    if !installed("curl") {
        return;
    }
    let mesh = Mesh::new();
    let agent = start(&mesh, "n1", &[]).await;
    for app in ["MY_APP", "COM.EXAMPLE.APP"] {
        let mut instance = web(8080);
        (instance["app"], instance["instanceId"]) = (app.into(), format!("host:{app}:8080").into());
        register(&agent, app, &instance).await;
        let path = format!("/eureka/apps/{app}/host:{app}:8080");
        assert_eq!(curl(&agent, "PUT", &format!("{path}?status=UP&lastDirtyTimestamp=100"), &[]).await.0, 200);
        let shown = json(&agent, &format!("/eureka/apps/{app}")).await;
        assert_eq!(
            (&shown["application"]["name"], &shown["application"]["instance"][0]["status"]),
            (&json!(app), &json!("UP"))
        );
        let found = agent.get(&format!("/v1/health/service/{}?passing", app.to_lowercase())).await;
        assert_eq!(found[0]["Service"]["Port"], 8080, "{found}");
        let all = json(&agent, "/eureka/apps").await;
        assert_eq!(all["applications"]["application"][0]["name"], app);
        assert_eq!(curl(&agent, "DELETE", &path, &[]).await.0, 200);
        assert_eq!(curl(&agent, "GET", &format!("/eureka/apps/{app}"), &[]).await.0, 404);
    }
}
