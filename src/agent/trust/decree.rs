//! What a node does with the law: signs words where it may, takes in those of others, signs anew what stands when the
//! authority changes.

use std::{collections::BTreeMap, sync::Arc};

use super::{Broken, Edict, Law, Said, Taken, Trust, Word, authority::has_signed};

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

    /// Takes in what is decreed here, if there is room for it.
    pub(in crate::agent) fn admit(&self, edict: &Edict, now: u64) -> Result<Taken, String> {
        edict.said().map_or(Ok(()), |said| self.law.load().room(&said))?;
        Ok(self.take(edict, now)?)
    }

    /// Takes a word in, if an authority that is believed here has signed it.
    pub(in crate::agent) fn take(&self, edict: &Edict, now: u64) -> Result<Taken, &'static str> {
        let said = Said::read(&edict.text).ok_or("is no edict that this version knows")?;
        if said.mesh != self.mesh {
            return Err("is of another mesh");
        }
        if said.is_over(now) {
            return Ok(Taken::Known);
        }
        // Asked first: what tells nothing new is not verified.
        match self.law.load().weigh(edict, &said) {
            Taken::News => {}
            taken => return Ok(taken),
        }
        if !self.papers.load().roots.iter().any(|root| has_signed(root, &edict.text, &edict.signature)) {
            return Err(UNSIGNED);
        }
        // Only now: what a member makes up says nothing of this machine's clock.
        said.check(now)?;
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

    /// Whether what this node signs again is to be told to those who cannot sign.
    pub(in crate::agent) fn signs_for_others(&self) -> bool {
        self.papers.load().secrets.is_empty()
    }

    /// What an authority that goes decreed stands by the word of the one that comes, where this node may sign: a later word
    /// of that one, so that it reaches everybody as every other does. With a shared secret everybody signs for himself,
    /// and only the signature is another.
    pub(in crate::agent) fn sign_again(&self) {
        let papers = self.papers.load();
        let Some(authority) = &papers.authority else { return };
        // What one has signed that comes first among those believed here stays by that one.
        let later = papers.roots.iter().position(|root| *root == authority.certificate).unwrap_or_default();
        let is_stale = |edict: &Edict| {
            !papers.roots.iter().take(later + 1).any(|root| has_signed(root, &edict.text, &edict.signature))
        };
        if !self.law.load().edicts().any(is_stale) {
            return;
        }
        let by_secret =
            |edict: &Edict| Some(Edict { text: edict.text.clone(), signature: authority.sign(&edict.text).ok()? });
        let by_key = |edict: &Edict| authority.decree_again(edict).ok().flatten();
        self.law.rcu(|law| {
            let mut law = Law::clone(law);
            law.sign_again(|edict| match is_stale(edict) {
                true if papers.secrets.is_empty() => by_key(edict),
                true => by_secret(edict),
                false => None,
            });
            law
        });
        self.weigh_all();
        self.signed_again.notify_one();
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use rand::{RngExt, SeedableRng, seq::SliceRandom};
    use rand_pcg::Pcg32;

    use super::{
        super::{Authority, edict::OF_THE_FUTURE, papers::Papers, san},
        *,
    };

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const NOW: u64 = 1 << 40;

    /// What a node holds that believes these authorities, in this order.
    fn papers(believes: &[&Authority]) -> Papers {
        let roots: Vec<_> = believes.iter().map(|authority| authority.certificate.clone()).collect();
        let own = san(&"prod".try_into().unwrap(), &"a".try_into().unwrap());
        let own = believes[0].issue_own(&own, SystemTime::now()).unwrap();
        Papers::assemble(&roots, own, None, Vec::new()).unwrap()
    }

    fn node(believes: &[&Authority]) -> Trust {
        Trust::holding(&"prod".try_into().unwrap(), &"a".try_into().unwrap(), papers(believes))
    }

    fn believe(node: &Trust, authorities: &[&Authority]) {
        node.papers.store(Arc::new(papers(authorities)));
        node.weigh_all();
    }

    fn edicts(of: &Trust) -> Vec<Edict> {
        of.law().edicts().cloned().collect()
    }

    fn deny(by: &Authority, name: &str, void: bool, at: u64) -> Edict {
        by.decree(&"prod".try_into().unwrap(), Word::DenyNode(name.try_into().unwrap()), void, at).unwrap()
    }

    /// Signs again by an authority what a node tells of, as `hobnob ca sign-again` does.
    fn sign_again(by: &Authority, at: &Trust) {
        for edict in edicts(at) {
            if let Some(again) = by.decree_again(&edict).unwrap() {
                assert_eq!(at.take(&again, NOW), Ok(Taken::News));
            }
        }
    }

    #[test]
    fn a_forged_word_of_the_future_says_nothing_of_this_machine_s_clock() {
        let [(authority, _), (insider, _)] = [1, 1].map(|days| Authority::create(days * DAY).unwrap());
        let (node, later) = (node(&[&authority]), NOW + 2 * 24 * 3600 * 1000);
        for (by, expected, counted) in [(&insider, UNSIGNED, (0, 1)), (&authority, OF_THE_FUTURE, (1, 1))] {
            let edict = deny(by, "x", false, later);
            assert_eq!(node.take(&edict, NOW), Err(expected));
            node.refuse(&edict, expected, NOW);
            assert_eq!(node.refused(NOW), counted);
        }
    }

    #[test]
    fn an_authority_that_is_older_by_its_date_signs_again_all_the_same() {
        // The one that comes ends, and so began, before the one that goes.
        let [(old, _), (new, _)] = [2, 1].map(|days| Authority::create(days * DAY).unwrap());
        let [here, there] = [(); 2].map(|()| node(&[&old]));
        for edict in [deny(&old, "stolen", false, 5), deny(&old, "found", true, 5)] {
            assert_eq!([here.take(&edict, NOW), there.take(&edict, NOW)], [Ok(Taken::News); 2]);
        }
        for node in [&here, &there] {
            believe(node, &[&new, &old]);
        }
        assert_eq!(here.stale(), (2, 0));
        sign_again(&new, &here);
        assert_eq!(here.stale(), (0, 0));
        for edict in edicts(&here) {
            assert_eq!(there.take(&edict, NOW), Ok(Taken::News));
            assert_eq!(there.take(&edict, NOW), Ok(Taken::Known), "nothing goes back and forth");
        }
        believe(&there, &[&new]);
        assert_eq!((there.stale(), there.law().standing().count()), ((0, 0), 1));
        // And what nobody believes any more, as long as it is law.
        believe(&there, &[&old]);
        assert_eq!(there.stale(), (2, 2));
        sign_again(&old, &there);
        assert_eq!(there.stale(), (0, 0));
    }

    #[test]
    fn in_whatever_order_words_and_lists_come_the_law_is_one_where_the_lists_are() {
        let authorities = [1, 2, 3].map(|days| Authority::create(days * DAY).unwrap().0);
        for seed in 0..40 {
            let mut random = Pcg32::seed_from_u64(seed);
            let lists = |random: &mut Pcg32| {
                let mut list: Vec<_> = authorities.iter().collect();
                list.shuffle(random);
                list.truncate(random.random_range(1..=3));
                list
            };
            let nodes: Vec<_> = (0..4).map(|_| node(&lists(&mut random))).collect();
            for at in 0..60 {
                let here = &nodes[random.random_range(0..4)];
                let by = &authorities[random.random_range(0..3)];
                match random.random_range(0..4) {
                    0 => drop(here.take(&deny(by, ["x", "y"][random.random_range(0..2)], random.random(), at), NOW)),
                    1 => believe(here, &lists(&mut random)),
                    2 => edicts(here).iter().filter_map(|edict| by.decree_again(edict).unwrap()).for_each(|edict| {
                        let _ = here.take(&edict, NOW);
                    }),
                    _ => edicts(&nodes[random.random_range(0..4)]).iter().for_each(|edict| {
                        let _ = here.take(edict, NOW);
                    }),
                }
            }
            nodes.iter().for_each(|node| believe(node, &authorities.iter().collect::<Vec<_>>()));
            let spread = || {
                let all: Vec<_> = nodes.iter().flat_map(edicts).collect();
                let taken = nodes.iter().flat_map(|node| all.iter().map(|edict| node.take(edict, NOW)));
                taken.filter(|taken| *taken == Ok(Taken::News)).count()
            };
            spread();
            assert_eq!(spread(), 0, "seed {seed}: nothing is news for ever");
            sign_again(&authorities[0], &nodes[0]);
            spread();
            for node in &nodes {
                assert_eq!(node.law().summary(), nodes[0].law().summary(), "seed {seed}");
                assert_eq!(node.stale(), (0, 0), "seed {seed}");
            }
        }
    }
}
