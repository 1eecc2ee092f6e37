//! Authorities change: what is told of a voucher, and who waits for it.

use super::{super::notary::BookKey, *};
use crate::model::NodeName;

/// Numbers under one of several authorities.
#[derive(Debug)]
struct Under {
    signs: u8,
    believes: &'static [u8],
    numbers: Numbers,
}

pub(super) fn under((signs, believes): (u8, &'static [u8]), node: &NodeName, boot: u64) -> SharedNotary {
    Arc::new(Under { signs, believes, numbers: Numbers::new(1, node, boot) })
}

impl Notary for Under {
    fn voucher(&self) -> bytes::Bytes {
        [&[self.signs][..], &self.numbers.voucher()].concat().into()
    }

    fn own_key(&self) -> BookKey {
        self.numbers.own_key()
    }

    fn sign(&self, message: &[u8]) -> Signature {
        self.numbers.sign(message)
    }

    fn vouched(&self, node: &NodeName, voucher: &[u8], unix_millis: u64) -> Option<BookKey> {
        let (_, voucher) = voucher.split_first().filter(|(by, _)| self.believes.contains(by))?;
        self.numbers.vouched(node, voucher, unix_millis)
    }

    fn is_signed(&self, key: &BookKey, message: &[u8], signature: &Signature) -> bool {
        self.numbers.is_signed(key, message, signature)
    }
}

/// All that live take other papers, one after the other.
fn change(wired: &mut Wired, papers: (u8, &'static [u8])) {
    wired.under = papers;
    let now = wired.now;
    for mesh in wired.nodes.values_mut() {
        mesh.config.notary = under(papers, &mesh.config.node.name, mesh.config.boot);
        mesh.handle(now, Input::Renewed);
    }
    wired.settle();
    wired.run(Duration::from_millis(10));
}

#[test]
fn who_starts_right_after_a_step_of_a_rotation_reads_all_before_it_answers() {
    let (mut wired, ids) = Wired::of(4);
    wired.order(ids[1], web());
    for (step, papers) in (2..).zip([(0, &[0, 1][..]), (1, &[1, 0]), (1, &[1])]) {
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
    wired.under = (1, &[1]);
    wired.restart(2, 2_000, Vec::new());
    wired.run(Duration::from_secs(50));
    let stats = wired.nodes[&ids[2]].stats();
    assert!(!wired.nodes[&ids[2]].is_ready() && wired.seen(ids[2], "web") == 0);
    assert!(stats.dropped_unauthorized > 0 && stats.dropped_malformed + stats.dropped_forged == 0);
    change(&mut wired, (1, &[1, 0]));
    wired.run(Duration::from_secs(6));
    assert!(wired.nodes[&ids[2]].is_ready() && wired.seen(ids[2], "web") == 1);
}
