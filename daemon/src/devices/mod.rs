//! Where devices come from: udev on a real machine, a directory in a simulated one. Additions only;
//! removals are read from the kernel by the reactor, which does not wait for udevd's rules.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub mod classify;
#[cfg(feature = "simulate")]
pub mod simulated;
mod sysfs;
pub mod udev_source;

/// Identity of a DRM node as an open file of it shows it: `(major, minor)` of the character device;
/// for a simulated node `(st_dev, st_ino)` of the file that stands for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64, pub u64);

/// A DRM node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDesc {
    /// Its identity.
    pub id: NodeId,
    /// `/dev/dri/card1`
    pub devname: String,
    /// The kernel's DEVPATH, which its uevents carry: `/devices/pci0000:00/…/drm/card1`
    pub devpath: String,
}

/// A GPU: all DRM nodes of one parent device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceDesc {
    /// PCI address, else the parent's sysfs name (`vkms`).
    pub name: String,
    /// PCI address, or empty.
    pub pci: String,
    /// DEVPATH of the PCI device (else of the DRM nodes' parent), whose own removal ends the unplug.
    pub parent_devpath: String,
    /// The same as a path in sysfs.
    pub syspath: PathBuf,
    /// The inode of that folder; 0 if it is not known. A card that comes in the place of another one has
    /// another.
    pub birth: u64,
    /// The kernel driver.
    pub driver: String,
    /// Its DRM nodes, primary first.
    pub nodes: Vec<NodeDesc>,
    /// Whether it can be pulled.
    pub removable: bool,
    /// How that is known, in words: `PCI device is marked removable`, `configuration`, …
    pub removable_reason: String,
}

/// Which folder of sysfs it is: one that is made again has another number (kernfs counts them).
fn birth(folder: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(folder).map_or(0, |folder| folder.ino())
}

/// Tells of devices that are there and of those that come.
pub trait DeviceSource {
    /// Every device that is there now. Called after the reactor listens for removals, so that none
    /// is missed in between.
    ///
    /// # Errors
    /// The device tree cannot be read.
    fn coldplug(&mut self) -> io::Result<Vec<DeviceDesc>>;

    /// Readable when [`Self::arrivals`] has something; `None` if this machine cannot tell.
    fn as_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Devices that have come, or have got a further node (then the whole device again). Does not
    /// block.
    ///
    /// # Errors
    /// The source failed; it may be asked again.
    fn arrivals(&mut self) -> io::Result<Vec<DeviceDesc>>;

    /// Why nothing can be told, where that is so (no udev): for the log and for `doctor`.
    fn trouble(&self) -> Option<&str>;
}
