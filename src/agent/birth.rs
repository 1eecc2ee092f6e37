//! When a process began: an id alone does not tell it from one that is given the same id later.

use std::{fmt, fs};

/// What the kernel tells of a process (proc_pid_stat(5)).
pub(crate) struct Birth {
    /// When it began, in clock ticks after the start of the machine.
    pub(crate) at: u64,
    /// Whether it has ended and is not yet buried.
    pub(crate) is_dead: bool,
}

/// That of the process that has this id, if one has it.
pub(crate) fn of(pid: impl fmt::Display) -> Option<Birth> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name, in parentheses, may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let is_dead = ["Z", "X"].contains(&fields.next()?);
    Some(Birth { at: fields.nth(STARTED)?.parse().ok()?, is_dead })
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

/// Where the moment of the start stands after the state.
const STARTED: usize = 18;
