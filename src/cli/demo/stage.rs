//! The demo's stage: the nodes, what was registered on them, and how long things took.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    super::{failure::Failure, output},
    cable::{Cables, Plug},
    script::{HELP, Step, Until},
};
use crate::{
    agent::{self, Agent, Secret},
    dns, mesh,
    model::{MemberState, NodeName, Port, Registration, ServiceName},
};

/// All nodes, dead or alive, and the clock since the last thing that was done to them.
pub(super) struct Stage {
    nodes: BTreeMap<NodeName, Actor>,
    secret: Secret,
    cables: Cables,
    since: Instant,
    times: Vec<Times>,
}

/// One node: what is registered on it, and its life while it has one.
struct Actor {
    registrations: BTreeMap<ServiceName, Registration>,
    life: Option<Life>,
}

/// A process within the process: all tasks of a node run on a runtime of its own, and die with it at whatever they were.
struct Life {
    agent: Agent,
    dns: dns::Running,
    plug: Plug,
    runtime: Runtime,
}

/// When the first and the last node had seen something.
struct Times {
    what: String,
    each: Vec<Duration>,
}

impl Life {
    /// Ends it in the middle of whatever it does. Its handles stay until its tasks are gone: an agent that nobody holds any
    /// more says goodbye.
    fn end(self) {
        let Self { agent, dns, plug, runtime } = self;
        drop(plug);
        // A runtime may not be dropped where tasks run: it would wait for its own.
        tokio::task::spawn_blocking(move || {
            runtime.shutdown_timeout(PATIENCE);
            drop((agent, dns));
        });
    }
}

impl Stage {
    /// Starts `count` nodes, n1, n2, …, and waits until all of them see all.
    pub(super) async fn new(count: usize) -> Result<Self, Failure> {
        let mut stage = Self {
            nodes: BTreeMap::new(),
            secret: Secret::random(),
            cables: Cables::default(),
            since: Instant::now(),
            times: Vec::new(),
        };
        for number in 1..=count {
            let name = NodeName::try_from(&*format!("n{number}"));
            let name = name.map_err(|why| Failure::new("a node has no name", why, "hobnob demo --nodes 5"))?;
            let life = stage.live(&name).await?;
            stage.nodes.insert(name, Actor { registrations: BTreeMap::new(), life: Some(life) });
        }
        let alive = |life: &Life| {
            life.agent.view().nodes().iter().filter(|node| node.state == MemberState::Alive).count() == count
        };
        let all = async |life: &Life| {
            let mut changes = life.agent.view().subscribe();
            while !(life.agent.view().is_ready() && alive(life)) {
                // The sender lives in the view that we hold.
                let _ = changes.changed().await;
            }
            Ok(())
        };
        stage.measure(format!("{count} nodes started, all see all"), all).await?;
        Ok(stage)
    }

    /// Plays one step; `false` when it is the last.
    pub(super) async fn play(&mut self, step: &Step) -> Result<bool, Failure> {
        match step {
            Step::Register(service, port, node) => self.register(service, *port, node).await?,
            Step::Resolve(service, node) => self.resolve(service, node).await?,
            Step::Kill(node) => self.kill(node).await?,
            Step::Unplug(node) => self.unplug(node)?,
            Step::Partition(nodes) => self.partition(nodes)?,
            Step::Heal => self.partition(&[])?,
            Step::Show => self.show(),
            Step::Agree => self.agree().await?,
            Step::Restart(node) => self.restart(node).await?,
            Step::Wait(service, until) => self.wait(service, *until).await?,
            Step::Report => self.report(),
            Step::Help => output::print(HELP),
            Step::Quit => return Ok(false),
        }
        Ok(true)
    }

    async fn register(&mut self, service: &ServiceName, port: Port, node: &NodeName) -> Result<(), Failure> {
        let wrong = |why: &dyn std::fmt::Display| Failure::new(format!("cannot register {service}"), why, "help");
        let registration = Registration::new(service.as_str(), port.get()).map_err(|error| wrong(&error))?;
        let actor = self.actor(node)?;
        let life = actor.life.as_ref().ok_or_else(|| dead(node))?;
        let (agent, since) = (life.agent.clone(), Instant::now());
        agent.put(registration.clone()).await.map_err(|error| wrong(&error))?;
        actor.registrations.insert(service.clone(), registration);
        self.since = since;
        Ok(())
    }

    async fn resolve(&mut self, service: &ServiceName, node: &NodeName) -> Result<(), Failure> {
        let life = self.actor(node)?.life.as_ref().ok_or_else(|| dead(node))?;
        let reply = ask(life, service).await?;
        let records: Vec<_> = reply.answers.iter().map(ToString::to_string).collect();
        output::print(&if records.is_empty() { format!("{}, no records", reply.code) } else { records.join("\n") });
        Ok(())
    }

