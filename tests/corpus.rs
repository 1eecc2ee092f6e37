//! Every input that a fuzz target is seeded with, and every one that once broke it, on each `cargo test`.
//!
//! `cargo test --test corpus -- --ignored` writes those anew that our own encoders make.

use std::{collections::BTreeMap, fs, mem, path::PathBuf, time::Duration};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query},
    rr::{Name, RecordType},
};
use hobnob::{
    agent::trust::{self, Authority},
    config, dns, http,
    mesh::{self, Command, Config, Input, Mesh, Output},
    model::{Epoch, Node, NodeId, Registration, Time},
    sim,
};

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 14] = [
    ("wire", mesh::fuzz::wire),
    ("merge", mesh::fuzz::merge),
    ("hello", mesh::fuzz::hello),
    ("dns", dns::fuzz::dns),
    ("config", config::fuzz::config),
    ("registration", config::fuzz::registration),
    ("mesh", sim::fuzz::mesh),
    ("filter", http::fuzz::filter),
    ("body", http::fuzz::body),
    ("policy", http::fuzz::policy),
    ("request", http::fuzz::request),
    ("invitation", trust::fuzz::invitation),
    ("edict", trust::fuzz::edict),
    ("certificate", trust::fuzz::certificate),
];

/// Kept small: a corpus shows the ways in, the fuzzer finds the rest.
const MAX_INPUT: usize = 2048;

fn corpus(target: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "fuzz", "corpus", target].iter().collect()
}

#[test]
fn every_target_holds_over_its_corpus() {
    for (name, target) in TARGETS {
        let entries = fs::read_dir(corpus(name)).expect("each target has a corpus");
        let mut files: Vec<_> = entries.map(|entry| entry.expect("a folder can be read").path()).collect();
        files.sort();
        assert!(!files.is_empty(), "the corpus of {name} is empty");
        for file in files {
            let bytes = fs::read(&file).expect("an input can be read");
            assert!(bytes.len() <= MAX_INPUT, "{} holds {} bytes", file.display(), bytes.len());
            // On a panic, the last line printed is what broke it.
            println!("{}", file.display());
            target(&bytes);
        }
    }
}

#[test]
#[ignore = "writes into fuzz/corpus"]
fn write_the_corpora() {
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let folder = corpus(target);
        fs::create_dir_all(&folder).expect("a folder can be made");
        fs::write(folder.join(name), bytes).expect("an input can be written");
    };
    let (hello, talk) = overheard();
    write("hello", "peer", &hello);
    for (name, frames) in talk {
        write("wire", name, &frames);
    }
    for (name, frames) in overheard().1 {
        write("mesh", name, &frames);
    }
    for (name, der) in certificates() {
        write("certificate", name, &der);
    }
    for (name, packet) in questions() {
        write("dns", &name, &packet);
    }
}

/// What a real peer says: its hello, and what it sends in answer to being met, to a registration, and to goodbye, each
/// as the target `wire` reads it.
fn overheard() -> (Vec<u8>, BTreeMap<&'static str, Vec<u8>>) {
    let mut this = core("this", 1);
    let mut peer = core("peer", 2);
    let hello = rmp_serde::to_vec(&peer.hello()).expect("a hello can be written");
    let mut talk = BTreeMap::new();
    let mut now = Time::ZERO;
    drain(&mut this);
    drain(&mut peer);
    this.handle(now, Input::Connected(peer.hello()));
    peer.handle(now, Input::Connected(this.hello()));
    talk.insert("met", converse(&mut this, &mut peer, &mut now));
    let api = Registration::new("api", 9000).expect("a valid name").meta("path", "/v1");
    peer.command(now, Command::Register(api.into())).expect("room for one registration");
    talk.insert("registered", converse(&mut this, &mut peer, &mut now));
    peer.command(now, Command::Leave).expect("a node may leave");
    talk.insert("left", converse(&mut this, &mut peer, &mut now));
    (hello, talk)
}

/// Carries what two cores say to each other for twelve virtual seconds; returns what `peer` said.
fn converse(this: &mut Mesh, peer: &mut Mesh, now: &mut Time) -> Vec<u8> {
    let (this_id, peer_id) = (this.hello().id, peer.hello().id);
    let (mut by_this, mut by_peer) = (drain(this), drain(peer));
    let mut said = Vec::new();
    for _ in 0..120 {
        *now = *now + Duration::from_millis(100);
        let (heard_by_this, heard_by_peer) = (mem::take(&mut by_peer), mem::take(&mut by_this));
        for output in heard_by_this {
            said.extend(framed(&output));
            by_this.extend(deliver(output, peer_id, this, *now));
        }
        for output in heard_by_peer {
            by_peer.extend(deliver(output, this_id, peer, *now));
        }
        by_this.extend(feed(this, *now, Input::Wake));
        by_peer.extend(feed(peer, *now, Input::Wake));
    }
    said.truncate(MAX_INPUT);
    said
}

