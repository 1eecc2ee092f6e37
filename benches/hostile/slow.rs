//! Ten thousand clients who begin a request and never end it.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    Effort, Row,
    fleet::{Recipe, home, metric},
    machine::usage,
    row,
    talk::Client,
};

/// The rows for a crowd of slow clients.
pub(crate) fn slow(effort: Effort) -> Vec<Row> {
    let count = effort.pick(10_000, 300);
    let home = home();
    let agent = Recipe::new(home.path(), "n0").start();
    let ready = agent.ready();
    // Pages that a server touches once it has served at all are none of theirs.
    metric(ready.http, HELD);
    sleep(SETTLE);
    let before = usage(ready.pid).rss_mb;
    let began = Instant::now();
    let open = |_| {
        let mut stream = TcpStream::connect(ready.http).unwrap();
        stream.write_all(b"GET /api/v1/status HTTP/1.1\r\nHost: loc").unwrap();
        stream
    };
    let crowd: Vec<TcpStream> = (0..count).map(open).collect();
    let opened = began.elapsed();
    while metric(ready.http, HELD) < f64::from(count) {
        assert!(began.elapsed() < ON_TIME, "they are not all held: {}", metric(ready.http, HELD));
        sleep(LOOK);
    }
    let most = usage(ready.pid).rss_mb;
    // Who is honest is served meanwhile.
    let asked = Instant::now();
    assert_eq!(Client::connect(ready.http).call("GET", "/api/v1/status", "").0, 200);
    let answered = asked.elapsed();
    let told = crowd.into_iter().filter(is_told).count();
    let closed = began.elapsed();
    let after = usage(ready.pid).rss_mb;
    vec![
        row(
            format!("{count} slow HTTP connections, each with half a request: memory for all of them"),
            "100 MB",
            format!("{:.1} MB; {after:.1} MB after them, {before:.1} MB before", most - before),
            "",
        ),
        row(
            format!("the same, all closed, since the first was opened ({:.1} s to open them)", opened.as_secs_f64()),
            "on time: 10 s each",
            format!(
                "{:.1} s; {told} were told 408; another client had its answer in {:.1} ms",
                closed.as_secs_f64(),
                answered.as_secs_f64() * 1e3
            ),
            "",
        ),
    ]
}

/// Waits for the end of a connection: whether it was said why.
fn is_told(mut stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(ON_TIME)).unwrap();
    let mut heard = Vec::new();
    let ended = stream.read_to_end(&mut heard);
    assert!(ended.is_ok(), "a connection is not closed in time: {ended:?}");
    heard.starts_with(b"HTTP/1.1 408 ")
}

const HELD: &str = "hobnob_http_connections_held";
const SETTLE: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(20);
/// Deadline and last word together, and some time to open them all.
const ON_TIME: Duration = Duration::from_secs(30);
