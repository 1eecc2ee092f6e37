//! The command line as people and scripts use it: every command against a live agent, its output, its errors, its codes.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test outside the core's virtual time")]

mod process;

use std::{fs, os::unix::fs::symlink, path::Path, process::Stdio};

use process::{Agent, Ended, Mesh, finish, hobnob, is_gone, stat, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::process::Command;

/// A command that talks to `agent`.
fn ask(agent: &Agent, line: &str) -> Command {
    let mut command = hobnob();
    command.env("HOBNOB_API", format!("http://{}", agent.http)).args(line.split_whitespace());
    command
}

async fn run(agent: &Agent, line: &str) -> Ended {
    finish(&mut ask(agent, line)).await
}

/// What a command that must succeed prints.
async fn out(agent: &Agent, line: &str) -> String {
    let ended = run(agent, line).await;
    assert_eq!(ended.code, Some(0), "{line}: {ended:?}");
    ended.out
}

async fn plain(line: &str) -> Ended {
    finish(hobnob().args(line.split_whitespace())).await
}

#[tokio::test]
async fn an_instance_is_registered_read_and_withdrawn() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let line = "register web --port 8080 --id web-1 --address 10.0.0.1 --tag v2 --tag x --meta k=v --check ttl=1h,initial=passing";
    assert_eq!(run(&a, line).await.err, "registered web-1\n");
    assert_eq!(run(&a, line).await.err, "registered web-1 again\n");
    assert_eq!(out(&a, "services --format name").await, "web\n");
    assert_eq!(out(&a, "members --format name").await, "a\n");
    assert_eq!(out(&a, "service web --format name").await, "web-1\n");
    let json: Value = serde_json::from_str(&out(&a, "service web --format json").await).unwrap();
    assert_eq!(
        (&json[0]["tags"], &json[0]["meta"], &json[0]["health"]),
        (&json!(["v2", "x"]), &json!({"k": "v"}), &json!("passing"))
    );
    assert_eq!(out(&a, "services --format jsonl").await.lines().count(), 1);
    let table = out(&a, "service web").await;
    assert!(
        table
            .lines()
            .nth(1)
            .unwrap()
            .split_whitespace()
            .eq(["web-1", "a", "10.0.0.1", "8080", "passing", "alive", "v2,x"]),
        "{table}"
    );
    assert!(out(&a, "status").await.contains("NODE"));
    assert!(!table.contains('\u{1b}'), "no colour in a pipe");

    assert_eq!(out(&a, "resolve web --format name").await, "10.0.0.1\n");
    assert!(out(&a, "resolve web --type srv").await.contains("8080"));
    assert!(out(&a, "resolve web --type aaaa").await.contains("of the other family"));
    let explained: Value =
        serde_json::from_str(&out(&a, "resolve web.service.mesh.internal --format json").await).unwrap();
    assert_eq!(
        (&explained["reply"]["code"], &explained["instances"][0]["answered"]),
        (&json!("NOERROR"), &json!(true))
    );

    assert_eq!(out(&a, "service web --require --format name").await, "web-1\n");
    assert_eq!(run(&a, "deregister web-1").await.code, Some(0));
    run(&a, "deregister web-1").await.failure(1);
    run(&a, "service web --require").await.failure(3);
    run(&a, "resolve web").await.failure(1);
    assert_eq!(out(&a, "services --format name").await, "");
}

#[tokio::test]
async fn a_file_of_services_is_registered_as_a_whole_or_not_at_all() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let toml = "[[services]]\nname = \"web\"\nport = 80\n[[services]]\nname = \"db\"\nport = 5432\n";
    let register = async |path: &Path| finish(ask(&a, "register --file").arg(path)).await;
    let bad = register(&mesh.file("bad.toml", &toml.replace("5432", "0"))).await;
    assert!(bad.failure(2).1.contains("line 6"), "{bad:?}");
    assert_eq!(out(&a, "services --format name").await, "");
    assert_eq!(register(&mesh.file("good.toml", toml)).await.code, Some(0));
    let json = r#"{"service": {"name": "cache", "port": 11211, "Tags": ["a"], "check": {"ttl": "30s"}}}"#;
    assert_eq!(register(&mesh.file("consul.json", json)).await.code, Some(0));
    assert_eq!(out(&a, "services --format name").await, "cache\ndb\nweb\n");
    register(&mesh.path("nowhere.toml")).await.failure(2);
}

