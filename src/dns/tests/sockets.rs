//! The server on real sockets.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use hickory_proto::{
    op::ResponseCode,
    rr::{
        DNSClass, RData,
        rdata::{
            self,
            opt::{EdnsCode, EdnsOption},
        },
    },
};

use super::*;
use crate::dns::{Running, serve};

const PATIENCE: Duration = Duration::from_secs(5);

async fn start() -> (Running, CancellationToken) {
    start_with(|_| ()).await
}

async fn start_with(set: impl FnOnce(&mut Config)) -> (Running, CancellationToken) {
    let mut world = World::new();
    set(&mut world.config);
    world.service("web", vec![on("n1", web("10.0.0.5"))]);
    world.service("public", vec![on("n1", web("192.0.2.5"))]);
    world.service("abroad", vec![on("n1", web("end.example.com"))]);
    let stop = CancellationToken::new();
    let local: SocketAddr = ([127, 0, 0, 1], 0).into();
    (serve(world.view, world.config, local, stop.clone()).await.unwrap(), stop)
}

async fn read(stream: &mut TcpStream) -> Message {
    let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut bytes).await.unwrap();
    Message::from_vec(&bytes).unwrap()
}

fn framed(packet: &[u8]) -> Vec<u8> {
    [&u16::try_from(packet.len()).unwrap().to_be_bytes()[..], packet].concat()
}

#[tokio::test]
async fn both_transports_answer_on_one_port_until_stopped() {
    let (server, stop) = start().await;
    let packet = question("web.service.mesh.internal.", RecordType::A, 9, Some(4096));

    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(server.address()).await.unwrap();
    client.send(b"noise").await.unwrap();
    client.send(&packet).await.unwrap();
    let mut reply = [0; 512];
    let length = timeout(PATIENCE, client.recv(&mut reply)).await.unwrap().unwrap();

    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(&framed(&packet)).await.unwrap();
    let over_tcp = timeout(PATIENCE, read(&mut stream)).await.unwrap();
    assert_eq!(over_tcp, Message::from_vec(&reply[..length]).unwrap());

    stop.cancel();
    timeout(PATIENCE, server.stopped()).await.unwrap();
    assert_eq!(stream.read(&mut reply).await.unwrap_or(0), 0, "an open connection is closed");
    UdpSocket::bind(server.address()).await.unwrap();
}

#[tokio::test]
async fn pipelined_questions_are_answered_in_order() {
    let (server, _stop) = start().await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let ids = 0..200_u16;
    let all: Vec<u8> =
        ids.clone().flat_map(|id| framed(&question("web.service.consul.", RecordType::SRV, id, None))).collect();
    // In two pieces that split a message.
    let (head, tail) = all.split_at(all.len() / 2 + 1);
    stream.write_all(head).await.unwrap();
    stream.write_all(tail).await.unwrap();
    for id in ids {
        let reply = timeout(PATIENCE, read(&mut stream)).await.unwrap();
        assert_eq!((reply.metadata.id, reply.answers.len()), (id, 1));
    }
}

#[tokio::test]
async fn nobody_waits_behind_a_name_of_others() {
    // A resolver that never answers.
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let upstream = silent.local_addr().unwrap();
    let (server, _stop) = start_with(|config| config.forward = vec![upstream]).await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    // One more than may be on their way, then one of ours.
    let names = std::iter::repeat_n("abroad.service.mesh.internal.", 129).chain(["web.service.mesh.internal."]);
    let asked: Vec<u8> =
        names.zip(1..).flat_map(|(name, id)| framed(&question(name, RecordType::A, id, None))).collect();
    stream.write_all(&asked).await.unwrap();
    let mut told = Vec::new();
    for _ in 0..130 {
        let reply = timeout(PATIENCE * 4, read(&mut stream)).await.unwrap();
        assert_eq!(reply.metadata.authoritative, reply.metadata.response_code == ResponseCode::NoError);
        told.push((reply.metadata.id, reply.metadata.response_code));
    }
    assert_eq!(told[..2], [(129, ResponseCode::ServFail), (130, ResponseCode::NoError)]);
    assert!(told[2..].iter().all(|(_, code)| *code == ResponseCode::ServFail), "{told:?}");
}

#[tokio::test]
async fn nonsense_on_a_connection_ends_it() {
    let (server, _stop) = start().await;
    for nonsense in [&[0xff, 0xff][..], &[0, 0], &[0, 3, 1, 2, 3]] {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(nonsense).await.unwrap();
        let read = timeout(PATIENCE, stream.read_u8()).await.unwrap();
        assert!(read.is_err(), "{nonsense:?}");
    }
}

/// One question over UDP.
async fn ask(server: &Running, name: &str) -> Message {
    told(server, &Message::from_vec(&question(name, RecordType::A, 9, Some(1232))).unwrap()).await
}

async fn told(server: &Running, message: &Message) -> Message {
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(server.address()).await.unwrap();
    let mut reply = [0; 4096];
    // A datagram may be lost.
    for _ in 0..10 {
        client.send(&message.to_vec().unwrap()).await.unwrap();
        if let Ok(length) = timeout(PATIENCE, client.recv(&mut reply)).await {
            return Message::from_vec(&reply[..length.unwrap()]).unwrap();
        }
    }
    panic!("no answer to {message}");
}

