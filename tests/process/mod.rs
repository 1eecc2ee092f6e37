//! Real `hobnob` processes: agents on free ports of loopback, asked over their own faces, killed when dropped; and the
//! other commands, run to their end. Nothing waits by sleeping but `until`.

#![allow(dead_code, reason = "each test file takes what it needs")]

use std::{
    fmt::Display,
    fs::{self, File},
    io::ErrorKind,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use hobnob::{
    agent::Secret,
    dns::{self, Kind, Reply},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
};

/// Long beyond what any of this takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// From one look to the next.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Looks again and again until there is something to see.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// A program of ours with none of the tester's own settings.
pub(crate) fn hobnob() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hobnob"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// The three lines of a failure: what, why, next. Log lines may stand before them.
    #[track_caller]
    pub(crate) fn failure(&self, code: i32) -> (String, String, String) {
        assert_eq!(self.code, Some(code), "{self:?}");
        let said: Vec<_> = self.err.lines().skip_while(|line| !line.starts_with("error: ")).collect();
        let [what, why, next] = said[..] else { panic!("not three lines: {self:?}") };
        let part = |line: &str, head| line.strip_prefix(head).map(String::from);
        let parts = (part(what, "error: "), part(why, "  why: "), part(next, " next: "));
        let (Some(what), Some(why), Some(next)) = parts else { panic!("not what, why, next: {self:?}") };
        assert!(!what.is_empty() && !why.is_empty() && !next.is_empty(), "{self:?}");
        (what, why, next)
    }
}

/// Runs a command to its end.
pub(crate) async fn finish(command: &mut Command) -> Ended {
    let running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    let output = tokio::time::timeout(PATIENCE, running).await.expect("it does not end").unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    Ended { code: output.status.code(), out, err }
}

/// What the nodes of one mesh share: a secret, and a folder for all they keep.
pub(crate) struct Mesh {
    pub(crate) folder: TempDir,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        let mesh = Self { folder: tempfile::tempdir().unwrap() };
        mesh.file("empty/.keep", "");
        mesh.file("secret", &Secret::random().reveal());
        mesh
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file that only its owner can read.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// `hobnob agent` for a node that lives in the folder `home`, on free ports.
    pub(crate) fn agent(&self, node: &str, home: &str) -> Command {
        let mut command = hobnob();
        command.args(["agent", "--node", node, "--mesh", "test", "--listen", "127.0.0.1:0"]);
        command.args(["--http", "127.0.0.1:0", "--dns", "127.0.0.1:0"]);
        let places =
            [("--config", "empty"), ("--secret-file", "secret"), ("--data-dir", home), ("--ready-file", &ready(home))];
        for (flag, place) in places {
            command.arg(flag).arg(self.path(place));
        }
        command
    }

    /// Starts a node and waits until it is ready.
    pub(crate) async fn start(&self, node: &str, seeds: &[&Agent]) -> Agent {
        let mut command = self.agent(node, node);
        for seed in seeds {
            command.args(["--join", &seed.mesh.to_string()]);
        }
        self.launch(node, &mut command).await
    }

    /// Starts an agent by a command made with [`Mesh::agent`].
    pub(crate) async fn launch(&self, node: &str, command: &mut Command) -> Agent {
        let out = File::options().create(true).append(true).open(self.log(node)).unwrap();
        self.launch_to(node, command, out.into()).await
    }

    fn log(&self, node: &str) -> PathBuf {
        self.path(&format!("{node}.log"))
    }

    /// The same with its log elsewhere.
    pub(crate) async fn launch_to(&self, node: &str, command: &mut Command, out: Stdio) -> Agent {
        let (file, log) = (self.path(&ready(node)), self.log(node));
        drop(fs::remove_file(&file));
        let mut child = command.stdout(Stdio::null()).stderr(out).spawn().unwrap();
        let what = format!("{node} is ready");
        let text = until(&what, async || {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "{node} {ended:?}: {}", read(&log));
            fs::read_to_string(&file).ok()
        });
        let said: Value = serde_json::from_str(&text.await).unwrap();
        let [mesh, http, dns] = ["mesh", "http", "dns"].map(|face| said[face].as_str().unwrap().parse().unwrap());
        assert_eq!(said["node"].as_str(), Some(node));
        let owner = said["pid"].as_u64().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).unwrap();
        Agent { child, owner, mesh, http, dns, log }
    }
}

fn ready(node: &str) -> String {
    format!("{node}.ready")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// A running `hobnob agent`.
pub(crate) struct Agent {
    /// The process that was started: the executor of the last will, unless it is switched off.
    pub(crate) child: Child,
    /// The process that owns the mesh.
    owner: Pid,
    pub(crate) mesh: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) dns: SocketAddr,
    log: PathBuf,
}

impl Agent {
    pub(crate) fn log(&self) -> String {
        read(&self.log)
    }

    pub(crate) fn pid(&self) -> Pid {
        self.owner
    }

