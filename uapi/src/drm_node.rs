//! DRM nodes: which one a descriptor is, its driver, and whether its device is still there
//! (include/uapi/drm/drm.h, drivers/gpu/drm/drm_drv.c).

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use libc::{_IOW, _IOWR, Ioctl, c_char, c_int};

pub use crate::dumb::DumbBuffer;
use crate::ioctl::{Retry, check_abi, read_write, write_only};
use crate::stat;

/// The major number of DRM's character devices.
pub const DRM_MAJOR: u32 = 226;
/// The major number of compute accelerators, which share DRM's ioctls.
pub const ACCEL_MAJOR: u32 = 261;

#[repr(C)]
struct VersionArg {
    major: c_int,
    minor: c_int,
    patchlevel: c_int,
    name_len: usize,
    name: *mut c_char,
    date_len: usize,
    date: *mut c_char,
    desc_len: usize,
    desc: *mut c_char,
}

#[repr(C)]
struct GetCapArg {
    capability: u64,
    value: u64,
}

#[repr(C)]
struct AuthArg {
    magic: u32,
}

const VERSION: Ioctl = _IOWR::<VersionArg>(b'd' as u32, 0x00);
const GET_CAP: Ioctl = _IOWR::<GetCapArg>(b'd' as u32, 0x0c);
const AUTH_MAGIC: Ioctl = _IOW::<AuthArg>(b'd' as u32, 0x11);

#[cfg(target_pointer_width = "64")]
check_abi! {
    sizes { VersionArg: 64, GetCapArg: 16, AuthArg: 4 }
    numbers { VERSION: 0xc040_6400, GET_CAP: 0xc010_640c, AUTH_MAGIC: 0x4004_6411 }
}

/// What a node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeKind {
    /// `cardN`: modesetting, and everything else.
    Primary,
    /// `controlDN`: of old kernels.
    Control,
    /// `renderDN`: rendering only, no privilege.
    Render,
    /// `accelN`: a compute accelerator.
    Accel,
}

impl fmt::Display for NodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Control => "control",
            Self::Render => "render",
            Self::Accel => "accelerator",
        })
    }
}

/// A DRM node by its device number.
///
/// A number names a device only while it is there: the same card plugged in again may get
/// another, and another card this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DrmNode {
    /// [`DRM_MAJOR`], or [`ACCEL_MAJOR`].
    pub major: u32,
    /// Unique among present nodes of that major.
    pub minor: u32,
    /// What the node is for.
    pub kind: NodeKind,
}

impl DrmNode {
    /// The node with this device number, if DRM has such numbers.
    ///
    /// Minors are 0 to 63 primary, 64 to 127 control, 128 to 191 render. Linux 6.12 gives out
    /// higher ones when those are used up; what these are is asked of sysfs, and is primary if
    /// they are not there any more.
    #[must_use]
    pub fn from_rdev(major: u32, minor: u32) -> Option<Self> {
        let kind = match (major, minor) {
            (DRM_MAJOR, 0..=63) => NodeKind::Primary,
            (DRM_MAJOR, 64..=127) => NodeKind::Control,
            (DRM_MAJOR, 128..=191) => NodeKind::Render,
            (DRM_MAJOR, _) => {
                let path = sysfs_path(major, minor).ok();
                let name = path.as_deref().and_then(Path::file_name).and_then(|n| n.to_str());
                match name {
                    Some(name) if name.starts_with("renderD") => NodeKind::Render,
                    _ => NodeKind::Primary,
                }
            }
            (ACCEL_MAJOR, _) => NodeKind::Accel,
            _ => return None,
        };
        Some(Self { major, minor, kind })
    }

    /// The node behind an open descriptor; `None` if it is no DRM node. Never blocks.
    pub fn of(fd: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        Ok(match crate::fdkind::classify(fd)? {
            crate::fdkind::FdKind::DrmNode(node) => Some(node),
            _ => None,
        })
    }

    /// The number as `dev_t`, as in `st_rdev` and in compositors' protocols.
    #[must_use]
    pub fn devnum(&self) -> u64 {
        libc::makedev(self.major, self.minor)
    }

    /// The node's folder in sysfs, without links. ENOENT once the device has gone.
    pub fn sysfs_path(&self) -> io::Result<PathBuf> {
        sysfs_path(self.major, self.minor)
    }
}

/// The folder in sysfs of the character device with this number, without links. ENOENT if there is
/// none (any more).
pub fn sysfs_path(major: u32, minor: u32) -> io::Result<PathBuf> {
    std::fs::canonicalize(format!("/sys/dev/char/{major}:{minor}"))
}

