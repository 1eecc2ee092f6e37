//! The last will: what a process that outlives an agent says to its peers when the agent dies without a goodbye.
//!
//! An open connection to a dead process says nothing, and probes need seconds to be sure. So an agent can write a
//! [`Will`]: its proof of identity, its hello and the addresses of a few peers. Whoever holds it when the agent has died
//! executes it: dials those peers with the node's own certificate and says a hello marked `LAST_WILL`. The peers then
//! need no suspicion, for the node itself has said so.
//!
//! The program `hobnob agent` leaves its will with its parent process (`cli/executor.rs`). An embedded agent has no
//! parent that would know: its death is found by probes, unless its application keeps [`Agent::will`](super::Agent::will)
//! in a process that outlives it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{
    hello::Greeter,
    quic,
    trust::{self, Estate, Trust},
};
use crate::mesh::Hello;

/// What is to be said when a node has died. It names the process that it is about: executed too late, when the node is
/// back, it does nothing. It holds the node's private key: keep it in memory alone.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Will {
    estate: Estate,
    hello: Hello,
    heirs: Vec<SocketAddr>,
}

/// Why a will cannot be executed. Nobody was told.
#[derive(Debug, thiserror::Error)]
pub enum Void {
    /// The bytes are no will.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] rmp_serde::decode::Error),
    /// It proves nothing.
    #[error("its certificate is of no use: {0}")]
    Trust(#[from] trust::Broken),
    /// There is no way to speak.
    #[error("no socket could be opened: {0}")]
    Socket(#[from] std::io::Error),
}

impl Will {
    pub(super) fn new(estate: Estate, mut hello: Hello, heirs: Vec<SocketAddr>) -> Self {
        hello.features.push(LAST_WILL.into());
        Self { estate, hello, heirs }
    }

    /// The will for a pipe.
    ///
    /// # Errors
    /// None in practice: every part of it can be written.
    pub fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, rmp_serde::encode::Error> {
        rmp_serde::to_vec_named(self).map(Zeroizing::new)
    }

    /// The will from a pipe. For bytes of one's own child: nothing bounds what they may claim but their length.
    ///
    /// # Errors
    /// [`Void::Unreadable`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Void> {
        Ok(rmp_serde::from_slice(bytes)?)
    }

    /// How many peers are to be told.
    #[must_use]
    pub fn heirs(&self) -> usize {
        self.heirs.len()
    }

    /// Tells all heirs at the same time, and returns how many have heard it, within seconds. Must be called within a
    /// tokio runtime, when the agent has died: should it live after all, it will protest and come back.
    ///
    /// # Errors
    /// [`Void`]; nobody was told.
    pub async fn execute(self) -> Result<usize, Void> {
        let mesh = self.hello.mesh.clone();
        let trust = Arc::new(Trust::inherited(&mesh, &self.hello.node.name, &self.estate)?);
        let (greeter, _) = Greeter::new(quic::caller(trust.tls()?.client)?, trust, mesh, self.hello);
        let told = join_all(self.heirs.iter().map(|heir| timeout(PATIENCE, greeter.dial(*heir, None)))).await;
        let told = told.into_iter().filter(|told| matches!(told, Ok(Ok(_)))).count();
        greeter.endpoint.close(quic::Code::Closed.into(), b"");
        Ok(told)
    }
}

impl std::fmt::Debug for Will {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Will({} to {:?})", self.hello.node.name, self.heirs)
    }
}

/// Whether this is the hello of a dead node's executor.
pub(super) fn is_last_will(hello: &Hello) -> bool {
    hello.features.iter().any(|feature| feature == LAST_WILL)
}

/// The feature that marks a hello as a last will. On the wire: never change it.
const LAST_WILL: &str = "last_will";
/// A handshake with a few repeats on a machine that is overloaded, and not long enough to keep a supervisor from its restart.
const PATIENCE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{Secret, hello::tests::greeter};

    #[tokio::test]
    async fn a_will_is_heard_by_who_is_there_in_the_name_of_the_dead() {
        let secret = Secret::random();
        let (dead, heir, silent) = (greeter("a", 1, &secret), greeter("b", 2, &secret), greeter("c", 3, &secret));
        let heirs = [&heir, &silent].map(|heir| heir.endpoint.local_addr().unwrap()).to_vec();
        let will = Will::new(dead.trust.estate(), Hello::clone(&dead.hello.load()), heirs);
        let will = Will::from_bytes(&will.to_bytes().unwrap()).unwrap();
        assert_eq!(will.heirs(), 2);
        let answered = async { heir.answer(heir.endpoint.accept().await.unwrap()).await };
        let (told, heard) = tokio::join!(will.execute(), answered);
        assert_eq!(told.unwrap(), 1);
        let hello = heard.unwrap().hello;
        assert!(is_last_will(&hello) && !is_last_will(&dead.hello.load()));
        assert_eq!((hello.id, hello.generation), (dead.hello.load().id, dead.hello.load().generation));
    }

    #[tokio::test]
    async fn a_restarted_node_does_not_yield_to_its_own_will() {
        let secret = Secret::random();
        let (dead, again) = (greeter("a", 1, &secret), greeter("a", 2, &secret));
        let will = Will::new(
            dead.trust.estate(),
            Hello::clone(&dead.hello.load()),
            vec![again.endpoint.local_addr().unwrap()],
        );
        let answered = async { again.answer(again.endpoint.accept().await.unwrap()).await };
        let (_, heard) = tokio::join!(will.execute(), answered);
        assert!(heard.is_ok_and(|met| is_last_will(&met.hello)));
    }

    #[tokio::test]
    async fn a_will_that_answers_a_call_is_a_namesake() {
        let secret = Secret::random();
        let (caller, namesake) = (greeter("a", 1, &secret), greeter("a", 2, &secret));
        let mut hello = Hello::clone(&namesake.hello.load());
        hello.features.push(LAST_WILL.into());
        let answered = async {
            let connection = namesake.endpoint.accept().await.unwrap().await.unwrap();
            let (mut to, mut from) = connection.accept_bi().await.unwrap();
            from.read_to_end(1 << 14).await.unwrap();
            to.write_all(&rmp_serde::to_vec_named(&hello).unwrap()).await.unwrap();
            to.finish().unwrap();
            connection.closed().await
        };
        let (met, closed) = tokio::join!(caller.dial(namesake.endpoint.local_addr().unwrap(), None), answered);
        assert!(met.is_err() && format!("{closed:?}").contains("ApplicationClosed"), "{closed:?}");
    }

    #[test]
    fn garbage_is_no_will() {
        for bytes in [&b""[..], &[0xc1], &[0x83, 0xa5], &[0xff; 64]] {
            assert!(matches!(Will::from_bytes(bytes), Err(Void::Unreadable(_))));
        }
    }
}
