//! What an address leads to: IPv4 lies within IPv6 in several places, and who judges an address judges what it reaches.

use std::net::{IpAddr, Ipv4Addr};

/// The address of IPv4 that packets to an address of IPv6 get to: mapped for sockets (RFC 4291 section 2.5.5.2), the
/// deprecated compatible ones (2.5.5.1), behind a translator (RFC 6052 section 2.1; RFC 8215 for one of one's own), or at
/// the end of a tunnel (6to4, RFC 3056 section 2).
#[must_use]
pub fn ipv4_behind(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = address else { return None };
    let [.., a, b, c, d] = v6.octets();
    let last = Ipv4Addr::new(a, b, c, d);
    match v6.segments() {
        // `::` and `::1` are IPv6's own.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xFFFF, ..] | [0x64, 0xFF9B, 0, 0, 0, 0, ..] | [0x64, 0xFF9B, 1, ..] => Some(last),
        [0x2002, ..] => {
            let [_, _, a, b, c, d, ..] = v6.octets();
            Some(Ipv4Addr::new(a, b, c, d))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_ipv4_is_found_in_every_dress() {
        for (address, found) in [
            ("::ffff:169.254.169.254", true),
            ("::169.254.169.254", true),
            ("64:ff9b::169.254.169.254", true),
            ("64:ff9b:1::169.254.169.254", true),
            ("2002:a9fe:a9fe::1", true),
            ("::1", false),
            ("::", false),
            ("64:ff9b:2::169.254.169.254", false),
            ("2001:db8::169.254.169.254", false),
            ("169.254.169.254", false),
        ] {
            let expected = found.then_some(Ipv4Addr::new(169, 254, 169, 254));
            assert_eq!(ipv4_behind(address.parse().unwrap()), expected, "{address}");
        }
    }
}
