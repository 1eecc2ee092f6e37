//! Who may do what over HTTP: tokens as an operator makes them, real agents that hold everybody to them.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test outside the core's virtual time")]

mod process;

use std::fs;

use process::{Agent, Ended, Mesh, finish, hobnob, until};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// Starts a node whose `[http]` says `section`.
async fn start(mesh: &Mesh, node: &str, section: &str, seeds: &[&Agent]) -> Agent {
    let config = mesh.file(&format!("{node}.toml"), &format!("[http]\n{section}\n"));
    let mut command = mesh.agent(node, node);
    command.arg("--config").arg(config);
    for seed in seeds {
        command.args(["--join", &seed.mesh.to_string()]);
    }
    mesh.launch(node, &mut command).await
}

/// Runs a command against `agent`, with a token or without.
async fn ask(agent: &Agent, token: &str, words: &[&str]) -> Ended {
    let mut command = hobnob();
    command.args(words).args(["--api", &format!("http://{}", agent.http)]);
    if !token.is_empty() {
        command.env("HOBNOB_TOKEN", token);
    }
    finish(&mut command).await
}

/// Makes a token; what was printed is the token alone.
async fn create(agent: &Agent, by: &str, policy: &str, name: &str) -> String {
    let made = ask(agent, by, &["token", "create", "--policy", policy, "--name", name]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    made.out.trim().to_owned()
}

/// The first token, as a node's own settings hold it: the token, and its section.
async fn first_token() -> (String, String) {
    let made = finish(hobnob().args(["token", "create", "--policy", "all", "--name", "root", "--offline"])).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    assert!(!made.err.contains(made.out.trim()), "what goes into the file is not the token");
    (made.out.trim().to_owned(), made.err)
}

#[tokio::test]
async fn who_shows_no_token_may_do_what_anonymous_may() {
    let mesh = Mesh::new();
    let (root, section) = first_token().await;
    let a = start(&mesh, "a", &format!("anonymous = \"read\"\n{section}"), &[]).await;
    assert_eq!(ask(&a, "", &["members"]).await.code, Some(0));
    for words in [&["register", "web", "--port", "80"][..], &["leave"], &["token", "list"]] {
        let refused = ask(&a, "", words).await;
        assert!(refused.failure(5).2.contains("--token-file"), "{words:?}");
    }
    let (status, body) = a.call("PUT", "/api/v1/registrations/web", r#"{"name": "web", "port": 80}"#).await;
    assert_eq!((status, &body["status"]), (401, &401.into()), "{body}");
    assert_eq!(a.get("/api/v1/registrations").await, serde_json::json!([]));
    assert_eq!(ask(&a, "wrong", &["members"]).await.code, Some(5), "a token that is not known is not nobody");
    for path in ["/livez", "/readyz", "/version"] {
        assert_eq!(a.call_as("wrong", "GET", path, "").await.0, 200, "{path}");
    }
    let empty = mesh.file("empty-token", "\n").display().to_string();
    let unshown = ask(&a, "", &["members", "--token-file", &empty]).await;
    assert!(unshown.failure(2).1.contains("is empty"), "{unshown:?}");
    assert_eq!(ask(&a, &root, &["register", "web", "--port", "80"]).await.code, Some(0));
    a.until_logged("who=\"root\"").await;
    let log = a.log();
    assert!(log.contains("audit") && log.contains("anonymous"), "{log}");
    assert!(!log.contains(&root), "a token is never logged");
}

#[tokio::test]
async fn a_token_has_one_name_and_some_time_before_it() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let create = async |name: &str, digit: &str, expires: &str| {
        let sha256 = digit.repeat(64);
        let wanted = format!(r#"{{"name": "{name}", "sha256": "{sha256}", "policy": "read", "expires": {expires}}}"#);
        a.call("POST", "/api/v1/tokens", &wanted).await.0
    };
    assert_eq!(create("one", "1", "null").await, 201);
    assert_eq!(create("another", "1", "null").await, 409);
    assert_eq!(create("late", "2", "1").await, 400);
    assert_eq!(create("two words", "3", "null").await, 400);
    assert_eq!(a.call("POST", "/api/v1/denials", r#"{"serial": "no number"}"#).await.0, 400);
    let names = a.get("/api/v1/tokens").await;
    assert_eq!(names.as_array().unwrap().iter().map(|token| &token["name"]).collect::<Vec<_>>(), ["one"]);
}

#[tokio::test]
async fn what_the_mesh_says_of_a_token_of_this_node_s_settings_does_not_count_here() {
    let mesh = Mesh::new();
    let (root, section) = first_token().await;
    let a = start(&mesh, "a", &format!("anonymous = \"all\"\n{section}"), &[]).await;
    let sha256 = section.lines().find_map(|line| line.strip_prefix("sha256 = ")).unwrap();
    let wanted = format!(r#"{{"name": "weak", "sha256": {sha256}, "policy": "read"}}"#);
    let again = format!(r#"{{"name": "root", "sha256": "{}", "policy": "read"}}"#, "1".repeat(64));
    for (path, taken) in [("/api/v1/tokens", &wanted), ("/api/v1/tokens", &again), ("/api/v1/tokens/root", &again)] {
        let method = if path.ends_with("root") { "DELETE" } else { "POST" };
        let (status, said) = a.call(method, path, taken).await;
        assert!(status == 409 && said["detail"].as_str().unwrap().contains("[[http.tokens]]"), "{status} {said}");
    }
    // Another node knows nothing of these settings.
    let b = mesh.start("b", &[&a]).await;
    assert_eq!(b.call("POST", "/api/v1/tokens", &wanted).await.0, 201);
    until("a has heard of it", async || {
        a.get("/api/v1/tokens").await.as_array()?.iter().any(|one| one["name"] == "weak").then_some(())
    })
    .await;
    assert_eq!(ask(&a, &root, &["register", "web", "--port", "80"]).await.code, Some(0));
    // Nor does what the mesh takes back, be it of the same name or the same token by another; whoever asks is told.
    assert_eq!(b.call("POST", "/api/v1/tokens", &again).await.0, 201);
    let listed =
        async |name: &str| a.get("/api/v1/tokens").await.as_array().unwrap().iter().any(|one| one["name"] == name);
    until("a has heard of that too", async || listed("root").await.then_some(())).await;
    for name in ["root", "weak"] {
        let (_, why, next) = ask(&a, &root, &["token", "revoke", name]).await.failure(1);
        assert!(why.contains("\"root\" stands in this node's settings") && why.contains("is revoked"), "{why}");
        assert!(next.contains("restart") && !listed(name).await, "{next}");
    }
    let next = ask(&a, &root, &["token", "revoke", "nobody"]).await.failure(1).2;
    assert!(next.contains("hobnob token list"), "{next}");
}

#[tokio::test]
async fn refusals_do_not_fill_the_log() {
    let mesh = Mesh::new();
    let (_, section) = first_token().await;
    let mut a = start(&mesh, "a", &format!("anonymous = \"none\"\n{section}"), &[]).await;
    for _ in 0..100 {
        assert_eq!(a.call("GET", "/api/v1/members", "").await.0, 401);
        assert_eq!(a.call_as("guessed", "DELETE", "/api/v1/registrations/web", "").await.0, 401);
    }
    a.signal(rustix::process::Signal::TERM);
    assert!(a.ended().await.success());
    let log = a.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("audit")).collect();
    let [first, rest @ ..] = &told[..] else { panic!("nothing was told: {log}") };
    assert!(first.contains("127.0.0.1") && first.contains("401") && first.contains("/api/v1/members"), "{first}");
    // As many lines as intervals, and every refusal in one of them.
    let counts = rest.iter().map(|line| line.split("refused=").nth(1)?.split(' ').next()?.parse::<u64>().ok());
    assert!(rest.len() <= 5, "{told:?}");
    assert_eq!(counts.sum::<Option<u64>>(), Some(199), "{told:?}");
}

#[tokio::test]
async fn a_token_writes_its_own_services_and_no_others() {
    let mesh = Mesh::new();
    let (root, section) = first_token().await;
    let a = start(&mesh, "a", &format!("anonymous = \"none\"\n{section}"), &[]).await;
    assert_eq!(a.call("GET", "/livez", "").await.0, 200);
    assert_eq!(a.call("GET", "/api/v1/members", "").await.0, 401);
    let web = create(&a, &root, "write:web-*", "deploy").await;
    let operator = create(&a, &root, "operate", "ops").await;
    assert_eq!(ask(&a, &web, &["register", "web-1", "--port", "80"]).await.code, Some(0));
    assert_eq!(ask(&a, &root, &["register", "db", "--port", "81"]).await.code, Some(0));
    for words in [
        // Another's service by its name, by its id, and by taking its id over.
        &["register", "db2", "--port", "1"][..],
        &["deregister", "db"],
        &["register", "web-2", "--port", "1", "--id", "db"],
        &["leave"],
        &["token", "create", "--policy", "all"],
    ] {
        assert_eq!(ask(&a, &web, words).await.code, Some(5), "{words:?}");
    }
    assert_eq!(ask(&a, &operator, &["token", "create", "--policy", "all"]).await.code, Some(5));
    assert_eq!(ask(&a, &operator, &["deregister", "web-1"]).await.code, Some(5));
    assert_eq!(ask(&a, &web, &["services", "--format", "name"]).await.out, "db\nweb-1\n");
    assert_eq!(ask(&a, &web, &["deregister", "web-1"]).await.code, Some(0));
}

#[tokio::test]
async fn every_described_call_is_closed_to_whoever_may_not() {
    let mesh = Mesh::new();
    let (root, section) = first_token().await;
    let a = start(&mesh, "a", &format!("anonymous = \"none\"\n{section}"), &[]).await;
    let read = create(&a, &root, "read", "reader").await;
    let api = a.call_as(&read, "GET", "/api/v1/openapi.json", "").await.1;
    let calls = api["paths"].as_object().unwrap().iter().flat_map(|(path, calls)| {
        calls.as_object().unwrap().keys().map(move |method| (method.to_ascii_uppercase(), path))
    });
    let mut walked = 0;
    for (method, path) in calls.filter(|(method, _)| method != "PARAMETERS") {
        let asked = path.replace(['{', '}'], "");
        let open = matches!(path.as_str(), "/" | "/livez" | "/readyz" | "/version");
        let status = a.call(&method, &asked, "{}").await.0;
        assert_eq!(status == 401, !open, "anonymous: {method} {path}: {status}");
        if method != "GET" || path.starts_with("/api/v1/tokens") {
            let status = a.call_as(&read, &method, &asked, "{}").await.0;
            assert_eq!(status, 403, "a reader: {method} {path}");
        }
        walked += 1;
    }
    assert!(walked > 25, "{walked}");
    assert_eq!(a.call_as(&root, "GET", "/api/v1/registrations", "").await.1, serde_json::json!([]));
}

#[tokio::test]
async fn consul_s_calls_are_held_to_the_same_policies() {
    let mesh = Mesh::new();
    let (root, section) = first_token().await;
    let a = start(&mesh, "a", &format!("anonymous = \"none\"\n{section}"), &[]).await;
    let web = create(&a, &root, "write:web", "web").await;
    let put = async |token: &str, path: &str, body: &str| a.call_as(token, "PUT", path, body).await.0;
    let with_check = r#"{"Name": "db", "Port": 1, "Check": {"CheckID": "alive", "TTL": "1h"}}"#;
    assert_eq!(put(&root, "/v1/agent/service/register", with_check).await, 200);
    assert_eq!(put(&web, "/v1/agent/service/register", r#"{"Name": "web", "Port": 2}"#).await, 200);
    for (path, body) in [
        ("/v1/agent/service/register", r#"{"Name": "db", "Port": 2}"#),
        // A key's spelling does not matter to the handler, and so not to the policy.
        ("/v1/agent/service/register", r#"{"N_aMe": "db", "Port": 2}"#),
        ("/v1/agent/service/register", r#"{"name": "web", "NAME": "db", "Port": 2}"#),
        ("/v1/agent/service/register", r#"{"Name": "web", "I_D": "db", "Port": 2}"#),
        // Who names a check's id takes it.
        ("/v1/agent/service/register", r#"{"Name": "web", "Check": {"Check_ID": "alive", "TTL": "1h"}}"#),
        ("/v1/agent/service/register", r#"{"Name": "web", "checks": [{"ID": "alive", "TTL": "1h"}]}"#),
        ("/v1/agent/check/register", r#"{"Name": "x", "CheckID": "alive", "TTL": "1h", "ServiceID": "web"}"#),
        ("/v1/agent/check/register", r#"{"Name": "alive", "TTL": "1h", "ServiceID": "web"}"#),
        ("/v1/agent/service/deregister/db", ""),
        ("/v1/agent/service/maintenance/db?enable=true", ""),
        // A check by an id of its own, and one of the node.
        ("/v1/agent/check/pass/alive", ""),
        ("/v1/agent/check/update/alive", r#"{"Status": "passing"}"#),
        ("/v1/agent/check/deregister/alive", ""),
        ("/v1/agent/check/register", r#"{"Name": "x", "TTL": "1h", "Service_ID": "db"}"#),
        ("/v1/agent/check/register", r#"{"Name": "x", "TTL": "1h"}"#),
        ("/v1/agent/maintenance?enable=true", ""),
        ("/v1/agent/leave", ""),
        ("/v1/catalog/register", r#"{"Node": "x", "Address": "10.0.0.1"}"#),
        ("/v1/event/fire/deploy", ""),
    ] {
        assert_eq!(put(&web, path, body).await, 403, "{path} {body}");
        assert_eq!(put("", path, body).await, 403, "anonymous: {path} {body}");
    }
    // Nodes are the operator's, and what stands on them whoever's may write it.
    let [ops, both] = ["operate", "operate,write:web"];
    let (ops, both) = (create(&a, &root, ops, "ops").await, create(&a, &root, both, "both").await);
    let on = |node: &str, service: &str| format!(r#"{{"Node": "{node}", "Address": "10.0.0.1"{service}}}"#);
    let path = "/v1/catalog/register";
    assert_eq!(put(&ops, path, &on("x", "")).await, 200);
    assert_eq!(put(&ops, path, &on("x", r#", "Service": {"SerVice": "web"}"#)).await, 403);
    assert_eq!(put(&both, path, &on("x", r#", "Service": {"Service": "web"}"#)).await, 200);
    assert_eq!(put(&both, path, &on("y", r#", "Service": {"Service": "db"}"#)).await, 403);
    assert_eq!(put(&root, path, &on("y", r#", "Service": {"Service": "db"}"#)).await, 200);
    for path in ["/v1/catalog/register", "/v1/catalog/deregister"] {
        assert_eq!(put(&both, path, &on("Y", "")).await, 403, "{path}: another's stands on it");
    }
    assert_eq!(put(&both, "/v1/catalog/deregister", &on("x", "")).await, 200);
    // Nor by an id that its own would be called by.
    let by_id = r#"{"Name": "web", "ID": "alive:1", "Check": {"TTL": "1h"}}"#;
    let two = r#"{"Name": "db", "ID": "alive", "Checks": [{"TTL": "1h"}, {"TTL": "1h"}]}"#;
    assert_eq!(put(&root, "/v1/agent/service/register", two).await, 200);
    assert_eq!(put(&web, "/v1/agent/service/register", by_id).await, 403);
    assert_eq!(put(&root, "/v1/agent/service/deregister/alive", "").await, 200);
    // Refused in Consul's words; what nobody may do, with the reason.
    let (status, why) = a.call_with("", "PUT", "/v1/agent/leave", "").await;
    assert!(status == 403 && why.contains("Permission denied: anonymous "), "{status} {why}");
    assert_eq!(put(&web, "/v1/session/create", "{}").await, 501);
    let by_query = async |path: &str| a.call("GET", &format!("{path}?token={web}"), "").await.0;
    assert_eq!(by_query("/v1/catalog/nodes").await, 200);
    assert_eq!(by_query("/api/v1/members").await, 401, "it is Consul's way alone");
    assert!(!a.log().contains(&web), "a token is never logged");
    // Another word for the name is none.
    assert_eq!(put(&web, "/v1/agent/service/register", r#"{"Service": "db", "Port": 2}"#).await, 400);
    assert_eq!(put(&web, "/v1/agent/check/register", r#"{"Name": "x", "TTL": "1h", "ServiceID": "web"}"#).await, 200);
    assert_eq!(put(&web, "/v1/agent/check/pass/x", "").await, 200);
    assert_eq!(put(&root, "/v1/agent/check/pass/alive", "").await, 200);
    let checks = a.call_as(&web, "GET", "/v1/agent/checks", "").await.1;
    assert_eq!(checks.as_object().unwrap().len(), 2, "{checks}");
    assert_eq!(put(&web, "/v1/agent/service/deregister/web", "").await, 200);
}

#[tokio::test]
async fn a_token_is_good_on_every_node_until_it_is_revoked_and_outlives_a_restart() {
    let mesh = Mesh::new();
    let (root, section) = first_token().await;
    let section = format!("anonymous = \"none\"\n{section}");
    let a = start(&mesh, "a", &section, &[]).await;
    let deploy = create(&a, &root, "write", "deploy").await;
    // One that was not there when it was made, and one that is when it goes.
    let b = start(&mesh, "b", &section, &[&a]).await;
    let works = async |agent: &Agent| ask(agent, &deploy, &["members"]).await.code == Some(0);
    until("b has heard of the token", async || works(&b).await.then_some(())).await;
    let kept =
        async || std::fs::read(mesh.path("b/edicts")).ok()?.windows(6).any(|word| word == b"deploy").then_some(());
    until("it is on b's disk", kept).await;
    b.kill().await;
    let b = start(&mesh, "b", &section, &[]).await;
    assert!(works(&b).await, "what was on its disk is so at once");
    assert_eq!(ask(&a, &root, &["token", "revoke", "deploy"]).await.code, Some(0));
    until("b has heard that it is gone", async || (!works(&b).await).then_some(())).await;
    assert!(ask(&a, &deploy, &["members"]).await.failure(5).2.contains("token"));
    let listed = ask(&b, &root, &["token", "list", "--format", "name"]).await;
    assert_eq!((listed.code, listed.out.as_str()), (Some(0), ""), "{listed:?}");
}

#[tokio::test]
async fn what_was_decreed_and_is_not_on_the_disk_is_told_of_until_it_is() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    create(&a, "", "read", "bad").await;
    // As on a full disk, the law's file cannot be written.
    std::fs::create_dir(mesh.path("a/edicts.new")).unwrap();
    for words in [&["token", "revoke", "bad"][..], &["ca", "revoke", "thief"]] {
        let (_, why, next) = ask(&a, "", words).await.failure(1);
        assert!(why.contains("could not be stored") && next.contains("hobnob doctor"), "{why} {next}");
    }
    let stands = async |a: &Agent| [a.get("/api/v1/tokens").await, a.get("/api/v1/denials").await["nodes"].clone()];
    let [none, thief] = [serde_json::json!([]), serde_json::json!(["thief"])];
    assert_eq!(stands(&a).await, [none.clone(), thief.clone()], "it holds all the same");
    assert!(ask(&a, "", &["doctor"]).await.failure(3).1.contains("what was written last is not on the disk"));
    std::fs::remove_dir(mesh.path("a/edicts.new")).unwrap();
    // Nobody says anything again.
    until("it is on the disk", async || (ask(&a, "", &["doctor"]).await.code == Some(0)).then_some(())).await;
    a.kill().await;
    let a = mesh.start("a", &[]).await;
    assert_eq!(stands(&a).await, [none, thief]);
}

#[tokio::test]
async fn a_denied_node_is_put_out_everywhere_and_let_in_again() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let b = mesh.start("b", &[&a]).await;
    let c = mesh.start("c", &[&a]).await;
    for agent in [&a, &b] {
        agent.until_linked("c").await;
    }
    assert_eq!(ask(&a, "", &["ca", "revoke", "c"]).await.code, Some(0));
    for agent in [&a, &b] {
        agent.until_logged("expelled").await;
        agent.until_seen("c", "down").await;
    }
    c.until_logged("not accepted any more").await;
    let doctor = until("its doctor tells as well", async || {
        Some(ask(&c, "", &["doctor"]).await).filter(|doctor| doctor.err.contains("let in no more since"))
    })
    .await;
    let (_, why, next) = doctor.failure(3);
    assert!(why.contains("revoked") && next.contains("--undo"), "{doctor:?}");
    c.until_logged("certificate is revoked there").await;
    a.until_logged("its certificate is revoked").await;
    assert!(!c.log().contains("secrets or mesh names"), "{}", c.log());
    let status = ask(&c, "", &["status"]).await;
    assert!(status.out.contains("NODE") && status.err.contains("let in no more since"), "{status:?}");
    assert!(status.err.contains("next: hobnob ca revoke c --undo"), "{status:?}");
    let itself = ask(&a, "", &["ca", "revoke", "a"]).await;
    assert!(itself.failure(2).1.contains("itself"));
    let status = a.get("/api/v1/status").await;
    let own = status["certificate"]["serial"].as_str().unwrap();
    for more in [&["--serial", own][..], &["--serial", own, "--undo"]] {
        let itself = ask(&a, "", &[&["ca", "revoke"], more].concat()).await;
        assert!(itself.failure(2).1.contains("itself"), "{itself:?}");
    }
    let nobody = ask(&a, "", &["ca", "revoke", "nobody", "--undo"]).await;
    assert!(nobody.failure(1).1.contains("nothing denies it"), "{nobody:?}");
    assert_eq!(ask(&b, "", &["ca", "revoke", "c", "--undo"]).await.code, Some(0));
    a.until_seen("c", "alive").await;
    b.until_seen("c", "alive").await;
    until("c knows that it is back", async || {
        (!ask(&c, "", &["doctor"]).await.out.contains("membership")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_waits_or_streams_by_a_token_ends_when_it_is_revoked() {
    let mesh = Mesh::new();
    let (root, section) = first_token().await;
    let section = format!("anonymous = \"none\"\n{section}");
    let a = start(&mesh, "a", &section, &[]).await;
    a.call_as(&root, "PUT", "/api/v1/registrations/web", r#"{"name": "web", "port": 80}"#).await;
    let reader = create(&a, &root, "read", "reader").await;
    let get = |token: &str, path: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n")
    };
    let now = {
        let mut stream = TcpStream::connect(a.http).await.unwrap();
        stream.write_all(get(&root, "/v1/health/service/web").as_bytes()).await.unwrap();
        let mut head = String::new();
        while !head.contains("\r\n\r\n") {
            let mut piece = [0; 4096];
            let read = stream.read(&mut piece).await.unwrap();
            head += &String::from_utf8_lossy(&piece[..read]).to_ascii_lowercase();
        }
        head.split("x-consul-index: ").nth(1).unwrap().split("\r\n").next().unwrap().to_owned()
    };
    let parked = format!("/v1/health/service/web?index={now}&wait=10m");
    let waits = ["/api/v1/watch?service=web", "/api/v1/events", &parked];
    let mut open = Vec::new();
    for (token, path) in waits.iter().flat_map(|path| [(&reader, path), (&root, path)]) {
        let mut stream = TcpStream::connect(a.http).await.unwrap();
        stream.write_all(get(token, path).as_bytes()).await.unwrap();
        open.push(stream);
    }
    // The streams have begun; nobody knows it of the read that waits, and it may not matter to it.
    for stream in open.iter_mut().take(4) {
        let mut head = [0; 15];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
    }
    assert_eq!(ask(&a, &root, &["token", "revoke", "reader"]).await.code, Some(0));
    for (at, stream) in open.iter_mut().enumerate() {
        let mut heard = String::new();
        if at % 2 == 0 {
            let ended = async {
                // A connection that stays open for the next request is heard to the end of the answer.
                let mut piece = [0; 4096];
                while !heard.ends_with("0\r\n\r\n") && !heard.contains("HTTP/1.1 40") {
                    let read = stream.read(&mut piece).await.unwrap();
                    assert!(read > 0, "{heard}");
                    heard += &String::from_utf8_lossy(&piece[..read]);
                }
            };
            tokio::time::timeout(std::time::Duration::from_secs(40), ended).await.expect("it goes on");
        } else {
            let goes_on = stream.try_read(&mut [0; 4096]);
            assert!(!matches!(goes_on, Ok(0)), "another's goes on");
        }
    }
}

#[tokio::test]
async fn a_right_that_is_lost_ends_no_command_and_may_be_given_again() {
    let mesh = Mesh::new();
    let (root, section) = first_token().await;
    let a = start(&mesh, "a", &format!("anonymous = \"read\"\n{section}"), &[]).await;
    let file = mesh.file("token", &create(&a, &root, "write:job*", "first").await);
    let mut running = hobnob();
    running.args(["run", "job", "--port", "80", "--api", &format!("http://{}", a.http), "--token-file"]).arg(&file);
    let mut running = running
        .args(["--", "sh", "-c", "while kill -0 $PPID; do sleep 0.05; done"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    a.until_resolved("job", &["80"]).await;
    assert_eq!(ask(&a, &root, &["token", "revoke", "first"]).await.code, Some(0));
    let mut said = BufReader::new(running.stderr.take().unwrap()).lines();
    let _registered = said.next_line().await.unwrap();
    let complaint = said.next_line().await.unwrap().unwrap();
    assert!(complaint.contains("401") && complaint.contains("trying again"), "{complaint}");
    a.until_resolved("job", &[]).await;
    assert!(running.try_wait().unwrap().is_none(), "the command goes on");
    fs::write(&file, create(&a, &root, "write:job*", "second").await).unwrap();
    a.until_resolved("job", &["80"]).await;
    running.start_kill().unwrap();
}
