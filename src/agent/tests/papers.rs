//! A certificate near its end: told of, and renewed by a member that may.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, time::SystemTime};

use super::*;
use crate::{
    agent::trust::{Authority, Files, Pair},
    model::{MeshName, NodeName},
};

/// A folder with an authority and the certificates that it has issued.
struct Folder {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (authority, files) = Authority::create(DAY).unwrap();
        let made = Self { folder, authority };
        made.write("ca.pem", &files.certificate);
        made.write("ca-key.pem", &files.key);
        made
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// An agent with a certificate that is good for so long, a tenth of its time; the first one can sign for others.
    async fn start(&self, node: &str, left: Duration, seed: Option<&Agent>) -> Agent {
        let (mesh, name): (MeshName, NodeName) = ("test".try_into().unwrap(), node.try_into().unwrap());
        let Pair { certificate, key } =
            self.authority.issue_at(&mesh, &name, SystemTime::now() - 9 * left, 10 * left).unwrap();
        let tls = Files {
            ca: self.folder.path().join("ca.pem"),
            cert: self.write(&format!("{node}.pem"), &certificate),
            key: self.write(&format!("{node}-key.pem"), &key),
            ca_key: seed.is_none().then(|| self.folder.path().join("ca-key.pem")),
            renew: seed.is_some(),
        };
        let here = "127.0.0.1:0".parse().unwrap();
        let agent = Agent::builder().node(node).mesh("test").tls(tls).listen(here);
        let agent = agent.join(seed.map(|seed| seed.address().to_string())).start().await.unwrap();
        timeout(PATIENCE, agent.ready()).await.unwrap().unwrap();
        agent
    }
}

/// Waits until something of this kind has happened, and gives the newest.
async fn until_news(agent: &Agent, kind: &str) -> Arc<Entry> {
    let mut last = agent.journal().subscribe();
    let waiting = async {
        loop {
            let entries = agent.journal().after(0).1;
            if let Some(entry) = entries.iter().rev().find(|entry| entry.news.kind() == kind) {
                return Arc::clone(entry);
            }
            last.changed().await.unwrap();
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("no {kind}"))
}

#[tokio::test]
async fn a_certificate_near_its_end_is_told_of_and_renewed_by_a_member_that_may() {
    let folder = Folder::new();
    let host = folder.start("host", DAY, None).await;
    let other = folder.start("other", HOUR, Some(&host)).await;
    let before = other.certificate();
    let expires = until_news(&other, "certificate_expires").await;
    assert!(matches!(&expires.news, News::Certificate(node, Paper::Expires { serial, left })
        if node.as_str() == "other" && *serial == before.serial && *left <= HOUR));
    until_news(&other, "certificate_reloaded").await;
    let after = other.certificate();
    assert_ne!(after.serial, before.serial);
    // Who holds the authority's key tells of each one that it has granted.
    let granted = until_news(&host, "certificate_granted").await;
    assert!(
        matches!(&granted.news, News::Certificate(node, Paper::Granted { serial, of, from, until })
        if node.as_str() == "other" && *serial == after.serial && *of == Some(before.serial.clone())
            && *from == other.address() && *until == after.not_after),
        "{granted:?}"
    );
    assert!(after.not_after > before.not_after, "{before:?} {after:?}");
    let text = fs::read_to_string(folder.folder.path().join("other.pem")).unwrap();
    assert!(text.starts_with("-----BEGIN CERTIFICATE-----"));
    // Nobody else is let in with it, nor does it name another: the agent itself would refuse such files.
    until_state(&host, "other", MemberState::Alive).await;
    other.leave().await;
    host.leave().await;
}

#[tokio::test]
async fn where_nobody_may_renew_a_certificate_its_owner_is_told_why() {
    let folder = Folder::new();
    let host = folder.start("host", DAY, None).await;
    fs::remove_file(folder.folder.path().join("ca-key.pem")).unwrap();
    let other = folder.start("other", HOUR, Some(&host)).await;
    host.leave().await;
    let refused = until_news(&other, "certificate_not_renewed").await;
    assert!(matches!(&refused.news, News::Certificate(_, Paper::NotRenewed { why }) if !why.is_empty()));
    other.leave().await;
}

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(30 * 24 * 3600);
