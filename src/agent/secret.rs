//! The mesh's shared secret: 32 random bytes, written in base64. Never in a log, an error or Debug.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// One secret of a mesh. Whoever holds it can join and name himself anything.
#[derive(Clone)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// A fresh one from the system's randomness.
    ///
    /// # Panics
    /// When the system has no randomness to give.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *bytes).expect("the system gives randomness");
        Self(bytes)
    }

    /// The same bytes again.
    pub(super) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for key derivation alone.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The text form that goes into a secret file.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(*self.0))
    }
}

impl FromStr for Secret {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WHY: &str = "is not 32 bytes in base64: make one with `hobnob keygen`";
        let bytes = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| WHY)?);
        let bytes: [u8; 32] = bytes.as_slice().try_into().map_err(|_| WHY)?;
        Ok(Self(Zeroizing::new(bytes)))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret(…)")
    }
}