#[tokio::test]
async fn every_mistake_has_three_lines_and_its_code() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    for (line, code, expected) in [
        ("register web --port 0", 2, "port"),
        ("register web --port 65536", 2, "port"),
        ("register web --port x", 2, "port"),
        ("register _a --port 1", 2, "name"),
        ("register", 2, "<NAME>"),
        ("register web", 2, "--port"),
        ("register web --port 1 --meta k", 2, "KEY=VALUE"),
        ("register web --port 1 --check ttl=never", 2, "ttl"),
        ("token create --policy read --ttl 0s", 2, "--ttl"),
        ("register web --port 1 --check tll=1s", 2, "did you mean `ttl`?"),
        ("register web --port 1 --address a!b", 2, "address"),
        ("members --fromat json", 2, "--format"),
        ("membres", 2, "members"),
        ("", 2, "no command was given"),
        ("service a\u{7f}b", 2, "name"),
        ("resolve nobody", 1, "NXDOMAIN"),
        ("resolve a..b", 2, "a..b"),
        ("resolve web --zone nosuch", 2, "none of the agent's zones"),
        ("join nowhere:0", 2, "port 0"),
        ("join nowhere.invalid:1", 2, "nowhere.invalid"),
        ("completions fishy", 2, "hobnob completions --help"),
        ("ping nobody", 1, "404 to POST /api/v1/ping/nobody"),
        ("ping nobody", 1, "hobnob members"),
        ("maintenance on nobody", 1, "404 to PUT"),
        ("deregister nobody", 1, "hobnob services"),
        ("force-leave a", 1, "hobnob leave"),
        ("--api http://127.0.0.1:70000 members", 2, "port"),
        ("demo --nodes 101", 2, "hobnob demo --help"),
        ("--api ftp://x services", 2, "--api"),
        ("--api http://127.0.0.1:1 services", 4, "127.0.0.1:1"),
        ("--api unix:/nowhere services", 4, "/nowhere"),
        ("--token-file /nowhere services", 2, "/nowhere"),
        ("run web --port 1 -- /nowhere/program", 127, "/nowhere/program"),
        ("run web --port 1 -- /etc", 126, "/etc"),
    ] {
        let ended = run(&a, line).await;
        let (what, why, next) = ended.failure(code);
        assert!(format!("{what}\n{why}\n{next}").contains(expected), "{line}: {ended:?}");
        assert!(ended.out.is_empty() || line.starts_with("resolve"), "{ended:?}");
    }
    assert_eq!(out(&a, "services --format name").await, "", "nothing was half-done");
}

#[tokio::test]
async fn settings_are_checked_and_mistakes_are_found_with_their_line() {
    let mesh = Mesh::new();
    let check = async |text: &str| {
        let file = mesh.file("hobnob.toml", text);
        let secret = hobnob::agent::Secret::random().reveal();
        finish(hobnob().env("HOBNOB_SECRET", &*secret).args(["config", "check", "--config"]).arg(file)).await
    };
    let good = check("node = \"a\"\n[[services]]\nname = \"web\"\nport = 80\n").await;
    assert_eq!(good.code, Some(0), "{good:?}");
    for (text, line, expected) in [
        ("nod = \"a\"\n", "line 1", "did you mean `node`?"),
        ("[listen]\nhtpp = \"127.0.0.1:1\"\n", "line 2", "did you mean `http`?"),
        ("[[services]]\nname = \"web\"\nprot = 80\n", "line 3", "did you mean `port`?"),
        ("[[services]]\nname = \"web\"\nport = 70000\n", "line 3", "port"),
        ("node = \"a b\"\n", "line 1", "a b"),
        ("join = [\"seed:99999\"]\n", "line 1", "seed:99999"),
        ("[checks]\ndeny = [\"10.0.0.0/99\"]\n", "line 2", "checks.deny"),
        ("node = \n", "line 1", ""),
    ] {
        let ended = check(text).await;
        let (_, why, _) = ended.failure(2);
        assert!(why.contains(line) && why.contains(expected), "{text}: {ended:?}");
    }
    let shown =
        finish(hobnob().args(["config", "show", "--config"]).arg(mesh.file("hobnob.toml", "zone = \"z\"\n"))).await;
    assert!(shown.out.contains("zone = \"z\"") && shown.out.contains("mesh = \"default\""), "{shown:?}");
    assert!(plain("config check --config /nowhere").await.failure(2).1.contains("/nowhere"));
    let both = check("nod = \"a\"\n[[services]]\nname = \"web\"\nport = 0\n").await;
    assert!(both.failure(2).0.contains("2 mistakes"), "{both:?}");
    let lines: Vec<_> = both.out.lines().map(|line| line.rsplit_once("hobnob.toml, ").unwrap().1).collect();
    assert!(lines[0].starts_with("line 1: unknown key `nod`") && lines[1].starts_with("line 4: "), "{both:?}");
}

