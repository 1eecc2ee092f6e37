//! Telling people: each event goes into the log under a stable key `event`, and into the journal.

use std::{net::SocketAddr, sync::Arc};

use tokio::time::Instant;

use super::{
    drive::Drive,
    journal::{Flip, Move, News},
    lines::Subject,
    unix_millis,
};
use crate::{
    mesh::{Event, Instance, Member},
    model::{Health, NodeName, ServiceName},
};

impl Drive {
    pub(super) fn tell(&mut self, event: Event) {
        let about = match &event {
            Event::Member { node, .. } | Event::Flapping { node, .. } => Some(*node),
            Event::Garbage { peer, .. } | Event::Expelled { peer, .. } => Some(*peer),
            _ => None,
        };
        let name = about.and_then(|id| Some(self.mesh.member(id)?.node.name.clone()));
        if let Some(unsaid) = subject(&event).map_or(Some(None), |about| self.unsaid(about)) {
            log(&event, name.as_ref(), unsaid);
        }
        if event == Event::Renewed {
            self.greeter.hello.store(Arc::new(self.mesh.hello()));
        }
        self.write(News::Mesh(event, name));
    }

    /// Tells which of a service's instances are in another health than in the view, which still is as before. One that was
    /// not there, or is not there now, tells of a member or a registration and not of health.
    pub(super) fn tell_of_health(&self, service: &ServiceName, rows: &[Instance]) {
        let Some(before) = self.view.service(service.as_str()) else { return };
        for row in rows.iter().filter(|row| row.member.is_shown()) {
            let same = |old: &&Instance| old.owner == row.owner && old.registration.id == row.registration.id;
            let Some(old) = before.instances.iter().find(same).filter(|old| old.report.health() != row.report.health())
            else {
                continue;
            };
            let flip = flip(service, old, row);
            if let Some(unsaid) = self.unsaid(Subject::Word(row.owner)) {
                tracing::info!(
                    event = "health", %service, instance = %flip.instance, node = %flip.node, was = %flip.was,
                    now = %flip.now, check = flip.check.as_deref(), why = &*flip.why, unsaid,
                );
            }
            self.write(News::Health(Box::new(flip)));
        }
    }

    /// Tells that a node is to be found elsewhere than in the view, which still is as before.
    pub(super) fn tell_of_move(&self, member: &Member) {
        let known = self.view.node(member.node.name.as_str()).filter(|known| known.id == member.id);
        let Some(known) = known.filter(|known| known.node.addresses != member.node.addresses) else { return };
        let (was, now) = (known.node.addresses.clone(), member.node.addresses.clone());
        let (node, is_this) = (member.node.name.clone(), member.id == self.mesh.id());
        let has_moved = has_moved(&was, &now);
        match self.unsaid(Subject::Word(member.id)) {
            Some(unsaid) if has_moved => tracing::warn!(event = "moved", %node, ?was, ?now, unsaid),
            Some(unsaid) => tracing::info!(event = "addresses", %node, ?was, ?now, unsaid),
            None => {}
        }
        if has_moved {
            self.write(News::Moved(Box::new(Move { node, was, now, is_this })));
        }
    }

    /// Whether to tell of this one; then, how many like it were not told of before, if any.
    pub(super) fn unsaid(&self, about: Subject) -> Option<Option<u64>> {
        let unsaid = self.greeter.lines.about(about, Instant::now())?;
        Some((unsaid > 0).then_some(unsaid))
    }

    fn write(&self, news: News) {
        self.journal.write(unix_millis(), news);
    }
}

/// Whom an event is about that others can have happen as often as they like. Who is expelled stays so for a minute.
fn subject(event: &Event) -> Option<Subject> {
    match event {
        Event::Member { node, .. } | Event::Flapping { node, .. } => Some(Subject::Member(*node)),
        Event::Garbage { peer, .. } => Some(Subject::Word(*peer)),
        Event::ProtectionBegan { service, .. } | Event::ProtectionEnded { service, .. } => {
            Some(Subject::Service(service.clone()))
        }
        _ => None,
    }
}

fn log(event: &Event, name: Option<&NodeName>, unsaid: Option<u64>) {
    let name = name.map(NodeName::as_str);
    match event {
        Event::Member { node, was, now, cause } => {
            let was = was.map(crate::model::MemberState::as_str);
            tracing::info!(event = "member", node = name, id = %node, was, now = %now, cause = cause.as_str(), unsaid);
        }
        Event::Renewed => tracing::warn!(event = "renewed", "this node was taken for dead and came back"),
        Event::Garbage { peer, why } => tracing::warn!(event = "garbage", node = name, id = %peer, why, unsaid),
        Event::Expelled { peer, why } => {
            tracing::warn!(event = "expelled", node = name, peer = %peer, by = "this node", why);
        }
        Event::PartitionBegan { missing, of } => {
            tracing::warn!(event = "partition_began", missing, of, "cut off: serving what was last known");
        }
        Event::PartitionEnded { missing } => tracing::warn!(event = "partition_ended", missing),
        Event::ProtectionBegan { service, kept, of } => {
            tracing::warn!(event = "protection_began", %service, kept, of, unsaid, "serving its last healthy instances");
        }
        Event::ProtectionEnded { service, why } => {
            tracing::warn!(event = "protection_ended", %service, why = ?why, unsaid);
        }
        Event::Flapping { node, returns, hidden_for } => {
            tracing::warn!(event = "flapping", node = name, id = %node, returns, hidden_for = ?hidden_for, unsaid);
        }
        Event::Paused { late } => tracing::warn!(event = "paused", late = ?late, "this process did not run"),
    }
}

/// Whether a node is not where it was: an address besides, such as that of an interface that came up, moves nobody.
fn has_moved(was: &[SocketAddr], now: &[SocketAddr]) -> bool {
    was.first() != now.first() || !was.iter().all(|old| now.contains(old))
}

/// What changed, and the check that changed it: one that is as bad as the whole, and was not before; else, of a recovery,
/// the one that recovered.
fn flip(service: &ServiceName, old: &Instance, new: &Instance) -> Flip {
    let (was, now) = (old.report.health(), new.report.health());
    let changed = |check: &&crate::model::CheckStatus| {
        old.report.checks.iter().all(|before| before.id != check.id || before.status != check.status)
    };
    let changed: Vec<_> = new.report.checks.iter().filter(changed).collect();
    let cause = changed.iter().find(|check| check.status == now).or(changed.first());
    let maintenance = new.report.maintenance.clone().filter(|_| now == Health::Maintenance);
    let (check, why) = match (maintenance, cause) {
        (Some(why), _) => (None, why),
        (None, Some(check)) => (Some(check.id.as_str().into()), Arc::clone(&check.output)),
        (None, None) => (None, "".into()),
    };
    let node = new.node.name.clone();
    Flip { service: service.clone(), instance: new.registration.id.clone(), node, was, now, check, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_an_address_more_has_not_moved() {
        let at = |ports: &[u16]| ports.iter().map(|port| ([10, 0, 0, 1], *port).into()).collect::<Vec<_>>();
        for (was, now, moved) in [
            (&[1][..], &[1, 2][..], false),
            (&[1, 2], &[1], true),
            (&[1], &[2, 1], true),
            (&[1, 2], &[1, 3, 2], false),
            (&[], &[1], true),
        ] {
            assert_eq!(has_moved(&at(was), &at(now)), moved, "{was:?} {now:?}");
        }
    }
}
