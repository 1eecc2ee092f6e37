//! Which certificates come of one another: what is granted on the strength of a certificate is of its lineage, and whoever
//! revokes one revokes all of them. Else who has stolen one has it renewed, and keeps what he was granted.
//!
//! It stands in the number itself, so that every node sees it without having been told of any other: of its twenty bytes
//! the first eight are the lineage's, four say that this is so, four for how many seconds it was asked, and four are random
//! (RFC 5280 section 4.1.2.2: positive, twenty bytes at most). Of any other number all of it stands for the lineage: what
//! is counted up begins alike.

use std::time::Duration;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::Broken;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lineage([u8; 8]);

impl Lineage {
    /// A new one: for what is issued by hand, or by a token.
    pub(super) fn begin() -> Result<Self, Broken> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|_| Broken::Key)?;
        Ok(Self::full(u64::from_be_bytes(random)))
    }

    /// That of a certificate, by its number in hexadecimal.
    pub(super) fn of(serial: &str) -> Self {
        Self::written(serial).map_or_else(|| Self::full(xxh3_64(number(serial).as_bytes())), |(lineage, _)| lineage)
    }

    /// What stands in a number, of what was issued here and of no other: the lineage, and for how long it was asked.
    pub(super) fn written(serial: &str) -> Option<(Self, Duration)> {
        let number = number(serial);
        let (lineage, rest) = number.split_at_checked(16).filter(|_| number.len() == 40)?;
        let lineage = Self(u64::from_str_radix(lineage, 16).ok()?.to_be_bytes());
        let (mark, rest) = rest.split_at_checked(8)?;
        let (mark, said) = (u32::from_str_radix(mark, 16).ok()?, u64::from_str_radix(rest, 16).ok()?);
        let seconds = said >> u32::BITS;
        (lineage.mark(said) == mark).then_some((lineage, Duration::from_secs(seconds)))
    }

    /// The number of one more certificate in it, asked for this long.
    pub(super) fn serial(self, asked: Duration) -> Result<[u8; 20], Broken> {
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|_| Broken::Key)?;
        let seconds = u32::try_from(asked.as_secs()).unwrap_or(u32::MAX);
        let said = u64::from(seconds) << u32::BITS | u64::from(u32::from_be_bytes(random));
        let mut serial = [0; 20];
        serial[..8].copy_from_slice(&self.0);
        serial[8..12].copy_from_slice(&self.mark(said).to_be_bytes());
        serial[12..].copy_from_slice(&said.to_be_bytes());
        Ok(serial)
    }

    /// What tells a number that begins with a lineage from those of other programs.
    fn mark(self, said: u64) -> u32 {
        (xxh3_64_with_seed([self.0, said.to_be_bytes()].as_flattened(), LABEL) >> u32::BITS) as u32
    }

    pub(super) const fn bytes(self) -> [u8; 8] {
        self.0
    }

    /// Begins with one bit, and not the one of the sign: the number is twenty bytes long however it is written.
    pub(super) const fn full(bits: u64) -> Self {
        Self((bits >> 1 | 1 << 62).to_be_bytes())
    }
}

/// For this use alone.
const LABEL: u64 = u64::from_be_bytes(*b"lineages");

/// A serial number as it is compared. It may be written with zeros before it, as DER does where the first bit is set, and
/// with colons, as OpenSSL does.
pub(super) fn number(serial: &str) -> String {
    serial.replace(':', "").trim_start_matches('0').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(serial: &[u8]) -> String {
        serial.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn what_comes_of_a_certificate_is_of_its_lineage_and_nothing_else_is() {
        let of_today = ["0fedcba9876543210123456789abcdef", "00:FE:DC:BA:98:76:54:32:10:01:23:45:67:89:AB:CD:EF"];
        let of_others =
            ["1", "10", "1000", "0a:ff", "7300000002b1a5c1d2e3f4000000000001", "7300000002b1a5c1d2e3f4000000000002"];
        // What OpenSSL counts up from a random number of sixteen bytes.
        let counted = ["ae1c5f0012345678ae1c5f0012343928", "ae1c5f0012345678ae1c5f0012343929"];
        let counted = [counted, ["4e1c5f0012345678ae1c5f0012343928", "4e1c5f0012345678ae1c5f0012343929"]].concat();
        let hour = Duration::from_secs(3600);
        let begun = [(); 2].map(|()| hex(&Lineage::begin().unwrap().serial(hour).unwrap()));
        let all: Vec<_> =
            [of_today[0]].into_iter().chain(of_others).chain(counted).chain(begun.iter().map(String::as_str)).collect();
        assert_eq!(Lineage::of(of_today[0]), Lineage::of(&of_today[0].to_uppercase()));
        for (at, serial) in all.iter().enumerate() {
            let lineage = Lineage::of(serial);
            let child = hex(&lineage.serial(hour).unwrap());
            let grandchild = hex(&Lineage::of(&child).serial(hour).unwrap());
            assert_eq!([&child, &grandchild].map(|serial| Lineage::of(serial)), [lineage; 2], "{serial}");
            assert_ne!(child, grandchild);
            assert_eq!(Lineage::written(&child), Some((lineage, hour)));
            for at in 0..child.len() {
                let changed = format!("{}{:x}{}", &child[..at], u8::from(&child[at..=at] == "7") + 7, &child[at + 1..]);
                assert!(changed == child || Lineage::written(&changed).is_none(), "{changed}");
            }
            assert_eq!(all.iter().position(|other| Lineage::of(other) == lineage), Some(at), "{serial}");
        }
    }
}
