//! TLS to an agent: whom to believe, and what to show where the agent asks for a certificate.

use std::{
    error::Error,
    io,
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
    sync::Arc,
};

use clap::Args;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, RootCertStore,
    crypto::aws_lc_rs as provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::failure::{Code, Failure};
use crate::agent::trust;

/// The flags of every command that talks to an agent over https.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Papers {
    /// The authority to believe, in PEM [env: HOBNOB_API_CA] [default: the system's]
    #[arg(long, global = true, value_name = "FILE")]
    api_ca: Option<PathBuf>,
    /// A certificate to show, in PEM [env: HOBNOB_API_CERT]
    #[arg(long, global = true, value_name = "FILE")]
    api_cert: Option<PathBuf>,
    /// Its private key, in PEM [env: HOBNOB_API_KEY]
    #[arg(long, global = true, value_name = "FILE")]
    api_key: Option<PathBuf>,
}

impl Papers {
    /// What connects with them.
    pub(super) fn connector(&self) -> Result<TlsConnector, Failure> {
        let given = |flag: &Option<PathBuf>, name: &str| {
            flag.clone().or_else(|| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from))
        };
        let [ca, cert, key] = [
            given(&self.api_ca, "HOBNOB_API_CA"),
            given(&self.api_cert, "HOBNOB_API_CERT"),
            given(&self.api_key, "HOBNOB_API_KEY"),
        ];
        let wrong = |why: &dyn std::fmt::Display| {
            let next = "hobnob --api-ca FILE --api-cert FILE --api-key FILE";
            Failure::new("cannot speak https with these files", why, next).code(Code::Usage)
        };
        let mut roots = RootCertStore::empty();
        let believed = match &ca {
            Some(path) => certificates(path).map_err(|why| wrong(&why))?,
            None => rustls_native_certs::load_native_certs().certs,
        };
        roots.add_parsable_certificates(believed);
        if roots.is_empty() {
            return Err(wrong(&"there is no authority to believe"));
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(|why| wrong(&why))?;
        let builder = builder.with_root_certificates(roots);
        let mut config = match (cert, key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                let text = trust::secret_text(&key).map_err(|why| wrong(&why))?;
                let private = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|why| wrong(&why))?;
                let chain = certificates(&cert).map_err(|why| wrong(&why))?;
                builder.with_client_auth_cert(chain, private).map_err(|why| wrong(&why))?
            }
            _ => return Err(wrong(&"a certificate and its key go together")),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config).into())
    }
}

/// Why there is no TLS, and what to type instead where that is known.
#[derive(Debug)]
pub(super) struct Mistrust {
    pub(super) why: String,
    pub(super) next: Option<String>,
}

/// A handshake with the host of `authority`.
pub(super) async fn connect(
    connector: &TlsConnector,
    authority: &str,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, Mistrust> {
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, ""));
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host.clone()).map_err(|why| Mistrust { why: why.to_string(), next: None })?;
    connector.connect(name, stream).await.map_err(|why| match why.get_ref().and_then(|why| why.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(wrong)) => mistrust(wrong, &host, port),
        _ => Mistrust { why: why.to_string(), next: None },
    })
}

/// Why the agent does not take this client, where that is what has ended a call.
pub(super) fn refusal(error: &(dyn Error + 'static)) -> Option<String> {
    let tls = |error: &(dyn Error + 'static)| error.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref().cloned();
    match tls(error) {
        Some(rustls::Error::AlertReceived(AlertDescription::CertificateRequired)) => {
            Some("it wants a certificate, and none was shown".into())
        }
        Some(rustls::Error::AlertReceived(alert)) => Some(format!("its answer in TLS is {alert:?}")),
        _ => refusal(error.source()?),
    }
}

/// What is wrong with the certificate of an agent that was looked for at `host`.
fn mistrust(wrong: &CertificateError, host: &str, port: &str) -> Mistrust {
    let usual = format!("the agent's certificate is not believed: {wrong}");
    match wrong {
        CertificateError::UnknownIssuer => Mistrust {
            why: usual,
            next: Some("--api-ca FILE, or HOBNOB_API_CA, with the authority that signed it".into()),
        },
        CertificateError::NotValidForNameContext { presented, .. } => {
            // Each is written as `Kind("name")`.
            let bare = |name: &String| Some(name.split_once('(')?.1.trim_end_matches(')').trim_matches('"').to_owned());
            let names: Vec<_> = presented.iter().filter_map(bare).collect();
            let is_for = if names.is_empty() { "no host at all".into() } else { names.join(", ") };
            let next = names.iter().find(|name| !name.contains('*')).map(|name| match name.parse::<Ipv6Addr>() {
                Ok(v6) => format!("--api https://[{v6}]:{port}"),
                Err(_) => format!("--api https://{name}:{port}"),
            });
            Mistrust { why: format!("the agent's certificate is not for {host}, it is for {is_for}"), next }
        }
        // What the verifier has no name for in TLS, it says by its own.
        CertificateError::Other(other) => match other.to_string().as_str() {
            "CaUsedAsEndEntity" => Mistrust {
                why: "the agent's certificate is an authority's (CA:TRUE), and no server's".into(),
                next: Some(reissue(host)),
            },
            "UnsupportedCertVersion" => Mistrust {
                why: "the agent's certificate is of X.509 version 1, which names no host".into(),
                next: Some(reissue(host)),
            },
            _ => Mistrust { why: usual, next: None },
        },
        _ => Mistrust { why: usual, next: None },
    }
}

/// How OpenSSL makes one that is believed of a server.
fn reissue(host: &str) -> String {
    let kind = if host.parse::<IpAddr>().is_ok() { "IP" } else { "DNS" };
    format!(
        "another in http.tls.cert: openssl req -x509 -newkey rsa:2048 -nodes -subj / -addext basicConstraints=critical,CA:FALSE \
         -addext subjectAltName={kind}:{host} -days 365 -keyout KEY -out CERT"
    )
}

fn certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = trust::text(path).map_err(|why| why.to_string())?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    chain.ok_or_else(|| format!("{} holds no certificate in PEM", path.display()))
}

#[cfg(test)]
mod tests {
    use rustls::{OtherError, client::WebPkiServerVerifier};

    use super::*;

    #[test]
    fn of_what_is_no_server_s_certificate_it_says_how_to_make_one() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let shown = params.self_signed(&key).unwrap().der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(shown.clone()).unwrap();
        let crypto = Arc::new(provider::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), crypto).build().unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let judged = rustls::client::danger::ServerCertVerifier::verify_server_cert(
            &*verifier,
            &shown,
            &[],
            &name,
            &[],
            rustls::pki_types::UnixTime::now(),
        );
        let Err(rustls::Error::InvalidCertificate(authority)) = judged else { panic!("{judged:?}") };
        let first = CertificateError::Other(OtherError(Arc::new(io::Error::other("UnsupportedCertVersion"))));
        for (wrong, host, expected) in
            [(authority, "localhost", "subjectAltName=DNS:localhost"), (first, "::1", "subjectAltName=IP:::1")]
        {
            let Mistrust { why, next } = mistrust(&wrong, host, "8500");
            assert!(next.unwrap().contains(expected) && !why.contains("Other"), "{why}");
        }
    }
}
