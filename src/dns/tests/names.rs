//! Every name form and what it holds.

use RecordType::{A, AAAA, ANY, CNAME, HTTPS, NS, PTR, SOA, SRV, TXT};

use super::*;
use crate::model::{Echo, EchoNode};

fn world() -> World {
    let world = World::new();
    let mut n2 = node("n2", &["10.0.0.2", "2001:db8::2"]);
    n2.meta.insert("rack".into(), "r1".into());
    // No key of a TXT record (RFC 6763 section 6.4).
    n2.meta.insert("a=b".into(), "c".into());
    n2.meta.insert("straße".into(), "d".into());
    n2.datacenter = "dc2".into();
    world.node(n2.clone(), MemberState::Alive);
    let mut one = web("10.0.0.5").tag("v2".try_into().unwrap()).tag("primary".try_into().unwrap()).meta("k", "v");
    one.weight = 3;
    one.ports.insert("http".try_into().unwrap(), 80.try_into().unwrap());
    let mut two = on("n2", web("2001:db8::5"));
    two.node = Arc::new(n2);
    world.service("web", vec![on("n1", one), two]);
    world.service("db", vec![on("n1", web("db.example.com"))]);
    world.service("gone", vec![]);
    world
}

fn check(world: &World, table: &[(&str, RecordType, &str)]) {
    for (name, kind, want) in table {
        assert_eq!(&world.told(name, *kind), want, "{name} {kind}");
    }
}

#[test]
fn a_service_has_addresses_and_servers() {
    let world = world();
    // The hashes are part of the contract: a rolling upgrade must not rename targets.
    let (one, two) = ("i-0d749fdf9d75.web.service.mesh.internal.", "i-deec8362371c.web.service.mesh.internal.");
    let glue = |target: &str| if target == one { "A 10.0.0.5" } else { "AAAA 2001:db8::5" };
    let srv = |owner: &str, instances: &[(&str, &str)]| {
        let answers: Vec<_> = instances.iter().map(|(target, data)| format!("{owner} SRV {data} {target}")).collect();
        // Only the answers take turns: additional records keep their order.
        let targets = [one, two].into_iter().filter(|target| instances.iter().any(|(other, _)| other == target));
        let additionals: Vec<_> = targets.map(|target| format!("{target} {}", glue(target))).collect();
        format!("NoError: {} |  | {}", answers.join(", "), additionals.join(", "))
    };
    check(
        &world,
        &[
            ("web.service.mesh.internal.", A, "NoError: web.service.mesh.internal. A 10.0.0.5 |  |"),
            ("web.service.mesh.internal.", AAAA, "NoError: web.service.mesh.internal. AAAA 2001:db8::5 |  |"),
            ("web.service.mesh.internal.", TXT, "NoError: web.service.mesh.internal. TXT k=v |  |"),
            ("v2.web.service.mesh.internal.", A, "NoError: v2.web.service.mesh.internal. A 10.0.0.5 |  |"),
            (
                "Primary.V2.web.service.mesh.internal.",
                A,
                "NoError: Primary.V2.web.service.mesh.internal. A 10.0.0.5 |  |",
            ),
            ("web.service.dc2.mesh.internal.", AAAA, "NoError: web.service.dc2.mesh.internal. AAAA 2001:db8::5 |  |"),
            ("web.service.dc2.mesh.internal.", A, "NoError:  | mesh.internal. SOA |"),
        ],
    );
    for name in ["_web._v2.service.mesh.internal.", "_web._v2.mesh.internal.", "v2.web.service.mesh.internal."] {
        assert_eq!(world.told(name, SRV), srv(name, &[(one, "1 768 8080")]), "{name}");
    }
    let port = "_http._tcp.web.service.mesh.internal.";
    assert_eq!(world.told(port, SRV), srv(port, &[(one, "1 768 80")]));
    for name in ["web.service.mesh.internal.", "_web._tcp.service.mesh.internal.", "_web._udp.mesh.internal."] {
        // The id 7 rotates two instances by one.
        assert_eq!(world.told(name, SRV), srv(name, &[(two, "1 256 8080"), (one, "1 768 8080")]), "{name}");
    }
}

#[test]
fn a_target_is_a_name_of_its_own() {
    let world = world();
    for instance in &world.view.service("web").unwrap().instances {
        let target = format!("{}.web.service.mesh.internal.", crate::dns::names::instance_label(instance));
        let reply = world.ask("web.service.mesh.internal.", SRV);
        assert!(reply.additionals.iter().any(|glue| glue.name.to_string() == target));
        let kind = if instance.node.name.as_str() == "n1" { A } else { AAAA };
        let told = world.told(&target, kind);
        assert_eq!(told, format!("NoError: {target} {kind} {} |  |", instance.address()));
        assert!(world.told(&target, SRV).starts_with(&format!("NoError: {target} SRV 1 ")));
    }
    assert_eq!(world.told("i-000000000000.web.service.mesh.internal.", A), "NXDomain:  | mesh.internal. SOA |");
}

