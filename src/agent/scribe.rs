//! The law on its way to the disk: one write at a time, each of all that is law when it begins. A disk may hang for as long
//! as it likes: who has decreed something and wants to know that it lasts waits for some seconds, and so does a stop.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    task::{JoinHandle, spawn_blocking},
    time::timeout,
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

    /// Makes durable what is law now, and tells the outcome, or in time that there is none yet. What fails is tried again
    /// at each [`Self::retry`].
    pub(super) fn keep(&mut self, reply: Option<Reply>) {
        self.behind = true;
        self.waiting.extend(reply.map(in_time));
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

    /// Writes what is not on the disk, for as long as a stop may take.
    pub(super) async fn finish(mut self) {
        self.retry();
        let all = async {
            while self.writing.is_some() {
                self.written().await;
            }
        };
        if timeout(LAST, all).await.is_err() {
            tracing::error!(event = "edicts_not_kept", why = "the disk hangs", "a restart forgets what no peer tells");
        }
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

/// Tells the outcome that is to come, or that there is none yet: what was enacted is so either way.
fn in_time(reply: Reply) -> Reply {
    let (kept, outcome) = oneshot::channel();
    let outcome = timeout(ANSWERED, outcome);
    tokio::spawn(async move {
        let hangs = || Err(Refused::Store(format!("the disk has not taken it yet; {HOLDS}: {}", keep::mend(""))));
        // Whoever has asked may have gone.
        let _ = reply.send(outcome.await.ok().and_then(Result::ok).unwrap_or_else(hangs));
    });
    kept
}

/// How long who has decreed something waits for the disk: less than any client does for an answer.
const ANSWERED: Duration = Duration::from_secs(5);
/// And how long a stop does.
const LAST: Duration = Duration::from_secs(2);
/// What is so while the disk takes nothing.
const HOLDS: &str = "it holds here and is on its way to the others; a restart would forget it until it is written, which is \
                     tried by itself again and again, and `hobnob doctor` says whether it was";

#[cfg(test)]
pub(super) mod tests {
    use std::{
        fs,
        path::{Path, PathBuf},
        process::Command,
    };

    use tokio::time::{Instant, advance};

    use super::*;
    use crate::agent::{Secret, hello::tests::greeter};

    /// Whatever waits for the disk gets no further than opening the file, until somebody reads here.
    pub(in crate::agent) fn hang(folder: &Path) -> PathBuf {
        let pipe = folder.join("edicts.new");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        pipe
    }

    /// One whose disk hangs in its first write, and is behind by another; what waits for that one, and what it waits for.
    async fn behind(folder: &Path) -> (Scribe, oneshot::Receiver<Result<(), Refused>>, PathBuf) {
        let trust = &greeter("a", 1, &Secret::random()).trust;
        trust.open_law(folder, 0);
        let (mut scribe, pipe, (reply, answer)) = (Scribe::new(trust), hang(folder), oneshot::channel());
        scribe.keep(None);
        scribe.keep(Some(reply));
        (scribe, answer, pipe)
    }

    async fn read(pipe: PathBuf) -> bool {
        spawn_blocking(|| fs::read(pipe)).await.unwrap().is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn where_the_disk_hangs_it_is_told_in_time_and_a_stop_ends() {
        let folder = tempfile::tempdir().unwrap();
        let (scribe, answer, pipe) = behind(folder.path()).await;
        let began = Instant::now();
        let (answer, ()) = tokio::join!(answer, advance(ANSWERED));
        let (told, ()) = (began.elapsed(), tokio::join!(scribe.finish(), advance(LAST)).0);
        let stopped = began.elapsed();
        // First of all: the thread that hangs would have the test wait for ever.
        assert!(read(pipe).await);
        assert!(matches!(answer, Ok(Err(Refused::Store(why))) if why.contains("not taken it yet; it holds here")));
        assert!(told < ANSWERED * 2 && stopped < (ANSWERED + LAST) * 2, "{told:?} {stopped:?}");
        assert!(!folder.path().join("edicts").exists());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_behind_is_written_at_a_stop() {
        let folder = tempfile::tempdir().unwrap();
        let (scribe, answer, pipe) = behind(folder.path()).await;
        // A pipe cannot be synced: the first write fails, and the next has a disk again.
        let ((), read) = tokio::join!(scribe.finish(), read(pipe));
        assert!(read && matches!(answer.await, Ok(Ok(()))));
        assert!(folder.path().join("edicts").exists());
    }
}
