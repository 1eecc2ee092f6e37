//! Aliases that look at one another in a ring: nobody is critical because it was. What comes into a ring from outside of
//! it counts there, the other checks of its members first of all, and is handed on as far as aliases lead.
//!
//! Which rings there are changes with this node's registrations, what their members are worth with the view: each is
//! found once, in steps that grow with the number of aliases, for all that ask. Aliases of other nodes are not known here.

use std::{
    collections::{BTreeSet, BinaryHeap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    agent::{Topic, View},
    model::{Alias, CheckKind, CheckName, Health, InstanceId, NodeId, NodeName, Registration},
};

/// What the members of this node's rings are worth, as it was found last.
#[derive(Debug, Default)]
pub(super) struct Rings(Mutex<Found>);

#[derive(Debug, Default)]
struct Found {
    /// The mark of the registrations that it was found in, and the view's.
    own: u64,
    index: u64,
    worth: Arc<Worth>,
}

impl Rings {
    /// As of now; whoever asks again before the view has changed hears the same.
    pub(super) fn look(&self, view: &View) -> Arc<Worth> {
        // Read before what they stand for.
        let (own, index) = (view.mark(&Topic::Own), view.index());
        let Some(this) = view.this() else { return Arc::default() };
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = found.own != own;
        if is_new || (found.index != index && !found.worth.web.names.is_empty()) {
            let same = (!is_new).then(|| Arc::clone(&found.worth.web));
            let web = same.unwrap_or_else(|| Web::of(&view.registrations(), &this.node.name).into());
            *found = Found { own, index, worth: Worth::of(web, view, this.id).into() };
        }
        Arc::clone(&found.worth)
    }
}

/// What each member of a ring is worth to the others.
#[derive(Debug, Default)]
pub(super) struct Worth {
    web: Arc<Web>,
    health: Vec<Option<Health>>,
}

impl Worth {
    /// An instance's, if both are in one ring.
    pub(super) fn instance(&self, to: &InstanceId, id: &InstanceId) -> Option<Health> {
        self.shared(to, self.web.instances.get(id))
    }

    /// The same of a service, whose name is in lower case.
    pub(super) fn service(&self, to: &InstanceId, name: &str) -> Option<Health> {
        self.shared(to, self.web.services.get(name))
    }

    fn shared(&self, to: &InstanceId, of: Option<&usize>) -> Option<Health> {
        let (to, of) = (*self.web.instances.get(to)?, *of?);
        self.health[of].filter(|_| self.web.rings[to] == self.web.rings[of])
    }

    fn of(web: Arc<Web>, view: &View, this: NodeId) -> Self {
        let mut awaited = vec![0; web.rings.len()];
        let mut words = BinaryHeap::new();
        for name in &web.names {
            let (found, service) = (view.service(name), web.services.get(name));
            for row in found.iter().flat_map(|service| &service.instances) {
                let at = web.instances.get(&row.registration.id).filter(|_| row.owner == this);
                if let Some(&at) = at {
                    awaited[at] = 1;
                    words.push((row.health_without(&web.within[&at]), at));
                }
                if let Some(&service) = service {
                    awaited[service] += 1;
                    if at.is_none_or(|at| web.rings[*at] != web.rings[service]) {
                        words.push((row.own_health(), service));
                    }
                }
            }
        }
        let health = settle(awaited, words, |at, nth| web.lookers[at].get(nth).copied());
        Self { web, health }
    }
}

/// The members of rings: instances of this node, and services that they look at. Each is a number.
#[derive(Debug, Default)]
struct Web {
    instances: HashMap<InstanceId, usize>,
    services: HashMap<String, usize>,
    /// The ring of each.
    rings: Vec<usize>,
    /// Who looks at each from within its ring.
    lookers: Vec<Vec<usize>>,
    /// The checks by which an instance looks at its ring.
    within: HashMap<usize, Vec<CheckName>>,
    /// The services that the members are of.
    names: BTreeSet<String>,
}

impl Web {
    fn of(own: &[Arc<Registration>], node: &NodeName) -> Self {
        let looks = || own.iter().enumerate().flat_map(|(at, own)| aliases(own, node).map(move |look| (at, look)));
        if looks().next().is_none() {
            return Self::default();
        }
        let mut instances: HashMap<_, _> = own.iter().enumerate().map(|(at, own)| (own.id.clone(), at)).collect();
        let mut services = HashMap::new();
        let mut leads = vec![Vec::new(); own.len()];
        for (at, own) in own.iter().enumerate() {
            let service = *services.entry(own.name.folded()).or_insert(leads.len());
            leads.resize(leads.len().max(service + 1), Vec::new());
            leads[service].push(at);
        }
        let find = |alias: &Alias| {
            let service = || services.get(&alias.of.as_str().to_ascii_lowercase()).filter(|_| alias.node.is_none());
            instances.get(&alias.of).or_else(service).copied()
        };
        let looks: Vec<_> = looks().filter_map(|(at, (check, alias))| Some((at, check, find(alias)?))).collect();
        looks.iter().for_each(|(at, _, of)| leads[*at].push(*of));
        let rings = find_rings(leads.len(), |at, nth| leads[at].get(nth).copied());
        let (mut within, mut names) = (HashMap::<_, Vec<_>>::new(), BTreeSet::new());
        for (at, check, _) in looks.into_iter().filter(|(at, _, of)| rings[*at] == rings[*of]) {
            within.entry(at).or_default().push(check.clone());
            names.insert(own[at].name.folded());
        }
        if names.is_empty() {
            return Self::default();
        }
        instances.retain(|_, at| within.contains_key(at));
        let mut lookers = vec![Vec::new(); leads.len()];
        for (at, leads) in leads.iter().enumerate() {
            leads.iter().filter(|of| rings[at] == rings[**of]).for_each(|of| lookers[*of].push(at));
        }
        services.retain(|_, at| !lookers[*at].is_empty());
        Self { instances, services, rings, lookers, within, names }
    }
}

/// The checks by which an instance looks at something on this node.
fn aliases<'a>(own: &'a Registration, node: &'a NodeName) -> impl Iterator<Item = (&'a CheckName, &'a Alias)> {
    own.checks.iter().filter_map(move |check| match &check.kind {
        CheckKind::Alias(alias) if alias.node.as_ref().is_none_or(|name| name == node) => Some((&check.id, alias)),
        _ => None,
    })
}

