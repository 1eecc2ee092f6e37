//! Real servers on loopback for each kind of check.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    process::{Child, Command},
    time::timeout,
};

use super::*;
use crate::{
    agent::birth,
    mesh::Input,
    model::{CheckDraft, CheckSpec, ProcessRef, Registration},
};

/// Long beyond what any of this takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Long enough for an answer, short enough to wait for none.
const BRIEF: Duration = Duration::from_millis(300);

/// The engine with one instance, whose node is on loopback.
struct Bench {
    checks: Checks,
    found: mpsc::Receiver<Arrival>,
}

impl Bench {
    fn new(config: &Config) -> Self {
        let (sender, found) = mpsc::channel(64);
        Self { checks: Checks::start(config, &Arc::default(), &Arc::default(), sender), found }
    }

    fn watch(&self, port: u16, checks: Vec<CheckSpec>) {
        self.watch_as("web", port, checks);
    }

    fn watch_as(&self, id: &str, port: u16, checks: Vec<CheckSpec>) {
        let registration =
            Registration { checks, ..Registration::new("web", port).unwrap() }.id(id.try_into().unwrap());
        self.checks.watch(&Arc::new(registration), Host::Address([127, 0, 0, 1].into()));
    }

    async fn next(&mut self) -> (Health, String) {
        match timeout(PATIENCE, self.found.recv()).await.expect("a result in time").unwrap() {
            Arrival::Input(Input::Checked { status, output, .. }) => (status, output.to_string()),
            _ => panic!("the engine tells of nothing but checks"),
        }
    }

    /// The next result of that status.
    async fn until(&mut self, status: Health) -> String {
        loop {
            let (found, output) = self.next().await;
            if found == status {
                return output;
            }
        }
    }
}

fn spec(draft: CheckDraft) -> CheckSpec {
    draft.build(0, "check").unwrap()
}

/// The first result of one check of an instance at `port`.
async fn first(port: u16, draft: CheckDraft) -> (Health, String) {
    let mut bench = Bench::new(&Config { scripts: true, ..Config::default() });
    bench.watch(port, vec![spec(draft)]);
    bench.next().await
}

/// A server that answers every connection with these bytes, and where it is. It ends with its test's runtime.
async fn server(answer: impl Into<Vec<u8>>) -> SocketAddr {
    let (listener, answer) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), answer.into());
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&answer).await;
            });
        }
    });
    at
}

async fn http(answer: &str, change: impl FnOnce(CheckDraft) -> CheckDraft) -> (Health, String) {
    let at = server(answer.replace('\n', "\r\n")).await;
    first(at.port(), change(CheckDraft::http("/health"))).await
}

#[tokio::test]
async fn http_goes_by_the_status() {
    for (answer, status, said) in [
        ("HTTP/1.1 200 OK\ncontent-length: 5\n\nhello", Health::Passing, "HTTP 200 OK: hello"),
        ("HTTP/1.1 204 No Content\n\n", Health::Passing, "HTTP 204"),
        ("HTTP/1.1 429 Too Many Requests\ncontent-length: 0\n\n", Health::Warning, "HTTP 429"),
        ("HTTP/1.1 500 No\ncontent-length: 3\n\nbad", Health::Critical, "bad"),
        ("HTTP/1.1 302 Found\nlocation: /\ncontent-length: 0\n\n", Health::Critical, "set `redirects`"),
        ("HTTP/1.1 200 OK\n\nuntil the end", Health::Passing, "until the end"),
        ("no such protocol\n\n", Health::Critical, "no HTTP answer"),
    ] {
        let (found, output) = http(answer, |draft| draft).await;
        assert!(found == status && output.contains(said), "{answer}: {found} {output}");
    }
}

#[tokio::test]
async fn http_goes_by_what_is_expected() {
    let answer = "HTTP/1.1 404 Not Found\ncontent-length: 5\n\nhello";
    let with = |status: &str, contains: &str| {
        let (status, contains) = (crate::model::StatusDraft(vec![status.into()]), Some(contains.to_owned()));
        move |draft| CheckDraft { status: Some(status), contains, ..draft }
    };
    assert_eq!(http(answer, with("404", "ell")).await.0, Health::Passing);
    let (status, output) = http(answer, with("4xx", "bye")).await;
    assert!(status == Health::Critical && output.contains("\"bye\" is not in"), "{output}");
}

