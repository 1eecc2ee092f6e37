//! HTTP beyond loopback: refused in plain text, served over TLS, to certificates alone where that is asked for.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test outside the core's virtual time")]

mod process;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use process::{Agent, Ended, Mesh, finish, hobnob, until};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore, pki_types::pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// An authority in `NAME-ca.pem`, and a certificate by it for `localhost` in `INTO.pem` and `INTO.key`.
fn papers(mesh: &Mesh, name: &str, into: &str) {
    papers_for(mesh, name, into, None);
}

/// The same; where it says so, nine tenths of the certificate's life are over, and so much is left.
fn papers_for(mesh: &Mesh, name: &str, into: &str, left: Option<Duration>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let ca = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    if let Some(left) = left {
        params.not_before = (SystemTime::now() - left * 9).into();
        params.not_after = (SystemTime::now() + left).into();
    }
    let leaf = params.signed_by(&key, &issuer).unwrap();
    let write = |file: String, text: String| {
        // As a whole, as those do who renew.
        let (path, fresh) = (mesh.path(&file), mesh.path(&format!("{file}.new")));
        fs::write(&fresh, text).unwrap();
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(fresh, path).unwrap();
    };
    write(format!("{name}-ca.pem"), ca.pem());
    write(format!("{into}.pem"), leaf.pem());
    write(format!("{into}.key"), key.serialize_pem());
}

/// An agent that serves HTTPS with `server.pem`; `more` stands in its `[http.tls]`.
async fn start(mesh: &Mesh, more: &str) -> Agent {
    let [cert, key] = ["server.pem", "server.key"].map(|file| mesh.path(file).display().to_string());
    let text = format!("[http.tls]\ncert = {cert:?}\nkey = {key:?}\n{more}");
    let config = mesh.file("tls.toml", &text);
    let mut command = mesh.agent("a", "a");
    command.arg("--config").arg(config).args(["--http", "0.0.0.0:0"]);
    mesh.launch("a", &mut command).await
}

/// `hobnob status` over https with these flags.
async fn status(mesh: &Mesh, agent: &Agent, flags: &[(&str, &str)]) -> Ended {
    ask_by_cli(mesh, agent, "status", flags).await
}

/// Any such command.
async fn ask_by_cli(mesh: &Mesh, agent: &Agent, words: &str, flags: &[(&str, &str)]) -> Ended {
    let mut command = hobnob();
    command.args([words, "--api", &format!("https://localhost:{}", agent.http.port())]);
    for (flag, file) in flags {
        command.arg(flag).arg(mesh.path(file));
    }
    finish(&mut command).await
}

/// A connection of our own, which believes the authority in `ca`.
async fn connect(agent: &Agent, ca: PathBuf) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(crypto).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(("127.0.0.1", agent.http.port())).await?;
    TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), stream).await
}

/// One request on a connection that stays.
async fn ask(stream: &mut TlsStream<TcpStream>) -> String {
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 512];
    let read = stream.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

#[tokio::test]
async fn plain_text_is_not_served_to_other_machines_unless_somebody_insists() {
    let mesh = Mesh::new();
    let refused = finish(mesh.agent("a", "a").args(["--http", "0.0.0.0:0"])).await;
    let (what, why, _) = refused.failure(2);
    assert!(format!("{what}{why}").contains("http.insecure = true"), "{refused:?}");
    let mut command = mesh.agent("a", "a");
    command.args(["--http", "0.0.0.0:0"]).env("HOBNOB_HTTP__INSECURE", "true");
    let forced = mesh.launch("a", &mut command).await;
    assert!(forced.http.ip().is_unspecified());
}

