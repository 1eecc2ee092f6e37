//! The published view: written by the one loop that owns the mesh, read by every face without entering it.
//!
//! One changed service costs one insertion. Readers get `Arc`s and hold no lock; never hold a map's guard across an await.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use arc_swap::ArcSwapOption;
use dashmap::DashMap;
use tokio::sync::watch;

use crate::{
    mesh::{Instance, Member},
    model::{InstanceId, NodeId, NodeName, Registration, ServiceName},
};

/// A service as it may be shown now. A known service with nothing to show has no instances.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name, as its first owner wrote it.
    pub name: ServiceName,
    /// Its instances by node name, then id. All healths; members that are Alive or Suspect.
    pub instances: Vec<Instance>,
    /// The view's index at its last change.
    pub index: u64,
}

/// Everything that may be shown on this node, by name. Names are folded to lower case (RFC 4343).
#[derive(Debug)]
pub struct View {
    services: DashMap<String, Arc<Service>>,
    nodes: DashMap<String, Arc<Member>>,
    own: DashMap<InstanceId, Arc<Registration>>,
    index: AtomicU64,
    ready: AtomicBool,
    this: ArcSwapOption<Member>,
    changed: watch::Sender<u64>,
    /// By service: whoever waits for that one alone.
    waiting: DashMap<String, watch::Sender<()>>,
}

impl Default for View {
    fn default() -> Self {
        Self {
            services: DashMap::new(),
            nodes: DashMap::new(),
            own: DashMap::new(),
            index: AtomicU64::new(1),
            ready: AtomicBool::new(false),
            this: ArcSwapOption::empty(),
            changed: watch::channel(1).0,
            waiting: DashMap::new(),
        }
    }
}

impl View {
    /// Whether answers may be given: the first sync is done, or there is nobody to sync with.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// A number that grows with each change of anything.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index.load(Ordering::Acquire)
    }

    /// Wakes when [`View::index`] has grown.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Wakes when that service's answer is another one, and for nothing else: a crowd of watchers costs a busy mesh
    /// nothing. Subscribe, then look.
    #[must_use]
    pub fn subscribe_service(self: &Arc<Self>, name: &str) -> ServiceChanges {
        let name = fold(name).into_owned();
        let heard = self.waiting.entry(name.clone()).or_insert_with(|| watch::channel(()).0).subscribe();
        ServiceChanges { view: Arc::clone(self), name, heard }
    }

    /// The service of that name, in any case; `None` if nobody has registered it.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<Arc<Service>> {
        self.services.get(&*fold(name)).map(|found| Arc::clone(&found))
    }

    /// All services, by name.
    #[must_use]
    pub fn services(&self) -> Vec<Arc<Service>> {
        let mut all: Vec<_> = self.services.iter().map(|entry| Arc::clone(entry.value())).collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The node of that name, in any case and in any state.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<Arc<Member>> {
        self.nodes.get(&*fold(name)).map(|found| Arc::clone(&found))
    }

    /// All nodes in any state, by name; this one too.
    #[must_use]
    pub fn nodes(&self) -> Vec<Arc<Member>> {
        self.nodes_where(|_| true)
    }

    /// The nodes that `is` holds for, by name.
    #[must_use]
    pub fn nodes_where(&self, is: impl Fn(&Member) -> bool) -> Vec<Arc<Member>> {
        let chosen = self.nodes.iter().filter(|entry| is(entry.value()));
        let mut chosen: Vec<_> = chosen.map(|entry| Arc::clone(entry.value())).collect();
        chosen.sort_unstable_by(|a, b| a.node.name.cmp(&b.node.name));
        chosen
    }

    /// This node; `None` before the loop has started.
    #[must_use]
    pub fn this(&self) -> Option<Arc<Member>> {
        self.this.load_full()
    }

    /// What was registered on this node, by id.
    #[must_use]
    pub fn registrations(&self) -> Vec<Arc<Registration>> {
        let mut all: Vec<_> = self.own.iter().map(|entry| Arc::clone(entry.value())).collect();
        all.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        all
    }

    /// What was registered on this node under `id`.
    #[must_use]
    pub fn registration(&self, id: &InstanceId) -> Option<Arc<Registration>> {
        self.own.get(id).map(|found| Arc::clone(&found))
    }

    /// Publishes a service; `None` when nobody registers it any more. [`View::advance`] tells of it.
    pub fn set_service(&self, name: &ServiceName, instances: Option<Vec<Instance>>) {
        match instances {
            Some(mut instances) => {
                instances.sort_unstable_by(|a, b| {
                    (&a.node.name, &a.registration.id).cmp(&(&b.node.name, &b.registration.id))
                });
                let index = self.index.load(Ordering::Acquire) + 1;
                self.services.insert(name.folded(), Arc::new(Service { name: name.clone(), instances, index }));
            }
            None => drop(self.services.remove(&name.folded())),
        }
        if let Some(waiting) = self.waiting.get(&name.folded()) {
            waiting.send_replace(());
        }
    }

    /// Publishes a node; `None` when it is forgotten. [`View::advance`] tells of it.
    pub fn set_node(&self, name: &NodeName, member: Option<Member>) {
        match member {
            Some(member) => drop(self.nodes.insert(name.as_str().to_ascii_lowercase(), Arc::new(member))),
            None => drop(self.nodes.remove(&name.as_str().to_ascii_lowercase())),
        }
    }

    /// Publishes which of the nodes is this one.
    pub fn set_this(&self, member: Member) {
        self.this.store(Some(Arc::new(member)));
    }

    /// Publishes one of this node's own registrations; `None` when it was withdrawn.
    pub fn set_registration(&self, id: &InstanceId, registration: Option<Arc<Registration>>) {
        match registration {
            Some(registration) => drop(self.own.insert(id.clone(), registration)),
            None => drop(self.own.remove(id)),
        }
    }

    /// Lets answers be given, or not any more.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
        self.advance();
    }

    /// Which node has this id.
    #[must_use]
    pub fn node_by_id(&self, id: NodeId) -> Option<Arc<Member>> {
        self.nodes.iter().find(|entry| entry.id == id).map(|entry| Arc::clone(entry.value()))
    }

    /// Wakes those who wait for a change: once for all that was published since the last time.
    pub fn advance(&self) {
        let next = self.index.fetch_add(1, Ordering::AcqRel) + 1;
        self.changed.send_replace(next);
    }
}

/// Made by [`View::subscribe_service`].
#[derive(Debug)]
pub struct ServiceChanges {
    view: Arc<View>,
    name: String,
    heard: watch::Receiver<()>,
}

impl ServiceChanges {
    /// Resolves when the service has changed since this last resolved, or since it was made. Cancel-safe.
    pub async fn changed(&mut self) {
        // Its sender stays as long as this receiver is there.
        let _ = self.heard.changed().await;
    }
}

impl Drop for ServiceChanges {
    /// The last to wait for a name takes it away: names come from clients, who may think of many.
    fn drop(&mut self) {
        self.view.waiting.remove_if(&self.name, |_, waiting| waiting.receiver_count() <= 1);
    }
}

/// `name` in lower case, borrowed where it already is.
fn fold(name: &str) -> std::borrow::Cow<'_, str> {
    if name.bytes().any(|b| b.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name.into() }
}
