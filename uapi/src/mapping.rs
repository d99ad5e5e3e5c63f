//! A mapping that can be taken back while others read it.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use crate::sigbus::Guarded;

/// What a mapping allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prot {
    /// Reading.
    Read,
    /// Reading and writing.
    ReadWrite,
}

impl Prot {
    fn flags(self) -> ProtFlags {
        match self {
            Self::Read => ProtFlags::PROT_READ,
            Self::ReadWrite => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        }
    }
}

/// Why a copy was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// Part of it would lie outside of the mapping.
    #[error("{len} bytes at offset {offset} do not lie inside a mapping of {size} bytes")]
    OutOfRange {
        /// Where the copy would begin, in bytes.
        offset: usize,
        /// How many bytes were to be copied.
        len: usize,
        /// The mapping's size.
        size: usize,
    },
    /// The mapping was made with [`Prot::Read`].
    #[error("the mapping is for reading only")]
    ReadOnly,
}

/// A shared mapping of a file or dma-buf, unmapped when dropped.
///
/// The address range stays this mapping's until then, revoked or not. There are no slices: others
/// write the memory while we look.
#[derive(Debug)]
pub struct Mapping {
    ptr: NonNull<u8>,
    len: NonZeroUsize,
    prot: Prot,
    revoked: AtomicBool,
    /// Against SIGBUS, where that guard is installed.
    guarded: Option<Guarded>,
}

// SAFETY: the range is no thread's own; the pointer is only given out raw or used for raw copies.
unsafe impl Send for Mapping {}
// SAFETY: `revoke` replaces the pages in one step under the kernel's own lock, and the accessors
// copy raw bytes, of which every pattern is valid.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes at `offset`, which must be a multiple of the page size. Borrows the
    /// descriptor; it can be closed afterwards.
    ///
    /// The caller has checked that the range lies inside the file: beyond its end the kernel maps
    /// pages that are SIGBUS to touch. A dma-buf refuses such a range itself (EINVAL).
    pub fn map(fd: BorrowedFd<'_>, offset: u64, len: usize, prot: Prot) -> io::Result<Self> {
        let len = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        let offset = libc::off_t::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
        // SAFETY: a new range chosen by the kernel, so nothing else is mapped over.
        let ptr = unsafe { mmap(None, len, prot.flags(), MapFlags::MAP_SHARED, fd, offset)? };
        let revoked = AtomicBool::new(false);
        Ok(Self { ptr: ptr.cast(), len, prot, revoked, guarded: None })
    }

    /// Has a SIGBUS on it answered by zero pages, and `faulted` set then; where no guard is installed
    /// ([`crate::sigbus::install`]) or too many mappings have one, it stays as it is.
    #[must_use]
    pub fn guarded(mut self, faulted: &Arc<AtomicBool>) -> Self {
        let prot = self.prot.flags().bits();
        self.guarded = Guarded::new(self.ptr.addr().get(), self.len.get(), prot, faulted);
        self
    }

    /// Takes the mapping back: puts zero pages over it, in place, in one step.
    ///
    /// Threads that read or write at that moment see the old memory or zeros, never a fault. When
    /// this returns, nothing of the file is mapped here any more, also if another thread was first
    /// (it may still be at it: both do it). What is written afterwards stays in this process.
    ///
    /// ENOMEM if the process has too many mappings: then nothing has changed.
    pub fn revoke(&self) -> io::Result<()> {
        if self.is_revoked() {
            return Ok(());
        }
        let flags = MapFlags::MAP_FIXED | MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        let address = NonZeroUsize::new(self.ptr.as_ptr().addr());
        // SAFETY: MAP_FIXED replaces exactly our own range, which nobody has a reference into.
        unsafe { mmap_anonymous(address, self.len, self.prot.flags(), flags)? };
        self.revoked.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether [`Mapping::revoke`] has returned, on any thread.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    /// The first byte. Valid until the mapping is dropped; others write there at any time.
    #[must_use]
    pub fn ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// Bytes mapped, as asked for.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub fn len(&self) -> usize {
        self.len.get()
    }

    /// What the mapping allows.
    #[must_use]
    pub fn prot(&self) -> Prot {
        self.prot
    }

    /// Copies from the mapping at `offset` into `dst`. What others write meanwhile may be torn.
    pub fn copy_to(&self, offset: usize, dst: &mut [u8]) -> Result<(), CopyError> {
        let src = self.at(offset, dst.len())?;
        // SAFETY: both ranges are valid for `dst.len()` bytes and cannot overlap: `dst` is a Rust
        // slice, and no slice is ever made of the mapping. Other processes may write the source
        // meanwhile, which a plain copy of bytes, all of whose values are valid, puts up with.
        unsafe { src.as_ptr().copy_to_nonoverlapping(dst.as_mut_ptr(), dst.len()) };
        Ok(())
    }

    /// Copies `src` into the mapping at `offset`.
    pub fn copy_from(&self, offset: usize, src: &[u8]) -> Result<(), CopyError> {
        if self.prot == Prot::Read {
            return Err(CopyError::ReadOnly);
        }
        let dst = self.at(offset, src.len())?;
        // SAFETY: as in `copy_to`, the other way round; the mapping is writable.
        unsafe { dst.as_ptr().copy_from_nonoverlapping(src.as_ptr(), src.len()) };
        Ok(())
    }

    fn at(&self, offset: usize, len: usize) -> Result<NonNull<u8>, CopyError> {
        let size = self.len.get();
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(CopyError::OutOfRange { offset, len, size });
        }
        // SAFETY: just checked to lie inside the mapping, or one past its end for no bytes at all.
        Ok(unsafe { self.ptr.add(offset) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // First: no handler is to replace what may be somebody else's by then.
        self.guarded = None;
        // SAFETY: our own range, and nobody has a reference into it.
        let unmapped = unsafe { munmap(self.ptr.cast(), self.len.get()) };
        debug_assert!(unmapped.is_ok(), "munmap of our own range: {unmapped:?}");
    }
}
