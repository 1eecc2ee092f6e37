//! Edicts: what the mesh's authority decrees for every node. Who is not let in any more, which HTTP tokens are good.
//!
//! Each is signed by itself and travels as the bytes that were signed. Of two on one matter the later counts, so that
//! nodes may hear them in any order and end up with the same law.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    lineage::{Lineage, number},
    room::MAX_OF_A_KIND,
};
use crate::model::{MeshName, NodeName};

/// A word of the authority, as it travels and is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edict {
    /// What was signed.
    #[serde(with = "bytes_of")]
    pub(super) text: Vec<u8>,
    #[serde(with = "bytes_of")]
    pub(super) signature: Vec<u8>,
}

/// What an edict says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// In which mesh it is law.
    pub mesh: MeshName,
    /// What it is about.
    pub word: Word,
    /// It takes back what was said before on the same matter.
    pub void: bool,
    /// When it was said, in unix milliseconds: the later word counts.
    pub at: u64,
    /// A number of the authority that repeats what another has said: of two that do, each has a word of its own, and
    /// everybody keeps the same one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<u64>,
}

/// What is decreed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// No node of this name is let in.
    DenyNode(NodeName),
    /// No certificate of this serial number is accepted, and none that comes of one another by renewal.
    DenySerial(String),
    /// A token for HTTP is good.
    Token(Token),
}

/// A token as every node knows it: never the token itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// What people call it; names whoever showed it in the audit.
    pub name: String,
    /// SHA-256 of the token. The token is 32 random bytes: a slow hash would protect nothing that can be guessed.
    pub sha256: [u8; 32],
    /// What it allows, as `http` reads it.
    pub policy: String,
    /// Until when, in unix milliseconds.
    #[serde(default)]
    pub expires: Option<u64>,
}

impl Token {
    /// Whether it has not expired, at this time in unix milliseconds.
    #[must_use]
    pub fn is_good(&self, now: u64) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }
}

impl Edict {
    /// As text, for a file or a request.
    #[must_use]
    pub fn to_text(&self) -> String {
        STANDARD.encode(rmp_serde::to_vec_named(self).unwrap_or_default())
    }

    /// What it says, if this version can read it.
    pub(crate) fn said(&self) -> Option<Said> {
        Said::read(&self.text)
    }

    /// Reads that text. Whether it was signed by anybody is asked later.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(text.trim()).ok().filter(|bytes| bytes.len() <= 3 * MAX_EDICT)?;
        let mut from = rmp_serde::Deserializer::from_read_ref(&bytes);
        from.set_max_depth(MAX_DEPTH);
        Self::deserialize(&mut from).ok()
    }
}

impl Word {
    /// Which earlier word it takes the place of.
    pub(super) fn matter(&self) -> Matter {
        match self {
            Self::DenyNode(name) => of_node(name),
            Self::DenySerial(serial) => of_serial(serial),
            Self::Token(token) => (TOKEN, token.sha256.to_vec()),
        }
    }
}

