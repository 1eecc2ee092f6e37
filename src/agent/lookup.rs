//! Reading as a library: now, as a stream of changes, or one instance to talk to.

use std::{
    fmt,
    ops::Deref,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, stream};

use super::{Agent, Service};
use crate::{
    mesh::Instance,
    model::{Health, NodeName},
};

/// The instances of a service at one moment; none if nobody registers it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Instances(Option<Arc<Service>>);

impl Instances {
    /// The view's index at the service's last change; 0 if nobody registers it.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.0.as_ref().map_or(0, |service| service.index)
    }

    /// Those that traffic may be sent to: passing or warning.
    pub fn served(&self) -> impl Iterator<Item = &Instance> {
        self.iter().filter(|instance| instance.health().is_served())
    }
}

impl Deref for Instances {
    type Target = [Instance];
    fn deref(&self) -> &[Instance] {
        self.0.as_ref().map_or(&[], |service| &service.instances)
    }
}

/// Why there is no instance to talk to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoInstance {
    /// This node does not know yet.
    #[error("this node has not yet synced with its mesh: wait for `Agent::ready`")]
    Unready,
    /// Nobody registers it.
    #[error("nobody registers a service called {0:?}")]
    Unknown(String),
    /// There are some, none of them fit.
    #[error("no instance of {0:?} is passing")]
    NonePassing(String),
}

/// Made by [`Agent::watch`]: the present snapshot at once, then one for each change; ends when the agent stops.
pub struct Changes(Pin<Box<dyn Stream<Item = Instances> + Send>>);

impl Stream for Changes {
    type Item = Instances;
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Instances>> {
        self.0.as_mut().poll_next(context)
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Changes")
    }
}

impl Agent {
    /// The instances of a service now, in any health. Never blocks.
    #[must_use]
    pub fn lookup(&self, service: &str) -> Instances {
        Instances(self.view().service(service))
    }

    /// The service as it changes. Snapshots that nobody took in time are skipped, never the last one. Cancel-safe.
    #[must_use]
    pub fn watch(&self, service: &str) -> Changes {
        let view = Arc::clone(&self.shared.view);
        let (changes, stopped) = (view.subscribe_service(service), self.shared.stopped.clone());
        let start = (view, changes, stopped, service.to_owned(), None);
        Changes(Box::pin(stream::unfold(start, |(view, mut changes, mut stopped, name, last)| async move {
            loop {
                let now = Instances(view.service(&name));
                if last != Some(now.index()) {
                    let last = Some(now.index());
                    return Some((now, (view, changes, stopped, name, last)));
                }
                tokio::select! {
                    () = changes.changed() => {}
                    _ = stopped.wait_for(Option::is_some) => return None,
                }
            }
        })))
    }

    /// One instance to talk to: of the lowest priority and the best health there is, near if some are near, by weight.
    ///
    /// # Errors
    /// [`NoInstance`] says why there is none.
    pub fn pick(&self, service: &str) -> Result<Instance, NoInstance> {
        if !self.view().is_ready() {
            return Err(NoInstance::Unready);
        }
        let found = self.lookup(service);
        if found.is_empty() {
            return Err(NoInstance::Unknown(service.into()));
        }
        let mut fit: Vec<&Instance> = found.served().filter(|instance| instance.weight() > 0).collect();
        keep_least(&mut fit, |instance| instance.registration.priority);
        keep_least(&mut fit, |instance| instance.health() != Health::Passing);
        self.keep_near(&mut fit);
        by_weight(&fit, getrandom::u64().unwrap_or_default())
            .cloned()
            .ok_or_else(|| NoInstance::NonePassing(service.into()))
    }

    /// Of several, those in this node's zone if there are any; else those about as near as the nearest.
    fn keep_near(&self, fit: &mut Vec<&Instance>) {
        let zone = &self.shared.config.zone;
        if !zone.is_empty() && fit.iter().any(|instance| *instance.node.zone == **zone) {
            fit.retain(|instance| *instance.node.zone == **zone);
            return;
        }
        // Nobody knows how far an unmeasured one is: it is not near.
        let rtt =
            |name: &NodeName| self.view().node(name.as_str()).and_then(|member| member.rtt).unwrap_or(Duration::MAX);
        if fit.len() > 1 {
            let nearest = fit.iter().map(|instance| rtt(&instance.node.name)).min().unwrap_or_default();
            fit.retain(|instance| rtt(&instance.node.name) <= nearest.saturating_mul(2).saturating_add(NEAR));
        }
    }
}

fn keep_least<K: Ord>(fit: &mut Vec<&Instance>, key: impl Fn(&Instance) -> K) {
    if let Some(least) = fit.iter().map(|instance| key(instance)).min() {
        fit.retain(|instance| key(instance) == least);
    }
}

/// The instance at which the running sum of weights passes `drawn` (RFC 2782).
fn by_weight<'a>(fit: &[&'a Instance], drawn: u64) -> Option<&'a Instance> {
    let total: u64 = fit.iter().map(|instance| u64::from(instance.weight())).sum();
    let mut left = drawn.checked_rem(total)?;
    fit.iter().copied().find(|instance| {
        let weight = u64::from(instance.weight());
        let here = left < weight;
        left = left.saturating_sub(weight);
        here
    })
}

/// Round trips that differ by less are equally near: it is within the noise of a machine.
const NEAR: Duration = Duration::from_millis(1);