#[test]
fn a_node_has_addresses_and_text() {
    check(
        &world(),
        &[
            ("n2.node.mesh.internal.", A, "NoError: n2.node.mesh.internal. A 10.0.0.2 |  |"),
            ("n2.node.mesh.internal.", AAAA, "NoError: n2.node.mesh.internal. AAAA 2001:db8::2 |  |"),
            ("N2.node.dc2.mesh.internal.", TXT, "NoError: N2.node.dc2.mesh.internal. TXT rack=r1 |  |"),
            ("n2.node.dc1.mesh.internal.", A, "NXDomain:  | mesh.internal. SOA |"),
            ("n1.node.mesh.internal.", TXT, "NoError:  | mesh.internal. SOA |"),
            ("n9.node.mesh.internal.", A, "NXDomain:  | mesh.internal. SOA |"),
        ],
    );
}

#[test]
fn a_node_without_an_agent_has_a_name_as_long_as_its_word_counts() {
    let world = world();
    let row = |node: &str, address: &str, said: u64| {
        let meta = Some([("k".to_owned(), "v".to_owned())].into());
        let node = EchoNode { name: node.into(), address: address.into(), meta, ..EchoNode::default() };
        let echo = Echo { node: Some(Arc::new(node)), said, ..Echo::default() };
        let id = format!("{address}-{said}");
        on("n1", Registration { echo: Some(Arc::new(echo)), ..web("10.9.0.1") }.id(id.as_str().try_into().unwrap()))
    };
    world.service(
        "ext",
        vec![row("Ext-DB", "10.9.0.7", 1), row("ext-db", "10.9.0.8", 2), row("rds", "db.example.com", 1)],
    );
    check(
        &world,
        &[
            ("ext-db.node.consul.", A, "NoError: ext-db.node.consul. A 10.9.0.8 |  |"),
            ("ext-db.node.dc1.mesh.internal.", A, "NoError: ext-db.node.dc1.mesh.internal. A 10.9.0.8 |  |"),
            ("ext-db.node.mesh.internal.", TXT, "NoError: ext-db.node.mesh.internal. TXT k=v |  |"),
            ("ext-db.node.mesh.internal.", AAAA, "NoError:  | mesh.internal. SOA |"),
            ("ext-db.node.dc2.consul.", A, "NXDomain:  | consul. SOA |"),
            ("rds.node.consul.", A, "NoError: rds.node.consul. CNAME db.example.com. |  |"),
            ("8.0.9.10.in-addr.arpa.", PTR, "NoError: 8.0.9.10.in-addr.arpa. PTR ext-db.node.dc1.mesh.internal. |  |"),
        ],
    );
    let down = Instance { member: MemberState::Down, ..row("ext-db", "10.9.0.8", 2) };
    world.service("ext", vec![down]);
    check(
        &world,
        &[
            ("ext-db.node.consul.", A, "NXDomain:  | consul. SOA |"),
            ("ext-db.node.mesh.internal.", A, "NoError:  | mesh.internal. SOA |"),
        ],
    );
    world.service("ext", vec![]);
    assert_eq!(world.told("ext-db.node.mesh.internal.", A), "NXDomain:  | mesh.internal. SOA |");
}

#[test]
fn an_address_is_spelled_by_its_name() {
    let v6 = "20010db8000000000000000000000005.addr.dc1.mesh.internal.";
    check(
        &world(),
        &[
            ("0a000005.addr.mesh.internal.", A, "NoError: 0a000005.addr.mesh.internal. A 10.0.0.5 |  |"),
            ("0A000005.addr.dc1.mesh.internal.", A, "NoError: 0A000005.addr.dc1.mesh.internal. A 10.0.0.5 |  |"),
            ("0a000005.addr.mesh.internal.", AAAA, "NoError:  | mesh.internal. SOA |"),
            (v6, AAAA, &format!("NoError: {v6} AAAA 2001:db8::5 |  |")),
            ("0a0005.addr.mesh.internal.", A, "NXDomain:  | mesh.internal. SOA |"),
        ],
    );
}

