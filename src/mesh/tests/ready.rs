//! Readiness where streams are stopped half-way, which no other driver does on purpose.

use super::*;
use crate::mesh::wire::{Digest, Frame, Readiness};

impl Wired {
    /// A new process of node `n` that remembers all of `known`.
    fn remember(&mut self, n: u16, known: &[NodeId]) -> NodeId {
        let id = self.start(n, 2_000, Vec::new());
        self.links.retain(|(a, b)| *a != id && *b != id);
        let known = known.iter().zip(0..).filter(|(other, _)| **other != id);
        self.at(id).config.known = known.map(|(other, n)| (*other, vec![address(n)])).collect();
        id
    }

    /// Connects two and lets them talk until both are silent; what `from` sends in streams to `to` is not delivered.
    fn withhold(&mut self, from: NodeId, to: NodeId) -> Vec<bytes::Bytes> {
        let (now, mut streams) = (self.now, Vec::new());
        let [of_from, of_to] = [from, to].map(|id| self.nodes[&id].hello());
        self.at(from).handle(now, Input::Connected(of_to));
        self.at(to).handle(now, Input::Connected(of_from));
        loop {
            if let Some(output) = self.at(from).poll() {
                streams.extend(match output {
                    Output::Message(at, stream) if at == to => Some(stream),
                    _ => None,
                });
            } else if let Some(output) = self.at(to).poll() {
                match output {
                    Output::Message(at, stream) if at == from => self.at(from).handle(now, Input::Message(to, stream)),
                    Output::Packet(at, packet) if at == from => self.at(from).handle(now, Input::Packet(to, packet)),
                    _ => {}
                }
            } else {
                return streams;
            }
        }
    }
}

/// Each page says how far its book went when it was signed: an early one knows of none that came later.
#[test]
fn who_has_read_a_part_of_a_book_knows_that_it_is_one() {
    let (mut wired, ids) = Wired::of(3);
    let long = "x".repeat(512);
    for n in 0..SERVICES {
        let mut service = Registration::new(&format!("s{n}"), 80).unwrap();
        service.meta.insert("m".into(), long.clone());
        wired.order(ids[2], Command::Register(Arc::new(service)));
    }
    wired.dead.insert(ids[2]);
    let late = [0, 1].map(|n| wired.remember(n, &ids));
    let parts = late.map(|id| wired.withhold(ids[2], id));
    for (id, streams) in late.iter().zip(&parts) {
        assert!(streams.len() > 2, "a book of many streams");
        let now = wired.now;
        wired.at(*id).handle(now, Input::Message(ids[2], streams[0].clone()));
    }
    wired.link(late[0], late[1]);
    wired.settle();
    wired.run(Duration::from_secs(1));
    let known = |wired: &Wired| late.map(|id| (wired.nodes[&id].is_ready(), wired.nodes[&id].services().count()));
    let [first, second] = known(&wired);
    assert_eq!(first, second, "they agree");
    assert!(!first.0 && (1..SERVICES).contains(&first.1), "{first:?}");
    for (id, streams) in late.iter().zip(&parts) {
        let now = wired.now;
        streams.iter().skip(1).for_each(|stream| wired.at(*id).handle(now, Input::Message(ids[2], stream.clone())));
    }
    wired.settle();
    wired.run(Duration::from_secs(1));
    assert_eq!(known(&wired), [(true, SERVICES); 2]);
}

/// One that starts, and knows so many already that it asks in two streams what it misses; and a peer of its.
fn crowded() -> (Mesh, NodeId) {
    let (starting, peers) = among(600);
    (starting, peers[0])
}

/// One that starts, and knows so many.
fn among(count: u16) -> (Mesh, Vec<NodeId>) {
    let (mut wired, mut ids) = Wired::of(1);
    ids.extend((1..=count).map(|n| wired.start(n, 1_000, Vec::new())));
    let cards: Vec<Card> = ids.iter().map(|id| Card::of(&wired.nodes[id].config)).collect();
    let mut starting = Mesh::with_peers(wired.nodes[&ids[0]].config.clone(), &cards, wired.now);
    starting.ready = false;
    (starting, ids.split_off(1))
}

/// It hears these frames, and asks: the tokens of its questions.
fn asks(starting: &mut Mesh, from: NodeId, heard: &[Frame<'_>]) -> Vec<u32> {
    starting.handle(Time::ZERO, Input::Message(from, packed(heard).into()));
    let streams = std::iter::from_fn(|| starting.poll()).filter_map(|output| match output {
        Output::Message(to, stream) if to == from => Some(stream),
        _ => None,
    });
    let token = |stream: bytes::Bytes| match wire::frames(&stream).next() {
        Some(Ok(Some(Frame::Digest(Digest { token, .. })))) => Some(token),
        _ => None,
    };
    streams.filter_map(token).collect()
}

#[test]
fn who_says_unasked_that_it_is_ready_is_asked_once() {
    let (mut starting, peer) = crowded();
    let hear = |starting: &mut Mesh, token, guides| asks(starting, peer, &[Frame::Ready(Readiness { token, guides })]);
    let first = hear(&mut starting, 0, false);
    assert_eq!(first.len(), 2);
    assert_eq!(hear(&mut starting, 0, false), [0; 0], "it has said so");
    let second = hear(&mut starting, 0, true);
    assert_eq!(second.len(), 2, "it knows all now");
    for token in first {
        assert_eq!(hear(&mut starting, token, true), [0; 0], "nobody waits for that any more");
    }
    starting.sync.met(peer);
    assert_eq!(hear(&mut starting, 0, true).len(), 2, "it may be another process");
}

#[test]
fn who_asks_in_pieces_is_ready_when_all_are_answered() {
    for (guides, is_ready) in [([true, true], true), ([true, false], false), ([false, true], false)] {
        let (mut starting, peer) = crowded();
        starting.seeds.push("192.0.2.1:1".parse().unwrap());
        let tokens = asks(&mut starting, peer, &[Frame::Ready(Readiness { token: 0, guides: true })]);
        for (token, guides) in tokens.into_iter().zip(guides) {
            assert!(!starting.is_ready(), "one is not answered");
            let answer = [Frame::Ready(Readiness { token, guides }), Frame::Part { token, of: 1 }];
            asks(&mut starting, peer, &answer);
        }
        starting.handle(Time::after_start(Duration::from_secs(1)), Input::Wake);
        assert_eq!(starting.is_ready(), is_ready, "{guides:?}");
    }
}

#[test]
fn one_alone_cannot_say_at_once_that_nobody_is_missing() {
    let nowhere = "192.0.2.1:1".parse().unwrap();
    let say = |starting: &mut Mesh, guide: NodeId| {
        let asked = asks(starting, guide, &[Frame::Ready(Readiness { token: 0, guides: true })]);
        for token in asked {
            asks(starting, guide, &[Frame::Ready(Readiness { token, guides: true }), Frame::Part { token, of: 1 }]);
        }
        starting.is_ready()
    };
    let (mut starting, peers) = among(2);
    assert!(say(&mut starting, peers[0]), "nobody is");
    for found in [true, false] {
        let (mut starting, peers) = among(2);
        starting.seeds.push(nowhere);
        assert!(!say(&mut starting, peers[0]));
        assert_eq!(found && say(&mut starting, peers[1]), found);
        for (millis, is_ready) in [(999, found), (1_000, true)] {
            starting.handle(Time::after_start(Duration::from_millis(millis)), Input::Wake);
            assert_eq!(starting.is_ready(), is_ready, "{millis}");
        }
    }
}

const SERVICES: usize = 200;
