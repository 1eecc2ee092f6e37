//! The machine that the figures come from, and a corner of it to have to oneself.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::process::CommandExt,
    process::Command,
    time::Instant,
};

use crate::Spans;

/// Where data directories and sockets of the bench live: on the disk that holds the build.
pub(crate) const ROOM: &str = env!("CARGO_TARGET_TMPDIR");
/// What Linux counts processor time in towards programs, whatever it counts in itself (proc(5)).
const TICKS_PER_SECOND: f64 = 100.0;
const INSIDE: &str = "HOBNOB_BENCH_INSIDE";
const LOOPBACK_UP: &str = r#"ip link set lo up && exec "$0" "$@""#;

/// Starts this program again in a network namespace, if the system lets us and it is not there yet.
pub(crate) fn enter_own_network() {
    if std::env::var_os(INSIDE).is_some() {
        return;
    }
    let namespace = |program: &std::path::Path| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--net", "sh", "-c", LOOPBACK_UP]).arg(program);
        command
    };
    if namespace("true".as_ref()).output().is_ok_and(|done| done.status.success()) {
        let why = namespace(&std::env::current_exe().unwrap()).args(std::env::args().skip(1)).env(INSIDE, "1").exec();
        eprintln!("cannot start again in a network namespace: {why}");
    }
    eprintln!("no network namespace: whatever else uses loopback counts as ours");
}

/// One line about the machine.
pub(crate) fn describe() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| Some(line.strip_prefix("model name")?.split_once(": ")?.1.to_owned()));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "{}, {} cores, Linux {}; write and fsync of 4 KiB: {:.2} ms; load at the start: {}",
        model.unwrap_or_else(|| "unknown processor".into()),
        std::thread::available_parallelism().map_or(0, usize::from),
        kernel.trim(),
        fsync_millis(),
        load.split(' ').next().unwrap_or_default(),
    )
}

fn fsync_millis() -> f64 {
    let directory = tempfile::tempdir_in(ROOM).unwrap();
    let mut file = File::create(directory.path().join("probe")).unwrap();
    let mut write = || {
        let began = Instant::now();
        file.write_all(&[7; 4096]).unwrap();
        file.sync_data().unwrap();
        began.elapsed()
    };
    Spans::of((0..100).map(|_| write())).millis(0.5)
}

/// The bytes that loopback has carried, headers of IP and of the link included.
pub(crate) fn loopback_bytes() -> u64 {
    let counters = fs::read_to_string("/proc/net/dev").unwrap();
    let line = counters.lines().find_map(|line| line.trim().strip_prefix("lo:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// What a process has used so far, and holds now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Processor time, user and system.
    pub(crate) cpu_seconds: f64,
    /// Resident memory: all of it.
    pub(crate) rss_mb: f64,
    /// Resident memory that is no file's.
    pub(crate) anonymous_mb: f64,
}

/// Reads what the process `pid` uses.
pub(crate) fn usage(pid: u32) -> Usage {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the name, which may hold anything: the state is the first, so utime and stime are 12 and 13.
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let megabytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
    };
    Usage {
        cpu_seconds: ticks as f64 / TICKS_PER_SECOND,
        rss_mb: megabytes("VmRSS"),
        anonymous_mb: megabytes("RssAnon"),
    }
}
