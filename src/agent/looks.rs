//! What handles want to see that is in no view: the loop shows it, and waits for nobody.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use super::{Agent, Opens, Refused, Will, drive::Drive, namesake::Holder, unix_millis};
use crate::{
    mesh::{Command, Done, Explanation, Rejected, Stats},
    model::{NodeId, Time},
};

/// What handles want to see that is in no view.
pub(super) enum Look {
    /// The core's counters.
    Stats(oneshot::Sender<Stats>),
    /// What is to be said should this process die.
    Will(oneshot::Sender<Will>),
    /// When others were asked about a member: now.
    Inquire(NodeId, oneshot::Sender<Time>),
    /// Why a member is seen as it is.
    Explain(NodeId, oneshot::Sender<Option<Box<Explanation>>>),
    /// Nothing, but knock at a member and wait for its answer.
    Knock(NodeId, oneshot::Sender<()>),
    /// Nothing, but let answers be given as soon as they can be.
    Open(oneshot::Sender<()>),
}

/// Who waits for whose answer.
pub(super) type Knocks = Vec<(NodeId, oneshot::Sender<()>)>;

impl Drive {
    /// Whoever does not wait for it any more does not need it.
    pub(super) fn show(&mut self, look: Look) {
        match look {
            Look::Stats(reply) => drop(reply.send(self.mesh.stats())),
            Look::Will(reply) => drop(reply.send(self.will())),
            Look::Inquire(id, reply) => {
                // Who is not known here is not asked about; the explanation says so.
                let now = self.now();
                let _ = self.mesh.command(now, Command::Inquire(id));
                self.drain();
                let _ = reply.send(now);
            }
            Look::Open(reply) => {
                self.release();
                let _ = reply.send(());
            }
            Look::Explain(id, reply) => drop(reply.send(self.mesh.explain(id).map(Box::new))),
            Look::Knock(id, reply) => {
                self.agenda.knocks.retain(|(_, reply)| !reply.is_closed());
                if self.agenda.knocks.len() < MAX_KNOCKS && self.command(Command::Knock(id)).is_ok() {
                    self.agenda.knocks.push((id, reply));
                }
                self.drain();
            }
        }
    }

    /// Now; the core knows then what the wall says.
    pub(super) fn now(&mut self) -> Time {
        let now = self.clock.now();
        self.mesh.set_wall_clock(now, unix_millis());
        now
    }

    pub(super) fn command(&mut self, command: Command) -> Result<Done, Rejected> {
        let now = self.now();
        self.mesh.command(now, command)
    }

    /// Whom the core knows, alive, under this id.
    pub(super) fn holder(&self, id: NodeId) -> Option<Holder> {
        let member = self.mesh.member(id).filter(|member| member.state.is_shown())?;
        Some(Holder { epoch: member.epoch, addresses: member.node.addresses.clone() })
    }

    /// Lets handles know whose services are not taken.
    pub(super) fn name_the_unvouched(&self) {
        let unvouched: Vec<_> = self.mesh.unvouched().map(|id| self.called(id)).collect();
        if **self.status.unvouched.load() != unvouched {
            if !unvouched.is_empty() {
                tracing::warn!(event = "unvouched", nodes = ?unvouched, "what they serve is not taken: hobnob doctor");
            }
            self.status.unvouched.store(Arc::new(unvouched));
        }
    }

    /// Lets handles know who is waited for: whom it knew when it ran last, and has not heard.
    pub(super) fn name_the_awaited(&self) {
        if !self.view.is_ready() {
            let awaited = self.mesh.missed().map(|(id, _)| self.called(*id)).take(MAX_AWAITED).collect();
            self.status.awaited.store(Arc::new(awaited));
        }
    }

    /// For people: its name, or its id.
    fn called(&self, id: NodeId) -> String {
        self.name(id).map_or_else(|| id.to_string(), |name| name.to_string())
    }

    /// Whether answers wait for a word.
    pub(super) fn hold(&mut self, opens: Opens) {
        match opens {
            Opens::Synced => self.release(),
            Opens::Told => self.status.held.store(true, Ordering::Relaxed),
        }
    }

    /// From now on answers are given as soon as all is heard that the mesh knows, or is waited for no longer.
    fn release(&mut self) {
        self.status.held.store(false, Ordering::Relaxed);
        self.agenda.ready_at = self.agenda.held.take().or(self.agenda.ready_at);
    }

