//! A page that its creator writes and everybody else reads: a sealed memfd.

use std::ffi::CStr;
use std::fs::OpenOptions;
use std::io;
use std::mem::{align_of, size_of};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::{SysconfVar, ftruncate, sysconf};

use crate::futex;

/// MFD_NOEXEC_SEAL of include/uapi/linux/memfd.h: nothing in there is ever executed (Linux 6.3).
const MFD_NOEXEC_SEAL: u32 = 0x0008;

/// An empty memfd that can be sealed, never executed where the kernel knows that.
pub(crate) fn create(name: &CStr) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    match memfd_create(name, flags | MFdFlags::from_bits_retain(MFD_NOEXEC_SEAL)) {
        Err(Errno::EINVAL) => Ok(memfd_create(name, flags)?),
        done => Ok(done?),
    }
}

/// `size` rounded up to whole pages; EINVAL for 0 and for what does not fit.
pub(crate) fn page_align(size: u64) -> io::Result<u64> {
    let page = page_size() as u64;
    match size.checked_next_multiple_of(page) {
        Some(size) if size > 0 => Ok(size),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// The size of a page in bytes.
#[must_use]
pub fn page_size() -> usize {
    // Linux always knows it; the fallback is what most machines have.
    sysconf(SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|n| usize::try_from(n).ok())
        .unwrap_or(4096)
}

/// A shared mapping of a memfd, looked at only through atomics.
#[derive(Debug)]
struct Map {
    ptr: NonNull<u8>,
    len: NonZeroUsize,
}

// SAFETY: the memory is reached only through atomics, and belongs to no thread.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    fn new(fd: BorrowedFd<'_>, len: usize, prot: ProtFlags) -> io::Result<Self> {
        let len = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        // SAFETY: a new range chosen by the kernel, so nothing else is mapped over.
        let ptr = unsafe { mmap(None, len, prot, MapFlags::MAP_SHARED, fd, 0)? };
        Ok(Self { ptr: ptr.cast(), len })
    }

    /// Another mapping of the same pages.
    fn duplicate(&self) -> io::Result<Self> {
        // SAFETY: of a shared mapping, an old length of 0 asks for a second one of as many pages as the
        // new length says (mremap(2)), where the kernel likes; the first is left as it is.
        let ptr = unsafe {
            libc::mremap(self.ptr.as_ptr().cast(), 0, self.len.get(), libc::MREMAP_MAYMOVE)
        };
        if ptr == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let ptr = NonNull::new(ptr.cast()).ok_or(Errno::EFAULT)?;
        Ok(Self { ptr, len: self.len })
    }

    /// Puts zero pages for reading over it, in one step.
    fn replace_by_zeros(&self) -> io::Result<()> {
        let flags = MapFlags::MAP_FIXED | MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        let address = NonZeroUsize::new(self.ptr.as_ptr().addr());
        // SAFETY: MAP_FIXED replaces exactly our own range, which is read through atomics alone.
        unsafe { mmap_anonymous(address, self.len, ProtFlags::PROT_READ, flags)? };
        Ok(())
    }

    /// The address of a `T` at `offset`.
    ///
    /// # Panics
    ///
    /// If it would not lie inside, or not aligned: an error in the caller's layout.
    fn at<T>(&self, offset: usize) -> NonNull<T> {
        let end = offset.checked_add(size_of::<T>());
        assert!(end.is_some_and(|end| end <= self.len.get()), "offset {offset} is not on the page");
        assert!(offset.is_multiple_of(align_of::<T>()), "offset {offset} is not aligned");
        // SAFETY: checked to lie inside the mapping.
        unsafe { self.ptr.add(offset).cast() }
    }

    fn atomic_u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: mapped, aligned and inside for as long as `self` lives; other processes touch it
        // with atomics only, by the page's contract.
        unsafe { self.at::<AtomicU32>(offset).as_ref() }
    }

    fn atomic_u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as for `atomic_u32`.
        unsafe { self.at::<AtomicU64>(offset).as_ref() }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: our own range; every reference into it borrowed `self`.
        let unmapped = unsafe { munmap(self.ptr.cast(), self.len.get()) };
        debug_assert!(unmapped.is_ok(), "munmap of our own range: {unmapped:?}");
    }
}

