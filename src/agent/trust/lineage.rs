//! Which certificates come of one another: what is granted on the strength of a certificate is of its lineage, and whoever
//! revokes one revokes all of them. Else who has stolen one has it renewed, and keeps what he was granted.
//!
//! It stands in the number itself, so that every node sees it without having been told of any other: the first eight of its
//! sixteen bytes are the lineage's, the rest is random (RFC 5280 section 4.1.2.2: positive, twenty bytes at most).

use xxhash_rust::xxh3::xxh3_64;

use super::Broken;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lineage([u8; 8]);

impl Lineage {
    /// A new one: for what is issued by hand, or by a token.
    pub(super) fn begin() -> Result<Self, Broken> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|_| Broken::Key)?;
        Ok(Self::full(u64::from_be_bytes(random)))
    }

    /// That of a certificate, by its number in hexadecimal. A number that is not of sixteen bytes was given by another
    /// program, and all of it stands for the lineage: numbers that are counted up begin alike.
    pub(super) fn of(serial: &str) -> Self {
        let number = number(serial);
        let first = number.len().checked_sub(16).filter(|digits| (15..=16).contains(digits));
        let first = first.and_then(|digits| u64::from_str_radix(number.get(..digits)?, 16).ok());
        first.map_or_else(|| Self::full(xxh3_64(number.as_bytes())), |first| Self(first.to_be_bytes()))
    }

    /// The number of one more certificate in it.
    pub(super) fn serial(self) -> Result<[u8; 16], Broken> {
        let mut serial = [0; 16];
        getrandom::fill(&mut serial[8..]).map_err(|_| Broken::Key)?;
        serial[..8].copy_from_slice(&self.0);
        Ok(serial)
    }

    pub(super) const fn bytes(self) -> [u8; 8] {
        self.0
    }

    /// Begins with one bit, and not the one of the sign: the number is sixteen bytes long however it is written.
    const fn full(bits: u64) -> Self {
        Self((bits >> 1 | 1 << 62).to_be_bytes())
    }
}

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
        let begun = [(); 2].map(|()| hex(&Lineage::begin().unwrap().serial().unwrap()));
        let all: Vec<_> = of_today.into_iter().chain(of_others).chain(begun.iter().map(String::as_str)).collect();
        for (at, serial) in all.iter().enumerate() {
            let lineage = Lineage::of(serial);
            let child = hex(&lineage.serial().unwrap());
            let grandchild = hex(&Lineage::of(&child).serial().unwrap());
            assert_eq!([&child, &grandchild].map(|serial| Lineage::of(serial)), [lineage; 2], "{serial}");
            assert_ne!(child, grandchild);
            assert_eq!(all.iter().position(|other| Lineage::of(other) == lineage), Some(at), "{serial}");
        }
    }
}