#[tokio::test]
async fn signals_stop_and_reload_an_agent() {
    let mesh = Mesh::new();
    let service = |name: &str| format!("[[services]]\nname = \"{name}\"\nport = 80\n");
    let file = mesh.file("a.toml", &service("web"));
    let mut a = mesh.launch("a", mesh.agent("a", "a").arg("--config").arg(&file)).await;
    a.until_resolved("web", &["80"]).await;
    a.register("mine", 81).await;
    fs::write(&file, format!("zone = \"z\"\n{}", service("db"))).unwrap();
    a.signal(Signal::HUP);
    a.until_resolved("db", &["80"]).await;
    a.until_logged("setting=\"zone\"").await;
    a.until_resolved("web", &[]).await;
    fs::write(&file, "nod = 1\n").unwrap();
    a.signal(Signal::HUP);
    a.until_logged("did you mean `node`?").await;
    assert_eq!(a.resolve("db").await, ["80"], "the old settings stay");
    assert_eq!(a.resolve("mine").await, ["81"], "what came by the API is none of the files'");

    let mut b = mesh.start("b", &[&a]).await;
    b.signal(Signal::INT);
    assert_eq!(b.ended().await.code(), Some(0), "{}", b.log());
    a.until_seen("b", "left").await;
    a.signal(Signal::TERM);
    assert_eq!(a.ended().await.code(), Some(0), "{}", a.log());
    assert!(!mesh.path("a.ready").exists() && !mesh.path("b.ready").exists(), "nothing points to the dead");
}

#[tokio::test]
async fn a_node_leaves_when_it_is_told_to() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let mut b = mesh.start("b", &[&a]).await;
    a.until_seen("b", "alive").await;
    assert_eq!(run(&b, "leave").await.code, Some(0));
    assert_eq!(b.ended().await.code(), Some(0), "{}", b.log());
    a.until_seen("b", "left").await;
    run(&b, "services").await.failure(4);
}

#[tokio::test]
async fn the_api_is_on_a_unix_socket_too() {
    let mesh = Mesh::new();
    let (socket, file) = (mesh.path("api.sock"), mesh.path("a.toml"));
    mesh.file("a.toml", &format!("[http]\nsocket = {:?}\n", socket.display().to_string()));
    let mut a = mesh.launch("a", mesh.agent("a", "a").arg("--config").arg(file)).await;
    let api = format!("unix:{}", socket.display());
    let line = |words: &str| plain_at(&api, words);
    assert_eq!(finish(&mut line("register web --port 80")).await.code, Some(0));
    assert_eq!(finish(&mut line("services --format name")).await.out, "web\n");
    assert_eq!(finish(&mut line("leave")).await.code, Some(0));
    assert_eq!(a.ended().await.code(), Some(0));
    assert!(!socket.exists());
}

