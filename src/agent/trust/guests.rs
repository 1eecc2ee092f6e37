//! Who was invited and has not come yet, by the key they will show, and which names were given away. Kept on disk where
//! there is one: a token outlives a restart of the node that made it, and is good once, whatever happens in between. A
//! key found there opens nothing, for its secret half was never here.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::Broken;
use crate::{
    agent::{file, keep, unix_millis},
    model::{NodeName, millis},
};

#[derive(Default)]
pub(super) struct Guests(Mutex<Book>);

#[derive(Default)]
struct Book {
    file: Option<PathBuf>,
    guests: HashMap<Vec<u8>, Guest>,
    /// The names of those who came, whom the mesh may not have seen yet, or not any more.
    granted: Vec<NodeName>,
}

/// One invitation.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Guest {
    #[serde(deserialize_with = "crate::model::list")]
    key: Vec<u8>,
    /// In unix milliseconds.
    until: u64,
    /// The only name it may take, if the invitation says one.
    node: Option<NodeName>,
}

impl Guest {
    pub(super) fn new(key: Vec<u8>, ttl: Duration, node: Option<NodeName>) -> Self {
        let ttl = millis(ttl);
        Self { key, until: unix_millis().saturating_add(ttl), node }
    }
}

impl Guests {
    /// Takes up what an earlier life has kept in this folder, and keeps its own there.
    pub(super) fn open(&self, folder: &Path) {
        let path = folder.join(FILE);
        let kept = file::read(&path, MAX_KEPT).ok();
        let kept = kept.map(|kept| rmp_serde::from_slice::<(Vec<Guest>, Vec<NodeName>)>(&kept));
        let (kept, granted) = kept
            .transpose()
            .unwrap_or_else(|why| {
                tracing::warn!(event = "guests_forgotten", %why, "tokens made before are good no more: make others");
                None
            })
            .unwrap_or_default();
        let mut book = self.awaited();
        book.guests.extend(kept.into_iter().take(MAX_GUESTS).map(|guest| (guest.key.clone(), guest)));
        book.granted.extend(granted.into_iter().take(MAX_GRANTED));
        book.file = Some(path);
    }

    pub(super) fn awaits(&self, key: &[u8]) -> bool {
        self.awaited().guests.contains_key(key)
    }

    /// One more is awaited.
    pub(super) fn expect(&self, guest: Guest) -> Result<(), Broken> {
        let mut book = self.awaited();
        if book.guests.len() >= MAX_GUESTS {
            return Err(Broken::Crowd);
        }
        let key = guest.key.clone();
        book.guests.insert(key.clone(), guest);
        book.keep().inspect_err(|_| drop(book.guests.remove(&key)))
    }

    /// One has come by this name, and is awaited no more, unless what it asks for does not fit, or the name was given
    /// away before and the invitation is not for it. On disk before anybody is told.
    pub(super) fn come(
        &self,
        key: &[u8],
        name: &NodeName,
        fits: impl FnOnce(&Option<NodeName>) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        let mut book = self.awaited();
        let guest = book.guests.get(key).cloned().ok_or(Broken::Uninvited)?;
        fits(&guest.node)?;
        if guest.node.is_none() && book.granted.contains(name) {
            return Err(Broken::Taken(name.clone()));
        }
        let before = book.granted.clone();
        book.guests.remove(key);
        book.granted.retain(|granted| granted != name);
        book.granted.push(name.clone());
        let forgotten = book.granted.len().saturating_sub(MAX_GRANTED);
        book.granted.drain(..forgotten);
        book.keep().inspect_err(|_| {
            book.guests.insert(key.to_vec(), guest);
            book.granted = before;
        })
    }

    /// Those who may still come.
    fn awaited(&self) -> MutexGuard<'_, Book> {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = unix_millis();
        book.guests.retain(|_, guest| guest.until > now);
        book
    }
}

impl Book {
    fn keep(&self) -> Result<(), Broken> {
        let Some(file) = &self.file else { return Ok(()) };
        let all: Vec<_> = self.guests.values().collect();
        let kept = rmp_serde::to_vec_named(&(all, &self.granted)).map_err(std::io::Error::other);
        kept.and_then(|kept| keep::replace(file, &kept, keep::PRIVATE)).map_err(|why| Broken::Unkept(file.clone(), why))
    }
}

const FILE: &str = "guests";
/// Invitations that wait: more machines than are set up at a time.
const MAX_GUESTS: usize = 1000;
/// Names that were given away: as many nodes as a mesh has. The oldest is forgotten first, and by then a member.
const MAX_GRANTED: usize = 10_000;
/// All of them, each with a key and a name.
const MAX_KEPT: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_invitation_outlives_a_restart_and_a_used_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            let guests = Guests::default();
            guests.open(folder.path());
            guests
        };
        let hour = Duration::from_secs(3600);
        let (first, web) = (open(), NodeName::try_from("web-1").unwrap());
        for key in [1, 2] {
            first.expect(Guest::new(vec![key], hour, Some(web.clone()))).unwrap();
        }
        first.expect(Guest::new(vec![3], Duration::ZERO, None)).unwrap();
        let refused = first.come(&[2], &web, |_| Err(Broken::Uninvited));
        assert!(refused.is_err() && first.awaits(&[2]), "refused, it stays good");
        let is_web = |node: &Option<NodeName>| node.as_ref().filter(|name| name.as_str() == "web-1").map(drop);
        first.come(&[1], &web, |node| is_web(node).ok_or(Broken::Uninvited)).unwrap();
        let second = open();
        assert_eq!([1, 2, 3].map(|key| second.awaits(&[key])), [false, true, false]);
        // Both are for this name; an invitation for any is not good for one that was given away.
        second.come(&[2], &web, |_| Ok(())).unwrap();
        let third = open();
        assert!(!third.awaits(&[2]));
        third.expect(Guest::new(vec![4], hour, None)).unwrap();
        assert!(matches!(third.come(&[4], &"WEB-1".try_into().unwrap(), |_| Ok(())), Err(Broken::Taken(_))));
        third.come(&[4], &"web-2".try_into().unwrap(), |_| Ok(())).unwrap();
    }

    #[test]
    fn what_cannot_be_kept_is_not_promised() {
        let folder = tempfile::tempdir().unwrap();
        let guests = Guests::default();
        guests.open(&folder.path().join("gone"));
        let guest = Guest::new(vec![1], Duration::from_secs(3600), None);
        assert!(matches!(guests.expect(guest), Err(Broken::Unkept(..))) && !guests.awaits(&[1]));
        fs::write(folder.path().join(FILE), "letters").unwrap();
        guests.open(folder.path());
        assert!(!guests.awaits(b"letters"));
    }
}
