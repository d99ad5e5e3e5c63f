//! A signal to a process that was seen in /proc, and to no other that has its id since.

use std::fs;
use std::io;
use std::os::fd::AsFd;

use dmashare_uapi::pidfd;
use nix::sys::signal::Signal;

/// SIGTERM, or SIGKILL.
pub(super) fn end(pid: i32, start: u64, kill: bool) -> io::Result<()> {
    // Pinned first: whoever has the id now has it until this is closed.
    let process = pidfd::open(pid)?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    if start_of(&stat) != Some(start) {
        let text = format!("process {pid} has ended; another one has its id");
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    let signal = if kill { Signal::SIGKILL } else { Signal::SIGTERM };
    pidfd::send_signal(process.as_fd(), signal)
}

/// Field 22 of /proc/PID/stat (proc_pid_stat(5)). The second one, the command, may have anything in it.
fn start_of(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn who_has_the_id_since_is_spared() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let start = start_of(&fs::read_to_string(format!("/proc/{pid}/stat")).unwrap()).unwrap();
        let error = end(pid, start + 1, true).unwrap_err();
        assert!(error.to_string().contains("another one has its id"), "{error}");
        assert!(child.try_wait().unwrap().is_none());
        end(pid, start, false).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(15));
    }

    #[test]
    fn a_command_may_be_called_anything() {
        let fields: Vec<String> = (3..30).map(|n| n.to_string()).collect();
        assert_eq!(start_of(&format!("7 (a) b (c) {}", fields.join(" "))), Some(22));
        assert_eq!(start_of("7 (a"), None);
    }
}
