//! DNS cookies (RFC 7873) in the shape that all servers share (RFC 9018): proof that a client is at its address, made
//! and checked without keeping anything for any client.

use std::{hash::Hasher, net::IpAddr};

use hickory_proto::{
    op::Edns,
    rr::rdata::opt::{EdnsCode, EdnsOption},
};
use siphasher::sip::SipHasher24;

/// What makes the cookies of one server.
#[derive(Clone)]
pub(super) struct Cookies {
    secret: [u8; 16],
}

impl std::fmt::Debug for Cookies {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Cookies")
    }
}

/// What a client showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// It does not use cookies.
    Nothing,
    /// It wants one: its own half, which comes back.
    Client([u8; CLIENT]),
    /// It was given one by us, at this address.
    Ours([u8; CLIENT]),
    /// No cookie has that length (RFC 7873 section 5.2.2).
    Malformed,
}

impl Cookies {
    pub(super) const fn new(secret: [u8; 16]) -> Self {
        Self { secret }
    }

    /// What the question's OPT record shows, `now` in seconds of unix time.
    pub(super) fn read(&self, edns: &Edns, client: IpAddr, now: u32) -> Shown {
        let Some(EdnsOption::Unknown(_, bytes)) = edns.option(EdnsCode::Cookie) else { return Shown::Nothing };
        let Some((own, server)) = bytes.split_first_chunk::<CLIENT>() else { return Shown::Malformed };
        match server {
            [] => Shown::Client(*own),
            [1, _, _, _, t0, t1, t2, t3, ..] if server.len() == SERVER => {
                let made = u32::from_be_bytes([*t0, *t1, *t2, *t3]);
                // RFC 9018 section 4.3: an hour back, five minutes ahead, in arithmetic that wraps (RFC 1982).
                let fresh = now.wrapping_sub(made) <= MAX_AGE || made.wrapping_sub(now) <= MAX_AHEAD;
                if fresh && self.make(own, client, made)[CLIENT..] == *server {
                    Shown::Ours(*own)
                } else {
                    Shown::Client(*own)
                }
            }
            _ if (8..=32).contains(&server.len()) => Shown::Client(*own),
            _ => Shown::Malformed,
        }
    }

    /// The option that answers a client's half.
    pub(super) fn option(&self, own: &[u8; CLIENT], client: IpAddr, now: u32) -> EdnsOption {
        EdnsOption::Unknown(EdnsCode::Cookie.into(), self.make(own, client, now).into())
    }

    /// Both halves. The server's is version 1, three bytes of nothing, the time, and SipHash-2-4 over all of that and the
    /// client's address.
    fn make(&self, own: &[u8; CLIENT], client: IpAddr, now: u32) -> [u8; CLIENT + SERVER] {
        let mut cookie = [0; CLIENT + SERVER];
        cookie[..CLIENT].copy_from_slice(own);
        cookie[CLIENT] = 1;
        cookie[12..16].copy_from_slice(&now.to_be_bytes());
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        hasher.write(&cookie[..16]);
        match client.to_canonical() {
            IpAddr::V4(v4) => hasher.write(&v4.octets()),
            IpAddr::V6(v6) => hasher.write(&v6.octets()),
        }
        cookie[16..].copy_from_slice(&hasher.finish().to_le_bytes());
        cookie
    }
}

/// The client's half, and ours.
const CLIENT: usize = 8;
const SERVER: usize = 16;
const MAX_AGE: u32 = 3_600;
const MAX_AHEAD: u32 = 300;
/// What the option takes in a reply: code, length, both halves.
pub(super) const OPTION_SIZE: u16 = 4 + (CLIENT + SERVER) as u16;

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [u8; 8] = 0x2464_c4ab_cf10_c957_u64.to_be_bytes();
    const MADE: u32 = 1_559_731_985;

    fn cookies() -> (Cookies, IpAddr) {
        (Cookies::new(0xe5e9_73e5_a6b2_a43f_48e7_dc84_9e37_bfcf_u128.to_be_bytes()), [198, 51, 100, 100].into())
    }

    #[test]
    fn a_cookie_is_the_one_of_rfc_9018_appendix_a_1() {
        let (cookies, client) = cookies();
        let made = cookies.make(&OWN, client, MADE);
        assert_eq!(made[8..], 0x0100_0000_5cf7_9f11_1f81_30c3_eee2_9480_u128.to_be_bytes());
    }

    #[test]
    fn only_our_own_fresh_cookie_for_that_address_proves_it() {
        let (cookies, client) = cookies();
        let good = cookies.make(&OWN, client, MADE).to_vec();
        let read = |bytes: &[u8], client, now| {
            let mut edns = Edns::new();
            edns.options_mut().insert(EdnsOption::Unknown(10, bytes.into()));
            cookies.read(&edns, client, now)
        };
        assert_eq!(read(&good, client, MADE + 3_600), Shown::Ours(OWN));
        assert_eq!(read(&good, client, MADE - 300), Shown::Ours(OWN));
        for (client, now) in [(client, MADE + 3_601), (client, MADE - 301), ([198, 51, 100, 101].into(), MADE)] {
            assert_eq!(read(&good, client, now), Shown::Client(OWN));
        }
        assert_eq!(read(&good[..8], client, MADE), Shown::Client(OWN));
        assert_eq!(read(&good[..16], client, MADE), Shown::Client(OWN));
        for length in (0..8).chain(9..16) {
            assert_eq!(read(&good[..length], client, MADE), Shown::Malformed, "{length}");
        }
        assert_eq!(read(&[0; 41], client, MADE), Shown::Malformed);
        assert_eq!(cookies.read(&Edns::new(), client, MADE), Shown::Nothing);
    }
}