/// A page that its owner alone can write: whoever has the descriptor for writing ([`SharedPage::writable`],
/// kept over a restart). Readers get one for reading ([`AsFd`]), of a file that no other user can open for
/// writing.
#[derive(Debug)]
pub struct SharedPage {
    map: Map,
    fd: OwnedFd,
    reader: OwnedFd,
}

impl SharedPage {
    /// A page of `len` bytes (rounded up to whole pages), all zero. The name is for /proc.
    pub fn create(name: &CStr, len: usize) -> io::Result<Self> {
        let len = page_align(len as u64)?;
        let fd = create(name)?;
        ftruncate(&fd, i64::try_from(len).map_err(|_| Errno::EFBIG)?)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
        // Whoever has a descriptor can open the file again, as its mode lets them (proc(5)).
        fchmod(&fd, Mode::S_IRUSR)?;
        Self::from_fd(fd)
    }

    /// The page again, by its [`SharedPage::writable`] that was kept.
    ///
    /// # Errors
    /// EBADF if it is not for writing, EINVAL if it is no sealed memfd.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let seals = SealFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GET_SEALS)?);
        if !seals.contains(SealFlag::F_SEAL_SHRINK) {
            return Err(Errno::EINVAL.into());
        }
        let len = usize::try_from(fstat(&fd)?.st_size).map_err(|_| Errno::EFBIG)?;
        let map = Map::new(fd.as_fd(), len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
        // A new open file, for reading, which no mapping for writing can be made of.
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let reader = OpenOptions::new().read(true).open(path)?.into();
        Ok(Self { map, fd, reader })
    }

    /// The descriptor that can be mapped for writing: for who keeps it, and for nobody else.
    #[must_use]
    pub fn writable(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Bytes mapped.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a page is never empty")]
    pub fn len(&self) -> usize {
        self.map.len.get()
    }

    /// The first byte. What is written there must be written atomically.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.map.ptr.as_ptr()
    }

    /// The 32-bit word at `offset` bytes.
    ///
    /// # Panics
    ///
    /// If the offset is not a multiple of 4 inside the page.
    #[must_use]
    pub fn atomic_u32(&self, offset: usize) -> &AtomicU32 {
        self.map.atomic_u32(offset)
    }

    /// The 64-bit word at `offset` bytes.
    ///
    /// # Panics
    ///
    /// If the offset is not a multiple of 8 inside the page.
    #[must_use]
    pub fn atomic_u64(&self, offset: usize) -> &AtomicU64 {
        self.map.atomic_u64(offset)
    }
}

