//! A view for tests: nodes a (this one), b (suspect) and c (down), an instance of web on each; that on c is not shown.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    agent::{Service, View},
    mesh::{Instance, Member, Place},
    model::{CheckStatus, Epoch, Health, HealthReport, MemberState, Node, NodeId, Registration, Time},
};

fn member(name: &str, last: u8, state: MemberState, rtt: Option<u64>) -> Member {
    let mesh = "test".try_into().unwrap();
    let node = Node {
        name: name.try_into().unwrap(),
        addresses: vec![([10, 0, 0, last], 7946).into()],
        datacenter: "dc1".into(),
        zone: format!("z{last}").into(),
        version: "0.1.0".into(),
        meta: BTreeMap::new(),
        maintenance: None,
        voucher: bytes::Bytes::new(),
    };
    Member {
        id: NodeId::of(&mesh, &node.name),
        node: Arc::new(node),
        state,
        epoch: Epoch(5),
        since: Time::ZERO,
        rtt: rtt.map(Duration::from_micros),
        // On a line, so that b stands between a and c.
        place: Some(Place { at: [f32::from(last) / 1e3, 0.0, 0.0, 0.0], height: 1e-5, error: 0.1 }),
        version: 1,
        held: false,
    }
}

fn members() -> [Member; 3] {
    [
        member("a", 1, MemberState::Alive, Some(0)),
        member("b", 2, MemberState::Suspect, Some(1_250)),
        member("c", 3, MemberState::Down, None),
    ]
}

/// The service web: on a and c passing, on b critical by a check that lies about its time.
pub(in crate::http) fn web() -> Service {
    let instance = |member: &Member, id: &str, tag: &str, checks| Instance {
        owner: member.id,
        node: Arc::clone(&member.node),
        registration: Arc::new(
            Registration::new("web", 8080)
                .unwrap()
                .id(id.try_into().unwrap())
                .tag(tag.try_into().unwrap())
                .meta("k", "v"),
        ),
        report: Arc::new(HealthReport { checks, ..HealthReport::default() }),
        member: member.state,
        held: None,
        host: Health::Passing,
    };
    let late = CheckStatus {
        id: "ttl-1".try_into().unwrap(),
        name: "ttl-1".try_into().unwrap(),
        status: Health::Critical,
        output: "late".into(),
        since: u64::MAX,
        before: None,
    };
    let [a, b, c] = members();
    let instances = vec![
        instance(&a, "web-1", "v2", Vec::new()),
        instance(&b, "web-2", "v2", vec![late]),
        instance(&c, "web-3", "blue", Vec::new()),
    ];
    Service { name: "web".try_into().unwrap(), instances, beside: Vec::new(), index: 2 }
}

/// All of them, published.
pub(in crate::http) fn view() -> View {
    let view = View::default();
    for member in members() {
        view.set_node(&member.node.name.clone(), Some(member));
    }
    let [a, ..] = members();
    view.set_this(a);
    let web = web();
    view.set_service(&web.name, Some(web.instances));
    view.set_ready(true);
    view
}
