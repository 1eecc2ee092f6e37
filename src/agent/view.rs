//! The published view: written by the one loop that owns the mesh, read by every face without entering it.
//!
//! One changed service costs one insertion. Readers get `Arc`s and hold no lock; never hold a map's guard across an await.

mod home;
mod service;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use dashmap::DashMap;
use tokio::sync::watch;

pub use home::NodeWord;
use home::{Home, Homes};
pub use service::Service;
use service::{differences, place};

use super::{
    atlas::{Atlas, Tenants},
    basis::{Basis, Beats},
    marks::{Marks, TAG_BITS, Topic},
};
use crate::{
    mesh::{Instance, Member},
    model::{HealthReport, InstanceId, NodeId, NodeName, Registration, ServiceName},
};

/// Everything that may be shown on this node, by name. Names are folded to lower case (RFC 4343).
#[derive(Debug)]
pub struct View {
    services: DashMap<String, Arc<Service>>,
    /// By service: what is said besides what any list shows.
    unshown: DashMap<String, Vec<Instance>>,
    nodes: DashMap<String, Arc<Member>>,
    own: DashMap<InstanceId, Arc<Registration>>,
    /// What this node's own checks say before other nodes are told.
    spoken: DashMap<InstanceId, HealthReport>,
    index: AtomicU64,
    ready: AtomicBool,
    this: ArcSwapOption<Member>,
    changed: watch::Sender<u64>,
    marks: Marks,
    beats: Beats,
    atlas: Atlas,
    homes: Homes,
}

impl Default for View {
    fn default() -> Self {
        let marks = Marks::default();
        Self {
            services: DashMap::new(),
            unshown: DashMap::new(),
            nodes: DashMap::new(),
            own: DashMap::new(),
            spoken: DashMap::new(),
            index: AtomicU64::new(marks.first()),
            ready: AtomicBool::new(false),
            this: ArcSwapOption::empty(),
            changed: watch::channel(marks.first()).0,
            marks,
            beats: Beats::default(),
            atlas: Atlas::default(),
            homes: Homes::default(),
        }
    }
}

