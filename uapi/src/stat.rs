//! A stat that asks nobody.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What the kernel knows of an open file by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stat {
    /// The `S_IFMT` bits; 0 for anonymous inodes.
    pub(crate) file_type: u32,
    /// The rest of the mode.
    #[cfg(feature = "simulate")]
    pub(crate) mode: u32,
    /// Bytes.
    #[cfg(feature = "simulate")]
    pub(crate) size: u64,
    pub(crate) dev: (u32, u32),
    pub(crate) rdev: (u32, u32),
    pub(crate) ino: u64,
}

/// `statx` with AT_STATX_DONT_SYNC: a FUSE or network file answers from the kernel's cache, so
/// this never waits for whoever serves the file. (`fstat` does.)
pub(crate) fn stat(fd: BorrowedFd<'_>) -> io::Result<Stat> {
    let mut buf = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is a C string, and `buf` has room for the answer.
    let rc = unsafe {
        libc::statx(
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC,
            libc::STATX_TYPE | libc::STATX_MODE | libc::STATX_INO | libc::STATX_SIZE,
            buf.as_mut_ptr(),
        )
    };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `statx` is plain integers, all zero before the kernel filled them in.
    let buf = unsafe { buf.assume_init() };
    Ok(Stat {
        file_type: u32::from(buf.stx_mode) & libc::S_IFMT,
        #[cfg(feature = "simulate")]
        mode: u32::from(buf.stx_mode) & !libc::S_IFMT,
        #[cfg(feature = "simulate")]
        size: buf.stx_size,
        dev: (buf.stx_dev_major, buf.stx_dev_minor),
        rdev: (buf.stx_rdev_major, buf.stx_rdev_minor),
        ino: buf.stx_ino,
    })
}
