//! Leases whose client has moved: once another agent has its later word, this one gives its lease up. So every face shows
//! one, and what is cancelled where it moved to is gone.

use std::{sync::Arc, time::Duration};

use tokio::{select, time::sleep};
use tokio_util::sync::CancellationToken;

use super::instance;
use crate::{
    agent::{Agent, Over, Topic, View},
    model::Registration,
};

/// Gives leases up, until the stop.
pub(in crate::http) async fn give_up(agent: Agent, stop: CancellationToken) {
    let view = agent.view();
    let mut rows = view.wait(Topic::Rows);
    while stop.run_until_cancelled(rows.changed()).await.is_some() {
        for own in view.registrations().into_iter().filter(|own| has_moved(view, own)) {
            let id = own.id.clone();
            // What was changed meanwhile, or could not be stored, is looked at again when anything else changes; and ends.
            if let Err(why) = agent.remove_over(&id, Over::This(own)).await {
                tracing::debug!(event = "lease_kept", %id, %why);
            }
        }
        select! {
            () = sleep(PAUSE) => {}
            () = stop.cancelled() => {}
        }
    }
}

fn has_moved(view: &View, own: &Arc<Registration>) -> bool {
    if !instance::is_ours(own) {
        return false;
    }
    let service = view.service(own.name.as_str());
    service.is_some_and(|service| service.instances.iter().any(|row| instance::has_moved(own, &row.registration)))
}

/// Between two looks: a mesh may change all the time.
const PAUSE: Duration = Duration::from_millis(100);
