//! Each kind of check, run by real agents against real targets, passing and failing; what it takes to change their minds,
//! and what of it outlives a restart.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test outside the core's virtual time")]

mod process;
mod targets;

use std::{
    fs,
    path::Path,
    process::{Child, Command},
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use process::{Agent, Mesh, is_gone, stat, until};
use rcgen::{BasicConstraints, IsCa, date_time_ymd};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use targets::{Target, grpc, http, nowhere, resolver, tls, tls_as, udp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// An agent alone that may run scripts.
async fn alone(mesh: &Mesh) -> Agent {
    mesh.launch("a", mesh.agent("a", "a").env("HOBNOB_SCRIPT_CHECKS", "true")).await
}

/// Registers `web` with these checks.
async fn put(agent: &Agent, checks: Value) -> (u16, Value) {
    let body = json!({"name": "web", "port": 80, "checks": checks});
    agent.call("PUT", "/api/v1/registrations/web", &body.to_string()).await
}

/// What one check of an instance says: status and output.
async fn said(agent: &Agent, service: &str, check: &str) -> Option<(String, String)> {
    let instances = agent.get(&format!("/api/v1/services/{service}")).await;
    let checks = instances[0]["checks"].as_array()?;
    let check = checks.iter().find(|one| one["id"] == check)?;
    Some((check["status"].as_str()?.to_owned(), check["output"].as_str()?.to_owned()))
}

/// Waits until a check has that status and its output holds these words.
async fn until_said(agent: &Agent, service: &str, check: &str, status: &str, words: &str) -> String {
    let mut last = None;
    let what = format!("{check} of {service} is {status}: {words}");
    let look = async || {
        last = said(agent, service, check).await;
        let (is, output) = last.clone()?;
        (is == status && output.contains(words)).then_some(output)
    };
    until(&what, look).await
}

/// Registers `web` with all these checks, and waits until each says what is expected of it.
async fn expect(agent: &Agent, checks: &[(Value, &str, &str)]) {
    let named = checks.iter().enumerate().map(|(n, (check, ..))| {
        let mut check = check.clone();
        check["id"] = json!(format!("c{n}"));
        check
    });
    let (status, answer) = put(agent, named.collect()).await;
    assert!(status == 200 || status == 201, "{answer}");
    for (n, (check, status, words)) in checks.iter().enumerate() {
        println!("{check}");
        until_said(agent, "web", &format!("c{n}"), status, words).await;
    }
}

#[tokio::test]
async fn http_asks_as_it_is_told_to_and_judges_as_it_is_told_to() {
    let mesh = Mesh::new();
    let agent = alone(&mesh).await;
    let target = http().await;
    let url = |path: &str| format!("http://{}{path}", target.at);
    let echo = json!({"http": url("/echo"), "method": "post", "headers": {"x-key": "7"}, "host": "web.example",
                      "body": "ping", "contains": "POST /echo host=web.example x-key=7 body=ping"});
    let moved = format!("/moved?http://{}/ok", target.at);
    let other = http().await;
    let secret = json!({"x-key": "7"});
    let asks = |method: &str, path: &str, answer: &str| {
        json!({"http": url(path), "method": method, "redirects": 1, "host": "web.example", "headers": secret,
               "body": "ping", "contains": answer})
    };
    let leaves = format!("/kept?http://{}/echo", other.at);
    let elsewhere = format!("PUT /echo host={} x-key= body=ping", other.at);
    let astray = json!({"http": url("/moved?http://169.254.169.254/latest"), "redirects": 3});
    expect(
        &agent,
        &[
            (json!({"http": url("/ok")}), "passing", "HTTP 200 OK: fine"),
            (json!({"http": format!(":{}/ok", target.at.port())}), "passing", "fine"),
            (json!({"http": url("/status?204")}), "passing", "HTTP 204"),
            (json!({"http": url("/status?429")}), "warning", "HTTP 429"),
            (json!({"http": url("/status?500")}), "critical", "HTTP 500"),
            (json!({"http": url("/status?404"), "status": 404}), "passing", "HTTP 404"),
            (json!({"http": url("/status?200"), "status": ["3xx", "404-405"]}), "critical", "HTTP 200"),
            (json!({"http": url("/ok"), "contains": "fine"}), "passing", ""),
            (json!({"http": url("/ok"), "contains": "great"}), "critical", "\"great\" is not in"),
            (echo, "passing", ""),
            (json!({"http": url(&moved)}), "critical", "set `redirects`"),
            (json!({"http": url(&moved), "redirects": 1}), "passing", "fine"),
            (asks("GET", "/moved?/echo", "GET /echo host=web.example x-key=7 body=ping"), "passing", ""),
            (asks("POST", "/moved?/echo", "GET /echo host=web.example x-key=7 body="), "passing", ""),
            (asks("POST", "/kept?/echo", "POST /echo host=web.example x-key=7 body=ping"), "passing", ""),
            (asks("PUT", &leaves, &elsewhere), "passing", ""),
            (json!({"http": url("/moved?/head"), "method": "HEAD", "redirects": 1}), "passing", "HTTP 204"),
            (json!({"http": url("/loop"), "redirects": 5}), "critical", "more than 5 times; HTTP 302"),
            (astray, "critical", "may not be reached"),
            (json!({"http": format!("http://{}/", nowhere())}), "critical", "cannot connect"),
        ],
    )
    .await;
}

#[tokio::test]
async fn certificates_are_verified_unless_that_is_waived() {
    let mesh = Mesh::new();
    let agent = alone(&mesh).await;
    let (target, ca) = tls("web.example").await;
    let ca = mesh.file("ca.pem", &ca).display().to_string();
    let other = mesh.file("other.pem", &tls("web.example").await.1).display().to_string();
    let at = target.at;
    let (own, own_ca) = tls_as("web.example", |wanted| wanted.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)).await;
    let (old, old_ca) = tls_as("web.example", |wanted| wanted.not_after = date_time_ymd(2001, 2, 3)).await;
    let [own_ca, old_ca] =
        [("own", own_ca), ("old", old_ca)].map(|(name, pem)| mesh.file(&format!("{name}.pem"), &pem));
    let shows = |target: &Target, ca: &Path, name: &str| json!({"http": format!("https://{}/", target.at), "tls": {"ca": ca, "server_name": name}});
    let url = format!("https://{at}/");
    let named = json!({"ca": ca, "server_name": "web.example"});
    expect(
        &agent,
        &[
            (json!({"http": url, "tls": named}), "passing", "HTTP 200 OK: safe"),
            (json!({"http": url, "tls": {"verify": false}}), "passing", "safe"),
            (shows(&own, &own_ca, "web.example"), "passing", "safe"),
            (shows(&own, &own_ca, "db.example"), "critical", "not valid for name"),
            (json!({"http": format!("https://{}/", own.at)}), "critical", "set `tls.verify` to false"),
            (shows(&own, &old_ca, "web.example"), "critical", "TLS failed"),
            (shows(&old, &old_ca, "web.example"), "critical", "expired"),
            (json!({"http": url}), "critical", "TLS failed: invalid peer certificate: UnknownIssuer"),
            (json!({"http": url, "tls": {"ca": other, "server_name": "web.example"}}), "critical", "TLS failed"),
            (json!({"http": url, "tls": {"ca": ca, "server_name": "db.example"}}), "critical", "not valid for name"),
            (
                json!({"http": url, "tls": {"ca": "/no/such.pem"}}),
                "critical",
                "/no/such.pem cannot be read, or holds no",
            ),
            (json!({"http": url, "tls": {"ca": "/dev/zero"}}), "critical", "/dev/zero cannot be read, or holds no"),
            (json!({"tcp": at.to_string(), "tls": named}), "passing", "connected"),
            (json!({"tcp": at.to_string(), "tls": {}}), "critical", "TLS failed"),
            (json!({"http": format!("http://{at}/")}), "critical", "no HTTP answer"),
        ],
    )
    .await;
}

#[tokio::test]
async fn sockets_names_and_grpc_are_asked_each_in_its_own_words() {
    let mesh = Mesh::new();
    let agent = alone(&mesh).await;
    let (web, echo, dns, health) = (http().await, udp().await, resolver().await, grpc().await);
    let silent = Target::silent().await;
    let [web, echo, dns, health, silent] = [web.at, echo, dns, health.at, silent.at].map(|at| at.to_string());
    let gone = nowhere().to_string();
    let says = |expect: &str| json!({"tcp": web, "send": "GET /ok HTTP/1.0\r\n\r\n", "expect": expect});
    expect(
        &agent,
        &[
            (json!({"tcp": web}), "passing", "connected"),
            (says("fine"), "passing", "200 OK"),
            (says("great"), "critical", "\"great\" is not in"),
            (json!({"tcp": gone}), "critical", "Connection refused"),
            (json!({"udp": echo, "send": "ping", "expect": "ping"}), "passing", "ping"),
            (json!({"udp": echo, "send": "ping", "expect": "pong"}), "critical", "\"pong\" is not in"),
            (json!({"udp": gone, "send": "ping"}), "critical", "refused"),
            (json!({"tcp": silent, "expect": "hello", "timeout": "200ms"}), "critical", "no answer within 200ms"),
            (json!({"http": format!("http://{silent}/"), "timeout": "200ms"}), "critical", "no answer within 200ms"),
            (json!({"grpc": silent, "timeout": "200ms"}), "critical", "no answer within 200ms"),
            (json!({"dns": dns, "query": "web.example", "expect": "10.0.0.1"}), "passing", "10.0.0.1"),
            (json!({"dns": "web.example", "server": dns, "expect": "10.0.0.2"}), "critical", "not among the answers"),
            (json!({"dns": dns, "query": "db.example"}), "critical", "db.example: "),
            (json!({"dns": dns}), "passing", "it answers"),
            (json!({"grpc": health}), "passing", "SERVING"),
            (json!({"grpc": format!("{health}/web")}), "passing", "SERVING"),
            (json!({"grpc": health, "service": "sick"}), "critical", "NOT_SERVING"),
            (json!({"grpc": health, "service": "other"}), "critical", "no service"),
            (json!({"grpc": web}), "critical", "no gRPC answer"),
        ],
    )
    .await;
}

/// A process of its own group, killed at the end.
struct Victim(Child);

impl Victim {
    fn sleeping() -> Self {
        Self(Command::new("sleep").arg("1000").spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_process_that_is_killed_is_gone_from_another_node() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let b = mesh.start("b", &[&a]).await;
    let mut victim = Victim::sleeping();
    // Were it looked at only at intervals, nobody would see its death in this test.
    let checks = json!([{"pid": victim.pid(), "interval": "1h"}]);
    assert_eq!(put(&a, checks).await.0, 201);
    b.until_resolved("web", &["80"]).await;
    victim.kill();
    b.until_resolved("web", &[]).await;
    let ended = format!("process {} has ended", victim.pid());
    until_said(&b, "web", "process-1", "critical", &ended).await;
    assert_eq!(put(&a, json!([{"id": "gone", "pid": victim.pid()}])).await.0, 200);
    until_said(&b, "web", "gone", "critical", "there is no process").await;
    let file = mesh.path("web.pid");
    let checks = json!([{"id": "file", "pid_file": file, "interval": "100ms", "rise": 2, "fall": 2}]);
    assert_eq!(put(&a, checks).await.0, 200);
    until_said(&b, "web", "file", "critical", "cannot be read, or names no process").await;
    for _ in 0..2 {
        let mut victim = Victim::sleeping();
        fs::write(&file, format!("{}\n", victim.pid())).unwrap();
        b.until_resolved("web", &["80"]).await;
        victim.kill();
        b.until_resolved("web", &[]).await;
    }
}

#[tokio::test]
async fn scripts_come_from_files_when_they_are_on_and_die_with_their_group() {
    let mesh = Mesh::new();
    let script = |id: &str, line: &str| {
        format!("[[services.checks]]\nid = \"{id}\"\nscript = [\"/bin/sh\", \"-c\", '''{line}''']\ntimeout = \"1s\"\n")
    };
    let pid = mesh.path("pid");
    let checks = [
        script("good", "echo up $HOBNOB_INSTANCE $HOBNOB_PORT ${HOBNOB_SECRET:-none} ${HOBNOB_TOKEN:-none}"),
        script("warns", "echo hm >&2; exit 1"),
        script("fails", "exit 3"),
        script("latin1", "printf 'caf\\351'"),
        script("loud", "head -c 1000000 /dev/zero | tr '\\0' x"),
        script("hangs", &format!("sleep 1000 & echo $! > {}; wait", pid.display())),
    ];
    let file =
        mesh.file("etc/services.d/web.toml", &format!("[[services]]\nname = \"web\"\nport = 7\n{}", checks.concat()));
    mesh.file("etc/hobnob.toml", "");
    let home = mesh.path("etc");
    let refused = process::finish(mesh.agent("a", "a").arg("--config").arg(&home)).await;
    assert!(refused.failure(2).1.contains("script_checks"), "{refused:?}");
    mesh.file("etc/hobnob.toml", "script_checks = true\n");
    let secret = fs::read_to_string(mesh.path("secret")).unwrap();
    let mut command = mesh.agent("a", "a");
    let agent = mesh
        .launch("a", command.arg("--config").arg(&home).env("HOBNOB_SECRET", secret).env("HOBNOB_TOKEN", "t"))
        .await;
    for (check, status, words) in [
        ("good", "passing", "up web 7 none none"),
        ("warns", "warning", "hm"),
        ("fails", "critical", "exit status: 3"),
        ("latin1", "passing", "caf\u{fffd}"),
        ("hangs", "critical", "no answer within 1s"),
    ] {
        until_said(&agent, "web", check, status, words).await;
    }
    assert_eq!(until_said(&agent, "web", "loud", "passing", "x").await.len(), 4096);
    let child = written(&pid).await.as_raw_pid();
    until("what the script started is killed too", async || is_gone(&stat(child)).then_some(())).await;

    for path in ["/api/v1/registrations/other", "/v1/agent/service/register"] {
        let body = match path {
            "/v1/agent/service/register" => {
                json!({"Name": "other", "Check": {"Args": ["/bin/true"], "Interval": "1s"}})
            }
            _ => json!({"name": "other", "checks": [{"script": ["/bin/true"]}]}),
        };
        let (status, answer) = agent.call("PUT", path, &body.to_string()).await;
        assert!(status == 403 || status == 400, "{path}: {status} {answer}");
    }
    let with_key = json!([{"http": "https://127.0.0.1/", "tls": {"cert": "/c.pem", "key": "/k.pem"}}]);
    assert_eq!(put(&agent, with_key).await.0, 403, "the machine's keys are not for whoever asks");
    assert_eq!(agent.get("/api/v1/registrations").await.as_array().unwrap().len(), 1);
    fs::remove_file(file).unwrap();
    until("a file's service goes with the file", async || agent.resolve("web").await.is_empty().then_some(())).await;
}

#[tokio::test]
async fn an_alias_is_what_another_one_is() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let b = mesh.start("b", &[&a]).await;
    let body = json!({"name": "db", "port": 1, "checks": [{"id": "beat", "ttl": "1h", "initial": "passing"}]});
    assert_eq!(b.call("PUT", "/api/v1/registrations/db", &body.to_string()).await.0, 201);
    let alias = |id: &str, of: &str| json!({"id": id, "alias": of});
    let there = json!({"id": "there", "alias": "db", "node": "b", "rise": 2, "fall": 2, "interval": "100ms"});
    let checks = json!([alias("service", "db"), alias("node", "b"), alias("nobody", "cache"), there]);
    assert_eq!(put(&a, checks).await.0, 201);
    until_said(&a, "web", "nobody", "critical", "there is no").await;
    let report = async |status: &str| {
        let body = json!({"status": status, "output": "as told"});
        let path = "/api/v1/registrations/db/checks/beat";
        assert_eq!(b.call("PUT", path, &body.to_string()).await.0, 200);
    };
    for status in ["passing", "warning", "critical", "passing"] {
        report(status).await;
        for check in ["service", "there"] {
            until_said(&a, "web", check, status, &format!("is {status}")).await;
        }
    }
    b.kill().await;
    for (check, words) in [("node", "node b is down"), ("service", "db"), ("there", "db")] {
        until_said(&a, "web", check, "critical", words).await;
    }
    // Nobody is critical because it was: what looks back does not count.
    for (id, name, of) in [("one", "ring", "ring"), ("two", "ring", "ring"), ("x", "x", "y"), ("y", "y", "x")] {
        let body = json!({"name": name, "port": 1, "checks": [{"id": "back", "alias": of, "interval": "100ms"}]});
        assert_eq!(a.call("PUT", &format!("/api/v1/registrations/{id}"), &body.to_string()).await.0, 201);
    }
    for name in ["ring", "x", "y"] {
        let path = format!("/api/v1/services/{name}");
        let all_pass = async || {
            let found = a.get(&path).await;
            found.as_array()?.iter().all(|one| one["health"] == "passing").then_some(())
        };
        until("who looks at itself is passing", all_pass).await;
    }
}

#[tokio::test]
async fn it_takes_as_many_results_as_the_check_says_to_change_its_mind() {
    let mesh = Mesh::new();
    let agent = alone(&mesh).await;
    let target = http().await;
    let served = Arc::clone(&target.served);
    let url = format!("http://{}/health", target.at);
    let checks = json!([{"id": "slow", "http": url, "interval": "100ms", "rise": 3, "fall": 4}]);
    target.healthy.store(false, Ordering::SeqCst);
    assert_eq!(put(&agent, checks).await.0, 201);
    until_said(&agent, "web", "slow", "critical", "HTTP 500").await;
    for (healthy, status, needed) in [(true, "passing", 3), (false, "critical", 4)] {
        let at_rest =
            async || Some(served.load(Ordering::SeqCst)).filter(|n| *n == target.closed.load(Ordering::SeqCst));
        let before = until("none is under way", at_rest).await;
        target.healthy.store(healthy, Ordering::SeqCst);
        until_said(&agent, "web", "slow", status, "").await;
        let took = served.load(Ordering::SeqCst) - before;
        assert!(took >= needed, "{status} after {took}");
    }
    let held = Target::silent().await;
    let waiting = |initial: &str| json!([{"id": "new", "tcp": held.at.to_string(), "expect": "x", "timeout": "1h", "initial": initial}]);
    for initial in ["passing", "warning", "critical"] {
        assert_eq!(put(&agent, waiting(initial)).await.0, 200);
        assert_eq!(said(&agent, "web", "new").await.unwrap().0, initial);
    }
    assert_eq!(put(&agent, json!([{"id": "new", "ttl": "1h"}])).await.0, 200);
    assert_eq!(said(&agent, "web", "new").await.unwrap(), ("critical".into(), "no result yet".into()));
}

#[tokio::test]
async fn who_is_critical_for_too_long_is_deregistered_for_good() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let b = mesh.start("b", &[&a]).await;
    let checks = json!([{"tcp": nowhere().to_string(), "interval": "100ms", "deregister_after": "500ms"}]);
    assert_eq!(put(&a, checks).await.0, 201);
    until("it is withdrawn", async || (a.call("GET", "/api/v1/registrations/web", "").await.0 == 404).then_some(()))
        .await;
    until("everywhere", async || (b.get("/api/v1/services/web").await == json!([])).then_some(())).await;
    // What is on disk is there in the order in which it was written.
    a.register("kept", 81).await;
    a.kill().await;
    let a = mesh.start("a", &[&b]).await;
    let own = a.get("/api/v1/registrations").await;
    assert_eq!(own.as_array().unwrap().iter().map(|own| own["id"].as_str().unwrap()).collect::<Vec<_>>(), ["kept"]);
}

#[tokio::test]
async fn where_a_check_stood_outlives_its_agent() {
    let mesh = Mesh::new();
    let agent = alone(&mesh).await;
    let checks = json!([{"id": "beat", "ttl": "1h"}, {"id": "pulse", "ttl": "1h"}]);
    assert_eq!(put(&agent, checks).await.0, 201);
    let long = "é".repeat(4000);
    for (check, status, output) in [("beat", "passing", "all well"), ("pulse", "warning", &long)] {
        let body = json!({"status": status, "output": output});
        let path = format!("/api/v1/registrations/web/checks/{check}");
        assert_eq!(agent.call("PUT", &path, &body.to_string()).await.0, 200);
    }
    let cut = until_said(&agent, "web", "pulse", "warning", "é").await;
    assert_eq!(cut, "é".repeat(2048), "4 KiB, and whole characters");
    assert_eq!(agent.call("PUT", "/api/v1/maintenance/web", r#"{"enabled": true, "reason": "moving"}"#).await.0, 200);
    let before = agent.get("/api/v1/services/web").await[0]["checks"].clone();
    agent.kill().await;
    let agent = alone(&mesh).await;
    let after = agent.get("/api/v1/services/web").await;
    assert_eq!(after[0]["checks"], before, "status, output and since");
    assert_eq!(after[0]["health"], "maintenance");
}

#[tokio::test]
async fn a_ttl_that_ran_out_while_its_agent_was_down_is_critical() {
    let mesh = Mesh::new();
    let agent = alone(&mesh).await;
    assert_eq!(put(&agent, json!([{"id": "beat", "ttl": "1m"}])).await.0, 201);
    let body = json!({"status": "passing", "output": "all well"}).to_string();
    assert_eq!(agent.call("PUT", "/api/v1/registrations/web/checks/beat", &body).await.0, 200);
    until_said(&agent, "web", "beat", "passing", "all well").await;
    agent.kill().await;
    let alive = fs::File::options().write(true).open(mesh.path("a/alive")).unwrap();
    alive.set_modified(SystemTime::now() - Duration::from_secs(90)).unwrap();
    let agent = alone(&mesh).await;
    let first = said(&agent, "web", "beat").await.unwrap();
    let silence = "no report within its TTL of 60s; the last said: all well";
    assert_eq!(first, ("critical".into(), silence.into()), "from the first answer on");
    assert_eq!(agent.call("PUT", "/api/v1/registrations/web/checks/beat", &body).await.0, 200);
    until_said(&agent, "web", "beat", "passing", "all well").await;
}

/// The number in a file, once that holds a whole line.
async fn written(path: &Path) -> Pid {
    let whole = async || fs::read_to_string(path).ok().filter(|text| text.ends_with('\n'));
    Pid::from_raw(until("a number is written", whole).await.trim().parse().unwrap()).unwrap()
}

/// Whether a process runs, or waits for its burial.
fn is_there(pid: Pid) -> bool {
    test_kill_process(pid).is_ok()
}

/// Whether anybody lives in a group. Who buries the dead of an agent that had no executor, or lost it, is not ours to say.
fn has_living(group: Pid) -> bool {
    fs::read_dir("/proc").unwrap().flatten().any(|process| {
        let stat = stat(process.file_name().display());
        // The group stands behind the parent.
        !is_gone(&stat) && stat.get(2) == Some(&group.as_raw_pid().to_string())
    })
}

#[tokio::test]
async fn a_script_ends_with_the_agent_and_with_all_it_started_however_that_ends() {
    for end in ["told", "told alone", "killed", "orphaned"] {
        let mesh = Mesh::new();
        let [group, left, daemon] = ["group", "left", "daemon"].map(|name| mesh.path(name));
        let script = |id: &str, line: String| {
            let argv = format!("script = [\"/bin/sh\", \"-c\", '''{line}''']\ntimeout = \"1h\"\ninterval = \"1h\"\n");
            format!("[[services.checks]]\nid = \"{id}\"\n{argv}")
        };
        let detached = "> /dev/null 2>&1 &";
        let checks = [
            script("runs", format!("sleep 1000 & echo $$ > {}; wait", group.display())),
            script("leaves", format!("sleep 1000 {detached} echo $! > {}", left.display())),
            script("detaches", format!("setsid sh -c 'echo $$ > {}; exec sleep 1000' {detached}", daemon.display())),
        ];
        mesh.file("etc/hobnob.toml", "script_checks = true\n");
        mesh.file("etc/services.d/web.toml", &format!("[[services]]\nname = \"web\"\nport = 7\n{}", checks.concat()));
        let mut command = mesh.agent("a", "a");
        command.arg("--config").arg(mesh.path("etc")).args((end == "told alone").then_some("--no-will"));
        let mut agent = mesh.launch("a", &mut command).await;
        let (group, left, daemon) = (written(&group).await, written(&left).await, written(&daemon).await);
        for check in ["leaves", "detaches"] {
            until_said(&agent, "web", check, "passing", "").await;
        }
        if end == "killed" {
            // Whom nobody waits for is buried while the agent lives.
            kill_process(left, Signal::KILL).unwrap();
            until("it is buried", async || (!is_there(left)).then_some(())).await;
            agent.kill().await;
        } else {
            let (whom, signal) =
                if end == "orphaned" { (agent.parent(), Signal::KILL) } else { (agent.pid(), Signal::TERM) };
            kill_process(whom, signal).unwrap();
            assert_eq!(agent.ended().await.success(), signal == Signal::TERM);
            kill_process(left, Signal::KILL).expect("what an ended script has left goes on");
        }
        let gone = async || (!has_living(group)).then_some(());
        until(&format!("the script is gone, with its child: {end}"), gone).await;
        kill_process(daemon, Signal::KILL).expect("a daemon goes on");
    }
}

#[tokio::test]
async fn an_answer_that_came_while_the_agent_did_not_run_counts() {
    let mesh = Mesh::new();
    let agent = alone(&mesh).await;
    let target = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let timeout = Duration::from_secs(2);
    let check = json!({"id": "c", "http": format!("http://{}/", target.local_addr().unwrap()), "interval": "1h",
                       "timeout": "2s", "initial": "passing"});
    assert_eq!(put(&agent, json!([check])).await.0, 201);
    let (mut asked, _) = target.accept().await.unwrap();
    assert!(asked.read(&mut [0; 4096]).await.unwrap() > 0);
    agent.signal(Signal::STOP);
    asked.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nwell").await.unwrap();
    tokio::time::sleep(timeout * 3).await;
    agent.signal(Signal::CONT);
    until_said(&agent, "web", "c", "passing", "well").await;
}
