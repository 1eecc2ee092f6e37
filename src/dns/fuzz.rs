//! What the fuzzer and the test over its corpus call: a packet from anywhere, asked of a small fixed world.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use hickory_proto::op::Message;

use super::{Client, Config, Face, Transport, Zone};
use crate::{
    agent::View,
    mesh::{Instance, Member},
    model::{Epoch, Host, Invalid, MemberState, MeshName, Node, NodeId, NodeName, Registration, ServiceName, Time},
};

/// Answers `packet` over every transport. A reply must be a message again, carry the question's id, and fit.
///
/// # Panics
/// When a reply does not.
pub fn dns(packet: &[u8]) {
    static WORLD: LazyLock<Face> = LazyLock::new(|| world().expect("a world of valid names"));
    for (transport, limit) in [(Transport::Udp, 1232), (Transport::Loopback, 4096), (Transport::Tcp, 65_535)] {
        let client = Client { address: [127, 0, 0, 1].into(), transport, now: 0 };
        let Some(reply) = WORLD.respond(packet, client).map(|written| written.bytes) else { continue };
        assert!(reply.len() <= limit, "{} bytes over {transport:?}", reply.len());
        assert!(reply.get(..2) == packet.get(..2), "the id comes back");
        let parsed = Message::from_vec(&reply);
        assert!(parsed.is_ok(), "{parsed:?} over {transport:?}");
    }
}

/// A node, and a service with more instances than fit into a datagram: tagged, at IPv4, at IPv6, at a host name.
fn world() -> Result<Face, Invalid> {
    let view = Arc::<View>::default();
    let node = Arc::new(Node {
        name: NodeName::try_from("n1")?,
        addresses: vec![([10, 0, 0, 1], 7946).into()],
        datacenter: "dc1".into(),
        zone: "".into(),
        version: "0".into(),
        meta: BTreeMap::from([("rack".into(), "7".into())]),
        maintenance: None,
        voucher: bytes::Bytes::new(),
    });
    let id = NodeId::of(&MeshName::try_from("fuzz")?, &node.name);
    let (state, since) = (MemberState::Alive, Time::ZERO);
    let member = Member {
        id,
        node: node.clone(),
        state,
        epoch: Epoch(1),
        since,
        rtt: None,
        place: None,
        version: 1,
        held: false,
    };
    view.set_node(&node.name, Some(member.clone()));
    view.set_this(member);
    let mut instances = Vec::new();
    for at in 0..60 {
        let address = match at % 3 {
            0 => format!("10.0.0.{at}"),
            1 => format!("fd00::{at}"),
            _ => format!("h{at}.example.com"),
        };
        let web = Registration::new("web", 8080)?.id(format!("web-{at}").as_str().try_into()?);
        let web = web.address(Host::try_from(&*address)?).tag("v2".try_into()?).meta("path", "/");
        let (registration, report) = (Arc::new(web), Arc::default());
        instances.push(Instance {
            owner: id,
            node: node.clone(),
            registration,
            report,
            member: state,
            held: None,
            host: crate::model::Health::Passing,
        });
    }
    view.set_service(&ServiceName::try_from("web")?, Some(instances));
    view.set_service(&ServiceName::try_from("idle")?, Some(Vec::new()));
    view.set_ready(true);
    let zones = vec![Zone::try_from("mesh.internal")?, Zone::try_from("consul")?];
    Ok(Face::new(view, Config { zones, ..Config::default() }, [0; 16]))
}
