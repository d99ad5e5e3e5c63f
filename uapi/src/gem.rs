//! GEM handles and PRIME: a dma-buf in, a dma-buf out (include/uapi/drm/drm.h).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::{_IOW, _IOWR, Ioctl};

use crate::ioctl::{Retry, check_abi, read_write, write_only};

#[repr(C)]
struct GemCloseArg {
    handle: u32,
    pad: u32,
}

#[repr(C)]
struct PrimeArg {
    handle: u32,
    flags: u32,
    fd: i32,
}

const GEM_CLOSE: Ioctl = _IOW::<GemCloseArg>(b'd' as u32, 0x09);
const PRIME_HANDLE_TO_FD: Ioctl = _IOWR::<PrimeArg>(b'd' as u32, 0x2d);
const PRIME_FD_TO_HANDLE: Ioctl = _IOWR::<PrimeArg>(b'd' as u32, 0x2e);

check_abi! {
    sizes { GemCloseArg: 8, PrimeArg: 12 }
    numbers {
        GEM_CLOSE: 0x4008_6409,
        PRIME_HANDLE_TO_FD: 0xc00c_642d,
        PRIME_FD_TO_HANDLE: 0xc00c_642e,
    }
}

/// A GEM handle made by an import, closed when dropped. `D` is how the DRM descriptor is kept: a
/// `BorrowedFd`, an `Arc<OwnedFd>`, …
///
/// The kernel gives **the same handle** to every import of one buffer through one open DRM file, and
/// does not count them: dropping one closes all. Import a buffer once a file.
#[derive(Debug)]
pub struct GemHandle<D: AsFd> {
    drm: D,
    handle: u32,
}

impl<D: AsFd> GemHandle<D> {
    /// Imports a dma-buf. Borrows its descriptor: the handle keeps the buffer alive.
    ///
    /// ENODEV: the driver does not take foreign buffers, or its device is unplugged; EINVAL: not
    /// this one.
    pub fn import(drm: D, dma_buf: BorrowedFd<'_>) -> io::Result<Self> {
        let handle = import(drm.as_fd(), dma_buf)?;
        Ok(Self { drm, handle })
    }

    /// The number, valid on this DRM file only.
    #[must_use]
    pub fn handle(&self) -> u32 {
        self.handle
    }

    /// A new descriptor of the buffer's dma-buf, readable and writable.
    pub fn export(&self) -> io::Result<OwnedFd> {
        export(self.drm.as_fd(), self.handle)
    }
}

impl<D: AsFd> Drop for GemHandle<D> {
    fn drop(&mut self) {
        close(self.drm.as_fd(), self.handle);
    }
}

/// The caller owns the handle that comes back.
pub(crate) fn import(drm: BorrowedFd<'_>, dma_buf: BorrowedFd<'_>) -> io::Result<u32> {
    let mut arg = PrimeArg { handle: 0, flags: 0, fd: dma_buf.as_raw_fd() };
    // SAFETY: PrimeArg is the ioctl's structure.
    unsafe { read_write(drm, PRIME_FD_TO_HANDLE, Retry::InterruptedOrAgain, &mut arg)? };
    Ok(arg.handle)
}

pub(crate) fn export(drm: BorrowedFd<'_>, handle: u32) -> io::Result<OwnedFd> {
    let flags = (libc::O_CLOEXEC | libc::O_RDWR) as u32;
    let mut arg = PrimeArg { handle, flags, fd: -1 };
    // SAFETY: PrimeArg is the ioctl's structure.
    unsafe { read_write(drm, PRIME_HANDLE_TO_FD, Retry::InterruptedOrAgain, &mut arg)? };
    // SAFETY: on success the kernel has installed a new descriptor, ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(arg.fd) })
}

/// Closes a handle. ENODEV of an unplugged device is ignored, and so are the rest: closing the DRM
/// file closes what is left, and there is nothing else to be done.
pub(crate) fn close(drm: BorrowedFd<'_>, handle: u32) {
    let arg = GemCloseArg { handle, pad: 0 };
    // SAFETY: GemCloseArg is the ioctl's structure, which the kernel only reads.
    let _ignored = unsafe { write_only(drm, GEM_CLOSE, Retry::InterruptedOrAgain, &arg) };
}