impl Said {
    /// What is wrong with it, if it cannot be decreed.
    ///
    /// # Errors
    /// A sentence's end.
    pub fn check(&self, now: u64) -> Result<(), &'static str> {
        if self.at > now.saturating_add(MAX_AHEAD) {
            return Err(OF_THE_FUTURE);
        }
        let printable =
            |text: &str| !text.is_empty() && text.len() <= MAX_TEXT && text.bytes().all(|b| b > b' ' && b < 127);
        match &self.word {
            Word::DenyNode(_) => Ok(()),
            Word::DenySerial(serial) => match number(serial) {
                number if number.is_empty() => Err("has an empty serial number"),
                number if serial.len() <= MAX_TEXT && number.bytes().all(|b| b.is_ascii_hexdigit()) => Ok(()),
                _ => Err("has a serial number that is not hexadecimal"),
            },
            Word::Token(token) if printable(&token.name) && printable(&token.policy) => Ok(()),
            Word::Token(_) => {
                Err("has a name or a policy that is empty, over 128 bytes or not plain ASCII without spaces")
            }
        }
    }

    /// Whether it is of no use any more, wherever a clock may stand: a token long after its time.
    pub(super) fn is_over(&self, now: u64) -> bool {
        matches!(&self.word, Word::Token(Token { expires: Some(expires), .. }) if expires.saturating_add(MAX_AHEAD) < now)
    }

    /// What is signed: it cannot be taken for anything else that the key signs.
    pub(super) fn render(&self) -> Vec<u8> {
        let mut text = LABEL.to_vec();
        // Writing to memory cannot fail, and no type of ours refuses to be written.
        text.extend(rmp_serde::to_vec_named(self).unwrap_or_default());
        text
    }

    /// Reads what was signed.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let body = text.strip_prefix(LABEL).filter(|body| body.len() <= MAX_EDICT)?;
        let mut from = rmp_serde::Deserializer::from_read_ref(body);
        from.set_max_depth(MAX_DEPTH);
        let said = Self::deserialize(&mut from).ok()?;
        // Trailing bytes and doubled keys would make two texts of one word.
        (said.render() == text).then_some(said)
    }
}

/// What a word is about: its kind, and whom it names.
type Matter = (u8, Vec<u8>);

const NODE: u8 = 0;
const SERIAL: u8 = 1;
const TOKEN: u8 = 2;

fn of_node(name: &NodeName) -> Matter {
    (NODE, name.as_str().to_ascii_lowercase().into())
}

/// Of several words on one lineage the last counts, whichever of its certificates they name.
fn of_serial(serial: &str) -> Matter {
    (SERIAL, Lineage::of(serial).bytes().into())
}

/// What a word did to the law.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::agent) enum Taken {
    News,
    /// The same or a later word stands.
    Known,
    /// More tokens, or more denials, are known than can have been decreed.
    NoRoom,
}

/// All edicts that count.
#[derive(Clone, Debug, Default)]
pub struct Law {
    edicts: BTreeMap<Matter, Arc<(Edict, Said)>>,
}

impl Law {
    /// What a word would do to the law.
    pub(super) fn weigh(&self, edict: &Edict, said: &Said) -> Taken {
        let (matter, rank) = (said.word.matter(), |edict: &Edict, said: &Said| (said.at, edict.text.clone()));
        let is_token = |matter: &Matter| matter.0 == TOKEN;
        let crowd = || self.edicts.keys().filter(|one| is_token(one) == is_token(&matter)).count();
        match self.edicts.get(&matter) {
            Some(known) if rank(&known.0, &known.1) >= rank(edict, said) => Taken::Known,
            None if self.edicts.len() >= MAX_OF_A_KIND && crowd() >= MAX_OF_A_KIND => Taken::NoRoom,
            _ => Taken::News,
        }
    }

    /// Takes a word whose signature was verified.
    pub(super) fn take(&mut self, edict: Edict, said: Said) -> Taken {
        let taken = self.weigh(&edict, &said);
        if taken == Taken::News {
            self.edicts.insert(said.word.matter(), Arc::new((edict, said)));
        }
        taken
    }

    /// Forgets what is over.
    pub(super) fn forget(&mut self, now: u64) {
        self.edicts.retain(|_, kept| !kept.1.is_over(now));
    }

    /// Whether a word on the same matter holds.
    #[must_use]
    pub fn holds(&self, word: &Word) -> bool {
        self.edicts.get(&word.matter()).is_some_and(|known| !known.1.void)
    }

    /// The time from which on a word on the same matter counts.
    pub(crate) fn free_from(&self, word: &Word) -> u64 {
        self.edicts.get(&word.matter()).map_or(0, |known| known.1.at + 1)
    }