/// Opens a node for reading and writing. ENOTTY, and closed again, if what is there is no DRM
/// node.
///
/// The first to open a *primary* node becomes its master, until it closes it: compositors mind.
/// Opening any node can wake up a sleeping GPU.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    // std opens with O_CLOEXEC.
    let file: File = OpenOptions::new().read(true).write(true).open(path)?;
    match stat::stat(file.as_fd())? {
        s if s.file_type == libc::S_IFCHR && matches!(s.rdev.0, DRM_MAJOR | ACCEL_MAJOR) => {
            Ok(file.into())
        }
        _ => Err(io::Error::from_raw_os_error(libc::ENOTTY)),
    }
}

/// The driver's name, `amdgpu` or the like. ENODEV if the device is unplugged; ENOTTY if the
/// descriptor is no DRM node.
pub fn driver_name(fd: BorrowedFd<'_>) -> io::Result<String> {
    let mut name = [0u8; 64];
    let len = version(fd, &mut name)?;
    Ok(String::from_utf8_lossy(&name[..len.min(name.len())]).into_owned())
}

/// Whether the kernel has begun to remove the device behind this node: true from the first instant
/// of the removal on, before any event. One ioctl; never blocks.
pub fn is_unplugged(fd: BorrowedFd<'_>) -> io::Result<bool> {
    match version(fd, &mut []) {
        Ok(_) => Ok(false),
        Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(true),
        Err(e) => Err(e),
    }
}

/// Whether the open file behind this descriptor is its card's master at this moment, whoever else has
/// the file. Asked with a magic number that nobody is given, so nothing is authenticated; but the kernel
/// takes note of the caller as the file's user, until that makes its next ioctl. ENODEV if the device is
/// unplugged.
pub fn is_master(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: AuthArg is the ioctl's structure, which the kernel only reads.
    match unsafe { write_only(fd, AUTH_MAGIC, Retry::InterruptedOrAgain, &AuthArg { magic: 0 }) } {
        Ok(()) => Ok(true),
        // A master is told that the number is not known, all others that they may not ask.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::EACCES) => Ok(false),
        Err(e) => Err(e),
    }
}

fn version(fd: BorrowedFd<'_>, name: &mut [u8]) -> io::Result<usize> {
    let mut arg = VersionArg {
        major: 0,
        minor: 0,
        patchlevel: 0,
        name_len: name.len(),
        name: name.as_mut_ptr().cast(),
        date_len: 0,
        date: std::ptr::null_mut(),
        desc_len: 0,
        desc: std::ptr::null_mut(),
    };
    // SAFETY: VersionArg is the ioctl's structure; each pointer has room for the length beside it.
    unsafe { read_write(fd, VERSION, Retry::InterruptedOrAgain, &mut arg)? };
    Ok(arg.name_len)
}

/// What DRM_IOCTL_GET_CAP can be asked here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Cap {
    /// Dumb buffers.
    DumbBuffer = 0x1,
    /// PRIME: bit 0 import, bit 1 export.
    Prime = 0x5,
    /// Binary syncobjs.
    Syncobj = 0x13,
    /// Timeline syncobjs.
    SyncobjTimeline = 0x14,
}

/// A capability's value, 0 for one that the device lacks. EINVAL from kernels that do not know it,
/// EOPNOTSUPP where it makes no sense for the driver.
pub fn cap(fd: BorrowedFd<'_>, cap: Cap) -> io::Result<u64> {
    let mut arg = GetCapArg { capability: cap as u64, value: 0 };
    // SAFETY: GetCapArg is the ioctl's structure.
    unsafe { read_write(fd, GET_CAP, Retry::InterruptedOrAgain, &mut arg)? };
    Ok(arg.value)
}

#[cfg(test)]
mod tests {
    use super::{ACCEL_MAJOR, DRM_MAJOR, DrmNode, NodeKind};

    #[test]
    fn minors() {
        let kind = |major, minor| DrmNode::from_rdev(major, minor).map(|n| n.kind);
        assert_eq!(kind(DRM_MAJOR, 0), Some(NodeKind::Primary));
        assert_eq!(kind(DRM_MAJOR, 63), Some(NodeKind::Primary));
        assert_eq!(kind(DRM_MAJOR, 64), Some(NodeKind::Control));
        assert_eq!(kind(DRM_MAJOR, 128), Some(NodeKind::Render));
        assert_eq!(kind(ACCEL_MAJOR, 0), Some(NodeKind::Accel));
        assert_eq!(kind(1, 3), None);
        let node = DrmNode::from_rdev(DRM_MAJOR, 129).unwrap();
        assert_eq!((libc::major(node.devnum()), libc::minor(node.devnum())), (226, 129));
    }
}
