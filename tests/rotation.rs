//! Secrets and authorities are changed as `src/agent/trust/rotation.md` says: its commands are run as they stand there.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test outside the core's virtual time")]

mod process;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
};

use process::{Agent, Mesh, finish, hobnob, until};
use serde_json::json;
use tokio::process::Command;

const TEXT: &str = include_str!("../src/agent/trust/rotation.md");
const NODES: [&str; 3] = ["a", "b", "c"];
const PAPERS: &str = "[tls]\nca = \"ETC/ca.pem\"\ncert = \"ETC/node.pem\"\nkey = \"ETC/node-key.pem\"\n";

/// The commands under a heading, in their order.
fn steps(heading: &str) -> Vec<&'static str> {
    let (_, section) = TEXT.split_once(&format!("## {heading}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    section.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap()).collect()
}

/// Carries to a node what goes there: never the authority's key but to who grants certificates, nor another node's.
fn carry(mesh: &Mesh, node: &str) {
    let (from, to) = (mesh.path("ca-host"), mesh.path(node).join("etc/from-ca"));
    fs::create_dir_all(&to).unwrap();
    let own = ["new-ca.pem".to_owned(), format!("{node}.pem"), format!("{node}-key.pem")];
    for file in own.iter().filter(|file| from.join("to").join(file).exists()) {
        fs::copy(from.join("to").join(file), to.join(file)).unwrap();
    }
    if mesh.path(node).join("etc/ca-key.pem").exists() {
        fs::copy(from.join("new-ca/ca-key.pem"), to.join("ca-key.pem")).unwrap();
    }
}

/// Runs one step where it says: `/etc/hobnob` is the folder of each node, and nothing else is there but what was carried.
async fn run(mesh: &Mesh, step: &str, agents: &[&Agent]) {
    let everybody = NODES.into_iter().zip(agents.iter().copied().map(Some));
    let places: Vec<_> = match step.lines().next().unwrap() {
        "# once" => vec![("", None)],
        "# on every node" => everybody.collect(),
        // Through any node.
        "# where the authorities are kept" => vec![("", agents.get(1).copied())],
        "# where the authorities are kept, for every node" => NODES.map(|node| (node, None)).to_vec(),
        "# where tls.ca_key is set" => everybody.take(1).collect(),
        where_to => panic!("{where_to}"),
    };
    let is_kept = step.starts_with("# where the authorities are kept");
    for (node, agent) in places {
        let script = step.replace("/etc/hobnob", &mesh.path(node).join("etc").display().to_string());
        let folder = std::path::Path::new(env!("CARGO_BIN_EXE_hobnob")).parent().unwrap().display().to_string();
        let mut shell = Command::new("sh");
        shell.args(["-ec", &script]).env("NODE", node).env("MESH", "test");
        shell.env("PATH", format!("{folder}:{}", std::env::var("PATH").unwrap()));
        shell.current_dir(mesh.path(if is_kept { "ca-host" } else { "." }));
        if mesh.path("ca-host/to").exists() && !is_kept {
            carry(mesh, node);
        }
        if let Some(agent) = agent {
            shell.env("HOBNOB_API", format!("http://{}", agent.http));
        }
        let before = owners(mesh, node);
        let done = finish(&mut shell).await;
        assert_eq!(done.code, Some(0), "{step}: {done:?}");
        let now = owners(mesh, node);
        assert!(before.iter().all(|file| now.contains(file)), "{step}: {before:?} {now:?}");
    }
}

/// Whose the files are that the agent of a node reads, and who may read them.
fn owners(mesh: &Mesh, node: &str) -> Vec<(&'static str, u32, u32)> {
    let found = ["secret", "ca.pem", "ca-key.pem", "node.pem", "node-key.pem"].map(|file| {
        let found = fs::metadata(mesh.path(node).join("etc").join(file)).ok()?;
        Some((file, found.uid(), found.mode()))
    });
    found.into_iter().flatten().collect()
}

/// A file that is the agent's, as it is where that runs as another user than the administrator.
fn give_away(file: &Path) {
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    if rustix::process::geteuid().is_root() {
        chown(file, Some(4711), None).unwrap();
    }
}

/// Starts a node that reads what is in its own `etc`.
async fn start(mesh: &Mesh, node: &str, papers: &str, seeds: &[&Agent]) -> Agent {
    let etc = mesh.path(node).join("etc").display().to_string();
    let config = mesh.file(&format!("{node}.toml"), &papers.replace("ETC", &etc));
    let mut command = hobnob();
    command.args(["agent", "--node", node, "--mesh", "test", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    command.args(["--dns", "127.0.0.1:0"]).arg("--config").arg(config).arg("--data-dir").arg(mesh.path(node));
    command.arg("--ready-file").arg(mesh.path(&format!("{node}.ready")));
    for seed in seeds {
        command.args(["--join", &seed.mesh.to_string()]);
    }
    mesh.launch(node, &mut command).await
}

/// Dies and comes back right away; who answers must know what the others serve.
async fn restart(mesh: &Mesh, agent: Agent, node: &str, papers: &str, seed: &Agent) -> Agent {
    agent.kill().await;
    let agent = start(mesh, node, papers, &[seed]).await;
    knows_web(&agent).await;
    agent
}

/// It says that it is ready, so an answer without what others serve would look like a service that is gone.
async fn knows_web(agent: &Agent) {
    let web = agent.get("/api/v1/services/web").await;
    assert_eq!(web.as_array().map(Vec::len), Some(1), "{web}: {}", agent.log());
    assert!(!agent.log().contains("did not sign"), "{}", agent.log());
}

/// Everybody sees everybody, and nobody was ever seen down.
async fn all_are_home(agents: &[&Agent], step: &str) {
    for agent in agents {
        for node in NODES {
            agent.until_seen(node, "alive").await;
        }
        let page = agent.text("/metrics").await;
        let down = page.lines().filter(|line| line.contains("member") && line.contains("\"down\""));
        // Who was killed here left a will.
        let down: Vec<_> = down.filter(|line| !line.ends_with(" 0") && !line.contains("\"will\"")).collect();
        assert!(down.is_empty(), "{step}: {down:?}");
    }
}

#[tokio::test]
async fn a_secret_is_changed_while_the_mesh_is_at_work() {
    let mesh = Mesh::new();
    fs::remove_file(mesh.path("secret")).unwrap();
    assert_eq!(finish(hobnob().args(["keygen", "--out"]).arg(mesh.path("secret"))).await.code, Some(0));
    for node in NODES {
        fs::create_dir_all(mesh.path(node).join("etc")).unwrap();
        // As an editor may leave it: without an end of its last line.
        let secret = fs::read_to_string(mesh.path("secret")).unwrap();
        fs::write(mesh.path(node).join("etc/secret"), secret.trim_end()).unwrap();
        give_away(&mesh.path(node).join("etc/secret"));
    }
    let papers = "secret_file = \"ETC/secret\"\n";
    let a = start(&mesh, "a", papers, &[]).await;
    let b = start(&mesh, "b", papers, &[&a]).await;
    let mut c = start(&mesh, "c", papers, &[&a]).await;
    all_are_home(&[&a, &b, &c], "before").await;
    a.register("web", 80).await;
    let token = json!({"name": "ops", "policy": "read", "sha256": "ab".repeat(32)}).to_string();
    assert_eq!(a.call("POST", "/api/v1/tokens", &token).await.0, 201);
    assert_eq!(a.call("POST", "/api/v1/denials", r#"{"serial": "00:f2:a2"}"#).await.0 / 100, 2);
    let steps = steps("Another secret");
    assert_eq!(steps.len(), 4);
    for (at, step) in steps.into_iter().enumerate() {
        run(&mesh, step, &[&a, &b, &c]).await;
        c = restart(&mesh, c, "c", papers, &b).await;
        let late = format!("late-{at}");
        fs::create_dir_all(mesh.path(&late).join("etc")).unwrap();
        fs::copy(mesh.path("a/etc/secret"), mesh.path(&late).join("etc/secret")).unwrap();
        let late = start(&mesh, &late, papers, &[&b]).await;
        knows_web(&late).await;
        assert_eq!(finish(hobnob().args(["leave", "--api", &format!("http://{}", late.http)])).await.code, Some(0));
        all_are_home(&[&a, &b, &c], step).await;
    }
    // Who was killed at each step hears it from them.
    for agent in [&a, &b] {
        agent.until_logged("edicts_signed").await;
    }
    for agent in [a, b, c] {
        agent.kill().await;
    }
    let a = start(&mesh, "a", papers, &[]).await;
    let b = start(&mesh, "b", papers, &[&a]).await;
    let c = start(&mesh, "c", papers, &[&a]).await;
    all_are_home(&[&a, &b, &c], "after a restart of all").await;
    for agent in [&a, &b, &c] {
        has_law(agent, "serials", "00:f2:a2").await;
    }
    let late = mesh.start("late", &[]).await;
    assert_eq!(late.call("POST", "/api/v1/join", &format!("{{\"addresses\": [\"{}\"]}}", a.mesh)).await.0 / 100, 2);
    late.until_logged("does not accept the other").await;
}

/// Waits until a node knows the token `ops`, and that one denial alone.
async fn has_law(agent: &Agent, kind: &str, denied: &str) {
    until("it knows the token", async || (agent.get("/api/v1/tokens").await[0]["name"] == "ops").then_some(())).await;
    let stands = async || (agent.get("/api/v1/denials").await[kind] == json!([denied])).then_some(());
    until("it knows who is denied", stands).await;
}

/// Three nodes with certificates of an authority in `ca`, whose key the first may hold.
async fn certified(mesh: &Mesh, holds_key: bool) -> [Agent; 3] {
    let ca = mesh.path("ca-host/old-ca");
    fs::create_dir_all(&ca).unwrap();
    assert_eq!(finish(hobnob().args(["ca", "init", "--dir"]).arg(&ca)).await.code, Some(0));
    for node in NODES {
        let etc = mesh.path(node).join("etc");
        fs::create_dir_all(&etc).unwrap();
        let issued = finish(hobnob().args(["ca", "issue", node, "--mesh", "test", "--dir"]).arg(&ca)).await;
        assert_eq!(issued.code, Some(0), "{issued:?}");
        for (from, to) in
            [("ca.pem", "ca.pem"), (&format!("{node}.pem"), "node.pem"), (&format!("{node}-key.pem"), "node-key.pem")]
        {
            fs::copy(ca.join(from), etc.join(to)).unwrap();
            give_away(&etc.join(to));
        }
    }
    let mut papers = PAPERS.to_owned();
    if holds_key {
        fs::copy(ca.join("ca-key.pem"), mesh.path("a/etc/ca-key.pem")).unwrap();
        give_away(&mesh.path("a/etc/ca-key.pem"));
        papers += "ca_key = \"ETC/ca-key.pem\"\n";
    }
    let a = start(mesh, "a", &papers, &[]).await;
    let b = start(mesh, "b", PAPERS, &[&a]).await;
    let c = start(mesh, "c", PAPERS, &[&a]).await;
    all_are_home(&[&a, &b, &c], "before").await;
    a.register("web", 80).await;
    [a, b, c]
}

/// One step, and all whose files it changes have taken them over.
async fn step(mesh: &Mesh, step: &str, agents: &[&Agent]) {
    let reloads = async |agent: &Agent| agent.log().matches("certificate_reloaded").count();
    let mut before = Vec::new();
    for agent in agents {
        before.push(reloads(agent).await);
    }
    run(mesh, step, agents).await;
    let touched = match step.lines().next().unwrap() {
        "# on every node" => 3,
        "# where tls.ca_key is set" => 1,
        _ => 0,
    };
    for (agent, before) in agents.iter().zip(before).take(touched) {
        until("the files are taken over", async || (reloads(agent).await > before).then_some(())).await;
    }
}

#[tokio::test]
async fn an_authority_is_changed_while_the_mesh_is_at_work() {
    let mesh = Mesh::new();
    let ca = mesh.path("ca-host/old-ca");
    let [a, b, mut c] = certified(&mesh, true).await;
    let api = format!("http://{}", a.http);
    let steps = steps("Another authority");
    assert_eq!(steps.len(), 7);
    let (before, mut d) = (serials(&[&a, &b, &c]).await, None);
    for at in steps {
        step(&mesh, at, &[&a, &b, &c]).await;
        c = restart(&mesh, c, "c", PAPERS, &b).await;
        all_are_home(&[&a, &b, &c], at).await;
        if at.starts_with("# where tls.ca_key is set") {
            // Whom a node lets in from here on stays in when the old authority is dropped.
            let token = finish(hobnob().args(["token", "create", "--api", &api])).await;
            assert_eq!(token.code, Some(0), "{token:?}");
            let home = mesh.path("d").display().to_string();
            let joined = finish(hobnob().args(["join", token.out.trim(), "--node", "d", "--data-dir", &home])).await;
            assert_eq!(joined.code, Some(0), "{joined:?}");
            let new = start(&mesh, "d", "", &[]).await;
            assert_eq!(new.get("/api/v1/status").await["certificate"]["by_first"], true);
            assert_eq!(b.get("/api/v1/status").await["certificate"]["by_first"], false, "doctor warns of it");
            d = Some(new);
        }
    }
    let now = serials(&[&a, &b, &c]).await;
    assert!(before.iter().zip(&now).all(|(old, new)| old != new), "{before:?} {now:?}");
    nobody_is_invited_while_the_files_are_wrong(&mesh, &a).await;
    for agent in [&a, &b, &c] {
        agent.until_seen("d", "alive").await;
    }
    let d = d.unwrap();
    d.until_seen("c", "alive").await;
    knows_web(&d).await;
    // A certificate of the old authority opens nothing.
    let issued = finish(hobnob().args(["ca", "issue", "late", "--mesh", "test", "--dir"]).arg(&ca)).await;
    assert_eq!(issued.code, Some(0), "{issued:?}");
    let at = |file: &str| ca.join(file).display().to_string();
    let papers =
        format!("[tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n", at("ca.pem"), at("late.pem"), at("late-key.pem"));
    let late = start(&mesh, "late", &papers, &[&a]).await;
    late.until_logged("does not accept the other").await;
}

#[tokio::test]
async fn what_was_decreed_outlives_its_authority_where_no_node_holds_the_key() {
    let mesh = Mesh::new();
    let [a, b, mut c] = certified(&mesh, false).await;
    let api = format!("http://{}", a.http);
    let signs = async |words: &[&str], ca: &str| {
        finish(hobnob().args(words).args(["--api", &api, "--dir"]).arg(mesh.path("ca-host").join(ca))).await
    };
    for words in [&["token", "create", "--policy", "read", "--name", "ops"][..], &["ca", "revoke", "stolen"]] {
        let done = signs(words, "old-ca").await;
        assert_eq!(done.code, Some(0), "{done:?}");
    }
    let here = finish(hobnob().args(["token", "revoke", "ops", "--api", &api])).await;
    assert!(here.failure(1).2.contains("token revoke ops --dir"), "{here:?}");
    let twice = signs(&["token", "create", "--policy", "read", "--name", "ops"], "old-ca").await;
    assert!(twice.failure(1).1.contains("already"), "{twice:?}");
    for at in steps("Another authority").into_iter().filter(|at| !at.starts_with("# where tls.ca_key is set")) {
        if at.contains("sign-again") {
            let doctor = finish(hobnob().args(["doctor", "--api", &api])).await;
            assert!(doctor.out.contains("hobnob ca sign-again"), "{doctor:?}");
        }
        step(&mesh, at, &[&a, &b, &c]).await;
        c = restart(&mesh, c, "c", PAPERS, &b).await;
        all_are_home(&[&a, &b, &c], at).await;
    }
    for agent in [&a, &b, &c] {
        has_law(agent, "nodes", "stolen").await;
        until("no word is stale", async || agent.get("/api/v1/status").await["stale_edicts"].is_null().then_some(()))
            .await;
    }
    let revoked = signs(&["token", "revoke", "ops"], "new-ca").await;
    assert_eq!(revoked.code, Some(0), "{revoked:?}");
    until("the token is good nowhere", async || (c.get("/api/v1/tokens").await == json!([])).then_some(())).await;
}

/// Files that were not taken over are told of until they are, and nobody is let in by what they no longer hold.
async fn nobody_is_invited_while_the_files_are_wrong(mesh: &Mesh, a: &Agent) {
    let (file, api) = (mesh.path("a/etc/node.pem"), format!("http://{}", a.http));
    let right = fs::read(&file).unwrap();
    let wrong = async || a.get("/api/v1/status").await["certificate"]["not_reloaded"].as_str().map(str::to_owned);
    fs::write(&file, "garbage").unwrap();
    let why = until("the failure stands in the status", &wrong).await;
    assert!(why.contains("node.pem"), "{why}");
    let invited = finish(hobnob().args(["token", "create", "--api", &api])).await;
    assert!(invited.failure(1).1.contains(&why), "{invited:?}");
    let doctor = finish(hobnob().args(["doctor", "--api", &api])).await;
    assert!(doctor.failure(3).1.contains("the next start fails"), "{doctor:?}");
    fs::write(&file, right).unwrap();
    until("the failure is over", async || wrong().await.is_none().then_some(())).await;
    // Neither has a mode: no file is another, and it is tried all the same.
    let key = mesh.path("a/etc/node-key.pem");
    let text = fs::read(&key).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&key, text).unwrap();
    assert!(until("others can read the key", &wrong).await.contains("mode 644"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    until("the failure is over", async || wrong().await.is_none().then_some(())).await;
}

async fn serials(agents: &[&Agent]) -> Vec<String> {
    let mut serials = Vec::new();
    for agent in agents {
        serials.push(agent.get("/api/v1/status").await["certificate"]["serial"].to_string());
    }
    serials
}
