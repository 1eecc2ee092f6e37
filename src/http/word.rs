//! Whose word counts where several agents speak of one thing: of what stands on a node without an agent, or of a client of
//! Eureka's that moved between them. Whoever writes asks here, and nowhere else.
//!
//! It is what was said last, whether lists show it, and whether the agent that said it is reached. Lists show what those say
//! who are reached; but what is written over that would undo the later word for good.
//!
//! For the same reason nobody writes before this agent has heard the others: its word would be the last one over words that
//! it does not know.

use std::{ops::Deref, sync::Arc};

use axum::http::StatusCode;

use super::{App, Problem};
use crate::{
    agent::{NodeWord, View, unix_millis},
    mesh::Instance,
    model::{EchoNode, InstanceId, NodeId, Registration},
};

/// What an agent shows that has heard the others: the only one to ask whose word counts.
#[derive(Clone, Copy)]
pub(super) struct Heard<'a>(&'a View);

impl<'a> Heard<'a> {
    /// Refuses until it has, as reads do.
    pub(super) fn of(app: &'a App) -> Result<Self, Problem> {
        app.ready()?;
        Ok(Self(app.agent.view()))
    }
}

impl Deref for Heard<'_> {
    type Target = View;

    fn deref(&self) -> &View {
        self.0
    }
}

/// All that is said of one thing.
pub(super) struct Words {
    this: Option<NodeId>,
    own: Option<Arc<Registration>>,
    /// What other agents say, the latest last.
    others: Vec<Instance>,
}

impl Words {
    /// What is said of that which a registration is about.
    pub(super) fn on(view: Heard<'_>, asked: &Registration) -> Self {
        // Nobody else is known before this node is.
        let this = view.this();
        let subject = asked.subject().filter(|_| this.is_some());
        let is_same = |row: &Registration| row.id == asked.id && subject.is_some() && row.subject() == subject;
        let is_other = |row: &Instance| {
            this.as_ref().is_some_and(|this| row.owner != this.id && row.node.datacenter == this.node.datacenter)
        };
        let mut others = view.words(asked.name.as_str(), |row| is_other(row) && is_same(&row.registration));
        others.sort_by_key(|row| (row.registration.said(), row.owner));
        let own = view.row(&asked.id).filter(|own| is_same(own));
        Self { this: this.map(|this| this.id), own, others }
    }

    /// What other agents say.
    pub(super) fn others(&self) -> impl Iterator<Item = &Instance> {
        self.others.iter()
    }

    /// The last word, where it is another agent's.
    pub(super) fn elsewhere(&self) -> Option<&Instance> {
        let own = self.own.as_ref().map(|own| (own.said(), self.this));
        self.others.last().filter(|last| Some((last.registration.said(), Some(last.owner))) > own)
    }

    /// The last word, whoever's it is.
    pub(super) fn last(&self) -> Option<&Arc<Registration>> {
        self.elsewhere().map(|last| &last.registration).or(self.own.as_ref())
    }
}

/// What was said last of the node of that name, which runs no agent, and when: by whichever agent, or by a row that this
/// one has just written.
pub(super) fn of_node(view: Heard<'_>, name: &str, own: Option<&Registration>) -> Option<(Arc<EchoNode>, u64)> {
    let this = view.this()?;
    let told = view.node_words(&this.node.datacenter, name).into_iter().max_by_key(NodeWord::moment);
    let own =
        own.and_then(|own| own.echo.as_ref()).and_then(|echo| Some((Arc::clone(echo.node.as_ref()?), echo.node_said)));
    own.into_iter().chain(told.map(|told| (told.node, told.said))).max_by_key(|(_, said)| *said)
}

/// What other agents say stands on that node.
pub(super) fn on_node(view: Heard<'_>, name: &str) -> Vec<Instance> {
    let Some(this) = view.this() else { return Vec::new() };
    let mut rows = view.on_foreign_node(name, |datacenter| *datacenter == *this.node.datacenter);
    rows.retain(|row| row.owner != this.id);
    rows
}

