//! What the operating system says about the server's processes: processor time and memory.
//!
//! Processor time is `utime + stime` of `/proc/PID/stat`, in clock ticks (10 ms), over all threads. Memory is `Rss` and
//! `Private_Dirty` of `/proc/PID/smaps_rollup`; the second is what the process alone has written, and what connections
//! cost. Sockets' kernel memory is in neither.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a process has used and holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time so far, microseconds.
    pub cpu_us: u64,
    /// Resident memory, bytes; `None` when it is not ours to look at.
    pub rss: Option<u64>,
    /// Memory that only this process has, and has written, bytes; `None` when it is not ours to look at.
    pub private_dirty: Option<u64>,
    /// When it started, in ticks since the machine did: tells a process from another one with its id.
    pub started_ticks: u64,
}

/// The row of a report, and the processes behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleProcesses {
    /// The role's name, or `standalone` when several share one process.
    pub role: String,
    /// Its processes.
    pub pids: Vec<u32>,
}

/// What all processes of a role have used and hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoleUsage {
    /// Each process, and when it started: tells whether they are still the same.
    pub processes: Vec<(u32, u64)>,
    /// The sum.
    pub sum: Usage,
}

/// Rows for the pids of a ready file.
#[must_use]
pub fn role_processes(pids: &BTreeMap<String, Vec<u32>>) -> Vec<RoleProcesses> {
    let mut rows: BTreeMap<&[u32], Vec<&str>> = BTreeMap::new();
    for (role, pids) in pids {
        rows.entry(pids).or_default().push(role);
    }
    rows.into_iter()
        .map(|(pids, roles)| RoleProcesses {
            role: match roles.as_slice() {
                [role] => (*role).to_owned(),
                _ => "standalone".to_owned(),
            },
            pids: pids.to_vec(),
        })
        .collect()
}

impl RoleProcesses {
    /// What they have used and hold; `None` when one is gone, or not ours to look at.
    #[must_use]
    pub fn usage(&self) -> Option<RoleUsage> {
        let mut all = RoleUsage::default();
        (all.sum.rss, all.sum.private_dirty) = (Some(0), Some(0));
        for pid in &self.pids {
            let one = usage(*pid)?;
            all.processes.push((*pid, one.started_ticks));
            all.sum.cpu_us += one.cpu_us;
            let add = |sum: Option<u64>, one: Option<u64>| sum.zip(one).map(|(sum, one)| sum + one);
            all.sum.rss = add(all.sum.rss, one.rss);
            all.sum.private_dirty = add(all.sum.private_dirty, one.private_dirty);
        }
        Some(all)
    }
}

/// What `pid` has used and holds; `None` when it is gone, or not ours to look at.
#[must_use]
pub fn usage(pid: u32) -> Option<Usage> {
    let ticks_per_s = rustix::param::clock_ticks_per_second();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (cpu, started_ticks) = parse_stat(&stat, ticks_per_s)?;
    // Another user's processes have a stat that can be read, and no memory map.
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let bytes_of = |name| parse_rollup(&rollup, name);
    Some(Usage {
        cpu_us: u64::try_from(cpu.as_micros()).unwrap_or(u64::MAX),
        rss: bytes_of("Rss"),
        private_dirty: bytes_of("Private_Dirty"),
        started_ticks,
    })
}

/// Processor time and start of a `/proc/PID/stat`; `None` of a process that has ended and is not yet waited for. The second field, the command, may hold anything but ends at the last
/// parenthesis (proc(5)).
fn parse_stat(stat: &str, ticks_per_s: u64) -> Option<(Duration, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    // The first of these is field 3; utime is 14, stime 15, starttime 22.
    let field =
        |number: usize| -> Option<u64> { fields.split_ascii_whitespace().nth(number - 3)?.parse().ok() };
    if fields.trim_start().starts_with(['Z', 'X']) {
        return None;
    }
    let ticks = field(14)?.checked_add(field(15)?)?;
    let us = ticks.checked_mul(1_000_000)?.checked_div(ticks_per_s)?;
    Some((Duration::from_micros(us), field(22)?))
}

/// The bytes of a line such as `Rss:   123 kB`.
fn parse_rollup(rollup: &str, name: &str) -> Option<u64> {
    let line = rollup
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const STAT: &str = "4242 (tokio) rt (x)) S 1 4242 4242 0 -1 4194560 5000 0 0 0 150 50 0 0 20 0 9 0 777 104857600 2500 18446744073709551615 1 1 0 0 0 0 0 4096 17642 0 0 0 17 1 0 0 0 0 0\n";

    #[test]
    fn processor_time_is_read_behind_a_command_with_parentheses() {
        let (cpu, started) = parse_stat(STAT, 100).unwrap();
        assert_eq!(cpu, Duration::from_secs(2));
        assert_eq!(started, 777);
    }

    #[test]
    fn a_process_that_has_ended_has_no_usage_though_nobody_waited_for_it() {
        assert_eq!(parse_stat(&STAT.replace(") S ", ") Z "), 100), None);
    }

    #[test]
    fn a_cut_stat_is_no_usage() {
        assert_eq!(parse_stat("4242 (x) S 1 2", 100), None);
        assert_eq!(parse_stat("", 100), None);
    }

    #[test]
    fn memory_lines_are_told_apart_by_their_whole_name() {
        let rollup = "00400000-7ffe [rollup]\nRss:                1024 kB\nPss:  5 kB\nPrivate_Clean:  7 kB\nPrivate_Dirty:       512 kB\n";
        assert_eq!(parse_rollup(rollup, "Rss"), Some(1024 * 1024));
        assert_eq!(parse_rollup(rollup, "Private_Dirty"), Some(512 * 1024));
        assert_eq!(parse_rollup(rollup, "Private"), None);
        assert_eq!(parse_rollup("", "Rss"), None);
    }

    #[test]
    fn this_process_has_usage_and_a_dead_one_has_none() {
        let own = usage(std::process::id()).unwrap();
        assert!(own.rss > Some(0) && own.private_dirty > Some(0) && own.started_ticks > 0);
        assert_eq!(usage(u32::MAX), None);
    }

    #[test]
    fn roles_of_one_process_are_one_row_and_so_are_processes_of_one_role() {
        let pids = |list: &[(&str, &[u32])]| -> BTreeMap<String, Vec<u32>> {
            let list = list.iter();
            list.map(|(role, pids)| ((*role).to_owned(), pids.to_vec()))
                .collect()
        };
        let rows = role_processes(&pids(&[("gateway", &[1]), ("router", &[1])]));
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].role, "standalone");
        let rows = role_processes(&pids(&[("gateway", &[1, 2]), ("router", &[3])]));
        let rows: Vec<(&str, usize)> = rows
            .iter()
            .map(|row| (row.role.as_str(), row.pids.len()))
            .collect();
        assert_eq!(rows, [("gateway", 2), ("router", 1)]);
        let own = std::process::id();
        let twice = RoleProcesses {
            role: "gateway".into(),
            pids: vec![own, own],
        };
        let usage = twice.usage().unwrap();
        assert_eq!(usage.processes.len(), 2);
        assert!(usage.sum.rss > Some(0));
    }
}
