//! Putting an agent together: every part that can fail first, then the tasks, so that a failed start leaves none behind.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::task::TaskTracker;

use super::{
    Agent, Config, Shared, StartError, View,
    address::Whereabouts,
    checks::Checks,
    clock::Clock,
    door,
    drive::{Agenda, Drive, Inbox},
    gazette::{Gazette, Heard},
    hello::Greeter,
    journal::Journal,
    peers::{Arrival, Peers},
    quic,
    seek::Seek,
    status::Status,
    store::{FILE, Found, KnownPeer, Store, Unusable},
    trust::{self, Proof, Seal, Trust},
    unix_millis,
    vigil::Vigil,
    writes::Writes,
};
use crate::{
    mesh::{self, Command, Mesh},
    model::{Epoch, HealthReport, Node, Time},
};

/// See [`Agent::start`].
pub(super) async fn start(mut config: Config) -> Result<Agent, StartError> {
    let clock = Clock::start();
    config.check().map_err(|(field, why)| StartError::Config { field, why })?;
    let (completions, completed) = mpsc::unbounded_channel();
    let trust = Arc::new(identify(&config)?);
    let (store, found, endpoint) = open(&config, &trust, completions).await?;
    let bound = endpoint.local_addr().map_err(|why| StartError::Listen { address: config.listen, why })?;
    config.listen = bound;

    let whereabouts = Whereabouts::of(&config, bound);
    let core = core(&config, &found.peers, &whereabouts, found.epoch, &clock, &trust)?;
    let (seed, mut mesh) = (core.seed, Mesh::new(core, found.registrations.clone(), clock.now()));
    restore(&mut mesh, (found.reports, found.lived_until), config.protect_for, &clock);
    let held: Vec<_> = found.registrations.into_iter().filter(|own| mesh.registration(&own.id).is_some()).collect();
    tracing::info!(event = "started", node = %config.node, mesh = %config.mesh, address = %bound, restored = held.len());
    let (greeter, heard) = Greeter::new(endpoint, trust, config.mesh.clone(), mesh.hello());

    let (asks, asked) = mpsc::channel(MAX_ASKS);
    let ((looks, looked), (arrivals, arrived)) = (mpsc::channel(1), mpsc::channel(MAX_ARRIVALS));
    let (view, status, journal) = (Arc::<View>::default(), Arc::<Status>::default(), Arc::<Journal>::default());
    let (link_tasks, (links, links_seen)) = (TaskTracker::new(), watch::channel(0));
    let ((seeds, more_seeds), (ended, stopped)) = (mpsc::channel(1), watch::channel(None));
    let stored = found.peers.iter().flat_map(|peer| peer.addresses.iter().copied()).collect();
    let seek = Seek { seeds: config.join.clone(), stored, bound, greeter: Arc::clone(&greeter) };
    let checks = Checks::start(&config.checks, &view, &greeter.traffic, arrivals.clone());
    let mut drive = Drive {
        mesh,
        clock,
        view: Arc::clone(&view),
        status: Arc::clone(&status),
        journal: Arc::clone(&journal),
        greeter: Arc::clone(&greeter),
        peers: Peers::new(Arc::clone(&greeter), arrivals.clone(), link_tasks.clone(), seed),
        link_tasks,
        links,
        writes: Writes::new(store, checks, held),
        agenda: Agenda::new(config.ready_after, found.peers),
    };
    drive.hold(config.opens);
    drive.begin(&seek);

    let gazette = keep_trust(&greeter, &view, &journal, &config, &arrivals, heard, seed);
    tokio::spawn(whereabouts.watch(arrivals.clone()));
    let own = (Arc::clone(&greeter), Arc::clone(&view), Arc::clone(&journal));
    tokio::spawn(door::listen(own.0, own.1, own.2, links_seen.clone(), arrivals.clone()));
    tokio::spawn(seek.run(more_seeds, links_seen, arrivals, Arc::clone(&status)));
    let inbox = Inbox { asks: asked, looks: looked, arrivals: arrived, completed };
    tokio::spawn(async move { ended.send_replace(Some(run(drive, inbox, gazette).await)) });
    let shared = Shared {
        view,
        config,
        trust: Arc::clone(&greeter.trust),
        gazette: greeter.gazette.clone(),
        address: bound,
        clock,
        status,
        traffic: Arc::clone(&greeter.traffic),
        defined: ArcSwap::default(),
        asks,
        looks,
        seeds,
        journal,
        stopped,
        runtime: tokio::runtime::Handle::current(),
    };
    Ok(Agent { shared: Arc::new(shared) })
}

/// Runs until the loop has ended, and what is law is on the disk.
async fn run(drive: Drive, inbox: Inbox, gazette: JoinHandle<()>) -> Result<(), String> {
    let outcome = drive.run(inbox).await;
    // A panic there is already in the log.
    let _ = gazette.await;
    outcome
}

