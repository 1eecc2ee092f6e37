//! Looks at the files of certificate mode now and then, and warns before a certificate expires.
//!
//! Files are looked at, not subscribed to: some folders (network disks, mounted secrets that swap a link) announce
//! nothing, and a renewal that comes some seconds later harms nobody.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::mpsc, time::sleep};

use super::{Files, Proof, Trust};
use crate::agent::peers::Arrival;

/// Runs until the loop has ended.
pub(in crate::agent) async fn watch(trust: Arc<Trust>, files: Option<Files>, arrivals: mpsc::Sender<Arrival>) {
    let mut seen = files.as_ref().map(stamps);
    let mut warned = None;
    loop {
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = trust.renewed.notified() => {
                // Refused only when the loop has ended.
                let _ = arrivals.send(Arrival::Renewed).await;
                continue;
            }
            () = arrivals.closed() => return,
        }
        if let Some(files) = &files {
            let now = stamps(files);
            if seen.as_ref() != Some(&now) {
                seen = Some(now);
                // Half of the files may be written: whoever writes the other half brings us back here.
                match trust.renew(Proof::Files(files)) {
                    Ok(()) => tracing::info!(event = "certificate_reloaded", serial = trust.says().serial),
                    Err(why) => {
                        tracing::error!(event = "certificate_not_reloaded", %why, "the old one stays in use");
                    }
                }
            }
        }
        let (says, now) = (trust.says(), SystemTime::now());
        let warn_again = warned.is_none_or(|at| now.duration_since(at).unwrap_or_default() > WARN_EVERY);
        if says.expires_soon(now) && warn_again {
            warned = Some(now);
            let left = says.not_after.duration_since(now).unwrap_or_default();
            let left = humantime::format_duration(Duration::from_secs(left.as_secs())).to_string();
            tracing::warn!(
                event = "certificate_expires",
                serial = says.serial,
                left,
                "issue a new one: hobnob ca issue"
            );
        }
    }
}

/// When a file was last changed, and its length.
pub(crate) type Stamp = Option<(SystemTime, u64)>;

pub(crate) fn stamp(path: &Path) -> Stamp {
    fs::metadata(path).ok().and_then(|found| Some((found.modified().ok()?, found.len())))
}

fn stamps(files: &Files) -> Vec<Stamp> {
    [Some(&files.ca), Some(&files.cert), Some(&files.key), files.ca_key.as_ref()]
        .into_iter()
        .map(|path| path.and_then(|path| stamp(path)))
        .collect()
}

/// Four calls of `stat` each time.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// A warning that is read is read once a day.
const WARN_EVERY: Duration = Duration::from_secs(24 * 3600);
