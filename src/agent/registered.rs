//! A registration that lasts as long as its guard.

use tokio::sync::{mpsc::error::TrySendError, oneshot};

use super::{Agent, Refused, drive::Ask};
use crate::model::{InstanceId, Registration};

/// Made by [`Agent::register`]: dropping it withdraws the instance.
#[derive(Debug)]
#[must_use = "dropping the guard withdraws the instance"]
pub struct Registered {
    agent: Agent,
    /// `None` once it was withdrawn.
    id: Option<InstanceId>,
}

impl Agent {
    /// Registers one instance for as long as the guard lives; [`Agent::put_local`] is the same without one.
    /// Dropping the future before it is done may leave the instance registered.
    ///
    /// # Errors
    /// [`Refused`]; nothing was changed.
    pub async fn register(&self, registration: Registration) -> Result<Registered, Refused> {
        let id = registration.id.clone();
        self.put_local(registration).await?;
        Ok(Registered { agent: self.clone(), id: Some(id) })
    }
}

impl Registered {
    /// Withdraws the instance, and waits until that is durable and visible here.
    ///
    /// # Errors
    /// [`Refused`], also when somebody else has withdrawn it.
    pub async fn deregister(mut self) -> Result<(), Refused> {
        match self.id.take() {
            Some(id) => self.agent.remove(&id).await,
            None => Ok(()),
        }
    }

    /// Leaves the instance registered, and gives up the guard.
    pub fn forget(mut self) {
        self.id = None;
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        // Nobody waits for the answer, and a stopped agent has nothing to withdraw.
        let ask = Ask::Remove { id, reply: oneshot::channel().0 };
        if let Err(TrySendError::Full(ask)) = self.agent.shared.asks.try_send(ask) {
            let asks = self.agent.shared.asks.clone();
            self.agent.shared.runtime.spawn(async move { asks.send(ask).await });
        }
    }
}
