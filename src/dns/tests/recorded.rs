//! What Consul itself answered, recorded beside the repository: the same catalogue, the same questions, compared by
//! status, owner names and data of the answers.

use std::{fs, path::Path};

use super::*;

/// Where we differ from the record on purpose.
const DIFFERENT: &[(&str, &str, &str)] = &[
    ("service.consul", "A", "NODATA: an empty non-terminal exists (RFC 8020), and unbound asks for it"),
    ("consul", "A", "NODATA: the zone itself exists"),
    ("web.service.consul", "TXT", "NODATA: an A record is no answer to TXT"),
    ("n1.node.consul", "ANY", "one set of records (RFC 8482)"),
];

/// One recorded question: name, type, status, and its answers as `owner type data`.
struct Exchange {
    name: String,
    kind: String,
    status: String,
    answers: Vec<String>,
}

fn exchanges(text: &str) -> Vec<Exchange> {
    let mut all: Vec<Exchange> = Vec::new();
    let mut section = "";
    for line in text.lines() {
        if line.starts_with(";;;;; dig ") {
            let fresh =
                Exchange { name: String::new(), kind: String::new(), status: String::new(), answers: Vec::new() };
            all.push(fresh);
        }
        let Some(last) = all.last_mut() else { continue };
        if let Some(name) = line.strip_prefix(";; ").and_then(|rest| rest.strip_suffix(" SECTION:")) {
            section = name;
        } else if let Some((_, rest)) = line.split_once("status: ") {
            last.status = rest.split(',').next().unwrap().into();
        } else {
            let words: Vec<&str> = line.split_whitespace().collect();
            match (section, &words[..]) {
                ("QUESTION", [name, "IN", kind]) => {
                    last.name = name.trim_start_matches(';').into();
                    last.kind = (*kind).into();
                }
                ("ANSWER", [owner, _ttl, "IN", kind, data @ ..]) if !owner.starts_with(';') => {
                    // The numbers of a SOA are each server's own.
                    let data = if *kind == "SOA" { &data[..2] } else { data };
                    last.answers.push(format!("{owner} {kind} {}", data.join(" ").replace('"', "")));
                }
                _ => {}
            }
        }
    }
    all
}

fn catalogue() -> World {
    let mut world = World::new();
    world.config.zones = vec![Zone::try_from("consul").unwrap()];
    let mut n1 = node("n1", &["127.0.0.1"]);
    n1.meta.insert("consul-network-segment".into(), String::new());
    world.node(n1, MemberState::Alive);
    let mut one = web("10.0.0.5").tag("v2".try_into().unwrap());
    one.weight = 3;
    world.service("web", vec![on("n1", one)]);
    let mut noport = web("db.example.com");
    noport.port = None;
    world.service("noport", vec![on("n1", noport)]);
    world.service("lower", vec![on("n1", Registration::new("lower", 9090).unwrap())]);
    world
}

fn answers(reply: &Message) -> Vec<String> {
    let words = |answer: &Record| match &answer.data {
        hickory_proto::rr::RData::SOA(soa) => format!("{} SOA {} {}", answer.name, soa.mname, soa.rname),
        data => format!("{} {} {data}", answer.name, answer.record_type()),
    };
    reply.answers.iter().map(words).collect()
}

#[test]
fn consuls_zone_is_answered_as_consul_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures/consul/dns.txt");
    let Ok(text) = fs::read_to_string(&path) else {
        println!("skipped: no recorded answers of Consul at {}", path.display());
        return;
    };
    let exchanges = exchanges(&text);
    assert!(exchanges.len() > 20, "the recording was read");
    let world = catalogue();
    for exchange in exchanges {
        let Exchange { name, kind, status, answers: recorded } = exchange;
        let asked: RecordType = kind.parse().unwrap();
        let reply = world.ask(&name, asked);
        let ours = match reply.metadata.response_code {
            hickory_proto::op::ResponseCode::NXDomain => "NXDOMAIN".into(),
            code => format!("{code:?}").to_uppercase(),
        };
        let same = ours == status && answers(&reply) == recorded;
        let bare = name.trim_end_matches('.');
        match DIFFERENT.iter().find(|(name, of, _)| *name == bare && *of == kind) {
            Some((_, _, why)) => assert!(!same, "{name} {kind} is no different any more: {why}"),
            None => assert!(same, "{name} {kind}: {status} {recorded:?}, ours {ours} {:?}", answers(&reply)),
        }
    }
}
