//! Read, change, write: a registration is written over what was read, and made anew where somebody was quicker. Many may
//! change one at a time, and none undoes what another was told is done.

use std::sync::Arc;

use super::App;
use crate::{
    agent::{Over, Refused, unix_millis},
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

/// Makes of the registration under `id`, or of none, what `next` says. That may be asked several times: a write that came
/// too late lost to one that did not, so somebody always advances, and the time that a request may take ends the rest.
pub(super) async fn change<E: From<Refused>>(
    app: &App,
    id: &InstanceId,
    mut next: impl FnMut(Option<&Registration>) -> Result<Next, E>,
) -> Result<(), E> {
    loop {
        let before = app.agent.view().registration(id);
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

/// The row as the last word on its instance, later than what is shown of that; one that is shown already stays as it is.
pub(super) fn said(app: &App, mut row: Registration) -> Registration {
    let view = app.agent.view();
    let (this, service) = (view.this().map(|this| this.id), view.service(row.name.as_str()));
    let same = service.iter().flat_map(|service| service.rows()).filter(|shown| shown.registration.id == row.id);
    let shown = same.max_by_key(|shown| shown.precedence());
    let say = |row: &mut Registration, said| Arc::make_mut(row.echo.get_or_insert_default()).said = said;
    if let Some(own) = view.registration(&row.id).filter(|_| shown.is_some_and(|shown| Some(shown.owner) == this)) {
        say(&mut row, own.said());
        if row == *own {
            return row;
        }
    }
    let later = shown.map_or(0, |shown| shown.registration.said().saturating_add(1));
    say(&mut row, unix_millis().max(later));
    row
}
