//! Both paths to a reply give the same bytes, whatever is asked and whatever has changed since.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::dns::{
    fast::{Cache, Said},
    traffic::Traffic,
};

/// Something that happens: a question, spelled and flagged anyhow, or a change of the view.
#[derive(Clone, Debug)]
enum Step {
    Ask { name: usize, kind: usize, id: u16, flags: [u8; 2], case: u64, edns: Option<u16>, transport: usize },
    Noise { at: usize, byte: u8, name: usize },
    Service { name: usize, count: usize },
    Node { name: usize, state: MemberState },
    Ready(bool),
}

const NAMES: [&str; 22] = [
    "web.service.mesh.internal.",
    "web.service.consul.",
    "db.service.mesh.internal.",
    "none.service.mesh.internal.",
    "_web._tcp.mesh.internal.",
    "_web._tcp.service.dc1.consul.",
    "v2.web.service.mesh.internal.",
    "web.service.dc1.mesh.internal.",
    "web.service.dc9.mesh.internal.",
    "db.service.dc2.mesh.internal.",
    "n1.node.mesh.internal.",
    "n2.node.dc2.consul.",
    "0a000001.addr.mesh.internal.",
    "_services._dns-sd._udp.mesh.internal.",
    "mesh.internal.",
    "consul.",
    "ns.consul.",
    "dc2.mesh.internal.",
    "1.0.0.10.in-addr.arpa.",
    "*.mesh.internal.",
    "example.com.",
    ".",
];
const KINDS: [RecordType; 9] = [
    RecordType::A,
    RecordType::AAAA,
    RecordType::SRV,
    RecordType::TXT,
    RecordType::PTR,
    RecordType::SOA,
    RecordType::NS,
    RecordType::ANY,
    RecordType::HTTPS,
];
const TRANSPORTS: [Transport; 2] = [Transport::Udp, Transport::Loopback];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let id = prop_oneof![Just(0_u16), Just(1), any::<u16>()];
    let flags = prop_oneof![3 => Just([0, 0]), 1 => (0..2_u8, any::<u8>()).prop_map(|(rd, low)| [rd, low])];
    let edns = prop_oneof![Just(None), Just(Some(1232)), Just(Some(512)), any::<u16>().prop_map(Some)];
    let case = prop_oneof![Just(0), any::<u64>()];
    let ask = (0..NAMES.len(), 0..KINDS.len(), id, flags, case, edns, 0..TRANSPORTS.len()).prop_map(
        |(name, kind, id, flags, case, edns, transport)| Step::Ask { name, kind, id, flags, case, edns, transport },
    );
    let states = prop_oneof![Just(MemberState::Alive), Just(MemberState::Suspect), Just(MemberState::Down)];
    let step = prop_oneof![
        20 => ask,
        2 => (0..64_usize, any::<u8>(), 0..NAMES.len()).prop_map(|(at, byte, name)| Step::Noise { at, byte, name }),
        3 => (0..2_usize, 0..30_usize).prop_map(|(name, count)| Step::Service { name, count }),
        2 => (0..2_usize, states).prop_map(|(name, state)| Step::Node { name, state }),
        1 => any::<bool>().prop_map(Step::Ready),
    ];
    vec(step, 1..120)
}

/// The packet, each letter of its name in upper case where `case` has a bit.
fn packet(name: &str, kind: RecordType, id: u16, flags: [u8; 2], case: u64, edns: Option<u16>) -> Vec<u8> {
    let mut packet = question(name, kind, id, edns);
    (packet[2], packet[3]) = (flags[0], flags[1]);
    let end = 12 + name.len().min(packet.len() - 12);
    for (at, byte) in packet[12..end].iter_mut().enumerate() {
        if case >> (at % 64) & 1 == 1 && byte.is_ascii_lowercase() {
            byte.make_ascii_uppercase();
        }
    }
    packet
}

