//! Where others are told to find this node: which of the machine's addresses, in what order, and what follows when they
//! change under a running agent (a lease that ends, a network that comes up after us).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::mpsc, time::sleep};

use super::{Config, drive::Drive, peers::Arrival};
use crate::{mesh::Input, model::Node};

/// What decides where a node is to be found.
pub(super) struct Whereabouts {
    bound: SocketAddr,
    /// Where the user, or the port, says by itself where it is.
    fixed: Option<SocketAddr>,
    /// Places in the direction of other nodes.
    ways: Vec<SocketAddr>,
    /// What others are told.
    pub(super) told: Told,
}

/// The addresses to tell others, best first; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    reach: Reach,
    pub(super) addresses: Vec<SocketAddr>,
}

/// How far an address of this machine is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    Network,
    /// Good for those at its other ends.
    Tunnel,
    /// A network of its own, which may have a wire behind it.
    Bridge,
    /// The machine's own guests: every machine has the same addresses there.
    Private,
    Loopback,
}

impl Whereabouts {
    pub(super) fn of(config: &Config, bound: SocketAddr) -> Self {
        let fixed = config.advertise.or_else(|| (!bound.ip().is_unspecified()).then_some(bound));
        // Seeds that are numbers, then what only the default route leads to (RFC 5737, RFC 3849).
        let seeds = config.join.iter().filter_map(|seed| seed.parse().ok());
        let anywhere: [IpAddr; 2] =
            [Ipv4Addr::new(192, 0, 2, 1).into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()];
        let ways = seeds.chain(anywhere.map(|ip| SocketAddr::new(ip, DISCARD))).collect();
        let told = Told { reach: Reach::Network, addresses: fixed.into_iter().collect() };
        let mut found = Self { bound, fixed, ways, told };
        if fixed.is_none() {
            found.told = found.look();
        }
        found
    }

    /// What is true now.
    fn look(&self) -> Told {
        let routed: Vec<_> = self.ways.iter().filter_map(|way| source(*way)).collect();
        let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
        let seen = interfaces.iter().filter_map(|at| Some((reach(&at.name, at.ip(), &routed)?, at.ip())));
        Told::choose(self.bound, seen.collect(), &routed)
    }

    /// Looks now and then whether what others are told is still so, until the loop has ended.
    pub(super) async fn watch(mut self, arrivals: mpsc::Sender<Arrival>) {
        while self.fixed.is_none() {
            tokio::select! {
                () = sleep(LOOK_EVERY) => {}
                () = arrivals.closed() => return,
            }
            let now = self.look();
            if now.replaces(&self.told) {
                self.told = now;
                // Refused only when the loop has ended.
                let _ = arrivals.send(Arrival::Moved(self.told.addresses.clone())).await;
            }
        }
    }
}

impl Told {
    fn choose(bound: SocketAddr, mut seen: Vec<(Reach, IpAddr)>, routed: &[IpAddr]) -> Self {
        seen.retain(|(_, ip)| bound.is_ipv6() || ip.is_ipv4());
        // What leads nowhere else is told only by a machine that has nothing better.
        let best = seen.iter().map(|(reach, _)| *reach).min().unwrap_or(Reach::Loopback);
        seen.retain(|(reach, _)| *reach <= best.max(Reach::Bridge));
        let turn = |ip| routed.iter().position(|other| *other == ip).unwrap_or(usize::MAX);
        seen.sort_unstable_by_key(|(reach, ip)| (*reach, ip.is_ipv6(), turn(*ip), *ip));
        seen.dedup();
        if seen.is_empty() {
            seen.push((best, Ipv4Addr::LOCALHOST.into()));
        }
        let addresses = seen.into_iter().map(|(_, ip)| SocketAddr::new(ip, bound.port())).take(Node::MAX_ADDRESSES);
        Self { reach: best, addresses: addresses.collect() }
    }

    /// Whether others are to be told of this instead of `old`. A machine that has just lost its network can tell nobody,
    /// and the address it had is as likely as any to be the next.
    fn replaces(&self, old: &Self) -> bool {
        self.addresses != old.addresses && (self.reach <= Reach::Bridge || old.reach > Reach::Bridge)
    }
}

/// The address that packets to that place leave from. None is sent.
fn source(to: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(to).ok()?;
    socket.local_addr().ok().map(|from| from.ip())
}

/// `None` for what nobody reaches, since it needs a scope.
fn reach(interface: &str, ip: IpAddr, routed: &[IpAddr]) -> Option<Reach> {
    let is = |names: &[&str]| names.iter().any(|prefix| interface.starts_with(prefix));
    match ip {
        _ if ip.is_loopback() => Some(Reach::Loopback),
        IpAddr::V4(v4) if v4.is_link_local() => None,
        IpAddr::V6(v6) if v6.is_unicast_link_local() => None,
        _ if routed.contains(&ip) => Some(Reach::Network),
        _ if is(&PRIVATE) => Some(Reach::Private),
        _ if is(&TUNNELS) => Some(Reach::Tunnel),
        _ if Path::new("/sys/class/net").join(interface).join("bridge").exists() => Some(Reach::Bridge),
        _ => Some(Reach::Network),
    }
}

