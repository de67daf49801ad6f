//! What the kernel says of this process: `/proc/self`. Where it says nothing, nothing is shown.

use std::time::Duration;

use crate::metrics::process::ProcessState;

/// Clock ticks of `/proc` in a second: the same on every machine that crieur is built for (`USER_HZ`).
const TICKS: u64 = 100;

/// What it says now of a process that started then, since 1970.
pub fn process(started: Duration) -> ProcessState {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).ok();
    ProcessState {
        started,
        cpu: read("stat").as_deref().and_then(cpu),
        resident_bytes: read("status").as_deref().and_then(resident_bytes),
        // The folder itself is open while it is read.
        open_fds: std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1) as u64),
        max_fds: read("limits").as_deref().and_then(max_fds),
    }
}

/// Fields 14 and 15 of `stat`, behind the name in brackets, which may hold anything.
fn cpu(stat: &str) -> Option<Duration> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Duration::from_millis((ticks(11)? + ticks(12)?) * 1000 / TICKS))
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

fn max_fds(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_whatever_the_program_is_called() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0 100 9 8 7";
        assert_eq!(cpu(stat), Some(Duration::from_secs(3)));
        assert_eq!(cpu("7"), None);
        assert_eq!(resident_bytes("VmSize:\t  9 kB\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        let limits =
            "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096  files\n";
        assert_eq!(max_fds(limits), Some(1024));
        assert_eq!(max_fds("Max open files unlimited unlimited files\n"), None);
    }

    #[test]
    fn this_process_has_memory_and_files() {
        let state = process(Duration::from_secs(1));
        assert!(
            state.resident_bytes > Some(0) && state.open_fds > Some(0) && state.max_fds >= state.open_fds,
            "{state:?}"
        );
        assert!(state.cpu.is_some());
    }
}