    /// Puts the same words by another authority in the place of what stands.
    pub(super) fn sign_again(&mut self, sign: impl Fn(&Edict) -> Option<Edict>) {
        for kept in self.edicts.values_mut() {
            let again = sign(&kept.0).and_then(|edict| edict.said().map(|said| (edict, said)));
            if let Some(again) = again {
                *kept = Arc::new(again);
            }
        }
    }

    /// Whether a node of this name, or with this certificate, is not let in.
    pub(super) fn denies(&self, node: &NodeName, serial: &str) -> bool {
        self.denial(node, serial).is_some()
    }

    /// The word by which it is not.
    pub(super) fn denial(&self, node: &NodeName, serial: &str) -> Option<&Said> {
        let on = |matter: Matter| self.edicts.get(&matter).map(|kept| &kept.1).filter(|said| !said.void);
        on(of_node(node)).or_else(|| on(of_serial(serial)))
    }

    /// All that is known to have been said last.
    pub(super) fn said(&self) -> impl Iterator<Item = &Said> {
        self.edicts.values().map(|kept| &kept.1)
    }

    /// Everything that stands.
    pub fn standing(&self) -> impl Iterator<Item = &Said> {
        self.said().filter(|said| !said.void)
    }

    /// The tokens that stand; some may have expired.
    pub fn tokens(&self) -> impl Iterator<Item = &Token> {
        self.standing().filter_map(|said| if let Word::Token(token) = &said.word { Some(token) } else { None })
    }

    /// As they travel.
    pub(crate) fn edicts(&self) -> impl Iterator<Item = &Edict> {
        self.edicts.values().map(|kept| &kept.0)
    }

    /// Whether nothing was ever decreed.
    pub(in crate::agent) fn is_empty(&self) -> bool {
        self.edicts.is_empty()
    }

    /// A number that is equal where the law is; signatures do not count, since authorities change.
    pub(in crate::agent) fn summary(&self) -> u64 {
        self.edicts.values().fold(0, |sum: u64, kept| sum.wrapping_add(xxh3_64(&kept.0.text)))
    }
}

/// Bytes as MessagePack's own kind of them, bounded.
mod bytes_of {
    use serde::{Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl de::Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("bytes")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                if bytes.len() > super::MAX_EDICT { Err(E::custom("too long")) } else { Ok(bytes.to_vec()) }
            }
        }
        from.deserialize_bytes(Bytes)
    }
}