fn change(world: &World, step: &Step) {
    match step {
        Step::Service { name, count } => {
            let name = ["web", "db"][*name];
            let instances = (0..*count).map(|at| {
                let address = if at % 3 == 2 { format!("fd00::{at}") } else { format!("10.0.0.{at}") };
                on(&format!("n{at}"), web(&address).tag("v2".try_into().unwrap()))
            });
            world.service(name, instances.collect());
            world.view.advance();
        }
        Step::Node { name, state } => {
            let mut node = node(["n2", "n3"][*name], &["10.0.0.1"]);
            node.datacenter = "dc2".into();
            world.node(node, *state);
            world.view.advance();
        }
        Step::Ready(ready) => world.view.set_ready(*ready),
        Step::Ask { .. } | Step::Noise { .. } => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_paths_give_the_same_bytes(steps in steps()) {
        let world = World::new();
        let face = world.face();
        let (mut cache, traffic) = (Cache::new(1, 1 << 20), Traffic::default());
        for step in steps {
            let (packet, transport) = match step {
                Step::Ask { name, kind, id, flags, case, edns, transport } => {
                    (packet(NAMES[name], KINDS[kind], id, flags, case, edns), TRANSPORTS[transport])
                }
                Step::Noise { at, byte, name } => {
                    let mut packet = packet(NAMES[name], RecordType::A, 7, [0, 0], 0, Some(1232));
                    let at = at % packet.len();
                    packet[at] = byte;
                    (packet, Transport::Udp)
                }
                change => {
                    self::change(&world, &change);
                    continue;
                }
            };
            let client = client(transport);
            let long = face.respond(&packet, client);
            // Twice: the second time it may be ready.
            for _ in 0..2 {
                let mut room = b"before".to_vec();
                let said = cache.respond(&face, &packet, client, &traffic, &mut room);
                prop_assert_eq!(room[6..].to_vec(), long.as_ref().map(|long| long.bytes.clone()).unwrap_or_default());
                let same = long.as_ref().map(|long| Said { proven: long.proven, foreign: long.foreign });
                prop_assert_eq!(said, same);
            }
        }
    }
}

#[test]
fn what_is_asked_again_is_ready() {
    let world = World::new();
    world.service("web", (0..3).map(|at| on(&format!("n{at}"), web(&format!("10.0.0.{at}")))).collect());
    let face = world.face();
    let (mut cache, traffic) = (Cache::new(1, 1 << 20), Traffic::default());
    let mut ask = |id, case| {
        let packet = packet(NAMES[0], RecordType::SRV, id, [1, 0], case, None);
        let before = traffic.kept.read();
        cache.respond(&face, &packet, client(Transport::Loopback), &traffic, &mut Vec::new()).unwrap();
        traffic.kept.read() > before
    };
    // Three orders of three instances, in any spelling, as long as nothing changes.
    assert_eq!([0, 1, 2, 3, 4, 5].map(|id| ask(id, u64::from(id))), [false, false, false, true, true, true]);
    world.service("db", vec![on("n1", web("10.0.0.9"))]);
    world.view.advance();
    assert!(ask(0, 0), "another service's change is none of ours");
    world.service("web", vec![on("n1", web("10.0.0.9"))]);
    assert!(!ask(0, 0), "never older than the view");
    assert!(ask(0, 0));
}

#[test]
fn what_is_kept_stays_within_its_budget() {
    const BUDGET: usize = 1 << 20;
    let world = World::new();
    world.service("web", (0..3).map(|at| on(&format!("n{at}"), web(&format!("10.0.0.{at}")))).collect());
    let face = world.face();
    let (mut cache, traffic) = (Cache::new(1, BUDGET), Traffic::default());
    let mut ask = |name: &str| {
        let before = traffic.kept.read();
        let packet = question(name, RecordType::A, 1, None);
        cache.respond(&face, &packet, client(Transport::Loopback), &traffic, &mut Vec::new());
        assert!(cache.bytes() <= BUDGET + 1024, "{} bytes", cache.bytes());
        traffic.kept.read() > before
    };
    ask(NAMES[0]);
    for missing in 0..20_000 {
        ask(&format!("{missing:08x}.service.mesh.internal."));
    }
    assert!(ask(NAMES[0]), "what does not exist crowds out nobody");
    for address in 0..20_000 {
        ask(&format!("{address:08x}.addr.mesh.internal."));
    }
    assert!(traffic.cleared.read() > 0 && !ask(NAMES[0]));
}
