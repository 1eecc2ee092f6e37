//! The law on its way to the disk: one write at a time, each of all that is law when it begins. A disk may hang for as long
//! as it likes, so nobody waits for it but whoever has decreed something and wants to know that it lasts.

use std::{future::pending, sync::Arc};

use tokio::{
    sync::oneshot,
    task::{JoinHandle, spawn_blocking},
};

use super::{Refused, keep, trust::Trust};

/// Where the outcome is told.
pub(super) type Reply = oneshot::Sender<Result<(), Refused>>;

pub(super) struct Scribe {
    trust: Arc<Trust>,
    writing: Option<Writing>,
    /// Whether something was said that the write under way may not have.
    behind: bool,
    /// Who has said so and waits for the next write: no more than there is room for words in the law, for only news waits.
    waiting: Vec<Reply>,
}

/// A write under way.
struct Writing {
    kept: JoinHandle<Result<(), String>>,
    /// Whether the one before has failed.
    again: bool,
    /// Who waits for this one.
    waiting: Vec<Reply>,
}

impl Scribe {
    pub(super) fn new(trust: &Arc<Trust>) -> Self {
        Self { trust: Arc::clone(trust), writing: None, behind: false, waiting: Vec::new() }
    }

    /// Makes durable what is law now, and tells the outcome. What fails is tried again at each [`Self::retry`].
    pub(super) fn keep(&mut self, reply: Option<Reply>) {
        self.behind = true;
        self.waiting.extend(reply);
        self.begin();
    }

    /// Writes again what could not be written.
    pub(super) fn retry(&mut self) {
        if self.trust.unkept().is_some() {
            // Told of already, where it can be read; and a write that is under way is such a try.
            self.behind |= self.writing.is_none();
            self.begin();
        }
    }

    /// Waits for the write under way, tells what came of it, and begins the next if there is anything to write. May be
    /// dropped while it waits.
    pub(super) async fn written(&mut self) {
        let Some(writing) = &mut self.writing else { return pending().await };
        let kept = (&mut writing.kept).await.unwrap_or_else(|why| Err(why.to_string()));
        let (again, waiting) = (writing.again, std::mem::take(&mut writing.waiting));
        self.writing = None;
        match &kept {
            Err(why) if !again => tracing::error!(event = "edicts_not_kept", why, "{HOLDS}"),
            Ok(()) if again => tracing::info!(event = "edicts_kept", "what was decreed is on the disk again"),
            _ => {}
        }
        for reply in waiting {
            let told = kept.as_ref().copied();
            // Whoever has asked may have gone.
            let _ = reply.send(told.map_err(|why| Refused::Store(format!("{why}; {HOLDS}: {}", keep::mend(why)))));
        }
        self.begin();
    }

    fn begin(&mut self) {
        if self.writing.is_some() || !std::mem::take(&mut self.behind) {
            return;
        }
        let trust = Arc::clone(&self.trust);
        self.writing = Some(Writing {
            again: self.trust.unkept().is_some(),
            kept: spawn_blocking(move || trust.keep_law()),
            waiting: std::mem::take(&mut self.waiting),
        });
    }
}

/// What is so while the disk takes nothing.
const HOLDS: &str = "it holds here and is on its way to the others; a restart would forget it until it is written, which is \
                     tried by itself again and again, and `hobnob doctor` says whether it was";
