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

/// The commands under a heading, in their order.
fn steps(heading: &str) -> Vec<&'static str> {
    let (_, section) = TEXT.split_once(&format!("## {heading}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    section.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap()).collect()
}

/// Runs one step where it says: `/etc/hobnob` is the folder of each node.
async fn run(mesh: &Mesh, step: &str, agents: &[&Agent]) {
    let everybody = NODES.into_iter().zip(agents.iter().copied().map(Some));
    let places: Vec<_> = match step.lines().next().unwrap() {
        "# once" => vec![("", None)],
        "# on every node" => everybody.collect(),
        "# where tls.ca_key is set" => everybody.take(1).collect(),
        where_to => panic!("{where_to}"),
    };
    for (node, agent) in places {
        let script = step.replace("/etc/hobnob", &mesh.path(node).join("etc").display().to_string());
        let folder = std::path::Path::new(env!("CARGO_BIN_EXE_hobnob")).parent().unwrap().display().to_string();
        let mut shell = Command::new("sh");
        shell.args(["-ec", &script]).current_dir(mesh.path(".")).env("NODE", node).env("MESH", "test");
        shell.env("PATH", format!("{folder}:{}", std::env::var("PATH").unwrap()));
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

/// Everybody sees everybody, and nobody was ever seen down.
async fn all_are_home(agents: &[&Agent], step: &str) {
    for agent in agents {
        for node in NODES {
            agent.until_seen(node, "alive").await;
        }
        let page = agent.text("/metrics").await;
        let down = page.lines().filter(|line| line.contains("member") && line.contains("\"down\""));
        let down: Vec<_> = down.filter(|line| !line.ends_with(" 0")).collect();
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
        fs::copy(mesh.path("secret"), mesh.path(node).join("etc/secret")).unwrap();
        give_away(&mesh.path(node).join("etc/secret"));
    }
    let papers = "secret_file = \"ETC/secret\"\n";
    let a = start(&mesh, "a", papers, &[]).await;
    let b = start(&mesh, "b", papers, &[&a]).await;
    let c = start(&mesh, "c", papers, &[&a]).await;
    let agents = [&a, &b, &c];
    all_are_home(&agents, "before").await;
    let token = json!({"name": "ops", "policy": "read", "sha256": "ab".repeat(32)}).to_string();
    assert_eq!(a.call("POST", "/api/v1/tokens", &token).await.0, 201);
    assert_eq!(a.call("POST", "/api/v1/denials", r#"{"serial": "00:f2:a2"}"#).await.0 / 100, 2);
    let steps = steps("Another secret");
    assert_eq!(steps.len(), 4);
    for step in steps {
        run(&mesh, step, &agents).await;
        all_are_home(&agents, step).await;
    }
    for agent in agents {
        until("what was decreed is signed anew on the disk", async || {
            agent.log().contains("edicts_signed").then_some(())
        })
        .await;
    }
    for agent in [a, b, c] {
        agent.kill().await;
    }
    let a = start(&mesh, "a", papers, &[]).await;
    let b = start(&mesh, "b", papers, &[&a]).await;
    let c = start(&mesh, "c", papers, &[&a]).await;
    all_are_home(&[&a, &b, &c], "after a restart of all").await;
    for agent in [&a, &b, &c] {
        assert_eq!(agent.get("/api/v1/tokens").await[0]["name"], "ops", "{}", agent.log());
        assert_eq!(agent.get("/api/v1/denials").await["serials"], json!(["00:f2:a2"]));
    }
    let late = mesh.start("late", &[]).await;
    assert_eq!(late.call("POST", "/api/v1/join", &format!("{{\"addresses\": [\"{}\"]}}", a.mesh)).await.0 / 100, 2);
    until("the old secret opens nothing", async || late.log().contains("does not accept the other").then_some(()))
        .await;
}

#[tokio::test]
async fn an_authority_is_changed_while_the_mesh_is_at_work() {
    let mesh = Mesh::new();
    fs::create_dir_all(mesh.path("ca")).unwrap();
    let ca = mesh.path("ca");
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
    fs::copy(ca.join("ca-key.pem"), mesh.path("a/etc/ca-key.pem")).unwrap();
    give_away(&mesh.path("a/etc/ca-key.pem"));
    let papers = "[tls]\nca = \"ETC/ca.pem\"\ncert = \"ETC/node.pem\"\nkey = \"ETC/node-key.pem\"\n";
    let a = start(&mesh, "a", &format!("{papers}ca_key = \"ETC/ca-key.pem\"\n"), &[]).await;
    let b = start(&mesh, "b", papers, &[&a]).await;
    let c = start(&mesh, "c", papers, &[&a]).await;
    let agents = [&a, &b, &c];
    all_are_home(&agents, "before").await;
    let steps = steps("Another authority");
    assert_eq!(steps.len(), 5);
    for (at, step) in steps.into_iter().enumerate() {
        let serials = serials(&agents).await;
        let reloads = async |agent: &Agent| agent.log().matches("certificate_reloaded").count();
        let mut before = Vec::new();
        for agent in agents {
            before.push(reloads(agent).await);
        }
        run(&mesh, step, &agents).await;
        let touched = [0, 3, 3, 1, 3][at];
        for (agent, before) in agents.iter().zip(before).take(touched) {
            until("the files are taken over", async || (reloads(agent).await > before).then_some(())).await;
        }
        all_are_home(&agents, step).await;
        if at == 2 {
            let now = self::serials(&agents).await;
            assert!(serials.iter().zip(&now).all(|(old, new)| old != new), "{serials:?} {now:?}");
        }
    }
    nobody_is_invited_while_the_files_are_wrong(&mesh, &a).await;
    // Whom a node lets in by the new authority, all others take.
    let api = format!("http://{}", a.http);
    let token = finish(hobnob().args(["token", "create", "--api", &api])).await;
    assert_eq!(token.code, Some(0), "{token:?}");
    let home = mesh.path("d").display().to_string();
    let joined = finish(hobnob().args(["join", token.out.trim(), "--node", "d", "--data-dir", &home])).await;
    assert_eq!(joined.code, Some(0), "{joined:?}");
    let d = start(&mesh, "d", "", &[]).await;
    for agent in agents {
        agent.until_seen("d", "alive").await;
    }
    d.until_seen("c", "alive").await;
    // A certificate of the old authority opens nothing.
    let issued = finish(hobnob().args(["ca", "issue", "late", "--mesh", "test", "--dir"]).arg(&ca)).await;
    assert_eq!(issued.code, Some(0), "{issued:?}");
    let at = |file: &str| ca.join(file).display().to_string();
    let papers =
        format!("[tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n", at("ca.pem"), at("late.pem"), at("late-key.pem"));
    let late = start(&mesh, "late", &papers, &[&a]).await;
    until("the old authority opens nothing", async || late.log().contains("does not accept the other").then_some(()))
        .await;
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