    /// Ends a node as a power cut would: its sockets are closed and nobody is told.
    fn unplug(&mut self, node: &NodeName) -> Result<(), Failure> {
        let life = self.actor(node)?.life.take().ok_or_else(|| dead(node))?;
        self.since = Instant::now();
        life.end();
        Ok(())
    }

    /// Ends a node as `kill -9` would: then its parent process, played by this one, reads its last will.
    async fn kill(&mut self, node: &NodeName) -> Result<(), Failure> {
        let life = self.actor(node)?.life.as_ref().ok_or_else(|| dead(node))?;
        let will = life.agent.will().await;
        self.unplug(node)?;
        if let Some(will) = will {
            tokio::spawn(will.execute());
        }
        Ok(())
    }

    fn partition(&mut self, apart: &[NodeName]) -> Result<(), Failure> {
        for node in apart {
            self.actor(node)?;
        }
        self.cables.cut(apart.iter().cloned());
        self.since = Instant::now();
        Ok(())
    }

    fn show(&self) {
        let mut table = output::table(["NODE", "ALIVE", "SUSPECT", "DOWN", "SERVICES"]);
        for (name, life) in self.nodes.iter().filter_map(|(name, actor)| Some((name, actor.life.as_ref()?))) {
            let view = life.agent.view();
            let in_state = |state| {
                let seen = view.nodes_where(|member| member.state == state);
                seen.iter().map(|member| member.node.name.to_string()).collect::<Vec<_>>().join(" ")
            };
            let states = [MemberState::Alive, MemberState::Suspect, MemberState::Down].map(in_state);
            let services = view.services();
            let count = |service: &Arc<agent::Service>| format!("{} {}", service.name, service.instances.len());
            let services = services.iter().map(count).collect::<Vec<_>>().join(", ");
            let [alive, suspect, down] = states;
            table.add_row([name.to_string(), alive, suspect, down, services]);
        }
        output::print(&table.trim_fmt());
    }

    /// Waits until all living nodes see each other alive, and know the same.
    async fn agree(&mut self) -> Result<(), Failure> {
        let lives = || self.nodes.values().filter_map(|actor| actor.life.as_ref());
        let agents: Vec<_> = lives().map(|life| life.agent.clone()).collect();
        let agreed = async |life: &Life| {
            let mut changes = life.agent.view().subscribe();
            let own = || life.agent.fingerprint();
            let alive = || life.agent.view().nodes_where(|member| member.state == MemberState::Alive).len();
            while alive() != agents.len() || agents.iter().any(|other| other.fingerprint() != own()) {
                let _ = timeout(ASK_AGAIN, changes.changed()).await;
            }
            Ok(())
        };
        self.measure("all see all and know the same".into(), agreed).await
    }

    async fn restart(&mut self, node: &NodeName) -> Result<(), Failure> {
        if self.actor(node)?.life.is_some() {
            self.unplug(node)?;
        }
        let since = Instant::now();
        let life = self.live(node).await?;
        let actor = self.actor(node)?;
        for registration in actor.registrations.values() {
            let put = life.agent.put(registration.clone()).await;
            put.map_err(|error| Failure::new(format!("cannot restart {node}"), error, "help"))?;
        }
        actor.life = Some(life);
        self.since = since;
        Ok(())
    }

    /// Waits until the DNS of every living node answers with exactly the instances whose nodes live.
    async fn wait(&mut self, service: &ServiceName, until: Until) -> Result<(), Failure> {
        let (living, dead): (Vec<_>, Vec<_>) = self
            .nodes
            .values()
            .filter(|actor| actor.registrations.contains_key(service))
            .partition(|actor| actor.life.is_some());
        let (there, next) = match until {
            Until::Seen => (&living, "register NAME PORT on NODE"),
            Until::Gone => (&dead, "kill NODE"),
        };
        if there.is_empty() {
            let why = format!("there is no {} instance of it", if until == Until::Seen { "living" } else { "dead" });
            return Err(Failure::new(format!("nothing to wait for with {service}"), why, next));
        }
        let expected = living.len();
        let answered = async |life: &Life| {
            let mut changes = life.agent.view().subscribe();
            while ask(life, service).await?.answers.len() != expected {
                let _ = timeout(ASK_AGAIN, changes.changed()).await;
            }
            Ok(())
        };
        self.measure(format!("{service} {until}, by DNS"), answered).await
    }

