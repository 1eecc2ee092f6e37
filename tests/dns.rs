//! DNS as real programs see it: dig, kdig, drill, HAProxy, nginx, unbound, dnsmasq and dnsperf against a running agent,
//! and packets that no program sends. Programs that are not installed are skipped, with a line that says so.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test outside the core's virtual time")]

mod process;

use std::{
    fs,
    net::{SocketAddr, TcpListener as Probe, UdpSocket},
    path::Path,
    process::Stdio,
    time::Duration,
};

use process::{Agent, Mesh, finish, hobnob, installed, until};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};

const WEB: &str = "web.service.mesh.internal";

/// An agent that serves `web` on these ports of loopback.
async fn serving(mesh: &Mesh, ports: &[u16]) -> Agent {
    let agent = mesh.start("n1", &[]).await;
    for port in ports {
        let body = format!(r#"{{"name": "web", "port": {port}, "address": "127.0.0.1"}}"#);
        let (status, answer) = agent.call("PUT", &format!("/api/v1/registrations/web-{port}"), &body).await;
        assert_eq!(status, 201, "{answer}");
    }
    agent
}

/// A port that nobody listens on now.
fn free_port() -> u16 {
    Probe::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What a program said on stdout.
async fn said(program: &str, arguments: &[&str]) -> String {
    let ended = finish(Command::new(program).args(arguments)).await;
    assert_eq!(ended.code, Some(0), "{program} {arguments:?}: {ended:?}");
    ended.out
}

/// A program that runs until it is dropped; what it says goes to a file that a failure can be told by.
fn start(program: &str, arguments: &[&str], log: &Path) -> Child {
    let log = fs::File::create(log).unwrap();
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").kill_on_drop(true).spawn().unwrap()
}

/// A web server that answers every request with its own port.
async fn backend() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let body = port.to_string();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                let _ = stream.write_all((head + &body).as_bytes()).await;
            });
        }
    });
    port
}

/// The body that `GET /` gives there; `None` for anything but success.
async fn get(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: web\r\n\r\n").await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.contains(" 200 ").then(|| body.to_owned())
}

