//! What happened and why: the stream of events and its memory, explanations, giving up on the dead; by API and by command.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test outside the core's virtual time")]

mod process;

use process::{Agent, Ended, Mesh, finish, hobnob, until};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

async fn command(agent: &Agent, words: &str) -> Ended {
    finish(hobnob().args(words.split_whitespace()).env("HOBNOB_API", format!("http://{}", agent.http))).await
}

/// The events that `agent` remembers, as JSON.
async fn events(agent: &Agent) -> Vec<Value> {
    let said = command(agent, "events --format jsonl").await;
    assert_eq!(said.code, Some(0), "{said:?}");
    said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits until an event has these fields.
async fn until_told(agent: &Agent, wanted: &[(&str, &str)]) -> Value {
    let what = format!("an event {wanted:?}");
    until(&what, async || {
        let fits = |event: &Value| wanted.iter().all(|(field, text)| event[*field] == *text);
        events(agent).await.into_iter().find(fits)
    })
    .await
}

/// Opens the stream of events, and reads until its text `has`.
async fn stream(agent: &Agent, last: Option<&str>, has: &str) -> String {
    let mut stream = TcpStream::connect(agent.http).await.unwrap();
    let last = last.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
    let request = format!("GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n{last}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    until(&format!("{has:?} in the stream"), async || {
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).await.unwrap();
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
        text.contains(has).then_some(())
    })
    .await;
    text
}

#[tokio::test]
async fn each_event_says_what_was_what_is_and_why_everywhere_alike() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let b = mesh.start("b", &[&a]).await;
    let body = r#"{"name": "web", "port": 80, "checks": [{"id": "alive", "ttl": "1h", "initial": "passing"}]}"#;
    assert_eq!(b.call("PUT", "/api/v1/registrations/web", body).await.0, 201);
    a.until_resolved("web", &["80"]).await;
    let report = r#"{"status": "critical", "output": "no disk"}"#;
    assert_eq!(b.call("PUT", "/api/v1/registrations/web/checks/alive", report).await.0, 200);
    let flip = until_told(&a, &[("event", "health"), ("now", "critical")]).await;
    for (field, text) in [("was", "passing"), ("node", "b"), ("service", "web"), ("check", "alive"), ("why", "no disk")]
    {
        assert_eq!(flip[field], *text, "{flip}");
    }
    let resolved = command(&a, "resolve web --format json").await;
    assert!(resolved.out.contains("check alive is critical: no disk"), "{resolved:?}");
    tokio::join!(a.until_linked("b"), b.until_linked("a"));
    b.kill().await;
    let death = until_told(&a, &[("event", "member"), ("node", "b"), ("now", "down")]).await;
    assert_eq!((&death["was"], &death["cause"]), (&"alive".into(), &"will".into()));

    let text = stream(&a, None, "\"cause\":\"will\"").await;
    assert!(text.contains("content-type: text/event-stream") && text.contains("event: health"), "{text}");
    let rest = stream(&a, flip["id"].as_str(), "\"cause\":\"will\"").await;
    assert!(!rest.contains("event: health"), "what was seen is not sent again: {rest}");
    a.until_logged("event=\"member\" node=\"b\"").await;
    a.until_logged("cause=\"will\"").await;
    let (status, refusal) = a.call("GET", "/api/v1/events?after=yesterday", "").await;
    assert_eq!((status, &refusal["field"]), (400, &"after".into()));
    let lines = command(&a, "events").await;
    assert!(lines.out.contains("member  b  alive -> down  will"), "{lines:?}");
    let mut metrics = TcpStream::connect(a.http).await.unwrap();
    metrics.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut page = String::new();
    metrics.read_to_string(&mut page).await.unwrap();
    assert!(page.contains("hobnob_events_total{event=\"member\",now=\"down\",cause=\"will\"} 1"), "{page}");
}

#[tokio::test]
async fn an_explanation_has_the_evidence_of_every_node() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let seeds = [&a];
    let (b, c) = tokio::join!(mesh.start("b", &seeds), mesh.start("c", &seeds));
    c.register("web", 80).await;
    for agent in [&a, &b] {
        agent.until_resolved("web", &["80"]).await;
        agent.until_linked("c").await;
    }
    let said = until("b has answered", async || {
        let said = a.get("/api/v1/explain/c").await;
        let knows = |observer: &Value| observer["node"] == "b" && observer["version"].as_u64() > Some(1);
        said["observers"].as_array().unwrap().iter().any(knows).then_some(said)
    });
    let said = said.await;
    assert_eq!(
        (&said["state"], &said["shown"], &said["linked"]),
        (&"alive".into(), &true.into(), &true.into()),
        "{said}"
    );
    assert!(said["heard"].is_string() && said["observers"][0]["heard_ms_ago"].is_u64(), "{said}");
    let web = a.get("/api/v1/explain/web").await;
    assert_eq!((&web["instances"][0]["shown"], &web["nodes"][0]["node"]), (&true.into(), &"c".into()), "{web}");

    c.kill_both().await;
    a.until_seen("c", "down").await;
    let said = a.get("/api/v1/explain/c").await;
    assert_eq!((&said["cause"], &said["shown"]), (&"suspicion_expired".into(), &false.into()), "{said}");
    let web = command(&a, "explain web").await;
    assert!(web.out.contains("its node is down") && web.out.contains("did not answer in time"), "{web:?}");
    assert_eq!(a.call("GET", "/api/v1/explain/nobody", "").await.0, 404);
    assert_eq!(a.get("/api/v1/explain/a").await["this"], true);
}

#[tokio::test]
async fn the_dead_are_given_up_and_the_living_are_not() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let seeds = [&a];
    let (b, c) = tokio::join!(mesh.start("b", &seeds), mesh.start("c", &seeds));
    b.until_seen("c", "alive").await;
    let (what, why, _) = command(&a, "force-leave c").await.failure(1);
    assert!(what.contains("force-leave") && why.contains("alive"), "{what}: {why}");
    assert_ne!(command(&a, "force-leave nobody").await.code, Some(0));
    a.until_linked("c").await;
    b.until_linked("c").await;
    c.kill().await;
    a.until_seen("c", "down").await;
    let given_up = command(&a, "force-leave c").await;
    assert_eq!(given_up.code, Some(0), "{given_up:?}");
    for agent in [&a, &b] {
        agent.until_seen("c", "left").await;
    }
    until_told(&a, &[("node", "c"), ("now", "left"), ("cause", "forced")]).await;
    // It comes back as if nothing had been.
    let c = mesh.start("c", &[&a]).await;
    for agent in [&a, &b, &c] {
        agent.until_seen("c", "alive").await;
    }
}
