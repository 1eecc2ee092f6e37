//! What fuzzers and the tests over their corpora call: hostile bytes in, a panic where a law is broken.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    Command, Config, Generation, Hello, Input, Mesh,
    catalog::Book,
    claim::{Claim, Key},
    notary::{Notary, Numbers},
    page::{Signed, Told},
    wire::{self},
};
use crate::model::{Epoch, InstanceId, Node, NodeId, Registration, Time};

/// Feeds a core with what its one peer sends. The first byte tells datagram from stream; two bytes of length divide the
/// rest into several. Whatever they hold, the core keeps its own book, stays drained, and keeps answering.
pub fn wire(bytes: &[u8]) {
    let mut mesh = core("this", 1);
    let peer = core("peer", 2).hello();
    let now = |n: u64| Time::after_start(Duration::from_millis(n));
    mesh.handle(Time::ZERO, Input::Connected(peer.clone()));
    let own = Registration::new("web", 80).expect("a valid name");
    mesh.command(Time::ZERO, Command::Register(Arc::new(own))).expect("room for one registration");
    drain(&mut mesh);
    let mut rest = bytes;
    let mut at = 1;
    while let [kind, high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (body, after) = after.split_at(length);
        rest = after;
        let mut packet = vec![wire::VERSION];
        packet.extend_from_slice(body);
        let packet = Bytes::from(packet);
        let input = match kind % 2 {
            0 => Input::Packet(peer.id, packet),
            _ => Input::Message(peer.id, packet),
        };
        mesh.handle(now(at), input);
        drain(&mut mesh);
        at += 7;
        mesh.handle(now(at), Input::Wake);
        drain(&mut mesh);
    }
    assert_eq!(mesh.registrations().count(), 1, "law 3: a book is written only by its owner");
}

/// Drives one owner's book and two readers by a program of one-byte orders: writes, withdrawals, deltas lost, doubled
/// and out of order, tombstones that fold, and to the second reader lies on what stands no more. Marks must only grow, and
/// in the end both readers hold what the owner holds.
pub fn merge(program: &[u8]) {
    let owner = NodeId(1);
    let mut now = Time::ZERO;
    let mut book = Book::new(Epoch(1));
    let mut readers = [Book::new(Epoch(1)), Book::new(Epoch(1))];
    let notary = Numbers::new(1, &"owner".try_into().expect("a valid name"), 1);
    let mut pool: Vec<Bytes> = Vec::new();
    for [order, operand] in program.as_chunks::<2>().0 {
        match order % 8 {
            0..=2 => write(&mut book, now, *operand, Some(u16::from(*order) + 1)),
            3 => write(&mut book, now, *operand, None),
            4 => pool.extend(book.sign(owner, &notary)),
            5 => {
                now = now + Duration::from_secs(u64::from(*operand) * 10);
                book.bury(now);
            }
            reader => {
                if let Some(page) = pool.get(usize::from(*operand) % pool.len().max(1)) {
                    let lie = Told { since: u64::from(*operand & 16), floor: u64::from(*operand & 32) };
                    let told = (reader == 7 && *operand >= 128).then_some(lie);
                    read(&mut readers[usize::from(reader) - 6], &notary, now, page, told);
                }
            }
        }
    }
    book.sign(owner, &notary);
    let [first, second] = &mut readers;
    // One asks the owner, the other asks the first: what is relayed is as good.
    catch_up(first, &book, &notary, now);
    catch_up(second, first, &notary, now);
    for reader in &readers {
        assert_eq!(reader.mark(), book.mark(), "L1: a reader that was told everything has read everything");
        assert!(shown(reader) == shown(&book), "law 6: what was withdrawn does not rise again, what stands is there");
    }
}

fn write(book: &mut Book, now: Time, instance: u8, port: Option<u16>) {
    let id: InstanceId = format!("i{}", instance % 6).as_str().try_into().expect("a valid id");
    let claim = port.map(|port| {
        let registration = Registration::new("web", port).expect("a valid port").id(id.clone());
        Claim::Service(Arc::new(registration))
    });
    book.write(now, Key::Service(id), claim).expect("six small rows fit");
}

/// Two rounds: who was below the floor may learn of it too late in the first. And two more for who was lied to.
fn catch_up(reader: &mut Book, teller: &Book, notary: &Numbers, now: Time) {
    for round in 0..4 {
        if round == 2 && !reader.is_whole() {
            reader.read_anew(now, None);
        }
        for sheet in teller.sheets(reader.mark()) {
            read(reader, notary, now, sheet.bytes, Some(sheet.told));
        }
    }
}

fn read(reader: &mut Book, notary: &Numbers, now: Time, page: &Bytes, told: Option<Told>) {
    let before = reader.mark();
    let signed = Signed::read(page).expect("S13: what was encoded is decoded");
    assert!(signed.is_signed_with(&notary.own_key(), notary), "S1: every page verifies under its owner's key");
    let mesh = "fuzz".try_into().expect("a valid name");
    reader.merge(now, &mesh, &signed, told);
    assert!(reader.mark() >= before, "law 4: a mark only grows");
}

fn shown(book: &Book) -> BTreeMap<InstanceId, Arc<Registration>> {
    book.registrations().map(|registration| (registration.id.clone(), registration.clone())).collect()
}

fn core(name: &str, n: u16) -> Mesh {
    let node = Node {
        name: name.try_into().expect("a valid name"),
        addresses: vec![([127, 0, 0, 1], n).into()],
        datacenter: "dc1".into(),
        zone: "".into(),
        version: "0".into(),
        meta: BTreeMap::new(),
        maintenance: None,
        voucher: Bytes::new(),
    };
    let mesh = "fuzz".try_into().expect("a valid name");
    let notary = Arc::new(Numbers::new(1, &node.name, 1));
    let config = Config {
        mesh,
        node,
        known: BTreeMap::new(),
        epoch: Epoch(1),
        boot: 1,
        seed: u64::from(n),
        unix_millis: 1,
        notary,
    };
    let mut core = Mesh::new(config, Vec::new(), Time::ZERO);
    core.command(Time::ZERO, Command::Join(Vec::new())).expect("a fresh core takes commands");
    drain(&mut core);
    core
}

fn drain(mesh: &mut Mesh) {
    let most = 100_000;
    let outputs = std::iter::from_fn(|| mesh.poll()).take(most).count();
    assert!(outputs < most, "law 1: poll drains to None");
}

/// A hello as a fuzzer may write it: anything that decodes is fed to a core, which must judge it.
pub fn hello(bytes: &[u8]) {
    if let Ok(hello) = wire::decode::<Hello>(bytes) {
        let mut mesh = core("this", 1);
        let generation = Generation(hello.generation.0);
        mesh.handle(Time::ZERO, Input::Connected(hello));
        drain(&mut mesh);
        assert!(mesh.hello().generation.epoch() == Epoch(1), "a stranger's hello ({generation:?}) does not rename us");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn readers_end_where_the_owner_is(program in proptest::collection::vec(any::<u8>(), 0..400)) {
            super::merge(&program);
        }

        #[test]
        fn no_peer_breaks_a_core(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            super::wire(&bytes);
        }
    }
}
