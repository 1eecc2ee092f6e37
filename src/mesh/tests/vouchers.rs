//! Authorities change: what is told of a voucher, and who waits for it.

use super::{super::notary::BookKey, *};
use crate::model::NodeName;

/// What a node's notary goes by.
#[derive(Clone, Copy, Debug)]
pub(in crate::mesh) struct Papers {
    /// The authority by which its node is vouched for. What the one called [`ENDING`] signs is good until [`ENDS`].
    pub(super) signs: u8,
    /// Those that are believed.
    pub(super) believes: &'static [u8],
    /// Who is revoked.
    pub(super) denies: &'static [&'static str],
}

pub(in crate::mesh) const FIRST: Papers = Papers { signs: 0, believes: &[0, ENDING], denies: &[] };
pub(super) const ENDING: u8 = 9;
pub(super) const ENDS: u64 = UNIX_MILLIS + 90_000;

/// Numbers under one of several authorities.
#[derive(Debug)]
struct Under {
    papers: Papers,
    numbers: Numbers,
}

pub(in crate::mesh) fn under(papers: Papers, node: &NodeName, boot: u64) -> SharedNotary {
    Arc::new(Under { papers, numbers: Numbers::new(1, node, boot) })
}

impl Notary for Under {
    fn voucher(&self) -> bytes::Bytes {
        [&[self.papers.signs][..], &self.numbers.voucher()].concat().into()
    }

    fn own_key(&self) -> BookKey {
        self.numbers.own_key()
    }

    fn sign(&self, message: &[u8]) -> Signature {
        self.numbers.sign(message)
    }

    fn vouched(&self, node: &NodeName, voucher: &[u8], unix_millis: u64) -> Result<Vouched, Objection> {
        let (by, voucher) = voucher.split_first().ok_or(Objection::Untrusted)?;
        let proved = self.numbers.vouched(node, voucher, unix_millis)?;
        let until = if *by == ENDING { ENDS } else { u64::MAX };
        let vouched = Vouched { authority: (*by).into(), until, ..proved };
        self.objection(node, Some(&vouched), unix_millis).map_or(Ok(vouched), Err)
    }

    fn objection(&self, node: &NodeName, vouched: Option<&Vouched>, unix_millis: u64) -> Option<Objection> {
        match vouched {
            _ if self.papers.denies.contains(&node.as_str()) => Some(Objection::Revoked),
            Some(vouched) if vouched.until < unix_millis => Some(Objection::Expired),
            Some(vouched) if !self.papers.believes.iter().any(|by| u64::from(*by) == vouched.authority) => {
                Some(Objection::Untrusted)
            }
            _ => None,
        }
    }

    fn is_signed(&self, key: &BookKey, message: &[u8], signature: &Signature) -> bool {
        self.numbers.is_signed(key, message, signature)
    }
}

/// All that live take other papers, one after the other.
fn change(wired: &mut Wired, papers: Papers) {
    wired.under = papers;
    let all: Vec<NodeId> = wired.nodes.keys().copied().collect();
    give(wired, &all, papers);
}

/// These take other papers.
pub(super) fn give(wired: &mut Wired, to: &[NodeId], papers: Papers) {
    let now = wired.now;
    for id in to {
        let mesh = wired.at(*id);
        mesh.config.notary = under(papers, &mesh.config.node.name, mesh.config.boot);
        mesh.handle(now, Input::Renewed);
    }
    wired.settle();
    wired.run(Duration::from_millis(10));
}

const fn papers(signs: u8, believes: &'static [u8]) -> Papers {
    Papers { signs, believes, denies: &[] }
}

#[test]
fn who_starts_right_after_a_step_of_a_rotation_reads_all_before_it_answers() {
    let (mut wired, ids) = Wired::of(4);
    wired.order(ids[1], web());
    for (step, papers) in (2..).zip([papers(0, &[0, 1]), papers(1, &[1, 0]), papers(1, &[1])]) {
        change(&mut wired, papers);
        // A new process of one that was there, and one that never was.
        for n in [2, 10 + step] {
            wired.restart(n, 1_000 * u64::from(step), Vec::new());
            let id = NodeId::of(&"test".try_into().unwrap(), &format!("n{n}").as_str().try_into().unwrap());
            let mesh = &wired.nodes[&id];
            assert!(mesh.is_ready() && wired.seen(id, "web") == 1, "{papers:?} n{n}");
            assert!(wired.nodes.values().all(|mesh| mesh.stats().dropped_malformed == 0), "{papers:?}");
        }
    }
}

#[test]
fn who_does_not_believe_those_who_are_here_is_not_ready_and_blames_nobody() {
    let (mut wired, ids) = Wired::of(3);
    wired.order(ids[1], web());
    wired.under = papers(1, &[1]);
    wired.restart(2, 2_000, Vec::new());
    wired.run(Duration::from_secs(50));
    let stats = wired.nodes[&ids[2]].stats();
    let unvouched = |wired: &Wired| wired.nodes[&ids[2]].unvouched().collect::<BTreeSet<_>>();
    assert_eq!(unvouched(&wired), ids[..2].iter().copied().collect(), "an operator can be told who they are");
    assert!(!wired.nodes[&ids[2]].is_ready() && wired.seen(ids[2], "web") == 0);
    assert!(stats.dropped_unauthorized > 0 && stats.dropped_malformed + stats.dropped_forged == 0);
    change(&mut wired, papers(1, &[1, 0]));
    wired.run(Duration::from_secs(6));
    assert!(wired.nodes[&ids[2]].is_ready() && wired.seen(ids[2], "web") == 1 && unvouched(&wired).is_empty());
}
