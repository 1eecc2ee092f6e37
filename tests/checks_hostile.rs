//! What is wrong with checks, with what they look at and with the machine they run on: each has a clear error, or a
//! critical check with its reason, and the agent goes on.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test outside the core's virtual time")]

mod process;
mod targets;

use std::{collections::BTreeMap, fs, process::Stdio, sync::atomic::Ordering};

use http_body_util::BodyExt;
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use process::{Agent, Mesh, finish, hobnob, until};
use rustix::process::{Resource, Rlimit, prlimit};
use serde_json::{Value, json};
use targets::{Target, http};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
};

/// Registers `web` with these checks.
async fn put(agent: &Agent, checks: Value) -> (u16, Value) {
    let body = json!({"name": "web", "port": 80, "checks": checks});
    agent.call("PUT", "/api/v1/registrations/web", &body.to_string()).await
}

/// Has the program say how its own check stands.
async fn report(agent: &Agent, instance: &str, check: &str, status: &str, output: &str) -> u16 {
    let body = json!({"status": status, "output": output});
    agent.call("PUT", &format!("/api/v1/registrations/{instance}/checks/{check}"), &body.to_string()).await.0
}

/// A call that is answered with plain text: head and body.
async fn plain(agent: &Agent, path: &str, body: &Value) -> String {
    let (mut stream, body) = (TcpStream::connect(agent.http).await.unwrap(), body.to_string());
    let head = format!("PUT {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// What the checks of `web` say on a node: status and output of each by id.
async fn said(agent: &Agent) -> BTreeMap<String, (String, String)> {
    let instances = agent.get("/api/v1/services/web").await;
    let checks = instances[0]["checks"].as_array().cloned().unwrap_or_default();
    let text = |check: &Value, field: &str| check[field].as_str().unwrap_or_default().to_owned();
    checks.iter().map(|check| (text(check, "id"), (text(check, "status"), text(check, "output")))).collect()
}

/// Waits until a check of `web` has that status and its output holds these words.
async fn until_said(agent: &Agent, check: &str, status: &str, words: &str) -> String {
    until(&format!("{check} is {status}: {words}"), async || {
        let (is, output) = said(agent).await.remove(check)?;
        (is == status && output.contains(words)).then_some(output)
    })
    .await
}

/// A number that the node counts.
async fn counted(agent: &Agent, name: &str) -> u64 {
    let page = agent.text("/metrics").await;
    page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or_else(|| panic!("no {name}"))
}

/// Registrations that are wrong, each with the field that is to blame and words that help.
fn wrong() -> Vec<(Value, &'static str, &'static str)> {
    let check = |check: Value| json!({"name": "web", "port": 80, "checks": [check]});
    let many = |count: usize| -> BTreeMap<String, u16> { (0..count).map(|n| (format!("p{n}"), 80)).collect() };
    let words = |count: usize| -> Vec<String> { (0..count).map(|n| format!("t{n}")).collect() };
    let ttl = |n: usize| json!({"id": format!("c{n}"), "ttl": "1m"});
    let url = "http://127.0.0.1/";
    vec![
        (check(json!({"http": url, "interval": "0s"})), "checks[0].interval", "at least 100ms"),
        (check(json!({"http": url, "interval": "soon"})), "checks[0].interval", "duration"),
        (check(json!({"http": url, "timeout": "0s"})), "checks[0].timeout", "longer than nothing"),
        (check(json!({"http": url, "rise": 0})), "checks[0].rise", "at least 1"),
        (check(json!({"http": url, "fall": 0})), "checks[0].fall", "at least 1"),
        (check(json!({"http": "ftp://127.0.0.1/"})), "checks[0].http", "http"),
        (check(json!({"http": ""})), "checks[0].http", ""),
        (check(json!({"interval": "1s"})), "checks[0]", "http"),
        (check(json!({"htpp": url})), "checks[0].htpp", "did you mean `http`?"),
        (check(json!({"http": url, "intervall": "1s"})), "checks[0].intervall", "did you mean `interval`?"),
        (check(json!({"http": url, "tcp": "127.0.0.1:1"})), "checks[0].", "two checks"),
        (check(json!({"tcp": "127.0.0.1:1", "method": "GET"})), "checks[0].method", "http"),
        (check(json!({"tcp": "127.0.0.1:99999"})), "checks[0].tcp", "1 to 65535"),
        (check(json!({"ttl": "0s"})), "checks[0].ttl", "at least 100ms"),
        (check(json!({"pid": 0})), "checks[0].pid", ""),
        (check(json!({"pid": -1})), "checks[0].pid", ""),
        (check(json!({"alias": "web"})), "checks[0].alias", "itself"),
        (json!({"name": "web", "checks": [{"tcp": ""}]}), "checks[0].tcp", "no port"),
        (json!({"name": "web", "checks": (0..65).map(ttl).collect::<Vec<_>>()}), "checks", "64"),
        (json!({"name": "web", "checks": [ttl(0), ttl(0)]}), "checks[1].id", "twice"),
        (json!({"name": "web", "ports": many(17)}), "ports", "16"),
        (json!({"name": "web", "ports": {"http": 0}}), "ports.http", "1 to 65535"),
        (json!({"name": "web", "ports": {"a b": 80}}), "ports", "a b"),
        (json!({"name": "web", "tags": words(257)}), "tags", "256"),
        (json!({"name": "web", "tags": ["x".repeat(2049)]}), "tags[0]", ""),
        (
            json!({"name": "web", "meta": words(65).into_iter().map(|key| (key, "")).collect::<BTreeMap<_, _>>()}),
            "meta",
            "64",
        ),
        (json!({"name": "web", "meta": {"k": "x".repeat(513)}}), "meta.k", "512"),
        (json!({"name": "web", "meta": {"": "x"}}), "meta.", "1 to 128"),
    ]
}

#[tokio::test]
async fn a_wrong_definition_is_refused_with_its_field_and_changes_nothing() {
    let mesh = Mesh::new();
    let agent = mesh.start("a", &[]).await;
    for (body, field, words) in wrong() {
        let (status, problem) = agent.call("PUT", "/api/v1/registrations/web", &body.to_string()).await;
        let (blamed, why) = (problem["field"].as_str().unwrap_or_default(), problem["detail"].to_string());
        assert!(status == 400 && blamed.starts_with(field) && why.contains(words), "{body}: {status} {problem}");
    }
    for (body, words) in [
        (json!({"Name": "web", "Check": {"HTTP": "http://127.0.0.1/", "Interval": "0s"}}), "interval"),
        (json!({"Name": "web", "Check": {"HTTP": "http://127.0.0.1/", "Interval": "soon"}}), "soon"),
        (json!({"Name": "web", "Check": {"Interval": "10s"}}), "check"),
        (json!({"Name": "web", "Check": {"Args": ["/bin/true"], "Interval": "10s"}}), "script"),
    ] {
        let answer = plain(&agent, "/v1/agent/service/register", &body).await;
        assert!(answer.contains(" 4") && answer.to_lowercase().contains(words), "{body}: {answer}");
    }
    assert_eq!(agent.get("/api/v1/registrations").await, json!([]));
}

#[tokio::test]
async fn a_wrong_file_is_refused_with_its_line() {
    let mesh = Mesh::new();
    mesh.file("etc/hobnob.toml", "");
    let secret = fs::read_to_string(mesh.path("secret")).unwrap();
    let check = async |name: &str, text: &str| {
        let file = mesh.file(&format!("etc/services.d/{name}"), text);
        let ended =
            finish(hobnob().env("HOBNOB_SECRET", &secret).args(["config", "check", "--config"]).arg(mesh.path("etc")))
                .await;
        fs::remove_file(file).unwrap();
        ended
    };
    let head = "[[services]]\nname = \"web\"\nport = 80\n";
    let lines = |key: &str, count: usize| {
        let list: Vec<_> = (0..count).map(|n| format!("{key}{n}")).collect();
        list
    };
    let ports: Vec<_> = lines("p", 17).iter().map(|name| format!("{name} = 80")).collect();
    for (tail, line, words) in [
        ("[[services.checks]]\nhttp = \"http://127.0.0.1/\"\ninterval = \"0s\"\n".into(), 6, "at least 100ms"),
        ("[[services.checks]]\nhtpp = \"http://127.0.0.1/\"\n".into(), 5, "did you mean `http`?"),
        ("[[services.checks]]\ninterval = \"1s\"\n".into(), 4, "http"),
        ("[[services.checks]]\nscript = \"/bin/true\"\n".into(), 5, ""),
        ("[[services.checks]]\nscript = []\n".into(), 5, ""),
        ("[[services.checks]]\npid = 0\n".into(), 5, ""),
        ("[[services.checks]]\nttl = \"1m\"\nmethod = \"GET\"\n".into(), 6, "http"),
        (format!("tags = {:?}\n", lines("t", 257)), 4, "256"),
        (format!("ports = {{ {} }}\n", ports.join(", ")), 4, "16"),
        ("ports = { http = 0 }\n".into(), 4, "1 to 65535"),
        (format!("meta = {{ k = {:?} }}\n", "x".repeat(513)), 4, "512"),
        ("tag = [\"v2\"]\n".into(), 4, "did you mean `tags`?"),
    ] {
        let tail: String = tail;
        let ended = check("web.toml", &format!("{head}{tail}")).await;
        let (what, why, _) = ended.failure(2);
        let told = format!("{what} {why} {}", ended.out);
        let place = format!("web.toml, line {line}:");
        assert!(told.contains(&place) && told.contains(words), "{tail}: {ended:?}");
    }
    for (text, line, words) in [
        ("{\"service\": {\n\"name\": \"web\",\n\"prot\": 80}}", 3, "did you mean `port`?"),
        (
            "{\"service\": {\n\"name\": \"web\",\n\"check\": {\"http\": \"http://127.0.0.1/\",\n\"interval\": \"0s\"}}}",
            4,
            "at least 100ms",
        ),
        ("{\"service\": {\n\"name\": \"web\",\n", 3, ""),
    ] {
        let ended = check("web.json", text).await;
        let (what, why, _) = ended.failure(2);
        let told = format!("{what} {why} {}", ended.out);
        assert!(told.contains(&format!("web.json, line {line}")) && told.contains(words), "{text}: {ended:?}");
    }
}

#[tokio::test]
async fn an_answer_without_end_is_read_to_the_limit_and_closed() {
    let mesh = Mesh::new();
    let agent = mesh.start("a", &[]).await;
    // Latin-1 text, or nothing: no UTF-8.
    const GARBAGE: &[u8] = &[0xe9; 64 << 10];
    let gigabyte = Target::endless(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n", GARBAGE).await;
    let chatter = Target::endless(b"", GARBAGE).await;
    let head = Target::endless(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n").await;
    let soon = Target::endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n").await;
    let checks = json!([
        {"id": "body", "http": format!("http://{}/", gigabyte.at), "interval": "100ms"},
        {"id": "search", "http": format!("http://{}/", gigabyte.at), "contains": "fine", "interval": "100ms"},
        {"id": "words", "tcp": chatter.at.to_string(), "expect": "hello", "interval": "100ms"},
        {"id": "head", "http": format!("http://{}/", head.at), "interval": "100ms"},
        {"id": "soon", "http": format!("http://{}/", soon.at), "interval": "100ms", "timeout": "1h"},
    ]);
    assert_eq!(put(&agent, checks).await.0, 201);
    let output = until_said(&agent, "body", "passing", "HTTP 200 OK: \u{fffd}").await;
    assert!(output.len() <= 4096, "{}", output.len());
    until_said(&agent, "search", "critical", "\"fine\" is not in the first 64 KiB").await;
    until_said(&agent, "words", "critical", "\"hello\" is not in what it said").await;
    until_said(&agent, "head", "critical", "no HTTP answer").await;
    until_said(&agent, "soon", "critical", "no HTTP answer").await;
    for target in [&gigabyte, &chatter, &head, &soon] {
        until("each connection is closed, and the next is opened", async || {
            (target.closed.load(Ordering::SeqCst) >= 5).then_some(())
        })
        .await;
    }
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid().as_raw_nonzero())).unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")).unwrap();
    assert!(most.parse::<u64>().unwrap() < 300 << 10, "{most} kB");
}

#[tokio::test]
async fn a_check_reaches_nobody_whom_the_operator_forbade() {
    let mesh = Mesh::new();
    let target = http().await;
    let forbidden = "may not be reached by checks";
    let [by_name, by_url] =
        [format!("localhost:{}", target.at.port()), format!("http://localhost:{}/", target.at.port())];
    let everywhere = json!([
        {"id": "address", "tcp": target.at.to_string(), "interval": "100ms"},
        {"id": "name", "tcp": by_name, "interval": "100ms"},
        {"id": "url", "http": by_url, "interval": "100ms"},
        {"id": "mapped", "tcp": format!("[::ffff:127.0.0.1]:{}", target.at.port()), "interval": "100ms"},
        {"id": "udp", "udp": target.at.to_string(), "interval": "100ms"},
        {"id": "grpc", "grpc": target.at.to_string(), "interval": "100ms"},
        {"id": "dns", "dns": target.at.to_string(), "interval": "100ms"},
        {"id": "metadata", "http": "http://169.254.169.254/latest/meta-data", "interval": "100ms"},
    ]);
    // A name is judged by each address that it leads to, when it is dialled: whoever owns it cannot change its mind later.
    let deny = mesh.file("deny.toml", "[checks]\ndeny = [\"127.0.0.0/8\", \"::1/128\"]\n");
    let agent = mesh.launch("a", mesh.agent("a", "a").arg("--config").arg(deny)).await;
    assert_eq!(put(&agent, everywhere.clone()).await.0, 201);
    for check in ["address", "name", "url", "mapped", "udp", "grpc", "dns", "metadata"] {
        until_said(&agent, check, "critical", forbidden).await;
    }
    assert_eq!(target.served.load(Ordering::SeqCst), 0, "nobody was called");
    drop(agent);

    let allow =
        mesh.file("allow.toml", "[checks]\nallow = [\"10.0.0.0/8\", \"127.0.0.1/32\"]\ndeny = [\"127.0.0.0/8\"]\n");
    let agent = mesh.launch("b", mesh.agent("b", "b").arg("--config").arg(allow)).await;
    let elsewhere = json!({"id": "elsewhere", "tcp": format!("127.0.0.2:{}", target.at.port()), "interval": "100ms"});
    let public = json!({"id": "public", "tcp": "192.0.2.1:80", "interval": "100ms"});
    let mut checks = everywhere.clone();
    checks.as_array_mut().unwrap().extend([elsewhere, public]);
    assert_eq!(put(&agent, checks).await.0, 201);
    for check in ["address", "name", "url", "mapped"] {
        until_said(&agent, check, "passing", "").await;
    }
    for check in ["elsewhere", "public", "metadata"] {
        until_said(&agent, check, "critical", forbidden).await;
    }
    let wrong = finish(mesh.agent("c", "c").env("HOBNOB_CHECKS__DENY", "10.0.0.0/8,localhost")).await;
    assert!(wrong.failure(2).1.contains("HOBNOB_CHECKS__DENY: "), "{wrong:?}");
}

#[tokio::test]
async fn checks_that_flip_on_a_full_disk_are_believed_all_the_same() {
    let mesh = Mesh::new();
    let home = mesh.path("a");
    fs::create_dir(&home).unwrap();
    let agent = mesh.agent("a", "a");
    let mut command = tokio::process::Command::new("unshare");
    let small_disk = "mount -t tmpfs -o size=1200k none \"$0\" && exec \"$@\"";
    command.args(["--map-root-user", "--mount", "sh", "-c", small_disk]).arg(&home).kill_on_drop(true);
    if !command.as_std_mut().status().is_ok_and(|status| status.success()) {
        return; // No namespaces of one's own here, so no small disk.
    }
    command.arg(agent.as_std().get_program()).args(agent.as_std().get_args());
    let agent = mesh.launch("a", &mut command).await;
    let other = mesh.start("b", &[&agent]).await;
    let target = http().await;
    let page = json!({"id": "page", "http": format!("http://{}/health", target.at), "interval": "100ms"});
    assert_eq!(put(&agent, json!([page, {"id": "beat", "ttl": "1h"}])).await.0, 201);
    until_said(&other, "page", "passing", "").await;
    let filler = format!("/proc/{}/root{}/filler", agent.pid().as_raw_nonzero(), home.display());
    let written = fs::write(&filler, vec![0; 2 << 20]);
    assert!(written.is_err(), "the disk is not small");
    // What cannot be stored is believed: a check tells of now, and after a restart it is run again.
    for healthy in [false, true, false] {
        target.healthy.store(healthy, Ordering::SeqCst);
        let status = if healthy { "passing" } else { "critical" };
        report(&agent, "web", "beat", status, "x").await;
        for node in [&agent, &other] {
            until_said(node, "page", status, "").await;
            until_said(node, "beat", status, "x").await;
        }
    }
    fs::remove_file(&filler).unwrap();
    target.healthy.store(true, Ordering::SeqCst);
    assert_eq!(report(&agent, "web", "beat", "passing", "there is room").await, 200);
    until_said(&other, "beat", "passing", "there is room").await;
    // Nobody says it again: the agent itself has to.
    until_said(&agent, "page", "passing", "").await;
    assert!(fs::write(&filler, vec![0; 2 << 20]).is_err());
    assert_eq!(report(&agent, "web", "beat", "critical", "sick").await, 200);
    let stored = async || (counted(&agent, "hobnob_store_failed").await == 0).then_some(());
    fs::remove_file(&filler).unwrap();
    until("what did not fit is stored", stored).await;
}

#[tokio::test]
async fn flips_without_end_are_told_of_now_and_then_and_the_last_word_is_right() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let b = mesh.start("b", &[&a]).await;
    assert_eq!(put(&a, json!([{"id": "beat", "ttl": "1h", "initial": "passing"}])).await.0, 201);
    until_said(&b, "beat", "passing", "").await;
    let before = counted(&b, "hobnob_rows_merged_total").await;
    for n in 0..501 {
        assert_eq!(
            report(&a, "web", "beat", if n % 2 == 0 { "critical" } else { "passing" }, &format!("{n}")).await,
            200
        );
    }
    until_said(&b, "beat", "critical", "500").await;
    let told = counted(&b, "hobnob_rows_merged_total").await - before;
    assert!(told < 60, "{told} rows for 501 flips");
    assert!(counted(&a, "hobnob_flips_damped_total").await > 400);
}

#[tokio::test]
async fn new_words_without_a_new_status_travel_in_batches() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let b = mesh.start("b", &[&a]).await;
    assert_eq!(put(&a, json!([{"id": "beat", "ttl": "1h"}])).await.0, 201);
    assert_eq!(report(&a, "web", "beat", "passing", "first").await, 200);
    until_said(&b, "beat", "passing", "first").await;
    let before = counted(&b, "hobnob_rows_merged_total").await;
    for n in 0..100 {
        assert_eq!(report(&a, "web", "beat", "passing", &format!("words {n}")).await, 200);
    }
    assert_eq!(said(&a).await["beat"].1, "words 99", "its own node knows");
    until_said(&b, "beat", "passing", "words 99").await;
    let told = counted(&b, "hobnob_rows_merged_total").await - before;
    assert!((1..=5).contains(&told), "{told} rows for 100 outputs");
}

