//! The last will with real processes: who dies without a goodbye is gone from every other node's DNS at once, however
//! it died; who leaves has left; and the two processes of an agent look like one from outside.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test outside the core's virtual time")]

mod process;

use process::{Agent, Mesh, finish, hobnob, installed, until};
use rustix::process::{Signal, kill_process, test_kill_process};

/// How a log tells of a member whose will was read.
const BY_WILL: &str = "cause=\"will\"";

/// Three nodes; the last one serves `web`, and the others resolve it.
async fn three(mesh: &Mesh) -> [Agent; 3] {
    let a = mesh.start("a", &[]).await;
    let seeds = [&a];
    let (b, c) = tokio::join!(mesh.start("b", &seeds), mesh.start("c", &seeds));
    c.register("web", 80).await;
    for agent in [&a, &b] {
        agent.until_resolved("web", &["80"]).await;
        agent.until_linked("c").await;
    }
    for peer in ["a", "b"] {
        c.until_linked(peer).await;
    }
    [a, b, c]
}

/// Both others see `c` gone, and so many of them because they have read its will: in a mesh this small, one heir's word
/// alone is looked into by the other.
async fn gone_by_will(others: [&Agent; 2], heirs: usize) {
    for agent in others {
        agent.until_resolved("web", &[]).await;
        agent.until_seen("c", "down").await;
    }
    until(&format!("{heirs} have read its will"), async || {
        let read = others.iter().filter(|agent| agent.log().contains(BY_WILL)).count();
        (read >= heirs).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_crashed_agent_s_parent_tells_its_peers_and_ends_with_its_status() {
    let mesh = Mesh::new();
    let [a, b, mut c] = three(&mesh).await;
    c.signal(Signal::KILL);
    assert_eq!(c.ended().await.code(), Some(128 + 9));
    // A will follows the links a moment later: it names whoever was linked by then.
    let told = |heirs: &usize| c.log().contains(&format!("told={heirs} of={heirs}"));
    let heirs = [2, 1].into_iter().find(told).unwrap_or_else(|| panic!("{}", c.log()));
    gone_by_will([&a, &b], heirs).await;

    let c = mesh.start("c", &[&a]).await;
    for agent in [&a, &b, &c] {
        agent.until_resolved("web", &["80"]).await;
    }
}

#[tokio::test]
async fn an_orphaned_agent_says_so_itself_and_stops() {
    let mesh = Mesh::new();
    let [a, b, mut c] = three(&mesh).await;
    kill_process(c.parent(), Signal::KILL).unwrap();
    c.ended().await;
    gone_by_will([&a, &b], 2).await;
    until("the agent is gone too", async || test_kill_process(c.pid()).is_err().then_some(())).await;
    c.until_logged("2 peers were told").await;
}

#[tokio::test]
async fn with_both_processes_killed_probes_find_out() {
    let mesh = Mesh::new();
    let [a, b, c] = three(&mesh).await;
    c.kill_both().await;
    for agent in [&a, &b] {
        agent.until_resolved("web", &[]).await;
        agent.until_seen("c", "down").await;
        assert!(!agent.log().contains(BY_WILL), "{}", agent.log());
    }
}

#[tokio::test]
async fn who_is_told_to_stop_leaves_by_whichever_process_it_hears_it() {
    let mesh = Mesh::new();
    let [a, b, mut c] = three(&mesh).await;
    kill_process(c.parent(), Signal::TERM).unwrap();
    assert_eq!(c.ended().await.code(), Some(0), "{}", c.log());
    for agent in [&a, &b] {
        agent.until_resolved("web", &[]).await;
        agent.until_seen("c", "left").await;
    }
    // A terminal sends an interrupt to both: that is one.
    let mut b = b;
    kill_process(b.parent(), Signal::INT).unwrap();
    let _ = kill_process(b.pid(), Signal::INT);
    assert_eq!(b.ended().await.code(), Some(0), "{}", b.log());
    assert!(!b.log().contains("stopping at once"), "{}", b.log());
    a.until_seen("b", "left").await;
}

#[tokio::test]
async fn a_reload_reaches_the_agent_through_its_parent() {
    let mesh = Mesh::new();
    let agent = mesh.start("a", &[]).await;
    kill_process(agent.parent(), Signal::HUP).unwrap();
    agent.until_logged("reloaded").await;
}

#[tokio::test]
async fn a_pipe_among_the_files_holds_nobody_up() {
    let mesh = Mesh::new();
    mesh.file("etc/services.d/web.toml", "[[services]]\nname = \"web\"\nport = 80\n");
    let mut agent = mesh.launch("a", mesh.agent("a", "a").arg("--config").arg(mesh.path("etc"))).await;
    let pipe = mesh.path("etc/services.d/p.toml");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    kill_process(agent.parent(), Signal::HUP).unwrap();
    agent.until_logged("p.toml: is no regular file").await;
    assert_eq!(agent.resolve("web").await, ["80"], "what stood stands");
    kill_process(agent.parent(), Signal::TERM).unwrap();
    assert_eq!(agent.ended().await.code(), Some(0), "{}", agent.log());
}

#[tokio::test]
async fn it_can_be_switched_off_by_flag_and_by_file() {
    let mesh = Mesh::new();
    let a = mesh.launch("a", mesh.agent("a", "a").arg("--no-will")).await;
    assert_eq!(a.pid(), a.parent());
    let file = mesh.file("no-will.toml", "will = false");
    let b = mesh.launch("b", mesh.agent("b", "b").arg("--config").arg(file)).await;
    assert_eq!(b.pid(), b.parent());
    let c = mesh.start("c", &[]).await;
    assert_ne!(c.pid(), c.parent());
}

#[tokio::test]
async fn a_start_that_fails_fails_alike_with_a_parent() {
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let mut agent = mesh.agent("b", "b");
    agent.args(["--listen", &a.mesh.to_string()]);
    let (what, _, _) = finish(&mut agent).await.failure(1);
    assert_eq!(what, "the node did not start");
}

#[tokio::test]
async fn it_is_a_good_first_process_of_a_container() {
    if !installed("unshare") {
        return;
    }
    let mesh = Mesh::new();
    let a = mesh.start("a", &[]).await;
    let agent = mesh.agent("b", "b");
    let mut command = tokio::process::Command::new("unshare");
    command.args(["--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]);
    let mut probe = tokio::process::Command::new("unshare");
    probe.args(["--map-root-user", "--pid", "--fork", "--mount-proc", "true"]);
    if !probe.as_std_mut().status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: no namespaces of one's own here");
        return;
    }
    command.arg(agent.as_std().get_program()).args(agent.as_std().get_args());
    command.args(["--join", &a.mesh.to_string()]).kill_on_drop(true);
    let mut b = mesh.launch("b", &mut command).await;
    assert_eq!(b.pid().as_raw_nonzero().get(), 2, "the first process is its parent");
    b.until_linked("a").await;
    let first = until("the first process", async || child_of(b.parent().as_raw_nonzero().get())).await;
    let owner = child_of(first).unwrap();
    let pid = |number| rustix::process::Pid::from_raw(number).unwrap();
    // What is orphaned inside ends up with the first process, which takes it in.
    kill_process(pid(owner), Signal::KILL).unwrap();
    assert_eq!(b.ended().await.code(), Some(128 + 9), "{}", b.log());
    a.until_seen("b", "down").await;
    a.until_logged(BY_WILL).await;
}

/// The first child of a process.
fn child_of(pid: i32) -> Option<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

#[tokio::test]
async fn systemd_is_told_by_the_process_it_started() {
    let mesh = Mesh::new();
    let path = mesh.path("notify");
    let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
    let mut agent = mesh.agent("a", "a");
    let mut agent = mesh.launch("a", agent.env("NOTIFY_SOCKET", &path)).await;
    let heard = async || {
        let mut bytes = [0; 64];
        let (length, _) = socket.recv_from(&mut bytes).await.unwrap();
        String::from_utf8_lossy(&bytes[..length]).trim().to_owned()
    };
    assert_eq!(heard().await, "READY=1");
    kill_process(agent.parent(), Signal::TERM).unwrap();
    assert_eq!(heard().await, "STOPPING=1");
    assert_eq!(agent.ended().await.code(), Some(0));
}

#[tokio::test]
async fn the_parent_s_word_is_not_for_people() {
    let help = finish(hobnob().args(["agent", "--help"])).await;
    assert!(help.out.contains("--no-will") && !help.out.contains("--has-executor"), "{}", help.out);
}