#[tokio::test]
async fn names_of_others_are_asked_of_others_for_who_may() {
    let (others, _stop) = start_with(|config| config.zones = vec!["example.com".try_into().unwrap()]).await;
    let upstream = others.address();
    let (server, _stop2) = start_with(|config| config.forward = vec![upstream]).await;
    let reply = ask(&server, "Web.service.example.com.").await;
    assert_eq!(reply.answers[0].data.to_string(), "10.0.0.5");
    assert_eq!(reply.queries[0].name.to_string(), "Web.service.example.com.", "as it was asked");
    assert!(reply.metadata.recursion_available && !reply.metadata.authoritative);
    let reply = ask(&server, "nope.service.example.com.").await;
    assert_eq!((reply.metadata.response_code, reply.authorities.len()), (ResponseCode::NXDomain, 1));
    assert_eq!(ask(&server, "web.service.mesh.internal.").await.answers.len(), 1, "ours stay ours");

    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(&framed(&question("web.service.example.com.", RecordType::A, 9, None))).await.unwrap();
    assert_eq!(timeout(PATIENCE, read(&mut stream)).await.unwrap().answers.len(), 1);

    let mut odd = Message::from_vec(&question("web.service.example.com.", RecordType::A, 9, Some(1232))).unwrap();
    odd.edns.as_mut().unwrap().options_mut().insert(EdnsOption::Unknown(10, b"abcdefgh".into()));
    let reply = told(&server, &odd).await;
    let edns = reply.edns.unwrap();
    assert!(edns.option(EdnsCode::Cookie).is_some() && edns.max_payload() == 1232 && reply.answers.len() == 1);
    odd.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(told(&server, &odd).await.metadata.response_code, ResponseCode::Refused, "nobody is asked");

    let (strict, _stop3) = start_with(|config| {
        config.forward = vec![upstream];
        config.refuse_private = true;
    })
    .await;
    assert_eq!(ask(&strict, "public.service.example.com.").await.answers.len(), 1);
    assert_eq!(ask(&strict, "web.service.example.com.").await.answers.len(), 0, "a private address of a public name");

    let (closed, _stop4) = start_with(|config| {
        config.forward = vec![upstream];
        config.forward_for = vec!["192.0.2.0/24".parse().unwrap()];
    })
    .await;
    let reply = ask(&closed, "web.service.example.com.").await;
    assert_eq!((reply.metadata.response_code, reply.metadata.recursion_available), (ResponseCode::Refused, false));
}

/// A resolver that says this to each question, or nothing.
async fn resolver<F>(mut say: impl FnMut(Vec<u8>) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = Option<Vec<u8>>> + Send,
{
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut packet = [0; 4096];
        while let Ok((length, client)) = socket.recv_from(&mut packet).await {
            if let Some(reply) = say(packet[..length].to_vec()).await {
                socket.send_to(&reply, client).await.unwrap();
            }
        }
    });
    address
}

/// A resolver that tells of each alias alone, and leaves the rest to who asks.
async fn laconic() -> SocketAddr {
    resolver(|packet| async move {
        let mut message = Message::from_vec(&packet).unwrap();
        message.metadata.message_type = MessageType::Response;
        let owner = message.queries[0].name.clone();
        let alias = |name: &str| RData::CNAME(rdata::CNAME(Name::from_ascii(name).unwrap()));
        let data = match owner.to_string().as_str() {
            // Aliased or not: its answer says that what was asked for does not exist.
            name @ ("dangling.example.com." | "nothing.example.com.") => {
                let (is_alias, kind) = (name.starts_with('d'), message.queries[0].query_type);
                let alias = Record::from_rdata(owner.clone(), 300, alias("nothing.example.com."));
                message.answers.extend(is_alias.then_some(alias));
                if !(is_alias && kind == RecordType::CNAME) {
                    message.metadata.response_code = ResponseCode::NXDomain;
                    let soa = rdata::SOA::new(owner.clone(), owner, 1, 1, 1, 1, 300);
                    message.authorities.push(Record::from_rdata(Name::root(), 300, RData::SOA(soa)));
                }
                return Some(message.to_vec().unwrap());
            }
            // Nobody home.
            name if name.starts_with("silent") => return None,
            name if name.starts_with('c') => match name[1..].split('.').next().map(str::parse::<u8>) {
                Some(Ok(12)) => RData::A(rdata::A::new(203, 0, 113, 12)),
                Some(Ok(n)) => alias(&format!("c{}.example.com.", n + 1)),
                _ => panic!("nobody asked for {name}"),
            },
            "local.example.com." => {
                let lie = RData::A(rdata::A::new(203, 0, 113, 6));
                message.answers.push(Record::from_rdata(Name::from_ascii("localhost.").unwrap(), 300, lie));
                alias("localhost.")
            }
            "end.example.com." => RData::A(rdata::A::new(203, 0, 113, 5)),
            "back.example.com." => alias("web.service.mesh.internal."),
            "through.example.com." => alias("abroad.service.mesh.internal."),
            "one.example.com." | "two.example.com." => alias("end.example.com."),
            "here.example.com." => alias("there.example.com."),
            "there.example.com." => alias("here.example.com."),
            other => panic!("nobody asked for {other}"),
        };
        message.answers.push(Record::from_rdata(owner, 300, data));
        Some(message.to_vec().unwrap())
    })
    .await
}

