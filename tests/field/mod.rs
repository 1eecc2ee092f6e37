//! A field of real agents, each in a network namespace of its own, with a bridge between them: links can be cut, made
//! lossy or one-way by nftables rules inside a namespace, and nothing of the machine itself is touched. All namespaces go
//! when the field is dropped.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use crate::process::{Agent, Mesh, finish, installed, until};

/// Agents and the network between them.
pub(crate) struct Field {
    mesh: Mesh,
    name: String,
    pub(crate) posts: Vec<Post>,
}

/// One agent in its namespace.
pub(crate) struct Post {
    pub(crate) node: String,
    space: String,
    socket: PathBuf,
    pub(crate) agent: Agent,
}

/// Where the first agent's mesh port is.
const FIRST: &str = "10.77.0.1:7946";

/// Tells one field of this process from another.
static FIELDS: AtomicU32 = AtomicU32::new(0);

/// Runs a program of the system; what it says where it fails.
fn system(words: &str) -> Result<(), String> {
    let mut words = words.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    let output = command.args(words).stdin(Stdio::null()).output().map_err(|why| why.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[track_caller]
pub(crate) fn must(words: &str) {
    if let Err(why) = system(words) {
        panic!("{words}: {why}");
    }
}

impl Field {
    /// An empty field; `None`, with a line that says why, where this machine cannot have one.
    pub(crate) fn new() -> Option<Self> {
        if !(installed("ip") && installed("nft")) {
            return None;
        }
        let name = format!("hob{}x{}", std::process::id(), FIELDS.fetch_add(1, Ordering::Relaxed));
        if let Err(why) = system(&format!("ip netns add {name}")) {
            eprintln!("skipped: no network namespaces here, which needs root: {why}");
            return None;
        }
        must(&format!("ip -n {name} link add hub type bridge"));
        must(&format!("ip -n {name} link set hub up"));
        Some(Self { mesh: Mesh::new(), name, posts: Vec::new() })
    }

    /// A field of so many agents that know each other, each with a service named like its node.
    pub(crate) async fn of(count: usize) -> Option<Self> {
        let mut field = Self::new()?;
        for _ in 0..count {
            field.add().await;
        }
        for post in &field.posts {
            post.register(&post.node).await;
        }
        field.until_all_see("alive", &field.nodes()).await;
        for seen in &field.posts {
            for post in &field.posts {
                post.until_shown(&seen.node, true).await;
            }
        }
        Some(field)
    }

    /// A namespace with an address on the bridge: its name and the address.
    fn space(&self, number: usize) -> (String, String) {
        let (space, address) = (format!("{}n{number}", self.name), format!("10.77.0.{}", number + 1));
        let (hub, wire) = (&self.name, format!("w{number}"));
        must(&format!("ip netns add {space}"));
        must(&format!("ip -n {hub} link add {wire} type veth peer name eth0 netns {space}"));
        must(&format!("ip -n {hub} link set {wire} master hub up"));
        must(&format!("ip -n {space} addr add {address}/16 dev eth0"));
        for link in ["lo", "eth0"] {
            must(&format!("ip -n {space} link set {link} up"));
        }
        must(&format!("ip netns exec {space} nft add table inet chaos"));
        for hook in ["input", "output"] {
            must(&format!(
                "ip netns exec {space} nft add chain inet chaos {hook} {{ type filter hook {hook} priority 0 ; }}"
            ));
        }
        (space, address)
    }

    /// One more agent, joined through the first.
    pub(crate) async fn add(&mut self) -> &Post {
        let number = self.posts.len();
        let (space, address) = self.space(number);
        self.start(&format!("n{number}"), &space, &address, &[]).await
    }

    /// One more agent, which listens wherever it has an address, as an agent does that is not told otherwise.
    pub(crate) async fn add_anywhere(&mut self) -> &Post {
        let number = self.posts.len();
        let (space, _) = self.space(number);
        self.start(&format!("n{number}"), &space, "[::]", &[]).await
    }

    /// The same before its network is there; its address on that comes later.
    pub(crate) async fn add_too_early(&mut self) -> (String, &Post) {
        let number = self.posts.len();
        let (space, address) = self.space(number);
        must(&format!("ip -n {space} addr flush dev eth0"));
        (address, self.start(&format!("n{number}"), &space, "[::]", &["env", "HOBNOB_READY_AFTER=100ms"]).await)
    }

    /// Waits until every node's DNS has this one address for a service.
    pub(crate) async fn until_all_resolve(&self, service: &str, address: &str) {
        for post in &self.posts {
            post.until_resolved(service, address).await;
        }
    }

    /// One more agent, on a disk that has room for little.
    pub(crate) async fn add_on_a_small_disk(&mut self) -> &Post {
        let number = self.posts.len();
        let (space, address) = self.space(number);
        let node = format!("n{number}");
        let home = self.mesh.path(&node);
        std::fs::create_dir(&home).unwrap();
        // A namespace of the network's has mounts of its own (ip-netns(8)).
        let small_disk =
            r#"mount -t tmpfs -o size=1200k none "$0" && head -c 500000 /dev/zero >"$0/filler" && exec "$@""#;
        self.start(&node, &space, &address, &["sh", "-c", small_disk, home.to_str().unwrap()]).await
    }

    /// Starts an agent in a namespace, by way of another program if there are words for one.
    async fn start(&mut self, node: &str, space: &str, address: &str, by: &[&str]) -> &Post {
        let socket = self.mesh.path(&format!("{node}.sock"));
        let agent = self.mesh.agent(node, node);
        let mut command = tokio::process::Command::new("ip");
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).kill_on_drop(true);
        command
            .args(["netns", "exec", space])
            .args(by)
            .arg(agent.as_std().get_program())
            .args(agent.as_std().get_args());
        command.args(["--listen", &format!("{address}:7946")]).env("HOBNOB_HTTP__SOCKET", &socket);
        if !self.posts.is_empty() {
            command.args(["--join", FIRST]);
        }
        let agent = self.mesh.launch(node, command.stdin(Stdio::null())).await;
        self.posts.push(Post { node: node.into(), space: space.into(), socket, agent });
        self.posts.last().unwrap()
    }

    /// An agent behind a router that gives its packets another address and any port.
    pub(crate) async fn add_behind_nat(&mut self) -> (String, &Post) {
        let number = self.posts.len();
        let (router, _) = self.space(number);
        let inside = format!("{}in", self.name);
        must(&format!("ip netns add {inside}"));
        must(&format!("ip -n {router} link add lan type veth peer name eth0 netns {inside}"));
        must(&format!("ip -n {router} addr add 192.168.77.1/24 dev lan"));
        must(&format!("ip -n {inside} addr add 192.168.77.2/24 dev eth0"));
        must(&format!("ip -n {router} link set lan up"));
        for link in ["lo", "eth0"] {
            must(&format!("ip -n {inside} link set {link} up"));
        }
        must(&format!("ip -n {inside} route add default via 192.168.77.1"));
        must(&format!("ip netns exec {router} sysctl -qw net.ipv4.ip_forward=1"));
        must(&format!("ip netns exec {router} nft add table ip nat"));
        must(&format!(
            "ip netns exec {router} nft add chain ip nat out {{ type nat hook postrouting priority 100 ; }}"
        ));
        must(&format!("ip netns exec {router} nft add rule ip nat out oifname eth0 masquerade random"));
        (router, self.start("inside", &inside, "192.168.77.2", &[]).await)
    }

    pub(crate) fn nodes(&self) -> Vec<&str> {
        self.posts.iter().map(|post| post.node.as_str()).collect()
    }

    /// Waits until each post sees these nodes so.
    pub(crate) async fn until_all_see(&self, state: &str, nodes: &[&str]) {
        for post in &self.posts {
            for node in nodes {
                post.until_seen(node, state).await;
            }
        }
    }

    /// Waits until the knowledge of all is the same.
    pub(crate) async fn until_equal(&self) {
        until("all know the same", async || {
            let mut prints = Vec::new();
            for post in &self.posts {
                prints.push(post.get("/api/v1/status").await["fingerprint"].clone());
            }
            prints.dedup();
            (prints.len() == 1).then_some(())
        })
        .await;
    }

    /// What each post has seen happen to members since `marks` were taken, for complaints: `observer: node -> state`.
    pub(crate) async fn seen_since(&self, marks: &[String], state: &str) -> Vec<String> {
        let mut seen = Vec::new();
        for (post, mark) in self.posts.iter().zip(marks) {
            for event in post.events(mark).await {
                if event["event"] == "member" && event["now"] == state {
                    seen.push(format!("{}: {} -> {state} ({})", post.node, event["node"], event["cause"]));
                }
            }
        }
        seen
    }

    /// Where each post's history stands.
    pub(crate) async fn marks(&self) -> Vec<String> {
        let mut marks = Vec::new();
        for post in &self.posts {
            let events = post.get("/api/v1/events").await;
            marks.push(events.as_array().unwrap().last().unwrap()["id"].as_str().unwrap().to_owned());
        }
        marks
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for post in &self.posts {
                eprintln!("--- {}\n{}", post.node, post.agent.log());
            }
        }
        self.posts.clear();
        let listed = Command::new("ip").args(["netns", "list"]).output();
        let listed = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let names = listed.lines().filter_map(|line| line.split(' ').next());
        // No name of one field begins with another's: a letter follows the number.
        let ours = |space: &&str| {
            space.strip_prefix(&self.name).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        for space in names.filter(ours) {
            // One that is busy goes with its last process.
            let _ = system(&format!("ip netns del {space}"));
        }
    }
}

impl Post {
    /// Adds a rule to the input or the output of this post's namespace: `"input udp dport 7946 drop"`.
    pub(crate) fn rule(&self, rule: &str) {
        must(&format!("ip netns exec {} nft add rule inet chaos {rule}", self.space));
    }

    /// Drops all that comes or goes over the wire.
    pub(crate) fn cut(&self) {
        self.rule("input iifname eth0 drop");
        self.rule("output oifname eth0 drop");
    }

    /// Takes all rules back.
    pub(crate) fn heal(&self) {
        for hook in ["input", "output"] {
            must(&format!("ip netns exec {} nft flush chain inet chaos {hook}", self.space));
        }
    }

    /// The address of its mesh port, without the port.
    pub(crate) fn address(&self) -> String {
        self.agent.mesh.ip().to_string()
    }

    /// Runs a program in this post's namespace.
    pub(crate) fn run(&self, words: &str) {
        must(&format!("ip netns exec {} {words}", self.space));
    }

    /// One call of its API, over a unix socket that no rule can cut.
    pub(crate) async fn call(&self, method: &str, path: &str, body: &str) -> std::io::Result<(u16, Value)> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nConnection: close\r\n");
        stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default();
        Ok((status, serde_json::from_str(body).unwrap_or_default()))
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.call("GET", path, "").await.unwrap();
        assert_eq!(status, 200, "{}: {path}: {answer}", self.node);
        answer
    }

    pub(crate) async fn register(&self, name: &str) {
        let body = format!(r#"{{"name": "{name}", "port": 80}}"#);
        let (status, answer) = self.call("PUT", &format!("/api/v1/registrations/{name}"), &body).await.unwrap();
        assert!(matches!(status, 200 | 201), "{}: {name}: {answer}", self.node);
    }

    pub(crate) async fn events(&self, after: &str) -> Vec<Value> {
        let events = self.get(&format!("/api/v1/events?after={after}")).await;
        events.as_array().unwrap().clone()
    }

    /// Whether it shows an instance of a service.
    pub(crate) async fn shows(&self, service: &str) -> bool {
        !self.get(&format!("/api/v1/services/{service}")).await.as_array().unwrap().is_empty()
    }

    /// Waits until it shows a service, or until it does not.
    pub(crate) async fn until_shown(&self, service: &str, wanted: bool) {
        let what = format!("{} shows {service}: {wanted}", self.node);
        until(&what, async || (self.shows(service).await == wanted).then_some(())).await;
    }

    /// Waits until its DNS has this one address for a service. Whoever asks must be in its namespace.
    pub(crate) async fn until_resolved(&self, service: &str, address: &str) {
        let what = format!("{service} is at {address} by {}", self.node);
        until(&what, async || {
            let (api, program) = (format!("http://{}", self.agent.http), env!("CARGO_BIN_EXE_hobnob"));
            let mut ask = tokio::process::Command::new("ip");
            ask.args(["netns", "exec", &self.space, program, "resolve", service, "--format", "name", "--api", &api]);
            (finish(&mut ask).await.out.trim() == address).then_some(())
        })
        .await;
    }

    pub(crate) async fn until_seen(&self, node: &str, state: &str) {
        let what = format!("{node} is {state} by {}", self.node);
        until(&what, async || {
            let members = self.get("/api/v1/members").await;
            let fits = |member: &Value| member["node"] == node && member["state"] == state;
            members.as_array().unwrap().iter().any(fits).then_some(())
        })
        .await;
    }
}
