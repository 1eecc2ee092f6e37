//! The mesh of real processes: three agents that register, resolve, die, come back and leave; and what they must survive.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test outside the core's virtual time")]

mod process;

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::Stdio,
};

use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RecordType},
};
use process::{Agent, Mesh, finish, until};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

/// The number of answers to a question for a service's SRV records over TCP (RFC 1035 section 4.2.2).
async fn count_over_tcp(server: SocketAddr, service: &str) -> usize {
    let mut question = Message::query();
    let name = Name::from_ascii(format!("{service}.service.mesh.internal.")).unwrap();
    question.add_query(Query::query(name, RecordType::SRV));
    let question = question.to_vec().unwrap();
    let mut stream = TcpStream::connect(server).await.unwrap();
    let length = u16::try_from(question.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length[..], &question].concat()).await.unwrap();
    let mut reply = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut reply).await.unwrap();
    Message::from_vec(&reply).unwrap().answers.len()
}

#[tokio::test]
async fn what_is_registered_on_one_is_resolved_on_every_other_as_long_as_its_node_lives() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let seeds = [&a];
    let (b, mut c) = tokio::join!(mesh.start("b", &seeds), mesh.start("c", &seeds));
    a.register("web", 8080).await;
    b.register("db", 5432).await;
    for agent in [&a, &b, &c] {
        agent.until_resolved("web", &["8080"]).await;
        agent.until_resolved("db", &["5432"]).await;
        assert_eq!(count_over_tcp(agent.dns, "db").await, 1);
    }

    b.kill().await;
    for agent in [&a, &c] {
        agent.until_resolved("db", &[]).await;
        assert_eq!(agent.resolve("web").await, ["8080"], "a death takes nobody else's instances");
        agent.until_seen("b", "down").await;
    }

    let b = mesh.start("b", &[&a]).await;
    assert_eq!(b.get("/api/v1/registrations").await[0]["port"], 5432, "what was acknowledged is there");
    for agent in [&a, &b, &c] {
        agent.until_resolved("db", &["5432"]).await;
        agent.until_seen("b", "alive").await;
    }

    assert_eq!(c.call("POST", "/api/v1/leave", "").await.0, 200);
    assert_eq!(c.ended().await.code(), Some(0), "{}", c.log());
    for agent in [&a, &b] {
        agent.until_seen("c", "left").await;
    }
}

#[tokio::test]
async fn the_second_holder_of_a_living_name_goes_and_says_who_has_it() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let first = mesh.start("web-1", &[&a]).await;
    let mut second = mesh.agent("web-1", "elsewhere");
    second.args(["--join", &a.mesh.to_string()]);
    let (what, why, _) = finish(&mut second).await.failure(1);
    assert_eq!(what, "the node has stopped");
    assert!(why.contains("web-1") && why.contains(&first.mesh.to_string()) && why.contains("--node"), "{why}");
    a.until_seen("web-1", "alive").await;
}

