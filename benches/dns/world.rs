//! Our own server over a view of our own, without a mesh: what DNS costs, and nothing else.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RData, RecordType},
};
use hobnob::{
    agent::View,
    dns::{self, Config},
    mesh::{Instance, Member},
    model::{Epoch, Health, Host, MemberState, MeshName, Node, NodeId, Registration, ServiceName, Time},
};
use tokio_util::sync::CancellationToken;

/// A view that is ready, of a mesh of one node.
fn view() -> Arc<View> {
    let view = Arc::<View>::default();
    let node = node();
    let (state, since) = (MemberState::Alive, Time::ZERO);
    let id = NodeId::of(&mesh(), &node.name);
    let member = Member { id, node, state, epoch: Epoch(1), since, rtt: None, place: None, version: 1, held: false };
    view.set_node(&member.node.name.clone(), Some(member.clone()));
    view.set_this(member);
    view.set_ready(true);
    view
}

fn mesh() -> MeshName {
    "bench".try_into().unwrap()
}

fn node() -> Arc<Node> {
    let (name, version) = ("n1".try_into().unwrap(), "0".into());
    let addresses = vec![([127, 0, 0, 1], 7946).into()];
    Arc::new(Node {
        name,
        addresses,
        datacenter: "dc1".into(),
        zone: "".into(),
        version,
        meta: BTreeMap::new(),
        maintenance: None,
        voucher: bytes::Bytes::new(),
    })
}

/// Instance `at` of a service.
fn instance(node: &Arc<Node>, service: &str, at: usize) -> Instance {
    let [_, a, b, c] = u32::try_from(at).unwrap().to_be_bytes();
    let registration = Registration::new(service, 8080).unwrap();
    let registration = registration.id(format!("{service}-{at}").as_str().try_into().unwrap());
    let registration = registration.address(Host::Address([10, a, b, c].into()));
    Instance {
        owner: NodeId::of(&mesh(), &node.name),
        node: Arc::clone(node),
        registration: Arc::new(registration),
        report: Arc::default(),
        member: MemberState::Alive,
        held: None,
        host: Health::Passing,
    }
}

fn set(view: &View, node: &Arc<Node>, service: &str, at: usize) {
    let name = ServiceName::try_from(service).unwrap();
    view.set_service(&name, Some(vec![instance(node, service, at)]));
    view.advance();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// `--serve ADDRESS NAMES/CHANGES`: serves until it is killed, and makes so many changes a minute meanwhile.
pub(crate) fn serve(address: SocketAddr, load: &str) {
    let (names, changes) = load.split_once('/').unwrap();
    let (names, changes): (usize, u32) = (names.parse().unwrap(), changes.parse().unwrap());
    let (view, node) = (view(), node());
    for at in 0..names {
        set(&view, &node, &format!("s{at}"), at);
    }
    let runtime = runtime();
    let serving = dns::serve(Arc::clone(&view), Config::default(), address, CancellationToken::new());
    let _serving = runtime.block_on(serving).unwrap();
    let pause = Duration::from_secs(60).checked_div(changes).unwrap_or(Duration::MAX);
    let mut round = 0;
    loop {
        std::thread::sleep(pause);
        let at = round % names;
        round += 1;
        set(&view, &node, &format!("s{at}"), at + round);
    }
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

/// Changes a service and asks, again and again: no answer may be older than the change before its question.
pub(crate) fn freshness() {
    let (runtime, view, node) = (runtime(), view(), node());
    let stop = CancellationToken::new();
    let serving = dns::serve(Arc::clone(&view), Config::default(), ([127, 0, 0, 1], 0).into(), stop.clone());
    let serving = runtime.block_on(serving).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(serving.address()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let packet = question("web.service.mesh.internal.", RecordType::A);
    let (mut stale, mut reply) = (0, [0; 512]);
    for at in 1..=ROUNDS {
        set(&view, &node, "web", at);
        socket.send(&packet).unwrap();
        let length = socket.recv(&mut reply).unwrap();
        let [_, a, b, c] = u32::try_from(at).unwrap().to_be_bytes();
        stale += usize::from(!reply[..length].ends_with(&[10, a, b, c]));
    }
    println!("| answers older than the view, of {ROUNDS} asked right after a change | {stale} | 0 |");
    stop.cancel();
}

/// All of 10,000 instances over TCP, as far as one message holds them.
pub(crate) fn whole_over_tcp() {
    let (runtime, view, node) = (runtime(), view(), node());
    let instances = (0..CROWD).map(|at| instance(&node, "web", at)).collect();
    view.set_service(&ServiceName::try_from("web").unwrap(), Some(instances));
    view.advance();
    let serving = dns::serve(view, Config::default(), ([127, 0, 0, 1], 0).into(), CancellationToken::new());
    let serving = runtime.block_on(serving).unwrap();
    for kind in [RecordType::SRV, RecordType::A] {
        let mut stream = TcpStream::connect(serving.address()).unwrap();
        let packet = question("web.service.mesh.internal.", kind);
        let begun = Instant::now();
        stream.write_all(&[&u16::try_from(packet.len()).unwrap().to_be_bytes()[..], &packet].concat()).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut reply).unwrap();
        let (took, reply) = (begun.elapsed().as_secs_f64() * 1e3, Message::from_vec(&reply).unwrap());
        let found = reply.answers.iter().filter(|answer| !matches!(answer.data, RData::CNAME(_))).count();
        let cut = if found < CROWD { "as many as a message of 65,535 bytes holds" } else { "complete" };
        println!("| {CROWD} instances, {kind} over TCP | {found} in {took:.1} ms, {cut} | complete, 10 ms |");
    }
}

const ROUNDS: usize = 20_000;
const CROWD: usize = 10_000;
