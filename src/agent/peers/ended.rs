//! Links whose certificates have ended.

use super::{Peers, Standing, Target};
use crate::mesh::Objection;
#[cfg(test)]
use crate::model::NodeId;

impl Peers {
    /// Shakes hands anew with those whose certificates have ended: who has another shows it. Closes the links of those who
    /// have been asked in vain; not where these are more than half of the mesh, as when their authority has ended: see
    /// `Mesh::ask_who_belongs`. Who asks with a certificate that has ended itself is let in nowhere, and learns nothing.
    pub(in crate::agent) fn expire(&mut self, unix_millis: u64) {
        if self.greeter.trust.has_ended() {
            return;
        }
        let ended = |link: &Standing| link.until < unix_millis;
        let known = self.table.values().filter(|peer| !peer.dialling).filter_map(|peer| peer.link.as_ref());
        let in_vain: Vec<_> = known.filter(|link| ended(link) && link.asked >= ASKED).collect();
        if in_vain.len() * 2 <= self.links + 1 {
            in_vain.iter().for_each(|link| self.greeter.expel(&link.connection, Objection::Expired));
        }
        let mut asked = Vec::new();
        for (id, peer) in &mut self.table {
            let Some(link) = peer.link.as_mut().filter(|link| !link.is_closed()) else { continue };
            if !ended(link) {
                link.asked = 0;
            } else if !std::mem::replace(&mut peer.dialling, true) {
                link.asked = link.asked.saturating_add(1);
                asked.push((*id, link.address()));
            }
        }
        asked.into_iter().for_each(|(id, at)| self.dial(Target::Peer(id), vec![at]));
    }

    /// As if a peer's first certificate had ended.
    #[cfg(test)]
    pub(in crate::agent) fn outlive(&mut self, id: NodeId) {
        self.table.get_mut(&id).and_then(|peer| peer.link.as_mut()).into_iter().for_each(|link| link.until = 0);
    }
}

/// Who was asked so often for another certificate than the one that has ended has none.
const ASKED: u8 = 2;