    /// The process that was started.
    pub(crate) fn parent(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id().unwrap()).unwrap()).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// `kill -9`, and its last will is executed.
    pub(crate) async fn kill(mut self) {
        self.signal(Signal::KILL);
        self.ended().await;
    }

    /// `kill -9` of the executor first: nobody is left to tell.
    pub(crate) async fn kill_both(mut self) {
        kill_process(self.parent(), Signal::STOP).unwrap();
        self.signal(Signal::KILL);
        self.child.kill().await.unwrap();
        until("its ports are free", async || has_ended(self.owner).then_some(())).await;
    }

    /// How it ended by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it does not end").unwrap()
    }

    /// One call of the HTTP API: status and JSON; null where there is none.
    pub(crate) async fn call(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        self.call_as("", method, path, body).await
    }

    /// The same with a token.
    pub(crate) async fn call_as(&self, token: &str, method: &str, path: &str, body: &str) -> (u16, Value) {
        let header = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        let (status, answer) = self.call_with(&header, method, path, body).await;
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
        (status, serde_json::from_str(body).unwrap_or_default())
    }

    /// The same with headers of one's own: status and the whole answer.
    pub(crate) async fn call_with(&self, headers: &str, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}");
        let length = body.len();
        stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
    }

    /// A page that is no JSON.
    pub(crate) async fn text(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        let head = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.call("GET", path, "").await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// Registers an instance under its service's name.
    pub(crate) async fn register(&self, name: &str, port: u16) {
        let body = format!(r#"{{"name": "{name}", "port": {port}}}"#);
        let (status, answer) = self.call("PUT", &format!("/api/v1/registrations/{name}"), &body).await;
        assert_eq!(status, 201, "{name}: {answer}");
    }

    /// The ports that DNS has for a service.
    pub(crate) async fn resolve(&self, service: &str) -> Vec<String> {
        let name = format!("{service}.service.mesh.internal");
        // A datagram may be lost.
        let answer = async || match dns::ask(self.dns, &name, Kind::Srv).await {
            Err(why) if why.kind() == ErrorKind::TimedOut => None,
            reply => Some(reply.unwrap_or_else(|why| panic!("{name}: {why}"))),
        };
        ports(&until(&name, answer).await)
    }

    /// Waits until DNS has exactly these ports for a service.
    pub(crate) async fn until_resolved(&self, service: &str, ports: &[&str]) {
        let what = format!("{service} is at {ports:?} by {}", self.dns);
        until(&what, async || (self.resolve(service).await == ports).then_some(())).await;
    }

    /// Waits until this process has told of something in its log, which it writes beside its work.
    pub(crate) async fn until_logged(&self, words: &str) {
        until(&format!("{words} is in {}", self.log.display()), async || self.log().contains(words).then_some(()))
            .await;
    }

    /// Waits until this node has a connection to another, over which its round trip is measured.
    pub(crate) async fn until_linked(&self, node: &str) {
        let linked = |members: Value| {
            members.as_array().unwrap().iter().any(|member| member["node"] == node && !member["rtt_ms"].is_null())
        };
        let what = format!("{node} is linked to {}", self.mesh);
        until(&what, async || linked(self.get("/api/v1/members").await).then_some(())).await;
    }

    /// Waits until this node sees another so.
    pub(crate) async fn until_seen(&self, node: &str, state: &str) {
        let seen = |members: Value| {
            members.as_array().unwrap().iter().any(|member| member["node"] == node && member["state"] == state)
        };
        let what = format!("{node} is {state} by {}", self.mesh);
        until(&what, async || seen(self.get("/api/v1/members").await).then_some(())).await;
    }
}

impl Drop for Agent {
    /// The owner of the mesh would go by itself when its parent is killed, but not while it is stopped.
    fn drop(&mut self) {
        let parent = stat(self.owner.as_raw_nonzero()).get(1).and_then(|parent| parent.parse().ok());
        if self.child.id().is_some() && parent == self.child.id() {
            let _ = kill_process(self.owner, Signal::KILL);
        }
    }
}

/// What the kernel tells of a process behind its name, its state and its parent first; nothing where there is none
/// (proc_pid_stat(5)).
pub(crate) fn stat(pid: impl Display) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().map(String::from).collect()
}

/// Whether a process is gone, or waits for its burial.
pub(crate) fn is_gone(stat: &[String]) -> bool {
    stat.first().is_none_or(|state| ["Z", "X"].contains(&&**state))
}

/// Whether no thread of a process runs any more: what it had open is closed.
fn has_ended(process: Pid) -> bool {
    let stat = stat(process.as_raw_nonzero());
    is_gone(&stat) && stat.get(THREADS).is_none_or(|threads| ["0", "1"].contains(&&**threads))
}

/// Where the number of threads stands behind the state.
const THREADS: usize = 17;

/// The third word of each SRV record's data (RFC 2782), sorted.
pub(crate) fn ports(reply: &Reply) -> Vec<String> {
    let mut ports: Vec<_> =
        reply.answers.iter().map(|record| record.data.split(' ').nth(2).unwrap_or_default().to_owned()).collect();
    ports.sort();
    ports
}

/// Whether a program of the system is there; says that the test is skipped where it is not.
pub(crate) fn installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&paths).chain(["/usr/sbin".into(), "/sbin".into()]).any(|at| at.join(program).is_file());
    if !found {
        eprintln!("skipped: `{program}` is not installed; .ci/run installs it");
    }
    found
}
