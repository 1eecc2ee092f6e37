//! Words that were heard and not taken, although the authority may have said them: for who reads why this node does not do
//! as the others.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use xxhash_rust::xxh3::xxh3_64;

use super::{Edict, Trust, decree::UNSIGNED, edict::OF_THE_FUTURE, room::MAX_OF_A_KIND};

/// By whether it is of the future, and the word: when it was heard last, in unix milliseconds.
#[derive(Debug, Default)]
pub(super) struct Refused(Mutex<BTreeMap<(bool, u64), u64>>);

impl Refused {
    fn heard(&self) -> MutexGuard<'_, BTreeMap<(bool, u64), u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins anew: what is refused still will be heard again.
    pub(super) fn forget(&self) {
        self.heard().clear();
    }
}

impl Trust {
    /// Notes that a word was not taken, for that reason; whether an operator is to be told, who was not told of such yet.
    pub(in crate::agent) fn refuse(&self, edict: &Edict, why: &str, now: u64) -> bool {
        let is_future = why == OF_THE_FUTURE;
        if !is_future && why != UNSIGNED {
            return false;
        }
        let mut heard = self.refused.heard();
        heard.retain(|_, at| at.abs_diff(now) < KEPT);
        let is_first = heard.keys().all(|(future, _)| *future != is_future);
        if heard.len() < MAX_OF_A_KIND {
            heard.insert((is_future, xxh3_64(&edict.text)), now);
        }
        is_first
    }

    /// How many words that were heard lately are not taken, since they are of the future here, and since nobody believed
    /// here has signed them.
    pub(in crate::agent) fn refused(&self, now: u64) -> (usize, usize) {
        let heard = self.refused.heard();
        let lately = || heard.iter().filter(|(_, at)| at.abs_diff(now) < KEPT);
        let future = lately().filter(|((is_future, _), _)| *is_future).count();
        (future, lately().count() - future)
    }
}

/// Each peer offers all of its law now and then: a word that was not heard for so long is nobody's any more.
const KEPT: u64 = 10 * 60 * 1000;
