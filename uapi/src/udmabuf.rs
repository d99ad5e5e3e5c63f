//! udmabuf: a dma-buf over a sealed memfd, which belongs to no GPU (include/uapi/linux/udmabuf.h).

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use libc::{_IOW, Ioctl};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::unistd::ftruncate;

use crate::memfd;

/// The device.
pub const PATH: &str = "/dev/udmabuf";

#[repr(C)]
struct CreateArg {
    memfd: u32,
    flags: u32,
    offset: u64,
    size: u64,
}

const CREATE: Ioctl = _IOW::<CreateArg>(b'u' as u32, 0x42);
const FLAGS_CLOEXEC: u32 = 1;

crate::ioctl::check_abi! {
    sizes { CreateArg: 24 }
    numbers { CREATE: 0x4018_7542 }
}

/// Whether the device is there. Whether we may use it, only [`Udmabuf::open`] knows.
#[must_use]
pub fn is_present() -> bool {
    Path::new(PATH).exists()
}

/// The open device: one for any number of buffers.
#[derive(Debug)]
pub struct Udmabuf(OwnedFd);

impl Udmabuf {
    /// Opens the device. ENOENT: the module is not loaded.
    pub fn open() -> io::Result<Self> {
        // std opens with O_CLOEXEC.
        Ok(Self(OpenOptions::new().read(true).write(true).open(PATH)?.into()))
    }

    /// A dma-buf of `size` bytes, rounded up to pages, all zero and pinned in memory.
    ///
    /// EINVAL: 0, or more than the module allows (`size_limit_mb`, 64 MiB by default; an RGBA
    /// picture of 8K has 127). ENOMEM.
    pub fn create(&self, size: u64) -> io::Result<OwnedFd> {
        let size = memfd::page_align(size)?;
        let len = i64::try_from(size).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        let memory = memfd::create(c"dmashare-udmabuf")?;
        ftruncate(&memory, len)?;
        // Without this seal the kernel refuses; a seal against writing it refuses too.
        fcntl(&memory, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW))?;
        let arg =
            CreateArg { memfd: memory.as_raw_fd() as u32, flags: FLAGS_CLOEXEC, offset: 0, size };
        issue(self.0.as_fd(), &arg)
    }
}

/// Unlike other ioctls, this one answers with the descriptor.
fn issue(device: BorrowedFd<'_>, arg: &CreateArg) -> io::Result<OwnedFd> {
    loop {
        // SAFETY: CreateArg is the ioctl's structure, which the kernel only reads.
        let fd = unsafe { libc::ioctl(device.as_raw_fd(), CREATE, std::ptr::from_ref(arg)) };
        if fd >= 0 {
            // SAFETY: the kernel has installed a new descriptor, ours alone.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Opens the device for one buffer: see [`Udmabuf::create`].
pub fn create(size: u64) -> io::Result<OwnedFd> {
    Udmabuf::open()?.create(size)
}
