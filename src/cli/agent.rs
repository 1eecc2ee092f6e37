//! `hobnob agent`: a node from its first word to its goodbye.

use std::{env, ffi::OsString, fs, io, panic, path::PathBuf, process::ExitCode, thread, time::Duration};

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::{
    runtime::{Builder, Handle},
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::spawn_blocking,
};
use tracing::info;

use super::{
    definitions::{Cause, Definitions},
    executor,
    failure::{Code, Failure},
    logs::{self, LogFormat},
    lookout::Lookout,
    node::Node,
    parent::{Mouth, Parent, Said, Word, Words},
};
use crate::{
    agent::{OPENING, Opens, Will, keep},
    config::{self, Config, Mistakes, Purpose, Sources},
    http::ReloadAsk,
};

#[derive(Debug, Args)]
pub(super) struct Flags {
    #[command(flatten)]
    settings: Settings,
    /// Write where it listens to this file, as JSON, once it is ready
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Do not start a parent process that tells the peers when this one dies without a goodbye, and ends what the programs
    /// of its checks and hooks have started
    #[arg(long)]
    no_will: bool,
    /// The standard input leads to the parent: said by the parent alone
    #[arg(long, hide = true)]
    has_executor: bool,
    /// What a log line looks like; HOBNOB_LOG says which are written
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
}

/// The flags that stand for settings.
#[derive(Debug, Args)]
pub(super) struct Settings {
    /// A file, or a folder laid out like /etc/hobnob; may be given again [default: /etc/hobnob]
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Where to keep what must survive [default: $STATE_DIRECTORY or /var/lib/hobnob]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// This node's name, unique in its mesh [default: the host's]
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// The mesh's name; two meshes never mix [default: default]
    #[arg(long, value_name = "NAME")]
    mesh: Option<String>,
    /// Where the mesh port listens [default: [::]:7946]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Where others reach it, if not there
    #[arg(long, value_name = "ADDR")]
    advertise: Option<String>,
    /// A node to find the mesh through; may be given again
    #[arg(long, value_name = "ADDR")]
    join: Vec<String>,
    /// Where HTTP is served [default: 127.0.0.1:8500]
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// Where DNS is served [default: 127.0.0.1:8600]
    #[arg(long, value_name = "ADDR")]
    dns: Option<String>,
    /// The datacenter it stands in [default: dc1]
    #[arg(long, value_name = "DC")]
    datacenter: Option<String>,
    /// The zone it stands in
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// A file with the mesh's secrets, one a line [env: HOBNOB_SECRET holds the secret itself]
    #[arg(long, value_name = "FILE")]
    secret_file: Option<String>,
    /// Try it out: no files, in memory, on loopback, with a throw-away secret
    #[arg(long)]
    dev: bool,
}

impl Settings {
    /// These flags with the environment of the process.
    pub(super) fn sources(&self) -> Sources {
        let one = [
            ("--data-dir", "data_dir", &self.data_dir),
            ("--node", "node", &self.node),
            ("--mesh", "mesh", &self.mesh),
            ("--listen", "listen.mesh", &self.listen),
            ("--advertise", "advertise", &self.advertise),
            ("--http", "listen.http", &self.http),
            ("--dns", "listen.dns", &self.dns),
            ("--datacenter", "datacenter", &self.datacenter),
            ("--zone", "zone", &self.zone),
            ("--secret-file", "secret_file", &self.secret_file),
        ];
        let given = |(flag, path, value): (_, _, &Option<String>)| Some((flag, path, value.clone()?.into()));
        let mut flags: Vec<_> = one.into_iter().filter_map(given).collect();
        if !self.join.is_empty() {
            flags.push(("--join", "join", self.join.clone().into()));
        }
        // A variable that is no Unicode cannot be one of ours.
        let ours = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        Sources {
            files: self.config.clone(),
            environment: env::vars_os().filter_map(ours).collect(),
            flags,
            purpose: if self.dev { Purpose::Try } else { Purpose::Serve },
        }
    }
}

pub(super) fn run(flags: &Flags) -> Result<ExitCode, Failure> {
    let sources = flags.settings.sources();
    let config = Config::load(&sources)?;
    if config.will && !flags.has_executor && !flags.no_will {
        return executor::run(flags.log_format);
    }
    let _log = logs::start(flags.log_format, logs::DEFAULT)?;
    keep_quiet_while_opening();
    raise_descriptor_limit();
    let unstarted = |error| Failure::new("cannot start", error, "ulimit -a");
    let runtime = Builder::new_multi_thread().enable_all().build().map_err(unstarted)?;
    let outcome = runtime.block_on(serve(flags, sources, config));
    // What still runs is ended with all it started. Who said it twice does not wait for what blocks, a disk or a resolver.
    runtime.shutdown_timeout(PATIENCE);
    match outcome? {
        None => Ok(ExitCode::SUCCESS),
        Some(will) => {
            // Nobody else is left to say it; and nobody answers in this node's name any more.
            let told = Builder::new_current_thread().enable_all().build().map_err(unstarted)?.block_on(will.execute());
            let why = told.map_or_else(|why| why.to_string(), |told| format!("{told} peers were told"));
            Err(Failure::new("the agent was orphaned: its parent process has died", why, "hobnob agent --no-will"))
        }
    }
}

