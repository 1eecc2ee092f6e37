//! The laws, checked from outside: each a function with the law's sentence.
//!
//! The oracle knows what a core cannot: all that was ever registered, who really left, and what each process has shown
//! before. It reads the public interface only.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::world::{Settings, World};
use crate::{
    mesh::{Cause, Event, Held, Member, Mesh, Output, wire},
    model::{Epoch, InstanceId, MemberState, NodeId, Registration, Time},
};

/// Registrations as others are told, by owner and instance.
type Registrations = BTreeMap<NodeId, BTreeMap<InstanceId, Registration>>;

/// How often the laws are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// After every step, on the machine it touched.
    Every,
    /// After every step in which the core said anything to its own node, and after one in 31 of the others, in
    /// which it said at most something to its peers: for lives of hours, most of which is probes.
    Changes,
    /// Never: for measurements.
    Off,
}

/// What the oracle remembers.
#[derive(Debug)]
pub(super) struct Oracle {
    depth: Depth,
    /// All that was ever registered, as others are told, by owner and instance.
    published: BTreeMap<NodeId, BTreeMap<InstanceId, Vec<Registration>>>,
    /// Who has said goodbye, or may have said anything.
    left: Vec<NodeId>,
    /// Who may say anything.
    liar: Option<NodeId>,
    /// The highest (epoch, version) of each owner that each running process has shown.
    marks: Vec<BTreeMap<NodeId, (Epoch, u64)>>,
}

impl Oracle {
    pub(super) const fn new(settings: &Settings) -> Self {
        Self { depth: settings.depth, published: BTreeMap::new(), left: Vec::new(), liar: None, marks: Vec::new() }
    }

    pub(super) fn registered(&mut self, owner: NodeId, registration: &Arc<Registration>) {
        if self.depth != Depth::Off {
            let published = registration.published();
            let versions = self.published.entry(owner).or_default().entry(published.id.clone()).or_default();
            if !versions.contains(&published) {
                versions.push(published);
            }
        }
    }

    pub(super) fn started(&mut self, n: usize) {
        if self.marks.len() <= n {
            self.marks.resize_with(n + 1, BTreeMap::new);
        }
        self.marks[n].clear();
    }

    /// From now on this member may say anything: what is believed of it proves nothing.
    pub(super) fn corrupt(&mut self, id: NodeId) {
        self.left.push(id);
        self.liar = Some(id);
    }

    pub(super) fn leaves(&mut self, id: NodeId) {
        self.left.push(id);
    }

    pub(super) const fn is_due(&self, steps: u64, told: bool) -> bool {
        match self.depth {
            Depth::Every => true,
            Depth::Changes => told || steps.is_multiple_of(SAMPLE),
            Depth::Off => false,
        }
    }

    /// The most outputs of one step: a few for each peer and each instance.
    pub(super) fn most_outputs(&self, machines: usize) -> usize {
        let instances: usize = self.published.values().map(BTreeMap::len).sum();
        10_000 + 16 * (machines + instances) + if self.depth == Depth::Off { 10_000_000 } else { 0 }
    }
}

impl World {
    /// Checks every law on one machine.
    ///
    /// # Panics
    /// When a law is broken.
    pub(super) fn check(&mut self, n: usize) {
        let Some(mesh) = self.mesh(n) else { return };
        let members: Vec<Member> = mesh.members().collect();
        let misread = mesh.stats().books_misread > 0;
        let verdict = marks_only_grow(&members, misread, &mut self.oracle.marks[n])
            .and_then(|()| left_only_by_their_own_word(self, &members))
            .and_then(|()| owners_have_what_they_registered(self, n))
            .and_then(|()| shown_is_live_and_published(self, n));
        if let Err((law, what)) = verdict {
            self.broken(law, n, &what);
        }
    }

    /// S6: Down needs evidence. A silence that became a verdict was longer than a look, whoever accuses. And since all
    /// members here are honest, none is ever shut out.
    pub(super) fn check_event(&self, n: usize, event: &Event) {
        if let Event::Expelled { peer, why } = event
            && self.oracle.liar != Some(*peer)
        {
            self.broken("S5: nobody pays for another", n, &format!("it shuts out {peer}, which is honest: {why}"));
        }
        let Event::Member { node, now: MemberState::Down, cause, .. } = event else { return };
        let Some((process, told)) = self.machines[n].process.as_ref().and_then(|p| Some((p, p.mesh.explain(*node)?)))
        else {
            return;
        };
        if self.oracle.liar == Some(*node) {
            return;
        }
        let sign = told.answered.max(told.vouched).unwrap_or(Time::ZERO);
        let silence = process.local(self.now).since(sign);
        if *cause != Cause::Will && sign > Time::ZERO && silence < LOOK {
            self.broken(
                "S6: Down needs evidence",
                n,
                &format!("{node} answered {silence:?} ago, and is Down: {cause:?}"),
            );
        }
    }

