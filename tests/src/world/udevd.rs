//! A while without udevd, in the virtual machine.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::vm::systemctl;

/// Its sockets would start it again.
const UNITS: [&str; 3] =
    ["systemd-udevd-control.socket", "systemd-udevd-kernel.socket", "systemd-udevd.service"];
const CONTROL: &str = "/run/udev/control";

/// Waits for the end of its input, then starts udevd and has it look at the cards that came meanwhile.
const RESTORE: &str = "cat; systemctl start \"$@\" && \
                       udevadm trigger --action=add --subsystem-match=drm && \
                       udevadm settle --timeout=60";

/// While this is there, udevd is not. What brings it back is a process outside of the scenario's
/// group, at the other end of a pipe: it does so whatever becomes of the scenario.
pub struct NoUdevd(Child);

impl NoUdevd {
    pub(super) fn begin() -> Result<Self> {
        let restorer = Command::new("sh")
            .args(["-c", RESTORE, "sh"])
            .args(UNITS)
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("sh")?;
        let this = Self(restorer);
        let mut stop = vec!["stop"];
        stop.extend(UNITS);
        systemctl(&stop)?;
        ensure!(!Path::new(CONTROL).exists(), "{CONTROL} is there without udevd");
        Ok(this)
    }

    /// udevd comes, and looks at the cards; returns when it has done so.
    ///
    /// # Errors
    /// It was there before; it does not start.
    pub fn end(mut self) -> Result<()> {
        ensure!(!Path::new(CONTROL).exists(), "udevd came by itself");
        self.restore()
    }

    fn restore(&mut self) -> Result<()> {
        drop(self.0.stdin.take());
        let status = self.0.wait()?;
        if !status.success() {
            bail!("udevd was not brought back: {status}");
        }
        Ok(())
    }
}

impl Drop for NoUdevd {
    fn drop(&mut self) {
        // After the end it is a second time, which does nothing.
        if let Err(error) = self.restore() {
            println!("  {error:#}");
        }
    }
}