impl Drive {
    /// This node is to be found elsewhere from now on.
    pub(super) fn moved(&mut self, addresses: Vec<SocketAddr>) {
        let was = self.mesh.addresses(self.mesh.id()).to_vec();
        let lost = was.iter().any(|address| !addresses.contains(address));
        let node = Node { addresses, ..self.mesh.hello().node };
        self.handle(Input::Moved(Box::new(node)));
        self.greeter.hello.store(Arc::new(self.mesh.hello()));
        self.writes.own().for_each(|registration| self.writes.watch(&self.mesh, registration));
        if lost {
            self.peers.redial(|id| self.mesh.addresses(id).to_vec());
        }
    }
}

/// Names that container engines and hypervisors give to what stays within the machine.
const PRIVATE: [&str; 14] = [
    "docker",
    "br-",
    "veth",
    "virbr",
    "cni",
    "lxc",
    "lxd",
    "incus",
    "podman",
    "nerdctl",
    "flannel",
    "cilium",
    "kube-",
    "nodelocaldns",
];
const TUNNELS: [&str; 7] = ["wg", "tun", "tap", "tailscale", "zt", "ppp", "nebula"];
/// Nothing is sent there: any port will do (RFC 863).
const DISCARD: u16 = 9;
/// Some calls of the system each time: rarely enough to cost nothing, often enough to come before the probes' verdict.
const LOOK_EVERY: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told on a machine with these interfaces, of which the routes use `routed`.
    fn told(bound: &str, interfaces: &[(&str, &str)], routed: &[&str]) -> Told {
        let routed: Vec<_> = routed.iter().map(|ip| ip.parse().unwrap()).collect();
        let ip = |at: &str| at.parse::<IpAddr>().unwrap();
        let seen = interfaces.iter().filter_map(|(name, at)| Some((reach(name, ip(at), &routed)?, ip(at))));
        Told::choose(bound.parse().unwrap(), seen.collect(), &routed)
    }

    #[test]
    fn others_are_told_what_leads_to_this_machine_and_to_no_other() {
        let (lo, eth) = (("lo", "127.0.0.1"), ("eth0", "10.9.0.2"));
        for (interfaces, routed, expected) in [
            (&[lo][..], &[][..], &["127.0.0.1"][..]),
            (&[], &[], &["127.0.0.1"]),
            (&[lo, eth], &[], &["10.9.0.2"]),
            (&[lo, ("podman0", "10.8.0.1"), eth, ("docker0", "172.17.0.1")], &["10.9.0.2"], &["10.9.0.2"]),
            (&[lo, ("podman0", "10.8.0.1")], &[], &["10.8.0.1"]),
            // A name as free as any: the routes tell which of two networks is meant.
            (&[("eth1", "10.1.0.1"), eth], &["10.9.0.2"], &["10.9.0.2", "10.1.0.1"]),
            (&[("br-lan", "10.1.0.1")], &["10.1.0.1"], &["10.1.0.1"]),
            (&[("wg0", "10.1.0.1"), eth], &[], &["10.9.0.2", "10.1.0.1"]),
            // Services are told by the first address, and most are asked for by IPv4.
            (&[("eth0", "2001:db8::2"), eth, ("eth0", "fe80::1")], &["2001:db8::2"], &["10.9.0.2", "2001:db8::2"]),
        ] {
            let told = told("[::]:7946", interfaces, routed);
            let ips: Vec<_> = told.addresses.iter().map(|at| at.ip().to_string()).collect();
            assert_eq!(ips, expected, "{interfaces:?} {routed:?}");
        }
        let four = told("0.0.0.0:7946", &[("eth0", "2001:db8::2"), eth], &[]);
        assert_eq!(four.addresses, ["10.9.0.2:7946".parse().unwrap()]);
    }

    #[test]
    fn another_network_is_told_and_a_lost_one_is_not() {
        let on = |interface: (&str, &str)| told("[::]:7946", &[("lo", "127.0.0.1"), interface], &[]);
        let (none, guests) = (told("[::]:7946", &[("lo", "127.0.0.1")], &[]), on(("docker0", "172.17.0.1")));
        let (here, there) = (on(("eth0", "10.9.0.2")), on(("eth0", "10.9.0.22")));
        for (new, old, expected) in [
            (&there, &here, true),
            (&here, &here, false),
            (&here, &none, true),
            (&here, &guests, true),
            (&none, &here, false),
            (&guests, &here, false),
            (&guests, &none, true),
        ] {
            assert_eq!(new.replaces(old), expected, "{new:?} after {old:?}");
        }
    }
}