/// A damaged store is told in three lines, and not by the panic of who has read it.
fn keep_quiet_while_opening() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if thread::current().name() != Some(OPENING) {
            usual(panic);
        }
    }));
}

/// Takes as many file descriptors as the system grants: the usual soft limit of 1,024 is there for programs that use
/// `select`, and a crowd of clients would fill it.
fn raise_descriptor_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Who may not raise it has what he had.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Runs a node to its end; its will, if nobody else is left to execute it.
async fn serve(flags: &Flags, sources: Sources, config: Config) -> Result<Option<Will>, Failure> {
    let deaf = |error| Failure::new("cannot hear signals", error, "ulimit -n");
    let parent = flags.has_executor.then(Parent::take).transpose().map_err(deaf)?.map(Parent::split);
    let (words, mut mouth) = parent.unzip();
    let mut signals = Signals::listen(words).map_err(deaf)?;
    if let Some(path) = &flags.ready_file {
        // What an earlier process left there would send readers to the wrong place.
        forget(path).map_err(|error| unwritable(path, &error))?;
    }
    // Beside the loop, which hears signals whatever a disk does: who says it twice does not wait for a start that hangs.
    let starting = spawn_blocking(|| Handle::current().block_on(begin(sources, config)));
    let (node, definitions, news) = tokio::select! {
        begun = starting => begun.map_err(|defect| Failure::new("cannot start", defect, "the log above says more"))??,
        () = signals.twice() => return Ok(None),
    };
    let agent = node.agent.clone();
    let outcome = match definitions {
        _ if signals.early => Ok(()),
        Ok(definitions) => live(flags, &node, definitions, news, &mut signals, &mut mouth).await,
        Err(failure) => Err(failure),
    };
    if signals.orphaned {
        return Ok(agent.will().await);
    }
    tell(&mut mouth, Said::Leaving).await;
    // Whatever ended it, the others are told; who cannot wait for that says so with a second signal.
    tokio::select! {
        () = agent.leave() => node.close().await,
        () = signals.stop() => info!("stopping at once"),
    }
    if agent.has_ended() {
        tell(&mut mouth, Said::Nothing).await;
    }
    if let Some(path) = &flags.ready_file {
        forget(path).map_err(|error| unwritable(path, &error))?;
    }
    outcome.map(|()| None)
}

/// What tells that the files are to be read again.
type News = (Lookout, mpsc::Receiver<ReloadAsk>);

/// Starts a node, with what its files ask for: until that is registered nobody is told that it is not there.
async fn begin(sources: Sources, mut config: Config) -> Result<(Node, Result<Definitions, Failure>, News), Failure> {
    let mut lookout = Lookout::new();
    lookout.watch(config::folders(&sources));
    config.agent.opens = Opens::Told;
    let (node, reloads) = Node::start(&config).await?;
    let definitions = Definitions::open(&node.agent, sources, config).await;
    if definitions.is_ok() {
        node.agent.open().await;
    }
    Ok((node, definitions, (lookout, reloads)))
}

/// Tells the parent, or where there is none whoever started this process.
async fn tell(mouth: &mut Option<Mouth>, said: Said) {
    match (mouth, said) {
        (Some(mouth), said) => mouth.say(&said).await,
        (None, Said::Ready) => executor::tell(&[NotifyState::Ready]),
        (None, Said::Leaving) => executor::tell(&[NotifyState::Stopping]),
        (None, _) => {}
    }
}

/// Lives until it is told to stop, or has stopped by itself.
async fn live(
    flags: &Flags,
    node: &Node,
    mut definitions: Definitions,
    (mut lookout, mut reloads): News,
    signals: &mut Signals,
    mouth: &mut Option<Mouth>,
) -> Result<(), Failure> {
    let mut announced = Box::pin(async {
        let announced = announce(flags, node);
        match mouth {
            Some(mouth) => mouth.speak(&node.agent, announced).await,
            None => announced.await.map(|()| executor::tell(&[NotifyState::Ready])),
        }
    });
    let mut waiting = true;
    loop {
        let (cause, reply) = tokio::select! {
            done = &mut announced, if waiting => {
                done?;
                waiting = false;
                continue;
            }
            stopped = node.agent.stopped() => {
                return stopped.map_err(|why| Failure::new("the node has stopped", why, "the log above says more"));
            }
            heard = signals.next() => match heard {
                Heard::Stop => {
                    info!("leaving");
                    return Ok(());
                }
                Heard::Reload => (Cause::Asked, None),
            },
            () = lookout.changed() => (Cause::Seen, None),
            () = definitions.overdue() => (Cause::Seen, None),
            Some(reply) = reloads.recv() => (Cause::Asked, Some(reply)),
        };
        let reloaded = async {
            let (lookout, newer) = read(lookout, definitions.sources().clone()).await?;
            Ok::<_, Failure>((lookout, definitions.reload(&node.agent, newer, cause).await))
        };
        let outcome = tokio::select! {
            reloaded = reloaded => {
                let outcome;
                (lookout, outcome) = reloaded?;
                outcome
            }
            () = signals.stop() => return Ok(()),
        };
        // Who asked may have gone; the log has told it all.
        let _ = reply.map(|reply| reply.send(outcome));
    }
}

