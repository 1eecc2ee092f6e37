//! TLS on the HTTP port: a certificate for clients to know this node by, and where `client_ca` is set, one that every
//! client must show. The files are looked at now and then; connections that stand keep what they began with.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs as provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use serde::Deserialize;
use tokio::{task::spawn_blocking, time::sleep};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::Config;
use crate::agent::{
    Agent, News, Paper,
    expiry::Expiry,
    file::{Stamp, stamp},
    trust::{self, Broken, Says},
    unix_millis,
};

/// The section `[http.tls]`: files in PEM. A path that was not given is empty: it may stand in another file of settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Files {
    /// This node's certificate, and those that lead to its authority.
    pub cert: PathBuf,
    /// Its private key, for its owner alone.
    pub key: PathBuf,
    /// The authorities of which every client must show a certificate.
    pub client_ca: Option<PathBuf>,
}

impl Files {
    /// The keys that are not given and have to be.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        let all = [("cert", &self.cert), ("key", &self.key)];
        all.into_iter().filter(|(_, path)| path.as_os_str().is_empty()).map(|(key, _)| key).collect()
    }

    /// Whether HTTPS can be served with what they hold.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn check(&self) -> Result<(), Broken> {
        Shown::read(self).map(drop)
    }
}

/// What the port shows now.
pub(super) struct Tls {
    files: Files,
    current: ArcSwap<Shown>,
    /// Why the files hold something else; none once that was taken over.
    not_reloaded: ArcSwapOption<String>,
}

/// One reading of the files.
struct Shown {
    config: Arc<ServerConfig>,
    /// What the certificate says of itself, where it is one that can be read.
    says: Option<Says>,
}

impl Config {
    /// Why HTTP may not be served there: what others can reach is not for plain text, unless somebody insists.
    ///
    /// # Errors
    /// A sentence that says what to set.
    pub fn check_place(&self, listen: SocketAddr) -> Result<(), String> {
        if self.tls.is_some() || self.insecure || listen.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        Err(format!(
            "is {listen}, which other machines reach, and HTTP is plain text there: give it a certificate ([http.tls] \
             with cert and key), or, where a proxy or a private network guards it, set http.insecure = true"
        ))
    }
}

impl Tls {
    /// Reads the files.
    pub(super) fn read(files: Files) -> Result<Self, Broken> {
        let current = ArcSwap::from_pointee(Shown::read(&files)?);
        Ok(Self { files, current, not_reloaded: ArcSwapOption::empty() })
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.current.load().config).into()
    }

    /// What the certificate says that is shown now.
    pub(super) fn says(&self) -> Option<Says> {
        self.current.load().says.clone()
    }

    /// Why what the files hold now is not.
    pub(super) fn not_reloaded(&self) -> Option<String> {
        self.not_reloaded.load_full().map(|why| String::clone(&why))
    }

    fn stamps(&self) -> Vec<Stamp> {
        let Files { cert, key, client_ca } = &self.files;
        [Some(cert), Some(key), client_ca.as_ref()].into_iter().flatten().map(|path| stamp(path)).collect()
    }

    /// Takes over what the files hold when they change, and tells in time that the certificate expires, until `stop`.
    pub(super) async fn watch(self: Arc<Self>, agent: Agent, stop: CancellationToken) {
        let write = |paper| {
            let node = agent.config().node.clone();
            agent.journal().write(unix_millis(), News::HttpCertificate(node, paper));
        };
        let (mut seen, mut expiry) = (self.stamps(), Expiry::default());
        loop {
            if let Some(paper) = self.says().and_then(|says| expiry.due(&says, SystemTime::now())) {
                tracing::warn!(event = "http_certificate_expires", file = %self.files.cert.display(), ?paper);
                write(paper);
            }
            tokio::select! {
                () = sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return,
            }
            // Beside the loop: a disk may be slow, or gone.
            let (tls, before) = (Arc::clone(&self), seen.clone());
            let look = spawn_blocking(move || {
                let now = tls.stamps();
                let read = (now != before).then(|| Shown::read(&tls.files));
                (now, read)
            });
            let Ok((now, Some(read))) = look.await else { continue };
            seen = now;
            self.not_reloaded.store(read.as_ref().err().map(|why| Arc::new(why.to_string())));
            match read {
                Ok(shown) => {
                    let serial = shown.says.as_ref().map(|says| says.serial.clone()).unwrap_or_default();
                    self.current.store(Arc::new(shown));
                    tracing::info!(event = "http_certificate_reloaded", serial);
                    write(Paper::Reloaded { serial });
                }
                // Half of the files may be written: whoever writes the other half brings us back here.
                Err(why) => {
                    tracing::error!(event = "http_certificate_not_reloaded", %why, "the old one stays in use");
                    write(Paper::NotReloaded { why: why.to_string() });
                }
            }
        }
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Tls({:?})", self.files)
    }
}

impl Shown {
    fn read(files: &Files) -> Result<Self, Broken> {
        let chain = certificates(&files.cert)?;
        let says = chain.first().and_then(trust::says);
        Ok(Self { config: Arc::new(config(files, chain)?), says })
    }
}

fn config(files: &Files, chain: Vec<CertificateDer<'static>>) -> Result<ServerConfig, Broken> {
    let key = trust::secret_text(&files.key)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| Broken::File(files.key.clone(), "holds no private key in PEM"))?;
    let crypto = Arc::new(provider::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&crypto)).with_safe_default_protocol_versions()?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(path)? {
                roots.add(root)?;
            }
            let roots = Arc::new(roots);
            builder.with_client_cert_verifier(WebPkiClientVerifier::builder_with_provider(roots, crypto).build()?)
        }
    };
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if files.client_ca.is_some() {
        // A resumed session would outlive the authority that its client was believed by.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
    }
    Ok(config)
}

/// At least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Broken> {
    let text = trust::text(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    chain.ok_or_else(|| Broken::File(path.to_owned(), "holds no certificate in PEM"))
}

/// A call of `stat` for each file each time.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// The first byte of a TLS handshake (RFC 8446 section 5.1), with which no HTTP request begins.
pub(super) const HANDSHAKE: u8 = 22;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_reach_is_not_served_in_plain_text() {
        let place = |text: &str| text.parse::<SocketAddr>().unwrap();
        let mut config = Config::default();
        for good in ["127.0.0.1:8500", "127.8.0.1:0", "[::1]:8500", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(config.check_place(place(good)), Ok(()), "{good}");
        }
        for bad in ["0.0.0.0:8500", "[::]:0", "10.0.0.1:8500", "[2001:db8::1]:8500"] {
            assert!(config.check_place(place(bad)).unwrap_err().contains("http.insecure"), "{bad}");
        }
        config.insecure = true;
        assert_eq!(config.check_place(place("0.0.0.0:8500")), Ok(()));
    }
}