/// The tasks that let others in, or no more; the one that still has the law to write when the loop has ended.
fn keep_trust(
    greeter: &Arc<Greeter>,
    view: &Arc<View>,
    journal: &Arc<Journal>,
    config: &Config,
    arrivals: &mpsc::Sender<Arrival>,
    heard: mpsc::Receiver<Heard>,
    seed: u64,
) -> JoinHandle<()> {
    if let Some(folder) = &config.data_dir {
        greeter.trust.keep_guests(folder);
    }
    let gazette = tokio::spawn(Gazette::open(greeter, config.data_dir.as_deref(), arrivals, seed).run(heard));
    let (greeter, view, journal) = (Arc::clone(greeter), Arc::clone(view), Arc::clone(journal));
    tokio::spawn(Vigil::new(greeter, view, journal, config).keep(arrivals.clone()));
    gazette
}

/// Takes up where the checks stood when this node was last seen, and how long a wave of failures is doubted.
fn restore(
    mesh: &mut Mesh,
    (reports, lived_until): (Vec<(String, HealthReport)>, u64),
    protect_for: Duration,
    clock: &Clock,
) {
    // Refused only by a node that is leaving.
    let _ = mesh.command(clock.now(), Command::ProtectFor(protect_for));
    let (node, instances): (Vec<_>, Vec<_>) = reports.into_iter().partition(|(id, _)| id.is_empty());
    let node = node.into_iter().find_map(|(_, report)| report.maintenance);
    let instances = instances.into_iter().filter_map(|(id, report)| Some((id.as_str().try_into().ok()?, report)));
    mesh.restore(clock.now(), node, instances, lived_until);
}

/// What this node proves itself with.
fn identify(config: &Config) -> Result<Trust, StartError> {
    if let Some(files) = &config.tls {
        let blame = |why: trust::Broken| StartError::Config { field: "tls:", why: why.to_string() };
        return Trust::new(&config.mesh, &config.node, Proof::Files(files)).map_err(blame);
    }
    let blame = |why| StartError::Config { field: "secret", why };
    if config.secrets.is_empty() {
        return Err(blame("is missing: make one with `hobnob keygen` and give it to every node".into()));
    }
    let proof = Proof::Secrets(&config.secrets);
    Trust::new(&config.mesh, &config.node, proof).map_err(|why| blame(format!("is of no use: {why}")))
}

/// What the core begins with; the mark of this life of the process and the seed of all choices are drawn here.
fn core(
    config: &Config,
    known: &[KnownPeer],
    whereabouts: &Whereabouts,
    epoch: Epoch,
    clock: &Clock,
    trust: &Arc<Trust>,
) -> Result<mesh::Config, StartError> {
    let blame = |why| StartError::Config { field: "node", why: format!("has no randomness to start with: {why}") };
    let [boot, seed] = [getrandom::u64().map_err(blame)?, getrandom::u64().map_err(blame)?];
    let (mesh, node) = (config.mesh.clone(), describe(config, whereabouts));
    let seal = Seal::new(Arc::clone(trust))
        .map_err(|why| StartError::Config { field: "node", why: format!("cannot have a key for its book: {why}") })?;
    Ok(mesh::Config {
        mesh,
        node,
        known: known.iter().map(|peer| (peer.id, peer.addresses.clone())).collect(),
        epoch,
        boot,
        seed,
        unix_millis: clock.by_the_wall(Time::ZERO),
        notary: Arc::new(seal),
    })
}

/// Store and port. Who tries again after a port that could not be had must not find the directory in use.
async fn open(
    config: &Config,
    trust: &Arc<Trust>,
    completions: mpsc::UnboundedSender<super::store::Completed>,
) -> Result<(Store, Found, quinn::Endpoint), StartError> {
    let tls = trust.tls().map_err(|why| StartError::Config { field: "tls", why: why.to_string() })?;
    let (store, found) = open_store(config, completions).await?;
    match quic::bind(config.listen, &found.keys, tls) {
        Ok(endpoint) => Ok((store, found, endpoint)),
        Err(why) => {
            // A panic there is already in the log.
            let _ = tokio::task::spawn_blocking(|| store.undo()).await;
            Err(why)
        }
    }
}

async fn open_store(
    config: &Config,
    completions: mpsc::UnboundedSender<super::store::Completed>,
) -> Result<(Store, Found), StartError> {
    let (directory, mesh, node) = (config.data_dir.clone(), config.mesh.clone(), config.node.clone());
    let opening = tokio::task::spawn_blocking(move || {
        Store::open(directory.as_deref(), &mesh, &node, unix_millis(), completions)
    });
    opening.await.unwrap_or_else(|why| {
        Err(StartError::Data {
            path: config.data_dir.clone().unwrap_or_default(),
            why: Unusable::Corrupt { what: FILE, why: why.to_string() },
        })
    })
}

/// What this node says of itself.
fn describe(config: &Config, whereabouts: &Whereabouts) -> Node {
    Node {
        name: config.node.clone(),
        addresses: whereabouts.told.addresses.clone(),
        datacenter: config.datacenter.as_str().into(),
        zone: config.zone.as_str().into(),
        version: env!("CARGO_PKG_VERSION").into(),
        meta: BTreeMap::clone(&config.meta),
        maintenance: None,
        voucher: bytes::Bytes::new(),
    }
}

/// Asks that wait; beyond it callers do.
const MAX_ASKS: usize = 1024;
/// News from peers that wait; beyond it datagrams are dropped and streams slow down.
const MAX_ARRIVALS: usize = 4096;
