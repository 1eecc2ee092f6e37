//! The checks of this node's instances: run here, judged by the mesh (rise, fall, what is published).
//!
//! One task, the `engine`, keeps the time of all checks in a heap and starts each run as a task of its own, bounded in
//! total and for each target; a target that hangs holds up nobody. A run ends with a finding. What does not
//! differ from the finding before it is not told: a check that stays as it is costs the loop nothing. One file for each
//! kind; `policy` says whom a check may reach, `dial` gets there, `tls` proves who that is.

mod alias;
mod dial;
mod dns;
mod engine;
mod failed;
mod grpc;
mod http;
mod lanes;
mod policy;
mod process;
mod rings;
mod script;
mod tcp;
#[cfg(test)]
mod tests;
mod tls;
mod udp;
mod visit;

use std::{error::Error, iter, sync::Arc};

use ipnet::IpNet;
use rustix::process::{Resource, getrlimit};
use tokio::{sync::mpsc, time::Instant};

use super::{Traffic, View, peers::Arrival};
use crate::model::{CheckKind, Health, Host, InstanceId, Port, Registration};
use dial::Dial;
pub(crate) use dns::stub;
use failed::Failed;
use lanes::Limits;
use policy::Policy;
pub(super) use process::identify;
use visit::Room;

/// What checks may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Whether script checks are run at all.
    pub scripts: bool,
    /// If there are any, checks reach these networks alone.
    pub allow: Vec<IpNet>,
    /// Checks do not reach these networks. Where an address lies in several, the smallest network decides.
    pub deny: Vec<IpNet>,
}

/// What one run found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    status: Health,
    output: String,
}

impl Finding {
    fn passing(output: impl Into<String>) -> Self {
        Self { status: Health::Passing, output: output.into() }
    }

    fn warning(output: impl Into<String>) -> Self {
        Self { status: Health::Warning, output: output.into() }
    }

    fn critical(output: impl Into<String>) -> Self {
        Self { status: Health::Critical, output: output.into() }
    }

    /// What a failure says of its target; why, if nothing.
    fn of_failure(failed: Failed) -> Result<Self, String> {
        match failed {
            Failed::Target(why) => Ok(Self::critical(why)),
            Failed::Node(why) => Err(why),
        }
    }
}

/// Where an instance is: what a relative target is relative to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Home {
    instance: InstanceId,
    host: Host,
    port: Option<Port>,
}

/// The engine's other end. Dropping it ends the engine and all runs.
#[derive(Debug)]
pub(super) struct Checks {
    orders: mpsc::UnboundedSender<Order>,
}

/// What the engine is told. As many as there are registrations, so that their queue needs no other bound.
#[derive(Debug)]
enum Order {
    /// Run the checks of this instance, and no others of it.
    Watch(Arc<Registration>, Host),
    /// Run no more checks of this instance.
    Forget(InstanceId),
}

impl Checks {
    /// Starts the engine; what it finds goes to the loop. That queue is the peers' too, so only news goes there.
    pub(super) fn start(
        config: &Config,
        view: &Arc<View>,
        traffic: &Arc<Traffic>,
        arrivals: mpsc::Sender<Arrival>,
    ) -> Self {
        let (orders, ordered) = mpsc::unbounded_channel();
        let (view, traffic) = (Arc::clone(view), Arc::clone(traffic));
        let limits = Limits::of(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX));
        let means = Means {
            dial: Dial::new(Policy::new(config)),
            scripts: config.scripts,
            view,
            rings: rings::Rings::default(),
            traffic,
            slow: Room::of(limits.slow),
            slow_scripts: Room::of(limits.slow_scripts),
            processes: Room::of(limits.processes),
        };
        tokio::spawn(engine::Engine::new(Arc::new(means), limits, arrivals).run(ordered));
        Self { orders }
    }

    /// Runs the checks of an instance from now on, whose node is at `host`. Those that stay as they were go on.
    pub(super) fn watch(&self, registration: &Arc<Registration>, host: Host) {
        // The engine ends only with this.
        let _ = self.orders.send(Order::Watch(Arc::clone(registration), host));
    }

    /// Runs an instance's checks no more.
    pub(super) fn forget(&self, instance: &InstanceId) {
        let _ = self.orders.send(Order::Forget(instance.clone()));
    }
}

/// What runs need.
#[derive(Debug)]
struct Means {
    dial: Dial,
    scripts: bool,
    view: Arc<View>,
    rings: rings::Rings,
    traffic: Arc<Traffic>,
    /// Room for runs that no longer have a place in their lane.
    slow: Room,
    slow_scripts: Room,
    /// Room for processes that are watched all the time, rather than looked at now and then.
    processes: Room,
}

/// One run of a check that is run at intervals, and that may take until then.
async fn run(kind: &CheckKind, home: &Home, means: &Means, until: Instant) -> Result<Finding, Failed> {
    // Those that hold much while they wait are put aside, so that the others need not make room for them.
    match kind {
        CheckKind::Http(check) => Box::pin(http::run(check, home, &means.dial, until)).await,
        CheckKind::Tcp(check) => tcp::run(check, home, &means.dial).await,
        CheckKind::Udp(check) => Box::pin(udp::run(check, home, &means.dial)).await,
        CheckKind::Grpc(check) => Box::pin(grpc::run(check, home, &means.dial)).await,
        CheckKind::Dns(check) => Box::pin(dns::run(check, home, &means.dial)).await,
        CheckKind::Script(_) if !means.scripts => {
            Err("script checks are off on this node: set script_checks = true in its settings".to_owned().into())
        }
        CheckKind::Script(argv) => Box::pin(script::run(argv, home)).await,
        // Reported or watched, which is the engine's affair.
        CheckKind::Ttl(_) | CheckKind::Process(_) | CheckKind::Alias(_) => {
            Ok(Finding::warning("is not run at intervals"))
        }
    }
}

/// What went wrong, and all that led to it: libraries keep the reason behind words of their own.
fn causes(error: &(dyn Error + 'static)) -> String {
    let all = iter::successors(Some(error), |error| (*error).source());
    all.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// What a target said, as text: whatever is no UTF-8 is replaced, so that it can be shown.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_OUTPUT)]).trim_end().into()
}

/// Whether these words are in what a target said, just as it came.
fn holds(bytes: &[u8], words: &str) -> bool {
    words.is_empty() || bytes.windows(words.len()).any(|part| part == words.as_bytes())
}

/// As much of an answer as is shown.
const MAX_OUTPUT: usize = 4096;
/// As much of an answer as is read: then the connection is closed.
const MAX_ANSWER: usize = 64 << 10;
