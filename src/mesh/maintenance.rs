//! Taken out of service on purpose: a node or one of its instances, with a reason. And what a restart brings back: that,
//! and where each check stood.

use std::sync::Arc;

use super::{
    Mesh,
    claim::{Claim, Key},
    event::{Done, Output, Rejected},
};
use crate::model::{FieldError, Health, HealthReport, InstanceId, Node, Time};

/// Whether a text may stand as the reason.
pub(super) fn is_reason(text: &str) -> bool {
    text.len() <= MAX_REASON && !text.chars().any(char::is_control)
}

impl Mesh {
    /// What would come of taking an instance or the node out of service, or back into it.
    ///
    /// # Errors
    /// As [`Mesh::command`] has them.
    pub fn foresee_maintenance(
        &self,
        instance: Option<&InstanceId>,
        reason: Option<&Arc<str>>,
    ) -> Result<Done, Rejected> {
        if reason.is_some_and(|reason| !is_reason(reason)) {
            return Err(FieldError::new("reason", "is longer than 512 bytes or holds a control character").into());
        }
        let present = match instance {
            Some(id) if self.registration(id).is_none() => return Err(Rejected::NotFound(format!("instance {id}"))),
            Some(id) => self.maintenance.get(id),
            None => self.maintenance(),
        };
        Ok(if present == reason { Done::Unchanged } else { Done::Changed })
    }

    /// Takes an instance or the node out of service, or back into it.
    pub(super) fn maintain(
        &mut self,
        now: Time,
        instance: Option<&InstanceId>,
        reason: Option<Arc<str>>,
    ) -> Result<Done, Rejected> {
        if self.foresee_maintenance(instance, reason.as_ref())? == Done::Unchanged {
            return Ok(Done::Unchanged);
        }
        let Some(id) = instance else { return self.maintain_node(now, reason) };
        let before = self.set_maintenance(id, reason);
        self.publish_report(now, id).inspect_err(|_| drop(self.set_maintenance(id, before)))?;
        Ok(Done::Changed)
    }

    /// The reason before.
    fn set_maintenance(&mut self, id: &InstanceId, reason: Option<Arc<str>>) -> Option<Arc<str>> {
        match reason {
            Some(reason) => self.maintenance.insert(id.clone(), reason),
            None => self.maintenance.remove(id),
        }
    }

    fn maintain_node(&mut self, now: Time, reason: Option<Arc<str>>) -> Result<Done, Rejected> {
        if self.config.node.maintenance == reason {
            return Ok(Done::Unchanged);
        }
        let node = Node { maintenance: reason.clone(), ..self.config.node.clone() };
        self.write(now, Key::Node, Some(Claim::Node(Arc::new(node))))?;
        self.config.node.maintenance = reason;
        self.outbox.push(Output::Keep(None));
        Ok(Done::Changed)
    }

    /// Why this node is out of service, if it is.
    #[must_use]
    pub const fn maintenance(&self) -> Option<&Arc<str>> {
        self.config.node.maintenance.as_ref()
    }

    /// What this node knows of the health of one of its instances; `None` if there is nothing to know.
    #[must_use]
    pub fn health_report(&self, instance: &InstanceId) -> Option<HealthReport> {
        self.report_of(instance)
    }

    /// Takes up where an earlier process of this node stood, which lived until then (unix milliseconds): what it kept by
    /// [`Output::Keep`]. Checks that are no more, or are told apart by other ids, begin anew.
    pub fn restore(
        &mut self,
        now: Time,
        node: Option<Arc<str>>,
        reports: impl IntoIterator<Item = (InstanceId, HealthReport)>,
        lived_until: u64,
    ) {
        // What was taken once is taken again.
        let _ = self.maintain_node(now, node);
        for (id, report) in reports {
            if self.registration(&id).is_none() {
                continue;
            }
            if let Some(reason) = report.maintenance {
                self.maintenance.insert(id.clone(), reason);
            }
            report.kept.into_iter().for_each(|until| self.restore_verdict(now, &id, until));
            for status in report.checks.into_iter().filter(|status| status.status != Health::Maintenance) {
                self.restore_check(now, &id, status, lived_until);
            }
            let _ = self.publish_report(now, &id);
        }
    }
}

/// A sentence, not a story.
const MAX_REASON: usize = 512;