#[tokio::test]
async fn http_sends_what_it_is_told_to() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let draft = CheckDraft {
        method: Some("post".into()),
        body: Some("ping".into()),
        host: Some("web.example".into()),
        headers: Some([("x-key".to_owned(), "7".to_owned())].into()),
        ..CheckDraft::http("/a?b")
    };
    let bench = Bench::new(&Config::default());
    bench.watch(listener.local_addr().unwrap().port(), vec![spec(draft)]);
    let (mut stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let mut request = String::new();
    while !request.ends_with("ping") {
        let mut buffer = [0; 1024];
        let count = timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap().unwrap();
        request.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    assert!(request.starts_with("POST /a?b HTTP/1.1\r\n"), "{request}");
    for header in ["host: web.example\r\n", "x-key: 7\r\n", "user-agent: hobnob/", "content-length: 4\r\n"] {
        assert!(request.contains(header), "{header} in {request}");
    }
}

#[tokio::test]
async fn a_redirect_is_followed_as_often_as_the_check_says_and_never_past_the_policy() {
    let good = server("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let to = |location: String| format!("HTTP/1.1 302 Found\nlocation: {location}\ncontent-length: 0\n\n");
    let once = |draft| CheckDraft { redirects: Some(1), ..draft };
    assert_eq!(http(&to(format!("http://{good}/")), once).await.0, Health::Passing);
    let (status, output) = http(&to("http://169.254.169.254/latest".into()), once).await;
    assert!(status == Health::Critical && output.contains("may not be reached"), "{output}");
    let (status, output) = http(&to("/again".into()), once).await;
    assert!(status == Health::Critical && output == "was redirected more than 1 times; HTTP 302 Found", "{output}");
}

#[tokio::test]
async fn an_endless_answer_is_read_to_the_limit_and_garbage_can_be_shown() {
    let endless = [b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n".to_vec(), vec![0xff; 1 << 20]].concat();
    let (status, output) = first(server(endless).await.port(), CheckDraft::http("/")).await;
    assert_eq!(status, Health::Passing);
    assert!(output.starts_with("HTTP 200 OK: \u{fffd}\u{fffd}"), "{output}");
}

#[tokio::test]
async fn of_an_answer_that_hangs_is_told_what_came() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bench = first(listener.local_addr().unwrap().port(), CheckDraft::http("/").within(BRIEF * 20));
    let answer = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await.unwrap();
        stream
    };
    let (found, _open) = tokio::join!(bench, answer);
    assert_eq!(found, (Health::Critical, "HTTP 200 OK, and no end of its body in time: half".into()));
}

#[tokio::test]
async fn who_never_answers_is_critical_in_time_and_holds_up_nobody() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good = server("x").await;
    let mut bench = Bench::new(&Config::default());
    let hung = |n: usize| {
        let draft = CheckDraft::http(&format!("http://{}/{n}", silent.local_addr().unwrap()));
        spec(draft.named(&format!("hung {n}")).within(PATIENCE * 10))
    };
    // All places that the silent one has are theirs. Whoever comes after them still looks at it, and at its neighbour.
    bench.watch(1, (0..64).map(hung).collect());
    for (n, at) in [silent.local_addr().unwrap(), good].into_iter().enumerate() {
        bench.watch_as(&format!("other {n}"), at.port(), vec![spec(CheckDraft::tcp(""))]);
        assert_eq!(bench.next().await, (Health::Passing, format!("connected to {at}")));
    }
    let (status, output) =
        first(silent.local_addr().unwrap().port(), CheckDraft::http("/").every(BRIEF).within(BRIEF)).await;
    assert_eq!((status, &*output), (Health::Critical, "no answer within 300ms"));
}

#[tokio::test]
async fn metadata_and_what_the_operator_forbids_is_not_reached() {
    let good = server("x").await;
    for draft in [
        CheckDraft::http("http://169.254.169.254/latest/meta-data"),
        CheckDraft::tcp("[fe80::1]:80"),
        CheckDraft { udp: Some("169.254.0.1:53".into()), ..CheckDraft::default() },
        CheckDraft { dns: Some("169.254.0.1:53".into()), ..CheckDraft::default() },
        CheckDraft::grpc("[fd00:ec2::254]:80"),
    ] {
        let (status, output) = first(1, draft).await;
        assert!(status == Health::Critical && output.contains("may not be reached by checks"), "{output}");
    }
    let deny = vec!["127.0.0.0/8".parse().unwrap()];
    let mut bench = Bench::new(&Config { deny, ..Config::default() });
    bench.watch(good.port(), vec![spec(CheckDraft::tcp(""))]);
    assert!(bench.until(Health::Critical).await.contains("may not be reached by checks"));
}

