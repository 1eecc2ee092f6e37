//! Who may join: certificates as an operator hands them out, real agents that prove themselves with them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::disallowed_methods, reason = "real processes take real time")]

mod process;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
};

use process::{Agent, Ended, Mesh, finish, hobnob, until};
use tokio::process::Command;

/// `hobnob ca init` in the mesh's folder `dir`.
async fn authority(mesh: &Mesh, dir: &str) {
    fs::create_dir_all(mesh.path(dir)).unwrap();
    let made = finish(hobnob().args(["ca", "init", "--dir"]).arg(mesh.path(dir))).await;
    assert_eq!(made.code, Some(0), "{made:?}");
}

/// `hobnob ca issue` for a node of the mesh `test`.
async fn issue(mesh: &Mesh, dir: &str, node: &str, more: &[&str]) {
    let mut command = hobnob();
    command.args(["ca", "issue", node, "--mesh", "test", "--dir"]).arg(mesh.path(dir)).args(more);
    let issued = finish(&mut command).await;
    assert_eq!(issued.code, Some(0), "{issued:?}");
}

/// `hobnob agent` with the certificate that stands in `dir` for `of`.
fn agent(mesh: &Mesh, node: &str, dir: &str, of: &str) -> Command {
    let at = |name: String| mesh.path(dir).join(name).display().to_string();
    let text = format!(
        "node = \"{node}\"\nmesh = \"test\"\n[tls]\nca = \"{}\"\ncert = \"{}\"\nkey = \"{}\"\n",
        at("ca.pem".into()),
        at(format!("{of}.pem")),
        at(format!("{of}-key.pem")),
    );
    let config = mesh.file(&format!("{node}.toml"), &text);
    let mut command = hobnob();
    command.args(["agent", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--dns", "127.0.0.1:0"]);
    command.arg("--config").arg(config).arg("--data-dir").arg(mesh.path(node));
    command.arg("--ready-file").arg(mesh.path(&format!("{node}.ready")));
    command
}

async fn start(mesh: &Mesh, node: &str, dir: &str, seeds: &[&Agent]) -> Agent {
    let mut command = agent(mesh, node, dir, node);
    for seed in seeds {
        command.args(["--join", &seed.mesh.to_string()]);
    }
    mesh.launch(node, &mut command).await
}

#[tokio::test]
async fn an_authority_s_files_are_for_their_owner_and_never_overwritten() {
    let mesh = Mesh::new();
    authority(&mesh, "ca").await;
    issue(&mesh, "ca", "web-1", &[]).await;
    for name in ["ca.pem", "ca-key.pem", "web-1.pem", "web-1-key.pem"] {
        let path = mesh.path("ca").join(name);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        assert!(fs::read_to_string(path).unwrap().starts_with("-----BEGIN "), "{name}");
    }
    let before = fs::read(mesh.path("ca/ca-key.pem")).unwrap();
    for words in [&["ca", "init"][..], &["ca", "issue", "web-1"]] {
        let again = finish(hobnob().args(words).arg("--dir").arg(mesh.path("ca"))).await;
        assert!(again.failure(1).0.contains("cannot write"), "{words:?}");
    }
    assert_eq!(fs::read(mesh.path("ca/ca-key.pem")).unwrap(), before);
    let lost = finish(hobnob().args(["ca", "issue", "web-2", "--dir"]).arg(mesh.path("nowhere"))).await;
    assert!(lost.failure(2).2.contains("hobnob ca init"));
    let nowhere = finish(hobnob().args(["ca", "init", "--dir"]).arg(mesh.path("nowhere"))).await;
    assert!(nowhere.failure(1).2.starts_with(&format!("mkdir -p {}", mesh.path("nowhere").display())), "{nowhere:?}");
}

#[tokio::test]
async fn nodes_with_certificates_meet_and_those_of_another_authority_or_mesh_do_not() {
    let mesh = Mesh::new();
    authority(&mesh, "ca").await;
    authority(&mesh, "other").await;
    for node in ["a", "b"] {
        issue(&mesh, "ca", node, &[]).await;
    }
    issue(&mesh, "other", "stranger", &[]).await;
    let issued = finish(hobnob().args(["ca", "issue", "c", "--mesh", "prod", "--dir"]).arg(mesh.path("ca"))).await;
    assert_eq!(issued.code, Some(0), "{issued:?}");
    let a = start(&mesh, "a", "ca", &[]).await;
    let b = start(&mesh, "b", "ca", &[&a]).await;
    a.until_seen("b", "alive").await;
    b.until_seen("a", "alive").await;
    let certificate = &a.get("/api/v1/status").await["certificate"];
    assert_eq!(certificate["expires_soon"], false, "{certificate}");

    let [mut stranger, mut neighbour] =
        [("stranger", "other"), ("c", "ca")].map(|(node, dir)| agent(&mesh, node, dir, node));
    stranger.args(["--join", &a.mesh.to_string()]);
    neighbour.args(["--join", &a.mesh.to_string(), "--mesh", "prod"]);
    let (stranger, neighbour) = tokio::join!(mesh.launch("stranger", &mut stranger), mesh.launch("c", &mut neighbour));
    for other in [&stranger, &neighbour] {
        other.until_logged("does not accept the other").await;
        assert_eq!(other.get("/api/v1/members").await.as_array().unwrap().len(), 1);
    }
    assert_eq!(a.get("/api/v1/members").await.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_certificate_proves_its_own_name_and_mesh_and_no_other() {
    let mesh = Mesh::new();
    authority(&mesh, "ca").await;
    issue(&mesh, "ca", "a", &[]).await;
    let named = finish(&mut agent(&mesh, "b", "ca", "a")).await;
    let (_, why, _) = named.failure(2);
    assert!(why.contains("a.test.hobnob") && why.contains("b.test.hobnob"), "{why}");
    let elsewhere = finish(agent(&mesh, "a", "ca", "a").args(["--mesh", "prod"])).await;
    assert!(elsewhere.failure(2).1.contains("a.prod.hobnob"));
    fs::set_permissions(mesh.path("ca/a-key.pem"), fs::Permissions::from_mode(0o640)).unwrap();
    let shown = finish(&mut agent(&mesh, "a", "ca", "a")).await;
    assert!(shown.failure(2).1.contains("mode 640"));
}

#[tokio::test]
async fn a_new_certificate_is_taken_without_dropping_a_connection() {
    let mesh = Mesh::new();
    authority(&mesh, "ca").await;
    for node in ["a", "b"] {
        issue(&mesh, "ca", node, &["--days", "1"]).await;
    }
    let a = start(&mesh, "a", "ca", &[]).await;
    let b = start(&mesh, "b", "ca", &[&a]).await;
    tokio::join!(a.until_linked("b"), b.until_linked("a"));
    let serial = async || a.get("/api/v1/status").await["certificate"]["serial"].clone();
    let before = serial().await;
    let dials = async || {
        metric(&b, "hobnob_driver_handshakes_total").await + metric(&a, "hobnob_driver_handshakes_total").await
    };
    let links = dials().await;
    for file in ["a.pem", "a-key.pem"] {
        fs::remove_file(mesh.path("ca").join(file)).unwrap();
    }
    issue(&mesh, "ca", "a", &[]).await;
    until("the new certificate is shown", async || (serial().await != before).then_some(())).await;
    assert_eq!(dials().await, links, "no link was made anew");
}

/// One sample of the metrics.
async fn metric(agent: &Agent, name: &str) -> u64 {
    let page = agent.text("/metrics").await;
    let line = page.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {page}"));
    line.trim().parse().unwrap()
}

/// What `hobnob token create` prints on `host`.
async fn token(host: &Agent, more: &[&str]) -> String {
    let api = format!("http://{}", host.http);
    let made = finish(hobnob().args(["token", "create", "--api", &api]).args(more)).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    made.out.trim().to_owned()
}

/// `hobnob join` on a machine called `node` whose data directory is `home`.
async fn join(mesh: &Mesh, token: &str, node: &str, home: &str) -> Ended {
    finish(hobnob().args(["join", token, "--node", node, "--data-dir"]).arg(mesh.path(home))).await
}

#[tokio::test]
async fn a_new_machine_joins_with_a_token_and_nothing_else() {
    let mesh = Mesh::new();
    authority(&mesh, "ca").await;
    issue(&mesh, "ca", "a", &[]).await;
    let mut command = agent(&mesh, "a", "ca", "a");
    command.env("HOBNOB_TLS__CA_KEY", mesh.path("ca/ca-key.pem"));
    let by_certificate = mesh.launch("a", &mut command).await;
    joins_once(&mesh, &by_certificate, "b").await;
    let by_secret = mesh.start("s", &[]).await;
    joins_once(&mesh, &by_secret, "t").await;
}

#[tokio::test]
async fn a_key_or_a_token_that_others_can_read_is_not_used() {
    let mesh = Mesh::new();
    authority(&mesh, "ca").await;
    let key = mesh.path("ca/ca-key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let issued = finish(hobnob().args(["ca", "issue", "a", "--dir"]).arg(mesh.path("ca"))).await;
    let (_, why, next) = issued.failure(2);
    assert!(why.contains("can be read by others") && next == format!("chmod 600 {}", key.display()), "{issued:?}");
    let file = mesh.file("token", "a token");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let shown = finish(hobnob().args(["members", "--token-file"]).arg(&file)).await;
    assert!(shown.failure(2).1.contains("can be read by others (mode 640)"), "{shown:?}");
}

/// `node` joins the mesh of `host` with nothing but a token, and nobody else does with the same.
async fn joins_once(mesh: &Mesh, host: &Agent, node: &str) {
    let token = token(host, &[]).await;
    // Of the user whom its agent runs as, and root joins for him.
    fs::create_dir(mesh.path(node)).unwrap();
    if rustix::process::geteuid().is_root() {
        chown(mesh.path(node), Some(4711), None).unwrap();
    }
    let home = fs::metadata(mesh.path(node)).unwrap();
    let joined = join(mesh, &token, node, node).await;
    assert_eq!(joined.code, Some(0), "{joined:?}");
    for file in joined.out.lines() {
        let found = fs::metadata(file).unwrap();
        assert_eq!((found.mode() & 0o777, found.uid()), (0o600, home.uid()), "{file}");
    }
    let again = join(mesh, &token, "somebody", "elsewhere").await;
    let (_, why, next) = again.failure(1);
    assert!(why.contains("was used") && next.contains("token create"), "{again:?}");
    assert!(!mesh.path("elsewhere/joined.toml").exists());
    assert!(!again.err.contains(&token) && !host.log().contains(&token));
    let mut command = hobnob();
    command.args(["agent", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--dns", "127.0.0.1:0"]);
    command.arg("--config").arg(mesh.path("empty")).arg("--data-dir").arg(mesh.path(node));
    command.arg("--ready-file").arg(mesh.path(&format!("{node}.ready")));
    let new = mesh.launch(node, &mut command).await;
    host.until_seen(node, "alive").await;
    drop(new);
}

#[tokio::test]
async fn a_disk_that_takes_nothing_costs_neither_the_token_nor_the_name() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let word = token(&a, &[]).await;
    // A file that grows beyond a block is what a full disk refuses too.
    let mut shell = tokio::process::Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_hobnob"), "join", &word]);
    shell.args(["--node", "b", "--data-dir"]).arg(mesh.path("full"));
    let (what, ..) = finish(&mut shell).await.failure(1);
    assert!(what.contains("cannot write"), "{what}");
    assert_eq!(fs::read_dir(mesh.path("full")).unwrap().count(), 0);
    assert_eq!(join(&mesh, &word, "b", "b").await.code, Some(0));
}

#[tokio::test]
async fn a_token_is_of_no_use_to_others_too_late_or_misspelled() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    // A name that somebody has is not given away, unless the token was made for it.
    let open = token(&a, &[]).await;
    assert!(join(&mesh, &open, "a", "b").await.failure(1).1.contains("another node is called a"));
    let named = token(&a, &["--node", "web-1"]).await;
    assert!(join(&mesh, &named, "web-2", "b").await.failure(1).1.contains("--node web-1"));
    assert_eq!(join(&mesh, &named, "web-1", "web-1").await.code, Some(0));
    // Whoever was denied is not let in by the back door.
    let api = format!("http://{}", a.http);
    assert_eq!(finish(hobnob().args(["ca", "revoke", "thief", "--api", &api])).await.code, Some(0));
    assert!(join(&mesh, &open, "thief", "b").await.failure(1).1.contains("revoked"));
    for bad in [&open[..open.len() - 1], &open.replace('1', "l"), &format!("hobnob1_{}", "A".repeat(10_000))] {
        let (_, why, next) = join(&mesh, bad, "b", "b").await.failure(2);
        assert!((why.contains("mistyped") || !bad.starts_with("hobnob1_")) && next.contains("hobnob"), "{why}");
    }
    for ttl in ["0s", "25h", "99999d"] {
        let asked = finish(hobnob().args(["token", "create", "--api", &api, "--ttl", ttl])).await;
        let (_, why, next) = asked.failure(2);
        assert!(why.contains("--ttl") && next.contains("24h"), "{why}");
    }
    let brief = token(&a, &["--ttl", "1s"]).await;
    until("its second is over", async || {
        // A name that is taken does not use it up.
        join(&mesh, &brief, "a", "b").await.failure(1).1.contains("has expired").then_some(())
    })
    .await;
    // What an earlier join has left is not touched, and costs no token.
    let left = mesh.file("b/secret", "");
    assert!(join(&mesh, &open, "b", "b").await.failure(2).1.contains("is there already"));
    fs::remove_file(left).unwrap();
    // Refused as often as it was, it was never used.
    assert_eq!(join(&mesh, &open, "b", "b").await.code, Some(0));
    let (_, why, next) = join(&mesh, &open, "b", "b").await.failure(2);
    assert!(why.contains("has joined a mesh before") && next.contains("the token is still good"), "{why} {next}");
}

#[tokio::test]
async fn a_new_machine_gives_itself_to_no_other_mesh_at_the_same_address() {
    let mesh = Mesh::new();
    for dir in ["ca", "other"] {
        authority(&mesh, dir).await;
        issue(&mesh, dir, "a", &[]).await;
    }
    let mut command = agent(&mesh, "a", "ca", "a");
    command.env("HOBNOB_TLS__CA_KEY", mesh.path("ca/ca-key.pem"));
    let host = mesh.launch("a", &mut command).await;
    let (token, address) = (token(&host, &[]).await, host.mesh.to_string());
    host.kill_both().await;
    let nobody = join(&mesh, &token, "b", "b").await.failure(1).1;
    assert!(nobody.contains(&address), "{nobody}");
    let mut command = agent(&mesh, "a", "other", "a");
    command.env("HOBNOB_TLS__CA_KEY", mesh.path("other/ca-key.pem")).args(["--listen", &address]);
    let impostor = mesh.launch("a", &mut command).await;
    assert_eq!(impostor.mesh.to_string(), address);
    let why = join(&mesh, &token, "b", "b").await.failure(1).1;
    assert!(why.contains("not of the mesh that the token was made in"), "{why}");
    assert!(!mesh.path("b/joined.toml").exists());
}

#[tokio::test]
async fn a_token_outlives_a_kill_of_the_node_that_made_it_and_is_still_good_once() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let address = a.mesh.to_string();
    let [used, open] = [token(&a, &[]).await, token(&a, &[]).await];
    assert_eq!(join(&mesh, &used, "b", "b").await.code, Some(0));
    a.kill_both().await;
    let a = mesh.launch("a", mesh.agent("a", "a").args(["--listen", &address])).await;
    assert_eq!(a.mesh.to_string(), address);
    assert!(join(&mesh, &used, "c", "c").await.failure(1).1.contains("was used"));
    // Nobody called b has been seen, and the name is given away all the same.
    assert!(join(&mesh, &open, "b", "c").await.failure(1).1.contains("another node is called b"));
    assert_eq!(join(&mesh, &open, "c", "c").await.code, Some(0));
    assert!(join(&mesh, &open, "d", "d").await.failure(1).1.contains("was used"));
    // What is kept opens nothing: the secret half stands in the token alone.
    let kept = fs::read(mesh.path("a/guests")).unwrap();
    assert_eq!(fs::metadata(mesh.path("a/guests")).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(kept.len() < 16, "both were used: {kept:?}");
}

#[tokio::test]
async fn who_is_revoked_is_out_although_one_node_does_not_take_the_word() {
    let mesh = Mesh::new();
    for authority_of in ["old", "new"] {
        authority(&mesh, authority_of).await;
    }
    let [old, new] = ["old", "new"].map(|dir| fs::read_to_string(mesh.path(dir).join("ca.pem")).unwrap());
    fs::create_dir_all(mesh.path("both")).unwrap();
    for node in ["a", "b", "c", "d"] {
        issue(&mesh, "old", node, &[]).await;
        for file in [format!("{node}.pem"), format!("{node}-key.pem")] {
            fs::copy(mesh.path("old").join(&file), mesh.path("both").join(&file)).unwrap();
        }
    }
    fs::write(mesh.path("both/ca.pem"), old + &new).unwrap();
    let a = start(&mesh, "a", "both", &[]).await;
    // It has missed the first step of a rotation.
    let b = start(&mesh, "b", "old", &[&a]).await;
    let c = start(&mesh, "c", "both", &[&a]).await;
    let d = start(&mesh, "d", "both", &[&a]).await;
    for agent in [&a, &b, &d] {
        agent.until_linked("c").await;
    }
    c.register("web", 80).await;
    let revoke = async |more: &[&str]| {
        let mut command = hobnob();
        command.args(["ca", "revoke", "c", "--dir"]).arg(mesh.path("new")).args(more);
        let done = finish(command.args(["--api", &format!("http://{}", a.http)])).await;
        assert_eq!(done.code, Some(0), "{done:?}");
    };
    for agent in [&a, &b, &d] {
        agent.until_resolved("web", &["80"]).await;
    }
    revoke(&[]).await;
    let told = "event=\"decreed\" who=\"anonymous\" from=127.0.0.1 about=\"node\" subject=\"c\" void=false";
    a.until_logged(told).await;
    for agent in [&a, &d] {
        agent.until_seen("c", "down").await;
        let why = agent.get("/api/v1/explain/c").await;
        assert_eq!((&why["cause"], &why["shown"]), (&"revoked".into(), &false.into()), "{why}");
    }
    c.register("evil", 666).await;
    b.until_resolved("evil", &["666"]).await;
    // What b says of itself later than that has come, and what it says of c counts for nothing.
    b.register("after", 81).await;
    for agent in [&a, &d] {
        agent.until_resolved("after", &["81"]).await;
        assert!(agent.resolve("web").await.is_empty() && agent.resolve("evil").await.is_empty());
        agent.until_seen("c", "down").await;
    }
    until("b tells its operator", async || {
        let doctor = finish(hobnob().args(["doctor", "--api", &format!("http://{}", b.http)])).await;
        doctor.out.contains("refused here").then_some(())
    })
    .await;
    revoke(&["--undo"]).await;
    for agent in [&a, &d] {
        agent.until_seen("c", "alive").await;
        agent.until_resolved("evil", &["666"]).await;
    }
}
