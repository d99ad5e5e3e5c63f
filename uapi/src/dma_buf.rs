//! dma-bufs: identity, CPU access brackets, and the implicit fences (include/uapi/linux/dma-buf.h).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::{_IOW, _IOWR, Ioctl};
use nix::unistd::{Whence, lseek64};

use crate::ioctl::{Retry, check_abi, read_write, write_only};
use crate::proc_fd;

/// The kernel's longest buffer name in bytes, without the terminating zero.
pub const NAME_MAX: usize = 31;

#[repr(C)]
struct SyncArg {
    flags: u64,
}

#[repr(C)]
struct SyncFileArg {
    flags: u32,
    fd: i32,
}

const SYNC: Ioctl = _IOW::<SyncArg>(b'b' as u32, 0);
const SET_NAME: Ioctl = _IOW::<u64>(b'b' as u32, 1);
const EXPORT_SYNC_FILE: Ioctl = _IOWR::<SyncFileArg>(b'b' as u32, 2);
const IMPORT_SYNC_FILE: Ioctl = _IOW::<SyncFileArg>(b'b' as u32, 3);
const SYNC_END: u64 = 1 << 2;

check_abi! {
    sizes { SyncArg: 8, SyncFileArg: 8 }
    numbers {
        SYNC: 0x4008_6200,
        SET_NAME: 0x4008_6201,
        EXPORT_SYNC_FILE: 0xc008_6202,
        IMPORT_SYNC_FILE: 0x4008_6203,
    }
}

/// Which buffer a dma-buf descriptor refers to: equal for every descriptor of one buffer, in every
/// process, and never used again for another buffer while the kernel runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DmaBufId {
    /// The inode number in the kernel's dma-buf file system.
    pub inode: u64,
    /// The buffer's size in bytes.
    pub size: u64,
}

/// What the CPU, or a fence's job, does with a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Reads only: conflicts with writers.
    Read,
    /// Writes: conflicts with readers and writers.
    Write,
    /// Both; for fences the same as [`Access::Write`].
    ReadWrite,
}

impl Access {
    const fn bits(self) -> u32 {
        match self {
            Self::Read => 1,
            Self::Write => 2,
            Self::ReadWrite => 3,
        }
    }
}

/// The buffer's size in bytes. The descriptor must be known to be a dma-buf
/// ([`crate::fdkind::classify`]): a seek on a stranger's file can block.
pub fn size(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let end = lseek64(fd, 0, Whence::SeekEnd)?;
    u64::try_from(end).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
}

/// The exporter's name: a driver's or a helper's (`virtio_gpu`, `udmabuf`, "drm" for several
/// drivers), not a device. ENOTTY if the descriptor is not a dma-buf.
pub fn exporter_name(fd: BorrowedFd<'_>) -> io::Result<String> {
    let info = proc_fd::info(fd)?;
    let name = proc_fd::field(&info, "exp_name");
    name.map(str::to_owned).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOTTY))
}

/// Begins an access by CPU through a mapping.
///
/// Waits for the buffer's implicit fences, without a time limit, where the exporter does; makes
/// the CPU's caches agree with the device's. Every start needs its [`sync_end`].
pub fn sync_start(fd: BorrowedFd<'_>, access: Access) -> io::Result<()> {
    sync(fd, u64::from(access.bits()))
}

/// Ends what [`sync_start`] began, with the same access.
pub fn sync_end(fd: BorrowedFd<'_>, access: Access) -> io::Result<()> {
    sync(fd, u64::from(access.bits()) | SYNC_END)
}

fn sync(fd: BorrowedFd<'_>, flags: u64) -> io::Result<()> {
    // SAFETY: SyncArg is the ioctl's structure, which the kernel only reads.
    unsafe { write_only(fd, SYNC, Retry::InterruptedOrAgain, &SyncArg { flags }) }
}

/// A sync_file over the implicit fences that an access of this kind would have to wait for, as of
/// now. Already signalled when there are none.
///
/// ENOTTY before Linux 6.0.
pub fn export_sync_file(fd: BorrowedFd<'_>, access: Access) -> io::Result<OwnedFd> {
    let mut arg = SyncFileArg { flags: access.bits(), fd: -1 };
    // SAFETY: SyncFileArg is the ioctl's structure.
    unsafe { read_write(fd, EXPORT_SYNC_FILE, Retry::Interrupted, &mut arg)? };
    // SAFETY: on success the kernel has installed a new descriptor (close-on-exec), ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(arg.fd) })
}

/// Adds a sync_file's fences to the buffer's implicit ones. Borrows both descriptors: the buffer
/// keeps its own reference on the fences.
///
/// ENOTTY before Linux 6.0.
pub fn import_sync_file(
    fd: BorrowedFd<'_>,
    access: Access,
    sync_file: BorrowedFd<'_>,
) -> io::Result<()> {
    let arg = SyncFileArg { flags: access.bits(), fd: sync_file.as_raw_fd() };
    // SAFETY: SyncFileArg is the ioctl's structure, which the kernel only reads.
    unsafe { write_only(fd, IMPORT_SYNC_FILE, Retry::Interrupted, &arg) }
}

/// Names the buffer, for /proc and debugfs. EINVAL if the name is longer than [`NAME_MAX`].
pub fn set_name(fd: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    if name.count_bytes() > NAME_MAX {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut buf = [0u8; NAME_MAX + 1];
    buf[..name.count_bytes()].copy_from_slice(name.to_bytes());
    // SAFETY: this ioctl's argument is the name itself, terminated by zero; the kernel only reads.
    unsafe { write_only(fd, SET_NAME, Retry::Interrupted, &buf) }
}
