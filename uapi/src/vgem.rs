//! vgem: fences that userspace attaches to buffers (include/uapi/drm/vgem_drm.h,
//! drivers/gpu/drm/vgem/vgem_fence.c).
//!
//! A fence sits in a buffer's reservation object, and DMA_BUF_IOCTL_EXPORT_SYNC_FILE makes a
//! sync_file of it: that is how a distribution kernel without sw_sync gives out guard fences
//! ([`GuardPool`]). Three things to know:
//!
//! - such a fence never carries an error, however it ends;
//! - the kernel ends each by itself 10 seconds after it was attached ([`FENCE_LIFETIME`]), and all
//!   of them when the DRM file that attached them is closed;
//! - an open vgem file keeps a few bytes for each fence that was ever attached through it, so a
//!   service must open a new one now and then (the pool does).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libc::{_IOW, _IOWR, Ioctl};

pub use crate::guard_pool::{GuardPool, VgemGuard};
use crate::ioctl::{Retry, check_abi, read_write, write_only};
use crate::{drm_node, gem};

/// How long a fence can stay pending before the kernel signals it.
pub const FENCE_LIFETIME: Duration = Duration::from_secs(10);

#[repr(C)]
struct AttachArg {
    handle: u32,
    flags: u32,
    out_fence: u32,
    pad: u32,
}

#[repr(C)]
struct SignalArg {
    fence: u32,
    flags: u32,
}

const FENCE_ATTACH: Ioctl = _IOWR::<AttachArg>(b'd' as u32, 0x40 + 0x1);
const FENCE_SIGNAL: Ioctl = _IOW::<SignalArg>(b'd' as u32, 0x40 + 0x2);
const FENCE_WRITE: u32 = 1;

check_abi! {
    sizes { AttachArg: 16, SignalArg: 8 }
    numbers { FENCE_ATTACH: 0xc010_6441, FENCE_SIGNAL: 0x4008_6442 }
}

/// How a fence came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By this call.
    Now,
    /// Before, by the kernel, after [`FENCE_LIFETIME`].
    TimedOut,
}

/// An open vgem device. Closing it signals every fence attached through it.
#[derive(Debug)]
pub struct Vgem {
    fd: OwnedFd,
    /// Held from import to close: all imports of a buffer through one file share a handle.
    importing: Mutex<()>,
}

impl Vgem {
    /// Opens the machine's vgem. ENODEV: the module is not loaded.
    pub fn open() -> io::Result<Self> {
        let path = find()?.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        Self::open_at(&path)
    }

    /// Opens vgem's node at `path`. ENODEV if another driver is behind it.
    pub fn open_at(path: &Path) -> io::Result<Self> {
        let fd = drm_node::open(path)?;
        if drm_node::driver_name(fd.as_fd())? != "vgem" {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        Ok(Self::from_fd(fd))
    }

    /// Takes over a vgem file, for example from systemd's fd store; its fences are still known by
    /// their numbers ([`Vgem::signal_fence`]). Believed to be one: if it is not, the ioctls fail.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd, importing: Mutex::new(()) }
    }

    /// Attaches a pending fence to a buffer that is a GEM handle on this file: as a writer, which
    /// every access waits for, or as a reader. Returns the fence's number, unique on this file.
    ///
    /// EBUSY: the buffer has a pending fence that conflicts. ENOENT: no such handle.
    pub fn attach_fence(&self, handle: u32, write: bool) -> io::Result<u32> {
        let flags = if write { FENCE_WRITE } else { 0 };
        let mut arg = AttachArg { handle, flags, out_fence: 0, pad: 0 };
        let fd = self.fd.as_fd();
        // SAFETY: AttachArg is the ioctl's structure.
        unsafe { read_write(fd, FENCE_ATTACH, Retry::InterruptedOrAgain, &mut arg)? };
        Ok(arg.out_fence)
    }

    /// Signals a fence, once. ENOENT: no such fence, or signalled by us before.
    pub fn signal_fence(&self, fence: u32) -> io::Result<Ended> {
        let arg = SignalArg { fence, flags: 0 };
        let fd = self.fd.as_fd();
        // SAFETY: SignalArg is the ioctl's structure, which the kernel only reads.
        match unsafe { write_only(fd, FENCE_SIGNAL, Retry::InterruptedOrAgain, &arg) } {
            Ok(()) => Ok(Ended::Now),
            Err(e) if e.raw_os_error() == Some(libc::ETIMEDOUT) => Ok(Ended::TimedOut),
            Err(e) => Err(e),
        }
    }

    /// Attaches a pending fence to any dma-buf that vgem can import, whoever exported it.
    ///
    /// Errors as of [`gem::GemHandle::import`] and [`Vgem::attach_fence`].
    pub fn attach_to_dma_buf(
        self: &Arc<Self>,
        dma_buf: BorrowedFd<'_>,
        write: bool,
    ) -> io::Result<VgemFence> {
        // The lock guards no data, so a panic elsewhere leaves nothing half-done.
        let _importing = self.importing.lock().unwrap_or_else(PoisonError::into_inner);
        let buffer = gem::GemHandle::import(self.fd.as_fd(), dma_buf)?;
        let id = self.attach_fence(buffer.handle(), write)?;
        Ok(VgemFence { vgem: Arc::clone(self), id })
    }
}

impl AsFd for Vgem {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A fence on a dma-buf. Forgotten, it stays pending until the kernel ends it.
#[derive(Debug)]
#[must_use = "the buffer stays busy until the fence is signalled"]
pub struct VgemFence {
    vgem: Arc<Vgem>,
    id: u32,
}

impl VgemFence {
    /// Signals the fence.
    pub fn signal(self) -> io::Result<Ended> {
        self.vgem.signal_fence(self.id)
    }

    /// Its number on the vgem file.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }
}

/// vgem's primary node (the one that can make buffers), or `None` if the module is not loaded.
///
/// Found by its device in sysfs: opening every node to ask would wake up GPUs, and make us the
/// master of cards that a compositor is about to open.
pub fn find() -> io::Result<Option<PathBuf>> {
    let entries = match std::fs::read_dir("/sys/class/drm") {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(number) = name.to_str().and_then(|n| n.strip_prefix("card")) else { continue };
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            continue; // a connector
        }
        match std::fs::read_link(entry.path().join("device")) {
            Ok(device) if device.file_name().is_some_and(|n| n == "vgem") => {
                return Ok(Some(Path::new("/dev/dri").join(name)));
            }
            _ => {} // another device, or one that has just gone
        }
    }
    Ok(None)
}