/// Which ring each is in, by a number that its members share: the strongly connected components (Tarjan 1972), found
/// without recursion, since a ring may be as long as there are instances. `lead` is where each leads, first to last.
fn find_rings(count: usize, lead: impl Fn(usize, usize) -> Option<usize>) -> Vec<usize> {
    // Zero: not seen yet, in no ring yet.
    let (mut order, mut lowest, mut rings) = (vec![0; count], vec![0; count], vec![0; count]);
    let (mut path, mut open, mut clock) = (Vec::new(), Vec::new(), 0);
    for first in 0..count {
        let mut next = Some(first).filter(|first| order[*first] == 0);
        loop {
            if let Some(at) = next.take() {
                clock += 1;
                (order[at], lowest[at]) = (clock, clock);
                path.push((at, 0));
                open.push(at);
            }
            let Some((at, nth)) = path.last_mut() else { break };
            let at = *at;
            if let Some(of) = lead(at, *nth) {
                *nth += 1;
                if order[of] == 0 {
                    next = Some(of);
                } else if rings[of] == 0 {
                    lowest[at] = lowest[at].min(order[of]);
                }
                continue;
            }
            path.pop();
            if let Some((before, _)) = path.last() {
                lowest[*before] = lowest[*before].min(lowest[at]);
            }
            if lowest[at] == order[at] {
                let from = open.iter().rposition(|member| *member == at).unwrap_or_default();
                open.drain(from..).for_each(|member| rings[member] = order[at]);
            }
        }
    }
    rings
}

/// The best that all words allow. An instance is as bad as the worst that is said of it, which is heard first; a service
/// is as good as the last of its instances. `awaited` is how many words decide on each, `looker` who is told of it.
fn settle(
    mut awaited: Vec<usize>,
    mut words: BinaryHeap<(Health, usize)>,
    looker: impl Fn(usize, usize) -> Option<usize>,
) -> Vec<Option<Health>> {
    let mut settled = vec![None; awaited.len()];
    while let Some((health, at)) = words.pop() {
        let decides = awaited[at] == 1;
        awaited[at] = awaited[at].saturating_sub(1);
        if decides {
            settled[at] = Some(health);
            let told = (0..).map_while(|nth| looker(at, nth));
            words.extend(told.map(|looker| (health.min(Health::Critical), looker)));
        }
    }
    settled
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// One ring of all, and one instance that looks at every other.
    #[test]
    fn the_steps_grow_with_the_number_of_aliases() {
        let count = 10_000;
        let steps = Cell::new(0);
        let lead = |at: usize, nth: usize| {
            steps.set(steps.get() + 1);
            if at == 0 { (nth < count - 1).then_some(nth + 1) } else { (nth == 0).then(|| (at + 1) % count) }
        };
        let rings = find_rings(count, lead);
        assert!(rings.iter().all(|ring| *ring == rings[0]));
        let aliases = 2 * (count - 1);
        assert_eq!(steps.take(), aliases + count, "each alias once, and that there is no further one");
        let words =
            (0..count).map(|at| (if at == count / 2 { Health::Critical } else { Health::Passing }, at)).collect();
        let settled = settle(vec![1; count], words, lead);
        assert!(settled.iter().all(|health| *health == Some(Health::Critical)));
        assert_eq!(steps.take(), aliases + count);
    }

    #[test]
    fn rings_that_touch_are_one_and_a_bridge_joins_none() {
        let leads: [&[usize]; 8] = [&[1], &[2], &[0, 3], &[4], &[3, 5], &[5], &[5, 4], &[]];
        let rings = find_rings(leads.len(), |at, nth| leads[at].get(nth).copied());
        let shared = |at: usize| (0..leads.len()).filter(|other| rings[*other] == rings[at]).collect::<Vec<_>>();
        assert_eq!([0, 3, 5, 6, 7].map(shared), [vec![0, 1, 2], vec![3, 4], vec![5], vec![6], vec![7]]);
        let leads: [&[usize]; 4] = [&[1], &[0, 2], &[3], &[2, 1]];
        let rings = find_rings(leads.len(), |at, nth| leads[at].get(nth).copied());
        assert!(rings.iter().all(|ring| *ring == rings[0]), "{rings:?}");
    }
}
