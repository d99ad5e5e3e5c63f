//! Buffers of other processes'.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use dmashare_proto::ObjectId;
use dmashare_proto::message::Layout;
use dmashare_uapi::mapping::Prot;
use dmashare_uapi::memfd::page_size;

use crate::device::Device;
use crate::error::Error;
use crate::import_core::ImportCore;
use crate::mapped::MappedBuffer;

/// What will read an imported buffer.
#[derive(Clone, Copy, Debug)]
pub enum Importer<'a> {
    /// The CPU, by mappings.
    Cpu,
    /// A GPU too: an open DRM node of it.
    Device(BorrowedFd<'a>),
}

/// A buffer of another process's, until its device is lost: then its mappings are replaced by zero
/// pages, its fds are closed, and every method that needs them says [`Error::DeviceLost`].
///
/// Dropped, it is given back without waiting, together with the last of its mappings.
pub struct ImportedBuffer(pub(crate) Arc<ImportCore>);

impl ImportedBuffer {
    /// The broker's id for this import.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.0.id
    }

    /// The broker's id for the buffer: equal for all imports of it.
    #[must_use]
    pub fn buffer(&self) -> ObjectId {
        self.0.buffer
    }

    /// The device that it was made by.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// Whether that device is lost: one load.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.0.device.is_lost()
    }

    /// Size, format and planes.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.0.layout
    }

    /// Bytes of each plane's dma-buf.
    #[must_use]
    pub fn sizes(&self) -> &[u64] {
        &self.0.sizes
    }

    /// Whether CPU access needs DMA_BUF_IOCTL_SYNC, which [`MappedBuffer::begin`] then issues.
    #[must_use]
    pub fn needs_cpu_sync(&self) -> bool {
        self.0.cpu_sync
    }

    /// Lends a plane's dma-buf to `with`, for a PRIME or EGL import. A loss meanwhile leaves it
    /// open until `with` returns, so that should not wait for anything.
    ///
    /// # Errors
    /// [`Error::DeviceLost`]; [`Error::InvalidArgument`] for a plane that there is not.
    pub fn with_plane_fd<R>(
        &self,
        plane: usize,
        with: impl FnOnce(BorrowedFd<'_>) -> R,
    ) -> Result<R, Error> {
        self.size(plane)?;
        let fds = self.0.fds()?;
        Ok(with(fds[plane].as_fd()))
    }

    /// A plane's dma-buf as an fd of the caller's own, which no revocation closes: close it when the
    /// device is lost, before the loss is acknowledged.
    ///
    /// # Errors
    /// As [`Self::with_plane_fd`], and the kernel's (EMFILE).
    pub fn dup_plane_fd(&self, plane: usize) -> Result<OwnedFd, Error> {
        self.with_plane_fd(plane, |fd| fd.try_clone_to_owned())?
            .map_err(|source| Error::Io { what: "cannot duplicate a plane's fd", source })
    }

    /// Maps a plane's whole dma-buf.
    ///
    /// # Errors
    /// As [`Self::map_range`].
    pub fn map(&self, plane: usize, protection: Prot) -> Result<MappedBuffer, Error> {
        let len = usize::try_from(self.size(plane)?).map_err(|_| {
            Error::InvalidArgument(format!("plane {plane} is larger than the address space"))
        })?;
        self.map_range(plane, 0, len, protection)
    }

    /// Maps `len` bytes of a plane's dma-buf from `offset`, a multiple of the page size.
    ///
    /// # Errors
    /// [`Error::DeviceLost`]; [`Error::InvalidArgument`] for what lies not inside the plane; the
    /// kernel's, of the exporting driver's mmap.
    pub fn map_range(
        &self,
        plane: usize,
        offset: u64,
        len: usize,
        protection: Prot,
    ) -> Result<MappedBuffer, Error> {
        let size = self.size(plane)?;
        if len == 0 || offset.checked_add(len as u64).is_none_or(|end| end > size) {
            return Err(Error::InvalidArgument(format!(
                "{len} bytes at {offset} do not lie inside the {size} of plane {plane}"
            )));
        }
        if !offset.is_multiple_of(page_size() as u64) {
            return Err(Error::InvalidArgument(format!(
                "the offset {offset} is no multiple of the page size {}",
                page_size()
            )));
        }
        let mapping = self.0.map(plane, offset, len, protection)?;
        Ok(MappedBuffer::new(mapping, plane, Arc::clone(&self.0)))
    }

    /// Gives it back, and waits for the broker.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] while mappings of it live: it is given back with the last of them.
    /// Or the request failed; that the device is lost is no failure.
    pub fn release(self) -> Result<(), Error> {
        match Arc::try_unwrap(self.0) {
            Ok(mut core) => core.release(),
            Err(shared) => Err(Error::InvalidArgument(format!(
                "import {} has mappings; it is given back with the last of them",
                shared.id
            ))),
        }
    }

    fn size(&self, plane: usize) -> Result<u64, Error> {
        self.0.sizes.get(plane).copied().ok_or_else(|| {
            Error::InvalidArgument(format!(
                "import {} has {} planes, so no plane {plane}",
                self.0.id,
                self.0.sizes.len()
            ))
        })
    }
}

impl fmt::Debug for ImportedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImportedBuffer({} of {:?})", self.id(), self.device())
    }
}
