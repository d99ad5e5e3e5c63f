//! strace, which sees the system calls of another process, makes them fail, or kills it by them.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::NamedTempFile;

use crate::BOUND;
use crate::scenario::Skip;

/// Whose calls.
#[derive(Clone, Copy, Debug)]
pub(super) enum Whom {
    /// All threads of a process, those that are to come too.
    Process(i32),
    /// One thread.
    Thread(i32),
}

/// A tracer at work. Dropped, it lets go of the process.
pub(super) struct Strace {
    tracer: Child,
    seen: NamedTempFile,
}

/// What to inject, in strace's words: an error in every `step`-th call from the `first` on.
pub(super) fn errors(call: &str, error: &str, (first, step): (u32, u32)) -> String {
    format!("inject={call}:error={error}:when={first}+{step}")
}

/// The same: SIGKILL instead of the `nth` call.
pub(super) fn killed_at(call: &str, nth: usize) -> String {
    format!("inject={call}:signal=KILL:when={nth}")
}

impl Strace {
    /// Attaches, and looks at `calls` (names, or `all`); from when this returns, what is to be injected is.
    pub fn attach(whom: Whom, calls: &str, injected: Option<&str>) -> Result<Self> {
        let seen = NamedTempFile::new()?;
        let mut command = Command::new("strace");
        command.args(["-e", &format!("trace={calls}"), "-o"]).arg(seen.path());
        command.args(injected.map(|words| ["-e", words]).into_iter().flatten());
        match whom {
            Whom::Process(pid) => command.args(["-f", "-p", &pid.to_string()]),
            Whom::Thread(tid) => command.args(["-p", &tid.to_string()]),
        };
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

    /// Lets the process go on undisturbed; gives what was seen, a line a call.
    pub fn stop(mut self) -> Result<String> {
        self.end()?;
        Ok(std::fs::read_to_string(self.seen.path())?)
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

impl Drop for Strace {
    fn drop(&mut self) {
        // It fails where it has ended already.
        drop(self.tracer.kill());
        drop(self.tracer.wait());
    }
}