/// Waits until `port` has answered with each of these bodies.
async fn until_each(what: &str, port: u16, log: &Path, bodies: &[u16]) {
    let mut missing: Vec<String> = bodies.iter().map(u16::to_string).collect();
    let what = format!("{what} has reached {bodies:?}; its log is {}", log.display());
    until(&what, async || {
        let body = get(port).await?;
        assert!(bodies.iter().any(|known| known.to_string() == body), "{body}");
        missing.retain(|other| *other != body);
        missing.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn dig_kdig_and_drill_read_every_kind_of_answer() {
    let mesh = Mesh::new();
    let agent = serving(&mesh, &[8081, 8082, 8083]).await;
    let port = agent.dns.port().to_string();
    for dig in ["dig", "kdig"] {
        if !installed(dig) {
            continue;
        }
        let ask = async |more: &[&str]| said(dig, &[&["@127.0.0.1", "-p", &port, "+short"], more].concat()).await;
        for transport in ["+notcp", "+tcp"] {
            assert_eq!(ask(&[transport, WEB, "A"]).await.trim(), "127.0.0.1", "{dig} {transport}");
            let mut servers: Vec<_> = ask(&[transport, WEB, "SRV"]).await.lines().map(String::from).collect();
            servers.sort();
            assert!(servers.len() == 3 && servers[0].starts_with("1 256 8081 i-"), "{dig} {transport}: {servers:?}");
        }
        assert!(ask(&["-x", "127.0.0.1"]).await.starts_with("n1.node.dc1.mesh.internal."), "{dig}");
        let whole = said(dig, &["@127.0.0.1", "-p", &port, "+cookie", "nope.service.mesh.internal"]).await;
        assert!(whole.contains("NXDOMAIN") && whole.contains("COOKIE") && !whole.contains("malformed"), "{whole}");
        let whole = said(dig, &["@127.0.0.1", "-p", &port, WEB, "AAAA"]).await;
        assert!(whole.contains("NOERROR") && whole.contains("SOA"), "NODATA: {whole}");
    }
    if installed("drill") {
        let whole = said("drill", &["-p", &port, "_web._tcp.mesh.internal", "@127.0.0.1", "SRV"]).await;
        assert!(whole.contains("rcode: NOERROR") && whole.contains("ANSWER: 3"), "{whole}");
    }
    if installed("dig") {
        let whole = said("dig", &["@127.0.0.1", "-p", &port, "+edns=1", "+noednsneg", WEB]).await;
        assert!(whole.contains("BADVERS"), "{whole}");
        let whole = said("dig", &["@127.0.0.1", "-p", &port, "example.com"]).await;
        assert!(whole.contains("REFUSED"), "{whole}");
    }
}

#[tokio::test]
async fn haproxy_fills_a_server_template_with_three_instances_on_one_address() {
    if !installed("haproxy") {
        return;
    }
    let mesh = Mesh::new();
    let ports = [backend().await, backend().await, backend().await];
    let agent = serving(&mesh, &ports).await;
    let front = free_port();
    let config = mesh.file(
        "haproxy.cfg",
        &format!(
            "defaults\n  mode http\n  timeout connect 2s\n  timeout client 5s\n  timeout server 5s\n\
             resolvers hobnob\n  nameserver n1 {dns}\n  accepted_payload_size 1232\n  hold valid 100ms\n\
               timeout resolve 200ms\n  timeout retry 200ms\n\
             frontend f\n  bind 127.0.0.1:{front}\n  default_backend b\n\
             backend b\n  balance roundrobin\n\
               server-template web 5 _web._tcp.mesh.internal resolvers hobnob init-addr none\n",
            dns = agent.dns
        ),
    );
    let log = mesh.path("haproxy.log");
    let _haproxy = start("haproxy", &["-db", "-f", config.to_str().unwrap()], &log);
    until_each("HAProxy", front, &log, &ports).await;
    let (status, _) = agent.call("DELETE", &format!("/api/v1/registrations/web-{}", ports[0]), "").await;
    assert_eq!(status, 204);
    // Five in a row by the others: round robin would have come to the withdrawn one.
    let gone = ports[0].to_string();
    until("HAProxy leaves out who is gone", async || {
        for _ in 0..5 {
            if get(front).await? == gone {
                return None;
            }
        }
        Some(())
    })
    .await;
}

#[tokio::test]
async fn a_hook_writes_the_servers_of_haproxy_and_reloads_it() {
    if !installed("haproxy") {
        return;
    }
    let mesh = Mesh::new();
    let (ports, front) = ([backend().await, backend().await], free_port());
    let head = format!(
        "defaults\n  mode http\n  timeout connect 2s\n  timeout client 5s\n  timeout server 5s\n\
         frontend f\n  bind 127.0.0.1:{front}\n  default_backend b\n\
         backend b\n  balance roundrobin\n"
    );
    let head = mesh.file("head.cfg", &head);
    let [config, pid] = ["haproxy.cfg", "haproxy.pid"].map(|name| mesh.path(name).display().to_string());
    let script = format!(
        "{{ cat {head}; grep -o '\"port\":[0-9]*' | sed 's/.*:\\(.*\\)/  server s\\1 127.0.0.1:\\1/'; }} > {config}.new\n\
         mv {config}.new {config}\nif [ -e {pid} ]; then kill -USR2 $(cat {pid}); fi\n",
        head = head.display()
    );
    let hook = format!("[[hooks]]\nservice = \"web\"\ncommand = [\"sh\", \"-c\", {script:?}]\nsettle = \"1ms\"\n");
    let hook = mesh.file("hook.toml", &hook);
    let agent = mesh.launch("n1", mesh.agent("n1", "n1").arg("--config").arg(hook)).await;
    agent.register("web", ports[0]).await;
    until("the hook has written", async || fs::read_to_string(&config).ok()?.contains("server s").then_some(())).await;
    let log = mesh.path("haproxy.log");
    let mut haproxy = start("haproxy", &["-W", "-p", &pid, "-f", &config], &log);
    until_each("HAProxy", front, &log, &ports[..1]).await;
    let mut looks = 0;
    until(&format!("HAProxy has the second server; its log is {}", log.display()), async || {
        // HAProxy may miss a signal while it is busy with one: the next change reloads it again.
        if looks % 100 == 0 {
            let body = format!(r#"{{"name": "web", "port": {}, "meta": {{"look": "{looks}"}}}}"#, ports[1]);
            agent.call("PUT", "/api/v1/registrations/web-2", &body).await;
        }
        looks += 1;
        (get(front).await? == ports[1].to_string()).then_some(())
    })
    .await;
    let master = Pid::from_raw(i32::try_from(haproxy.id().unwrap()).unwrap()).unwrap();
    kill_process(master, Signal::TERM).unwrap();
    haproxy.wait().await.unwrap();
}

#[tokio::test]
async fn nginx_follows_a_name_in_a_variable() {
    if !installed("nginx") {
        return;
    }
    let mesh = Mesh::new();
    let port = backend().await;
    let agent = serving(&mesh, &[port]).await;
    let front = free_port();
    let folder = mesh.folder.path().display().to_string();
    let config = mesh.file(
        "nginx.conf",
        &format!(
            "daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log {folder}/nginx.err;\nevents {{}}\n\
             http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;\n\
             fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n\
             resolver {dns} valid=1s; server {{ listen 127.0.0.1:{front};\n\
             location / {{ set $web {WEB}; proxy_pass http://$web:{port}; }} }} }}\n",
            dns = agent.dns
        ),
    );
    let log = mesh.path("nginx.log");
    let _nginx = start("nginx", &["-p", &folder, "-c", config.to_str().unwrap()], &log);
    // It asks for A and AAAA: NXDOMAIN for the latter would be a 502.
    until_each("nginx", front, &log, &[port]).await;
}

/// Asks a resolver on `port` for the address of `web`.
async fn until_resolved_by(what: &str, port: u16, log: &Path) {
    let port = port.to_string();
    let ask = ["@127.0.0.1", "-p", &port, "+short", "+tries=1", "+time=1", WEB, "A"];
    let what = format!("{what} answers; its log is {}", log.display());
    until(&what, async || {
        let ended = finish(Command::new("dig").args(ask)).await;
        (ended.out.trim() == "127.0.0.1").then_some(())
    })
    .await;
}

/// What `hobnob dns install` prints for a resolver.
async fn installation(agent: &Agent, resolver: &str) -> String {
    let ended = finish(hobnob().args(["dns", "install", resolver, "--server", &agent.dns.to_string()])).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.out
}

#[tokio::test]
async fn unbound_takes_the_lines_we_print_for_it() {
    if !installed("unbound") || !installed("dig") {
        return;
    }
    let mesh = Mesh::new();
    let agent = serving(&mesh, &[8081]).await;
    let port = free_port();
    let ours = mesh.file("hobnob.conf", &installation(&agent, "--unbound").await);
    let config = mesh.file(
        "unbound.conf",
        &format!(
            "server:\n  interface: 127.0.0.1\n  port: {port}\n  username: \"\"\n  chroot: \"\"\n  pidfile: \"\"\n\
               use-syslog: no\n  do-daemonize: no\n  qname-minimisation: yes\nremote-control:\n  control-enable: no\n\
             include: \"{}\"\n",
            ours.display()
        ),
    );
    let log = mesh.path("unbound.log");
    let _unbound = start("unbound", &["-d", "-c", config.to_str().unwrap()], &log);
    until_resolved_by("unbound", port, &log).await;
}

#[tokio::test]
async fn dnsmasq_takes_the_lines_we_print_for_it() {
    if !installed("dnsmasq") || !installed("dig") {
        return;
    }
    let mesh = Mesh::new();
    let agent = serving(&mesh, &[8081]).await;
    let port = free_port();
    let ours = installation(&agent, "--dnsmasq").await;
    let settings = "no-resolv\nno-hosts\nstop-dns-rebind\nlisten-address=127.0.0.1\nbind-interfaces\nuser=\n";
    let config = mesh.file("dnsmasq.conf", &format!("port={port}\n{settings}{ours}"));
    let log = mesh.path("dnsmasq.log");
    let config = format!("--conf-file={}", config.display());
    let _dnsmasq = start("dnsmasq", &["--keep-in-foreground", "--pid-file=", &config], &log);
    until_resolved_by("dnsmasq", port, &log).await;
}

#[tokio::test]
async fn dnsperf_loses_nothing() {
    if !installed("dnsperf") {
        return;
    }
    let mesh = Mesh::new();
    let agent = serving(&mesh, &[8081, 8082]).await;
    let questions = mesh.file("questions", &format!("{WEB} A\n{WEB} SRV\nn1.node.mesh.internal A\n{WEB} TXT\n"));
    let port = agent.dns.port().to_string();
    let arguments = ["-s", "127.0.0.1", "-p", &port, "-d", questions.to_str().unwrap(), "-n", "2000", "-q", "20"];
    let report = said("dnsperf", &arguments).await;
    let count = |what: &str| {
        let line = report.lines().find(|line| line.trim_start().starts_with(what)).unwrap_or_default();
        line.split_whitespace().nth(2).and_then(|count| count.parse::<u64>().ok())
    };
    assert_eq!((count("Queries sent:"), count("Queries completed:")), (Some(8_000), Some(8_000)), "{report}");
    assert!(report.contains("NOERROR 8000 (100.00%)"), "{report}");
}

/// A question for the address of `web`.
fn question(id: u16) -> Vec<u8> {
    question_of(WEB, id)
}

fn question_of(name: &str, id: u16) -> Vec<u8> {
    let mut packet = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    packet[..2].copy_from_slice(&id.to_be_bytes());
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).unwrap());
        packet.extend_from_slice(label.as_bytes());
    }
    packet.extend_from_slice(&[0, 0, 1, 0, 1]);
    packet
}

/// Whether the agent still answers over UDP, by a socket of its own.
fn answers(dns: SocketAddr) -> bool {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(dns).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    socket.send(&question(77)).unwrap();
    let mut reply = [0; 512];
    socket.recv(&mut reply).is_ok_and(|length| length > 12 && reply[..2] == [0, 77] && reply[3] & 0x0f == 0)
}

/// Packets of every kind of wrong: cut, flipped, padded, noise, lying counts, loops, giants.
fn malformed(random: &mut Pcg64) -> Vec<u8> {
    let mut packet = question(random.random());
    match random.random_range(0..8) {
        0 => packet.truncate(random.random_range(0..packet.len())),
        1 => {
            let at = random.random_range(0..packet.len());
            packet[at] = random.random();
        }
        2 => packet.extend((0..random.random_range(1..600)).map(|_| random.random::<u8>())),
        3 => random.fill(&mut packet[..]),
        4 => random.fill(&mut packet[4..12]),
        // A name that points to itself, or to what comes later.
        5 => (packet[12], packet[13]) = (0xC0, random.random_range(0..40)),
        6 => packet = vec![random.random(); random.random_range(0..9_000)],
        _ => packet[2] = random.random(),
    }
    packet
}

#[tokio::test]
async fn packets_of_every_kind_of_wrong_change_nothing() {
    let mesh = Mesh::new();
    let agent = serving(&mesh, &[8081]).await;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(agent.dns).unwrap();
    let mut random = Pcg64::seed_from_u64(5);
    for _ in 0..20_000 {
        let _ = socket.send(&malformed(&mut random));
    }
    for _ in 0..100 {
        let mut stream = TcpStream::connect(agent.dns).await.unwrap();
        let packet = malformed(&mut random);
        let length = if random.random() { packet.len() as u16 } else { random.random() };
        let _ = stream.write_all(&[&length.to_be_bytes()[..], &packet].concat()).await;
    }
    until("it answers", async || answers(agent.dns).then_some(())).await;
    assert_eq!(agent.get("/api/v1/status").await["ready"], true);
    assert!(!agent.log().contains("panicked"), "{}", agent.log());
}

/// The most memory that the agent has held at a time.
fn peak_kib(agent: &Agent) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
#[ignore = "a minute or more: cargo test --test dns -- --ignored memory"]
async fn memory_is_flat_after_a_million_packets() {
    let mesh = Mesh::new();
    let agent = serving(&mesh, &[8081]).await;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(agent.dns).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut random = Pcg64::seed_from_u64(6);
    let mut flood = |count: usize| {
        let mut reply = [0; 4096];
        for round in 0..count {
            let any: u32 = random.random();
            let packet = match round % 3 {
                0 => question_of(&format!("{any:08x}.addr.mesh.internal"), 7),
                1 => question_of(&format!("x{any:08x}.service.mesh.internal"), 7),
                _ => malformed(&mut random),
            };
            let _ = socket.send(&packet);
            if round % 64 == 0 {
                // Not faster than it can answer, or the kernel would drop most of it.
                socket.send(&question(1)).unwrap();
                while socket.recv(&mut reply).is_ok() && reply[..2] != [0, 1] {}
            }
        }
    };
    let empty = peak_kib(&agent);
    // As many names as are kept, and more.
    flood(600_000);
    let full = peak_kib(&agent);
    assert!(full < empty + 40 * 1_024, "{empty} KiB empty, {full} KiB full");
    flood(1_000_000);
    let after = peak_kib(&agent);
    assert!(after < full + 2_048, "{full} KiB full, {after} KiB after");
    assert!(answers(agent.dns));
}
