//! TLS for checks: the system's authorities unless the check names its own.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use rustls::{
    ClientConfig, Error, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::dial::Stream;
use crate::{
    agent::{
        file,
        judge::{Judge, Judged},
    },
    model::{Host, TlsOptions},
};

/// Speaks TLS on a connection that stands.
pub(super) async fn wrap(
    stream: TcpStream,
    host: &Host,
    options: &TlsOptions,
    alpn: &[&[u8]],
) -> Result<Box<dyn Stream>, String> {
    let name = match (&options.server_name, host) {
        (Some(name), _) => ServerName::try_from(name.clone()),
        (None, Host::Address(address)) => Ok(ServerName::IpAddress((*address).into())),
        (None, Host::Name(name)) => ServerName::try_from(name.to_string()),
    };
    let name = name.map_err(|why| format!("no certificate can prove that name: {why}"))?;
    let mut config = config(options)?;
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    Ok(Box::new(connected.map_err(|why| format!("TLS failed: {why}"))?))
}

/// Files are read for each run, so that a certificate that was renewed is used at once.
fn config(options: &TlsOptions) -> Result<ClientConfig, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|why| why.to_string())?;
    let builder = if options.verify {
        let roots = match &options.ca {
            Some(path) => Arc::new(authorities(path)?),
            None => Arc::clone(system()),
        };
        builder.with_root_certificates(roots)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Judged { judge: Anybody, crypto: provider }))
    };
    match (&options.cert, &options.key) {
        (Some(cert), Some(key)) => {
            let chain = certificates(cert)?;
            let key = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|why| unreadable(key, &why))?;
            builder.with_client_auth_cert(chain, key).map_err(|why| format!("{}: {why}", cert.display()))
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates(path)?);
    if added == 0 { Err(format!("{} holds no certificate of an authority", path.display())) } else { Ok(roots) }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<_, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    found.map_err(|why| unreadable(path, &why))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    file::read(path, MAX_PEM).map_err(|why| unreadable(path, &why))
}

fn unreadable(path: &Path, why: &dyn std::fmt::Display) -> String {
    format!("{} cannot be read: {why}", path.display())
}

/// The authorities that this machine believes, read once.
fn system() -> &'static Arc<RootCertStore> {
    static SYSTEM: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    SYSTEM.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    })
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