#[tokio::test]
async fn tcp_connects_and_listens() {
    let at = server("HELLO there").await;
    assert_eq!(first(at.port(), CheckDraft::tcp("")).await.0, Health::Passing);
    let says =
        |expect: &str| CheckDraft { send: Some("HI".into()), expect: Some(expect.into()), ..CheckDraft::tcp("") };
    assert_eq!(first(at.port(), says("LO th")).await.0, Health::Passing);
    assert_eq!(first(at.port(), says("bye")).await.0, Health::Critical);
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (status, output) = first(gone.port(), CheckDraft::tcp("")).await;
    assert!(status == Health::Critical && output.contains("cannot connect"), "{output}");
}

#[tokio::test]
async fn udp_wants_an_answer() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let draft = || CheckDraft { udp: Some(String::new()), send: Some("ping".into()), ..CheckDraft::default() };
    let silent = first(port, draft().within(BRIEF)).await;
    assert_eq!(silent, (Health::Critical, "no answer within 300ms".into()));
    tokio::spawn(async move {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&buffer[..length], from).await;
        }
    });
    assert_eq!(first(port, draft()).await, (Health::Passing, "ping".into()));
    let line = || Some("ping\r\n".to_owned());
    assert_eq!(first(port, CheckDraft { send: line(), expect: line(), ..draft() }).await.0, Health::Passing);
    let other = CheckDraft { expect: Some("pong".into()), ..draft() };
    assert_eq!(first(port, other).await.0, Health::Critical);
}

#[tokio::test]
async fn a_name_s_other_addresses_are_asked_when_one_fails_or_says_nothing() {
    let bind = async || UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (silent, good) = (bind().await, bind().await);
    let [first, last] = [&silent, &good].map(|socket| socket.local_addr().unwrap());
    let gone = bind().await.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = good.recv_from(&mut buffer).await {
            let _ = good.send_to(&buffer[..length], from).await;
        }
    });
    let ask = |address| udp::ask(address, b"ping");
    for addresses in [vec![last], vec![first, last], vec![gone, last], vec![gone, first, gone, last], vec![last, first]]
    {
        assert_eq!(timeout(PATIENCE, dial::first_of(addresses, ask)).await.unwrap().unwrap(), b"ping");
    }
    assert_eq!(timeout(PATIENCE, dial::first_of(vec![gone, gone], ask)).await.unwrap().unwrap_err().0, gone);
}

#[tokio::test]
async fn dns_asks_and_compares() {
    use hickory_proto::{
        op::Message,
        rr::{RData, Record, rdata::A},
    };
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = socket.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let mut reply = Message::from_vec(&buffer[..length]).unwrap();
            reply.metadata.message_type = hickory_proto::op::MessageType::Response;
            let name = reply.queries[0].name().clone();
            if name.to_string() == "web.example." {
                reply.add_answer(Record::from_rdata(name, 1, RData::A(A::new(10, 0, 0, 1))));
            }
            let _ = socket.send_to(&reply.to_vec().unwrap(), from).await;
        }
    });
    let asks = |query: &str, expect: Option<&str>| CheckDraft {
        dns: Some(server.clone()),
        query: Some(query.into()),
        expect: expect.map(String::from),
        ..CheckDraft::default()
    };
    assert_eq!(first(1, asks("web.example", None)).await, (Health::Passing, "web.example: 10.0.0.1".into()));
    assert_eq!(first(1, asks("web.example", Some("10.0.0.1"))).await.0, Health::Passing);
    assert_eq!(first(1, asks("web.example", Some("10.0.0.2"))).await.0, Health::Critical);
    assert_eq!(first(1, asks("db.example", None)).await.0, Health::Critical);
    let alone = CheckDraft { dns: Some(server.clone()), ..CheckDraft::default() };
    assert_eq!(first(1, alone).await.0, Health::Passing);
}

fn script(words: &[&str]) -> CheckDraft {
    CheckDraft { script: Some(words.iter().map(ToString::to_string).collect()), ..CheckDraft::default() }
}

#[tokio::test]
async fn a_script_goes_by_its_exit_code_and_its_output_is_cut() {
    let sh = |line: &str| script(&["/bin/sh", "-c", line]);
    assert_eq!(first(7, sh("echo up $HOBNOB_PORT")).await, (Health::Passing, "up 7".into()));
    assert_eq!(first(1, sh("echo hm >&2; exit 1")).await, (Health::Warning, "hm".into()));
    assert_eq!(first(1, sh("echo no; exit 3")).await, (Health::Critical, "exit status: 3: no".into()));
    let (status, output) = first(1, sh("head -c 1000000 /dev/zero | tr '\\0' 'x'")).await;
    assert_eq!((status, output.len()), (Health::Passing, MAX_OUTPUT));
    let (status, output) = first(1, script(&["/no/such/program"])).await;
    assert!(status == Health::Critical && output.contains("cannot run"), "{output}");
    let off = Config::default();
    let mut bench = Bench::new(&off);
    bench.watch(1, vec![spec(sh("true"))]);
    assert!(bench.next().await.1.contains("script checks are off"));
}