#[tokio::test]
async fn a_stranger_stays_outside_and_both_sides_say_why() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let mut stranger = mesh.agent("b", "b");
    let secret = mesh.file("other-secret", &hobnob::agent::Secret::random().reveal());
    stranger.arg("--secret-file").arg(secret).args(["--join", &a.mesh.to_string()]);
    stranger.env("HOBNOB_READY_AFTER", "500ms");
    let stranger = mesh.launch("b", &mut stranger).await;
    for (agent, seen_at) in [(&a, "stranger"), (&stranger, "seed_failed")] {
        agent.until_logged(seen_at).await;
        agent.until_logged("secrets or mesh names differ").await;
        assert_eq!(agent.get("/api/v1/members").await.as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_start_that_cannot_be_is_refused_with_its_cause() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let [mesh_port, tcp_port] = [a.mesh, taken].map(|address| address.to_string());
    let [home, file, open, word] =
        [mesh.path("a"), mesh.file("file", ""), mesh.file("open", "x"), mesh.file("word", "sesame")]
            .map(|path| path.display().to_string());
    std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    for (flag, value, code, expected) in [
        ("--data-dir", &*home, 1, "another agent is using it"),
        ("--data-dir", &file, 2, &file),
        ("--listen", &mesh_port, 1, &mesh_port),
        ("--http", &tcp_port, 1, "--http"),
        ("--dns", &tcp_port, 1, "--dns"),
        ("--secret-file", &open, 2, "chmod 600"),
        ("--secret-file", &word, 2, "word"),
        ("--secret-file", "/nowhere/secret", 2, "/nowhere/secret"),
        ("--config", "/nowhere/hobnob.toml", 2, "/nowhere/hobnob.toml"),
        ("--node", "a_b", 2, "--node"),
        ("--join", "seed:0", 2, "--join"),
        ("--listen", "127.0.0.1:65536", 2, "--listen"),
        ("--advertise", "0.0.0.0:1", 2, "advertise"),
        ("--http", "localhost:80", 2, "such as 127.0.0.1:8500"),
    ] {
        let ended = finish(mesh.agent("b", "b").args([flag, value])).await;
        let (what, why, next) = ended.failure(code);
        assert!(format!("{what}\n{why}\n{next}").contains(expected), "{flag} {value}: {ended:?}");
        assert!(!mesh.path("b.ready").exists());
    }
    drop(holder);
    a.kill().await;
    let (_, why, _) = finish(&mut mesh.agent("b", "a")).await.failure(2);
    assert!(why.contains("it belongs to node \"a\"") && why.contains("--node a"), "{why}");
}

#[tokio::test]
async fn a_seed_without_an_address_is_named_and_tried_again() {
    let mesh = Mesh::new();
    let mut agent = mesh.agent("a", "a");
    agent.args(["--join", "nowhere.invalid"]).env("HOBNOB_READY_AFTER", "1s");
    let agent = mesh.launch("a", &mut agent).await;
    agent.until_logged("nowhere.invalid:7946").await;
    agent.register("web", 80).await;
    assert_eq!(agent.resolve("web").await, ["80"]);
}

#[tokio::test]
async fn a_node_finds_its_mesh_without_its_seeds() {
    let mesh = Mesh::new();
    let seed = mesh.start("seed", &[]).await;
    let seeds = [&seed];
    let (a, mut b) = tokio::join!(mesh.start("a", &seeds), mesh.start("b", &seeds));
    a.register("web", 80).await;
    b.until_resolved("web", &["80"]).await;
    b.signal(Signal::TERM);
    assert_eq!(b.ended().await.code(), Some(0));
    let gone = seed.mesh.to_string();
    seed.kill().await;
    let b = mesh.launch("b", mesh.agent("b", "b").args(["--join", &gone])).await;
    b.until_resolved("web", &["80"]).await;
    b.until_seen("a", "alive").await;
}

#[tokio::test]
async fn the_first_node_of_a_mesh_is_no_mesh_of_its_own_when_it_is_killed_soon() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let b = mesh.start("b", &[&a]).await;
    a.until_seen("b", "alive").await;
    // What is acknowledged is on the disk, and so is what was to be written before it.
    a.register("one", 1).await;
    a.register("two", 2).await;
    a.kill_both().await;
    b.until_seen("a", "down").await;
    let a = mesh.start("a", &[]).await;
    assert_eq!(a.get("/v1/catalog/nodes").await.as_array().map(Vec::len), Some(2), "{}", a.log());
}

