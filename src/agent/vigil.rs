//! Looks at the files of certificate mode now and then; tells in time that a certificate will expire, and where
//! `tls.renew` is set asks for the next one.
//!
//! Files are looked at, not subscribed to: some folders (network disks, mounted secrets that swap a link) announce
//! nothing, and a renewal that comes some seconds later harms nobody.

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{
    Config, View,
    drive::Drive,
    expiry::{AGAIN, Expiry},
    file::Stamp,
    gazette,
    hello::Greeter,
    journal::{Journal, News, Paper},
    keep,
    peers::Arrival,
    trust::{Files, Proof},
    usher,
};
use crate::{
    mesh::{Hello, Input, Objection},
    model::MemberState,
};

/// What one task owns.
pub(super) struct Vigil {
    greeter: Arc<Greeter>,
    view: Arc<View>,
    journal: Arc<Journal>,
    files: Option<Files>,
    seeds: Vec<String>,
    /// What was to be seen of the files when it was last told that they are in use.
    told: Arc<Vec<Stamp>>,
    /// Why they are not, as it was told last.
    told_failure: Option<String>,
    expiry: Expiry,
    /// Before this no newer certificate is asked for.
    ask_at: Instant,
    /// When it was told last that none is granted; none once one was.
    told_at: Option<Instant>,
}

impl Vigil {
    pub(super) fn new(greeter: Arc<Greeter>, view: Arc<View>, journal: Arc<Journal>, config: &Config) -> Self {
        let (files, seeds) = (config.tls.clone(), config.join.clone());
        let (expiry, ask_at) = (Expiry::default(), Instant::now());
        let told = greeter.trust.stamps();
        Self { told, told_failure: None, greeter, view, journal, files, seeds, expiry, ask_at, told_at: None }
    }

    /// Runs until the loop has ended.
    pub(super) async fn keep(mut self, arrivals: mpsc::Sender<Arrival>) {
        let trust = Arc::clone(&self.greeter.trust);
        let mut looks = interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rounds = interval_at(Instant::now() + ROUND, ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = trust.renewed() => {
                    // Refused only when the loop has ended.
                    let _ = arrivals.send(Arrival::Renewed).await;
                    continue;
                }
                _ = rounds.tick() => {
                    let _ = arrivals.send(Arrival::Round).await;
                    continue;
                }
                () = arrivals.closed() => return,
            }
            self.reload().await;
            self.warn(SystemTime::now());
            self.renew().await;
        }
    }

    /// Takes other files. They are read beside the loop: a disk may be slow, or gone.
    async fn reload(&mut self) {
        let Some(files) = self.files.clone() else { return };
        let trust = Arc::clone(&self.greeter.trust);
        let look = spawn_blocking(move || {
            // An owner is no part of a stamp: what has failed is tried until it succeeds.
            let are_others = trust.not_reloaded().is_some() || *trust.stamps() != files.stamps();
            are_others.then(|| trust.renew(Proof::Files(&files)))
        });
        // A panic there is in the log.
        let Ok(renewed) = look.await else { return };
        let read = self.greeter.trust.stamps();
        // Somebody else may have had them read.
        let is_news = std::mem::replace(&mut self.told, Arc::clone(&read)) != read || self.told_failure.is_some();
        let Some(renewed) = renewed.or(is_news.then_some(Ok(()))) else { return };
        match renewed {
            Ok(()) => {
                self.told_failure = None;
                let serial = self.greeter.trust.says().serial;
                tracing::info!(event = "certificate_reloaded", serial);
                self.write(Paper::Reloaded { serial });
            }
            Err(why) if self.told_failure == Some(why.to_string()) => {}
            // Half of the files may be written.
            Err(why) => {
                tracing::error!(event = "certificate_not_reloaded", %why, "the old one stays in use");
                self.write(Paper::NotReloaded { why: why.to_string() });
                self.told_failure = Some(why.to_string());
            }
        }
    }

    /// Tells that the certificate's end is near, or past, now and then.
    fn warn(&mut self, now: SystemTime) {
        let Some(paper) = self.expiry.due(&self.greeter.trust.says(), now) else { return };
        let Hello { node, mesh, .. } = &**self.greeter.hello.load();
        let issue = format!("issue a new one: hobnob ca issue {} --mesh {mesh}", node.name);
        let next = if self.files.is_some() { &*issue } else { "hobnob reload" };
        match &paper {
            Paper::Expires { serial, left } => {
                let left = humantime::format_duration(*left);
                tracing::warn!(event = "certificate_expires", serial, %left, next);
            }
            _ => tracing::error!(event = "certificate_expired", next, "no other node lets this one in"),
        }
        self.write(paper);
    }

    /// Asks for the next certificate from two thirds of this one's lifetime on, again and again until there is one.
    async fn renew(&mut self) {
        let Some(files) = self.files.as_ref().filter(|files| files.renew) else { return };
        let says = self.greeter.trust.says();
        let left = says.not_after.duration_since(SystemTime::now()).unwrap_or_default();
        if left > says.renews_within() {
            return self.greeter.trust.set_not_renewed(None);
        }
        // What the files hold may be for another key.
        let now = Instant::now();
        if now < self.ask_at || self.greeter.trust.not_reloaded().is_some() {
            return;
        }
        self.ask_at = now + (left / 8).clamp(ASK_AGAIN_SOONEST, ASK_AGAIN);
        let asked_with = self.greeter.trust.stamps();
        let written = match usher::renew(&self.greeter, &self.view, &self.seeds).await {
            Ok(pem) => {
                let mine = files.clone();
                let writing = spawn_blocking(move || put(&mine, &asked_with, &pem));
                let written = writing.await.unwrap_or_else(|defect| Err(defect.into()));
                written.map_err(|why| format!("{}: {why}", files.cert.display()))
            }
            Err(why) => Err(why),
        };
        self.greeter.trust.set_not_renewed(written.as_ref().err().cloned());
        match written {
            // The next look finds it.
            Ok(()) => {
                self.told_at = None;
                tracing::info!(event = "certificate_renewed", file = %files.cert.display());
            }
            Err(why) if self.told_at.is_some_and(|at| now - at <= AGAIN) => {
                tracing::debug!(event = "certificate_not_renewed", why);
            }
            Err(why) => {
                self.told_at = Some(now);
                tracing::warn!(event = "certificate_not_renewed", why, "a node that holds tls.ca_key grants it");
                self.write(Paper::NotRenewed { why });
            }
        }
    }

    fn write(&self, paper: Paper) {
        let node = self.greeter.hello.load().node.name.clone();
        self.journal.write(gazette::now(), News::Certificate(node, paper));
    }
}