impl View {
    /// Whether answers may be given: all is heard that the mesh knows, or there is nobody to hear.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// A number that grows with each change of anything.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index.load(Ordering::Acquire)
    }

    /// The same as the serial number of a zone: of the index, the part that grows, and of that as much as fits
    /// (RFC 1982: only the order of near ones counts).
    #[must_use]
    pub fn serial(&self) -> u32 {
        (self.index() >> TAG_BITS) as u32
    }

    /// Wakes when [`View::index`] has grown.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The number of a topic's last change: what is read afterwards is at least as new.
    #[must_use]
    pub fn mark(&self, topic: &Topic) -> u64 {
        self.marks.of(topic)
    }

    /// A number that is another one after each change of `basis`. Read it before what it is to stand for.
    #[must_use]
    pub fn beat(&self, basis: Basis) -> u64 {
        self.beats.read(basis, self.index())
    }

    /// Who stands at an address.
    #[must_use]
    pub fn tenants(&self, address: IpAddr) -> Option<Arc<Tenants>> {
        self.atlas.tenants(address)
    }

    /// A row on the node of that name, in any case, which runs no agent and stands in one of the datacenters that `is_there`
    /// holds for: one whose agent is reached, if one is.
    #[must_use]
    pub fn foreign_node(&self, name: &str, is_there: impl Fn(&str) -> bool) -> Option<Instance> {
        let rows = self.on_foreign_node(name, is_there).into_iter();
        rows.max_by_key(|row| row.precedence())
    }

    /// All rows on that node, those of agents that are Down too.
    #[must_use]
    pub fn on_foreign_node(&self, name: &str, is_there: impl Fn(&str) -> bool) -> Vec<Instance> {
        let hosted = self.atlas.hosted(&fold(name)).unwrap_or_default();
        let services: Vec<_> = hosted.services.iter().filter_map(|service| self.service(service)).collect();
        let is_it = |row: &&Instance| {
            row.registration.foreign().is_some_and(|node| node.is_called(name)) && is_there(&row.node.datacenter)
        };
        services.iter().flat_map(|service| service.rows()).filter(is_it).cloned().collect()
    }

    /// All that is said of that node, whichever of it is shown.
    #[must_use]
    pub fn node_words(&self, datacenter: &str, name: &str) -> Vec<NodeWord> {
        self.homes.words(&Home::new(datacenter, name))
    }

    /// Whether a node, in any state, stands in the datacenter of that name, in any case.
    #[must_use]
    pub fn has_datacenter(&self, name: &str) -> bool {
        self.atlas.has_datacenter(&fold(name))
    }

    /// Whether this start of the process issued a number of [`View::index`] or [`View::mark`].
    #[must_use]
    pub fn has_issued(&self, number: u64) -> bool {
        self.marks.is_ours(number)
    }

    /// A place among those who wait for a topic, and for nothing else: a crowd of readers costs a busy mesh nothing.
    /// Subscribe, then look.
    #[must_use]
    pub fn wait(self: &Arc<Self>, topic: Topic) -> Waiter {
        let heard = self.marks.wait(&topic);
        Waiter { heard, _place: Place { view: Arc::clone(self), topic } }
    }

    /// As [`View::wait`], for the service of that name.
    #[must_use]
    pub fn subscribe_service(self: &Arc<Self>, name: &str) -> Waiter {
        self.wait(Topic::Service(fold(name).into_owned()))
    }

    /// The service of that name, in any case; `None` if nobody has registered it.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<Arc<Service>> {
        self.services.get(&*fold(name)).map(|found| Arc::clone(&found))
    }

    /// All services, by name.
    #[must_use]
    pub fn services(&self) -> Vec<Arc<Service>> {
        let mut all = self.rows();
        all.retain(|service| service.is_listed());
        all
    }

    /// As [`View::services`], with the names under which nothing but rows in another role stand.
    #[must_use]
    pub fn rows(&self) -> Vec<Arc<Service>> {
        let mut all: Vec<_> = self.services.iter().map(|entry| Arc::clone(entry.value())).collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The rows under a service's name that `is` holds for, shown or not: also those that another agent's word outweighs, and
    /// the last words of who has gone.
    #[must_use]
    pub fn words(&self, name: &str, is: impl Fn(&Instance) -> bool) -> Vec<Instance> {
        let (unshown, shown) = (self.unshown.get(&*fold(name)), self.service(name));
        let shown = shown.iter().flat_map(|service| service.rows());
        shown.chain(unshown.iter().flat_map(|unshown| unshown.iter())).filter(|row| is(row)).cloned().collect()
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

    /// What was registered on this node, by id. Last words are nobody's registrations.
    #[must_use]
    pub fn registrations(&self) -> Vec<Arc<Registration>> {
        let standing = self.own.iter().filter(|entry| !entry.is_taken_back());
        let mut all: Vec<_> = standing.map(|entry| Arc::clone(entry.value())).collect();
        all.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        all
    }

    /// What was registered on this node under `id`.
    #[must_use]
    pub fn registration(&self, id: &InstanceId) -> Option<Arc<Registration>> {
        self.row(id).filter(|own| !own.is_taken_back())
    }

    /// This node's own row under `id`, which may be a last word: what a write finds.
    #[must_use]
    pub fn row(&self, id: &InstanceId) -> Option<Arc<Registration>> {
        self.own.get(id).map(|found| Arc::clone(&found))
    }

    /// Publishes a service: all its rows, those of members that are Down too; `None` when nobody registers it any more.
    /// [`View::advance`] tells of it.
    pub fn set_service(&self, name: &ServiceName, rows: Option<Vec<Instance>>) {
        let old = self.service(name.as_str());
        let moved = self.homes.hear(&name.folded(), old.as_deref(), rows.as_deref().unwrap_or_default());
        self.publish(name, rows);
        let hosted = moved.iter().filter_map(|home| self.atlas.hosted(&home.node));
        let services: BTreeSet<_> = hosted.flat_map(|hosted| hosted.services.clone()).collect();
        for service in services.iter().filter_map(|service| self.service(service)) {
            self.publish(&service.name, Some(service.rows().cloned().collect()));
        }
    }

    /// Publishes rows that were heard of.
    fn publish(&self, name: &ServiceName, rows: Option<Vec<Instance>>) {
        let key = name.folded();
        let Some(mut rows) = rows else {
            if let Some((_, old)) = self.services.remove(&key) {
                self.atlas.move_service(&key, Some(&old), None);
                self.beats.service_changed(&key);
                self.marks.bury(Topic::Service(key));
                [Topic::Services, Topic::Rows].into_iter().for_each(|topic| self.marks.touch(topic));
                old.rows().for_each(|row| self.touch_row(row));
            }
            return;
        };
        self.homes.settle(&mut rows);
        rows.sort_unstable_by(|a, b| place(a).cmp(&place(b)));
        let spellings = rows.iter().map(|row| &row.registration.name).filter(|spelled| *spelled == name);
        let name = spellings.min_by_key(|spelled| spelled.as_str()).unwrap_or(name).clone();
        let (instances, beside) =
            rows.into_iter().partition(|row| row.member.is_shown() && !row.registration.has_role());
        let new = Arc::new(Service { name, instances, beside, index: self.marks.coming() });
        let old = self.services.get(&key).map(|old| Arc::clone(&old));
        let mut changed = Vec::new();
        let (instances, beside) = old.as_ref().map_or((&[][..], &[][..]), |old| (&old.instances, &old.beside));
        differences(instances, &new.instances, &mut changed);
        differences(beside, &new.beside, &mut changed);
        if let (true, Some(old)) = (changed.is_empty(), &old) {
            // Said again, and later: that counts among those who speak of it, and is news to nobody.
            self.services.insert(key, Arc::new(Service { index: old.index, ..Arc::unwrap_or_clone(new) }));
            return;
        }
        self.services.insert(key.clone(), Arc::clone(&new));
        self.atlas.move_service(&key, old.as_deref(), Some(&new));
        self.beats.service_changed(&key);
        self.marks.touch(Topic::Service(key));
        changed.iter().for_each(|row| self.touch_row(row));
        if old.as_ref().is_none_or(|old| !old.stands_as(&new)) {
            self.marks.touch(Topic::Rows);
            if old.is_none_or(|old| old.listing() != new.listing()) {
                self.marks.touch(Topic::Services);
            }
        }
    }

    /// Publishes what is said under a service's name and stands in no list of it: nobody waits for that.
    pub fn set_unshown(&self, name: &ServiceName, unshown: Vec<Instance>) {
        match unshown {
            none if none.is_empty() => drop(self.unshown.remove(&name.folded())),
            some => drop(self.unshown.insert(name.folded(), some)),
        }
    }

    fn touch_row(&self, row: &Instance) {
        let foreign = row.registration.foreign();
        let node = fold(foreign.map_or(row.node.name.as_str(), |node| &node.name));
        if foreign.is_some() {
            self.marks.touch(Topic::Nodes);
        }
        // A node without an agent has no topic of its own; that of a member of its name tells of it too.
        if foreign.is_none() || self.nodes.contains_key(&*node) {
            self.marks.touch(Topic::Node(node.into_owned()));
        }
        self.marks.touch(Topic::Checks);
        if row.registration.has_role() {
            // What is said of a node is said of all that stands on it.
            let stands = |service: &Service| service.rows().any(|other| row.stands_with(other));
            for service in self.services.iter().filter(|service| stands(service)) {
                self.marks.touch(Topic::Service(service.key().clone()));
            }
        }
    }

    /// Publishes a node; `None` when it is forgotten. [`View::advance`] tells of it.
    pub fn set_node(&self, name: &NodeName, member: Option<Member>) {
        let key = fold(name.as_str()).into_owned();
        let Some(member) = member.map(Arc::new) else {
            let old = self.nodes.remove(&key).map(|(_, old)| old);
            self.atlas.move_node(&key, old.as_deref(), None);
            self.beats.nodes_changed();
            self.marks.bury(Topic::Node(key));
            self.marks.touch(Topic::Nodes);
            return self.marks.touch(Topic::Checks);
        };
        let old = self.nodes.insert(key.clone(), Arc::clone(&member));
        self.atlas.move_node(&key, old.as_deref(), Some(&member));
        self.beats.nodes_changed();
        let state = |of: &Member| (of.state, of.epoch, of.held);
        if old.is_none_or(|old| state(&old) != state(&member) || !old.node.says_as(&member.node)) {
            self.marks.touch(Topic::Node(key));
            self.marks.touch(Topic::Nodes);
            self.marks.touch(Topic::Checks);
        }
    }

    /// Publishes which of the nodes is this one.
    pub fn set_this(&self, member: Member) {
        let node = Arc::clone(&member.node);
        let old = self.this.swap(Some(Arc::new(member)));
        if old.is_none_or(|old| old.node != node) {
            self.beats.state_changed();
        }
    }

    /// Publishes one of this node's own registrations; `None` when it was withdrawn.
    pub fn set_registration(&self, id: &InstanceId, registration: Option<Arc<Registration>>) {
        let Some(registration) = registration else {
            self.own.remove(id);
            self.spoken.remove(id);
            return self.marks.touch(Topic::Own);
        };
        let old = self.own.insert(id.clone(), Arc::clone(&registration));
        if old.is_none_or(|old| !old.says_as(&registration)) {
            self.marks.touch(Topic::Own);
        }
    }

    /// Publishes what checks of one of this node's own say before other nodes are told.
    pub fn set_words(&self, id: &InstanceId, report: Option<HealthReport>) {
        match report {
            Some(report) => drop(self.spoken.insert(id.clone(), report)),
            None => drop(self.spoken.remove(id)),
        }
    }

    /// A row of this node's own with what its checks say now, where that is more than its row says.
    #[must_use]
    pub fn spoken(&self, row: &Instance) -> Instance {
        let mut row = row.clone();
        let Some(words) = self.spoken.get(&row.registration.id) else { return row };
        let report = Arc::make_mut(&mut row.report);
        for check in &words.checks {
            // A row that has flipped meanwhile is the younger one.
            let stands = report
                .checks
                .iter_mut()
                .find(|own| (&own.id, own.status, own.since) == (&check.id, check.status, check.since));
            if let Some(own) = stands {
                own.output = Arc::clone(&check.output);
            }
        }
        row
    }

    /// Lets answers be given, or not any more.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
        self.beats.state_changed();
        self.advance();
    }

    /// Which node has this id.
    #[must_use]
    pub fn node_by_id(&self, id: NodeId) -> Option<Arc<Member>> {
        self.nodes.iter().find(|entry| entry.id == id).map(|entry| Arc::clone(entry.value()))
    }

    /// Whether something was published that nobody has been told of.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.marks.has_news()
    }

    /// Moves the marks and wakes those who wait for them: once for all that was published since the last time.
    pub fn advance(&self) {
        let next = self.marks.publish();
        self.index.store(next, Ordering::Release);
        self.changed.send_replace(next);
    }
}

/// Made by [`View::wait`].
#[derive(Debug)]
pub struct Waiter {
    heard: watch::Receiver<()>,
    /// Goes after it: two that leave at a time leave nothing behind.
    _place: Place,
}

#[derive(Debug)]
struct Place {
    view: Arc<View>,
    topic: Topic,
}

impl Waiter {
    /// Resolves when the topic has changed since this last resolved, or since it was made. Cancel-safe.
    pub async fn changed(&mut self) {
        // Its sender stays as long as this receiver is there.
        let _ = self.heard.changed().await;
    }
}

impl Drop for Place {
    /// The last to wait for a topic takes it away: names come from clients, who may think of many.
    fn drop(&mut self) {
        self.view.marks.leave(&self.topic);
    }
}

/// `name` in lower case, borrowed where it already is.
fn fold(name: &str) -> std::borrow::Cow<'_, str> {
    if name.bytes().any(|b| b.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name.into() }
}