    /// Notes how long after the last deed each living node gets through `seen`.
    async fn measure(&mut self, what: String, seen: impl AsyncFn(&Life) -> Result<(), Failure>) -> Result<(), Failure> {
        let since = self.since;
        let timed = async |life| seen(life).await.map(|()| since.elapsed());
        let all = try_join_all(self.nodes.values().filter_map(|actor| actor.life.as_ref()).map(timed));
        let late =
            || Failure::new(format!("not within {} s: {what}", PATIENCE.as_secs()), "a node missed it", "report");
        let each = timeout(PATIENCE, all).await.map_err(|_| late())??;
        let times = Times { what, each };
        let [what, nodes, first, last] = times.row();
        output::say(format_args!("  {what}: the first of {nodes} nodes after {first}, the last after {last}"));
        self.times.push(times);
        Ok(())
    }

    fn report(&self) {
        let mut table = output::table(["WHAT", "NODES", "FIRST", "LAST"]);
        for times in &self.times {
            table.add_row(times.row());
        }
        output::print(&table.trim_fmt());
    }

    /// Starts a node on loopback that finds the others through those who live.
    async fn live(&self, name: &NodeName) -> Result<Life, Failure> {
        let failed = |why: &dyn std::fmt::Display| Failure::new(format!("{name} did not start"), why, "ulimit -n");
        let seeds = self.nodes.values().filter_map(|actor| actor.life.as_ref()).take(SEEDS);
        let mut plug = self.cables.lay(name).await.map_err(|error| failed(&error))?;
        let config = agent::Config {
            node: name.clone(),
            mesh: "demo".try_into().map_err(|error| failed(&error))?,
            datacenter: "dc1".into(),
            zone: String::new(),
            meta: BTreeMap::new(),
            listen: LOOPBACK,
            advertise: Some(plug.address),
            join: seeds.map(|life| life.plug.address.to_string()).collect(),
            secrets: vec![self.secret.clone()],
            tls: None,
            data_dir: None,
            ready_after: PATIENCE,
            protect_for: mesh::PROTECT_FOR,
            opens: agent::Opens::default(),
            checks: agent::checks::Config::default(),
        };
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(|e| failed(&e))?;
        let started = runtime.spawn(async {
            let agent = Agent::start(config).await.map_err(|error| error.to_string())?;
            let dns = dns::serve(Arc::clone(agent.view()), dns::Config::default(), LOOPBACK, CancellationToken::new());
            let dns = dns.await.map_err(|error| error.to_string())?;
            Ok::<_, String>((agent, dns))
        });
        match started.await {
            Ok(Ok((agent, dns))) => {
                self.cables.connect(&mut plug, name, agent.address());
                Ok(Life { agent, dns, plug, runtime })
            }
            failure => {
                runtime.shutdown_background();
                Err(failed(&failure.map_or_else(|error| error.to_string(), |why| why.err().unwrap_or_default())))
            }
        }
    }

    fn actor(&mut self, node: &NodeName) -> Result<&mut Actor, Failure> {
        let unknown = || Failure::new(format!("there is no node {node}"), "nodes are n1, n2, and so on", "help");
        self.nodes.get_mut(node).ok_or_else(unknown)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.nodes.values_mut().filter_map(|actor| actor.life.take()).for_each(Life::end);
    }
}

impl Times {
    fn row(&self) -> [String; 4] {
        let millis = |time: Option<&Duration>| format!("{:.1} ms", time.map_or(0.0, |t| t.as_secs_f64() * 1000.0));
        let (first, last) = (millis(self.each.iter().min()), millis(self.each.iter().max()));
        [self.what.clone(), self.each.len().to_string(), first, last]
    }
}

/// A real question over UDP to a node's DNS.
async fn ask(life: &Life, service: &ServiceName) -> Result<dns::Reply, Failure> {
    let (server, name) = (life.dns.address(), format!("{service}.service.mesh.internal"));
    dns::ask(server, &name, dns::Kind::Srv)
        .await
        .map_err(|error| Failure::new(format!("no DNS answer from {server}"), error, "restart NODE"))
}

fn dead(node: &NodeName) -> Failure {
    Failure::new(format!("{node} does not live"), "it was killed", format!("restart {node}"))
}

pub(super) const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
/// One seed would do; two survive a death while a third node starts.
const SEEDS: usize = 2;
/// A silent death is seen within seconds; who has not seen it after a minute never will.
const PATIENCE: Duration = Duration::from_secs(60);
/// DNS is asked on every change of the view, and after this long in case an answer and a change crossed.
const ASK_AGAIN: Duration = Duration::from_millis(20);
