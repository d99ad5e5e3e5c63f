//! A while in which nothing starts a unit, in the virtual machine.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

/// While this is there, nothing starts the unit. What ends that is a process outside of the
/// scenario's group, at the other end of a pipe: it does so whatever becomes of the scenario.
pub(super) struct Masked {
    unit: &'static str,
    restorer: Child,
}

impl Masked {
    /// A unit that runs goes on.
    pub fn begin(unit: &'static str) -> Result<Self> {
        let restorer = Command::new("sh")
            .args(["-c", "cat; systemctl --quiet unmask --runtime \"$1\"", "sh", unit])
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("sh")?;
        let this = Self { unit, restorer };
        let status = Command::new("systemctl")
            .args(["--quiet", "mask", "--runtime", unit])
            .status()
            .context("systemctl")?;
        ensure!(status.success(), "systemctl mask: {status}");
        Ok(this)
    }

    pub fn end(mut self) -> Result<()> {
        self.restore()
    }

    fn restore(&mut self) -> Result<()> {
        drop(self.restorer.stdin.take());
        let status = self.restorer.wait()?;
        ensure!(status.success(), "{} is still masked: {status}", self.unit);
        Ok(())
    }
}

impl Drop for Masked {
    fn drop(&mut self) {
        // After the end it is a second time, which does nothing.
        if let Err(error) = self.restore() {
            println!("  {error:#}");
        }
    }
}
