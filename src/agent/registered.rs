//! A registration that lasts as long as its guard.

use std::time::Duration;

use tokio::{
    sync::{mpsc::error::TrySendError, oneshot},
    time::sleep,
};

use super::{Agent, Over, Refused, drive::Ask};
use crate::{
    mesh::Rejected,
    model::{CheckName, FieldError, Health, InstanceId, Registration},
};

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
    pub async fn register<R>(&self, registration: R) -> Result<Registered, Refused>
    where
        R: TryInto<Registration>,
        FieldError: From<R::Error>,
    {
        let registration = registration.try_into().map_err(|wrong| Rejected::from(FieldError::from(wrong)))?;
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

    /// What tells the instance from others of its node; `None` once it was withdrawn.
    #[must_use]
    pub const fn id(&self) -> Option<&InstanceId> {
        self.id.as_ref()
    }

    /// The program's word on its own TTL check of that id, with a line for people.
    ///
    /// # Errors
    /// [`Refused`]; nothing was changed.
    pub async fn set_status(&self, check: &str, status: Health, output: &str) -> Result<(), Refused> {
        let check = CheckName::try_from(check).map_err(|wrong| Rejected::from(FieldError::from(wrong)))?;
        match &self.id {
            Some(id) => self.agent.report(id, &check, status, output).await,
            None => Ok(()),
        }
    }

    /// Says of every TTL check that all is well. To be said more often than the shortest TTL.
    ///
    /// # Errors
    /// [`Refused`]; the checks before the refused one are reported.
    pub async fn heartbeat(&self) -> Result<(), Refused> {
        let own = self.id.as_ref().and_then(|id| self.agent.view().registration(id));
        if let Some(own) = own {
            for check in own.checks.iter().filter(|check| check.kind.ttl().is_some()) {
                self.agent.report(&own.id, &check.id, Health::Passing, "").await?;
            }
        }
        Ok(())
    }

    /// Takes the instance out of service, gives its clients so long to finish, and withdraws it. Dropping the future
    /// withdraws it at once.
    ///
    /// # Errors
    /// [`Refused`], also when somebody else has withdrawn it.
    pub async fn drain(self, wait: Duration) -> Result<(), Refused> {
        if let Some(id) = &self.id {
            self.agent.maintain(Some(id), Some("draining")).await?;
            sleep(wait).await;
        }
        self.deregister().await
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
        let ask = Ask::Remove { id, over: Over::Anything, reply: oneshot::channel().0 };
        if let Err(TrySendError::Full(ask)) = self.agent.shared.asks.try_send(ask) {
            let asks = self.agent.shared.asks.clone();
            self.agent.shared.runtime.spawn(async move { asks.send(ask).await });
        }
    }
}