fn deliver(output: Output, from: NodeId, to: &mut Mesh, now: Time) -> Vec<Output> {
    match output {
        Output::Packet(_, bytes) => feed(to, now, Input::Packet(from, bytes)),
        Output::Message(_, bytes) => feed(to, now, Input::Message(from, bytes)),
        _ => Vec::new(),
    }
}

fn feed(mesh: &mut Mesh, now: Time, input: Input) -> Vec<Output> {
    mesh.handle(now, input);
    drain(mesh)
}

fn drain(mesh: &mut Mesh) -> Vec<Output> {
    std::iter::from_fn(|| mesh.poll()).collect()
}

/// `kind`, two bytes of length, and the bytes without their version.
fn framed(output: &Output) -> Vec<u8> {
    let (kind, bytes) = match output {
        Output::Packet(_, bytes) => (0, bytes),
        Output::Message(_, bytes) => (1, bytes),
        _ => return Vec::new(),
    };
    let body = &bytes[1..];
    let length = u16::try_from(body.len()).expect("a message is shorter than 64 KiB");
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

/// As the targets make them, so that what is overheard here means something there.
fn core(name: &str, port: u16) -> Mesh {
    let node = Node {
        name: name.try_into().expect("a valid name"),
        addresses: vec![([127, 0, 0, 1], port).into()],
        datacenter: "dc1".into(),
        zone: "".into(),
        version: "0".into(),
        meta: BTreeMap::new(),
        maintenance: None,
        voucher: bytes::Bytes::new(),
    };
    let mesh = "fuzz".try_into().expect("a valid name");
    let notary = std::sync::Arc::new(hobnob::mesh::Numbers::new(1, &node.name, 1));
    let config = Config {
        mesh,
        node,
        known: BTreeMap::new(),
        epoch: Epoch(1),
        boot: 1,
        seed: u64::from(port),
        unix_millis: 1,
        notary,
    };
    let mut core = Mesh::new(config, Vec::new(), Time::ZERO);
    core.command(Time::ZERO, Command::Join(Vec::new())).expect("a fresh core takes commands");
    core
}

/// Two certificates that nobody in a fuzzer's world has to believe, and one as it stands in a file.
fn certificates() -> [(&'static str, Vec<u8>); 3] {
    let lifetime = Duration::from_secs(3600);
    let (authority, files) = Authority::create(lifetime).expect("randomness");
    let name = |name: &str| name.try_into().expect("a valid name");
    let issued =
        authority.issue(&"fuzz".try_into().expect("a valid name"), &name("this"), lifetime).expect("randomness");
    let der = |pem: &str| {
        let text: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).expect("PEM holds base64")
    };
    let pem = files.certificate.clone().into_bytes();
    [("authority", der(&files.certificate)), ("node", der(&issued.certificate)), ("pem", pem)]
}

/// One question of each kind that the DNS face tells apart.
fn questions() -> Vec<(String, Vec<u8>)> {
    let mut packets = Vec::new();
    for (name, kind, payload) in [
        ("web.service.mesh.internal.", RecordType::A, None),
        ("v2.web.service.dc1.mesh.internal.", RecordType::AAAA, Some(1232)),
        ("_web._tcp.service.mesh.internal.", RecordType::SRV, Some(4096)),
        ("web.service.consul.", RecordType::ANY, Some(512)),
        ("idle.service.consul.", RecordType::SRV, None),
        ("n1.node.mesh.internal.", RecordType::TXT, None),
        ("0a000005.addr.consul.", RecordType::A, None),
        ("_services._dns-sd._udp.mesh.internal.", RecordType::PTR, Some(1232)),
        ("1.0.0.10.in-addr.arpa.", RecordType::PTR, None),
        ("mesh.internal.", RecordType::SOA, None),
        ("example.com.", RecordType::MX, None),
    ] {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).expect("a valid name"), kind));
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            message.set_edns(edns);
        }
        let packet = message.to_vec().expect("a question can be written");
        packets.push((format!("{}{kind}", name.replace("_", "").replace('.', "-").to_lowercase()), packet));
    }
    packets
}