#[test]
fn a_zone_has_an_authority_and_a_server() {
    check(
        &world(),
        &[
            ("mesh.internal.", SOA, "NoError: mesh.internal. SOA |  |"),
            (
                "mesh.internal.",
                NS,
                "NoError: mesh.internal. NS n1.node.dc1.mesh.internal. |  | n1.node.dc1.mesh.internal. A 127.0.0.1",
            ),
            ("mesh.internal.", A, "NoError:  | mesh.internal. SOA |"),
            ("ns.mesh.internal.", A, "NoError: ns.mesh.internal. A 127.0.0.1 |  |"),
            ("n1.node.dc1.mesh.internal.", A, "NoError: n1.node.dc1.mesh.internal. A 127.0.0.1 |  |"),
        ],
    );
}

#[test]
fn services_are_browsed_as_rfc_6763_says() {
    let world = world();
    let types = "_services._dns-sd._udp.mesh.internal.";
    let want = format!("NoError: {types} PTR _db._tcp.mesh.internal., {types} PTR _web._tcp.mesh.internal. |  |");
    assert_eq!(world.told(types, PTR), want);
    assert_eq!(world.told(types, A), "NoError:  | mesh.internal. SOA |");
    let near = world.ask("_services._dns-sd._udp.dc1.mesh.internal.", PTR);
    assert!(near.answers.iter().all(|kind| kind.data.to_string().ends_with("._tcp.dc1.mesh.internal.")), "{near}");
    let reply = world.ask("_Web._tcp.mesh.internal.", PTR);
    assert_eq!(reply.answers.len(), 2);
    for pointer in &reply.answers {
        // The part that the question spells is spelled like it.
        let name = pointer.data.to_string().to_lowercase();
        assert!(name.ends_with("._web._tcp.mesh.internal."), "{name}");
        assert_eq!(world.ask(&name, SRV).answers.len(), 1);
        // Section 6.1: an instance without pairs still has a TXT record, of one empty string.
        assert_eq!(world.ask(&name, TXT).answers.len(), 1);
    }
}

#[test]
fn a_reverse_name_finds_its_node() {
    check(
        &world(),
        &[
            ("2.0.0.10.in-addr.arpa.", PTR, "NoError: 2.0.0.10.in-addr.arpa. PTR n2.node.dc2.mesh.internal. |  |"),
            ("2.0.0.10.in-addr.arpa.", A, "NoError:  | 2.0.0.10.in-addr.arpa. SOA |"),
            ("9.0.0.10.in-addr.arpa.", PTR, "Refused:  |  |"),
            ("10.in-addr.arpa.", PTR, "Refused:  |  |"),
            (
                "5.0.0.10.in-addr.arpa.",
                PTR,
                "NoError: 5.0.0.10.in-addr.arpa. PTR i-0d749fdf9d75.web.service.mesh.internal. |  |",
            ),
        ],
    );
    let v6 = format!("2.{}8.b.d.0.1.0.0.2.ip6.arpa.", "0.".repeat(23));
    assert_eq!(world().told(&v6, PTR), format!("NoError: {v6} PTR n2.node.dc2.mesh.internal. |  |"));
}

#[test]
fn a_host_name_is_passed_on_and_never_resolved() {
    let world = world();
    check(
        &world,
        &[
            ("db.service.mesh.internal.", A, "NoError: db.service.mesh.internal. CNAME db.example.com. |  |"),
            ("db.service.mesh.internal.", AAAA, "NoError: db.service.mesh.internal. CNAME db.example.com. |  |"),
            ("db.service.mesh.internal.", CNAME, "NoError: db.service.mesh.internal. CNAME db.example.com. |  |"),
            (
                "db.service.mesh.internal.",
                SRV,
                "NoError: db.service.mesh.internal. SRV 1 256 8080 db.example.com. |  |",
            ),
        ],
    );
    world.service("mixed", vec![on("n1", web("db.example.com")), on("n2", web("10.0.0.7"))]);
    // A CNAME stands alone, so one address is enough to hide it.
    check(
        &world,
        &[
            ("mixed.service.mesh.internal.", A, "NoError: mixed.service.mesh.internal. A 10.0.0.7 |  |"),
            ("mixed.service.mesh.internal.", AAAA, "NoError:  | mesh.internal. SOA |"),
        ],
    );
}

#[test]
fn any_and_unknown_types_are_answered_small() {
    check(
        &world(),
        &[
            ("web.service.mesh.internal.", ANY, "NoError: web.service.mesh.internal. A 10.0.0.5 |  |"),
            ("mesh.internal.", ANY, "NoError: mesh.internal. SOA |  |"),
            ("nope.service.mesh.internal.", ANY, "NXDomain:  | mesh.internal. SOA |"),
            ("web.service.mesh.internal.", HTTPS, "NoError:  | mesh.internal. SOA |"),
            ("web.service.mesh.internal.", RecordType::Unknown(4711), "NoError:  | mesh.internal. SOA |"),
            ("web.service.mesh.internal.", RecordType::AXFR, "Refused:  |  |"),
        ],
    );
}
