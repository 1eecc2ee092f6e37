//! What an operator's bad day does to us: logs that nobody reads, full disks, damaged files, names that do not resolve.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test outside the core's virtual time")]

mod process;

use std::{
    fs::File,
    io::{self, PipeReader},
    process::Stdio,
    thread,
};

use process::{Ended, Mesh, finish, hobnob};
use serde_json::json;

/// Where nothing can be written: a disk that is full.
fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// Where nobody reads any more.
fn dead() -> Stdio {
    io::pipe().unwrap().1.into()
}

/// Where somebody reads no more for now: a terminal that is stopped, a log service that hangs.
fn stuck() -> (PipeReader, Stdio) {
    let (reader, mut writer) = io::pipe().unwrap();
    let out = writer.try_clone().unwrap().into();
    thread::spawn(move || io::copy(&mut io::repeat(b'\n'), &mut writer));
    (reader, out)
}

/// Runs a command whose data goes there.
async fn finish_into(line: &str, out: Stdio) -> Ended {
    let mut command = hobnob();
    let ended = command.args(line.split(' ')).stdout(out).stderr(Stdio::piped()).spawn().unwrap();
    let ended = ended.wait_with_output().await.unwrap();
    Ended { code: ended.status.code(), out: String::new(), err: String::from_utf8(ended.stderr).unwrap() }
}

#[tokio::test]
async fn an_agent_outlives_its_log() {
    let mesh = Mesh::new();
    let (_reader, stuck) = stuck();
    for (node, log) in [("a", full()), ("b", dead()), ("c", stuck)] {
        let agent = mesh.launch_to(node, &mut mesh.agent(node, node), log).await;
        agent.register("web", 80).await;
        // A level that is sure to be written.
        assert_eq!(agent.call("POST", "/api/v1/reload", "").await.0, 200);
        agent.until_resolved("web", &["80"]).await;
    }
}

#[tokio::test]
async fn a_command_ends_the_same_whoever_hears_it() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    for talk in [full, dead] {
        for (line, code) in [
            ("register web --port 80", 0),
            ("deregister web", 0),
            ("deregister web", 1),
            ("members --fromat json", 2),
            ("--api http://127.0.0.1:1 members", 4),
            ("run web --port 80 -- true", 0),
            ("--api http://127.0.0.1:1 run web --port 80 -- false", 1),
        ] {
            let mut command = hobnob();
            command.env("HOBNOB_API", format!("http://{}", a.http)).args(line.split(' '));
            let ended = command.stdout(Stdio::null()).stderr(talk()).status().await.unwrap();
            assert_eq!(ended.code(), Some(code), "{line}");
        }
    }
}

#[tokio::test]
async fn data_that_is_lost_is_a_failure_and_a_reader_who_has_enough_is_none() {
    for line in ["keygen", "completions bash", "man", "--help", "dns install --unbound"] {
        let lost = finish_into(line, full()).await;
        assert!(lost.failure(1).1.contains("No space left"), "{line}: {lost:?}");
        assert_eq!(finish_into(line, dead()).await.code, Some(0), "{line}");
    }
}

#[tokio::test]
async fn what_is_not_written_whole_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    finish(hobnob().args(["keygen", "--out"]).arg(&taken)).await.failure(1);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn who_joins_through_a_name_that_does_not_resolve_joins_through_none() {
    let mesh = Mesh::new();
    let [a, b, c] = [mesh.start("a", &[]).await, mesh.start("b", &[]).await, mesh.start("c", &[]).await];
    let join =
        async |seeds: &[String]| b.call("POST", "/api/v1/join", &json!({ "addresses": seeds }).to_string()).await;
    let (status, answer) = join(&[a.mesh.to_string(), "nowhere.invalid:7946".into()]).await;
    assert_eq!((status, &answer["field"]), (400, &json!("addresses")), "{answer}");
    assert!(answer["detail"].as_str().unwrap().contains("nowhere.invalid:7946"), "{answer}");
    assert_eq!(join(&[c.mesh.to_string()]).await, (200, json!({ "resolved": 1 })));
    b.until_linked("c").await;
    assert_eq!(b.get("/api/v1/members").await.as_array().unwrap().len(), 2, "a was not called");
}

#[tokio::test]
async fn the_doctor_asks_for_what_this_node_serves_and_counts_what_it_holds() {
    let mesh = Mesh::new();
    let settings = mesh.file("zones.toml", "[dns]\nzones = [\"corp.internal\"]\n");
    let a = mesh.launch("a", mesh.agent("a", "a").arg("--config").arg(settings)).await;
    let status = a.get("/api/v1/status").await;
    assert_eq!((&status["zones"], &status["unstored"]), (&json!(["corp.internal"]), &json!(null)));
    assert!(status["files"]["open"].as_u64() < status["files"]["limit"].as_u64(), "{status}");
    let api = format!("http://{}", a.http);
    let told = finish(hobnob().args(["--api", &api, "doctor"])).await;
    assert!(told.out.contains("NOERROR for a.node.corp.internal"), "{told:?}");
    assert_eq!(told.code, Some(0), "{told:?}");
}
