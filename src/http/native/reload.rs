//! `POST /api/v1/reload`: this node reads its files again. All or nothing: a mistake in them changes nothing.

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::openapi::Api;
use crate::http::{Answer, App, Problem, Shared};

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Reloaded {
    /// How many services the files register.
    pub registered: usize,
    /// How many were withdrawn, because their files no longer name them.
    pub withdrawn: usize,
    /// The settings that differ and wait for a restart.
    pub restart: Vec<String>,
}

/// Asks whoever started this face to reload; the answer is what came of it, or all that is wrong.
pub type ReloadAsk = oneshot::Sender<Result<Reloaded, Vec<String>>>;

/// How this face passes it on.
pub(in crate::http) type Reloads = mpsc::Sender<ReloadAsk>;

pub(super) async fn reload(State(app): Shared) -> Answer {
    Ok(Json(reloaded(&app).await?).into_response())
}

/// Has the files read again, for whichever face is asked to.
pub(in crate::http) async fn reloaded(app: &App) -> Result<Reloaded, Problem> {
    let ended = || Problem::new(StatusCode::NOT_IMPLEMENTED, "this node reads no files: nothing to reload");
    let reloads = app.reloads.as_ref().ok_or_else(ended)?;
    let (ask, answer) = oneshot::channel();
    reloads.send(ask).await.map_err(|_| ended())?;
    answer.await.map_err(|_| ended())?.map_err(Problem::unusable)
}

/// For the OpenAPI document.
pub(super) fn describe(api: &mut Api) {
    api.post("/api/v1/reload", "Reads this node's files again: services, hooks and seeds follow them at once.")
        .answers::<Reloaded>(200, "What is in force now, and which settings wait for a restart.");
}