#[tokio::test]
async fn ipv6_carries_a_mesh_too() {
    if TcpListener::bind("[::1]:0").is_err() {
        return;
    }
    let mesh = Mesh::new();
    let start = async |node: &str, seeds: &[&Agent]| {
        let mut command = process::hobnob();
        let here = ["--listen", "--http", "--dns"].map(|flag| [flag, "[::1]:0"]);
        command.args(["agent", "--dev", "--node", node]).args(here.as_flattened());
        command.arg("--ready-file").arg(mesh.path(&format!("{node}.ready")));
        command.arg("--secret-file").arg(mesh.path("secret"));
        command.args(seeds.iter().flat_map(|seed| ["--join".to_owned(), seed.mesh.to_string()]));
        mesh.launch(node, &mut command).await
    };
    let a = start("a", &[]).await;
    let b = start("b", &[&a]).await;
    b.register("web", 80).await;
    a.until_resolved("web", &["80"]).await;
}

/// A datagram that begins as a QUIC Initial does (RFC 9000 section 17.2.2) and ends where it likes.
fn initial(length: usize) -> Vec<u8> {
    let mut packet = vec![0xc3, 0, 0, 0, 1, 8];
    packet.extend((0..length).map(|at| u8::try_from(at % 251).unwrap_or_default()));
    packet
}

#[tokio::test]
async fn garbage_and_crowds_are_survived() {
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let b = mesh.start("b", &[&a]).await;
    a.register("web", 80).await;
    b.until_resolved("web", &["80"]).await;

    let mut senders = Vec::new();
    for number in 0..1_000_usize {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for packet in [initial(number), initial(1_194), initial(number).into_iter().rev().collect(), Vec::new()] {
            for face in [a.mesh, a.dns] {
                // A full buffer of the receiver is as good as a loss.
                let _ = socket.try_send_to(&packet, face);
            }
        }
        senders.push(socket);
    }
    let mut crowd = Vec::new();
    for number in 0..1_000 {
        for face in [a.http, a.dns] {
            if let Ok(mut client) = TcpStream::connect(face).await {
                // A third says nothing, a third begins, a third talks nonsense.
                let said: &[u8] = [&b""[..], b"GET /li", &[0xff; 64]][number % 3];
                let _ = client.write_all(said).await;
                crowd.push(client);
            }
        }
    }
    assert!(crowd.len() > 1_900, "the system itself refuses a crowd: {}", crowd.len());
    assert_eq!(a.resolve("web").await, ["80"]);
    assert_eq!(a.get("/livez").await["live"], true);
    a.register("db", 5432).await;
    b.until_resolved("db", &["5432"]).await;
    drop((crowd, senders));
    until("DNS over TCP has seats again", async || (count_over_tcp(a.dns, "db").await == 1).then_some(())).await;
    for (agent, other) in [(&a, "b"), (&b, "a")] {
        agent.until_seen(other, "alive").await;
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let mesh = Mesh::new();
    for round in 0..50_u16 {
        let agent = mesh.start("a", &[]).await;
        let stored = agent.get("/api/v1/registrations").await;
        assert_eq!(stored.as_array().unwrap().len(), usize::from(round), "{}", agent.log());
        agent.register(&format!("s{round}"), 1000 + round).await;
        agent.kill().await;
    }
}

/// An agent whose disk is small, and the file on it that may be removed to make room; none where nobody may mount.
async fn on_small_disk(mesh: &Mesh) -> Option<(Agent, PathBuf)> {
    let home = mesh.path("a");
    std::fs::create_dir(&home).unwrap();
    let agent = mesh.agent("a", "a");
    let mut command = tokio::process::Command::new("unshare");
    let small_disk =
        "mount -t tmpfs -o size=1200k none \"$0\" && head -c 500000 /dev/zero >\"$0/filler\" && exec \"$@\"";
    command.args(["--map-root-user", "--mount", "sh", "-c", small_disk]).arg(&home).kill_on_drop(true);
    if !command.as_std_mut().status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: nobody may mount a small disk here");
        return None;
    }
    command.arg(agent.as_std().get_program()).args(agent.as_std().get_args());
    let agent = mesh.launch("a", &mut command).await;
    let filler = format!("/proc/{}/root{}/filler", agent.pid().as_raw_nonzero(), home.display());
    Some((agent, filler.into()))
}

