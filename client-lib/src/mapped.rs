//! Memory of an imported buffer, and the brackets around its use.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use dmashare_uapi::dma_buf::{Access, sync_end, sync_start};
use dmashare_uapi::drm_node;
use dmashare_uapi::mapping::{CopyError, Mapping, Prot};

use crate::device::Device;
use crate::error::{DeviceLost, Error};
use crate::import_core::ImportCore;
use crate::live::Live;

/// A mapping of one plane. Its address stays valid until it is dropped, lost device or not: after
/// the loss it shows zeros, and what is written stays in this process.
///
/// There are no slices: other processes and devices write here at any time.
///
/// Every method may be called from any thread, at once, and while the import is taken back. Brackets
/// may overlap and nest, on one thread or several, and end on another thread than they began on: each
/// tells by itself whether the device was lost while it was open. Mappings of one import may be dropped
/// in any order; the import is given back with the last of them and of its handle.
pub struct MappedBuffer {
    // Dropped before the import: first the memory is unmapped, then the broker is told.
    mapping: Arc<Mapping>,
    live: Live,
    cpu_sync: bool,
    plane: usize,
    import: Arc<ImportCore>,
}

impl MappedBuffer {
    pub(crate) fn new(mapping: Arc<Mapping>, plane: usize, import: Arc<ImportCore>) -> Self {
        let (live, cpu_sync) = (import.live.clone(), import.cpu_sync);
        Self { mapping, live, cpu_sync, plane, import }
    }

    /// Begins an access. What was read is good once [`Bracket::end`] says so.
    ///
    /// Two loads where the exporter's memory is coherent: no system call, no lock, and nothing is
    /// written. Else DMA_BUF_IOCTL_SYNC too, which waits for the buffer's implicit fences; a loss
    /// meanwhile leaves the plane's fd open until that has returned.
    ///
    /// `access` is for the ioctl. It is not held against the mapping's [protection](Self::protection): who writes through a
    /// pointer into a mapping for reading gets SIGSEGV, as with any memory.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] from the loss on; [`Error::Disconnected`] for a neutral buffer whose
    /// connection took it back; the kernel's for the ioctl.
    #[inline]
    pub fn begin(&self, access: Access) -> Result<Bracket<'_>, Error> {
        self.begin_access(access)?;
        Ok(Bracket { mapped: self, open: Some(access) })
    }

    /// [`Self::begin`] for callers who cannot keep a [`Bracket`] (another language): to be followed by
    /// [`Self::end_access`] with the same access, if it succeeds.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn begin_access(&self, access: Access) -> Result<(), Error> {
        if !self.live.is_good() {
            return Err(self.import.refused());
        }
        if self.cpu_sync { self.sync_start(access) } else { Ok(()) }
    }

    #[inline(never)]
    fn sync_start(&self, access: Access) -> Result<(), Error> {
        let fds = self.import.fds()?;
        sync_start(fds[self.plane].as_fd(), access)
            .map_err(|error| self.import.failed("cannot begin the CPU access", error))
    }

    /// [`Bracket::end`], for what [`Self::begin_access`] began.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn end_access(&self, access: Access) -> Result<(), Error> {
        if self.cpu_sync {
            return self.sync_end(access);
        }
        if self.live.is_good_after_reads() { Ok(()) } else { Err(self.import.refused()) }
    }

    #[inline(never)]
    fn sync_end(&self, access: Access) -> Result<(), Error> {
        // Revoked means lost, which is said below.
        let synced =
            self.import.fds().map_or(Ok(()), |fds| sync_end(fds[self.plane].as_fd(), access));
        if !self.live.is_good_after_reads() {
            return Err(self.import.refused());
        }
        synced.map_err(|source| Error::Io { what: "cannot end the CPU access", source })
    }

    /// [`Bracket::end_checked`], for what [`Self::begin_access`] began.
    ///
    /// # Errors
    /// As there.
    pub fn end_access_checked(&self, access: Access, node: BorrowedFd<'_>) -> Result<(), Error> {
        self.end_access(access)?;
        let unplugged = drm_node::is_unplugged(node)
            .map_err(|source| Error::Io { what: "cannot ask the exporter's DRM node", source })?;
        // What belongs to no device is lost with none.
        if unplugged && let Some(device) = self.device() {
            // The broker has not said so yet; the mappings are its event's to replace.
            return Err(Error::DeviceLost(DeviceLost { device: device.id(), cause: None }));
        }
        Ok(())
    }

    /// The device that the buffer was made by; `None` for a neutral one.
    #[must_use]
    pub fn device(&self) -> Option<&Device> {
        self.import.device.as_ref()
    }

    /// Whether it shows zeros for good. It may yet show the buffer when this says no: an access is
    /// judged by [`Bracket::end`], not by this.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.mapping.is_revoked()
    }

    /// The first byte, for raw access; valid until this is dropped.
    #[must_use]
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.mapping.ptr()
    }

    /// Bytes mapped.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub fn len(&self) -> usize {
        self.mapping.len()
    }

    /// What it allows.
    #[must_use]
    pub fn protection(&self) -> Prot {
        self.mapping.prot()
    }

    /// Copies from `offset` on, `to.len()` bytes; from a mapping that was taken back, zeros. What others
    /// write meanwhile may be torn. The bracket around it is the caller's.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for what lies not inside the mapping.
    pub fn copy_to_slice(&self, offset: usize, to: &mut [u8]) -> Result<(), Error> {
        self.mapping.copy_to(offset, to).map_err(invalid)
    }

    /// Copies to `offset` on; into a mapping that was taken back, for nobody to see. The bracket around it
    /// is the caller's.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for what lies not inside the mapping, or is for reading only.
    pub fn copy_from_slice(&self, offset: usize, from: &[u8]) -> Result<(), Error> {
        self.mapping.copy_from(offset, from).map_err(invalid)
    }
}

fn invalid(error: CopyError) -> Error {
    Error::InvalidArgument(error.to_string())
}

impl fmt::Debug for MappedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.is_revoked() { "revoked" } else { "mapped" };
        write!(f, "MappedBuffer({} bytes of {}, {what})", self.len(), self.import.id)
    }
}

/// An access by CPU, as begin_cpu_access and end_cpu_access. Dropped, it ends without a word on
/// whether what was read is good.
#[derive(Debug)]
#[must_use = "only `end` tells whether the device was lost meanwhile"]
pub struct Bracket<'a> {
    mapped: &'a MappedBuffer,
    /// What began, until it has ended.
    open: Option<Access>,
}

impl Bracket<'_> {
    /// The memory.
    #[must_use]
    pub fn memory(&self) -> &MappedBuffer {
        self.mapped
    }

    /// Ends the access: an error says that the device was lost since, and what was read or written
    /// is worth nothing.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], or the kernel's for the ioctl.
    #[inline]
    pub fn end(mut self) -> Result<(), Error> {
        match self.open.take() {
            Some(access) => self.mapped.end_access(access),
            None => Ok(()),
        }
    }

    /// The same, and asks the kernel too, by an ioctl on `node`, an open DRM node of the *exporting*
    /// device: that knows of a loss from the first instant, before any event.
    ///
    /// # Errors
    /// As [`Self::end`].
    pub fn end_checked(mut self, node: BorrowedFd<'_>) -> Result<(), Error> {
        self.open.take().map_or(Ok(()), |access| self.mapped.end_access_checked(access, node))
    }
}

impl Drop for Bracket<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(access) = self.open.take() {
            drop(self.mapped.end_access(access));
        }
    }
}
