//! Whose a store is, and under which epoch its node lives.

use redb::{ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::{Failed, Unusable, decode, encode};
use crate::model::{Epoch, MeshName, NodeName, millis};

/// Keys that must survive, so that a restarted node's stateless resets are believed (RFC 9000 section 10.3): its peers
/// then see the restart within one packet instead of a time-out.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(in crate::agent) struct Keys {
    pub(in crate::agent) reset: [u8; 32],
    pub(in crate::agent) connection_ids: u64,
}

impl Keys {
    pub(super) fn random() -> Result<Self, getrandom::Error> {
        let mut reset = [0; 32];
        getrandom::fill(&mut reset)?;
        Ok(Self { reset, connection_ids: getrandom::u64()? })
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct Identity {
    mesh: MeshName,
    node: NodeName,
    pub(super) epoch: Epoch,
    pub(super) keys: Keys,
}

impl Identity {
    /// Checks whose the store is, and takes the next epoch.
    pub(super) fn claim(
        transaction: &WriteTransaction,
        mesh: &MeshName,
        node: &NodeName,
        unix_millis: u64,
    ) -> Result<Self, Unusable> {
        let identity = match Self::read(transaction)? {
            Some(Self { mesh: m, node: n, .. }) if m != *mesh || n != *node => {
                return Err(Unusable::Foreign { node: n, mesh: m });
            }
            Some(Self { epoch, keys, .. }) => {
                // A clock that was set back must not bring an old epoch up again; one that nobody can have taken was none.
                let taken = Some(epoch.0).filter(|taken| *taken <= unix_millis.saturating_add(millis(Epoch::FURTHEST)));
                let epoch = Epoch(taken.map_or(unix_millis, |taken| unix_millis.max(taken + 1)));
                Self { mesh: mesh.clone(), node: node.clone(), epoch, keys }
            }
            None => {
                let keys = Keys::random().map_err(|why| Unusable::Database(why.to_string()))?;
                Self { mesh: mesh.clone(), node: node.clone(), epoch: Epoch(unix_millis), keys }
            }
        };
        identity.write(transaction)?;
        Ok(identity)
    }

    /// The node goes on under a larger epoch.
    pub(super) fn rise(transaction: &WriteTransaction, epoch: Epoch) -> Result<(), Unusable> {
        Self::read(transaction)?.map_or(Ok(()), |identity| Self { epoch, ..identity }.write(transaction))
    }

    fn read(transaction: &WriteTransaction) -> Result<Option<Self>, Unusable> {
        let table = transaction.open_table(TABLE).map_err(Failed)?;
        let found = table.get(()).map_err(Failed)?;
        found.map(|found| decode("identity", found.value())).transpose()
    }

    fn write(&self, transaction: &WriteTransaction) -> Result<(), Unusable> {
        let mut table = transaction.open_table(TABLE).map_err(Failed)?;
        table.insert((), encode(self)?.as_slice()).map_err(Failed)?;
        Ok(())
    }
}

const TABLE: TableDefinition<'_, (), &[u8]> = TableDefinition::new("identity");
