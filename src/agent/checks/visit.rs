//! One run of a check: it ends in time and with a finding whatever happens, and does not keep others from theirs for long.

use std::{panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::OptionFuture};
use tokio::{
    sync::{Semaphore, SemaphorePermit, mpsc},
    time::{Instant, sleep_until, timeout, timeout_at},
};

use super::{
    Finding, Home, Means,
    engine::{Told, Word},
    run,
};
use crate::{
    mesh::OVERSLEPT,
    model::{CheckKind, Recipe, format_duration},
};

/// Runs it, and tells what it found; whether it hung when it was run last counts where many do. `room` is what its host has
/// for the slow.
pub(super) async fn visit(
    recipe: Recipe,
    home: Arc<Home>,
    means: Arc<Means>,
    room: Option<Arc<Semaphore>>,
    serial: u64,
    hung: bool,
    told: mpsc::Sender<Told>,
) {
    let (spec, begun) = (&recipe, Instant::now());
    let mut ran = pin!(AssertUnwindSafe(run(&spec.kind, &home, &means, begun + spec.timeout)).catch_unwind());
    let mut over = timeout(spec.timeout.min(HOLD), &mut ran).await.map_err(|_| (spec.timeout, ""));
    if over.is_err() && spec.timeout > HOLD {
        let slow = async {
            let like = if let CheckKind::Script(_) = spec.kind { &means.slow_scripts } else { &means.slow };
            // While there are too many of its like it keeps its place, but not beyond its next start; and who hung before
            // not at all, for it is known how that ends.
            let patience = if hung { HOLD } else { spec.interval };
            let enter = async {
                let near = OptionFuture::from(room.as_ref().map(|room| room.acquire())).await;
                (near, like.free.acquire().await)
            };
            let _one_of_them = tokio::select! {
                biased;
                ran = &mut ran => return Ok(ran),
                permits = enter, if !hung || like.free.available_permits() > like.most / 4 => permits,
                () = sleep_until(begun + patience) => return Err((patience, CROWD)),
            };
            // Nobody listens only while the agent stops.
            let _ = told.send((serial, Word::Slow)).await;
            Ok(ran.as_mut().await)
        };
        over = timeout_at(begun + spec.timeout, slow).await.unwrap_or(over);
    }
    if over.is_err() && begun.elapsed() > spec.timeout + OVERSLEPT {
        // This process did not run: an answer may have come in time.
        over = timeout(HOLD, &mut ran).await.or(over);
    }
    let word = match over {
        Ok(Ok(ran)) => match ran.or_else(Finding::of_failure) {
            Err(why) => Word::Unable(why),
            // It has something to tell of what hung.
            Ok(finding) if begun.elapsed() >= spec.timeout => Word::Hung(finding),
            Ok(finding) => Word::Found(finding),
        },
        Ok(Err(_)) => Finding::critical("the check panicked, which is a defect; the log tells more").into(),
        Err((waited, crowd)) => {
            Word::Hung(Finding::critical(format!("no answer within {}{crowd}", format_duration(waited))))
        }
    };
    let _ = told.send((serial, word)).await;
}

/// Room for runs that are slow.
#[derive(Debug)]
pub(super) struct Room {
    free: Semaphore,
    most: usize,
}

impl Room {
    pub(super) fn of(most: usize) -> Self {
        Self { free: Semaphore::new(most), most }
    }

    /// A place, if there is one now.
    pub(super) fn enter(&self) -> Option<SemaphorePermit<'_>> {
        self.free.try_acquire().ok()
    }
}

/// How long a run may keep others from starting: far beyond what an answer takes, even around the earth.
pub(super) const HOLD: Duration = Duration::from_millis(500);
/// Why one does not wait for longer.
const CROWD: &str = ", and too many others hang as well";

#[cfg(test)]
mod tests {
    use tokio_util::task::AbortOnDropHandle;

    use super::*;
    use crate::{
        agent::checks::{Config, Dial, Policy, lanes::MAX_SLOW},
        model::{CheckDraft, Host, Registration},
    };

    #[tokio::test]
    async fn who_hung_before_takes_no_more_than_its_share_of_the_room_for_the_slow_and_its_host_no_more_than_its_own() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let draft =
            CheckDraft { expect: Some("x".into()), ..CheckDraft::tcp(&silent.local_addr().unwrap().to_string()) };
        let hour = Duration::from_secs(3600);
        let web =
            Arc::new(Registration::new("web", 1).unwrap().check(draft.every(hour).within(hour).build(0, "").unwrap()));
        let home = Arc::new(Home { instance: web.id.clone(), host: Host::Address([127, 0, 0, 1].into()), port: None });
        for (free, near, hung, is_let_in) in [
            (MAX_SLOW / 4, 1, true, false),
            (MAX_SLOW / 4, 1, false, true),
            (MAX_SLOW, 1, true, true),
            (MAX_SLOW, 0, true, false),
        ] {
            let means = Arc::new(Means {
                dial: Dial::new(Policy::new(&Config::default())),
                scripts: false,
                view: Arc::default(),
                rings: crate::agent::checks::rings::Rings::default(),
                traffic: Arc::default(),
                slow: Room { free: Semaphore::new(free), most: MAX_SLOW },
                slow_scripts: Room::of(0),
                processes: Room::of(0),
            });
            let (told, mut heard) = mpsc::channel(1);
            let recipe = Recipe::all(&web).next().unwrap();
            let room = Some(Arc::new(Semaphore::new(near)));
            let _run =
                AbortOnDropHandle::new(tokio::spawn(visit(recipe, Arc::clone(&home), means, room, 1, hung, told)));
            match heard.recv().await.unwrap().1 {
                Word::Slow => assert!(is_let_in),
                Word::Hung(finding) => {
                    assert!(!is_let_in);
                    assert_eq!(finding.output, "no answer within 500ms, and too many others hang as well");
                }
                Word::Found(finding) => panic!("{finding:?}"),
                Word::Unable(why) => panic!("{why}"),
            }
        }
    }
}