fn plain_at(api: &str, words: &str) -> Command {
    let mut command = hobnob();
    command.args(["--api", api]).args(words.split_whitespace());
    command
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_error() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    for number in 0..200 {
        a.register(&format!("service-{number}"), 80).await;
    }
    let script = format!("{{ {} services --format json; echo $? >&2; }} | head -c 0", env!("CARGO_BIN_EXE_hobnob"));
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).env("HOBNOB_API", format!("http://{}", a.http));
    assert_eq!(finish(&mut shell).await.err, "0\n");
}

#[tokio::test]
async fn a_demo_plays_its_story_and_a_script() {
    let story = plain("demo --nodes 3").await;
    assert_eq!(story.code, Some(0), "{story:?}");
    assert!(story.out.contains("8080") && story.out.contains("web gone, by DNS"), "{story:?}");
    assert_eq!(plain("demo --nodes 1").await.code, Some(0), "a node alone has a story too");
    let mesh = Mesh::new();
    let script = mesh.file(
        "script",
        "register db 5432 on n2\nwait db seen\nresolve db on n1\npartition n1\nshow\nheal\nwait agreement\n",
    );
    let played = finish(hobnob().args(["demo", "--nodes", "2", "--script"]).arg(script)).await;
    assert!(played.code == Some(0) && played.out.contains("5432"), "{played:?}");
    let wrong = finish(hobnob().args(["demo", "--script"]).arg(mesh.file("wrong", "kill n1\nkil n2\n"))).await;
    assert!(wrong.failure(2).0.contains("line 2"), "{wrong:?}");
    plain("demo --nodes 0").await.failure(2);
}

#[tokio::test]
async fn words_for_people_and_shells() {
    let one = plain("keygen").await.out;
    assert!(one.len() == 45 && one != plain("keygen").await.out, "{one:?}");
    let mesh = Mesh::new();
    let file = mesh.path("fresh");
    assert_eq!(finish(hobnob().args(["keygen", "--out"]).arg(&file)).await.code, Some(0));
    let again = finish(hobnob().args(["keygen", "--out"]).arg(&file)).await;
    assert!(again.failure(1).0.contains("fresh"), "a secret is never overwritten");
    for shell in ["bash", "zsh", "fish"] {
        assert!(plain(&format!("completions {shell}")).await.out.contains("deregister"), "{shell}");
    }
    assert!(plain("--version").await.out.starts_with("hobnob "));
    let help = plain("--help").await;
    assert_eq!((help.code, &*help.err), (Some(0), ""));
    let commands: Vec<_> =
        help.out.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty()).collect();
    assert!(commands.len() > 12, "{}", help.out);
    for line in commands {
        let mut words = line.split_whitespace();
        let command = words.next().unwrap();
        assert!(words.count() > 2, "{command} says nothing of itself");
        let help = plain(&format!("{command} --help")).await.out;
        let options = help.lines().filter(|line| line.trim_start().starts_with("--") && !line.contains("  "));
        for option in options.filter(|line| line.split("--").count() > 1) {
            let at = help.find(option).unwrap() + option.len();
            assert!(help[at..].trim_start().starts_with(char::is_alphanumeric), "{command} {option} is not explained");
        }
    }
}

