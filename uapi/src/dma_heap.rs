//! dma-heaps: dma-bufs that belong to no GPU (include/uapi/linux/dma-heap.h).

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::Path;

use libc::{_IOWR, Ioctl};

use crate::ioctl::{Retry, check_abi, read_write};

/// The heap of ordinary, cached pages.
pub const SYSTEM: &str = "system";

#[repr(C)]
struct AllocArg {
    len: u64,
    fd: u32,
    fd_flags: u32,
    heap_flags: u64,
}

const ALLOC: Ioctl = _IOWR::<AllocArg>(b'H' as u32, 0);

check_abi! {
    sizes { AllocArg: 24 }
    numbers { ALLOC: 0xc018_4800 }
}

/// An open heap: one for any number of buffers.
#[derive(Debug)]
pub struct Heap(OwnedFd);

impl Heap {
    /// Opens /dev/dma_heap/`name`. ENOENT: no such heap; EINVAL: not a name.
    pub fn open(name: &str) -> io::Result<Self> {
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // std opens with O_CLOEXEC. The heap is only asked, so reading is enough.
        let path = Path::new("/dev/dma_heap").join(name);
        Ok(Self(OpenOptions::new().read(true).open(path)?.into()))
    }

    /// A dma-buf of `size` bytes, rounded up to pages by the kernel, all zero, readable and
    /// writable. ENOMEM; EINVAL for 0.
    pub fn alloc(&self, size: u64) -> io::Result<OwnedFd> {
        let fd_flags = (libc::O_CLOEXEC | libc::O_RDWR) as u32;
        let mut arg = AllocArg { len: size, fd: 0, fd_flags, heap_flags: 0 };
        // SAFETY: AllocArg is the ioctl's structure.
        unsafe { read_write(self.0.as_fd(), ALLOC, Retry::Interrupted, &mut arg)? };
        // SAFETY: on success the kernel has installed a new descriptor, ours alone.
        Ok(unsafe { OwnedFd::from_raw_fd(arg.fd as i32) })
    }
}

/// Opens the heap for one buffer: see [`Heap::alloc`].
pub fn alloc(heap: &str, size: u64) -> io::Result<OwnedFd> {
    Heap::open(heap)?.alloc(size)
}
