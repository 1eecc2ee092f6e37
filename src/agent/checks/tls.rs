//! TLS for checks: the system's authorities unless the check names its own.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, Error, RootCertStore, WantsVerifier,
    client::{WantsClientCert, WebPkiServerVerifier, danger::ServerCertVerifier, verify_server_name},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use rustls_native_certs::ErrorKind;
use tokio_rustls::TlsConnector;
use x509_parser::parse_x509_certificate;

use super::{
    dial::Stream,
    failed::{Failed, is_own},
};
use crate::{
    agent::{
        file,
        judge::{Judge, Judged},
    },
    model::{Host, TlsOptions},
};

/// Speaks TLS on a connection that stands.
pub(super) async fn wrap(
    stream: impl Stream + 'static,
    host: &Host,
    options: &TlsOptions,
    alpn: &[&[u8]],
) -> Result<Box<dyn Stream>, Failed> {
    let name = match (&options.server_name, host) {
        (Some(name), _) => ServerName::try_from(name.clone()),
        (None, Host::Address(address)) => Ok(ServerName::IpAddress((*address).into())),
        (None, Host::Name(name)) => ServerName::try_from(name.to_string()),
    };
    let name = name.map_err(|why| format!("no certificate can prove that name: {why}"))?;
    let mut config = config(options, &name)?;
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    Ok(Box::new(connected.map_err(|why| told(&why.to_string()))?))
}

/// Why TLS failed, and what helps where the certificate is vouched for by nobody who is believed here.
fn told(why: &str) -> String {
    let help = "name who signed it as `tls.ca`, or set `tls.verify` to false";
    if why.contains("CaUsedAsEndEntity") {
        format!("TLS failed: its certificate is self-signed: {help}")
    } else if why.ends_with("UnknownIssuer") {
        format!("TLS failed: {why}: {help}")
    } else {
        format!("TLS failed: {why}")
    }
}

/// Files are read for each run, so that a certificate that was renewed is used at once.
fn config(options: &TlsOptions, name: &ServerName<'static>) -> Result<ClientConfig, Failed> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|why| why.to_string())?;
    let builder = match (&options.ca, options.verify) {
        (_, false) => believe(builder, Anybody, provider),
        (None, true) => builder.with_root_certificates(system()?),
        (Some(path), true) => {
            // Why it is of no use would tell whoever may register which files this machine has.
            let useless = || format!("{} cannot be read, or holds no certificate of an authority", path.display());
            let listed = certificates(path).map_err(|why| why.reworded(|_| useless()))?;
            let roots = authorities(&listed).ok_or_else(useless)?;
            let usual = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider));
            let usual = usual.build().map_err(|_| useless())?;
            believe(builder, Listed { listed, usual, name: name.clone() }, provider)
        }
    };
    match (&options.cert, &options.key) {
        (Some(cert), Some(key)) => {
            let chain = certificates(cert)?;
            let key = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|why| unreadable(key, &why))?;
            let showing = builder.with_client_auth_cert(chain, key);
            Ok(showing.map_err(|why| format!("{}: {why}", cert.display()))?)
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn believe(
    builder: ConfigBuilder<ClientConfig, WantsVerifier>,
    judge: impl Judge + 'static,
    crypto: Arc<CryptoProvider>,
) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    builder.dangerous().with_custom_certificate_verifier(Arc::new(Judged { judge, crypto }))
}

fn authorities(listed: &[CertificateDer<'static>]) -> Option<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(listed.iter().cloned());
    (added > 0).then(|| Arc::new(roots))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failed> {
    let found: Result<_, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    Ok(found.map_err(|why| unreadable(path, &why))?)
}

fn read(path: &Path) -> Result<Vec<u8>, Failed> {
    file::read(path, MAX_PEM).map_err(|why| Failed::of(&why, unreadable(path, &why)))
}

fn unreadable(path: &Path, why: &dyn std::fmt::Display) -> String {
    format!("{} cannot be read: {why}", path.display())
}

/// The authorities that this machine believes, read once.
fn system() -> Result<Arc<RootCertStore>, Failed> {
    static SYSTEM: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(known) = SYSTEM.get() {
        return Ok(Arc::clone(known));
    }
    let found = rustls_native_certs::load_native_certs();
    // What cannot be read for want of a descriptor would be missing for ever.
    for error in &found.errors {
        if let ErrorKind::Io { inner, .. } = &error.kind
            && is_own(inner)
        {
            return Err(Failed::Node(format!("the system's authorities cannot be read: {error}")));
        }
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    Ok(Arc::clone(SYSTEM.get_or_init(|| Arc::new(roots))))
}

/// For a `ca` of the check's own: the certificates that are listed there are believed, and those that they vouch for. One
/// that is itself shown by its server vouches for itself, whether it says that it is an authority's, as most that people
/// sign for themselves do, or not; the usual rules take no authority for a server (RFC 5280 section 4.2.1.9).
#[derive(Debug)]
struct Listed {
    listed: Vec<CertificateDer<'static>>,
    usual: Arc<WebPkiServerVerifier>,
    name: ServerName<'static>,
}

impl Judge for Listed {
    fn judge(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        if !self.listed.contains(leaf) {
            return self.usual.verify_server_cert(leaf, rest, &self.name, &[], now).map(drop);
        }
        verify_server_name(&ParsedCertificate::try_from(leaf)?, &self.name)?;
        let (_, parsed) = parse_x509_certificate(leaf).map_err(|_| CertificateError::BadEncoding)?;
        let [not_before, not_after] = [parsed.validity().not_before, parsed.validity().not_after].map(|at| {
            let seconds = u64::try_from(at.timestamp()).unwrap_or_default();
            UnixTime::since_unix_epoch(Duration::from_secs(seconds))
        });
        match now {
            time if time < not_before => Err(CertificateError::NotValidYetContext { time, not_before }.into()),
            time if time > not_after => Err(CertificateError::ExpiredContext { time, not_after }.into()),
            _ => Ok(()),
        }
    }
}

/// For `verify = false`: whoever answers is believed, if only he holds the key of the certificate that he shows.
#[derive(Debug)]
struct Anybody;

impl Judge for Anybody {
    fn judge(&self, _: &CertificateDer<'_>, _: &[CertificateDer<'_>], _: UnixTime) -> Result<(), Error> {
        Ok(())
    }
}

/// Longer than all the authorities of a system together.
const MAX_PEM: u64 = 1 << 20;
