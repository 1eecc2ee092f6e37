//! Who vouches for what a node wrote: signatures as the core sees them, whatever makes them.
//!
//! Each process has one key for its book. It hands out a voucher for it, which its certificate signed; a reader checks
//! the voucher once and each page with the key. So a certificate is renewed without a row being written again, and what
//! was once signed can be handed on by anybody.

use std::{fmt::Debug, sync::Arc};

use bytes::Bytes;
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128, xxh3_128_with_seed};

use crate::model::NodeName;

/// A signature over a page (Ed25519, RFC 8032).
pub type Signature = [u8; 64];
/// The public key of one process's book.
pub type BookKey = [u8; 32];

/// What a voucher has proved. Its signatures cost too much to be checked again for each member whenever a word of the
/// authority comes; what may become of it since is asked of this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouched {
    /// The key of the process's book.
    pub key: BookKey,
    /// The number of the certificate behind it, unique under its authority.
    pub serial: Box<str>,
    /// The authority behind that, by a number that the notary knows it by.
    pub authority: u64,
    /// Until when all of that is good, in unix milliseconds.
    pub until: u64,
}

/// Why a node does not belong to the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objection {
    /// The authority has revoked its name or its certificate.
    Revoked,
    /// Its certificate has ended.
    Expired,
    /// No authority that is believed here stands behind it.
    Untrusted,
}

/// Signs this node's pages and checks those of others. The agent does it with certificates, the simulator with numbers.
pub trait Notary: Debug + Send + Sync {
    /// Proves to others, by this node's certificate, which key its book is signed with.
    fn voucher(&self) -> Bytes;

    /// This node's own key.
    fn own_key(&self) -> BookKey;

    /// Signs `message` with this node's own key.
    fn sign(&self, message: &[u8]) -> Signature;

    /// What `voucher` proves for `node` at the given unix time in milliseconds.
    ///
    /// # Errors
    /// [`Objection`], when it proves nothing.
    fn vouched(&self, node: &NodeName, voucher: &[u8], unix_millis: u64) -> Result<Vouched, Objection>;

    /// What is to be said by now against a node, and against what its voucher has proved, where it has. Asked often.
    fn objection(&self, node: &NodeName, vouched: Option<&Vouched>, unix_millis: u64) -> Option<Objection>;

    /// Whether `signature` over `message` was made with `key`.
    fn is_signed(&self, key: &BookKey, message: &[u8], signature: &Signature) -> bool;
}

/// A notary, shared.
pub type SharedNotary = Arc<dyn Notary>;

/// Signs with numbers: for simulations and fuzzing. Who holds another's notary signs as that other, and nobody else does.
#[derive(Debug)]
pub struct Numbers {
    world: u64,
    own: BookKey,
    voucher: Bytes,
}

impl Numbers {
    /// The notary of the process `boot` on `node`, in a world where all is decided by `world`.
    #[must_use]
    pub fn new(world: u64, node: &NodeName, boot: u64) -> Self {
        let voucher = [&boot.to_be_bytes()[..], node.as_str().as_bytes()].concat();
        Self { world, own: Self::key_of(&voucher), voucher: voucher.into() }
    }

    fn key_of(voucher: &[u8]) -> BookKey {
        let mut key = [0; 32];
        key[..16].copy_from_slice(&xxh3_128(voucher).to_be_bytes());
        key
    }

    fn signature(&self, key: &BookKey, message: &[u8]) -> Signature {
        let mut signature = [0; 64];
        let secret = xxh3_64_with_seed(key, self.world);
        signature[..16].copy_from_slice(&xxh3_128_with_seed(message, secret).to_be_bytes());
        signature
    }
}

impl Notary for Numbers {
    fn voucher(&self) -> Bytes {
        self.voucher.clone()
    }

    fn own_key(&self) -> BookKey {
        self.own
    }

    fn sign(&self, message: &[u8]) -> Signature {
        self.signature(&self.own, message)
    }

    fn vouched(&self, node: &NodeName, voucher: &[u8], _: u64) -> Result<Vouched, Objection> {
        let name = voucher.split_first_chunk::<8>().map(|(_, name)| name);
        if name != Some(node.as_str().as_bytes()) {
            return Err(Objection::Untrusted);
        }
        Ok(Vouched { key: Self::key_of(voucher), serial: Box::default(), authority: 0, until: u64::MAX })
    }

    fn objection(&self, _: &NodeName, _: Option<&Vouched>, _: u64) -> Option<Objection> {
        None
    }

    fn is_signed(&self, key: &BookKey, message: &[u8], signature: &Signature) -> bool {
        self.signature(key, message) == *signature
    }
}
