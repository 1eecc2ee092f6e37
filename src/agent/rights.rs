//! What a handle does about trust: other papers, words for every node, one machine more.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::{oneshot, watch};

use super::{Agent, Refused, Secret, gazette, trust};
use crate::model::NodeName;

impl Agent {
    /// Takes other secrets or other files. Links stay, but those whose peers are not accepted any more.
    ///
    /// # Errors
    /// When they are of no use; the old ones stay.
    pub fn renew(&self, secrets: &[Secret], files: Option<&trust::Files>) -> Result<(), trust::Broken> {
        self.shared.trust.renew(files.map_or(trust::Proof::Secrets(secrets), trust::Proof::Files))
    }

    /// What the mesh's authority has decreed, as far as this node has heard.
    #[must_use]
    pub fn law(&self) -> Arc<trust::Law> {
        self.shared.trust.law()
    }

    /// Wakes when that has changed.
    pub(crate) fn law_changes(&self) -> watch::Receiver<()> {
        self.shared.trust.law_changes()
    }

    /// Decrees a word for every node, or takes it back, where this node may sign. Once this returns it is on disk and on
    /// its way to the others.
    ///
    /// # Errors
    /// This node may not, it says nothing new, or it could not be stored within some seconds: then it holds until a
    /// restart, and longer once that was done after all.
    pub async fn decree(&self, word: trust::Word, void: bool) -> Result<(), Refused> {
        let edict = self.shared.trust.decree(word, void, gazette::now());
        let edict = edict.map_err(|why| Refused::Undecreed(why.to_string()))?;
        self.publish(edict).await
    }

    /// Invites one new machine: what it needs, for a while and once, under this name or any that is free. Only this
    /// process knows of it.
    ///
    /// # Errors
    /// When this node does not hold the authority's key.
    pub fn invite(&self, node: Option<NodeName>, ttl: Duration) -> Result<trust::Invitation, trust::Broken> {
        let seeds = self.shared.view.this().map_or_else(Vec::new, |this| this.node.addresses.clone());
        self.shared.trust.invite(seeds, node, ttl)
    }

    /// Takes in what was signed elsewhere, by whoever keeps the authority's key, and spreads it.
    ///
    /// # Errors
    /// Nobody we believe has signed it, it says nothing new, or it could not be stored within some seconds.
    pub async fn publish(&self, edict: trust::Edict) -> Result<(), Refused> {
        let (reply, answer) = oneshot::channel();
        let heard = gazette::Heard::Decree(edict, reply);
        self.shared.gazette.send(heard).await.map_err(|_| Refused::Stopped)?;
        answer.await.unwrap_or(Err(Refused::Stopped))
    }

    /// Whether this node is let in no more, as far as it knows.
    #[must_use]
    pub fn outcast(&self) -> Option<trust::Outcast> {
        let this = self.view().this().map(|this| this.id);
        let is_alone = self.view().nodes_where(|member| member.state.is_shown() && Some(member.id) != this).is_empty();
        self.shared.trust.outcast(is_alone)
    }

    /// Whether this node's certificate is by the first of the authorities that it believes: the others are on their way
    /// out.
    #[must_use]
    pub fn is_by_first(&self) -> bool {
        self.shared.trust.is_by_first()
    }

    /// What the authorities say of themselves that have ended, while another is believed that has not.
    #[must_use]
    pub fn ended_authorities(&self) -> Vec<trust::Says> {
        self.shared.trust.ended(SystemTime::now())
    }

    /// How many words of the law the first of the authorities has not signed, and of them how many no other has either.
    #[must_use]
    pub fn stale_edicts(&self) -> (usize, usize) {
        self.shared.trust.stale()
    }

    /// The file that held what was decreed and could not be read, as long as no peer has told that again.
    #[must_use]
    pub fn lost_edicts(&self) -> Option<PathBuf> {
        self.shared.trust.lost_law()
    }

    /// How many words of the law were heard lately and are not taken here: since this machine's clock says that they are of
    /// the future, and since no authority that is believed here has signed them.
    #[must_use]
    pub fn refused_edicts(&self) -> (usize, usize) {
        self.shared.trust.refused(gazette::now())
    }

    /// Why the certificate's files could not be taken over; until they can, the next start fails.
    #[must_use]
    pub fn not_reloaded(&self) -> Option<String> {
        self.shared.trust.not_reloaded()
    }

    /// Why there is no next certificate, where `tls.renew` asks for one.
    #[must_use]
    pub fn not_renewed(&self) -> Option<String> {
        self.shared.trust.not_renewed()
    }

    /// Whether a word is about this node itself.
    pub(crate) fn is_own(&self, word: &trust::Word) -> bool {
        self.shared.trust.is_own(word)
    }

    /// What this node's own certificate says.
    #[must_use]
    pub fn certificate(&self) -> trust::Says {
        self.shared.trust.says()
    }
}
