//! Ends what a token began once it is good no more: a read that waits for a change, a stream that is open. Tokens of the
//! configuration and the rights of anonymous stand as long as the process does.

use std::{future::Future, time::Duration};

use axum::{
    body::{Body, HttpBody},
    http::StatusCode,
    response::Response,
};
use futures_util::StreamExt;
use tokio::{select, time::sleep};

use super::Problem;
use crate::agent::{Agent, unix_millis};

/// A token of the mesh by whose rights something goes on.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) agent: Agent,
    pub(super) sha256: [u8; 32],
    /// Until when it is good, in unix milliseconds.
    pub(super) expires: Option<u64>,
}

impl Held {
    /// Resolves once the token is good no more.
    async fn lost(self) {
        let mut changes = self.agent.law_changes();
        // Looked at after subscribing: nothing falls between.
        while self.agent.law().tokens().any(|token| token.sha256 == self.sha256) {
            let left = self.expires.map_or(A_DAY, |at| Duration::from_millis(at.saturating_sub(unix_millis())));
            if left.is_zero() {
                return;
            }
            select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = sleep(left.min(A_DAY)) => {}
            }
        }
    }

    /// The answer, or a refusal if the token goes before there is one; a stream ends with its token.
    pub(super) async fn during(self, answer: impl Future<Output = Response>) -> Result<Response, Problem> {
        let response = select! {
            response = answer => response,
            () = self.clone().lost() => {
                return Err(Problem::new(StatusCode::UNAUTHORIZED, "the token was revoked, or has expired, meanwhile"));
            }
        };
        if response.body().size_hint().exact().is_some() {
            return Ok(response);
        }
        Ok(response.map(|body| Body::from_stream(body.into_data_stream().take_until(Box::pin(self.lost())))))
    }
}

/// Timers are for days, not for years.
const A_DAY: Duration = Duration::from_secs(24 * 3600);
