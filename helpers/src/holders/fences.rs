//! What is pending in another process's sync_files and syncobjs: its descriptors are taken for a moment,
//! and asked.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use dmashare_proto::holders::{Look, LookFor};
use dmashare_uapi::drm_node::{self, Cap, DrmNode, NodeKind};
use dmashare_uapi::foreign_fd;
use dmashare_uapi::sync_file::{self, Status};
use dmashare_uapi::syncobj::Syncobj;

/// The drivers of a sync_file's fences that have not ended, each once.
///
/// # Errors
/// The process is gone or has closed it, or it may not be taken.
pub(super) fn of_sync_file(process: BorrowedFd<'_>, fd: RawFd) -> io::Result<Vec<String>> {
    pending(foreign_fd::take(process, fd)?.as_fd())
}

fn pending(sync_file: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    let mut drivers: Vec<String> = sync_file::info(sync_file)?
        .fences
        .into_iter()
        .filter(|fence| fence.status == Status::Pending)
        .map(|fence| fence.driver)
        .collect();
    drivers.sort();
    drivers.dedup();
    Ok(drivers)
}

/// A DRM node through which syncobjs can be asked, whatever device they were made on. Opened when it is
/// needed for the first time, since that can wake up a sleeping GPU.
pub(super) struct Asker<'a> {
    look: &'a Look,
    node: Option<Option<OwnedFd>>,
}

impl<'a> Asker<'a> {
    pub fn new(look: &'a Look) -> Self {
        Self { look, node: None }
    }

    /// The drivers of what is pending in a syncobj, each once. Of a timeline, all of its points.
    /// `None` where it cannot be asked.
    pub fn of_syncobj(&mut self, process: BorrowedFd<'_>, fd: RawFd) -> Option<Vec<String>> {
        let look = self.look;
        let node = self.node.get_or_insert_with(|| open(look)).as_ref()?;
        let taken = foreign_fd::take(process, fd).ok()?;
        let syncobj = Syncobj::from_fd(node.as_fd(), taken.as_fd()).ok()?;
        match syncobj.export_sync_file() {
            Ok(sync_file) => pending(sync_file.as_fd()).ok(),
            // It has no fence, ended or not.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Some(Vec::new()),
            Err(_) => None,
        }
    }
}

/// Render nodes alone: whoever opens a primary one can become its master. The device's own comes last.
fn open(look: &Look) -> Option<OwnedFd> {
    let real = |device: &&LookFor| !device.simulated;
    let devices = look.others.iter().chain([&look.device]).filter(real);
    devices.flat_map(|device| &device.nodes).find_map(|node| {
        let known = DrmNode::from_rdev(node.major.try_into().ok()?, node.minor.try_into().ok()?)?;
        if known.kind != NodeKind::Render {
            return None;
        }
        let fd = drm_node::open(Path::new(&node.path)).ok()?;
        (drm_node::cap(fd.as_fd(), Cap::Syncobj).ok()? == 1).then_some(fd)
    })
}
