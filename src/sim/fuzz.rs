//! What the fuzzer and the test over its corpus call: a mesh of honest cores, and one member that says what it is told to.

use std::time::Duration;

use bytes::Bytes;

use super::world::{Settings, World, number};
use crate::{
    mesh::{Gone, Input, wire},
    model::{InstanceId, NodeId, Registration},
};

/// Drives four machines by a program, with every law checked after every step. Each order is a kind, two bytes of length
/// and a body. The last machine lies: besides what its own core says it sends what the program holds. When all is said
/// it is switched off, and the honest must agree again and show what they have registered.
///
/// # Panics
/// When a law is broken.
pub fn mesh(program: &[u8]) {
    let settings = Settings { replay: "this input", ..Settings::seeded(1) };
    let mut world = World::warm(settings, MACHINES);
    let liar = world.id(LIAR);
    world.oracle.corrupt(liar);
    (0..LIAR).for_each(|n| register(&mut world, n, 0));
    let mut rest = program;
    for _ in 0..MAX_ORDERS {
        let [kind, high, low, after @ ..] = rest else { break };
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (body, after) = after.split_at(length);
        rest = after;
        carry_out(&mut world, *kind, body);
        world.run(STEP);
    }
    world.heal();
    world.crash(LIAR);
    for n in 0..LIAR {
        world.resume(n);
        world.start(n);
    }
    world.converge(PATIENCE);
}

fn carry_out(world: &mut World, kind: u8, body: &[u8]) {
    let to = usize::from(kind >> 4) % LIAR;
    let operand = body.first().copied().unwrap_or_default();
    let liar = world.id(LIAR);
    match kind % 16 {
        0..=5 => say(world, to, kind, body),
        6 => tell(world, to, Input::Rtt(liar, Duration::from_micros(u64::from(operand) << 8))),
        7 => {
            let ends = [Gone::Left, Gone::Reset, Gone::Closed, Gone::Lost, Gone::Expelled];
            tell(world, to, Input::Disconnected(liar, ends[usize::from(operand) % ends.len()]));
        }
        8 => tell(world, to, Input::Garbage(liar, "what could not be handed over")),
        9 => register(world, to, operand),
        10 => {
            if let Ok(id) = InstanceId::try_from(format!("i{}", operand % 4).as_str()) {
                world.deregister(to, &id);
            }
        }
        11 => world.crash(to),
        12 => world.start(to),
        13 if operand % 2 == 0 => world.pause(to),
        13 => world.resume(to),
        14 if operand % 2 == 0 => world.cut(&[to], &[(to + 1) % LIAR]),
        14 => world.heal(),
        _ => world.run(Duration::from_millis(u64::from(operand) * 10)),
    }
}

/// What a connection brings; the version is ours, so that the rest is read.
fn say(world: &mut World, to: usize, kind: u8, body: &[u8]) {
    let limit = if kind.is_multiple_of(2) { wire::MAX_PACKET } else { wire::MAX_MESSAGE };
    let mut bytes = vec![wire::VERSION];
    bytes.extend_from_slice(&body[..body.len().min(limit - 1)]);
    let (from, bytes): (NodeId, Bytes) = (world.id(LIAR), bytes.into());
    tell(world, to, if kind.is_multiple_of(2) { Input::Packet(from, bytes) } else { Input::Message(from, bytes) });
}

fn tell(world: &mut World, to: usize, input: Input) {
    if world.is_awake(number(to)) {
        world.deliver(number(to), input);
    }
}

fn register(world: &mut World, n: usize, operand: u8) {
    if world.mesh(n).is_none() {
        return;
    }
    let id = InstanceId::try_from(format!("i{}", operand % 4).as_str()).expect("a valid id");
    let port = u16::from(operand / 4) + 1;
    world.register(n, Registration::new("web", port).expect("a valid port").id(id));
}

const MACHINES: usize = 4;
/// The last one.
const LIAR: usize = MACHINES - 1;
/// What fits into an input for a fuzzer is more than it can learn from.
const MAX_ORDERS: usize = 64;
const STEP: Duration = Duration::from_millis(20);
/// As in the swarm: who flapped too often is shown late.
const PATIENCE: Duration = Duration::from_secs(300);
