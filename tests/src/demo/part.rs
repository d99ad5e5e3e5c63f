//! A process of the demo, as the one that runs it sees it.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::lines::{Lines, Said};
use super::options::PartOptions;

/// Longest time between two things that a process says.
const PATIENCE: Duration = Duration::from_secs(120);

/// A producer or consumer; killed when dropped before its end.
pub struct Part {
    name: &'static str,
    child: Child,
    stdin: Option<ChildStdin>,
    said: Receiver<Result<Said>>,
}

impl Part {
    /// Starts this program again, as one of its parts.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(name: &'static str, options: &PartOptions) -> Result<Self> {
        let path = |option: &'static str, path: &Path| [option.into(), path.as_os_str().to_owned()];
        let mut child = Command::new(std::env::current_exe()?)
            .arg(name)
            .args(["--machine", &options.machine.to_string()])
            .args(["--frames", &options.frames.to_string()])
            .args(path("--socket", &options.socket))
            .args(path("--node", &options.node))
            .args(path("--frames-socket", &options.frames_socket))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start the {name}"))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("a process without its output")?;
        let (tell, said) = channel();
        thread::spawn(move || {
            let mut lines = Lines::new(stdout);
            // Ends with the process, or when nobody listens any more.
            while let Some(message) = lines.next().transpose() {
                if tell.send(message).is_err() {
                    break;
                }
            }
        });
        Ok(Self { name, child, stdin, said })
    }

    /// Its id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the next thing that it says.
    ///
    /// # Errors
    /// It has ended; it is silent for too long; or what it says is none of ours.
    pub fn said(&mut self) -> Result<Said> {
        match self.said.recv_timeout(PATIENCE) {
            Ok(said) => said.with_context(|| format!("from the {}", self.name)),
            Err(RecvTimeoutError::Timeout) => {
                bail!("the {} has said nothing for {} s", self.name, PATIENCE.as_secs())
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.wait()?;
                bail!("the {} has ended before its time: {status}", self.name)
            }
        }
    }

    /// Tells it to go on.
    ///
    /// # Errors
    /// It has ended.
    pub fn go_on(&mut self) -> Result<()> {
        let stdin = self.stdin.as_mut().context("it was told to end")?;
        stdin.write_all(b"\n").with_context(|| format!("the {} has ended", self.name))
    }

    /// Tells it to end, and waits for that.
    ///
    /// # Errors
    /// It did not end well.
    pub fn end(mut self) -> Result<()> {
        drop(self.stdin.take());
        let status = self.child.wait()?;
        if !status.success() {
            bail!("the {} has failed: {status}", self.name);
        }
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // One that has ended cannot be killed, which is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
