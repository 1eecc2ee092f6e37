//! What it costs that nobody can forge another's book: `cargo bench --bench signing [-- --quick]`, as a table in Markdown.
//!
//! Two cores in one process, wired to each other: the first registers, the second takes in what the first has signed.
//! The same with a notary that signs nothing shows what the rest costs. One core, CPU time of this thread alone.

#![allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

use std::{sync::Arc, time::Duration};

use hobnob::{
    agent::{Secret, trust},
    mesh::{Command, Config, Input, Mesh, Numbers, Output, SharedNotary},
    model::{Epoch, MeshName, Node, NodeName, Registration, Time},
};
use rustix::time::{ClockId, clock_gettime};

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let rounds = if quick { 200 } else { 5_000 };
    let secret = [Secret::random()];
    let sealed = |node: &str| trust::notary(&mesh_name(), &name(node), &secret).unwrap();
    let (writer, reader) = (sealed("writer"), sealed("reader"));

    println!("| figure | target | measured |\n|---|---|---|");
    for (what, size) in [("one row", 200), ("16 KiB", 16 << 10)] {
        let page = vec![7; size];
        let signature = writer.sign(&page);
        let sign = each(rounds, |_| assert_ne!(std::hint::black_box(writer.sign(&page)), [0; 64]));
        let key = writer.own_key();
        let verify = each(rounds, |_| assert!(reader.is_signed(&key, &page, &signature)));
        println!("| signing a page of {what} | | {sign:.1} µs |");
        println!("| verifying a page of {what} | 60 µs | {verify:.1} µs |");
    }
    let (voucher, millis) = (writer.voucher(), unix_millis());
    let vouch = each(rounds, |_| assert!(reader.vouched(&name("writer"), &voucher, millis).is_ok()));
    println!("| checking a voucher, once for each process of a peer | | {vouch:.1} µs |");
    let (writer_is, proved) = (name("writer"), reader.vouched(&name("writer"), &voucher, millis).unwrap());
    let again = each(rounds, |_| assert!(reader.objection(&writer_is, Some(&proved), millis).is_none()));
    println!("| asking again what it is worth, at each word of the authority | | {again:.2} µs |");

    let signed = take_in(rounds, [sealed("writer"), sealed("reader")]);
    let bare = |node: &str| -> SharedNotary { Arc::new(Numbers::new(1, &name(node), 1)) };
    let unsigned = take_in(rounds, [bare("writer"), bare("reader")]);
    for (what, [with, without]) in [("writing", [signed.0, unsigned.0]), ("taking in", [signed.1, unsigned.1])] {
        println!("| {what} a registration, all of the core; without signatures | | {with:.1} µs; {without:.1} µs |");
    }
}

/// Microseconds of processor to register one instance, and to take that in as another member.
fn take_in(rounds: u32, notaries: [SharedNotary; 2]) -> (f64, f64) {
    let [a, b] = notaries;
    let mut writer = core("writer", 1, a);
    let mut reader = core("reader", 2, b);
    let (to_reader, to_writer) = (writer.hello(), reader.hello());
    reader.handle(Time::ZERO, Input::Connected(to_reader));
    writer.handle(Time::ZERO, Input::Connected(to_writer));
    settle(Time::ZERO, &mut writer, &mut reader);
    let (mut writing, mut reading) = (0.0, 0.0);
    for round in 1..=rounds {
        // Each long after the last, so that it leaves at once and alone.
        let now = Time::after_start(Duration::from_millis(u64::from(round) * 10));
        let registration = Registration::new("web", u16::try_from(1 + round % 60_000).unwrap()).unwrap();
        let started = cpu();
        writer.command(now, Command::Register(Arc::new(registration))).unwrap();
        let packets = said(&mut writer);
        writing += cpu() - started;
        let started = cpu();
        packets.into_iter().for_each(|packet| reader.handle(now, packet));
        while reader.poll().is_some() {}
        reading += cpu() - started;
        writer.handle(now, Input::Wake);
        while writer.poll().is_some() {}
    }
    let shown = reader.service(&"web".try_into().unwrap()).map_or(0, |instances| instances.len());
    assert_eq!(shown, 1, "the reader believes the writer");
    (writing / f64::from(rounds), reading / f64::from(rounds))
}

fn settle(now: Time, a: &mut Mesh, b: &mut Mesh) {
    loop {
        let [to_b, to_a] = [&mut *a, &mut *b].map(said);
        if to_a.is_empty() && to_b.is_empty() {
            return;
        }
        to_b.into_iter().for_each(|packet| b.handle(now, packet));
        to_a.into_iter().for_each(|packet| a.handle(now, packet));
    }
}

fn said(by: &mut Mesh) -> Vec<Input> {
    let outputs: Vec<Output> = std::iter::from_fn(|| by.poll()).collect();
    outputs.into_iter().filter_map(|output| input(by, output)).collect()
}

fn input(from: &Mesh, output: Output) -> Option<Input> {
    match output {
        Output::Packet(_, bytes) => Some(Input::Packet(from.id(), bytes)),
        Output::Message(_, bytes) => Some(Input::Message(from.id(), bytes)),
        _ => None,
    }
}

fn core(node: &str, n: u16, notary: SharedNotary) -> Mesh {
    let node = Node {
        name: name(node),
        addresses: vec![([127, 0, 0, 1], n).into()],
        datacenter: "dc1".into(),
        zone: "".into(),
        version: "0".into(),
        meta: std::collections::BTreeMap::new(),
        maintenance: None,
        voucher: bytes::Bytes::new(),
    };
    let (epoch, unix_millis) = (Epoch(unix_millis()), unix_millis());
    let config = Config {
        mesh: mesh_name(),
        node,
        known: std::collections::BTreeMap::new(),
        epoch,
        boot: 1,
        seed: 1,
        unix_millis,
        notary,
    };
    let mut mesh = Mesh::new(config, Vec::new(), Time::ZERO);
    mesh.command(Time::ZERO, Command::Join(Vec::new())).unwrap();
    mesh
}

fn mesh_name() -> MeshName {
    "bench".try_into().unwrap()
}

fn name(node: &str) -> NodeName {
    node.try_into().unwrap()
}

fn unix_millis() -> u64 {
    u64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap()
}

/// Microseconds of processor for one of so many.
fn each(rounds: u32, mut once: impl FnMut(u32)) -> f64 {
    let started = cpu();
    (0..rounds).for_each(&mut once);
    (cpu() - started) / f64::from(rounds)
}

/// Microseconds of processor that this thread has had.
fn cpu() -> f64 {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    spent.tv_sec as f64 * 1e6 + spent.tv_nsec as f64 / 1e3
}
