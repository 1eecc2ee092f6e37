//! A stranger who sends noise to the mesh's port, as fast as the table says.

use std::{thread::sleep, time::Duration};

use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg32;

use crate::{
    Effort, Row,
    fleet::Fleet,
    flood::Flood,
    machine::usage,
    row,
    work::{Work, work},
};

/// The rows for a mesh of three under noise.
pub(crate) fn garbage(effort: Effort) -> Vec<Row> {
    let time = Duration::from_secs(effort.pick(60, 2));
    let fleet = Fleet::start(3);
    sleep(SETTLE);
    drop(work(&fleet, "warm", SETTLE));
    let calm = work(&fleet, "calm", time);
    let before = usage(fleet.ready[0].pid).rss_mb;
    let mut random = Pcg32::seed_from_u64(7);
    let flood = Flood::start(fleet.ready[0].mesh, RATE, move |packet| noise(&mut random, packet));
    let wild = work(&fleet, "wild", time);
    let rate = flood.stop();
    rows(
        &format!("{rate:.0} malformed datagrams a second at one of three nodes, {} s", time.as_secs()),
        &calm,
        &wild,
        before,
    )
}

/// What both floods are judged by.
pub(crate) fn rows(what: &str, calm: &Work, wild: &Work, before: f64) -> Vec<Row> {
    let times = |work: &Work| format!("{:.2} / {:.2} ms", work.spans.millis(0.5), work.spans.millis(0.99));
    vec![
        row(
            format!("{what}: register on it to right DNS answer on every node, p50 / p99 of {}", wild.rounds),
            "p99 at most doubled",
            format!("{}, without {}", times(wild), times(calm)),
            "",
        ),
        row(
            "the same, resident memory of that node at its largest, and its processor",
            "flat",
            format!(
                "{:.1} MB, before {before:.1} MB; {:.0} % of a core, without {:.0} %",
                wild.most_mb,
                wild.core * 100.0,
                calm.core * 100.0
            ),
            "",
        ),
    ]
}

/// A third each: bytes; what looks like the first packet of a caller (RFC 9000 section 17.2.2), which has to be
/// decrypted to be seen through; what looks like a packet of a connection (section 17.3.1), which there is none of.
fn noise(random: &mut Pcg32, packet: &mut Vec<u8>) {
    let kind = random.random_range(0..3);
    packet.resize(if kind == 1 { 1200 } else { random.random_range(1..1200) }, 0);
    random.fill_bytes(packet);
    match kind {
        1 => {
            // Version 1, ids of eight bytes, no token, and a length that reaches to the end.
            packet[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
            packet[14] = 8;
            packet[23..26].copy_from_slice(&[0, 0x44, 0x96]);
        }
        2 => packet[0] = 0x40 | packet[0] & 0x3f,
        _ => {}
    }
}

const RATE: u32 = 10_000;
const SETTLE: Duration = Duration::from_secs(3);
