//! `hobnob run`: an instance that lives as long as a command, and belongs to one of them alone.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test outside the core's virtual time")]

mod process;

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use process::{Agent, Ended, Mesh, finish, hobnob, stat, until};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    process::{Child, Command},
};

/// A command that talks to `agent`.
fn ask(agent: &Agent, line: &str) -> Command {
    ask_at(&format!("http://{}", agent.http), line)
}

fn ask_at(api: &str, line: &str) -> Command {
    let mut command = hobnob();
    command.env("HOBNOB_API", api).args(line.split_whitespace()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

async fn run(agent: &Agent, line: &str) -> Ended {
    finish(&mut ask(agent, line)).await
}

fn pid(running: &Child) -> Pid {
    Pid::from_raw(i32::try_from(running.id().unwrap()).unwrap()).unwrap()
}

/// Lives as long as the `hobnob run` that has started it.
const AS_LONG: &str = "while kill -0 $PPID; do sleep 0.05; done";

#[tokio::test]
async fn run_registers_for_as_long_as_the_command_lives() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    assert_eq!(run(&a, "run web --port 80 -- false").await.code, Some(1));
    for (script, code) in [("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)] {
        let ended = finish(ask(&a, "run web --port 80 -- sh -c").arg(script)).await;
        assert_eq!(ended.code, Some(code), "{script}: {ended:?}");
    }
    let mut keyless = ask(&a, "run web --port 80 -- sh -c");
    let keyless = keyless.arg("exit ${HOBNOB_SECRET:+1}${HOBNOB_TOKEN:+2}0");
    let ended = finish(keyless.env("HOBNOB_SECRET", "s").env("HOBNOB_TOKEN", "t")).await;
    assert_eq!(ended.code, Some(0), "what lets in is not handed on: {ended:?}");
    let pid_file = mesh.path("pid");
    let script = format!(
        "trap 'exit 3' TERM; echo $$ > {0}.new; mv {0}.new {0}; while :; do sleep 0.01; done",
        pid_file.display()
    );
    let begin = async || {
        drop(fs::remove_file(&pid_file));
        let running = ask(&a, "run web --port 80 -- sh -c").arg(&script).spawn().unwrap();
        a.until_resolved("web", &["80"]).await;
        let said = until("the command says its pid", async || fs::read_to_string(&pid_file).ok()).await;
        (running, Pid::from_raw(said.trim().parse().unwrap()).unwrap())
    };
    let (mut running, _) = begin().await;
    kill_process(pid(&running), Signal::TERM).unwrap();
    assert_eq!(running.wait().await.unwrap().code(), Some(3), "the signal reaches the command");
    assert_eq!(a.resolve("web").await.len(), 0);
    let (mut running, child) = begin().await;
    kill_process(child, Signal::KILL).unwrap();
    assert_eq!(running.wait().await.unwrap().code(), Some(137));
    assert_eq!(a.resolve("web").await.len(), 0, "gone at once");
}

#[tokio::test]
async fn run_drains_before_it_ends_its_command() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let (log, gate) = (mesh.path("log"), mesh.path("gate"));
    // The command notes when it is told to end; the drain ends by a second signal, so that the test needs no clock.
    let script =
        format!("trap 'echo told >> {0}; exit 3' TERM; echo up >> {0}; while :; do sleep 0.01; done", log.display());
    let mut command = ask(&a, "run web --port 80 --drain 1h -- sh -c");
    let mut running = command.arg(&script).spawn().unwrap();
    a.until_resolved("web", &["80"]).await;
    until("the command is up", async || (fs::read_to_string(&log).ok()? == "up\n").then_some(())).await;
    kill_process(pid(&running), Signal::TERM).unwrap();
    a.until_resolved("web", &[]).await;
    assert_eq!(fs::read_to_string(&log).unwrap(), "up\n", "withdrawn first, told later");
    kill_process(pid(&running), Signal::TERM).unwrap();
    assert_eq!(running.wait().await.unwrap().code(), Some(3));
    assert_eq!(fs::read_to_string(&log).unwrap(), "up\ntold\n");

    let stubborn = format!("trap '' TERM; touch {}; while :; do sleep 0.01; done", gate.display());
    let mut command = ask(&a, "run web --port 80 --grace 50ms -- sh -c");
    let mut running = command.arg(&stubborn).spawn().unwrap();
    until("the command is up", async || gate.exists().then_some(())).await;
    kill_process(pid(&running), Signal::TERM).unwrap();
    assert_eq!(running.wait().await.unwrap().code(), Some(137), "killed after its grace");
}

#[tokio::test]
async fn run_outlives_its_agent_and_is_missed_when_it_is_killed() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let http = a.http.to_string();
    a.kill().await;
    // Nobody there yet: the command starts, and is registered when the agent comes.
    let mut running = ask_at(&format!("http://{http}"), "run web --port 80 -- sh -c").arg(AS_LONG).spawn().unwrap();
    let a = mesh.launch("a", mesh.agent("a", "a").args(["--http", &http])).await;
    a.until_resolved("web", &["80"]).await;
    // Somebody withdraws it by mistake: the next heartbeat brings it back.
    assert_eq!(run(&a, "deregister web").await.code, Some(0));
    a.until_resolved("web", &["80"]).await;
    running.kill().await.unwrap();
    a.until_resolved("web", &[]).await;
    let web = a.get("/api/v1/services/web").await;
    assert_eq!(web[0]["health"], "critical", "{web}");
}

