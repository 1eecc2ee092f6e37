//! When a process began: an id alone does not tell it from one that is given the same id later.

use std::{
    fmt, fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// What the kernel tells of a process (proc_pid_stat(5)).
pub(crate) struct Stat {
    /// When it began, in clock ticks after the start of the machine.
    pub(crate) began: u64,
    /// Its group and its session: 0 where they began outside of our namespace.
    pub(crate) group: i32,
    pub(crate) session: i32,
    /// Whether its first thread is ending, or has ended.
    pub(crate) is_ending: bool,
    /// Whether it has ended and is not yet buried.
    pub(crate) is_dead: bool,
}

/// That of the process that has this id, if one has it.
pub(crate) fn stat(pid: impl fmt::Display) -> Option<Stat> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name, in parentheses, may hold anything.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let [state, _parent, group, session, _terminal, _foreground, flags, rest @ ..] = &fields[..] else { return None };
    Some(Stat {
        began: rest.get(STARTED)?.parse().ok()?,
        group: group.parse().ok()?,
        session: session.parse().ok()?,
        is_ending: flags.parse::<u32>().ok()? & PF_EXITING != 0,
        is_dead: ["Z", "X"].contains(state),
    })
}

/// Which start of the machine this is: what is counted from it tells processes apart until the next.
fn boot() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// Where ids of processes count: this start of this machine, and this namespace, which a container that begins anew changes.
pub(crate) fn realm() -> Option<String> {
    let space = fs::read_link("/proc/self/ns/pid").ok()?;
    let space: String = space.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
    // The first of its parts tells one start from all others that are remembered.
    Some(format!("{}.{space}", boot()?.split('-').next()?))
}

/// When a process began at the earliest, by the clock on the wall. `None` where that was set since this machine, or this
/// container, began: what was written until then bears another time.
pub(crate) fn on_the_wall(pid: i32) -> Option<SystemTime> {
    let machine = fs::read_to_string("/proc/stat").ok()?;
    let boot = machine.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let boot = UNIX_EPOCH + Duration::from_secs(boot);
    let began = |pid| Some(boot + TICK * u32::try_from(stat(pid)?.began).ok()?);
    // Devices are made when the first process begins, and not touched again.
    steady(began(1)?, fs::metadata("/dev/null").ok()?.modified().ok()?, began(pid)?)
}

fn steady(first: SystemTime, devices: SystemTime, began: SystemTime) -> Option<SystemTime> {
    let apart = first.duration_since(devices).unwrap_or_else(|early| early.duration());
    (apart < STEADY).then(|| began - SPARE)
}

/// Where the moment of the start stands after the flags.
const STARTED: usize = 12;
/// The flag of a thread that is ending (the kernel's sched.h).
const PF_EXITING: u32 = 4;
/// What the kernel counts starts in (`USER_HZ`), on every architecture of today.
const TICK: Duration = Duration::from_millis(10);
/// Devices are made within moments of the start, which is told in whole seconds. Where a clock was set by as much as the
/// spare, a file would seem older than a process that wrote it.
const STEADY: Duration = Duration::from_secs(5);
/// The start of the machine is told in whole seconds, and a file's time by whoever stores it, over a network too.
const SPARE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_clock_was_set_nobody_can_say_when_a_process_began() {
        let at = |secs| UNIX_EPOCH + Duration::from_secs(secs);
        assert_eq!(steady(at(5000), at(4999), at(9000)), Some(at(8940)));
        assert_eq!(steady(at(5000), at(5002), at(9000)), Some(at(8940)));
        for devices in [0, 4900, 4950, 4995, 5005, 5050, 5100] {
            assert_eq!(steady(at(5000), at(devices), at(9000)), None, "devices made at {devices}");
        }
    }
}
