//! EDNS and truncation: what is cut, what it is cut to, and that it is cut the same way each time.

use RecordType::{A, SRV};
use hickory_proto::{
    op::{OpCode, ResponseCode},
    rr::rdata::opt::{EdnsCode, EdnsOption},
};

use super::*;

fn crowd(count: usize) -> World {
    let world = World::new();
    let instances = (0..count).map(|at| {
        let [high, low] = u16::try_from(at).unwrap().to_be_bytes();
        on(&format!("n{at}"), web(&format!("10.0.{high}.{low}")))
    });
    world.service("web", instances.collect());
    world
}

const WEB: &str = "web.service.mesh.internal.";

#[test]
fn a_reply_fits_the_client_the_path_and_the_transport() {
    let world = crowd(1_000);
    for (transport, offered, limit) in [
        (Transport::Udp, None, 512),
        (Transport::Udp, Some(0), 512),
        (Transport::Udp, Some(700), 700),
        (Transport::Udp, Some(4096), 1232),
        (Transport::Loopback, None, 512),
        (Transport::Loopback, Some(4096), 4096),
        (Transport::Loopback, Some(65_535), 4096),
    ] {
        for kind in [A, SRV] {
            let packet = question(WEB, kind, 3, offered);
            let bytes = world.respond(&packet, transport).unwrap();
            assert!(bytes.len() <= limit, "{kind} {transport:?} {offered:?}: {}", bytes.len());
            assert!(bytes.len() + 80 > limit, "{kind} {transport:?} {offered:?} wastes room: {}", bytes.len());
            let reply = Message::from_vec(&bytes).unwrap();
            assert!(reply.metadata.truncation && reply.additionals.is_empty());
            assert_eq!(reply.edns.is_some(), offered.is_some(), "OPT is kept, and only for who sent one");
        }
    }
}

#[test]
fn what_is_left_of_a_set_is_stable() {
    let world = crowd(1_000);
    let of = |id| {
        let reply = world.reply(&question(WEB, A, id, Some(1232)), Transport::Udp);
        reply.answers.iter().map(|answer| answer.data.to_string()).collect::<Vec<_>>()
    };
    assert!(of(0).len() > 60);
    for id in [1, 77, 65_535] {
        assert_eq!(of(id), of(0));
    }
}

#[test]
fn tcp_carries_a_thousand_instances() {
    let world = crowd(1_000);
    for kind in [A, SRV] {
        let bytes = world.respond(&question(WEB, kind, 3, None), Transport::Tcp).unwrap();
        let reply = Message::from_vec(&bytes).unwrap();
        assert_eq!(reply.answers.len(), 1_000, "{kind}");
        assert!(!reply.metadata.truncation);
    }
}

#[test]
fn additional_records_go_first_and_unannounced() {
    let world = crowd(18);
    let whole = world.reply(&question(WEB, SRV, 3, Some(4096)), Transport::Loopback);
    assert_eq!((whole.answers.len(), whole.additionals.len()), (18, 18));
    let cut = world.reply(&question(WEB, SRV, 3, Some(1232)), Transport::Udp);
    assert_eq!(cut.answers.len(), 18);
    assert!((1..18).contains(&cut.additionals.len()), "{}", cut.additionals.len());
    // RFC 2181 section 9: what is additional is not missed.
    assert!(!cut.metadata.truncation);
}

#[test]
fn more_than_any_message_holds_is_cut_over_tcp_without_a_word() {
    let world = crowd(5_000);
    let reply = world.ask(WEB, A);
    // TC means "ask again over TCP": unbound fails the question for it, dnsmasq hands out nothing.
    assert!(!reply.metadata.truncation && reply.answers.len() > 4_000);
}

#[test]
fn a_reply_speaks_edns_to_who_speaks_it() {
    let world = crowd(1);
    assert!(world.reply(&question(WEB, A, 1, None), Transport::Udp).edns.is_none());
    let reply = world.reply(&question(WEB, A, 1, Some(4096)), Transport::Udp);
    assert_eq!(reply.edns.unwrap().max_payload(), 1232);
    assert!(!reply.metadata.authentic_data);

    let mut message = Message::from_vec(&question(WEB, A, 1, Some(4096))).unwrap();
    message.edns.as_mut().unwrap().set_version(1).set_dnssec_ok(true);
    let reply = world.reply(&message.to_vec().unwrap(), Transport::Udp);
    // 16 is BADVERS here and BADSIG in TSIG, which is how the parser calls it.
    assert_eq!(u16::from(reply.metadata.response_code), u16::from(ResponseCode::BADVERS));
    assert_eq!((reply.edns.unwrap().version(), reply.answers.len()), (0, 0));

    let mut message = Message::from_vec(&question(WEB, A, 1, Some(4096))).unwrap();
    message.metadata.op_code = OpCode::Notify;
    let reply = world.reply(&message.to_vec().unwrap(), Transport::Udp);
    assert_eq!(reply.metadata.response_code, ResponseCode::NotImp);
    assert!(reply.edns.is_some());
}

#[test]
fn a_question_comes_back_as_it_was_asked() {
    let world = crowd(2);
    let name = "wEb.SerVice.MESH.inTernal.";
    let packet = question(name, A, 0xBEEF, None);
    let bytes = world.respond(&packet, Transport::Udp).unwrap();
    assert_eq!(bytes[..2], packet[..2]);
    assert_eq!(bytes[12..packet.len()], packet[12..]);
    let reply = Message::from_vec(&bytes).unwrap();
    assert!(reply.answers.iter().all(|answer| answer.name.to_string() == name));
    let head = reply.metadata;
    assert!(head.authoritative && head.recursion_desired && !head.recursion_available && !head.truncation);
}

#[test]
fn a_cookie_is_given_kept_and_refused_when_it_is_none() {
    let world = crowd(1);
    let face = world.face();
    let ask = |bytes: &[u8]| {
        let mut message = Message::from_vec(&question(WEB, A, 1, Some(1232))).unwrap();
        message.edns.as_mut().unwrap().options_mut().insert(EdnsOption::Unknown(10, bytes.into()));
        let written = face.respond(&message.to_vec().unwrap(), client(Transport::Udp)).unwrap();
        let reply = Message::from_vec(&written.bytes).unwrap();
        let cookie = reply.edns.as_ref().and_then(|edns| edns.option(EdnsCode::Cookie)).cloned();
        (reply.metadata.response_code, cookie, written.proven)
    };
    let (code, Some(EdnsOption::Unknown(_, given)), false) = ask(b"abcdefgh") else { panic!("no cookie") };
    assert_eq!((code, given.len()), (ResponseCode::NoError, 24));
    assert_eq!(ask(&given), (ResponseCode::NoError, Some(EdnsOption::Unknown(10, given.clone())), true));
    let forged = [&given[..23], &[given[23] ^ 1]].concat();
    assert!(!ask(&forged).2);
    assert_eq!(ask(b"short").0, ResponseCode::FormErr);
    // RFC 7873 section 5.4: a question for nothing but a cookie.
    let mut bare = Message::query();
    let mut edns = hickory_proto::op::Edns::new();
    edns.options_mut().insert(EdnsOption::Unknown(10, b"abcdefgh".into()));
    bare.set_edns(edns);
    let written = face.respond(&bare.to_vec().unwrap(), client(Transport::Udp)).unwrap();
    let reply = Message::from_vec(&written.bytes).unwrap();
    assert_eq!((reply.metadata.response_code, reply.queries.len()), (ResponseCode::NoError, 0));
    assert!(reply.edns.unwrap().option(EdnsCode::Cookie).is_some());
}