/// Reads the files beside the loop, which hears signals whatever a file system does.
async fn read(mut lookout: Lookout, sources: Sources) -> Result<(Lookout, Result<Config, Mistakes>), Failure> {
    let reading = spawn_blocking(move || {
        // Watched before they are read: what comes in between is seen as one more change.
        lookout.watch(config::folders(&sources));
        (lookout, Config::load(&sources))
    });
    reading.await.map_err(|defect| Failure::new("cannot read the files", defect, "the log above says more"))
}

/// Waits until the node is ready, and says so.
async fn announce(flags: &Flags, node: &Node) -> Result<(), Failure> {
    let mut changes = node.agent.view().subscribe();
    while !node.agent.view().is_ready() {
        if changes.changed().await.is_err() {
            return Ok(());
        }
    }
    let ready = node.ready();
    info!(mesh = %ready.mesh, http = %ready.http, dns = %ready.dns, "answers are given");
    let Some(path) = &flags.ready_file else { return Ok(()) };
    let text = serde_json::to_string(&ready).map_err(|error| unwritable(path, &error.into()))?;
    let place = path.clone();
    let written = spawn_blocking(move || keep::replace(&place, (text + "\n").as_bytes(), keep::PUBLIC)).await;
    written.unwrap_or_else(|defect| Err(defect.into())).map_err(|error| unwritable(path, &error))
}

fn forget(path: &std::path::Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn unwritable(path: &std::path::Path, error: &io::Error) -> Failure {
    Failure::new(format!("cannot write the ready file {}", path.display()), error, "--ready-file FILE")
        .code(Code::Usage)
}

/// What an agent listens to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    parent: Option<Words>,
    /// Stops heard by this process, and by its parent: a terminal sends each to both.
    stops: [usize; 2],
    /// Whether the parent has died.
    orphaned: bool,
    /// A reload that came while nobody listened for one.
    reload: bool,
    /// Whether it was told to stop before it had started.
    early: bool,
}

/// What the parent says next; without one, nothing ever.
async fn next_word(parent: &mut Option<Words>) -> Option<Word> {
    match parent {
        Some(words) => words.next().await,
        None => std::future::pending().await,
    }
}

/// What a signal means.
enum Heard {
    Stop,
    Reload,
}

impl Signals {
    fn listen(parent: Option<Words>) -> io::Result<Self> {
        let [terminate, interrupt, hangup] =
            [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        let (terminate, interrupt, hangup) = (terminate?, interrupt?, hangup?);
        Ok(Self { terminate, interrupt, hangup, parent, stops: [0; 2], orphaned: false, reload: false, early: false })
    }

    async fn next(&mut self) -> Heard {
        if std::mem::take(&mut self.reload) {
            return Heard::Reload;
        }
        loop {
            let asked = self.stops.into_iter().max();
            tokio::select! {
                _ = self.terminate.recv() => self.stops[0] += 1,
                _ = self.interrupt.recv() => self.stops[0] += 1,
                _ = self.hangup.recv() => return Heard::Reload,
                word = next_word(&mut self.parent) => match word {
                    Some(Word::Stop) => self.stops[1] += 1,
                    Some(Word::Reload) => return Heard::Reload,
                    None => {
                        self.parent = None;
                        self.orphaned = true;
                        return Heard::Stop;
                    }
                },
            }
            if self.stops.into_iter().max() > asked {
                return Heard::Stop;
            }
        }
    }

    /// Two signals to stop; the first alone is noted.
    async fn twice(&mut self) {
        self.stop().await;
        self.early = true;
        self.stop().await;
    }

    /// The next signal to stop; one to reload waits for [`Signals::next`].
    async fn stop(&mut self) {
        let mut reload = std::mem::take(&mut self.reload);
        while matches!(self.next().await, Heard::Reload) {
            reload = true;
        }
        self.reload = reload;
    }
}

/// What it takes to drop whatever runs, and far more.
const PATIENCE: Duration = Duration::from_millis(500);