#[tokio::test]
async fn aliases_of_others_are_told_from_the_name_that_was_asked_to_the_end() {
    let upstream = laconic().await;
    let (server, _stop) = start_with(|config| config.forward = vec![upstream]).await;
    // What was asked before is remembered, and changes nothing.
    for name in ["end.example.com.", "one.example.com.", "two.example.com.", "one.example.com.", "end.example.com."] {
        let reply = ask(&server, name).await;
        let owners: Vec<_> = reply.answers.iter().map(|record| record.name.to_string()).collect();
        let expected = if name.starts_with("end") { vec![name] } else { vec![name, "end.example.com."] };
        assert_eq!(owners, expected, "{reply}");
    }
    let reply = ask(&server, "back.example.com.").await;
    let data: Vec<_> = reply.answers.iter().map(|record| record.data.to_string()).collect();
    assert_eq!(data, ["web.service.mesh.internal.", "10.0.0.5"], "whatever others say of our names");
    let reply = ask(&server, "through.example.com.").await;
    let data: Vec<_> = reply.answers.iter().map(|record| record.data.to_string()).collect();
    assert_eq!(data, ["abroad.service.mesh.internal.", "end.example.com.", "203.0.113.5"], "there and back again");
    assert_eq!(ask(&server, "c1.example.com.").await.answers.len(), 12, "a long chain");
    let reply = ask(&server, "local.example.com.").await;
    assert_eq!(reply.answers.last().unwrap().data.to_string(), "127.0.0.1", "whatever others say of this host");
    for (name, aliases) in [("dangling.example.com.", 1), ("nothing.example.com.", 0)] {
        let reply = ask(&server, name).await;
        assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::NXDomain, aliases), "{reply}");
        assert_eq!(reply.authorities.len(), 1);
    }
    assert_eq!(ask(&server, "here.example.com.").await.metadata.response_code, ResponseCode::ServFail, "a circle");
}

/// A resolver that says nothing but this, or to questions without EDNS what `knowing` says.
async fn surly(code: ResponseCode, knowing: Option<SocketAddr>) -> SocketAddr {
    resolver(move |packet| async move {
        let mut message = Message::from_vec(&packet).unwrap();
        if let Some(knowing) = knowing.filter(|_| message.edns.is_none()) {
            let (other, mut reply) = (UdpSocket::bind("127.0.0.1:0").await.unwrap(), [0; 4096]);
            other.send_to(&packet, knowing).await.unwrap();
            let length = other.recv(&mut reply).await.unwrap();
            return Some(reply[..length].to_vec());
        }
        message.metadata.message_type = MessageType::Response;
        message.metadata.response_code = code;
        Some(message.to_vec().unwrap())
    })
    .await
}

#[tokio::test]
async fn a_resolver_that_fails_does_not_speak_for_the_others() {
    let knowing = laconic().await;
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let closed: SocketAddr = ([127, 0, 0, 1], 1).into();
    let (refusing, failing) = (surly(ResponseCode::Refused, None).await, surly(ResponseCode::ServFail, None).await);
    let old = surly(ResponseCode::FormErr, Some(knowing)).await;
    let silent = silent.local_addr().unwrap();
    for forward in [vec![refusing, failing, knowing], vec![silent, closed, knowing], vec![refusing, old], vec![old]] {
        let (server, _stop) = start_with(|config| config.forward = forward.clone()).await;
        for name in ["one.example.com.", "end.example.com."] {
            let reply = ask(&server, name).await;
            assert_eq!(reply.answers.last().unwrap().data.to_string(), "203.0.113.5", "{forward:?}");
        }
    }
    let (server, _stop) = start_with(|config| config.forward = vec![refusing, failing]).await;
    assert_eq!(ask(&server, "end.example.com.").await.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn names_that_nobody_answers_for_keep_no_place_from_others() {
    let upstream = laconic().await;
    let (server, _stop) = start_with(|config| config.forward = vec![upstream]).await;
    ask(&server, "end.example.com.").await;
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for n in 0..1_200 {
        let packet = question(&format!("silent{n}.example.com."), RecordType::A, 9, None);
        client.send_to(&packet, server.address()).await.unwrap();
        tokio::task::yield_now().await;
    }
    for name in ["end.example.com.", "two.example.com.", "localhost."] {
        assert!(!ask(&server, name).await.answers.is_empty(), "{name}");
    }
    // All at once on one connection, and more than it may have on their way.
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let asked: Vec<u8> =
        (1..=500).flat_map(|id| framed(&question("end.example.com.", RecordType::A, id, None))).collect();
    stream.write_all(&asked).await.unwrap();
    for _ in 1..=500 {
        let reply = timeout(PATIENCE, read(&mut stream)).await.unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    }
}
