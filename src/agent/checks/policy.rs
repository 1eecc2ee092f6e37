//! Whom checks may reach. Whoever registers an instance makes this machine talk to addresses of his choice: the
//! addresses at which clouds hand out credentials are refused unless an operator allows them. An address is judged as the
//! one that is reached by it, however it is written, and refused if it holds one of IPv4 that is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Config;
use crate::model::ipv4_within;

/// The networks that checks may and may not reach.
#[derive(Debug)]
pub(super) struct Policy {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
}

impl Policy {
    pub(super) fn new(config: &Config) -> Self {
        let deny = config.deny.iter().copied().chain(metadata());
        Self { allow: config.allow.iter().copied().map(reached_net).collect(), deny: deny.map(reached_net).collect() }
    }

    /// Whether `address` may be reached. The smallest network that holds it decides; of two equal ones, to deny.
    pub(super) fn admits(&self, address: IpAddr) -> bool {
        let reached = reached(address);
        let is_listed = self.allow.is_empty() || smallest(&self.allow, reached).is_some();
        is_listed && ![reached, address].into_iter().chain(ipv4_within(address)).any(|address| self.denies(address))
    }

    fn denies(&self, address: IpAddr) -> bool {
        let allowed = smallest(&self.allow, address);
        smallest(&self.deny, address).is_some_and(|denied| allowed.is_none_or(|allowed| allowed <= denied))
    }
}

/// How long the prefix is of the smallest network that holds an address.
fn smallest(networks: &[IpNet], address: IpAddr) -> Option<u8> {
    networks.iter().filter(|network| network.contains(&address)).map(IpNet::prefix_len).max()
}

/// The address that is reached by another one: who connects to no address at all reaches this machine, and IPv4 lies
/// within IPv6 for sockets (RFC 4291 section 2.5.5) and for translators (RFC 6052 section 2.1).
fn reached(address: IpAddr) -> IpAddr {
    let translated = |address: Ipv6Addr| match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(Ipv4Addr::from(address.to_bits() as u32)),
        _ => address.to_ipv4_mapped(),
    };
    match address {
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V6(v6) => translated(v6).map_or(address, |v4| reached(v4.into())),
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V4(_) => address,
    }
}

/// The same of a network that an operator wrote down.
fn reached_net(network: IpNet) -> IpNet {
    match (network, network.addr().to_canonical()) {
        (IpNet::V6(net), IpAddr::V4(v4)) if net.prefix_len() >= MAPPED => {
            IpNet::V4(Ipv4Net::new_assert(v4, net.prefix_len() - MAPPED))
        }
        _ => network,
    }
}

/// Link-local addresses (RFC 3927, RFC 4291 section 2.5.6), and those for the same purpose of Alibaba and Azure, and in
/// IPv6 of Amazon, Google, Oracle and Scaleway.
fn metadata() -> [IpNet; 8] {
    let v6 = |address, length| IpNet::V6(Ipv6Net::new_assert(address, length));
    [
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16)),
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(100, 100, 100, 200), 32)),
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(168, 63, 129, 16), 32)),
        v6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
        v6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128),
        v6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128),
        v6(Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe), 128),
        v6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42), 128),
    ]
}

/// How many bits of an IPv6 address say that it is one of IPv4.
const MAPPED: u8 = 96;

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(allow: &[&str], deny: &[&str], address: &str) -> bool {
        let parse = |networks: &[&str]| networks.iter().map(|network| network.parse().unwrap()).collect();
        let config = Config { scripts: false, allow: parse(allow), deny: parse(deny) };
        Policy::new(&config).admits(address.parse().unwrap())
    }

    #[test]
    fn metadata_addresses_are_refused_unless_allowed() {
        for address in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "168.63.129.16",
            "fd20:ce::254",
            "fd00:c1::a9fe:a9fe",
            "fd00:42::42",
        ] {
            assert!(!admitted(&[], &[], address), "{address}");
        }
        assert!(admitted(&["169.254.169.254/32"], &[], "169.254.169.254"));
        assert!(!admitted(&["169.254.169.254/32"], &[], "169.254.169.253"));
        assert!(!admitted(&["0.0.0.0/0"], &[], "169.254.169.254"));
    }

    #[test]
    fn an_address_that_holds_a_refused_one_is_refused() {
        for address in [
            "::169.254.169.254",
            "::ffff:0:a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "2001:0:a9fe:a9fe::1",
            "2001:0:808:808:0:0:5601:5601",
            "64:ff9b:1:a9fe:a9:fe00::",
            "64:ff9b:1:a9:fe:a9fe::",
            "64:ff9b:1:7:a9:fea9:fe00:0",
            "64:ff9b:1::169.254.169.254",
            "2001:db8::5efe:169.254.169.254",
        ] {
            assert!(!admitted(&[], &[], address), "{address}");
            assert!(
                admitted(&[], &[], &address.replace("a9", "a8").replace("169", "168").replace("56", "57")),
                "{address}"
            );
            assert!(admitted(&["169.254.0.0/17", "169.254.128.0/17", "::/0"], &[], address), "{address}");
        }
        assert!(!admitted(&[], &["64:ff9b::/96"], "64:ff9b::10.1.2.3"), "also as it is written");
        assert!(admitted(&["64:ff9b:1::/48"], &[], "64:ff9b:1::10.1.2.3"), "what it holds need not be listed");
    }

    #[test]
    fn the_smallest_network_decides() {
        assert!(admitted(&[], &[], "127.0.0.1"));
        assert!(!admitted(&[], &["127.0.0.0/8"], "127.0.0.1"));
        assert!(!admitted(&["10.0.0.0/8"], &[], "127.0.0.1"), "an allow-list is a list of all that is allowed");
        assert!(admitted(&["127.0.0.0/8"], &["0.0.0.0/0"], "127.0.0.1"));
        assert!(!admitted(&["127.0.0.0/8"], &["127.0.0.0/8"], "127.0.0.1"));
    }

    #[test]
    fn an_address_is_judged_as_the_one_that_it_reaches() {
        for address in ["0.0.0.0", "::ffff:0.0.0.0", "::ffff:127.0.0.1"] {
            assert!(!admitted(&[], &["127.0.0.0/8"], address), "{address}");
            assert!(!admitted(&[], &["::ffff:127.0.0.0/104"], address), "{address}");
        }
        assert!(!admitted(&[], &["::1/128"], "::"));
        assert!(admitted(&["::ffff:10.0.0.0/104"], &[], "10.1.2.3"));
        assert!(admitted(&[], &["::/0"], "10.1.2.3"), "a network of IPv6 holds nobody of IPv4");
    }
}
