//! Packets that no honest client sends.

use hickory_proto::{
    op::ResponseCode,
    rr::{
        RData,
        rdata::{
            A, TSIG,
            tsig::{TsigAlgorithm, TsigError},
        },
    },
};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use super::*;

fn world() -> World {
    let world = World::new();
    let instances = (0..40).map(|at| on(&format!("n{at}"), web(&format!("10.0.0.{at}"))));
    world.service("web", instances.collect());
    world
}

/// The status of the reply to `packet`, straight from the header; `None` for silence.
fn status(world: &World, packet: &[u8]) -> Option<u8> {
    let reply = world.respond(packet, Transport::Udp)?;
    assert_eq!(reply[..2], packet[..2], "the id comes back");
    assert!(reply[2] & 0x80 != 0, "it is a reply");
    Some(reply[3] & 0x0f)
}

#[test]
fn what_makes_no_sense_is_told_so_or_ignored() {
    let world = world();
    let good = question("web.service.mesh.internal.", RecordType::A, 7, Some(1232));
    let with = |at: usize, byte: u8| {
        let mut packet = good.clone();
        packet[at] = byte;
        packet
    };
    assert_eq!(status(&world, &good), Some(0));
    for length in 0..12 {
        assert_eq!(status(&world, &good[..length]), None, "{length} bytes");
    }
    for length in 12..good.len() {
        assert_eq!(status(&world, &good[..length]), Some(1), "{length} bytes");
    }
    assert_eq!(status(&world, &with(2, 0x80)), None, "a reply is not replied to");
    assert_eq!(status(&world, &with(2, 0x20)), Some(4), "STATUS is not implemented");
    assert_eq!(status(&world, &with(2, 0x28)), Some(4), "nor is UPDATE");
    assert_eq!(status(&world, &with(2, 0x78)), Some(4), "nor is opcode 15");
    assert_eq!(status(&world, &with(5, 0)), Some(1), "no question");
    assert_eq!(status(&world, &with(5, 2)), Some(1), "two questions");
    assert_eq!(status(&world, &with(4, 0xff)), Some(1), "65281 questions");
    assert_eq!(status(&world, &with(7, 1)), Some(1), "an answer that is not there");
    assert_eq!(status(&world, &with(11, 2)), Some(1), "an additional record that is not there");
    assert_eq!(status(&world, &with(12, 0xC0)), Some(1), "a name that points beyond itself");
    assert_eq!(status(&world, &with(12, 0x80)), Some(1), "a label of a kind that does not exist");
    let two = [&good[..], &good[good.len() - 11..]].concat();
    let mut two_opts = two.clone();
    two_opts[11] = 2;
    assert_eq!(status(&world, &two_opts), Some(1), "two OPT records");
    assert_eq!(status(&world, &two), Some(0), "bytes after the message are not read");
}

#[test]
fn who_signs_hears_that_no_key_is_shared() {
    let mut world = world();
    let key = Name::from_ascii("key.example.").unwrap();
    let signature = TSIG::new(TsigAlgorithm::HmacSha256, 1_700_000_000, 300, vec![7; 32], 7, None, Vec::new());
    let mut asked = Message::from_vec(&question("web.service.mesh.internal.", RecordType::A, 7, None)).unwrap();
    asked.additionals.push(Record::from_rdata(key.clone(), 0, RData::TSIG(signature)));
    let packet = asked.to_vec().unwrap();
    let reply = world.reply(&packet, Transport::Udp);
    assert_eq!((reply.metadata.response_code, &reply.queries), (ResponseCode::NotAuth, &asked.queries));
    assert!(reply.answers.is_empty() && reply.to_vec().unwrap().len() < packet.len());
    let [signature] = &reply.additionals[..] else { panic!("{reply}") };
    let RData::TSIG(said) = &signature.data else { panic!("{reply}") };
    assert_eq!((&signature.name, said.error, said.mac.len()), (&key, Some(TsigError::BadKey), 0));
    let told = |world: &World, additionals: &[Record]| {
        let mut asked = asked.clone();
        asked.additionals = additionals.to_vec();
        let reply = world.reply(&asked.to_vec().unwrap(), Transport::Udp);
        (reply.metadata.response_code, reply.edns.is_some(), reply.additionals.len())
    };
    let (signature, opt) = (asked.additionals[0].clone(), Record::from(&Edns::new()));
    let other = Record::from_rdata(key, 0, RData::A(A::new(10, 0, 0, 1)));
    assert_eq!(told(&world, &[opt.clone(), signature.clone()]), (ResponseCode::NotAuth, true, 1));
    for last in [&opt, &signature, &other] {
        assert_eq!(told(&world, &[signature.clone(), last.clone()]).0, ResponseCode::FormErr, "{last}");
    }
    world.config.allow = vec!["198.51.100.0/24".parse().unwrap()];
    assert_eq!(
        told(&world, &[opt, signature]),
        (ResponseCode::Refused, true, 0),
        "keys are none of a stranger's business"
    );
}

#[test]
fn names_of_any_bytes_are_names() {
    let world = world();
    for label in [&b"\xff\xfe"[..], b"a.b", b"\0", b"i-\xff", b"_", b"-"] {
        for rest in ["service.mesh.internal.", "web.service.mesh.internal.", "node.mesh.internal.", "mesh.internal."] {
            let name = Name::from_ascii(rest).unwrap().prepend_label(label).unwrap();
            let mut message = Message::new(1, MessageType::Query, OpCode::Query);
            message.add_query(Query::query(name, RecordType::A));
            let packet = message.to_vec().unwrap();
            assert!(matches!(status(&world, &packet), Some(0 | 3)), "{label:?}.{rest}");
        }
    }
    let longest = format!("{}mesh.internal.", "a.".repeat(120));
    assert_eq!(status(&world, &question(&longest, RecordType::A, 1, None)), Some(3));
}

#[test]
fn noise_neither_panics_nor_outgrows_its_limit() {
    let world = world();
    let seeds = [
        question("web.service.mesh.internal.", RecordType::SRV, 7, Some(4096)),
        question("_web._tcp.consul.", RecordType::PTR, 7, None),
        question("2.0.0.10.in-addr.arpa.", RecordType::PTR, 7, Some(512)),
    ];
    let mut random = Pcg64::seed_from_u64(1);
    let face = world.face();
    for round in 0..100_000_usize {
        let mut packet = seeds[round % seeds.len()].clone();
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(0..packet.len());
            packet[at] = random.random();
        }
        if round % 7 == 0 {
            packet.truncate(random.random_range(0..packet.len()));
        }
        if round % 11 == 0 {
            random.fill(&mut packet[..]);
        }
        for (transport, limit) in [(Transport::Udp, 1232), (Transport::Loopback, 4096), (Transport::Tcp, 65_535)] {
            if let Some(Written { bytes: reply, .. }) = face.respond(&packet, client(transport)) {
                assert!(reply.len() <= limit, "round {round}: {packet:?}");
                assert!(Message::from_vec(&reply).is_ok(), "round {round}: {packet:?}");
            }
        }
    }
}
