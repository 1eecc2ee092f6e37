//! Agents as processes: started, waited for, asked, and killed at the end.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    net::SocketAddr,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};
use serde::Deserialize;
use tempfile::TempDir;

use crate::{machine::ROOM, talk::Client};

/// Where an agent listens, by its ready file.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Ready {
    /// The process that owns the mesh.
    pub(crate) pid: u32,
    pub(crate) mesh: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) dns: SocketAddr,
}

/// One running agent.
pub(crate) struct Agent {
    child: Child,
    ready_file: PathBuf,
}

/// How to start one; the same again to start it again.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    home: PathBuf,
    name: String,
    /// Every port but these is chosen by the system.
    pub(crate) dns: SocketAddr,
    join: Vec<SocketAddr>,
    /// Its configuration directory, if it is to have one.
    pub(crate) config: Option<PathBuf>,
    /// The one processor it may use.
    pub(crate) processor: Option<usize>,
}

impl Recipe {
    /// An agent that keeps its things in `home`.
    pub(crate) fn new(home: &Path, name: impl Into<String>) -> Self {
        let (home, name) = (home.to_owned(), name.into());
        Self { home, name, dns: any_port(), join: Vec::new(), config: None, processor: None }
    }

    /// The same, with a mesh to find there.
    pub(crate) fn join(mut self, address: SocketAddr) -> Self {
        self.join.push(address);
        self
    }

    /// Starts it; it is not ready then.
    pub(crate) fn start(&self) -> Agent {
        let secret = self.home.join("secret");
        if !secret.exists() {
            fs::write(&secret, SECRET).unwrap();
            fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let ready_file = self.home.join(format!("{}.ready", self.name));
        let program = env!("CARGO_BIN_EXE_hobnob");
        let mut command = match self.processor {
            Some(processor) => {
                let mut command = Command::new("taskset");
                command.args(["--cpu-list", &processor.to_string(), program]);
                command
            }
            None => Command::new(program),
        };
        let any = any_port().to_string();
        command.args(["agent", "--mesh", "bench", "--node", &self.name, "--listen", &any, "--http", &any, "--dns"]);
        command.arg(self.dns.to_string()).arg("--secret-file").arg(secret);
        command.arg("--data-dir").arg(self.home.join(&self.name)).arg("--ready-file").arg(&ready_file);
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        for address in &self.join {
            command.arg("--join").arg(address.to_string());
        }
        let ours = |name: &OsString| name.to_str().is_some_and(|name| name.starts_with("HOBNOB_"));
        for name in std::env::vars_os().map(|(name, _)| name).filter(ours) {
            command.env_remove(name);
        }
        let log = fs::File::create(self.home.join(format!("{}.log", self.name))).unwrap();
        let command = command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Agent { child: command.spawn().unwrap(), ready_file }
    }
}

impl Agent {
    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.ready().pid
    }

    /// Waits until it is ready.
    pub(crate) fn ready(&self) -> Ready {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(text) = fs::read(&self.ready_file) {
                return serde_json::from_slice(&text).unwrap();
            }
            assert!(Instant::now() < deadline, "no {}", self.ready_file.display());
            sleep(Duration::from_millis(5));
        }
    }

    /// Lets it leave, and waits until it has.
    pub(crate) fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // The agent and its parent, at once; whoever was stopped is gone already.
        let group = Pid::from_child(&self.child);
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
        while test_kill_process_group(group).is_ok() {
            sleep(Duration::from_millis(1));
        }
        let _ = fs::remove_file(&self.ready_file);
    }
}

/// A mesh of agents who all know each other.
pub(crate) struct Fleet {
    pub(crate) agents: Vec<Agent>,
    pub(crate) ready: Vec<Ready>,
    _home: TempDir,
}

impl Fleet {
    /// Starts so many, and waits until each sees all.
    pub(crate) fn start(nodes: usize) -> Self {
        let home = home();
        let mut agents = vec![Recipe::new(home.path(), "n0").start()];
        let first = agents[0].ready().mesh;
        let recipe = |n| Recipe::new(home.path(), format!("n{n}")).join(first);
        agents.extend((1..nodes).map(|n| recipe(n).start()));
        let ready: Vec<_> = agents.iter().map(Agent::ready).collect();
        let deadline = Instant::now() + PATIENCE;
        for Ready { http, .. } in &ready {
            while metric(*http, "hobnob_members{state=\"alive\"}") < nodes as f64 {
                assert!(Instant::now() < deadline, "{http} does not see {nodes} nodes");
                sleep(Duration::from_millis(50));
            }
        }
        Self { agents, ready, _home: home }
    }

    /// A counter, over all nodes.
    pub(crate) fn sum(&self, metric_name: &str) -> f64 {
        self.ready.iter().map(|ready| metric(ready.http, metric_name)).sum()
    }

    /// The sum of all samples, over all nodes, that are wanted.
    pub(crate) fn sum_of(&self, wanted: impl Fn(&str) -> bool) -> f64 {
        let of = |ready: &Ready| {
            let (_, page) = Client::connect(ready.http).call("GET", "/metrics", "");
            let samples = page.lines().filter_map(|line| line.rsplit_once(' ')).filter(|(name, _)| wanted(name));
            samples.map(|(_, value)| value.parse().unwrap_or(0.0)).sum::<f64>()
        };
        self.ready.iter().map(of).sum()
    }
}

/// A directory on the disk that gives it back when dropped.
pub(crate) fn home() -> TempDir {
    fs::create_dir_all(ROOM).unwrap();
    tempfile::tempdir_in(ROOM).unwrap()
}

/// One sample of an agent's metrics.
pub(crate) fn metric(http: SocketAddr, name: &str) -> f64 {
    let (status, page) = Client::connect(http).call("GET", "/metrics", "");
    assert_eq!(status, 200);
    let samples: BTreeMap<_, _> = page.lines().filter_map(|line| line.rsplit_once(' ')).collect();
    samples[name].parse().unwrap()
}

/// Any port on loopback.
fn any_port() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";
const PATIENCE: Duration = Duration::from_secs(60);