    /// Checks the limits of what a core sends.
    pub(super) fn check_output(&self, n: usize, output: &Output) {
        let (len, limit) = match output {
            Output::Packet(_, bytes) => (bytes.len(), wire::MAX_PACKET),
            Output::Message(_, bytes) => (bytes.len(), wire::MAX_MESSAGE),
            _ => return,
        };
        if len > limit {
            self.broken("8: every queue has a limit", n, &format!("it sends {len} bytes where {limit} are allowed"));
        }
    }

    /// Whether all machines that run agree and show exactly what is registered.
    #[must_use]
    pub fn agrees(&self) -> bool {
        let mut roots = self.running().filter_map(|n| self.mesh(n)).map(Mesh::root);
        let first = roots.next();
        roots.all(|root| Some(root) == first) && self.disagreement().is_none()
    }

    /// The first machine that differs from what should be known everywhere, and in what; `None` when all agree.
    #[must_use]
    pub fn disagreement(&self) -> Option<(usize, String)> {
        let running: BTreeMap<NodeId, usize> = self.running().map(|n| (self.id(n), n)).collect();
        let first = self.mesh(*running.values().min()?)?.root();
        let wanted = self.wanted();
        self.running().find_map(|n| {
            let mesh = self.mesh(n)?;
            let differs = || format!("its root is {:016x}, that of the first machine {first:016x}", mesh.root());
            let what = (!mesh.is_ready())
                .then(|| "it is not ready".into())
                .or_else(|| strangers(mesh, &running))
                .or_else(|| self.differs_from(n, &wanted))
                .or_else(|| (mesh.root() != first).then(differs))?;
            Some((n, what))
        })
    }

    /// All that is registered on machines that run, as others are told.
    fn wanted(&self) -> Registrations {
        let published = |n| self.registrations(n).map(|one| (one.id.clone(), one.published())).collect();
        self.running().map(|n| (self.id(n), published(n))).collect()
    }

    /// What machine `n` shows and should not, or should and does not.
    fn differs_from(&self, n: usize, wanted: &Registrations) -> Option<String> {
        let mesh = self.mesh(n)?;
        let mut found = 0;
        for instance in mesh.services().flat_map(|name| mesh.service(name).unwrap_or_default()) {
            let (id, owner) = (&instance.registration.id, &instance.node.name);
            match wanted.get(&instance.owner).and_then(|of| of.get(id)) {
                Some(published) if is_published_as(published, &instance.registration) => found += 1,
                Some(_) => return Some(format!("it shows an old {id} of {owner}")),
                None => return Some(format!("it shows {id} of {owner}, which is not registered")),
            }
        }
        if found == wanted.values().map(BTreeMap::len).sum::<usize>() {
            return None;
        }
        let shows = |owner: NodeId, one: &Registration| {
            self.shown(n, &one.name).iter().any(|shown| shown.owner == owner && shown.registration.id == one.id)
        };
        let mut all = wanted.iter().flat_map(|(owner, of)| of.values().map(move |one| (*owner, one)));
        all.find(|(owner, one)| !shows(*owner, one)).map(|(owner, one)| format!("it lacks {} of {owner}", one.id))
    }

    /// Ends the run: names the law, the place, the time, and how to see it again.
    pub(super) fn broken(&self, law: &str, n: usize, what: &str) -> ! {
        let name = self.machines.get(n).map_or("?", |machine| machine.node.name.as_str());
        let seed = self.settings.seed;
        panic!(
            "law {law}\n  broken at {} on machine {n} ({name}): {what}\n  replay: HOBNOB_SEED={seed} {}",
            self.now, self.settings.replay
        );
    }
}