impl Drive {
    /// This node holds other papers: some peers are let in no more by them, and some may let this node in again.
    pub(super) fn renewed(&mut self) {
        self.peers.recheck(&[Objection::Revoked, Objection::Untrusted]);
        self.expire();
        self.handle(Input::Renewed);
        // Now, and not when the change is published: by the voucher in it who is called judges.
        self.greeter.hello.store(Arc::new(self.mesh.hello()));
        let own = self.mesh.id();
        let known = self.mesh.members().filter(|member| member.id != own && member.state != MemberState::Left);
        self.peers.call(known.map(|member| (member.id, member.node.addresses.clone())));
    }
}

/// Puts what was granted in the place of what it was asked with: of no other, which somebody may have put there since.
fn put(files: &Files, asked_with: &[Stamp], pem: &str) -> io::Result<()> {
    if asked_with != files.stamps() {
        return Err(io::Error::other("the files of [tls] were changed while its next one was asked for"));
    }
    // What a link leads to, and not the link.
    keep::exchange(&files.cert.canonicalize()?, pem.as_bytes())
}

/// How often links are looked for whose certificates have ended: with two rounds to show another, they end within a minute.
const ROUND: Duration = Duration::from_secs(20);
/// Four calls of `stat` each time.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// How often a newer certificate is asked for: who can grant one may be away for a weekend.
const ASK_AGAIN: Duration = Duration::from_secs(3600);
/// The same near the end of a short life.
const ASK_AGAIN_SOONEST: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, symlink},
    };

    use super::*;

    #[test]
    fn what_was_put_there_meanwhile_is_not_written_over_nor_is_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let [ca, cert, key, real] = ["ca", "cert", "key", "real"].map(|name| folder.path().join(name));
        for file in [&ca, &key, &real] {
            keep::replace(file, b"old", keep::PUBLIC).unwrap();
        }
        symlink(&real, &cert).unwrap();
        let files = Files { ca, cert: cert.clone(), key: key.clone(), ca_key: None, renew: true };
        let asked_with = files.stamps();
        put(&files, &asked_with, "granted").unwrap();
        assert_eq!(fs::read_to_string(&real).unwrap(), "granted");
        assert!(fs::symlink_metadata(&cert).unwrap().is_symlink());
        assert_eq!(fs::metadata(&real).unwrap().mode() & 0o777, 0o644);
        let asked_with = files.stamps();
        keep::replace(&key, b"another", keep::PRIVATE).unwrap();
        assert!(put(&files, &asked_with, "for the old key").is_err());
        assert_eq!(fs::read_to_string(&real).unwrap(), "granted");
    }
}