#[tokio::test]
async fn files_are_followed_as_they_come_change_and_go() {
    let mesh = Mesh::new();
    let service = |name: &str, port: u16| format!("[[services]]\nname = \"{name}\"\nport = {port}\n");
    mesh.file("etc/hobnob.toml", "");
    let home = mesh.path("etc");
    let a = mesh.launch("a", mesh.agent("a", "a").arg("--config").arg(&home)).await;
    a.register("mine", 81).await;
    // A folder that was not there at the start, then a file in each form, then a change, then a mistake, then the end.
    mesh.file("etc/services.d/web.toml", &service("web", 80));
    a.until_resolved("web", &["80"]).await;
    mesh.file("etc/services.d/db.json", r#"{"Service": {"ID": "db-1", "Name": "db", "Port": 5432}}"#);
    a.until_resolved("db", &["5432"]).await;
    // Who registers just what a file asks for is told that it is so; all else is the file's to say.
    for (port, status) in [(5432, 200), (5433, 409)] {
        let asked = json!({"ID": "db-1", "Name": "db", "Port": port}).to_string();
        assert_eq!(a.call("PUT", "/v1/agent/service/register", &asked).await.0, status, "{port}");
    }
    mesh.file("etc/services.d/web.toml", &service("web", 8080));
    a.until_resolved("web", &["8080"]).await;
    mesh.file("etc/services.d/db.json", r#"{"Service": {"Name": "db", "Prot": 1}}"#);
    a.until_logged("did you mean `port`?").await;
    assert_eq!(a.resolve("db").await, ["5432"], "a bad file changes nothing");
    let refused = run(&a, "reload").await;
    assert!(refused.failure(2).1.contains("did you mean `port`?"), "{refused:?}");
    fs::remove_file(mesh.path("etc/services.d/db.json")).unwrap();
    a.until_resolved("db", &[]).await;
    assert_eq!(a.resolve("mine").await, ["81"], "what came by the API is none of the files'");
    mesh.file("etc/services.d/mine.toml", &service("mine", 82));
    a.until_resolved("mine", &["82"]).await;
    a.until_logged("registration_taken_over").await;
    fs::remove_file(mesh.path("etc/services.d/mine.toml")).unwrap();
    a.until_resolved("mine", &[]).await;
    a.until_logged("registration_withdrawn\" instance=mine").await;
    mesh.file("etc/hobnob.toml", "zone = \"z\"\n");
    let reloaded = run(&a, "reload").await;
    assert_eq!(reloaded.code, Some(0), "{reloaded:?}");
    a.until_logged("setting=\"zone\"").await;
}

#[tokio::test]
async fn what_stands_behind_links_is_followed_and_belongs_to_its_file() {
    let mesh = Mesh::new();
    let service = |port: u16| format!("[[services]]\nname = \"web\"\nport = {port}\n");
    // As Kubernetes mounts a ConfigMap, elsewhere: a name, a folder that is a link, and what that leads to.
    for (version, port) in [("v1", 80), ("v2", 81)] {
        mesh.file(&format!("mounted/..{version}/web.toml"), &service(port));
    }
    let link = |target: &str, path: &str| {
        symlink(target, mesh.path("fresh")).unwrap();
        fs::rename(mesh.path("fresh"), mesh.path(path)).unwrap();
    };
    link("..v1", "mounted/..data");
    link("..data/web.toml", "mounted/web.toml");
    mesh.file("etc/hobnob.toml", "");
    fs::create_dir(mesh.path("etc/services.d")).unwrap();
    link("../../mounted/web.toml", "etc/services.d/web.toml");
    let a = mesh.launch("a", mesh.agent("a", "a").arg("--config").arg(mesh.path("etc"))).await;
    a.until_resolved("web", &["80"]).await;
    link("..v2", "mounted/..data");
    a.until_resolved("web", &["81"]).await;
    mesh.file("mounted/..v2/web.toml", &service(82));
    a.until_resolved("web", &["82"]).await;

    let refused = run(&a, "deregister web").await;
    let (_, why, next) = refused.failure(2);
    assert!(why.contains("services.d/web.toml") && next.contains("reload"), "{refused:?}");
    let path = "/api/v1/registrations/web";
    for (method, path, body) in [
        ("DELETE", path, ""),
        ("PUT", path, r#"{"name": "web", "port": 83}"#),
        ("PUT", "/v1/agent/service/deregister/web", ""),
        ("PUT", "/v1/agent/service/register", r#"{"Name": "web", "Port": 83}"#),
        ("PUT", "/v1/agent/check/register", r#"{"Name": "beat", "ServiceID": "web", "TTL": "9s"}"#),
    ] {
        let (status, problem) = a.call(method, path, body).await;
        assert_eq!(status, 409, "{method} {path}: {problem}");
    }
    assert_eq!(a.call("PUT", path, r#"{"name": "web", "port": 82}"#).await.0, 200, "that is what the file says");
    fs::remove_file(mesh.path("etc/services.d/web.toml")).unwrap();
    a.until_resolved("web", &[]).await;
    assert_eq!(a.call("PUT", path, r#"{"name": "web", "port": 83}"#).await.0, 201);
    assert_eq!(a.call("DELETE", path, "").await.0, 204);
}

#[tokio::test]
async fn a_hook_runs_with_the_state_of_its_service() {
    let mesh = Mesh::new();
    let seen = mesh.path("seen");
    let hook = |file: &Path| {
        let script = format!("env > {0}.env; cat > {0}.new; mv {0}.new {0}", file.display());
        format!("[[hooks]]\nservice = \"web\"\ncommand = [\"sh\", \"-c\", {script:?}]\nsettle = \"1ms\"\n")
    };
    let file = mesh.file("a.toml", &hook(&seen));
    let mut command = mesh.agent("a", "a");
    command.env("HOBNOB_SECRET", fs::read_to_string(mesh.path("secret")).unwrap()).env("HOBNOB_TOKEN", "token");
    let a = mesh.launch("a", command.arg("--config").arg(&file)).await;
    let state = async |file: &Path, ports: &[u64]| {
        until(&format!("the hook has seen {ports:?}"), async || {
            let state: Value = serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
            let found = state["instances"].as_array()?.iter().filter_map(|instance| instance["port"].as_u64());
            (state["service"] == "web" && found.eq(ports.iter().copied())).then_some(())
        })
        .await;
    };
    state(&seen, &[]).await;
    let environment = fs::read_to_string(mesh.path("seen.env")).unwrap();
    assert!(environment.contains("PATH=") && !environment.contains("HOBNOB_"), "{environment}");
    a.register("web", 80).await;
    state(&seen, &[80]).await;
    let other = mesh.path("other");
    fs::write(&file, hook(&other)).unwrap();
    state(&other, &[80]).await;
    assert_eq!(run(&a, "deregister web").await.code, Some(0));
    state(&other, &[]).await;
    state(&seen, &[80]).await;
    fs::write(&file, "[[hooks]]\nservice = \"db\"\ncommand = [\"/nowhere/program\"]\n").unwrap();
    a.until_logged("/nowhere/program").await;
}

#[tokio::test]
async fn a_changed_hook_ends_its_run_before_the_next_begins() {
    let mesh = Mesh::new();
    let (all, gate) = (mesh.path("all"), mesh.path("gate"));
    assert!(std::process::Command::new("mkfifo").arg(&gate).status().unwrap().success());
    let hook = |script: String| {
        format!("[[hooks]]\nservice = \"web\"\ncommand = [\"sh\", \"-c\", {script:?}]\nsettle = \"1ms\"\n")
    };
    let (to, at) = (all.display(), gate.display());
    let file = mesh.file("a.toml", &hook(format!("echo begun >> {to}; cat {at} > /dev/null; echo ended >> {to}")));
    let a = mesh.launch("a", mesh.agent("a", "a").arg("--config").arg(&file)).await;
    let said = async |lines: &str| {
        let what = format!("the hooks have said {lines:?}");
        until(&what, async || (fs::read_to_string(&all).ok()? == lines).then_some(())).await;
    };
    said("begun\n").await;
    fs::write(&file, hook(format!("echo next >> {to}"))).unwrap();
    assert_eq!(run(&a, "reload").await.code, Some(0));
    assert_eq!(fs::read_to_string(&all).unwrap(), "begun\n");
    tokio::task::spawn_blocking(move || fs::write(gate, "")).await.unwrap().unwrap();
    said("begun\nended\nnext\n").await;
}

#[tokio::test]
async fn what_could_not_be_done_is_tried_again() {
    let mesh = Mesh::new();
    mesh.file("etc/hobnob.toml", "");
    let a = mesh.launch("a", mesh.agent("a", "a").arg("--config").arg(mesh.path("etc"))).await;
    let in_the_way = mesh.path("a/services-from-files.new");
    fs::create_dir(&in_the_way).unwrap();
    mesh.file("etc/services.d/web.toml", "[[services]]\nname = \"web\"\nport = 80\n");
    a.until_logged("reloaded in part").await;
    fs::remove_dir(in_the_way).unwrap();
    a.until_resolved("web", &["80"]).await;
}

#[tokio::test]
async fn a_watcher_prints_or_runs_something_at_each_change() {
    let mesh = Mesh::new();
    let mut a = mesh.start("a", &[]).await;
    let lines = |name: &str| (mesh.path(name), fs::File::create(mesh.path(name)).unwrap());
    let (printed, out) = lines("printed");
    let mut watcher = ask(&a, "watch web --format jsonl").stdout(out).stderr(Stdio::null()).spawn().unwrap();
    let said = async |file: &Path, count: usize| {
        until(&format!("{count} lines"), async || {
            let text = fs::read_to_string(file).unwrap();
            (text.lines().count() == count).then(|| text.lines().last().unwrap_or_default().to_owned())
        })
        .await
    };
    assert!(said(&printed, 1).await.contains("\"instances\":[]"));
    a.register("web", 80).await;
    assert!(said(&printed, 2).await.contains("\"port\":80"));
    a.register("other", 80).await;
    let (ran, out) = lines("ran");
    let mut command = ask(&a, "watch web --settle 1ms --exec");
    let mut runner = command.arg("cat; echo done >&2").stdout(out).stderr(Stdio::null()).spawn().unwrap();
    assert!(said(&ran, 1).await.contains("\"port\":80"));
    // The agent goes away and comes back where it was: the watchers go on, and say only what is new.
    let (http, place) = (a.http.to_string(), mesh.path("a"));
    assert!(place.is_dir());
    a.signal(Signal::TERM);
    a.ended().await;
    let a = mesh.launch("a", mesh.agent("a", "a").args(["--http", &http])).await;
    let line = "register web --id web-2 --port 81";
    assert_eq!(run(&a, line).await.err, "registered web-2\n");
    assert!(said(&printed, 3).await.contains("\"port\":81"));
    assert!(said(&ran, 2).await.contains("\"port\":81"));
    let pid = Pid::from_raw(i32::try_from(runner.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(runner.wait().await.unwrap().code(), Some(0));
    watcher.kill().await.unwrap();
    // What a kill leaves nobody to end, ends by itself.
    let mut command = ask(&a, "watch web --exec");
    command.arg("echo $$; exec sleep 1000").stdout(fs::File::create(&ran).unwrap()).stderr(Stdio::null());
    let mut runner = command.spawn().unwrap();
    let child = said(&ran, 1).await;
    runner.kill().await.unwrap();
    until("its program is gone", async || is_gone(&stat(child.trim())).then_some(())).await;
    plain("--api http://127.0.0.1:1 watch web").await.failure(4);
    run(&a, "watch a\u{7f}b").await.failure(2);
}

#[tokio::test]
async fn what_is_wrong_and_what_would_happen_is_told() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let table = out(&a, "doctor").await;
    let line = |table: &str, word: &str| table.lines().find(|line| line.contains(word)).map(str::to_owned);
    assert!(
        line(&table, "peers").is_some_and(|line| line.contains("warning") && line.contains("hobnob join")),
        "{table}"
    );
    assert!(line(&table, "dns").is_some_and(|line| line.contains("NOERROR")), "{table}");
    run(&a, "register web --port 80 --check ttl=1h,initial=critical").await;
    assert_eq!(out(&a, "explain web --format name").await, "web\n");
    let checks = out(&a, "checks").await;
    assert!(line(&checks, "web").is_some_and(|line| line.contains("critical")), "{checks}");
    let simulated = out(&a, "simulate --nodes 8 --deaths 1 --updates 2 --rest 1s --format json").await;
    let figures: Value = serde_json::from_str(&simulated).unwrap();
    let is_figure = |row: &Value| row["measured"].is_number() && row["unit"].is_string();
    assert!(figures.as_array().unwrap().len() == 7 && figures.as_array().unwrap().iter().all(is_figure), "{simulated}");
    assert_eq!(run(&a, "simulate --nodes 2 --deaths 1").await.code, Some(2));
    assert!(out(&a, "man").await.starts_with(".ie"));
}

#[tokio::test]
async fn an_instance_and_a_node_are_out_of_service_and_back() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let b = mesh.start("b", &[&a]).await;
    a.register("web", 80).await;
    a.register("db", 81).await;
    b.until_resolved("web", &["80"]).await;
    assert_eq!(run(&a, "maintenance on web --reason moving").await.err, "web is out of service\n");
    b.until_resolved("web", &[]).await;
    let shown: Value = serde_json::from_str(&out(&b, "service web --format json").await).unwrap();
    assert_eq!((&shown[0]["health"], &shown[0]["maintenance"]), (&json!("maintenance"), &json!("moving")));
    assert_eq!(b.resolve("db").await, ["81"]);
    assert_eq!(run(&a, "maintenance off web").await.code, Some(0));
    b.until_resolved("web", &["80"]).await;
    assert_eq!(run(&a, "maintenance on --reason rewiring").await.err, "this node is out of service\n");
    b.until_resolved("web", &[]).await;
    for line in ["resolve web", "explain web", "explain a"] {
        let told = out(&b, line).await;
        assert!(told.contains("in maintenance: rewiring"), "{line}: {told}");
    }
    b.until_resolved("db", &[]).await;
    assert_eq!(run(&a, "maintenance off").await.code, Some(0));
    b.until_resolved("db", &["81"]).await;
    assert_eq!(run(&a, "maintenance on nobody").await.code, Some(1));
}

#[tokio::test]
async fn a_service_with_dots_in_its_name_is_told_from_a_domain_name() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let body = r#"{"Name": "a.b", "Address": "10.0.0.7", "Port": 80}"#;
    assert_eq!(a.call("PUT", "/v1/agent/service/register", body).await.0, 200);
    run(&a, "register a --port 81 --address 10.0.0.8").await;
    let refused = run(&a, "resolve a.b").await;
    let (what, why, next) = refused.failure(1);
    assert!(what.contains("REFUSED") && why.contains("\"a.b\""), "{refused:?}");
    assert!(next.contains(r"hobnob resolve 'a\.b.service.mesh.internal'"), "{refused:?}");
    assert!(!refused.out.contains("10.0.0"), "nobody is told of the service a: {refused:?}");
    assert_eq!(out(&a, r"resolve a\.b.service.mesh.internal --format name").await, "10.0.0.7\n");
    let told = out(&a, r"resolve a\.b.service.mesh.internal").await;
    assert!(told.contains("10.0.0.7") && told.contains("true"), "{told}");
    let elsewhere = run(&a, "resolve www.example.com").await;
    assert!(elsewhere.failure(1).1.contains("dns.zones"), "{elsewhere:?}");
}

#[tokio::test]
async fn a_name_says_whom_it_leaves_out_and_why() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    run(&a, "register web --port 80 --address 10.0.0.8 --tag v2").await;
    for (name, why) in [
        ("v9.web.service", "asks for the tag \"v9\""),
        ("web.service.dc9", "asks for the datacenter \"dc9\""),
        ("_grpc._tcp.web.service", "no port called \"grpc\""),
    ] {
        let told = run(&a, &format!("resolve {name}.mesh.internal")).await;
        assert!(told.code == Some(1) && told.out.contains(why), "{told:?}");
    }
}

#[tokio::test]
async fn distances_are_told_and_measured() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let b = mesh.start("b", &[&a]).await;
    b.register("web", 80).await;
    a.until_resolved("web", &["80"]).await;
    let pings: Value = serde_json::from_str(&out(&a, "ping b --count 2 --format json").await).unwrap();
    assert_eq!(pings.as_array().unwrap().len(), 2);
    assert!(pings.as_array().unwrap().iter().all(|ping| ping["to"] == "b" && ping["rtt_ms"].as_f64() > Some(0.0)));
    let known = async || {
        let trip: Value = serde_json::from_str(&out(&a, "rtt b --format json").await).unwrap();
        trip["rtt_ms"].as_f64().map(|_| trip)
    };
    let trip = until("the round trip is known", known).await;
    assert_eq!((&trip["from"], &trip["to"], &trip["known"]), (&json!("a"), &json!("b"), &json!("measured")));
    assert_eq!(out(&a, "rtt b a --format name").await, "a\n");
    assert_eq!(run(&a, "ping nobody").await.code, Some(1));
    assert_eq!(run(&a, "ping b --count 0").await.code, Some(2));
}