/// A running machine that `mesh` does not see alive, or a member it shows that does not run.
fn strangers(mesh: &Mesh, running: &BTreeMap<NodeId, usize>) -> Option<String> {
    let mut seen = BTreeMap::new();
    for member in mesh.members() {
        if member.state.is_shown() && !running.contains_key(&member.id) {
            return Some(format!("it shows {}, which does not run, as {}", member.node.name, member.state));
        }
        seen.insert(member.id, member.state);
    }
    let missing = running.iter().find(|(id, _)| seen.get(id) != Some(&MemberState::Alive));
    missing.map(|(id, n)| format!("it sees machine {n} ({id}) as {:?}", seen.get(id)))
}

/// Why a law is broken: its sentence, and what was seen.
type Verdict = Result<(), (&'static str, String)>;

/// Law 4: a Mark {epoch, floor, version} only grows, in that order; no process ever shows an older one.
fn marks_only_grow(members: &[Member], misread: bool, marks: &mut BTreeMap<NodeId, (Epoch, u64)>) -> Verdict {
    for member in members {
        let now = (member.epoch, member.version);
        let highest = marks.entry(member.id).or_insert(now);
        // A book that was forgotten with its owner, who left or was Down for long, is read anew; so is one that is
        // not what its owner signed.
        let anew = (misread || !member.state.is_shown()) && member.version == 0 && member.epoch >= highest.0;
        if now < *highest && !anew {
            let what = format!("{} fell from {highest:?} to {now:?}", member.node.name);
            return Err(("4: a Mark {epoch, floor, version} only grows, in that order", what));
        }
        *highest = now;
    }
    Ok(())
}

/// S6: Left only by the owner.
fn left_only_by_their_own_word(world: &World, members: &[Member]) -> Verdict {
    match members.iter().find(|member| member.state == MemberState::Left && !world.oracle.left.contains(&member.id)) {
        Some(member) => Err(("S6: Left only by the owner", format!("it believes that {} has left", member.node.name))),
        None => Ok(()),
    }
}

/// S7: a running owner's catalogue equals what it registered.
fn owners_have_what_they_registered(world: &World, n: usize) -> Verdict {
    let wanted = &world.machines[n].disk.registrations;
    let Some(mesh) = world.mesh(n) else { return Ok(()) };
    let found = mesh.registrations().count();
    let is_published = |one: &Registration| mesh.registration(&one.id).is_some_and(|own| **own == one.published());
    let differs = wanted.values().find(|registration| !is_published(registration));
    match differs {
        _ if found > wanted.len() => Err((S7, format!("it has {found} registrations, not {}", wanted.len()))),
        Some(registration) => Err((S7, format!("{} is not what was registered", registration.id))),
        None => Ok(()),
    }
}

const S7: &str = "S7: a running owner's catalogue equals what it registered";

/// Laws 3 and 7: a book is written only by its owner; what is shown = live rows of members not Down. So every instance
/// was once registered by its owner, just like this, and its owner is a member that may be shown.
fn shown_is_live_and_published(world: &World, n: usize) -> Verdict {
    let Some(mesh) = world.mesh(n) else { return Ok(()) };
    for instance in mesh.services().flat_map(|name| mesh.service(name).unwrap_or_default()) {
        let id = &instance.registration.id;
        let state = mesh.member(instance.owner).map(|member| member.state);
        let held = matches!(instance.held, Some(Held::CutOff(_))) && mesh.partition().is_some();
        if (state != Some(instance.member) && !held) || !instance.member.is_shown() {
            let what = format!("{id} of {} is shown; its owner is {state:?}", instance.node.name);
            return Err(("7: what is shown = live rows of members not Down", what));
        }
        let versions = world.oracle.published.get(&instance.owner).and_then(|of| of.get(id));
        let known =
            versions.is_some_and(|versions| versions.iter().any(|one| is_published_as(one, &instance.registration)));
        if !known {
            let what = format!("{id} of {} was never registered like this", instance.node.name);
            return Err(("3: a book is written only by its owner", what));
        }
    }
    Ok(())
}

/// Prime, so that no rhythm of the mesh escapes it.
const SAMPLE: u64 = 31;
/// The least time in which a member that is looked for could have answered.
const LOOK: Duration = Duration::from_millis(200);

/// Whether `shown` is `published`, checks aside: only the owner itself knows those.
fn is_published_as(published: &Registration, shown: &Registration) -> bool {
    if shown.checks.is_empty() { published == shown } else { *published == shown.published() }
}