/// The row as the last word on what it is about. Also where it says again what this agent said before: another may have
/// spoken meanwhile, and is not heard of yet.
pub(super) fn said(view: Heard<'_>, mut row: Registration) -> Registration {
    let said = later_than(Words::on(view, &row).last().map(|last| last.said()));
    Arc::make_mut(row.echo.get_or_insert_default()).said = said;
    row
}

/// When a word is said that is to be the last, whatever the clocks of those who spoke before say.
pub(super) fn later_than(last: Option<u64>) -> u64 {
    unix_millis().max(last.map_or(0, |last| last.saturating_add(1)))
}

/// Refuses to make the health of a row of this node's own another while another agent's word is shown: nobody would see it, until
/// the row is shown again. What is this agent's own alone needs nobody's word.
pub(super) fn is_shown(app: &App, id: &InstanceId) -> Result<(), Problem> {
    let Some(own) = app.agent.view().row(id).filter(|own| own.subject().is_some()) else { return Ok(()) };
    let words = Words::on(Heard::of(app)?, &own);
    let Some(last) = words.elsewhere().filter(|last| last.member.is_shown()) else { return Ok(()) };
    let why = format!("the last word on {id:?} is with {} now: ask that agent, or register it here", last.node.name);
    Err(Problem::new(StatusCode::CONFLICT, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{http::native::fixtures, model::Echo};

    /// What nodes a (this one), b (suspect) and c (down) say of a client of Eureka's, by when.
    fn view(said: [Option<u64>; 3]) -> (View, Registration) {
        let (view, web) = (fixtures::view(), fixtures::web());
        let mut rows = web.instances;
        for (row, said) in rows.iter_mut().zip(said) {
            let eureka = [(Echo::TAKEN_BACK.to_owned(), "true".to_owned())].into();
            let echo = Echo { eureka, said: said.unwrap_or_default(), ..Echo::default() };
            let own = Registration::new("web", 8080).unwrap();
            row.registration = Arc::new(Registration { echo: Some(Arc::new(echo)), ..own });
        }
        let asked = (*rows[0].registration).clone();
        view.set_registration(&asked.id, said[0].map(|_| Arc::clone(&rows[0].registration)));
        let rows: Vec<_> = rows.into_iter().zip(said).filter(|(_, said)| said.is_some()).map(|(row, _)| row).collect();
        // None is shown: all have gone.
        view.set_service(&web.name, None);
        view.set_unshown(&web.name, rows);
        (view, asked)
    }

    #[test]
    fn what_was_said_last_counts_shown_or_not_reached_or_not() {
        for (said, elsewhere) in [
            ([None, None, None], None),
            ([None, Some(7), None], Some("b")),
            ([Some(8), Some(7), None], None),
            ([Some(8), Some(7), Some(9)], Some("c")),
            ([Some(8), Some(10), Some(9)], Some("b")),
            ([None, Some(u64::MAX), Some(9)], Some("b")),
        ] {
            let (view, asked) = view(said);
            let words = Words::on(Heard(&view), &asked);
            assert_eq!(words.elsewhere().map(|row| row.node.name.as_str()), elsewhere, "{said:?}");
            assert_eq!(words.last().map(|last| last.said()), said.into_iter().flatten().max(), "{said:?}");
        }
        let (view, asked) = view([None, Some(7), Some(9)]);
        let other = Registration { port: None, ..asked.clone() };
        assert!(Words::on(Heard(&view), &other).last().is_none(), "at another port it may be a namesake");
        let native = Registration { echo: None, ..asked };
        assert!(Words::on(Heard(&view), &native).last().is_none(), "an agent's own instance is nobody else's");
    }

    #[test]
    fn a_word_is_later_than_all_others_whatever_their_clocks_say() {
        let ahead = unix_millis() + 3_600_000;
        for said in [[None, Some(ahead), None], [Some(7), Some(ahead), None], [Some(7), None, Some(ahead)]] {
            let (view, asked) = view(said);
            assert_eq!(super::said(Heard(&view), asked).said(), ahead + 1, "{said:?}");
        }
        // Said again it is later too: another agent may have spoken since, and is not heard of yet.
        let (view, asked) = view([Some(ahead), Some(7), None]);
        let again = super::said(Heard(&view), asked.clone());
        assert!(again.said() > ahead && again.says_as(&asked));
    }
}
