//! Who is measured: each with the settings that make it serve the same names on one core.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    path::Path,
};

type Arguments = (String, Vec<String>);

/// A server to ask.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) program: &'static str,
    pub(crate) target: &'static str,
    pub(crate) is_ours: bool,
    /// Changes a minute, where it can.
    pub(crate) changes: usize,
    pub(crate) command: fn(SocketAddr, usize, usize, &Path) -> Arguments,
}

impl Peer {
    pub(crate) fn is_installed(&self) -> bool {
        self.program.is_empty() || installed(self.program)
    }
}

/// Whether the system has a program.
pub(crate) fn installed(program: &str) -> bool {
    ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"]
        .iter()
        .any(|at| Path::new(at).join(program).is_file())
}

/// The echo first: it is what the others are measured by.
pub(crate) fn all() -> Vec<Peer> {
    let peer = |name, program, target, command| Peer { name, program, target, is_ours: false, changes: 0, command };
    vec![
        peer("echo", "", "", |address, _, _, _| ourselves(&["--echo", &address.to_string()])),
        Peer {
            is_ours: true,
            ..peer("hobnob", "", "1.2", |address, names, changes, _| {
                ourselves(&["--serve", &address.to_string(), &format!("{names}/{changes}")])
            })
        },
        peer("hickory's handler", "", "2.4 known", |address, names, _, _| hickory("--handler", address, names)),
        peer("hickory-server", "", "8 known", |address, names, _, _| hickory("--hickory", address, names)),
        peer("nsd", "nsd", "1.3 known", nsd),
        peer("knot", "knotd", "1.45 known", knot),
        peer("unbound", "unbound", "1.5 to 1.7 known", unbound),
    ]
}

fn ourselves(arguments: &[&str]) -> Arguments {
    let program = std::env::current_exe().unwrap().display().to_string();
    (program, arguments.iter().map(|word| (*word).to_owned()).collect())
}

fn hickory(how: &str, address: SocketAddr, names: usize) -> Arguments {
    ourselves(&[how, &address.to_string(), &names.to_string()])
}

/// Sends each packet back as a reply: what the kernel takes for a question and an answer.
pub(crate) fn echo(address: SocketAddr) {
    let socket = UdpSocket::bind(address).unwrap();
    let mut packet = [0; 1536];
    loop {
        let (length, client) = socket.recv_from(&mut packet).unwrap();
        packet[2] |= 0x80;
        let _ = socket.send_to(&packet[..length], client);
    }
}

/// The names as a zone file.
fn zone(names: usize, folder: &Path) -> String {
    let mut text =
        "$ORIGIN mesh.internal.\n$TTL 0\n@ SOA ns hostmaster 1 3600 600 86400 0\n@ NS ns\nns A 127.0.0.1\n".to_owned();
    for at in 0..names {
        let [_, a, b, c] = u32::try_from(at).unwrap().to_be_bytes();
        let target = format!("i-{at:012x}.s{at}.service");
        text += &format!(
            "s{at}.service A 10.{a}.{b}.{c}\ns{at}.service SRV 1 256 8080 {target}\n{target} A 10.{a}.{b}.{c}\n"
        );
    }
    let path = folder.join("zone");
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn nsd(address: SocketAddr, names: usize, _: usize, folder: &Path) -> Arguments {
    let (zone, here) = (zone(names, folder), folder.display());
    let config = format!(
        "server:\n  ip-address: 127.0.0.1@{}\n  server-count: 1\n  username: \"\"\n  chroot: \"\"\n  zonesdir: \"{here}\"\n\
         \x20 database: \"\"\n  pidfile: \"{here}/nsd.pid\"\n  xfrdfile: \"{here}/xfrd\"\n  zonelistfile: \"{here}/zones\"\n\
         \x20 xfrdir: \"{here}\"\n  rrl-ratelimit: 0\n\
         remote-control:\n  control-enable: no\nzone:\n  name: mesh.internal\n  zonefile: {zone}\n",
        address.port()
    );
    ("nsd".into(), vec!["-d".into(), "-c".into(), write(folder, "nsd.conf", &config)])
}

fn knot(address: SocketAddr, names: usize, _: usize, folder: &Path) -> Arguments {
    let (zone, here) = (zone(names, folder), folder.display());
    let config = format!(
        "server:\n  rundir: \"{here}\"\n  listen: 127.0.0.1@{}\n  udp-workers: 1\n  tcp-workers: 1\n\
         \x20 background-workers: 1\ndatabase:\n  storage: \"{here}\"\ncontrol:\n  listen: \"{here}/knot.sock\"\n\
         zone:\n  - domain: mesh.internal\n    file: \"{zone}\"\n    zonefile-sync: -1\n",
        address.port()
    );
    ("knotd".into(), vec!["-c".into(), write(folder, "knot.conf", &config)])
}

fn unbound(address: SocketAddr, names: usize, _: usize, folder: &Path) -> Arguments {
    let mut config = format!(
        "server:\n  interface: 127.0.0.1\n  port: {}\n  num-threads: 1\n  username: \"\"\n  chroot: \"\"\n  pidfile: \"\"\n\
         \x20 use-syslog: no\n  do-daemonize: no\n  local-zone: \"mesh.internal.\" static\n",
        address.port()
    );
    for at in 0..names {
        let [_, a, b, c] = u32::try_from(at).unwrap().to_be_bytes();
        config += &format!("  local-data: \"s{at}.service.mesh.internal. 0 A 10.{a}.{b}.{c}\"\n");
        config += &format!(
            "  local-data: \"s{at}.service.mesh.internal. 0 SRV 1 256 8080 i-{at:012x}.s{at}.service.mesh.internal.\"\n"
        );
    }
    config += "remote-control:\n  control-enable: no\n";
    ("unbound".into(), vec!["-d".into(), "-c".into(), write(folder, "unbound.conf", &config)])
}
