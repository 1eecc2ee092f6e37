//! What a node does with the law: signs words where it may, takes in those of others, signs anew what stands when the
//! authority changes.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use super::{Broken, Edict, Law, Said, Taken, Trust, Word, authority::has_signed, papers};

impl Trust {
    /// What the authority has decreed, as far as this node has heard.
    pub(in crate::agent) fn law(&self) -> Arc<Law> {
        self.law.load_full()
    }

    /// Wakes when the law is another.
    pub(in crate::agent) fn law_changes(&self) -> tokio::sync::watch::Receiver<()> {
        self.law_changed.subscribe()
    }

    /// Signs a word, where this node may: later than what stands, whoever's clock was ahead when that was said.
    pub(in crate::agent) fn decree(&self, word: Word, void: bool, now: u64) -> Result<Edict, Broken> {
        let papers = self.papers.load();
        let at = now.max(self.law.load().free_from(&word));
        self.signer(&papers)?.decree(&self.mesh, word, void, at)
    }

    /// Whether a word is about this node's name or certificate.
    pub(in crate::agent) fn is_own(&self, word: &Word) -> bool {
        [Word::DenyNode(self.node.clone()), Word::DenySerial(self.says().serial)]
            .iter()
            .any(|own| own.matter() == word.matter())
    }

    /// Takes a word in, if an authority that is believed here has signed it.
    pub(in crate::agent) fn take(&self, edict: &Edict, now: u64) -> Result<Taken, &'static str> {
        let said = Said::read(&edict.text).ok_or("is no edict that this version knows")?;
        if said.mesh != self.mesh {
            return Err("is of another mesh");
        }
        said.check(now)?;
        if said.is_over(now) {
            return Ok(Taken::Known);
        }
        // Asked first: what tells nothing new is not verified.
        match self.law.load().weigh(edict, &said) {
            Taken::News => {}
            Taken::Known => return self.take_signature(edict, &said.word),
            Taken::NoRoom => return Ok(Taken::NoRoom),
        }
        if !self.papers.load().roots.iter().any(|root| has_signed(root, &edict.text, &edict.signature)) {
            return Err(UNSIGNED);
        }
        let mut taken = Taken::Known;
        self.law.rcu(|law| {
            let mut law = Law::clone(law);
            taken = law.take(edict.clone(), said.clone());
            law
        });
        self.weigh(edict);
        self.refused.forget();
        self.law_changed.send_replace(());
        Ok(taken)
    }

    /// Takes the signature of a younger authority under what stands already: so that a change of authorities reaches who
    /// cannot sign. With a shared secret everybody signs for himself.
    fn take_signature(&self, edict: &Edict, word: &Word) -> Result<Taken, &'static str> {
        let (law, papers) = (self.law.load(), self.papers.load());
        let old = law.on(word).filter(|old| old.text == edict.text && old.signature != edict.signature);
        let Some(old) = old.filter(|_| papers.secrets.is_empty()) else { return Ok(Taken::Known) };
        let signer = |edict: &Edict| {
            let roots = papers.roots.iter().enumerate();
            let signers = roots.filter(|(_, root)| has_signed(root, &edict.text, &edict.signature));
            // Of one age, the one that is named first.
            let rank = |(at, root)| papers::says(root).map(|says| (says.not_before, says.not_after, Reverse(at)));
            signers.filter_map(rank).max()
        };
        let younger = signer(edict).ok_or(UNSIGNED)?;
        if signer(old).is_some_and(|old| old >= younger) {
            return Ok(Taken::Known);
        }
        self.law.rcu(|law| {
            let mut law = Law::clone(law);
            law.sign_again(|kept| (kept.text == edict.text).then(|| edict.signature.clone()));
            law
        });
        self.weigh(edict);
        Ok(Taken::News)
    }

    /// Whether what this node signs again is to be told to those who cannot sign.
    pub(in crate::agent) fn signs_for_others(&self) -> bool {
        self.papers.load().secrets.is_empty()
    }

    /// What an authority that goes decreed stands by the word of the one that comes, where this node may sign.
    pub(in crate::agent) fn sign_again(&self) {
        let papers = self.papers.load();
        let Some(authority) = &papers.authority else { return };
        let stale = |edict: &Edict| !has_signed(&authority.certificate, &edict.text, &edict.signature);
        if self.law.load().edicts().any(stale) {
            let sign = |edict: &Edict| stale(edict).then(|| authority.sign(&edict.text).ok()).flatten();
            self.law.rcu(|law| {
                let mut law = Law::clone(law);
                law.sign_again(sign);
                law
            });
            self.signed_again.notify_one();
        }
    }

    /// Notes of all that is law which authority stands behind it now.
    pub(super) fn weigh_all(&self) {
        self.stale.store(Arc::default());
        self.law.load().edicts().for_each(|edict| self.weigh(edict));
    }

    fn weigh(&self, edict: &Edict) {
        let papers = self.papers.load();
        let mut signed = papers.roots.iter().map(|root| has_signed(root, &edict.text, &edict.signature));
        let by_first = signed.next() == Some(true);
        let by_another = !by_first && signed.any(|signed| signed);
        if by_first && self.stale.load().is_empty() {
            return;
        }
        self.stale.rcu(|stale| {
            let mut stale = BTreeMap::clone(stale);
            if by_first {
                stale.remove(&edict.text)
            } else {
                stale.insert(edict.text.clone(), by_another)
            };
            stale
        });
    }

    /// How many words stand that the first of the authorities has not signed; and of them how many by none that is
    /// believed here, which a restart would forget.
    pub(in crate::agent) fn stale(&self) -> (usize, usize) {
        let (law, stale) = (self.law.load(), self.stale.load());
        let standing: Vec<bool> = law.edicts().filter_map(|edict| stale.get(&edict.text).copied()).collect();
        (standing.len(), standing.iter().filter(|by_another| !**by_another).count())
    }

    /// Wakes when what is law has to be kept again.
    pub(in crate::agent) async fn signed(&self) {
        self.signed_again.notified().await;
    }

    /// Forgets what is over.
    pub(in crate::agent) fn forget(&self, now: u64) {
        self.law.rcu(|law| {
            let mut law = Law::clone(law);
            law.forget(now);
            law
        });
    }
}

pub(super) const UNSIGNED: &str = "is not signed by an authority of this mesh";
