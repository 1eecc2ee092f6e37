//! Whether this node itself is let in no more, and by whose word: the authority's, where it was still told of it, else that
//! of a peer who has hung up on it.

use std::{net::SocketAddr, sync::Arc};

use super::{Trust, Word};
use crate::agent::gazette;

/// That a node is let in no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcast {
    /// In unix milliseconds.
    pub since: u64,
    /// Who says so, and why.
    pub by: String,
    /// What of it the authority has revoked, where this node was told: `node` or `serial`.
    pub revoked: Option<&'static str>,
}

impl Trust {
    /// A peer has hung up, and said why.
    pub(in crate::agent) fn shut_out(&self, by: SocketAddr, why: &str) {
        let since = self.shut_out.load().as_ref().map_or_else(gazette::now, |known| known.since);
        self.shut_out.store(Some(Arc::new(Outcast { since, by: format!("{by}, which says: {why}"), revoked: None })));
    }

    /// A peer has let this node in.
    pub(in crate::agent) fn let_in(&self) {
        if self.shut_out.load().is_some() {
            self.shut_out.store(None);
        }
    }

    /// Whether this node is let in no more, as far as it knows. One peer's word counts where no other keeps it company.
    pub(in crate::agent) fn outcast(&self, is_alone: bool) -> Option<Outcast> {
        let law = self.law();
        let denied = law.denial(&self.node, &self.says().serial);
        let by_law = denied.map(|said| {
            let revoked = if matches!(said.word, Word::DenyNode(_)) { "node" } else { "serial" };
            Outcast { since: said.at, by: "the mesh's authority, which has revoked it".into(), revoked: Some(revoked) }
        });
        by_law.or_else(|| self.shut_out.load_full().filter(|_| is_alone).map(|known| Outcast::clone(&known)))
    }
}
