//! sw_sync: timelines that userspace signals (drivers/dma-buf/sw_sync.c; CONFIG_SW_SYNC, debugfs).
//!
//! The kernel's structures are private to that file; they have not changed since Linux 4.10.

use std::ffi::CStr;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use libc::{_IOW, _IOWR, Ioctl};

use crate::ioctl::{Retry, check_abi, read_write, write_only};

/// Where debugfs usually is.
pub const PATH: &str = "/sys/kernel/debug/sync/sw_sync";

#[repr(C)]
struct CreateFenceArg {
    value: u32,
    name: [u8; 32],
    fence: i32,
}

const CREATE_FENCE: Ioctl = _IOWR::<CreateFenceArg>(b'W' as u32, 0);
const INC: Ioctl = _IOW::<u32>(b'W' as u32, 1);

check_abi! {
    sizes { CreateFenceArg: 40, u32: 4 }
    numbers { CREATE_FENCE: 0xc028_5700, INC: 0x4004_5701 }
}

/// A timeline: a counter that starts at 0, with fences at values above it.
///
/// **Dropping it (the last descriptor of it) ends every fence that is still pending on it with
/// -ENOENT**, in the same system call. That also happens when the process dies. The fences' own
/// descriptors do not keep a timeline open.
#[derive(Debug)]
#[must_use = "dropping a timeline ends its fences with an error"]
pub struct Timeline(OwnedFd);

impl Timeline {
    /// A new timeline from debugfs at its usual place.
    ///
    /// ENOENT: the kernel has no sw_sync, or debugfs is not mounted. EACCES: debugfs is root's.
    pub fn open() -> io::Result<Self> {
        Self::create_at(Path::new(PATH))
    }

    /// As [`Timeline::open`], with the `sw_sync` file at another place.
    pub fn create_at(path: &Path) -> io::Result<Self> {
        // std opens with O_CLOEXEC.
        Ok(Self(OpenOptions::new().read(true).write(true).open(path)?.into()))
    }

    /// A pending fence as a sync_file: signalled when the counter reaches `value`. At or below the
    /// counter, it is signalled already. The name is for debugfs, cut at 31 bytes.
    pub fn create_fence(&self, value: u32, name: &CStr) -> io::Result<OwnedFd> {
        let mut arg = CreateFenceArg { value, name: [0; 32], fence: -1 };
        let len = name.count_bytes().min(arg.name.len() - 1);
        arg.name[..len].copy_from_slice(&name.to_bytes()[..len]);
        // SAFETY: CreateFenceArg is the ioctl's structure.
        unsafe { read_write(self.0.as_fd(), CREATE_FENCE, Retry::Interrupted, &mut arg)? };
        // SAFETY: on success the kernel has installed a new descriptor (close-on-exec), ours alone.
        Ok(unsafe { OwnedFd::from_raw_fd(arg.fence) })
    }

    /// Adds `n` to the counter, which signals every fence up to it without an error.
    pub fn inc(&self, n: u32) -> io::Result<()> {
        // SAFETY: the ioctl's argument is a 32-bit number, which the kernel only reads.
        unsafe { write_only(self.0.as_fd(), INC, Retry::Interrupted, &n) }
    }

    /// Takes a timeline's descriptor back, for example from systemd's fd store. It is believed to
    /// be one; if it is not, the ioctls answer ENOTTY.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Gives the descriptor away without ending anything.
    #[must_use = "dropping the descriptor ends the timeline's fences with an error"]
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }
}

impl AsFd for Timeline {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