pub(super) const OF_THE_FUTURE: &str = "is of the future; is this machine's clock right?";
pub(super) const LABEL: &[u8] = b"hobnob edict, version 1: ";
/// A word with every field at its limit; and a signature of 8192 bits of RSA, the longest there is.
const MAX_EDICT: usize = 1024;
/// Of names, policies and serial numbers.
const MAX_TEXT: usize = 128;
/// How far two machines' clocks may differ.
const MAX_AHEAD: u64 = 24 * 3600 * 1000;
/// A word nests four deep; a deeper one would only exhaust the stack.
const MAX_DEPTH: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn said(word: Word, void: bool, at: u64) -> (Edict, Said) {
        let said = Said { mesh: "prod".try_into().unwrap(), word, void, at, again: None };
        (Edict { text: said.render(), signature: vec![0; 64] }, said)
    }

    fn deny(node: &str, void: bool, at: u64) -> (Edict, Said) {
        said(Word::DenyNode(node.try_into().unwrap()), void, at)
    }

    #[test]
    fn the_later_word_counts_in_whatever_order_they_come() {
        let words = [deny("a", false, 1), deny("A", true, 2), deny("b", false, 3), deny("a", false, 2)];
        let mut laws = [Law::default(), Law::default()];
        for (edict, said) in words.iter().cloned() {
            laws[0].take(edict, said);
        }
        for (edict, said) in words.iter().rev().cloned() {
            laws[1].take(edict, said);
        }
        let [one, other] = laws;
        assert_eq!(one.summary(), other.summary());
        assert!(one.denies(&"B".try_into().unwrap(), ""));
        assert_eq!(
            one.clone().take(words[0].0.clone(), words[0].1.clone()),
            Taken::Known,
            "an old word tells nothing new"
        );
    }

    #[test]
    fn a_serial_number_is_denied_and_given_back() {
        let mut law = Law::default();
        let (edict, word) = said(Word::DenySerial("0aFF".into()), false, 1);
        assert_eq!(law.take(edict, word), Taken::News);
        let node = "a".try_into().unwrap();
        assert!(
            ["0aff", "aff", "000AFF", "0a:ff"].iter().all(|serial| law.denies(&node, serial))
                && !law.denies(&node, "0afe")
        );
        let (edict, word) = said(Word::DenySerial("aff".into()), true, 2);
        assert_eq!(law.take(edict, word), Taken::News);
        assert!(!law.denies(&node, "0aff"));
    }

    #[test]
    fn one_of_a_lineage_is_denied_and_given_back_for_all() {
        let (mut law, node) = (Law::default(), "a".try_into().unwrap());
        let lineages = [Lineage::begin().unwrap(), Lineage::begin().unwrap()];
        let [stolen, granted, other] = [0, 0, 1].map(|of: usize| {
            let serial = lineages[of].serial(std::time::Duration::ZERO).unwrap();
            serial.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        });
        for (serial, void, at) in [(&stolen, false, 1), (&granted, false, 2), (&stolen, true, 3)] {
            let (edict, word) = said(Word::DenySerial(serial.clone()), void, at);
            assert_eq!(law.take(edict, word), Taken::News);
            let denied = [&stolen, &granted, &other].map(|serial| law.denies(&node, serial));
            assert_eq!(denied, [!void, !void, false], "at {at}");
            assert_eq!(law.holds(&Word::DenySerial(granted.clone())), !void);
        }
    }

    #[test]
    fn an_expired_token_goes_once_no_clock_can_say_that_it_is_good() {
        let mut law = Law::default();
        let token = Token { name: "ci".into(), sha256: [0; 32], policy: "read".into(), expires: Some(5) };
        let (edict, word) = said(Word::Token(token), false, 1);
        assert_eq!(law.take(edict, word), Taken::News);
        law.forget(5 + MAX_AHEAD);
        assert_eq!(law.tokens().count(), 1, "somebody's clock may say that it is good");
        law.forget(6 + MAX_AHEAD);
        assert!(law.is_empty());
    }

    #[test]
    fn what_is_read_is_what_was_rendered_and_nothing_more() {
        let token = Token { name: "ops".into(), sha256: [7; 32], policy: "write:web-*".into(), expires: Some(9) };
        let (edict, said) = said(Word::Token(token), false, 5);
        assert_eq!(Said::read(&edict.text), Some(said.clone()));
        assert_eq!(Said::read(&[&edict.text[..], &[0]].concat()), None);
        assert_eq!(Said::read(&edict.text[1..]), None);
        assert!(edict.text.len() < MAX_EDICT && said.check(5).is_ok());
    }

    #[test]
    fn the_longest_word_with_the_longest_signature_travels() {
        let longest = Edict { text: vec![b'x'; MAX_EDICT], signature: vec![1; 8192 / 8] };
        assert_eq!(Edict::from_text(&longest.to_text()), Some(longest.clone()));
        let longer = Edict { signature: vec![1; 8192 / 8 + 1], ..longest };
        assert_eq!(Edict::from_text(&longer.to_text()), None);
    }

    #[test]
    fn what_makes_no_sense_is_not_decreed() {
        let far = said(Word::DenySerial("0a".into()), false, u64::MAX).1;
        assert!(far.check(0).is_err());
        for serial in ["", "0", ":", "xyz", &"a".repeat(129)] {
            assert!(said(Word::DenySerial(serial.into()), false, 0).1.check(0).is_err(), "{serial}");
        }
        let token = Token { name: "a b".into(), sha256: [0; 32], policy: "read".into(), expires: None };
        assert!(said(Word::Token(token), false, 0).1.check(0).is_err());
    }
}
