//! Serf on the same machine, in the same run: Debian's package, encrypted, with its profile for a local network.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread::sleep,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::Spans;

/// Agents of Serf that know each other.
pub(crate) struct Swarm {
    children: Vec<Child>,
    rpc: Vec<SocketAddr>,
}

impl Swarm {
    /// Starts so many; `None` where Serf is not installed.
    pub(crate) fn start(nodes: usize) -> Option<Self> {
        Command::new("serf").arg("version").output().ok()?;
        let ports = free_ports(2 * nodes);
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let start = |n: usize| {
            let mut command = Command::new("serf");
            command.args(["agent", "-profile=lan", "-log-level=err", "-encrypt", KEY]);
            command.arg(format!("-node=n{n}")).arg(format!("-bind={}", address(ports[2 * n])));
            command.arg(format!("-rpc-addr={}", address(ports[2 * n + 1])));
            command.arg(format!("-retry-join={}", address(ports[0]))).arg("-retry-interval=1s");
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        let children = (0..nodes).map(start).collect();
        let swarm = Self { children, rpc: (0..nodes).map(|n| address(ports[2 * n + 1])).collect() };
        let deadline = Instant::now() + PATIENCE;
        for rpc in &swarm.rpc {
            // One after the other: on a busy machine there is always one that takes another for dead.
            while members(*rpc) < nodes {
                assert!(Instant::now() < deadline, "the agent of Serf at {rpc} does not see {nodes} nodes");
                sleep(Duration::from_millis(500));
            }
        }
        Some(swarm)
    }

    /// Its processes.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    /// When each agent tells of events of a kind; `mark` stands once in the record of each.
    fn hear(&self, kind: &str, mark: &'static [u8]) -> mpsc::Receiver<Instant> {
        let (heard, hearing) = mpsc::channel();
        for rpc in &self.rpc {
            let mut stream = dial(*rpc);
            call(&mut stream, "stream", &Stream { r#type: kind });
            let heard = heard.clone();
            // Ends when its agent does.
            std::thread::spawn(move || listen(stream, mark, &heard));
        }
        hearing
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        for child in &mut self.children {
            // One that has ended by itself is gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// How many living members an agent knows.
fn members(rpc: SocketAddr) -> usize {
    let output = Command::new("serf").args(["members", "-status=alive", &format!("-rpc-addr={rpc}")]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).lines().count()
}

/// How long one agent's event takes to each of the others' streams: the quickest way that Serf has to tell anything.
pub(crate) fn spread(nodes: usize, rounds: usize) -> String {
    let Some(swarm) = Swarm::start(nodes) else { return String::new() };
    // The key `Coalesce` stands once in the record of each event of a user.
    let hearing = swarm.hear("user", b"Coalesce");
    let mut teller = dial(swarm.rpc[0]);
    sleep(Duration::from_secs(2));
    while hearing.try_recv().is_ok() {}
    let took = (0..rounds).map(|round| {
        let began = Instant::now();
        call(&mut teller, "event", &Event { name: &format!("e{round}"), coalesce: false });
        let all: Vec<Instant> = (0..nodes).map(|_| hearing.recv_timeout(PATIENCE).unwrap()).collect();
        sleep(Duration::from_millis(500));
        all.into_iter().max().map_or(Duration::ZERO, |last| last - began)
    });
    let spans = Spans::of(took);
    format!("Serf, an event: {:.0} / {:.0} ms", spans.millis(0.5), spans.millis(0.99))
}

/// How long it takes until all others hold an agent for failed that was killed: Serf has no quicker way to find out.
pub(crate) fn deaths(nodes: usize, rounds: usize) -> String {
    let Some(mut swarm) = Swarm::start(nodes) else { return String::new() };
    let hearing = swarm.hear("member-failed", b"member-failed");
    let mut took = Vec::new();
    for survivors in (nodes.saturating_sub(rounds)..nodes).rev() {
        sleep(Duration::from_secs(2));
        while hearing.try_recv().is_ok() {}
        let mut victim = swarm.children.pop().unwrap();
        let began = Instant::now();
        victim.kill().unwrap();
        let all: Vec<Instant> = (0..survivors).map(|_| hearing.recv_timeout(PATIENCE).unwrap()).collect();
        victim.wait().unwrap();
        took.extend(all.into_iter().max().map(|last| last - began));
    }
    let spans = Spans::of(took);
    format!("Serf, here: {:.1} / {:.1} s", spans.millis(0.5) / 1e3, spans.millis(0.99) / 1e3)
}

/// Tells when an event has come in.
fn listen(mut stream: TcpStream, mark: &[u8], heard: &mpsc::Sender<Instant>) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        let events = buffer[..length].windows(mark.len()).filter(|window| *window == mark).count();
        if (0..events).any(|_| heard.send(Instant::now()).is_err()) {
            return;
        }
    }
}

/// Opens a connection to an agent's RPC port.
fn dial(rpc: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(rpc).unwrap();
    stream.set_nodelay(true).unwrap();
    call(&mut stream, "handshake", &Handshake { version: 1 });
    stream
}

/// Sends a command. What comes back is not looked at: what matters is whether the events arrive.
fn call(stream: &mut TcpStream, command: &str, body: &impl Serialize) {
    let mut bytes = rmp_serde::to_vec_named(&Header { command, seq: 1 }).unwrap();
    bytes.extend(rmp_serde::to_vec_named(body).unwrap());
    stream.write_all(&bytes).unwrap();
}

/// Ports that nobody uses now, for UDP and TCP.
fn free_ports(count: usize) -> Vec<u16> {
    let taken: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    taken.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Header<'a> {
    command: &'a str,
    seq: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Handshake {
    version: u8,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Stream<'a> {
    r#type: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Event<'a> {
    name: &'a str,
    coalesce: bool,
}

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const PATIENCE: Duration = Duration::from_secs(120);
