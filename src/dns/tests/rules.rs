//! Status, health, order and dialects.

use RecordType::{A, AAAA, SRV};
use hickory_proto::{op::ResponseCode, rr::DNSClass};

use super::*;
use crate::mesh::Held;

fn status(world: &World, name: &str, kind: RecordType) -> ResponseCode {
    world.ask(name, kind).metadata.response_code
}

#[test]
fn a_name_without_records_is_not_a_missing_name() {
    let world = World::new();
    world.service("web", vec![on("n1", web("10.0.0.5"))]);
    for name in [
        "mesh.internal.",
        "service.mesh.internal.",
        "node.mesh.internal.",
        "addr.mesh.internal.",
        "_tcp.mesh.internal.",
        "_tcp.service.mesh.internal.",
        "_tcp.web.service.mesh.internal.",
        "dc1.mesh.internal.",
        "service.DC1.mesh.internal.",
        "web.service.mesh.internal.",
        "service.consul.",
        "consul.",
    ] {
        let reply = world.ask(name, AAAA);
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError, "{name}");
        assert!(reply.metadata.authoritative && reply.answers.is_empty());
        assert_eq!(reply.authorities.len(), 1, "{name}: resolvers need the SOA to tell NODATA from a referral");
    }
    for name in [
        "nope.mesh.internal.",
        "nope.service.mesh.internal.",
        "_tcp.nope.service.mesh.internal.",
        "web.service.nope.mesh.internal.",
        "service.nope.mesh.internal.",
        "v9.web.service.mesh.internal.",
        "_smtp._tcp.web.service.mesh.internal.",
        "x.n1.node.mesh.internal.",
        "a.b.c.d.mesh.internal.",
        "*.mesh.internal.",
        "*.service.mesh.internal.",
        "*.web.service.mesh.internal.",
    ] {
        let reply = world.ask(name, A);
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain, "{name}");
        assert!(reply.metadata.authoritative);
        assert_eq!(reply.authorities.len(), 1, "{name}");
    }
}

#[test]
fn the_dialects_differ_on_a_service_with_nothing_healthy() {
    let world = World::new();
    let critical = with_health(on("n1", web("10.0.0.5")), Health::Critical);
    world.service("web", vec![critical]);
    world.service("empty", vec![]);
    world.node(node("n3", &["10.0.0.3"]), MemberState::Down);
    for name in ["web.service", "empty.service", "n3.node"] {
        assert_eq!(status(&world, &format!("{name}.mesh.internal."), A), ResponseCode::NoError, "{name}");
        assert_eq!(status(&world, &format!("{name}.consul."), A), ResponseCode::NXDomain, "{name}");
    }
}

#[test]
fn only_what_may_take_traffic_is_shown() {
    let mut world = World::new();
    let healths = [Health::Passing, Health::Warning, Health::Critical, Health::Maintenance];
    let instances = healths
        .iter()
        .enumerate()
        .map(|(at, health)| with_health(on(&format!("n{at}"), web(&format!("10.0.0.{at}"))), *health));
    world.service("web", instances.collect());
    let addresses = |world: &World| {
        let reply = world.ask("web.service.mesh.internal.", A);
        let mut texts: Vec<_> = reply.answers.iter().map(|answer| answer.data.to_string()).collect();
        texts.sort();
        texts
    };
    assert_eq!(addresses(&world), ["10.0.0.0", "10.0.0.1"]);
    world.config.only_passing = true;
    assert_eq!(addresses(&world), ["10.0.0.0"]);
}

