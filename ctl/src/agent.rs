//! polkit's agent for a terminal: with it, whom polkit wants to ask is asked where the tool was
//! started, as systemctl does it.

use std::io::{IsTerminal as _, PipeReader, pipe, stdin};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use crate::bus::Bus;

/// Without it polkit asks on the desktop, or nobody: no reason to wait for ever.
const READY_WITHIN_MS: u16 = 5000;

/// A running agent; it ends when this is dropped.
pub struct Agent(Child);

impl Agent {
    /// Starts one if there is a person at a terminal who could be asked. Root is not asked.
    #[must_use]
    pub fn for_terminal(bus: &Bus) -> Option<Self> {
        let asked = *bus == Bus::System && !geteuid().is_root() && stdin().is_terminal();
        // Where polkit is not installed, or is but has no agent, the service's answer says what is.
        asked.then(|| Self::start("pkttyagent")).flatten()
    }

    /// Returns when it is registered, or has failed to.
    fn start(program: &str) -> Option<Self> {
        let (ready, notify) = pipe().ok()?;
        let mut command = Command::new(program);
        command
            .arg("--process")
            .arg(std::process::id().to_string())
            // It closes that one when it is ready. It speaks to the terminal by its name.
            .args(["--notify-fd", "0", "--fallback"])
            .stdin(Stdio::from(OwnedFd::from(notify)))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: between fork and exec it makes one system call, which takes no lock and no memory.
        unsafe {
            command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGTERM)?));
        }
        let agent = Self(command.spawn().ok()?);
        // It keeps the pipe's other end for the child.
        drop(command);
        wait_for_end(&ready);
        Some(agent)
    }
}

fn wait_for_end(pipe: &PipeReader) {
    let mut polled = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    // Whatever comes of it, the service is asked next.
    _ = poll(&mut polled, PollTimeout::from(READY_WITHIN_MS));
}

impl Drop for Agent {
    fn drop(&mut self) {
        // By SIGTERM, so that it gives the terminal back as it was. It may have ended by itself.
        if let Ok(pid) = i32::try_from(self.0.id()) {
            _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn program(dir: &tempfile::TempDir, script: &str) -> String {
        let path = dir.path().join("agent");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    #[test]
    fn it_is_waited_for_and_ended() {
        let dir = tempfile::tempdir().unwrap();
        let told = dir.path().join("told");
        let script = format!(
            "trap 'echo ended >> {told}; exit' TERM\necho \"$@\" > {told}\nexec 0<&-\n\
             while :; do sleep 1000 & wait; kill $!; done",
            told = told.display()
        );
        let agent = Agent::start(&program(&dir, &script)).unwrap();
        let said = fs::read_to_string(&told).unwrap();
        let expected = format!("--process {} --notify-fd 0 --fallback\n", std::process::id());
        assert_eq!(said, expected, "it had begun");
        drop(agent);
        assert_eq!(fs::read_to_string(&told).unwrap(), expected + "ended\n");
    }

    #[test]
    fn one_that_fails_or_is_not_there_holds_nothing_up() {
        let dir = tempfile::tempdir().unwrap();
        drop(Agent::start(&program(&dir, "exit 1")).unwrap());
        assert!(Agent::start("/nowhere/agent").is_none());
    }
}
