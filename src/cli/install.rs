//! `hobnob dns install`: the lines that make a resolver of this host send our names to us. Printed, or written where that
//! resolver reads them; never over a file that is somebody else's.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand};

use super::{
    failure::{Code, Failure},
    output,
};
use crate::{
    agent::{file, keep},
    dns::Zone,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print, or write, what makes a resolver of this host forward our names
    Install(Flags),
}

#[derive(Debug, Args)]
pub(super) struct Flags {
    #[command(flatten)]
    resolver: Which,
    /// A zone to forward; may be given again [default: mesh.internal]
    #[arg(long, value_name = "ZONE")]
    zone: Vec<String>,
    /// Where the agent's DNS listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8600")]
    server: SocketAddr,
    /// Write it to FILE, or to where the resolver looks for it
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    #[expect(clippy::option_option, reason = "clap's type for a flag whose value may be left out")]
    write: Option<Option<PathBuf>>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
#[expect(clippy::struct_excessive_bools, reason = "clap allows exactly one of them")]
struct Which {
    /// For systemd-resolved
    #[arg(long)]
    systemd_resolved: bool,
    /// For dnsmasq
    #[arg(long)]
    dnsmasq: bool,
    /// For unbound
    #[arg(long)]
    unbound: bool,
    /// For CoreDNS
    #[arg(long)]
    coredns: bool,
}

/// What is to be said to one resolver.
struct Resolver {
    /// Where it looks for more settings.
    place: &'static str,
    /// What makes it read them.
    reload: &'static str,
    write: fn(&[String], SocketAddr) -> String,
}

pub(super) fn run(command: &Command) -> Result<ExitCode, Failure> {
    let Command::Install(flags) = command;
    let zones = zones(&flags.zone)?;
    let is_scoped = matches!(flags.server, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local());
    if flags.server.ip().is_unspecified() || flags.server.port() == 0 || is_scoped {
        let why = format!("{} is no address that a resolver can ask", flags.server);
        return Err(Failure::new("cannot forward there", why, "--server 127.0.0.1:8600").code(Code::Usage));
    }
    let resolver = flags.resolver.resolver();
    let text = (resolver.write)(&zones, flags.server);
    let Some(place) = &flags.write else {
        output::print(text.trim_end());
        return Ok(ExitCode::SUCCESS);
    };
    let path = place.clone().unwrap_or_else(|| resolver.place.into());
    store(&path, &text).map_err(|why| {
        Failure::new(format!("cannot write {}", path.display()), why, "leave out --write, and put it where it belongs")
    })?;
    output::say(format_args!("wrote {}; now: {}", path.display(), resolver.reload));
    Ok(ExitCode::SUCCESS)
}

/// The zones without their last dot, each a name that we could serve.
fn zones(given: &[String]) -> Result<Vec<String>, Failure> {
    if given.is_empty() {
        return Ok(vec![DEFAULT_ZONE.into()]);
    }
    let read = |text: &String| {
        Zone::try_from(text.as_str())
            .map_err(|why| Failure::new("no such zone", why, "--zone mesh.internal").code(Code::Usage))?;
        Ok(text.trim_end_matches('.').to_ascii_lowercase())
    };
    let mut zones: Vec<String> = given.iter().map(read).collect::<Result<_, Failure>>()?;
    // A zone that is forwarded twice is one too many for unbound.
    let mut seen = std::collections::BTreeSet::new();
    zones.retain(|zone| seen.insert(zone.clone()));
    Ok(zones)
}

/// Writes a file that is new, or was ours before.
fn store(path: &Path, text: &str) -> io::Result<()> {
    match file::text(path, MAX_FILE) {
        Ok(old) if !old.starts_with(MARK) => return Err(io::Error::other("there is one already, and it is not ours")),
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    // Whoever keeps the file elsewhere and links to it keeps the link.
    let place = fs::canonicalize(path).unwrap_or_else(|_| path.into());
    keep::replace(&place, text.as_bytes(), keep::PUBLIC)
}

impl Which {
    fn resolver(&self) -> Resolver {
        if self.systemd_resolved {
            let place = "/etc/systemd/resolved.conf.d/hobnob.conf";
            Resolver { place, reload: "systemctl restart systemd-resolved", write: for_resolved }
        } else if self.dnsmasq {
            let place = "/etc/dnsmasq.d/hobnob.conf";
            Resolver { place, reload: "systemctl restart dnsmasq", write: for_dnsmasq }
        } else if self.unbound {
            let place = "/etc/unbound/unbound.conf.d/hobnob.conf";
            Resolver { place, reload: "unbound-control reload, or systemctl restart unbound", write: for_unbound }
        } else {
            let place = "/etc/coredns/conf.d/hobnob.conf";
            let reload = "add `import /etc/coredns/conf.d/*.conf` to the Corefile, if it is not there, and send CoreDNS a SIGUSR1";
            Resolver { place, reload, write: for_coredns }
        }
    }
}

/// A tilde makes a domain that only routes: nobody's search list grows.
fn for_resolved(zones: &[String], server: SocketAddr) -> String {
    let domains: Vec<_> = zones.iter().map(|zone| format!("~{zone}")).collect();
    format!("{MARK}\n[Resolve]\nDNS={server}\nDomains={}\n", domains.join(" "))
}

/// Without `rebind-domain-ok`, `stop-dns-rebind` would drop every private address.
fn for_dnsmasq(zones: &[String], server: SocketAddr) -> String {
    let (ip, port) = (server.ip(), server.port());
    let lines = zones.iter().map(|zone| format!("server=/{zone}/{ip}#{port}\nrebind-domain-ok=/{zone}/\n"));
    format!("{MARK}\n{}", lines.collect::<String>())
}

/// Unbound asks nobody on loopback, validates what the root denies, and may have `internal` served empty, unless told.
fn for_unbound(zones: &[String], server: SocketAddr) -> String {
    let mut text = format!("{MARK}\nserver:\n");
    if server.ip().is_loopback() {
        text += "    do-not-query-localhost: no\n";
    }
    for zone in zones {
        text += &format!(
            "    domain-insecure: \"{zone}\"\n    private-domain: \"{zone}\"\n    local-zone: \"{zone}.\" transparent\n"
        );
    }
    for zone in zones {
        text += &format!("stub-zone:\n    name: \"{zone}\"\n    stub-addr: {}@{}\n", server.ip(), server.port());
    }
    text
}

fn for_coredns(zones: &[String], server: SocketAddr) -> String {
    let blocks = zones.iter().map(|zone| format!("{zone} {{\n    errors\n    forward . {}\n}}\n", host_port(server)));
    format!("{MARK}\n{}", blocks.collect::<String>())
}

fn host_port(server: SocketAddr) -> String {
    match server.ip() {
        IpAddr::V4(ip) => format!("{ip}:{}", server.port()),
        IpAddr::V6(ip) => format!("[{ip}]:{}", server.port()),
    }
}

/// The first line of each file of ours; all four take `#` for a comment.
const MARK: &str = "# Written by `hobnob dns install`; it may write it again.";
const DEFAULT_ZONE: &str = "mesh.internal";
/// More than we write.
const MAX_FILE: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_resolver_is_told_in_its_own_words() {
        let zones = ["mesh.internal".to_owned(), "consul".to_owned()];
        let v4: SocketAddr = ([127, 0, 0, 1], 8600).into();
        let v6: SocketAddr = ([0xfd00, 0, 0, 0, 0, 0, 0, 1], 8600).into();
        let body = |text: String| text.strip_prefix(&format!("{MARK}\n")).unwrap().to_owned();
        assert_eq!(body(for_resolved(&zones, v4)), "[Resolve]\nDNS=127.0.0.1:8600\nDomains=~mesh.internal ~consul\n");
        assert_eq!(body(for_resolved(&zones[..1], v6)), "[Resolve]\nDNS=[fd00::1]:8600\nDomains=~mesh.internal\n");
        assert_eq!(body(for_dnsmasq(&zones[1..], v6)), "server=/consul/fd00::1#8600\nrebind-domain-ok=/consul/\n");
        assert_eq!(body(for_coredns(&zones[1..], v6)), "consul {\n    errors\n    forward . [fd00::1]:8600\n}\n");
        let unbound = body(for_unbound(&zones, v4));
        assert!(
            unbound.starts_with("server:\n    do-not-query-localhost: no\n    domain-insecure: \"mesh.internal\"\n")
        );
        assert!(unbound.ends_with("stub-zone:\n    name: \"consul\"\n    stub-addr: 127.0.0.1@8600\n"));
        assert!(!for_unbound(&zones, v6).contains("localhost"));
    }

    #[test]
    fn only_a_file_of_ours_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/hobnob.conf");
        let text = format!("{MARK}\nold\n");
        store(&path, &text).unwrap();
        store(&path, &format!("{MARK}\nnew\n")).unwrap();
        assert!(fs::read_to_string(&path).unwrap().ends_with("new\n"));
        let link = path.with_extension("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        store(&link, &text).unwrap();
        assert!(link.is_symlink() && fs::read_to_string(&path).unwrap() == text);
        fs::write(&path, "mine").unwrap();
        assert!(store(&path, &text).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        assert!(store("/dev/zero".as_ref(), &text).is_err());
    }
}