/// How many descriptors an agent may open from now on.
fn limit(agent: &Agent, most: u64) {
    let both = Rlimit { current: Some(most), maximum: Some(MANY) };
    prlimit(Some(agent.pid()), Resource::Nofile, both).unwrap();
}

const MANY: u64 = 4096;

/// A connection that stands: an agent without descriptors takes nobody in, and who asks then is there already.
struct Kept(http1::SendRequest<String>);

impl Kept {
    async fn to(agent: &Agent) -> Self {
        let stream = TokioIo::new(TcpStream::connect(agent.http).await.unwrap());
        let (kept, connection) = http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self(kept)
    }

    async fn ask(&mut self, method: &str, path: &str, body: String) -> String {
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        let request = request.header("content-type", "application/json").body(body).unwrap();
        let answer = self.0.send_request(request).await.unwrap().into_body().collect().await.unwrap();
        String::from_utf8(answer.to_bytes().into()).unwrap()
    }

    async fn get(&mut self, path: &str) -> String {
        self.ask("GET", path, String::new()).await
    }

    /// Waits until the one check of a service has that status and its output holds these words.
    async fn until_said(&mut self, service: &str, status: &str, words: &str) {
        until(&format!("{service} is {status}: {words}"), async || {
            let shown: Value = serde_json::from_str(&self.get(&format!("/api/v1/services/{service}")).await).unwrap();
            let check = &shown[0]["checks"][0];
            (check["status"] == status && check["output"].as_str()?.contains(words)).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn who_has_no_descriptor_left_to_look_with_calls_nobody_dead_and_reads_its_files_when_it_has() {
    let mesh = Mesh::new();
    let target = http().await;
    let (at, port) = (target.at, target.at.port());
    let checks = [
        format!("tcp = \"{at}\""),
        format!("http = \"http://{at}/\""),
        format!("tcp = \"localhost:{port}\""),
        "script = [\"true\"]".to_owned(),
    ];
    let checks = ["tcp", "http", "name", "script"]
        .iter()
        .zip(checks)
        // A loaded machine may not answer within a tenth of a second; one wrong word is one too many.
        .map(|(id, kind)| {
            format!("[[services.checks]]\nid = \"{id}\"\n{kind}\ninterval = \"100ms\"\ntimeout = \"5s\"\n")
        });
    let web = format!("[[services]]\nname = \"web\"\nport = 80\n{}", checks.collect::<String>());
    mesh.file("etc/services.d/web.toml", &web);
    let settings = mesh.file("etc/hobnob.toml", "script_checks = true\n");
    let agent = mesh.launch("a", mesh.agent("a", "a").arg("--config").arg(settings.parent().unwrap())).await;
    limit(&agent, MANY);
    for check in ["tcp", "http", "name", "script"] {
        until_said(&agent, check, "passing", "").await;
    }
    let mut kept = Kept::to(&agent).await;
    kept.get("/metrics").await;
    limit(&agent, 1);
    until("many runs have found nothing out", async || {
        let page = kept.get("/metrics").await;
        let count = page.lines().find_map(|line| line.strip_prefix("hobnob_driver_checks_unable_total ")?.parse().ok());
        count.is_some_and(|count: u64| count > 50).then_some(())
    })
    .await;
    let shown: Value = serde_json::from_str(&kept.get("/api/v1/services/web").await).unwrap();
    let statuses: Vec<_> = shown[0]["checks"].as_array().unwrap().iter().map(|check| &check["status"]).collect();
    assert_eq!(statuses, ["passing"; 4], "{shown}");
    mesh.file("etc/services.d/late.toml", "[[services]]\nname = \"late\"\nport = 7\n");
    agent.until_logged("not reloaded; the old settings stay").await;
    limit(&agent, MANY);
    agent.until_resolved("late", &["7"]).await;
    assert_eq!(agent.log().matches("checks cannot run").count(), 1, "told once: {}", agent.log());
}

#[tokio::test]
async fn a_shortage_hides_no_death_that_was_seen_and_what_it_kept_from_being_found_is_found_soon_after() {
    let mesh = Mesh::new();
    let target = http().await;
    let agent = mesh.start("a", &[]).await;
    limit(&agent, MANY);
    let mut child = Command::new("sleep").arg("1000").kill_on_drop(true).spawn().unwrap();
    let file = mesh.file("web.pid", &child.id().unwrap().to_string());
    let checks = json!([{"id": "pid", "pid_file": file, "interval": "1h"}]);
    assert_eq!(put(&agent, checks).await.0, 201);
    let mut kept = Kept::to(&agent).await;
    kept.until_said("web", "passing", "").await;
    limit(&agent, 1);
    child.kill().await.unwrap();
    kept.until_said("web", "critical", "has ended").await;
    let check = json!({"tcp": target.at.to_string(), "interval": "1h", "deregister_after": "1s"});
    let late = json!({"name": "late", "port": 80, "checks": [check]}).to_string();
    kept.ask("PUT", "/api/v1/registrations/late", late).await;
    kept.until_said("late", "critical", "no result yet: cannot connect").await;
    limit(&agent, MANY);
    kept.until_said("late", "passing", "").await;
}

#[tokio::test]
async fn a_shortage_withdraws_nobody_whose_successor_could_not_be_read() {
    let mesh = Mesh::new();
    let agent = mesh.start("a", &[]).await;
    limit(&agent, MANY);
    let start = || Command::new("sleep").arg("1000").kill_on_drop(true).spawn().unwrap();
    let (mut first, second) = (start(), start());
    let file = mesh.file("web.pid", &first.id().unwrap().to_string());
    let checks = json!([{"pid_file": file, "interval": "100ms", "fall": 2, "deregister_after": "1s"}]);
    assert_eq!(put(&agent, checks).await.0, 201);
    let mut kept = Kept::to(&agent).await;
    kept.until_said("web", "passing", "").await;
    limit(&agent, 1);
    first.kill().await.unwrap();
    kept.until_said("web", "critical", "has ended").await;
    mesh.file("web.pid", &second.id().unwrap().to_string());
    // An hourglass: it is withdrawn some intervals after `web` may be.
    let check = json!({"ttl": "1h", "deregister_after": "2s"});
    let glass = json!({"name": "glass", "port": 80, "checks": [check]}).to_string();
    kept.ask("PUT", "/api/v1/registrations/glass", glass).await;
    until("the hourglass has run out", async || {
        let all = kept.get("/api/v1/registrations").await;
        (!all.contains("glass")).then_some(())
    })
    .await;
    limit(&agent, MANY);
    kept.until_said("web", "passing", &format!("process {} runs", second.id().unwrap())).await;
}

/// The same agent where it may never have more descriptors than so many.
fn with_few(most: u64, agent: &Command) -> Command {
    let agent = agent.as_std();
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -n {most} && exec \"$0\" \"$@\""));
    command.arg(agent.get_program()).args(agent.get_args()).env_clear();
    command.envs(agent.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

#[tokio::test]
async fn more_processes_than_may_be_watched_take_no_descriptor_from_others_and_their_deaths_are_seen() {
    let mesh = Mesh::new();
    let agent = mesh.launch("a", &mut with_few(256, &mesh.agent("a", "a"))).await;
    let mut child = Command::new("sleep").arg("1000").kill_on_drop(true).spawn().unwrap();
    let names: Vec<_> = (0..6).map(|n| format!("web-{n}")).collect();
    for name in &names {
        let check = |n: usize| json!({"id": format!("c{n}"), "pid": child.id(), "interval": "1s"});
        let body = json!({"name": name, "port": 80, "checks": (0..60).map(check).collect::<Vec<_>>()});
        assert_eq!(agent.call("PUT", &format!("/api/v1/registrations/{name}"), &body.to_string()).await.0, 201);
    }
    let until_all = async |agent: &Agent, status: &str| {
        for name in &names {
            until(&format!("{name} is {status}"), async || {
                let shown = agent.get(&format!("/api/v1/services/{name}")).await;
                let checks = shown[0]["checks"].as_array()?;
                checks.iter().all(|check| check["status"] == status).then_some(())
            })
            .await;
        }
    };
    until_all(&agent, "passing").await;
    agent.kill().await;
    let agent = mesh.launch("a", &mut with_few(256, &mesh.agent("a", "a"))).await;
    until_all(&agent, "passing").await;
    child.kill().await.unwrap();
    until_all(&agent, "critical").await;
}
