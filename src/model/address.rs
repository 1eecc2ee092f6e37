//! What an address holds: IPv4 lies within IPv6 in several places, and who judges an address judges these too.

use std::net::{IpAddr, Ipv4Addr};

use smallvec::SmallVec;

/// The addresses of IPv4 that one of IPv6 holds, and that this machine or one on the way may take out of it again.
pub fn ipv4_within(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let (bits, segments) = match address {
        IpAddr::V6(v6) => (v6.to_bits(), v6.segments()),
        IpAddr::V4(_) => (0, [0; 8]),
    };
    // Of 64:ff9b:1::/48, without the eight bits that stay empty (RFC 8215, RFC 6052 section 2.2).
    let packed = bits >> 64 << 56 | bits & (u128::MAX >> 72);
    let found: &[u128] = match segments {
        // IPv6's own, and what is none of it.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => &[],
        // Compatible with IPv4 and mapped (RFC 4291 section 2.5.5), translated (RFC 2765 section 2.1), and behind a
        // translator (RFC 6052 section 2.1).
        [0, 0, 0, 0, 0, 0 | 0xFFFF, ..] | [0, 0, 0, 0, 0xFFFF, 0, ..] | [0x64, 0xFF9B, 0, 0, 0, 0, ..] => &[bits],
        // 6to4 (RFC 3056 section 2).
        [0x2002, ..] => &[bits >> 80],
        // Teredo: its server and its client (RFC 4380 section 4).
        [0x2001, 0, ..] => &[bits >> 64, !bits],
        // Where it lies is the translator's choice.
        [0x64, 0xFF9B, 1, ..] => &[packed >> 40, packed >> 32, packed >> 24, bits],
        // ISATAP (RFC 5214 section 6.1).
        [.., 0 | 0x200, 0x5EFE, _, _] => &[bits],
        _ => &[],
    };
    let found: SmallVec<[u128; 4]> = found.into();
    found.into_iter().map(|bits| Ipv4Addr::from(bits as u32).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_ipv4_is_found_in_every_dress() {
        let held: IpAddr = "169.254.169.254".parse().unwrap();
        for (address, found) in [
            ("::ffff:169.254.169.254", true),
            ("::169.254.169.254", true),
            ("::ffff:0:169.254.169.254", true),
            ("64:ff9b::169.254.169.254", true),
            ("64:ff9b:1::169.254.169.254", true),
            ("64:ff9b:1:a9fe:a9:fe00::", true),
            ("2002:a9fe:a9fe::1", true),
            ("2001:0:a9fe:a9fe::", true),
            ("2001:0:c000:201:0:0:5601:5601", true),
            ("fe80::5efe:a9fe:a9fe", true),
            ("::1", false),
            ("::", false),
            ("64:ff9b:2::169.254.169.254", false),
            ("2001:db8::169.254.169.254", false),
            ("169.254.169.254", false),
        ] {
            assert_eq!(ipv4_within(address.parse().unwrap()).any(|within| within == held), found, "{address}");
        }
    }
}
