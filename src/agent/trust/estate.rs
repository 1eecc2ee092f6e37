//! What proves a node's name, in a form that another process can hold: the executor of its last will speaks with it.

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    Broken, Trust,
    papers::{Issued, Papers},
};
use crate::model::{MeshName, NodeName};

/// A node's certificate with its private key, and whom to believe. To be kept in memory alone.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::agent) struct Estate {
    chain: Vec<Vec<u8>>,
    #[serde(with = "wiped")]
    key: Zeroizing<Vec<u8>>,
    roots: Vec<Vec<u8>>,
}

/// A key that is wiped from memory when it is dropped, as plain bytes.
mod wiped {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use zeroize::Zeroizing;

    pub(super) fn serialize<S: Serializer>(key: &Zeroizing<Vec<u8>>, to: S) -> Result<S::Ok, S::Error> {
        key.as_slice().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Zeroizing<Vec<u8>>, D::Error> {
        Vec::deserialize(from).map(Zeroizing::new)
    }
}

impl Trust {
    /// What an executor needs, as of today.
    pub(in crate::agent) fn estate(&self) -> Estate {
        let issued = self.current();
        let bytes = |certificates: &[CertificateDer<'_>]| certificates.iter().map(|c| c.to_vec()).collect();
        let roots = bytes(&self.papers.load().roots);
        Estate { chain: bytes(&issued.key.cert), key: issued.private.clone(), roots }
    }

    /// The trust of a node that has died. It is never renewed.
    pub(in crate::agent) fn inherited(mesh: &MeshName, node: &NodeName, estate: &Estate) -> Result<Self, Broken> {
        let certificates =
            |all: &[Vec<u8>]| all.iter().map(|der| CertificateDer::from(der.clone())).collect::<Vec<_>>();
        let key = PrivateKeyDer::try_from(estate.key.as_slice()).map_err(|_| Broken::Key)?;
        let own = Issued::new(certificates(&estate.chain), &key, None)?;
        let papers = Papers::assemble(&certificates(&estate.roots), own, None, Vec::new())?;
        Ok(Self::holding(mesh, node, papers))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{
        proven_name,
        tests::{shake, tls, trust},
    };
    use super::*;
    use crate::agent::Secret;

    #[test]
    fn whoever_holds_a_node_s_estate_speaks_in_its_name() {
        let secret = [Secret::random()];
        let dead = trust("prod", "web-1", &secret);
        let executor = Arc::new(Trust::inherited(&dead.mesh, &dead.node, &dead.estate()).unwrap()).tls().unwrap();
        let [_, seen] = shake(&executor, &tls("prod", "db-1", &secret)).unwrap();
        assert_eq!(proven_name(&seen, &dead.mesh).unwrap(), dead.node);
        let stranger = tls("prod", "db-1", &[Secret::random()]);
        assert!(shake(&executor, &stranger).is_err(), "it believes whom the node believed");
    }
}
