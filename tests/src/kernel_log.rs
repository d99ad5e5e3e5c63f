//! The kernel's log, from a moment on.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};

/// What no scenario may cause.
const BAD: &[&str] = &[
    "WARNING:",
    "BUG:",
    "Oops",
    "blocked for more than",
    "refcount_t:",
    "general protection fault",
    "use-after-free",
    "soft lockup",
    "rcu_preempt detected stalls",
];

/// The log, positioned at the moment of [`Self::from_now`].
pub struct KernelLog(File);

impl KernelLog {
    /// Begins here.
    ///
    /// # Errors
    /// /dev/kmsg cannot be opened.
    pub fn from_now() -> Result<Self> {
        let mut file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .context("/dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self(file))
    }

    /// The lines since, or since the last call.
    ///
    /// # Errors
    /// Reading fails.
    pub fn lines(&mut self) -> Result<Vec<String>> {
        let (mut lines, mut record) = (Vec::new(), [0; 8192]);
        loop {
            match self.0.read(&mut record) {
                Ok(len) => {
                    // priority,sequence,time,flags;text, then lines of " KEY=value"
                    let text = String::from_utf8_lossy(&record[..len]).into_owned();
                    let text = text.split_once(';').map_or(text.as_str(), |(_, text)| text);
                    lines.push(text.lines().next().unwrap_or_default().to_owned());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(lines),
                // Records were overwritten before they were read; the next read goes on after them.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Those that tell of a bug, a hung task or a stall.
    ///
    /// # Errors
    /// Reading fails.
    pub fn complaints(&mut self) -> Result<Vec<String>> {
        let mut lines = self.lines()?;
        lines.retain(|line| BAD.iter().any(|bad| line.contains(bad)));
        Ok(lines)
    }
}