impl AsFd for SharedPage {
    /// The memfd for reading, to be passed to readers.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

/// A reader's view of a [`SharedPage`].
#[derive(Debug)]
pub struct ReadOnlyPage(Map);

impl ReadOnlyPage {
    /// Maps `len` bytes of the page behind `fd`, which is borrowed and can be closed afterwards.
    ///
    /// EINVAL if it is not sealed against shrinking (reading could be SIGBUS), or is shorter than `len`.
    /// Never blocks, whatever `fd` is.
    pub fn map(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        // Only memory files have seals, so what follows asks no server of a FUSE file.
        let seals = SealFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GET_SEALS)?);
        if !seals.contains(SealFlag::F_SEAL_SHRINK) {
            return Err(Errno::EINVAL.into());
        }
        let size = u64::try_from(fstat(fd)?.st_size).unwrap_or(0);
        if size < len as u64 {
            return Err(Errno::EINVAL.into());
        }
        Ok(Self(Map::new(fd, len, ProtFlags::PROT_READ)?))
    }

    /// Bytes mapped.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a page is never empty")]
    pub fn len(&self) -> usize {
        self.0.len.get()
    }

    /// The first byte, **read-only**: writing is SIGSEGV.
    #[must_use]
    pub fn as_ptr(&self) -> *const u8 {
        self.0.ptr.as_ptr()
    }

    /// The 32-bit word at `offset` bytes, for a futex. To be loaded only: see
    /// [`ReadOnlyPage::load_u32`].
    ///
    /// # Panics
    ///
    /// If the offset is not a multiple of 4 inside the page.
    #[must_use]
    pub fn atomic_u32(&self, offset: usize) -> &AtomicU32 {
        self.0.atomic_u32(offset)
    }

    /// The 64-bit word at `offset` bytes. To be loaded only: see [`ReadOnlyPage::load_u64`].
    ///
    /// # Panics
    ///
    /// If the offset is not a multiple of 8 inside the page.
    #[must_use]
    pub fn atomic_u64(&self, offset: usize) -> &AtomicU64 {
        self.0.atomic_u64(offset)
    }

    /// Takes the page away from this process's readers: they read zeros from here, in place, and who
    /// sleeps on one of `words` (offsets) wakes to see that. Other processes' readers wake too, and find
    /// nothing changed.
    ///
    /// ENOMEM if the process has too many mappings: then nothing has changed.
    ///
    /// # Panics
    ///
    /// As [`ReadOnlyPage::atomic_u32`].
    pub fn detach(&self, words: impl IntoIterator<Item = usize>) -> io::Result<()> {
        // Sleepers are known by the page and not by its address, so they are woken through a second
        // mapping of it, and after the first has changed: nobody falls asleep on it in between.
        let second = self.0.duplicate()?;
        self.0.replace_by_zeros()?;
        for word in words {
            futex::wake_all(second.atomic_u32(word))?;
        }
        Ok(())
    }

    /// Loads with acquire semantics. (A relaxed load and a fence: the only load that Rust promises
    /// not to write, which read-only memory would answer with SIGSEGV.)
    ///
    /// # Panics
    ///
    /// As [`ReadOnlyPage::atomic_u32`].
    #[must_use]
    pub fn load_u32(&self, offset: usize) -> u32 {
        let value = self.0.atomic_u32(offset).load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        value
    }

    /// As [`ReadOnlyPage::load_u32`].
    ///
    /// # Panics
    ///
    /// As [`ReadOnlyPage::atomic_u64`].
    #[must_use]
    pub fn load_u64(&self, offset: usize) -> u64 {
        let value = self.0.atomic_u64(offset).load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        value
    }
}

/// One 32-bit word of a page, at hand: a load of it is a load and no more. Keeps the page mapped.
#[derive(Clone, Debug)]
pub struct PageWord {
    word: NonNull<AtomicU32>,
    _page: Option<Arc<ReadOnlyPage>>,
}

// SAFETY: the word is only loaded, atomically, and stays mapped while this lives.
unsafe impl Send for PageWord {}
// SAFETY: as above.
unsafe impl Sync for PageWord {}

impl PageWord {
    /// The word at `offset` bytes.
    ///
    /// # Panics
    ///
    /// As [`ReadOnlyPage::atomic_u32`].
    #[must_use]
    pub fn new(page: &Arc<ReadOnlyPage>, offset: usize) -> Self {
        Self { word: NonNull::from(page.atomic_u32(offset)), _page: Some(Arc::clone(page)) }
    }

    /// A word of no page, which is always 0.
    #[must_use]
    pub fn zero() -> Self {
        static ZERO: AtomicU32 = AtomicU32::new(0);
        Self { word: NonNull::from(&ZERO), _page: None }
    }

    /// Loads with acquire semantics, as [`ReadOnlyPage::load_u32`].
    #[inline]
    #[must_use]
    pub fn load(&self) -> u32 {
        // SAFETY: aligned, and mapped for as long as the page is kept; a detached page is replaced in
        // place. Others write it with atomics only, by the page's contract.
        let value = unsafe { self.word.as_ref() }.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        value
    }
}
