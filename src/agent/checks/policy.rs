//! Whom checks may reach. Whoever registers an instance makes this machine talk to addresses of his choice: the
//! addresses at which clouds hand out credentials are refused unless an operator allows them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Config;

/// The networks that checks may and may not reach.
#[derive(Debug)]
pub(super) struct Policy {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
}

impl Policy {
    pub(super) fn new(config: &Config) -> Self {
        let mut deny = config.deny.clone();
        deny.extend(metadata());
        Self { allow: config.allow.clone(), deny }
    }

    /// Whether `address` may be reached. The smallest network that holds it decides; of two equal ones, to deny.
    pub(super) fn admits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let smallest = |networks: &[IpNet]| {
            networks.iter().filter(|network| network.contains(&address)).map(IpNet::prefix_len).max()
        };
        match (smallest(&self.allow), smallest(&self.deny)) {
            (None, Some(_)) => false,
            (Some(allowed), Some(denied)) => allowed > denied,
            (Some(_), None) => true,
            (None, None) => self.allow.is_empty(),
        }
    }
}

/// Link-local addresses (RFC 3927, RFC 4291 section 2.5.6) and Amazon's address for the same purpose in IPv6.
fn metadata() -> [IpNet; 3] {
    let v6 = |address, length| IpNet::V6(Ipv6Net::new_assert(address, length));
    [
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16)),
        v6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
        v6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128),
    ]
}

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
        for address in ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "fd00:ec2::254"] {
            assert!(!admitted(&[], &[], address), "{address}");
        }
        assert!(admitted(&["169.254.169.254/32"], &[], "169.254.169.254"));
        assert!(!admitted(&["169.254.169.254/32"], &[], "169.254.169.253"));
        assert!(!admitted(&["0.0.0.0/0"], &[], "169.254.169.254"));
    }

    #[test]
    fn the_smallest_network_decides() {
        assert!(admitted(&[], &[], "127.0.0.1"));
        assert!(!admitted(&[], &["127.0.0.0/8"], "127.0.0.1"));
        assert!(!admitted(&["10.0.0.0/8"], &[], "127.0.0.1"), "an allow-list is a list of all that is allowed");
        assert!(admitted(&["127.0.0.0/8"], &["0.0.0.0/0"], "127.0.0.1"));
        assert!(!admitted(&["127.0.0.0/8"], &["127.0.0.0/8"], "127.0.0.1"));
    }
}