#[tokio::test]
async fn what_a_living_run_holds_no_other_run_takes_or_feeds_or_ends() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let begin = |line: &str| ask(&a, line).args(["--", "sh", "-c", AS_LONG]).spawn().unwrap();
    let mut first = begin("run web --port 80");
    a.until_resolved("web", &["80"]).await;
    let ran = mesh.path("ran");
    a.register("hand", 9999).await;
    let refused = finish(ask(&a, "run hand --port 1 -- touch").arg(&ran)).await;
    assert!(refused.failure(1).2.contains("hobnob deregister hand"), "{refused:?}");
    assert_eq!(a.get("/api/v1/registrations/hand").await["port"], 9999);
    let refused = finish(ask(&a, "run web --port 81 -- touch").arg(&ran)).await;
    let (what, _, next) = refused.failure(1);
    assert!(what.contains("\"web\"") && next.contains("--id web-2"), "{refused:?}");
    assert!(!ran.exists(), "no command is started in vain");
    assert_eq!(run(&a, "run web --port 81 --id web-2 -- true").await.code, Some(0));
    assert_eq!(a.resolve("web").await, ["80"], "the end of another one is no matter");
    // What a kill leaves behind is taken over at once, dead and unburied as its process is.
    kill_process(pid(&first), Signal::KILL).unwrap();
    until("it is dead", async || (stat(first.id()?)[0] == "Z").then_some(())).await;
    let mut second = begin("run web --port 81");
    a.until_resolved("web", &["81"]).await;
    first.wait().await.unwrap();
    // One that cannot be seen from here counts as alive until it is missed; what it holds is left to it.
    let elsewhere = |port: u16, ttl: &str| {
        let check = format!(r#"{{"id": "hobnob-run:1.1@elsewhere", "ttl": "{ttl}", "initial": "passing"}}"#);
        format!(r#"{{"name": "web", "port": {port}, "checks": [{check}]}}"#)
    };
    assert_eq!(a.call("PUT", "/api/v1/registrations/web", &elsewhere(82, "1h")).await.0, 200);
    kill_process(pid(&second), Signal::TERM).unwrap();
    second.wait().await.unwrap();
    assert_eq!(a.resolve("web").await, ["82"]);
    assert_eq!(a.call("PUT", "/api/v1/registrations/web", &elsewhere(83, "1s")).await.0, 200);
    let mut third = begin("run web --port 84");
    a.until_resolved("web", &["84"]).await;
    // Who registers by hand has it: the command is told to end, and what is registered is left alone.
    let by_hand = r#"{"name": "web", "port": 85}"#;
    assert_eq!(a.call("PUT", "/api/v1/registrations/web", by_hand).await.0, 200);
    assert_eq!(third.wait().await.unwrap().code(), Some(1));
    assert_eq!(a.resolve("web").await, ["85"]);
}

#[tokio::test]
async fn who_may_not_register_has_no_command_started() {
    let mesh = Mesh::new();
    let config = mesh.file("a.toml", "[http]\nanonymous = \"write:web*\"\n");
    let a = mesh.launch("a", mesh.agent("a", "a").arg("--config").arg(config)).await;
    let ran = mesh.path("ran");
    let refused = finish(ask(&a, "run db --port 1 -- touch").arg(&ran)).await;
    assert!(refused.failure(5).2.contains("--token-file"), "{refused:?}");
    assert!(!ran.exists());
    assert_eq!(finish(ask(&a, "run web --port 1 -- touch").arg(&ran)).await.code, Some(0));
    assert!(ran.exists());
    let lost = finish(&mut ask(&a, "run web --port 1 -- /no/such/program")).await;
    assert_eq!(lost.code, Some(127), "{lost:?}");
    assert_eq!(a.get("/api/v1/registrations").await, serde_json::json!([]), "nothing is left of it");
}

#[tokio::test]
async fn of_many_that_want_one_id_at_once_one_starts_its_command() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let started = mesh.path("started");
    let script = format!("echo up >> {}; {AS_LONG}", started.display());
    let begin = |n: u16| ask(&a, &format!("run web --port {} -- sh -c", 80 + n)).arg(&script).spawn().unwrap();
    let mut all: Vec<_> = (0..8).map(begin).collect();
    until("all but one are refused", async || {
        all.retain_mut(|running| running.try_wait().unwrap().is_none());
        (all.len() == 1).then_some(())
    })
    .await;
    until("the one is up", async || said(&started, 1)).await;
    assert_eq!(fs::read_to_string(&started).unwrap(), "up\n");
}