#[test]
fn suspects_come_last_and_the_others_take_turns() {
    let world = World::new();
    let suspect = Instance { member: MemberState::Suspect, ..on("a", web("10.0.0.1")) };
    world.service("web", vec![suspect, on("b", web("10.0.0.2")), on("c", web("10.0.0.3"))]);
    let order = |id| {
        let reply = world.reply(&question("web.service.mesh.internal.", A, id, None), Transport::Udp);
        reply.answers.iter().map(|answer| answer.data.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(order(0), ["10.0.0.2", "10.0.0.3", "10.0.0.1"]);
    assert_eq!(order(1), ["10.0.0.3", "10.0.0.2", "10.0.0.1"]);
    assert_eq!(order(2), order(0));
}

/// Three on different nodes: in our zone, in another, in none; their addresses by what the settings prefer.
fn three_places() -> World {
    let world = World::new();
    let placed = |name: &str, zone: &str, rtt: u64| {
        let at = Node { zone: zone.into(), ..node(name, &["127.0.0.1"]) };
        world.member(at.clone(), MemberState::Alive, std::time::Duration::from_millis(rtt));
        Instance { node: Arc::new(at), ..on(name, web(&format!("10.0.0.{rtt}"))) }
    };
    let all = vec![placed("a", "", 9), placed("b", "rack-2", 5), placed("c", "rack-1", 7), placed("d", "rack-1", 8)];
    world.service("web", all);
    let mut this = (*world.view.node("n1").unwrap()).clone();
    this.node = Arc::new(Node { zone: "rack-1".into(), ..(*this.node).clone() });
    world.view.set_this(this);
    world
}

#[test]
fn those_preferred_come_first_and_take_turns() {
    let mut world = three_places();
    let order = |world: &World, id| {
        let reply = world.reply(&question("web.service.mesh.internal.", A, id, None), Transport::Udp);
        let last = |answer: &Record| answer.data.to_string().chars().next_back();
        reply.answers.iter().filter_map(last).collect::<String>()
    };
    assert_eq!([0, 1, 2, 3].map(|id| order(&world, id)), ["9578", "5789", "7895", "8957"]);
    world.config.prefer = Prefer::Zone;
    assert_eq!([0, 1, 2, 3].map(|id| order(&world, id)), ["7895", "8795", "7895", "8795"]);
    world.config.prefer = Prefer::Near;
    assert_eq!([0, 1].map(|id| order(&world, id)), ["5789", "5789"]);
}

#[test]
fn a_zone_preferred_shows_in_priorities() {
    let mut world = three_places();
    let priorities = |world: &World, zone: &str| {
        let reply = world.reply(&question(&format!("web.service.{zone}."), SRV, 0, None), Transport::Tcp);
        reply.answers.iter().filter_map(|answer| answer.data.to_string().chars().next()).collect::<String>()
    };
    assert_eq!(priorities(&world, "mesh.internal"), "1111");
    world.config.prefer = Prefer::Zone;
    assert_eq!(priorities(&world, "mesh.internal"), "1122");
    assert_eq!(priorities(&world, "consul"), "1111", "as Consul has it");
}

#[test]
fn who_is_not_allowed_is_refused() {
    let mut world = World::new();
    world.config.allow = vec!["198.51.100.0/24".parse().unwrap()];
    let refused = status(&world, "mesh.internal.", RecordType::SOA);
    assert_eq!(refused, ResponseCode::Refused);
    world.config.allow.push("192.0.2.0/24".parse().unwrap());
    assert_eq!(status(&world, "mesh.internal.", RecordType::SOA), ResponseCode::NoError);
}

#[test]
fn an_address_stands_once() {
    let world = World::new();
    let ports = [1, 2, 3].map(|port| {
        let mut registration = web("10.0.0.5");
        registration.port = Some(port.try_into().unwrap());
        on("n1", registration.id(format!("web-{port}").as_str().try_into().unwrap()))
    });
    world.service("web", ports.to_vec());
    assert_eq!(world.ask("web.service.mesh.internal.", A).answers.len(), 1);
    // HAProxy wants one address for each target: three targets of ours, one of Consul's.
    let [ours, consuls] = ["web.service.mesh.internal.", "web.service.consul."].map(|name| world.ask(name, SRV));
    assert_eq!((ours.answers.len(), ours.additionals.len()), (3, 3));
    assert_eq!((consuls.answers.len(), consuls.additionals.len()), (3, 1));
}

#[test]
fn weights_fit_haproxy_in_our_zones_and_stay_in_consuls() {
    let world = World::new();
    for (weight, ours) in [(0, 1), (1, 256), (3, 768), (255, 65_280), (256, 65_280), (65_535, 65_535)] {
        let mut registration = web("10.0.0.5");
        registration.weight = weight;
        registration.priority = 9;
        world.service("web", vec![on("n1", registration)]);
        let data = |zone: &str| world.ask(&format!("web.service.{zone}."), SRV).answers[0].data.to_string();
        assert!(data("mesh.internal").starts_with(&format!("9 {ours} 8080 i-")));
        assert_eq!(data("consul"), format!("1 {weight} 8080 0a000005.addr.dc1.consul."));
    }
    // Heavier ones share the range in their proportion.
    let heavy = |address: &str, weight| Registration { weight, ..web(address) };
    world.service("web", vec![on("n1", heavy("10.0.0.5", 1_000)), on("n2", heavy("10.0.0.6", 250))]);
    let mut weights: Vec<u16> = world.ask("web.service.mesh.internal.", SRV).answers.iter().map(weight_of).collect();
    weights.sort_unstable();
    assert_eq!(weights, [16_250, 65_000]);
}

fn weight_of(record: &Record) -> u16 {
    record.data.to_string().split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn an_alias_is_followed_as_far_as_we_know_the_way() {
    let world = World::new();
    let at = |name: &str, host: &str| {
        let mut registration = web("10.0.0.5");
        registration.address = Some(Host::Name(host.into()));
        world.service(name, vec![on("n1", registration)]);
    };
    at("web", "n1.node.mesh.internal");
    let reply = world.ask("web.service.mesh.internal.", A);
    let data: Vec<String> = reply.answers.iter().map(|record| record.data.to_string()).collect();
    assert_eq!(data, ["n1.node.mesh.internal.", "127.0.0.1"]);
    let reply = world.ask("web.service.mesh.internal.", AAAA);
    assert_eq!((reply.answers.len(), reply.authorities.len()), (1, 1), "it has no such address");
    // RFC 6604: the status is that of the last name.
    at("web", "nowhere.node.mesh.internal");
    assert_eq!(status(&world, "web.service.mesh.internal.", A), ResponseCode::NXDomain);
    at("web", "db.example.com");
    assert_eq!(world.ask("web.service.mesh.internal.", A).answers.len(), 1, "others know that name");
    at("web", "api.service.mesh.internal");
    at("api", "web.service.mesh.internal");
    assert!((2..20).contains(&world.ask("web.service.mesh.internal.", A).answers.len()), "a circle ends");
}

#[test]
fn others_are_asked_only_where_an_alias_leads_out_of_our_zones() {
    let mut world = World::new();
    world.config.forward = vec![([192, 0, 2, 53], 53).into()];
    world.config.forward_for = vec!["192.0.2.0/24".parse().unwrap()];
    let at = |name: &str, host: &str| {
        let host = Host::Name(host.into());
        world.service(name, vec![on("n1", web("10.0.0.5").address(host))]);
    };
    world.service("ill", vec![with_health(on("n1", web("10.0.0.5")), Health::Critical)]);
    at("nodata", "ill.service.mesh.internal");
    at("nothing", "ill.service.consul");
    at("here", "there.service.consul");
    at("there", "here.service.mesh.internal");
    for step in 0..10 {
        at(&format!("s{step}"), &format!("s{}.service.mesh.internal", step + 1));
    }
    at("abroad", "db.example.com");
    at("far", "abroad.service.consul");
    let foreign = |name: &str| {
        let packet = question(&format!("{name}.mesh.internal."), A, 7, None);
        world.face().respond(&packet, client(Transport::Tcp)).unwrap().foreign
    };
    for name in ["nodata", "nothing", "here", "s0", "s5"] {
        assert!(!foreign(&format!("{name}.service")), "{name}");
    }
    assert!(foreign("abroad.service") && foreign("far.service"));
    assert_eq!(status(&world, "nodata.service.mesh.internal.", A), ResponseCode::NoError);
    assert_eq!(status(&world, "nothing.service.mesh.internal.", A), ResponseCode::NXDomain);
    world.config.forward_for.clear();
    let packet = question("abroad.service.mesh.internal.", A, 7, None);
    assert!(!world.face().respond(&packet, client(Transport::Tcp)).unwrap().foreign, "who may not ask others");
}

#[test]
fn nothing_stands_below_a_datacenter_that_is_not_there() {
    let world = World::new();
    world.service("web", vec![on("n1", web("10.0.0.5"))]);
    for (name, kind) in [("_services._dns-sd._udp", RecordType::PTR), ("0a000005.addr", A), ("web.service", A)] {
        assert_eq!(status(&world, &format!("{name}.dc1.mesh.internal."), kind), ResponseCode::NoError, "{name}");
        assert_eq!(status(&world, &format!("{name}.nope.mesh.internal."), kind), ResponseCode::NXDomain, "{name}");
    }
}

#[test]
fn browsing_finds_no_instance_without_a_port() {
    let world = World::new();
    let portless = Registration { port: None, ..web("10.0.0.6") };
    world.service("web", vec![on("n1", web("10.0.0.5")), on("n2", portless.clone())]);
    world.service("bare", vec![on("n1", portless)]);
    assert_eq!(world.ask("_web._tcp.mesh.internal.", RecordType::PTR).answers.len(), 1);
    let kinds = world.ask("_services._dns-sd._udp.mesh.internal.", RecordType::PTR);
    assert_eq!(kinds.answers.len(), 1, "{:?}", kinds.answers);
}

#[test]
fn a_service_without_a_port_has_no_servers_of_ours() {
    let world = World::new();
    let mut registration = web("10.0.0.5");
    registration.port = None;
    world.service("web", vec![on("n1", registration)]);
    assert_eq!(world.told("web.service.mesh.internal.", SRV), "NoError:  | mesh.internal. SOA |");
    let reply = world.ask("web.service.consul.", SRV);
    assert_eq!(reply.answers[0].data.to_string(), "1 1 0 0a000005.addr.dc1.consul.");
}

#[test]
fn until_ready_every_name_of_ours_fails() {
    let world = World::new();
    world.view.set_ready(false);
    for name in ["web.service.mesh.internal.", "mesh.internal.", "x.consul.", "1.0.0.127.in-addr.arpa."] {
        let reply = world.ask(name, A);
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail, "{name}");
        assert!(reply.authorities.is_empty());
    }
    assert_eq!(status(&world, "example.com.", A), ResponseCode::Refused);
}

#[test]
fn names_of_others_are_refused() {
    let world = World::new();
    for name in ["example.com.", ".", "internal.", "notmesh.internal.", "arpa."] {
        let reply = world.ask(name, A);
        assert_eq!(reply.metadata.response_code, ResponseCode::Refused, "{name}");
        assert!(!reply.metadata.authoritative && reply.authorities.is_empty(), "{name}");
    }
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    let mut query = Query::query(Name::from_ascii("mesh.internal.").unwrap(), A);
    message.add_query(query.set_query_class(DNSClass::CH).clone());
    let reply = world.reply(&message.to_vec().unwrap(), Transport::Udp);
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
}

#[test]
fn a_ttl_is_what_the_settings_say() {
    let mut world = World::new();
    world.service("web", vec![on("n1", web("10.0.0.5"))]);
    assert_eq!(world.ask("web.service.mesh.internal.", A).answers[0].ttl, 0);
    world.config.ttl = std::time::Duration::from_secs(5);
    let reply = world.ask("web.service.mesh.internal.", SRV);
    assert_eq!((reply.answers[0].ttl, reply.additionals[0].ttl), (5, 5));
    assert_eq!(world.ask("web.service.mesh.internal.", RecordType::TXT).authorities[0].ttl, 0);
    world.config.negative_ttl = std::time::Duration::from_secs(3);
    assert_eq!(world.ask("web.service.mesh.internal.", RecordType::TXT).authorities[0].ttl, 3);
    world.config.service_ttl.insert("web".try_into().unwrap(), std::time::Duration::from_secs(9));
    assert_eq!(world.ask("web.service.mesh.internal.", A).answers[0].ttl, 9);
    assert_eq!(world.ask("n1.node.mesh.internal.", A).answers[0].ttl, 5);
}

#[test]
fn what_is_shown_as_it_last_was_is_kept_for_a_second() {
    let mut world = World::new();
    let held = Instance { held: Some(Held::CutOff(None)), ..on("n1", web("10.0.0.5")) };
    world.service("web", vec![held, on("n2", web("10.0.0.6"))]);
    assert_eq!(world.ask("web.service.mesh.internal.", A).answers[0].ttl, 0);
    world.config.ttl = std::time::Duration::from_secs(60);
    let reply = world.ask("web.service.mesh.internal.", SRV);
    assert!(reply.answers.iter().chain(&reply.additionals).all(|record| record.ttl == 1));
    assert_eq!(world.ask("n1.node.mesh.internal.", A).answers[0].ttl, 60);
    let reply = world.ask("5.0.0.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(reply.answers[0].ttl, 1, "{reply}");
    assert_eq!(world.ask("6.0.0.10.in-addr.arpa.", RecordType::PTR).answers[0].ttl, 60);
    // Who is Down and held is named, wherever who is Down is not.
    world.node(node("n2", &["127.0.0.2"]), MemberState::Alive);
    let n2 = world.view.node("n2").unwrap();
    for (held, code) in [(true, ResponseCode::NoError), (false, ResponseCode::NXDomain)] {
        let member = Member { state: MemberState::Down, held, ..Member::clone(&n2) };
        world.view.set_node(&n2.node.name, Some(member));
        let asked = ["n2.node.mesh.internal.", "n2.node.consul."].map(|name| world.ask(name, A));
        assert_eq!(asked[1].metadata.response_code, code);
        for reply in asked {
            assert_eq!(reply.answers.iter().map(|record| record.ttl).collect::<Vec<_>>(), vec![1; usize::from(held)]);
        }
    }
}

#[test]
fn the_names_of_consul_are_those_of_this_datacenter() {
    let world = World::new();
    let far = |address| {
        let mut far = on("n2", web(address));
        far.node = Arc::new(Node { datacenter: "dc2".into(), ..(*far.node).clone() });
        far
    };
    world.service("web", vec![on("n1", web("10.0.0.5")), far("10.0.0.5"), far("10.0.0.6")]);
    let count = |name| world.ask(name, SRV).answers.len();
    assert_eq!(count("web.service.mesh.internal."), 3);
    assert_eq!(["web.service.consul.", "web.service.dc1.consul.", "web.service.dc2.consul."].map(count), [1, 1, 2]);
    let reply = world.ask("web.service.dc2.consul.", SRV);
    let targets: Vec<_> = reply.additionals.iter().map(|record| record.name.to_string()).collect();
    assert_eq!(targets, ["0a000005.addr.dc2.consul.", "0a000006.addr.dc2.consul."]);
}

#[test]
fn no_set_holds_a_record_twice() {
    let world = World::new();
    let named = |id: &str, host: &str| Registration {
        id: id.try_into().unwrap(),
        address: Some(host.try_into().unwrap()),
        ..web("10.0.0.5")
    };
    world.service("web", vec![on("n1", named("a", "db.example.com")), on("n1", named("b", "db.example.com"))]);
    assert_eq!(world.ask("web.service.mesh.internal.", SRV).answers.len(), 1);
    world.service("web", vec![on("n1", named("a", "10.0.0.5")), on("n1", named("b", "10.0.0.5"))]);
    assert_eq!(world.ask("web.service.mesh.internal.", SRV).answers.len(), 2, "under a name of its own each");
    assert_eq!(world.ask("web.service.consul.", SRV).answers.len(), 1);
    // Round in a circle.
    world.service("web", vec![on("n1", named("a", "web.service.mesh.internal"))]);
    assert_eq!(world.ask("web.service.mesh.internal.", A).answers.len(), 1);
}

#[test]
fn what_is_cut_off_is_what_is_tried_last() {
    let world = World::new();
    let at =
        |node: usize, priority| on(&format!("n{node}"), Registration { priority, ..web(&format!("10.0.0.{node}")) });
    world.service("web", (1..60).map(|node| at(node, 9)).chain([at(60, 1)]).collect());
    let asked = question("web.service.mesh.internal.", RecordType::SRV, 7, Some(1232));
    let reply = world.reply(&asked, Transport::Udp);
    assert!(reply.metadata.truncation);
    assert!(reply.answers[0].data.to_string().starts_with("1 "), "{reply}");
}

#[test]
fn labels_are_tags_or_one_tag_with_dots() {
    let world = World::new();
    let tagged = |tag: &str| web("10.0.0.5").tag(tag.try_into().unwrap());
    world.service("web", vec![on("n1", tagged("V1.2.3"))]);
    for (name, found) in [("v1.2.3.web", 1), ("1.2.3.web", 0), ("v1.2.web", 0), ("v1.web", 0)] {
        assert_eq!(world.ask(&format!("{name}.service.consul."), A).answers.len(), found, "{name}");
    }
    for (name, exists) in [("2.3.web", true), ("3.web", true), ("1.2.web", false), ("v1.web", false)] {
        let code = if exists { ResponseCode::NoError } else { ResponseCode::NXDomain };
        for zone in ["mesh.internal.", "consul."] {
            assert_eq!(status(&world, &format!("{name}.service.{zone}"), A), code, "{name} {zone}");
        }
    }
    // With nothing healthy Consul's zone knows no such name, nor what leads to it.
    world.service("web", vec![with_health(on("n1", tagged("V1.2.3")), Health::Critical)]);
    for (zone, code) in [("mesh.internal.", ResponseCode::NoError), ("consul.", ResponseCode::NXDomain)] {
        assert_eq!(status(&world, &format!("3.web.service.{zone}"), A), code, "{zone}");
    }
}

#[test]
fn odd_names_of_datacenters_and_services_break_nothing() {
    let world = World::new();
    let long = "x".repeat(63);
    world.service(&long, vec![on("n1", Registration { name: long.as_str().try_into().unwrap(), ..web("10.0.0.5") })]);
    let mut odd = on("n2", web("10.0.0.6"));
    odd.node = Arc::new(Node { datacenter: "".into(), ..(*odd.node).clone() });
    world.service("odd", vec![odd]);
    assert_eq!(world.ask(&format!("{long}.service.mesh.internal."), SRV).answers.len(), 1);
    // `_` and 63 bytes are more than a label holds, so this service cannot be browsed.
    assert_eq!(world.ask("_services._dns-sd._udp.mesh.internal.", RecordType::PTR).answers.len(), 1);
    assert_eq!(world.ask("odd.service.mesh.internal.", SRV).answers.len(), 1);
}
