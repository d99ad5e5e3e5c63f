//! What /proc tells about a process.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A process, by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(pub i32);

impl Process {
    /// This one.
    #[must_use]
    pub fn own() -> Self {
        Self(std::process::id().cast_signed())
    }

    /// What its descriptors are of: the texts of the links in /proc/PID/fd.
    ///
    /// # Errors
    /// It is gone, or of another user.
    pub fn descriptors(self) -> Result<Vec<String>> {
        let folder = format!("/proc/{}/fd", self.0);
        let mut links = Vec::new();
        for entry in fs::read_dir(&folder).with_context(|| folder.clone())? {
            match fs::read_link(entry?.path()) {
                Ok(link) => links.push(link.to_string_lossy().into_owned()),
                // It was closed in the meantime.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(links)
    }

    /// How many dma-bufs (simulated: memfds that stand for them) it has open.
    ///
    /// # Errors
    /// As [`Self::descriptors`].
    pub fn dma_bufs(self) -> Result<usize> {
        let is_dma_buf = |link: &String| {
            link.starts_with("/dmabuf:") || link.starts_with("/memfd:dmashare-sim-dmabuf")
        };
        Ok(self.descriptors()?.iter().filter(|link| is_dma_buf(link)).count())
    }

    /// How many of them are of vgem, by the name that it has in fdinfo: buffers that guards are
    /// attached to are kept for the next guard.
    ///
    /// # Errors
    /// As [`Self::descriptors`].
    pub fn vgem_dma_bufs(self) -> Result<usize> {
        self.dma_bufs_by("drm")
    }

    /// How many dma-bufs it has open that an exporter of this name in fdinfo has made.
    ///
    /// # Errors
    /// As [`Self::descriptors`].
    pub fn dma_bufs_by(self, exporter: &str) -> Result<usize> {
        let wanted = format!("exp_name:\t{exporter}");
        let mut count = 0;
        for entry in fs::read_dir(format!("/proc/{}/fdinfo", self.0))? {
            let info = fs::read_to_string(entry?.path()).unwrap_or_default();
            count += usize::from(info.lines().any(|line| line == wanted));
        }
        Ok(count)
    }

    /// The sockets that it has open, each by its own number, in order.
    ///
    /// # Errors
    /// As [`Self::descriptors`].
    pub fn sockets(self) -> Result<Vec<String>> {
        let mut sockets = self.descriptors()?;
        sockets.retain(|link| link.starts_with("socket:"));
        sockets.sort();
        Ok(sockets)
    }

    /// How often its threads have waited for something.
    ///
    /// # Errors
    /// It is gone.
    pub fn waits(self) -> Result<u64> {
        let mut all = 0;
        for entry in fs::read_dir(format!("/proc/{}/task", self.0))? {
            // A thread may have ended in the meantime.
            let status = fs::read_to_string(entry?.path().join("status")).unwrap_or_default();
            let count = status.lines().find_map(|it| it.strip_prefix("voluntary_ctxt_switches:"));
            all += count.map_or(Ok(0), |count| count.trim().parse::<u64>())?;
        }
        Ok(all)
    }

    /// Waits until none of its threads has had anything to do for a sixth of a second.
    ///
    /// # Errors
    /// It is gone, or does not come to rest.
    pub fn at_rest(self, bound: Duration) -> Result<()> {
        let (mut last, mut same) = (0, 0);
        eventually("the process comes to rest", bound, || {
            let waits = self.waits()?;
            same = if waits == last { same + 1 } else { 0 };
            last = waits;
            Ok(same > 8)
        })
    }

    /// The one of its threads that has this name.
    ///
    /// # Errors
    /// It is gone, or has none.
    pub fn thread(self, name: &str) -> Result<i32> {
        for entry in fs::read_dir(format!("/proc/{}/task", self.0))? {
            let entry = entry?;
            let found = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            if found.trim_end() == name {
                return Ok(entry.file_name().to_string_lossy().parse()?);
            }
        }
        bail!("{self:?} has no thread {name}")
    }

    /// Its user.
    ///
    /// # Errors
    /// It is gone.
    pub fn uid(self) -> Result<u32> {
        Ok(fs::metadata(format!("/proc/{}", self.0))?.uid())
    }

    /// Waits until one of its threads sleeps in the kernel, which nothing tells.
    ///
    /// # Errors
    /// It is gone, or does not in time.
    pub fn thread_sleeps(self, thread: i32) -> Result<()> {
        let path = format!("/proc/{}/task/{thread}/stat", self.0);
        eventually("a thread sleeps", crate::BOUND, || {
            let text = fs::read_to_string(&path).with_context(|| path.clone())?;
            // The state comes after the name, which is in parentheses.
            Ok(text.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('S')))
        })
    }

    /// Resident memory, in KiB.
    ///
    /// # Errors
    /// It is gone.
    pub fn resident_kib(self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.0);
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    }
}

/// The processes of this machine that run a program of this name.
///
/// # Errors
/// /proc cannot be read.
pub fn named(program: &str) -> Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        // One that has ended since is none, and neither is one that nobody has waited for.
        let Ok(link) = fs::read_link(entry.path().join("exe")) else { continue };
        let name = link.file_name().map(|name| name.to_string_lossy().into_owned());
        // Its file may have been replaced since it was started.
        if name.is_some_and(|name| name.trim_end_matches(" (deleted)") == program) {
            found.push(Process(pid));
        }
    }
    Ok(found)
}

/// Waits for what another process does without telling anyone: closing a descriptor, for one. For
/// such things alone; for all others there is an event.
///
/// # Errors
/// It has not come true in time.
pub fn eventually(what: &str, bound: Duration, mut is: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + bound;
    while !is()? {
        if Instant::now() > end {
            bail!("{what}: not within {bound:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