/// An agent that answers every call with this status: where it is, and how often it was asked.
async fn stub(status: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, asked) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            drop(stream.read(&mut [0; 4096]).await);
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            drop(stream.write_all(answer.as_bytes()).await);
        }
    });
    (at, asked)
}

#[tokio::test]
async fn an_agent_that_is_asked_too_often_is_asked_less_and_is_not_called_slow() {
    let (at, asked) = stub("429 Too Many Requests").await;
    let ended = finish(&mut ask_at(&format!("http://{at}"), "run web --port 1 -- true")).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.err.lines().last().unwrap().contains("answered 429"), "{ended:?}");
    assert!(!ended.err.contains("slow") && asked.load(Ordering::Relaxed) < 16, "{asked:?}: {ended:?}");
}

#[tokio::test]
async fn a_write_on_condition_finds_what_it_wants_or_changes_nothing() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let path = "/api/v1/registrations/web";
    let body = |port: u16| format!(r#"{{"name": "web", "port": {port}}}"#);
    let (_, first) = a.call_with("If-None-Match: *\r\n", "PUT", path, &body(80)).await;
    let mark = |head: &str| head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
    let old = mark(&first);
    assert_eq!(a.call_with("If-None-Match: *\r\n", "PUT", path, &body(81)).await.0, 412);
    let over = |mark: &str| format!("If-Match: {mark}\r\n");
    let (status, second) = a.call_with(&over(&old), "PUT", path, &body(82)).await;
    assert_eq!(status, 200);
    for (method, body) in [("PUT", body(83)), ("DELETE", String::new())] {
        assert_eq!(a.call_with(&over(&old), method, path, &body).await.0, 412, "{method}");
    }
    assert_eq!(mark(&a.call_with("", "GET", path, "").await.1), mark(&second));
    for weak in ["", "W/"] {
        let unless = |mark: &str| format!("If-None-Match: \"x\", {weak}{mark}\r\n");
        assert_eq!(a.call_with(&unless(&mark(&second)), "PUT", path, &body(83)).await.0, 412);
        assert_eq!(a.call_with(&unless(&mark(&second)), "GET", path, "").await.0, 304);
        assert_eq!(a.call_with(&unless(&old), "GET", path, "").await.0, 200);
    }
    assert_eq!(a.call_with(&over(&format!("W/{}", mark(&second))), "PUT", path, &body(83)).await.0, 412);
    assert_eq!(a.get(path).await["port"], 82);
    assert_eq!(a.call_with(&over(&mark(&second)), "DELETE", path, "").await.0, 204);
    assert_eq!(a.call_with(&over("*"), "PUT", path, &body(84)).await.0, 412);
}

#[tokio::test]
async fn whoever_drains_hears_every_signal_and_the_death_of_its_command() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let log = mesh.path("log");
    let begin = async || {
        drop(fs::remove_file(&log));
        let script = format!(
            "for s in HUP USR1; do trap \"echo $s >> {0}\" $s; done; trap 'exit 3' INT; echo $$ > {0}; {AS_LONG}",
            log.display()
        );
        let running = ask(&a, "run web --port 80 --drain 1h -- sh -c").arg(&script).spawn().unwrap();
        a.until_resolved("web", &["80"]).await;
        let said = until("the command is up", async || said(&log, 1)).await;
        kill_process(pid(&running), Signal::TERM).unwrap();
        a.until_resolved("web", &[]).await;
        (running, Pid::from_raw(said.trim().parse().unwrap()).unwrap())
    };
    let (mut running, _) = begin().await;
    for (signal, lines) in [(Signal::HUP, 2), (Signal::USR1, 3)] {
        kill_process(pid(&running), signal).unwrap();
        until("it is passed on", async || said(&log, lines)).await;
    }
    kill_process(pid(&running), Signal::INT).unwrap();
    assert_eq!(running.wait().await.unwrap().code(), Some(3), "the second word is the one that counts");
    let (mut running, command) = begin().await;
    kill_process(command, Signal::KILL).unwrap();
    assert_eq!(running.wait().await.unwrap().code(), Some(137), "nobody waits for the clients of the dead");
}

/// What a file says, once it has so many lines.
fn said(file: &Path, lines: usize) -> Option<String> {
    fs::read_to_string(file).ok().filter(|text| text.ends_with('\n') && text.lines().count() >= lines)
}
