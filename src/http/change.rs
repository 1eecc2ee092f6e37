//! Read, change, write: a registration is written over what was read, and made anew where somebody was quicker. Many may
//! change one at a time, and none undoes what another was told is done.

use super::App;
use crate::{
    agent::{Over, Refused},
    mesh::Rejected,
    model::{InstanceId, Registration},
};

/// What a registration is to become.
pub(super) enum Next {
    Put(Registration),
    Gone,
    /// It stays, or stays away.
    Same,
}

/// Makes of the registration under `id`, or of none, what `next` says: also of a last word, which no list shows. That may be
/// asked several times: a write that came too late lost to one that did not, so somebody always advances, and the time
/// that a request may take ends the rest.
pub(super) async fn change<E: From<Refused>>(
    app: &App,
    id: &InstanceId,
    mut next: impl FnMut(Option<&Registration>) -> Result<Next, E>,
) -> Result<(), E> {
    loop {
        let before = app.agent.view().row(id);
        let next = next(before.as_deref())?;
        let over = before.map_or(Over::Nothing, Over::This);
        let done = match next {
            Next::Put(registration) => app.agent.put_over(registration, over).await.map(drop),
            Next::Gone => app.agent.remove_over(id, over).await,
            Next::Same => Ok(()),
        };
        match done {
            Err(Refused::Outdated(_) | Refused::Rejected(Rejected::NotFound(_))) => {}
            done => return Ok(done?),
        }
    }
}