#[tokio::test]
async fn a_certificate_is_shown_and_replaced_while_connections_stand() {
    let mesh = Mesh::new();
    papers(&mesh, "one", "server");
    let a = start(&mesh, "").await;
    let good = status(&mesh, &a, &[("--api-ca", "one-ca.pem")]).await;
    assert_eq!(good.code, Some(0), "{good:?}");
    let strange = status(&mesh, &a, &[]).await;
    assert!(strange.failure(4).1.contains("certificate") && strange.failure(4).2.contains("--api-ca"), "{strange:?}");
    let elsewhere = format!("https://127.0.0.1:{}", a.http.port());
    let misnamed =
        finish(hobnob().args(["status", "--api", &elsewhere, "--api-ca"]).arg(mesh.path("one-ca.pem"))).await;
    let (_, why, next) = misnamed.failure(4);
    assert!(why.contains("not for 127.0.0.1, it is for localhost"), "{misnamed:?}");
    assert!(next.contains(&format!("--api https://localhost:{}", a.http.port())), "{misnamed:?}");
    let (code, said) = a.call("GET", "/livez", "").await;
    assert!(code == 400 && said["detail"].as_str().unwrap().contains("HTTPS"), "{code} {said}");

    let mut before = connect(&a, mesh.path("one-ca.pem")).await.unwrap();
    assert!(ask(&mut before).await.starts_with("HTTP/1.1 200"));
    papers(&mesh, "two", "server");
    until("the new certificate is shown", async || connect(&a, mesh.path("two-ca.pem")).await.ok()).await;
    assert!(ask(&mut before).await.starts_with("HTTP/1.1 200"), "the old connection stands");
    // What is of no use is not taken over.
    fs::write(mesh.path("server.pem"), "nonsense").unwrap();
    a.until_logged("http_certificate_not_reloaded").await;
    connect(&a, mesh.path("two-ca.pem")).await.unwrap();
}

#[tokio::test]
async fn a_certificate_near_its_end_is_told_of_everywhere() {
    let mesh = Mesh::new();
    papers_for(&mesh, "one", "server", Some(Duration::from_secs(3600)));
    let a = start(&mesh, "").await;
    a.until_logged("http_certificate_expires").await;
    let mut stream = connect(&a, mesh.path("one-ca.pem")).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut metrics = String::new();
    // A server that hangs up without a word of TLS is none of this test's business.
    let _ = stream.read_to_string(&mut metrics).await;
    assert!(metrics.contains("\nhobnob_http_certificate_expires_seconds "), "{metrics}");
    assert!(metrics.contains("hobnob_events_total{event=\"http_certificate_expires\""), "{metrics}");
    let doctor = ask_by_cli(&mesh, &a, "doctor", &[("--api-ca", "one-ca.pem")]).await;
    let line = doctor.out.lines().find(|line| line.contains("http certificate")).unwrap_or_default();
    assert!(line.contains("warning") && line.contains("expires at"), "{doctor:?}");
    papers(&mesh, "one", "server");
    a.until_logged("http_certificate_reloaded").await;
    let doctor = ask_by_cli(&mesh, &a, "doctor", &[("--api-ca", "one-ca.pem")]).await;
    assert!(
        doctor.out.lines().any(|line| line.contains("http certificate") && line.contains("good until")),
        "{doctor:?}"
    );
}

#[tokio::test]
async fn who_shows_no_certificate_is_not_served_where_one_is_asked_for() {
    let mesh = Mesh::new();
    papers(&mesh, "one", "server");
    papers(&mesh, "clients", "client");
    papers(&mesh, "strangers", "stranger");
    let a = start(&mesh, &format!("client_ca = {:?}\n", mesh.path("clients-ca.pem").display().to_string())).await;
    let ca = ("--api-ca", "one-ca.pem");
    let good = status(&mesh, &a, &[ca, ("--api-cert", "client.pem"), ("--api-key", "client.key")]).await;
    assert_eq!(good.code, Some(0), "{good:?}");
    for flags in [&[ca][..], &[ca, ("--api-cert", "stranger.pem"), ("--api-key", "stranger.key")]] {
        let (what, why, next) = status(&mesh, &a, flags).await.failure(5);
        assert!(what.contains("certificate") && next.contains("--api-cert"), "{what} {why} {next}");
        assert_eq!(why.contains("none was shown"), flags.len() == 1, "{why}");
    }
    let half = status(&mesh, &a, &[ca, ("--api-cert", "client.pem")]).await;
    assert!(half.failure(2).1.contains("go together"), "{half:?}");
}