#[tokio::test]
async fn scripts_that_hang_hold_up_no_other() {
    let mut bench = Bench::new(&Config { scripts: true, ..Config::default() });
    let hung =
        |n: usize| spec(script(&["sleep", "1000"]).named(&format!("hung {n}")).within(PATIENCE * 10).every(BRIEF));
    // More than may be slow: those that have no room there are given up for who comes after them.
    bench.watch(1, (0..100).map(hung).collect());
    bench.watch_as("other", 7, vec![spec(script(&["echo", "up"]))]);
    assert!(bench.until(Health::Critical).await.contains("too many others hang as well"));
    assert_eq!(bench.until(Health::Passing).await, "up");
}

#[tokio::test]
async fn a_script_that_hangs_is_killed_with_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let line = format!("sleep 1000 & echo $! > {}; wait", file.display());
    let draft = script(&["/bin/sh", "-c", &line]).within(BRIEF * 10).every(PATIENCE);
    assert_eq!(first(1, draft).await, (Health::Critical, "no answer within 3s".into()));
    let child: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    // Its new parent may take a moment to bury it.
    let gone = async {
        while birth::stat(child).is_some_and(|child| !child.is_dead) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.expect("the child is killed too");
}

#[tokio::test]
async fn a_process_s_death_is_seen_without_waiting_for_an_interval() {
    let mut child = Command::new("sleep").arg("1000").kill_on_drop(true).spawn().unwrap();
    let pid = child.id().unwrap();
    let mut bench = Bench::new(&Config::default());
    bench.watch(1, vec![spec(CheckDraft::process(pid).every(PATIENCE * 100))]);
    assert_eq!(bench.next().await, (Health::Passing, format!("process {pid} runs")));
    child.start_kill().unwrap();
    assert_eq!(bench.next().await, (Health::Critical, format!("process {pid} has ended")));
    child.wait().await.unwrap();
    let (status, output) = first(1, CheckDraft::process(pid)).await;
    assert_eq!((status, output), (Health::Critical, format!("there is no process {pid}")));
}

#[tokio::test]
async fn a_process_that_nobody_buries_is_dead_and_stays_so() {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let pid = child.id();
    let draft = || CheckDraft::process(pid).every(Duration::from_millis(100)).rise_fall(2, 3);
    let mut bench = Bench::new(&Config::default());
    bench.watch(1, vec![spec(draft())]);
    let ended = (Health::Critical, format!("process {pid} has ended"));
    while bench.next().await != ended {}
    assert_eq!(bench.next().await, ended);
    assert_eq!(first(1, draft()).await, ended);
    child.wait().unwrap();
}

#[tokio::test]
async fn another_process_of_the_same_id_is_not_the_one_that_was_registered() {
    let child = Command::new("sleep").arg("1000").kill_on_drop(true).spawn().unwrap();
    let pid = child.id().unwrap();
    let mut meant = Arc::new(Registration::new("web", 1).unwrap().check(spec(CheckDraft::process(pid))));
    identify(&mut meant, None);
    assert_eq!(CheckDraft::from(&meant.checks[0]).pid, Some(pid.into()), "shown as it was written");
    let mut bench = Bench::new(&Config::default());
    bench.watch(1, meant.checks.clone());
    assert_eq!(bench.next().await, (Health::Passing, format!("process {pid} runs")));
    let CheckKind::Process(ProcessRef::Born(_, at)) = &meant.checks[0].kind else { panic!("{meant:?}") };
    let later = CheckKind::Process(ProcessRef::Born(i32::try_from(pid).unwrap(), format!("{at}0").into()));
    bench.watch(1, vec![CheckSpec { kind: later.clone(), ..meant.checks[0].clone() }]);
    assert_eq!(bench.next().await, (Health::Critical, format!("process {pid} has ended")));

    // Who only says again what is registered means whom he meant then; who says something else, the one that is there.
    let again = |change: fn(&mut Registration), kind: &CheckKind| {
        let mut present = Registration::clone(&meant);
        present.checks[0].kind = kind.clone();
        let mut said = Registration::new("web", 1).unwrap().check(spec(CheckDraft::process(pid)));
        change(&mut said);
        let mut said = Arc::new(said);
        identify(&mut said, Some(&present));
        said.checks[0].kind.clone()
    };
    assert_eq!(again(|_| {}, &later), later);
    assert_eq!(again(|said| said.tags.push("v2".try_into().unwrap()), &later), meant.checks[0].kind);
    let elsewhere = CheckKind::Process(ProcessRef::Born(i32::try_from(pid).unwrap(), "another-boot.1/7".into()));
    assert_eq!(again(|_| {}, &elsewhere), meant.checks[0].kind, "a container begins anew, and so do its ids");
}

