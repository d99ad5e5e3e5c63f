//! The independent client in Python as another process: what it prints is JSON, a line a thing.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};

use anyhow::{Context, Result, bail, ensure};
use dmashare_uapi::pidfd;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde_json::Value;
use tempfile::TempDir;

use crate::BOUND;
use crate::scenario::Skip;

const SCRIPT: &str = include_str!("../../python/dmashare_client.py");

/// One command of the client. Killed when dropped.
pub struct Python {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    _script: TempDir,
}

impl Python {
    /// Starts it; `fds` are open there under the same numbers.
    pub fn start(
        socket: &Path,
        name: &str,
        arguments: &[&str],
        fds: &[BorrowedFd<'_>],
    ) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let script = dir.path().join("dmashare_client.py");
        std::fs::write(&script, SCRIPT)?;
        let numbers: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let mut command = Command::new("python3");
        command.arg(&script).arg("--socket").arg(socket).args(["--name", name]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // SAFETY: the closure runs between fork and exec, and calls fcntl alone.
        unsafe {
            command.pre_exec(move || {
                for &number in &numbers {
                    keep_open(number)?;
                }
                Ok(())
            });
        }
        let mut child = match command.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Skip("there is no python3".to_owned()).into());
            }
            other => other.context("python3")?,
        };
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (to, lines) = channel();
        let stdout = stdout.context("its output")?;
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if to.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, stdin, lines, _script: dir })
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> crate::Process {
        crate::Process(self.child.id().cast_signed())
    }

    /// The next thing that it says.
    pub fn says(&self) -> Result<Value> {
        let line = self.lines.recv_timeout(BOUND).context("the Python client said nothing")?;
        serde_json::from_str(&line).with_context(|| format!("it said {line:?}"))
    }

    /// The next thing that it says, which is to have a field of this name; gives its value.
    pub fn says_field(&self, name: &str) -> Result<Value> {
        let said = self.says()?;
        match said.get(name) {
            Some(value) => Ok(value.clone()),
            None => bail!("no {name:?} in {said}"),
        }
    }

    /// Tells it to do one of its command's things.
    pub fn tell(&mut self, word: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("its input is closed")?;
        Ok(writeln!(stdin, "{word}")?)
    }

    /// Waits for its end; it is not asked to end.
    pub fn ends(&mut self) -> Result<ExitStatus> {
        let pidfd = pidfd::open(self.child.id().cast_signed())?;
        let fd = std::os::fd::AsFd::as_fd(&pidfd);
        ensure!(dmashare_uapi::sync_file::wait(fd, Some(BOUND))?, "it goes on");
        Ok(self.child.wait()?)
    }

    /// Ends its input, which is how it is asked to end, and waits for that.
    pub fn finish(mut self) -> Result<ExitStatus> {
        self.stdin.take();
        self.ends()
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // It fails where the process has ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn keep_open(number: i32) -> std::io::Result<()> {
    // SAFETY: the caller of `start` borrows the descriptor for longer than the child needs to exec.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}
