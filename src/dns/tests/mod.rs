//! A small world to ask questions about, and the sentences that DNS has to keep.

mod hostile;
mod names;
mod paths;
mod recorded;
mod rules;
mod sizes;
mod sockets;

use std::sync::Arc;

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query},
    rr::{Name, Record, RecordType},
};

use super::{Client, Config, Face, Prefer, Transport, Written, Zone};
use crate::{
    agent::View,
    mesh::{Instance, Member},
    model::{
        CheckStatus, Epoch, Health, HealthReport, Host, MemberState, MeshName, Node, NodeId, Registration, ServiceName,
        Time,
    },
};

/// A ready view whose own node is `n1`, 127.0.0.1 in dc1, and settings for both dialects.
struct World {
    view: Arc<View>,
    config: Config,
}

impl World {
    fn new() -> Self {
        let zones = ["mesh.internal", "consul"].map(|zone| Zone::try_from(zone).unwrap());
        let world = Self { view: Arc::default(), config: Config { zones: zones.into(), ..Config::default() } };
        world.node(node("n1", &["127.0.0.1"]), MemberState::Alive);
        world.view.set_this((*world.view.node("n1").unwrap()).clone());
        world.view.set_ready(true);
        world
    }

    fn node(&self, node: Node, state: MemberState) {
        self.member(node, state, None);
    }

    fn member(&self, node: Node, state: MemberState, rtt: impl Into<Option<std::time::Duration>>) {
        let id = NodeId::of(&MeshName::try_from("test").unwrap(), &node.name);
        let name = node.name.clone();
        let member = Member {
            id,
            node: Arc::new(node),
            state,
            epoch: Epoch(1),
            since: Time::ZERO,
            rtt: rtt.into(),
            place: None,
            version: 1,
            held: false,
        };
        self.view.set_node(&name, Some(member));
    }

    fn service(&self, name: &str, instances: Vec<Instance>) {
        self.view.set_service(&ServiceName::try_from(name).unwrap(), Some(instances));
    }

    /// The packet's reply, parsed.
    fn reply(&self, packet: &[u8], transport: Transport) -> Message {
        Message::from_vec(&self.respond(packet, transport).unwrap()).unwrap()
    }

    fn face(&self) -> Face {
        Face::new(Arc::clone(&self.view), self.config.clone(), [7; 16])
    }

    fn respond(&self, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
        self.face().respond(packet, client(transport)).map(|written: Written| written.bytes)
    }

    /// The reply over TCP, where nothing is cut.
    fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.reply(&question(name, kind, 7, None), Transport::Tcp)
    }

    /// The reply in a few words: status, answers, authorities, additional records.
    fn told(&self, name: &str, kind: RecordType) -> String {
        let reply = self.ask(name, kind);
        let sections = [&reply.answers, &reply.authorities, &reply.additionals];
        let text = sections.map(|section| section.iter().map(record).collect::<Vec<_>>().join(", "));
        format!("{:?}: {}", reply.metadata.response_code, text.join(" | ")).trim_end().into()
    }
}

fn client(transport: Transport) -> Client {
    Client { address: [192, 0, 2, 1].into(), transport, now: 1_000_000 }
}

fn record(record: &Record) -> String {
    match record.record_type() {
        RecordType::SOA => format!("{} SOA", record.name),
        kind => format!("{} {kind} {}", record.name, record.data),
    }
}

/// The bytes of a question.
fn question(name: &str, kind: RecordType, id: u16, payload: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.metadata.recursion_desired = true;
    let Some(payload) = payload else { return message.to_vec().unwrap() };
    message.set_edns(Edns::new());
    let mut packet = message.to_vec().unwrap();
    // Straight into the class of the OPT record, the last 11 bytes: the library would raise sizes below 512.
    let at = packet.len() - 8;
    packet[at..at + 2].copy_from_slice(&payload.to_be_bytes());
    packet
}

fn node(name: &str, addresses: &[&str]) -> Node {
    Node {
        name: name.try_into().unwrap(),
        addresses: addresses.iter().map(|ip| (ip.parse::<std::net::IpAddr>().unwrap(), 7946).into()).collect(),
        datacenter: "dc1".into(),
        zone: "".into(),
        version: "0".into(),
        meta: std::collections::BTreeMap::new(),
        maintenance: None,
        voucher: bytes::Bytes::new(),
    }
}

/// A passing instance of `registration` on a node of its own.
fn on(node_name: &str, registration: Registration) -> Instance {
    let node = node(node_name, &["127.0.0.1"]);
    Instance {
        owner: NodeId::of(&MeshName::try_from("test").unwrap(), &node.name),
        node: Arc::new(node),
        registration: Arc::new(registration),
        report: Arc::default(),
        member: MemberState::Alive,
        held: None,
        host: Health::Passing,
    }
}

fn web(address: &str) -> Registration {
    Registration::new("web", 8080).unwrap().address(Host::try_from(address).unwrap())
}

fn with_health(instance: Instance, status: Health) -> Instance {
    let check = CheckStatus {
        id: "c".try_into().unwrap(),
        name: "c".try_into().unwrap(),
        status,
        output: "".into(),
        since: 0,
        before: None,
    };
    Instance { report: Arc::new(HealthReport { checks: vec![check], ..HealthReport::default() }), ..instance }
}