#[tokio::test]
async fn a_pid_file_is_followed_to_the_next_process() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let draft = CheckDraft { pid_file: Some(file.display().to_string()), ..CheckDraft::default() };
    let mut bench = Bench::new(&Config::default());
    bench.watch(1, vec![spec(draft.every(Duration::from_millis(100)))]);
    let useless = format!("pid file {} cannot be read, or names no process that runs", file.display());
    assert_eq!(bench.next().await.1, useless);
    for _ in 0..2 {
        let mut child = Command::new("sleep").arg("1000").kill_on_drop(true).spawn().unwrap();
        std::fs::write(&file, format!("{}\n", child.id().unwrap())).unwrap();
        bench.until(Health::Passing).await;
        child.kill().await.unwrap();
        bench.until(Health::Critical).await;
    }
    // What else it may hold is nobody's business.
    for held in ["not a number", "0", "2147483647"] {
        std::fs::write(&file, held).unwrap();
        let pid_file = Some(file.display().to_string());
        assert_eq!(first(1, CheckDraft { pid_file, ..CheckDraft::default() }).await.1, useless, "{held}");
    }
}

#[tokio::test]
async fn a_successor_in_the_pid_file_is_not_waited_for_until_the_next_interval() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let start = || Command::new("sleep").arg("1000").kill_on_drop(true).spawn().unwrap();
    let write = |child: &Child| std::fs::write(&file, child.id().unwrap().to_string()).unwrap();
    let runs = |child: &Child| (Health::Passing, format!("process {} runs", child.id().unwrap()));
    let (mut first, mut second) = (start(), start());
    write(&first);
    let draft = CheckDraft { pid_file: Some(file.display().to_string()), ..CheckDraft::default() };
    let mut bench = Bench::new(&Config::default());
    bench.watch(1, vec![spec(draft.every(PATIENCE * 100))]);
    assert_eq!(bench.next().await, runs(&first));
    write(&second);
    first.kill().await.unwrap();
    assert_eq!(bench.next().await, runs(&second), "who was there before the other went: nothing was missing");
    second.kill().await.unwrap();
    assert_eq!(bench.next().await.0, Health::Critical);
    let third = start();
    write(&third);
    assert_eq!(bench.next().await, runs(&third));
}

#[tokio::test]
async fn a_pid_file_is_followed_while_its_old_process_lives() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let draft = CheckDraft { pid_file: Some(file.display().to_string()), ..CheckDraft::default() };
    let mut bench = Bench::new(&Config::default());
    let children = [(); 2].map(|()| Command::new("sleep").arg("1000").kill_on_drop(true).spawn().unwrap());
    for (n, child) in children.iter().enumerate() {
        let pid = child.id().unwrap();
        // Whole at once: it is read meanwhile.
        let aside = folder.path().join("aside");
        std::fs::write(&aside, pid.to_string()).unwrap();
        std::fs::rename(&aside, &file).unwrap();
        if n == 0 {
            bench.watch(1, vec![spec(draft.clone().every(Duration::from_millis(100)))]);
        }
        assert_eq!(bench.next().await, (Health::Passing, format!("process {pid} runs")));
    }
}

#[tokio::test]
async fn what_stays_the_same_is_told_as_often_as_it_counts() {
    let at = server("x").await;
    let mut bench = Bench::new(&Config::default());
    bench.watch(at.port(), vec![spec(CheckDraft::tcp("").every(Duration::from_millis(100)).rise_fall(2, 3))]);
    for _ in 0..3 {
        assert_eq!(bench.next().await.0, Health::Passing);
    }
    assert!(timeout(BRIEF, bench.found.recv()).await.is_err(), "nothing new, nothing told");
    bench.checks.forget(&"web".try_into().unwrap());
    assert!(timeout(BRIEF, bench.found.recv()).await.is_err());
}
