//! strace, which makes system calls of another process fail.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::NamedTempFile;

use crate::scenario::Skip;
use crate::{BOUND, Process};

/// A tracer at work. Dropped, it lets go of the process.
pub(super) struct Injection {
    tracer: Child,
    seen: NamedTempFile,
}

/// What to inject, in strace's words: an error in every `step`-th call from the `first` on.
pub(super) fn words(call: &str, error: &str, (first, step): (u32, u32)) -> String {
    format!("inject={call}:error={error}:when={first}+{step}")
}

impl Injection {
    /// Attaches to all threads of a process; from when this returns, its calls fail.
    pub fn start(process: Process, call: &str, words: &str) -> Result<Self> {
        let seen = NamedTempFile::new()?;
        let mut command = Command::new("strace");
        command.args(["-f", "-e", &format!("trace={call}"), "-e", words, "-o"]).arg(seen.path());
        command.args(["-p", &process.0.to_string()]);
        let tracer = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut this = Self { tracer: tracer.context("strace")?, seen };
        let stderr = this.tracer.stderr.take().context("its messages")?;
        let mut messages = BufReader::new(stderr).lines();
        let first = messages.next().context("strace said nothing")??;
        if !first.contains("attached") {
            return Err(Skip(format!("strace cannot attach: {first}")).into());
        }
        std::thread::spawn(move || messages.map_while(Result::ok).for_each(drop));
        Ok(this)
    }

    /// Lets the process go on undisturbed; gives how many calls were made to fail.
    pub fn stop(mut self) -> Result<usize> {
        self.end()?;
        let text = std::fs::read_to_string(self.seen.path())?;
        Ok(text.lines().filter(|line| line.contains("(INJECTED)")).count())
    }

    fn end(&mut self) -> Result<()> {
        let pid = self.tracer.id().cast_signed();
        let pidfd = dmashare_uapi::pidfd::open(pid)?;
        kill(Pid::from_raw(pid), Signal::SIGINT)?;
        let ended = dmashare_uapi::sync_file::wait(std::os::fd::AsFd::as_fd(&pidfd), Some(BOUND))?;
        ensure!(ended, "strace does not let go");
        self.tracer.wait()?;
        Ok(())
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        // It fails where it has ended already.
        drop(self.tracer.kill());
        drop(self.tracer.wait());
    }
}