#[tokio::test]
async fn a_full_disk_refuses_a_write_whole_and_takes_the_next_one_when_there_is_room() {
    let mesh = Mesh::new();
    let Some((agent, filler)) = on_small_disk(&mesh).await else { return };
    let large = ["a", "b", "c", "d"].map(|key| format!("\"{key}\": \"{}\"", "x".repeat(250))).join(", ");
    let mut stored = 0;
    let put = async |number: usize| {
        let body = format!(r#"{{"name": "web", "port": 80, "meta": {{{large}}}}}"#);
        agent.call("PUT", &format!("/api/v1/registrations/web-{number}"), &body).await
    };
    let refusal = loop {
        match put(stored).await {
            (201, _) => stored += 1,
            (status, problem) => break (status, problem),
        }
        assert!(stored < 5_000, "the disk is not small");
    };
    assert_eq!(refusal.0, 500, "{}", refusal.1);
    assert!(refusal.1["detail"].as_str().unwrap().contains("No space left"), "{}", refusal.1);
    assert_eq!(agent.get("/api/v1/registrations").await.as_array().unwrap().len(), stored);
    assert!(!agent.resolve("web").await.is_empty(), "reads go on");
    std::fs::remove_file(filler).unwrap();
    assert_eq!(put(stored).await.0, 201, "{}", agent.log());
}

#[tokio::test]
async fn maintenance_on_a_full_disk_is_refused_and_nothing_is_other_than_before() {
    let mesh = Mesh::new();
    let Some((agent, filler)) = on_small_disk(&mesh).await else { return };
    let of = |id: &str| format!("/api/v1/maintenance/{id}");
    let asked = |enabled: bool| format!(r#"{{"enabled": {enabled}, "reason": "{}"}}"#, "r".repeat(512));
    // Each in a service of its own, registered and taken out of service, until there is no room.
    let mut number = 0;
    let (id, problem) = loop {
        number += 1;
        let id = format!("web-{number}");
        let body = format!(r#"{{"name": "{id}", "port": 80}}"#);
        // The one that has no room itself is none to take out of service.
        if agent.call("PUT", &format!("/api/v1/registrations/{id}"), &body).await.0 == 201 {
            match agent.call("PUT", &of(&id), &asked(true)).await {
                (200, _) => {}
                (500, problem) => break (id, problem),
                (status, problem) => panic!("{status}: {problem}"),
            }
        }
        assert!(number < 5_000, "the disk is not small");
    };
    assert!(problem["detail"].as_str().unwrap().contains("No space left"), "{problem}");
    let health = async |id: &str| agent.get(&format!("/api/v1/services/{id}")).await[0]["health"].clone();
    assert_eq!(health(&id).await, "passing", "who was refused is as before");
    assert_eq!(agent.resolve(&id).await, ["80"]);
    assert_eq!(health("web-1").await, "maintenance");
    std::fs::remove_file(filler).unwrap();
    assert_eq!(agent.call("PUT", &of(&id), &asked(true)).await.0, 200, "{}", agent.log());
    assert_eq!(health(&id).await, "maintenance");
}

#[tokio::test]
async fn a_start_that_hangs_on_its_disk_ends_at_the_second_signal() {
    let mesh = Mesh::new();
    // A pipe without a reader: opening it to write never ends, as on a disk that is gone.
    std::fs::create_dir(mesh.path("a")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(mesh.path("a/alive")).status().unwrap().success());
    let mut starting = mesh.agent("a", "a").arg("--no-will").stderr(Stdio::null()).spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(starting.id().unwrap()).unwrap()).unwrap();
    let caught = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?.trim();
        let bits = u64::from_str_radix(caught, 16).ok()?;
        (bits & 1 << (Signal::TERM.as_raw() - 1) != 0).then_some(())
    };
    until("it hears signals", async || caught()).await;
    let ended = until("it ends", async || {
        kill_process(pid, Signal::TERM).unwrap();
        starting.try_wait().unwrap()
    });
    assert_eq!(ended.await.code(), Some(0));
}