    fn will(&self) -> Will {
        // Who dialled this node may stand behind a NAT, where only his own word on his address leads to him.
        let reached = |(id, seen): (NodeId, SocketAddr)| {
            let told = self.mesh.addresses(id);
            if told.contains(&seen) { seen } else { told.first().copied().unwrap_or(seen) }
        };
        let heirs = self.peers.heirs().into_iter().map(reached).collect();
        Will::new(self.greeter.trust.estate(), self.mesh.hello(), heirs)
    }

    /// A member has said that it is there.
    pub(super) fn answered(&mut self, id: NodeId) {
        for (_, reply) in self.agenda.knocks.extract_if(.., |(asked, _)| *asked == id) {
            let _ = reply.send(());
        }
    }
}

impl Agent {
    /// Why a member is seen as it is, with what the others answer when they are asked now; `None` for a node that is not
    /// known, and for this one.
    pub async fn explain(&self, id: NodeId) -> Option<Box<Explanation>> {
        let asked = self.look(|reply| Look::Inquire(id, reply)).await?;
        let begun = Instant::now();
        loop {
            let mut explanation = self.look(|reply| Look::Explain(id, reply)).await??;
            // Who is silent now is not spoken for by what he said to whoever asked before.
            explanation.testimonies.retain(|testimony| testimony.at >= asked);
            if explanation.testimonies.len() >= explanation.asked || begun.elapsed() >= INQUIRY {
                return Some(explanation);
            }
            sleep(INQUIRY / 20).await;
        }
    }

    /// Why seeds are of no use, in sentences: since they were tried last, or since nobody is connected.
    #[must_use]
    pub fn unjoined(&self) -> Vec<String> {
        let (troubles, failed) = (self.shared.status.troubles.load(), self.shared.status.failed.load());
        troubles.iter().chain(failed.iter()).cloned().collect()
    }

    /// Why it does not answer yet; empty once it does.
    #[must_use]
    pub fn unready(&self) -> Vec<String> {
        if self.shared.view.is_ready() {
            return Vec::new();
        }
        if let Some(outcome) = &*self.shared.stopped.borrow() {
            return vec![outcome.as_ref().err().cloned().unwrap_or_else(|| Refused::Stopped.to_string())];
        }
        if self.shared.status.held.load(Ordering::Relaxed) {
            return vec!["what this node's own files define is being registered".into()];
        }
        let (mut reasons, unvouched) = (self.unjoined(), self.unvouched());
        let awaited = self.shared.status.awaited.load();
        let why = match (&unvouched[..], &awaited[..]) {
            ([], []) => "nobody who has heard the whole mesh has answered yet".into(),
            ([], known) => {
                format!("nobody who has heard the whole mesh has answered, and not heard is {}", known.join(", "))
            }
            (nodes, _) => {
                format!("nothing of what {} serves is taken: its certificate is not believed here", nodes.join(", "))
            }
        };
        let after = self.shared.config.ready_after.as_secs_f32();
        reasons.push(format!("{why}; what is stored is served after {after} s"));
        reasons
    }

    /// The nodes that are here and of whose services nothing is taken, since what vouches for them is not believed.
    #[must_use]
    pub fn unvouched(&self) -> Vec<String> {
        self.shared.status.unvouched.load().to_vec()
    }

    /// Knocks at a member and waits for its answer: the round trip from this agent's loop to the other's and back. `None`
    /// if it is silent for [`PATIENCE`], or is not known, or is this node.
    pub async fn ping(&self, id: NodeId) -> Option<Duration> {
        let begun = Instant::now();
        timeout(PATIENCE, self.look(|reply| Look::Knock(id, reply))).await.ok()??;
        Some(begun.elapsed())
    }

    /// Has the loop show something; `None` once it has stopped.
    pub(super) async fn look<T>(&self, look: impl FnOnce(oneshot::Sender<T>) -> Look) -> Option<T> {
        let (reply, seen) = oneshot::channel();
        self.shared.looks.send(look(reply)).await.ok()?;
        seen.await.ok()
    }
}

/// How long a [ping](Agent::ping) waits: three times what QUIC takes to send a packet again that was lost.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// How long others are waited for who are asked about a member: those who answer at all answer within a round trip.
const INQUIRY: Duration = Duration::from_millis(400);
/// Of those who are waited for, so many are named.
const MAX_AWAITED: usize = 8;
/// Knocks under way at once.
const MAX_KNOCKS: usize = 64;
