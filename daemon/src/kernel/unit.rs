//! Which systemd unit a process is of.

use std::fs;

/// The systemd unit of a process, empty where it has none or that cannot be seen.
#[must_use]
pub fn unit_of(pid: i32) -> String {
    let Ok(cgroup) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else {
        return String::new();
    };
    cgroup
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .flat_map(|path| path.rsplit('/'))
        .find(|part| part.ends_with(".service") || part.ends_with(".scope"))
        .unwrap_or_default()
        .to_owned()
}
