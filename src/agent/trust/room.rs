//! How much law there may be. What was taken back is remembered, lest a node that was long away brings it back, and so it
//! is bounded apart from what holds: a mesh that makes and revokes tokens all its life comes to no end, and a crowd of
//! tokens keeps no stolen machine in.

use super::{Law, Said, Word};

/// One of the bounds, and how far away it is.
struct Bound {
    count: usize,
    most: usize,
    /// Of what.
    what: &'static str,
    /// What makes room.
    mend: &'static str,
}

impl Law {
    /// Why one more word would be one too many, if it would: asked where it is decreed, so that whoever hears the law takes
    /// it in any order. What takes a word back, or repeats it, never is.
    pub(super) fn room(&self, said: &Said) -> Result<(), String> {
        if said.void || self.holds(&said.word) {
            return Ok(());
        }
        let [standing, lasting] = self.bounds(is_token(&said.word));
        let counts = [Some(standing), Some(lasting).filter(|_| is_lasting(&said.word))];
        match counts.into_iter().flatten().find(|bound| bound.count >= bound.most) {
            Some(Bound { count, what, mend, .. }) => Err(format!("finds no room: {count} {what}; {mend}")),
            None => Ok(()),
        }
    }

    /// The bounds that are near, as sentences.
    pub fn crowded(&self) -> Vec<String> {
        let near =
            [true, false].into_iter().flat_map(|tokens| self.bounds(tokens)).filter(|b| b.count >= b.most / 5 * 4);
        near.map(|Bound { count, most, what, mend }| format!("{count} of {most} {what}: {mend}")).collect()
    }

    /// Those of tokens, or those of denials.
    fn bounds(&self, tokens: bool) -> [Bound; 2] {
        let (mut standing, mut lasting) = (0, 0);
        for said in self.said().filter(|said| is_token(&said.word) == tokens) {
            if !said.void {
                standing += 1;
            } else if is_lasting(&said.word) {
                lasting += 1;
            }
        }
        let [(stand, revoke), (remembered, last)] = if tokens { TOKENS } else { DENIALS };
        [
            Bound { count: standing, most: MAX_STANDING, what: stand, mend: revoke },
            Bound { count: lasting, most: MAX_LASTING, what: remembered, mend: last },
        ]
    }
}

fn is_token(word: &Word) -> bool {
    matches!(word, Word::Token(_))
}

/// Whether it never goes by itself.
fn is_lasting(word: &Word) -> bool {
    !matches!(word, Word::Token(token) if token.expires.is_some())
}

const TOKENS: [(&str, &str); 2] = [
    ("tokens stand", "revoke those that nobody uses (hobnob token list)"),
    ("revoked tokens that never expire are remembered", "make tokens with --ttl: those go a day after they expire"),
];
const DENIALS: [(&str, &str); 2] = [
    ("denials stand", "take those back whose certificates have expired (hobnob ca revoke --undo)"),
    ("denials that were taken back are remembered", "deny again what was denied before: that takes no room"),
];
/// The most tokens that hold, and apart from them the most denials: those of a large firm.
const MAX_STANDING: usize = 2048;
/// The most of each kind that were taken back and never go by themselves: six a week for as long as a person works.
const MAX_LASTING: usize = 8192;
/// The most of each kind that is heard: what may be decreed, tokens that were revoked before they expired, and what two
/// nodes may decree beside each other at a bound.
pub(in crate::agent) const MAX_OF_A_KIND: usize = 2 * MAX_LASTING;

#[cfg(test)]
mod tests {
    use super::{
        super::{Edict, Taken, Token},
        *,
    };

    fn token(number: usize, expires: Option<u64>, void: bool, at: u64) -> Said {
        let mut sha256 = [0; 32];
        sha256[..8].copy_from_slice(&number.to_be_bytes());
        let word = Word::Token(Token { name: "ci".into(), sha256, policy: "read".into(), expires });
        Said { mesh: "prod".try_into().unwrap(), word, void, at, again: None }
    }

    fn deny(number: usize, void: bool, at: u64) -> Said {
        let word = Word::DenySerial(format!("{:x}", number + 1));
        Said { mesh: "prod".try_into().unwrap(), word, void, at, again: None }
    }

    fn take(law: &mut Law, said: Said) -> Taken {
        law.take(Edict { text: said.render(), signature: vec![0; 64] }, said)
    }

    #[test]
    fn tokens_and_denials_come_and_go_for_longer_than_as_many_may_stand() {
        let mut law = Law::default();
        for number in 0..MAX_LASTING {
            let come = [token(number, None, false, 1), deny(number, false, 1)];
            let go = [token(number, None, true, 2), deny(number, true, 2)];
            for said in come.into_iter().chain(go) {
                // To count all of them each time takes long.
                assert!(number % 1000 != 0 || law.room(&said) == Ok(()), "{number}");
                assert_eq!(take(&mut law, said), Taken::News, "{number}");
            }
        }
        assert_eq!(law.crowded().len(), 2, "{:?}", law.crowded());
        assert!(law.room(&token(MAX_LASTING, None, false, 3)).unwrap_err().contains("--ttl"));
        assert_eq!(law.room(&token(MAX_LASTING, Some(9), false, 3)), Ok(()), "as it says");
        assert!(law.room(&deny(MAX_LASTING, false, 3)).unwrap_err().contains("denied before"));
    }

    #[test]
    fn as_many_stand_as_may_and_one_goes_for_one_that_comes() {
        let mut law = Law::default();
        for number in 0..MAX_STANDING {
            take(&mut law, token(number, Some(5), false, 1));
        }
        let one_more = token(MAX_STANDING, Some(5), false, 1);
        assert!(law.room(&one_more).unwrap_err().contains("nobody uses") && law.crowded().len() == 1);
        assert_eq!(law.room(&deny(0, false, 1)), Ok(()), "no crowd of tokens keeps a stolen machine in");
        assert_eq!(law.room(&token(0, Some(5), false, 2)), Ok(()), "what is repeated takes no room");
        let gone = token(0, Some(5), true, 2);
        assert_eq!((law.room(&gone), take(&mut law, gone)), (Ok(()), Taken::News));
        assert_eq!((law.room(&one_more), take(&mut law, one_more)), (Ok(()), Taken::News));
        law.forget(u64::MAX);
        assert_eq!((law.is_empty(), law.crowded().len()), (true, 0), "they go, revoked or not");
    }
}
