//! Names and addresses that are nobody's to give away: this host's own, private ones, and those that exist nowhere.

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        domain::usage::{IN_ADDR_ARPA_127, INVALID, IP6_ARPA_1, LOCALHOST, ONION},
        rdata::{self, svcb::SvcParamValue},
    },
};
use ipnet::IpNet;

use super::settings::holds;
use crate::model::ipv4_within;

/// Names that no resolver is asked about: this host's own, and those that exist nowhere (RFC 6761, RFC 7686).
pub(super) fn special(name: &Name, kind: RecordType) -> Option<Message> {
    let zone: &Name = [&*LOCALHOST, &*IN_ADDR_ARPA_127, &*IP6_ARPA_1, &*INVALID, &*ONION]
        .into_iter()
        .find(|zone| zone.zone_of(name))?;
    let mut message = Message::query();
    let data = match kind {
        _ if *zone == **INVALID || *zone == **ONION => {
            message.metadata.response_code = ResponseCode::NXDomain;
            None
        }
        RecordType::A if *zone == **LOCALHOST => Some(RData::A(Ipv4Addr::LOCALHOST.into())),
        RecordType::AAAA if *zone == **LOCALHOST => Some(RData::AAAA(Ipv6Addr::LOCALHOST.into())),
        RecordType::PTR if *zone != **LOCALHOST => Some(RData::PTR(rdata::PTR((**LOCALHOST).clone()))),
        _ => None,
    };
    let record = |owner: &Name, data| Record::from_rdata(owner.clone(), SPECIAL_TTL, data);
    match data {
        Some(data) => message.answers.push(record(name, data)),
        None => {
            let [day, hour] = [86_400, 3_600];
            let soa = rdata::SOA::new(zone.clone(), zone.clone(), 1, hour, hour, day, SPECIAL_TTL);
            message.authorities.push(record(zone, RData::SOA(soa)));
        }
    }
    Some(message)
}

/// Whether a name ends where no stranger can have one, so that a private address is its right (RFC 6761, RFC 6762, RFC
/// 8375, and `internal`, which ICANN keeps free).
pub(super) fn has_private_end(name: &Name) -> bool {
    let labels: Vec<String> = name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    matches!(labels[..], [] | [_] | [.., "internal" | "local" | "localhost" | "test"] | [.., "home", "arpa"])
}

/// Whether a record has an address in one of these networks, be it as a hint (RFC 9460) or within another address.
pub(super) fn holds_any(networks: &[IpNet], data: &RData) -> bool {
    let is_held = |address| holds(networks, address) || ipv4_within(address).any(|within| holds(networks, within));
    let hinted = |hint: &SvcParamValue| match hint {
        SvcParamValue::Ipv4Hint(hint) => hint.0.iter().any(|a| is_held(a.0.into())),
        SvcParamValue::Ipv6Hint(hint) => hint.0.iter().any(|aaaa| is_held(aaaa.0.into())),
        _ => false,
    };
    match data {
        RData::A(a) => is_held(a.0.into()),
        RData::AAAA(aaaa) => is_held(aaaa.0.into()),
        RData::SVCB(service) => service.svc_params.iter().any(|(_, value)| hinted(value)),
        RData::HTTPS(service) => service.0.svc_params.iter().any(|(_, value)| hinted(value)),
        _ => false,
    }
}

/// Seconds; it never changes.
const SPECIAL_TTL: u32 = 86_400;
/// Addresses that no public name has a business with: those that are not globally reachable (RFC 6890 and IANA's registries
/// of special-purpose addresses), multicast, and what only a translator of one's own reaches (RFC 8215). Those for
/// documentation lead nowhere.
pub(super) const PRIVATE: [&str; 17] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/3",
    "::/127",
    "64:ff9b:1::/48",
    "100::/64",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use hickory_proto::rr::rdata::{
        HTTPS, SVCB,
        svcb::{IpHint, SvcParamKey},
    };

    use super::*;

    #[test]
    fn private_addresses_are_known_in_every_dress() {
        let private = PRIVATE.map(|net| net.parse().unwrap());
        for (address, held) in [
            ("10.0.0.1", true),
            ("192.0.2.1", false),
            ("::ffff:10.0.0.1", true),
            ("64:ff9b::a00:1", true),
            ("64:ff9b:1::c000:201", true),
            ("2002:a00:1::", true),
            ("2002:c000:201::", false),
            ("::10.0.0.1", true),
            ("fec0::1", true),
            ("ff02::1", true),
            ("198.19.255.255", true),
            ("255.255.255.255", true),
            ("64:ff9b::c000:201", false),
            ("fd00::1", true),
            ("2001:db8::1", false),
        ] {
            let data = match address.parse().unwrap() {
                IpAddr::V4(v4) => RData::A(v4.into()),
                IpAddr::V6(v6) => RData::AAAA(v6.into()),
            };
            assert_eq!(holds_any(&private, &data), held, "{address}");
        }
        let hint = SvcParamValue::Ipv4Hint(IpHint(vec![Ipv4Addr::new(10, 0, 0, 1).into()]));
        let service = SVCB::new(1, Name::root(), vec![(SvcParamKey::Ipv4Hint, hint)]);
        assert!(holds_any(&private, &RData::HTTPS(HTTPS(service))));
    }

    #[test]
    fn this_hosts_own_names_are_asked_of_nobody() {
        let told = |name: &str, kind| {
            let found = special(&Name::from_ascii(name).unwrap(), kind)?;
            assert_eq!(found.answers.is_empty(), found.authorities.len() == 1, "who is denied is told for how long");
            Some((found.metadata.response_code, found.answers.first().map(|record| record.data.to_string())))
        };
        let said = |data: &str| Some((ResponseCode::NoError, Some(data.to_owned())));
        assert_eq!(told("LocalHost.", RecordType::A), said("127.0.0.1"));
        assert_eq!(told("a.localhost.", RecordType::AAAA), said("::1"));
        assert_eq!(told("localhost.", RecordType::MX), Some((ResponseCode::NoError, None)));
        assert_eq!(told("1.0.0.127.in-addr.arpa.", RecordType::PTR), said("localhost."));
        assert_eq!(told("secret.onion.", RecordType::A), Some((ResponseCode::NXDomain, None)));
        assert_eq!(told("localhost.example.com.", RecordType::A), None);
    }

    #[test]
    fn some_names_are_private_by_right() {
        for (name, private) in [
            ("nas.corp.internal.", true),
            ("nas.", true),
            ("tv.home.arpa.", true),
            ("Printer.LOCAL.", true),
            ("evil.example.com.", false),
            ("internal.example.", false),
        ] {
            assert_eq!(has_private_end(&Name::from_ascii(name).unwrap()), private, "{name}");
        }
    }
}
